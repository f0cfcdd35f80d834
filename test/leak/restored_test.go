package leak

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// TestRestoredStaysErased copies the data directory of a running house before everything is erased: the database with its
// write-ahead log, and all keys, but not the shards. Beside the living shards everything in it opens before the erasure, and
// nothing after it.
func TestRestoredStaysErased(t *testing.T) {
	s := openScene(t, nil)
	s.play(t, []journey.Journey{BreakingOff("read"), BreakingOff("no code at all")}, func(string, *journey.Player) {})
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(s.Data)); err != nil {
		t.Fatal(err)
	}
	living := home.ShardsIn(s.Data, "")
	before := s.restored(t, backup, living)
	for _, place := range []string{"opened credential", "opened session", "opened part", "opened summary"} {
		if len(before.Tour.Met[place]) == 0 {
			t.Errorf("%s: nothing, before the erasure", place)
		}
	}
	live, err := OpenArchive(s.Data, s.search)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := live.Connections(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := s.Call(t.Context(), http.MethodDelete, "/v1/connections/"+string(id), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	after := s.restored(t, backup, living)
	if after.Rows[domain.DocumentKind("credential")] == 0 || after.Rows[domain.DocumentKind("part")] == 0 {
		t.Error("the backup lost what was in it")
	}
	for place, met := range after.Tour.Met {
		if place == "opened credential" || place == "opened session" || place == "opened part" || place == "opened summary" {
			t.Errorf("%s: %v, after the certificate", place, met)
		}
	}
}

// restored looks at a copy of a copy of the data, beside the shards that live.
func (s *scene) restored(t *testing.T, backup, shards string) *Archive {
	t.Helper()
	data := filepath.Join(t.TempDir(), "restored")
	if err := os.CopyFS(data, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(home.KeysIn(data), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(home.ShardsIn(data, "")); err != nil {
		t.Fatal(err)
	}
	a, err := OpenArchiveBeside(data, shards, s.search)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Look(t.Context()); err != nil {
		t.Error(err)
	}
	return a
}
