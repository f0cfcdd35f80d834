package local_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/local"
	"sluis.internal/shared/domain"
)

func open(t *testing.T, dir string) *local.Shards {
	t.Helper()
	s, err := local.OpenShards(filepath.Join(dir, "shards"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestShards(t *testing.T) {
	backendtest.Shards(t, false, func(t *testing.T, place string) domain.Shards { return open(t, place) })
}

// files are the files below dir.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDestroyOverwrites keeps a second name for the shard's file: what lies there is overwritten, and nothing is left but
// that name.
func TestDestroyOverwrites(t *testing.T) {
	dir, id := t.TempDir(), domain.NewID[domain.ShardID](domain.Env{})
	s := open(t, dir)
	bits, err := s.Make(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	there := files(t, dir)
	if len(there) != 1 {
		t.Fatalf("one shard lies in %v", there)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.Link(there[0], kept); err != nil {
		t.Skip("no hard links here: ", err)
	}
	if err := s.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(kept)
	if err != nil || bytes.Contains(raw, bits.Reveal()[:4]) {
		t.Errorf("after Destroy the file holds %d bytes of the shard's, %v", len(raw), err)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// TestTorn: a file whose making or destruction broke off is no shard, and goes.
func TestTorn(t *testing.T) {
	for name, content := range map[string][]byte{"empty": {}, "short": make([]byte, 7), "zeroes": make([]byte, domain.ShardSize)} {
		t.Run(name, func(t *testing.T) {
			dir, id := t.TempDir(), domain.NewID[domain.ShardID](domain.Env{})
			s := open(t, dir)
			if _, err := s.Make(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files(t, dir)[0], content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), id); !errors.Is(err, domain.ErrShardGone) {
				t.Errorf("Get gives %v", err)
			}
			if err := s.Destroy(t.Context(), id); err != nil || len(files(t, dir)) > 0 {
				t.Errorf("Destroy gives %v and leaves %v", err, files(t, dir))
			}
		})
	}
}

func TestOthersMayNotRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Make(t.Context(), domain.NewID[domain.ShardID](domain.Env{})); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(dir, "shards"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	loose := filepath.Join(dir, "loose")
	if err := os.Mkdir(loose, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := local.OpenShards(loose); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that others may enter: %v", err)
	}
}
