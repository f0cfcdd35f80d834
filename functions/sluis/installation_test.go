package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// lived is a data directory in which an investor was connected and a client told: something lies closed under every key
// that keeps for long. The instance is stopped.
func lived(t *testing.T) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	s, err := journey.OpenStage(context.Background(), home.Settings{Data: data}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Player("lived")
	for _, words := range []string{"ask", "open", "grant", "login 20000043", "done", "read positions complete",
		"webhooks consent.granted connection.active portfolio.updated"} {
		if err := p.Play(t.Context(), words); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestStartOnWhatDoesNotBelong plants what a copy, a restore or a slip of the hand leaves behind: each start refuses, says
// what is missing and what to do, and changes nothing.
func TestStartOnWhatDoesNotBelong(t *testing.T) {
	lived, other := lived(t), filepath.Join(t.TempDir(), "other")
	d := desk{t, []string{"--data", other}, operator}
	d.prints(`(?s)a new one is founded there.*token `, "", "client", "add", "Other")
	for name, c := range map[string]struct {
		plant func(keys, data string) error
		want  string
	}{
		"no keys": {func(keys, _ string) error { return os.RemoveAll(keys) },
			`(?s)keys_missing: .*inner version 1: 1 documents need it\n.*outer version 1: 1 documents.*portfolio version 1: 1 documents.*webhook version 1: 1 documents.*sluis restore`},
		"an empty folder of keys": {func(keys, _ string) error { return errors.Join(os.RemoveAll(keys), os.Mkdir(keys, 0o700)) },
			`(?s)keys_missing: .*pseudonym version 1: identifiers`},
		"one key is gone":           {remove("portfolio-0001.key"), `(?s)keys_missing: .*  portfolio version 1: 1 documents need it\nPut `},
		"one key is out of use":     {disable("webhook-0001.key"), `webhook version 1: 1 documents need it`},
		"what names are derived by": {remove("pseudonym-0001.key"), `pseudonym version 1: identifiers`},
		"what signs":                {remove("certificate-0001.key"), `certificate version 1`},
		"an older key of two": {func(keys, data string) error {
			return errors.Join(envelope.Rotate(keys, "outer"), remove("outer-0001.key")(keys, data))
		}, `outer version 1: 1 documents`},
		"another installation's keys": {func(keys, _ string) error {
			return errors.Join(os.RemoveAll(keys), copyOf(home.KeysIn(other), keys))
		}, `keys belongs to installation inst_\w+, but the database to inst_\w+`},
		"another installation's shards": {func(_, data string) error {
			return errors.Join(os.RemoveAll(filepath.Join(data, "shards")), copyOf(filepath.Join(other, "shards"), filepath.Join(data, "shards")))
		}, `shards belongs to installation inst_\w+, but the database to inst_\w+`},
		"no database": {func(_, data string) error { return drop(data, "sluis.db") },
			`keys belongs to installation inst_\w+, whose database is not here`},
		"another's database": {func(_, data string) error {
			return errors.Join(drop(data, "sluis.db"), link(filepath.Join(other, "sluis.db"), filepath.Join(data, "sluis.db")))
		}, `but the database to inst_`},
	} {
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			if err := copyOf(lived, data); err != nil {
				t.Fatal(err)
			}
			if err := c.plant(home.KeysIn(data), data); err != nil {
				t.Fatal(err)
			}
			before := listing(t, data)
			d := desk{t, []string{"--data", data}, operator}
			d.refuses(c.want, "", "serve", "--api", "127.0.0.1:0", "--pages", "127.0.0.1:0", "--bank", "127.0.0.1:0", "--sample", "127.0.0.1:0")
			if after := listing(t, data); after != before {
				t.Errorf("it had\n%s\nand has\n%s", before, after)
			}
		})
	}
}

