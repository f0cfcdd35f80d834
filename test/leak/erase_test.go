package leak

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// TestErasedIsGone: once a connection has been erased, no file of the running house holds anything of what it held, as
// sealed as it was: neither wrapped keys nor ciphertext, in free pages and the write-ahead log neither.
func TestErasedIsGone(t *testing.T) {
	s := openScene(t, nil)
	archive, err := OpenArchive(s.Data, s.search)
	if err != nil {
		t.Fatal(err)
	}
	var all []journey.Journey
	for _, name := range []string{"read", "read again", "asked", "no code at all", "refused"} {
		all = append(all, BreakingOff(name))
	}
	s.play(t, all, func(_ string, p *journey.Player) {
		if err := archive.LookAt(t.Context(), domain.ConnectionID(p.Connection())); err != nil {
			t.Error(err)
		}
	})
	ids, err := archive.Connections(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, c := range archive.Vanish {
		kinds[c.Name] = true
	}
	for _, want := range []string{"wrapped data key", "credential", "session state", "challenge's display", "part", "summary"} {
		if !kinds[want] {
			t.Errorf("no %s was seen before the erasure", want)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if found := s.onDisk(t, archive.Vanish); len(found.Leaks) == 0 {
		t.Error("nothing is on the disk before the erasure: the search looks at the wrong thing")
	}
	for _, id := range ids {
		if err := s.Call(t.Context(), http.MethodDelete, "/v1/connections/"+string(id), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.vanishes(t, archive.Vanish)
}

// TestReplacedIsGone: what a document no longer holds is soon gone from the files too, also where nothing was deleted: a
// session's way into the bank when it has ended, and what a challenge showed.
func TestReplacedIsGone(t *testing.T) {
	s := openScene(t, nil)
	s.cleaned(t)
	archive, err := OpenArchive(s.Data, s.search)
	if err != nil {
		t.Fatal(err)
	}
	s.play(t, []journey.Journey{BreakingOff("no code at all")}, func(_ string, p *journey.Player) {
		if err := archive.LookAt(t.Context(), domain.ConnectionID(p.Connection())); err != nil {
			t.Error(err)
		}
	})
	defer archive.Close() // closing it now would clean up, and the house itself has to
	replaced := slices.DeleteFunc(slices.Clone(archive.Vanish), func(c Canary) bool { return c.Name == "credential" || c.Name == "wrapped data key" })
	if len(replaced) < 2 {
		t.Fatal("no session's state and no challenge's display were seen")
	}
	s.vanishes(t, replaced)
}

// onDisk searches the data directory for pieces of ciphertext.
func (s *scene) onDisk(t *testing.T, pieces []Canary) *Tour {
	t.Helper()
	search := NewSearcher()
	for _, c := range pieces {
		search.Add(c)
	}
	tour, err := search.Visit(Place{"data directory", nil, Files(s.Data)})
	if err != nil {
		t.Fatal(err)
	}
	return tour
}

// vanishing bounds the wait for the house to clean up behind itself.
const vanishing = 40 * time.Second

// cleaned waits until the house has cleaned up for the first time, which it does whatever was done: its write-ahead log is
// empty then.
func (s *scene) cleaned(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(vanishing); time.Now().Before(deadline); {
		s.later(t, time.Minute)
		time.Sleep(time.Second)
		if info, err := os.Stat(filepath.Join(s.Data, "sluis.db-wal")); err == nil && info.Size() == 0 {
			return
		}
	}
	t.Fatal("it never cleans up")
}

// later lets time pass for the house.
func (s *scene) later(t *testing.T, d time.Duration) {
	t.Helper()
	if err := s.Later(d); err != nil {
		t.Fatal(err)
	}
	s.shifted += d
}

// vanishes waits until the data directory holds none of the pieces. The house cleans up every half minute, of its own
// clock.
func (s *scene) vanishes(t *testing.T, pieces []Canary) {
	t.Helper()
	left := &Tour{}
	for deadline := time.Now().Add(vanishing); time.Now().Before(deadline); {
		s.later(t, time.Minute)
		time.Sleep(time.Second)
		if left = s.onDisk(t, pieces); len(left.Leaks) == 0 {
			t.Logf("gone after %s of the house's clock", s.shifted)
			return
		}
	}
	Report(t, left, nil)
}
