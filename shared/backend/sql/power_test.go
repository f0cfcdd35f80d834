package sql_test

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/backend/sql/disk"
	"sluis.internal/shared/domain"
)

// outage is the disk as a power failure left it, and what had been promised until then.
type outage struct {
	dir, at string
	commits [lifetime]fate
}

// fate is what became of one commit and of its event.
type fate struct{ begun, returned, handled bool }

const (
	lifetime = 24 // commits
	outages  = 120
)

// life is a database's on a disk that fails.
type life struct {
	failing bool // the disk fails too, so that a commit and the closing may
	mu      sync.Mutex
	commits [lifetime]fate
}

func (l *life) note(i int, change func(*fate)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.commits[i])
}

// TestPowerFailures lets the power fail at writes, syncs and truncations all through a database's life: while its tables
// and indexes are made, at commits, while events are claimed and settled, at deletions, checkpoints and the closing.
// Whatever of the unsynced survived, the database opens, is whole, has every commit that had returned with its document,
// its entry and its event, and of the others all or nothing. In a second life the disk also breaks and fills up.
func TestPowerFailures(t *testing.T) {
	for name, failing := range map[string]bool{"power": false, "power-and-disk": true} {
		t.Run(name, func(t *testing.T) {
			seed := uint64(1)
			random := rand.New(rand.NewPCG(seed, 7))
			t.Logf("seed %d", seed)
			d, err := disk.New(name, nil)
			if err != nil {
				t.Fatal(err)
			}
			// The first life counts the requests, so that the outages of the second are spread over them.
			dir, ops := t.TempDir(), 0
			d.Ask(func(disk.Op) error { ops++; return nil })
			new(life).live(t, name, filepath.Join(dir, "first.db"))
			each := max(1, ops/outages)
			var all []outage
			l, trouble := &life{failing: failing}, 0
			ops = 0
			d.Ask(func(op disk.Op) error {
				if ops++; random.IntN(each) == 0 {
					l.mu.Lock()
					o := outage{dir: filepath.Join(dir, fmt.Sprint(len(all))), at: fmt.Sprintf("%s %d of %s", op.Kind, ops, filepath.Base(op.File)), commits: l.commits}
					l.mu.Unlock()
					all = append(all, o)
					return d.PowerFails(o.dir, random)
				}
				if trouble--; failing && trouble < -10*each && l.opened() && random.IntN(2*each) == 0 {
					trouble = 1 + random.IntN(20)
				}
				if trouble > 0 {
					return []error{disk.ErrBroken, disk.ErrFull}[trouble%2]
				}
				return nil
			})
			l.live(t, name, filepath.Join(dir, "sluis.db"))
			d.Ask(nil)
			if len(all) < outages/12 {
				t.Fatalf("only %d outages", len(all))
			}
			for _, o := range all {
				survived(t, o)
			}
		})
	}
}

// opened says whether the first commit has begun: a database that cannot be opened has no life.
func (l *life) opened() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commits[0].begun
}