// TestKeysThatNothingNeeds: a version that closed nothing, and one that was put out of use, may go.
func TestKeysThatNothingNeeds(t *testing.T) {
	data := lived(t)
	d := desk{t, []string{"--data", data}, operator}
	d.prints(`used from now on`, "", "rotate", "session")
	d.prints(`^$`, "", "versions", "disable", "session", "1")
	if err := os.Remove(filepath.Join(home.KeysIn(data), "session-0001.key.disabled")); err != nil {
		t.Fatal(err)
	}
	open := func() {
		t.Helper()
		h, err := home.Open(t.Context(), home.Settings{Data: data, API: "127.0.0.1:0", Pages: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	open()
	d.prints(`used from now on`, "", "rotate", "display")
	if err := os.Remove(filepath.Join(home.KeysIn(data), "display-0001.key")); err != nil {
		t.Fatal(err)
	}
	open()
	open() // and it is not asked for again
}

// TestOlderData: a database whose program noted no keys yet is taken over if they are all there, and refused if not.
func TestOlderData(t *testing.T) {
	data := lived(t)
	b, err := home.OpenBackend(t.Context(), home.Settings{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Commit(t.Context(), func(tx domain.Tx) error {
		operator := domain.Actor{Kind: domain.ActorOperator, ID: "test"}
		return errors.Join(tx.Delete(&domain.Installation{Name: domain.ThisInstallation}), tx.Record(domain.Note(b.Env, "test", "older", operator, "", "test", nil)))
	})
	if err := errors.Join(err, b.Close(), os.Remove(filepath.Join(home.KeysIn(data), "installation")), os.Remove(filepath.Join(data, "shards", "installation"))); err != nil {
		t.Fatal(err)
	}
	d, file := desk{t, []string{"--data", data}, operator}, filepath.Join(home.KeysIn(data), "portfolio-0001.key")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	d.prints(`client +1 `, "", "status")
	d.refuses(`portfolio, a version that was never noted: 1 documents need it`, "", "client", "add", "Next")
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	d.prints(`^client `, "", "client", "add", "Next") // and says nothing of founding
}

// TestNothingIsFoundedByLooking: a command on a directory that is none says so, and leaves none behind.
func TestNothingIsFoundedByLooking(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	d := desk{t, []string{"--data", data}, operator}
	for _, args := range [][]string{{"status"}, {"audit"}, {"client", "list"}, {"key", "list", "cli_00000000000000000000000000"},
		{"key", "issue", "cli_00000000000000000000000000"}, {"dead-letters", "list"}, {"dead-letters", "redrive", "--all"}, {"versions", "list"},
		{"versions", "rewrap"}, {"versions", "disable", "outer", "1"}, {"rotate", "outer"}, {"secret", "set", "comdirect/client_id"}} {
		d.refuses(`no_installation: there is no installation in .*/data; name its directory with --data`, "secret", args...)
		if _, err := os.Lstat(data); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%q made %s", args, data)
		}
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "sluis.db"), nil, 0o600); err != nil { // what a death at the first moment leaves
		t.Fatal(err)
	}
	d.refuses(`no_installation`, "", "status")
}

func remove(name string) func(keys, data string) error {
	return func(keys, _ string) error { return os.Remove(filepath.Join(keys, name)) }
}

func disable(name string) func(keys, data string) error {
	return func(keys, _ string) error {
		return os.Rename(filepath.Join(keys, name), filepath.Join(keys, name+".disabled"))
	}
}

// drop removes a database with its write-ahead log.
func drop(data, name string) error {
	files, err := filepath.Glob(filepath.Join(data, name+"*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// link copies one file.
func link(from, to string) error {
	raw, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, raw, 0o600))
}

// copyOf copies a directory, for its owner alone.
func copyOf(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		place := filepath.Join(to, strings.TrimPrefix(path, from))
		if err != nil || e.IsDir() {
			return errors.Join(err, os.MkdirAll(place, 0o700))
		}
		return link(path, place)
	})
}

// listing names everything below a directory.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if e != nil && !strings.HasSuffix(path, "-wal") && !strings.HasSuffix(path, "-shm") {
			b.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
