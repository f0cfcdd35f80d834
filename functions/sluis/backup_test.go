package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// TestBackup copies an instance while it serves, puts the copy in place, and reads the portfolio there; and plants in the
// backup, in the data and in the place what must be noticed.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	data, backup, place := filepath.Join(dir, "data"), filepath.Join(dir, "backup"), filepath.Join(dir, "new")
	s, err := journey.OpenStage(context.Background(), home.Settings{Data: data}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Player("backup")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := p.Play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000043", "done", "read positions complete")
	d, there := desk{t, []string{"--data", data}, operator}, desk{t, []string{"--data", place}, operator}
	d.refuses(`want days, 1d to 90d`, "", "backup", backup, "--shards-life", "1h")
	d.prints(`(?s)files of installation inst_\w+ are in .*shards are in there, too: destroy them by 20`, "", "backup", backup, "--shards-life", "7d")
	d.refuses(`a backup is never written over`, "", "backup", backup)
	d.prints(`(?s)parts +[1-9].*versions +1\n.*no faults`, "", "verify")
	d.prints(`files of installation inst_\w+, made at .*, are as the manifest says`, "", "verify", backup)
	d.prints(`"type":"sluis.backup.begun"`, "", "audit")
	d.refuses(`is not empty, and nothing is written over`, "", "restore", backup)
	play("refresh", "version 2")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	there.prints(`(?s)is in .*new; .*Never run it beside`, "", "restore", backup)
	there.prints(`(?s)versions +1\n.*no faults`, "", "verify")
	if err := s.Start(context.Background(), home.Settings{Data: place}); err != nil {
		t.Fatal(err)
	}
	play("read positions complete")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	spoilt(t, backup)
	faulty(t, data)
	torn(t, data)
}

// spoilt plants in copies of a backup what a disk, a hand or a death leaves.
func spoilt(t *testing.T, backup string) {
	for name, plant := range map[string]func(dir string) error{
		"no manifest":    func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) },
		"a byte":         func(dir string) error { return scribble(filepath.Join(dir, "database", "sluis.db"), 5000) },
		"a key is gone":  func(dir string) error { return os.Remove(filepath.Join(dir, "keys", "outer-0001.key")) },
		"a file more":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "keys", "outer-0002.key"), nil, 0o600) },
		"an empty place": os.RemoveAll,
	} {
		dir, place := filepath.Join(t.TempDir(), "spoilt"), filepath.Join(t.TempDir(), "place")
		if err := errors.Join(copyOf(backup, dir), plant(dir)); err != nil {
			t.Fatal(err)
		}
		d := desk{t, []string{"--data", place}, operator}
		d.refuses(`Choose another`, "", "restore", dir)
		if _, err := os.Lstat(place); err == nil {
			t.Errorf("%s: %s was made all the same", name, place)
		}
	}
}

// faulty plants in copies of the data what verify must find.
func faulty(t *testing.T, data string) {
	for name, c := range map[string]struct {
		plant func(data string) error
		want  string
	}{
		"a key is gone": {func(data string) error { return os.Remove(filepath.Join(home.KeysIn(data), "portfolio-0001.key")) },
			`(?s)a key version is missing +1 +portfolio version 1\n.*parts that do not open`},
		"a part is gone": {change(func(ctx context.Context, b *home.Backend, tx domain.Tx) error {
			id, err := named(ctx, b)
			return errors.Join(err, tx.Delete(&domain.Part{ID: id}))
		}), `versions that name a part that is not there +[1-9]`},
		"a part was changed": {change(func(ctx context.Context, b *home.Backend, tx domain.Tx) error {
			p := first[domain.Part](ctx, b, "parts_by_connection")
			p.Sealed[len(p.Sealed)-1] ^= 1
			return tx.Put(&p)
		}), `parts that do not open +1 `},
		"a secret was changed": {change(func(ctx context.Context, b *home.Backend, tx domain.Tx) error {
			e := first[domain.Endpoint](ctx, b, "endpoints")
			e.Secret[len(e.Secret)-1] ^= 1
			return tx.Put(&e)
		}), `webhook secrets that do not open +1 `},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := errors.Join(copyOf(data, dir), c.plant(dir)); err != nil {
				t.Fatal(err)
			}
			desk{t, []string{"--data", dir}, operator}.refuses(c.want, "", "verify")
		})
	}
}

// torn copies a database as a careless hand does: with another one's pages in the middle.
func torn(t *testing.T, data string) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := copyOf(data, dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sluis.db")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := len(raw) / 4096
	copy(raw[pages/2*4096:], raw[(pages/2+3)*4096:(pages/2+6)*4096])
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d := desk{t, []string{"--data", dir}, operator}
	d.refuses(`database_damaged`, "", "serve", "--api", "127.0.0.1:0", "--pages", "127.0.0.1:0", "--bank", "127.0.0.1:0", "--sample", "127.0.0.1:0")
	d.refuses(`damaged`, "", "verify")
}

// change commits to the only connection's data, past all laws.
func change(do func(context.Context, *home.Backend, domain.Tx) error) func(string) error {
	return func(data string) error {
		b, err := home.OpenBackend(context.Background(), home.Settings{Data: data})
		if err != nil {
			return err
		}
		operator := domain.Actor{Kind: domain.ActorOperator, ID: "test"}
		return errors.Join(b.Commit(context.Background(), func(tx domain.Tx) error {
			return errors.Join(do(context.Background(), b, tx), tx.Record(domain.Note(b.Env, "test", "planted", operator, "", "test", nil)))
		}), b.Close())
	}
}