// live is the life of a database on the failing disk: commits, each with an event that is handled beside them, deletions
// and checkpoints.
func (l *life) live(t *testing.T, disk, path string) {
	t.Helper()
	o := notes
	o.Disk, o.Poll = disk, time.Millisecond
	b := openFile(t, path, o)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() {
		ran <- b.Run(ctx, map[domain.Topic]domain.Handler{"told": func(_ context.Context, e domain.Event) error {
			var i int
			_, err := fmt.Sscanf(e.Subject, "n%d", &i)
			l.note(i, func(f *fate) { f.handled = true })
			return err
		}})
	}()
	random := rand.New(rand.NewPCG(1, 1))
	for i := range lifetime {
		l.write(t, b, i, strings.Repeat("x", random.IntN(20_000)))
		if i%7 == 6 {
			_ = b.Checkpoint(t.Context()) // it may fail, and must do no harm
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil && !l.failing {
		t.Fatal(err)
	}
}

// write commits the i-th note.
func (l *life) write(t *testing.T, b *sql.Backend, i int, text string) {
	t.Helper()
	l.note(i, func(f *fate) { f.begun = true })
	name := fmt.Sprintf("n%d", i)
	err := b.Commit(t.Context(), func(tx domain.Tx) error {
		err := errors.Join(tx.Put(&note{ID: name, Tag: "a", N: i, Text: text}), tx.Put(&note{ID: "last", Tag: "b", N: i}),
			tx.Emit(domain.Event{Topic: "told", Subject: name}), record(tx, name))
		if i%5 == 4 {
			err = errors.Join(err, tx.Delete(&note{ID: fmt.Sprintf("n%d", i-4)}))
		}
		return err
	})
	if err != nil && !l.failing {
		t.Fatal(err)
	}
	l.note(i, func(f *fate) { f.returned = err == nil })
}

// survived opens what an outage left, on a disk that works. A commit happened if its entry is there.
func survived(t *testing.T, o outage) {
	t.Helper()
	path := filepath.Join(o.dir, "sluis.db")
	b := openFile(t, path, notes)
	defer b.Close()
	raw, err := dbsql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var sound string
	if err := raw.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil || sound != "ok" {
		t.Fatalf("%s: %s, %v", o.at, sound, err)
	}
	count := func(query, name string) (n int) {
		if err := raw.QueryRow(query, name).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var happened [lifetime]bool
	newest := -1
	for i, f := range o.commits {
		name := fmt.Sprintf("n%d", i)
		entries := count("SELECT count(*) FROM doc_audit_entry WHERE json_extract(body, '$.subject') = ?", name)
		if happened[i] = entries == 1; happened[i] {
			newest = i
		}
		if entries > 1 || happened[i] && !f.begun || !happened[i] && f.returned {
			t.Errorf("%s: %d entries of %s, which %+v", o.at, entries, name, f)
		}
		events := count("SELECT count(*) FROM outbox WHERE subject = ?", name)
		if events > 1 || events == 1 && !happened[i] || events == 0 && happened[i] && !f.handled {
			t.Errorf("%s: %d events of %s, which happened %t, %+v", o.at, events, name, happened[i], f)
		}
	}
	for i := range lifetime {
		want := happened[i] && !(i%5 == 0 && i+4 < lifetime && happened[i+4])
		if found := b.Get(t.Context(), &note{ID: fmt.Sprintf("n%d", i)}) == nil; found != want {
			t.Errorf("%s: document n%d is there: %t, want %t", o.at, i, found, want)
		}
	}
	last := &note{ID: "last", N: -1}
	if err := b.Get(t.Context(), last); err != nil && domain.KindOf(err) != domain.NotFound {
		t.Fatal(err)
	}
	if last.N != newest {
		t.Errorf("%s: the last commit is %d and %d is there", o.at, newest, last.N)
	}
}

// TestDiskThatFails: every request to the disk may fail, for want of room or for good. The commit then returns an error, and
// when the disk works again, so does the database, with all that it promised.
func TestDiskThatFails(t *testing.T) {
	for _, failure := range []error{disk.ErrBroken, disk.ErrFull} {
		t.Run(failure.Error(), func(t *testing.T) {
			var left atomic.Int64
			fails := func(disk.Op) error {
				if n := left.Add(-1); n < 0 && n > -3 { // and so do the next two
					return failure
				}
				return nil
			}
			left.Store(1 << 40)
			name := strings.Fields(failure.Error())[0]
			if _, err := disk.New(name, fails); err != nil {
				t.Fatal(err)
			}
			o := notes
			o.Disk = name
			b := openFile(t, filepath.Join(t.TempDir(), "sluis.db"), o)
			kept := -1
			for i := range 60 {
				left.Store(int64(i % 12))
				err := b.Commit(t.Context(), func(tx domain.Tx) error {
					return errors.Join(tx.Put(&note{ID: "last", N: i, Text: strings.Repeat("y", i*300)}), record(tx, fmt.Sprint(i)))
				})
				if i%9 == 8 {
					_ = b.Checkpoint(t.Context()) // it may fail, and must do no harm
				}
				left.Store(1 << 40)
				last := &note{ID: "last", N: -1}
				if got := b.Get(t.Context(), last); got != nil && domain.KindOf(got) != domain.NotFound {
					t.Fatalf("after %v: %v", err, got)
				}
				if err == nil && last.N != i || err != nil && last.N != kept && last.N != i {
					t.Fatalf("commit %d returned %v, and %d is there", i, err, last.N)
				}
				kept = last.N
			}
		})
	}
}

// TestSettled: what another process has synced outlasts a power failure, though the disk had it for loose.
func TestSettled(t *testing.T) {
	dir, full, dark := t.TempDir(), false, false
	path, random := filepath.Join(dir, "sluis.db"), rand.New(rand.NewPCG(1, 7))
	var l life
	var all []outage
	var d *disk.Disk
	d, err := disk.New("settled", func(op disk.Op) error {
		switch {
		case full && op.Kind == disk.Sync && op.File == path:
			return disk.ErrFull
		case !dark:
			return nil
		}
		dark = false
		for i := range 20 {
			o := outage{dir: filepath.Join(dir, fmt.Sprint(i)), at: fmt.Sprintf("outage %d", i), commits: l.commits}
			all = append(all, o)
			if err := d.PowerFails(o.dir, random); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o := notes
	o.Disk = "settled"
	b := openFile(t, path, o)
	defer b.Close()
	l.write(t, b, 0, "")
	full = true
	if err := b.Checkpoint(t.Context()); err == nil {
		t.Fatal("the file was synced")
	}
	full = false
	other := openFile(t, path, notes)
	l.write(t, other, 1, "")
	if err := other.Close(); err != nil { // it syncs everything
		t.Fatal(err)
	}
	d.Settle()
	l.write(t, b, 2, "")
	dark = true
	l.write(t, b, 3, "")
	if len(all) == 0 {
		t.Fatal("the power did not fail")
	}
	for _, o := range all {
		survived(t, o)
	}
}