// first gives the first document of an index, of the first client's first connection.
func first[T any, P interface {
	*T
	domain.Document
}](ctx context.Context, b *home.Backend, index string) (found T) {
	q := domain.Query{Index: index}
	if index == "parts_by_connection" {
		client := first[domain.Client](ctx, b, "clients")
		all, _, err := domain.List[domain.Connection](ctx, b, domain.Query{Index: "connections_by_client", Match: []string{string(client.ID)}})
		if err != nil || len(all) == 0 {
			return found
		}
		q.Match = []string{string(all[0].ID)}
	}
	if all, _, err := domain.List[T, P](ctx, b, q); err == nil && len(all) > 0 {
		return all[0]
	}
	return found
}

// named gives a part that the first connection's version names. An older version has let its own go, and they stay until
// they are swept.
func named(ctx context.Context, b *home.Backend) (string, error) {
	q := domain.Query{Index: "portfolios_by_connection", Match: []string{string(first[domain.Part](ctx, b, "parts_by_connection").ConnectionID)}}
	all, _, err := domain.List[domain.Portfolio](ctx, b, q)
	for _, v := range all {
		for _, status := range v.Products {
			if len(status.Parts) > 0 {
				return status.Parts[0], err
			}
		}
	}
	return "", errors.Join(err, errors.New("no version names a part"))
}

func scribble(path string, at int) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	raw[at] ^= 1
	return os.WriteFile(path, raw, 0o600)
}

// TestKilledBackup kills backups and restores at any moment: what has its name is whole, and what is not says so.
func TestKilledBackup(t *testing.T) {
	data, dir := lived(t), t.TempDir()
	whole := filepath.Join(dir, "whole")
	d := desk{t, []string{"--data", data}, operator}
	d.prints(`files of installation`, "", "backup", whole)
	for i := range 6 {
		after := time.Duration(i*40+20) * time.Millisecond
		backup, place := filepath.Join(dir, "b"), filepath.Join(dir, "p")
		d.killed(after, "backup", backup)
		if _, err := os.Lstat(backup); err == nil {
			d.prints(`as the manifest says`, "", "verify", backup)
		}
		there := desk{t, []string{"--data", place}, operator}
		there.killed(after, "restore", whole)
		if _, err := os.Lstat(filepath.Join(place, ".restoring")); err == nil {
			there.refuses(`was broken off`, "", "status")
			there.refuses(`was broken off`, "", "client", "add", "Nobody")
		} else if _, err := os.Lstat(filepath.Join(place, "sluis.db")); err == nil {
			there.prints(`no faults`, "", "verify")
		}
		for _, left := range []string{backup, backup + ".partial", place} {
			if err := os.RemoveAll(left); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killed starts a command and kills it after a while.
func (d desk) killed(after time.Duration, args ...string) {
	d.t.Helper()
	cmd := exec.Command(os.Args[0], slices.Concat(d.place, args)...)
	cmd.Env = append(os.Environ(), "SLUIS_TEST_COMMAND=1")
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait()
}

// TestUnsafeDirectories plants what another user of the machine could use.
func TestUnsafeDirectories(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(data string) error
		want  string
	}{
		"others may write to it":     {func(data string) error { return os.Chmod(data, 0o770) }, `mode 0770.*chmod 700 `},
		"its parent is everybody's":  {func(data string) error { return os.Chmod(filepath.Dir(data), 0o777) }, `mode 0777.*choose a directory of your own \(mode 0700\)`},
		"its parent is a group's":    {func(data string) error { return os.Chmod(filepath.Dir(data), 0o775) }, `mode 0775`},
		"it is a link":               {relink(""), `data is a symbolic link`},
		"the keys are a link":        {relink("keys"), `keys is a symbolic link`},
		"the database is a link":     {relink("sluis.db"), `sluis.db is a symbolic link`},
		"the database is everyone's": {func(data string) error { return os.Chmod(filepath.Join(data, "sluis.db"), 0o666) }, `chmod 600 .*sluis.db`},
		"it is another user's":       {func(data string) error { return os.Chown(data, 12345, -1) }, `belongs to the user with number 12345`},
		"the keys are another's":     {func(data string) error { return os.Chown(home.KeysIn(data), 12345, -1) }, `belongs to the user with number 12345`},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(c.want, "12345") && os.Geteuid() != 0 {
				t.Skip("only root gives files away")
			}
			parent := filepath.Join(t.TempDir(), "parent")
			data := filepath.Join(parent, "data")
			if err := os.Mkdir(parent, 0o700); err != nil {
				t.Fatal(err)
			}
			d := desk{t, []string{"--data", data}, operator}
			d.prints(`client `, "", "client", "add", "One")
			if err := c.plant(data); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"status"}, {"client", "add", "Two"}} {
				d.refuses(`unsafe_directory: `+"(?s).*"+c.want, "", args...)
			}
		})
	}
}

// relink puts a link in the place of something below the data directory, or of it.
func relink(name string) func(data string) error {
	return func(data string) error {
		path := filepath.Join(data, name)
		return errors.Join(os.Rename(path, path+"-real"), os.Symlink(path+"-real", path))
	}
}
