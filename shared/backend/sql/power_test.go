package sql_test

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/shared/backend/sql/disk"
	"sluis.internal/shared/domain"
)

// outage is the disk as a power failure left it, and what had been promised until then.
type outage struct {
	dir       string
	at        string
	committed int64 // commits that had returned
	begun     int64 // commits that may have happened
	handled   [lifetime]bool
}

const (
	lifetime = 24 // commits
	outages  = 120
)

// TestPowerFailures lets the power fail at writes, syncs and truncations all through a database's life: while its tables
// and indexes are made, at commits, while events are claimed and settled, at deletions, checkpoints and the closing.
// Whatever of the unsynced survived, the database opens, is whole, has every commit that had returned with its document,
// its entry and its event, and of the others all or nothing.
func TestPowerFailures(t *testing.T) {
	seed := uint64(1)
	random := rand.New(rand.NewPCG(seed, 7))
	t.Logf("seed %d", seed)
	var all []outage
	now, dir, ops := &outage{}, t.TempDir(), 0
	var committed, begun atomic.Int64
	var handled [lifetime]atomic.Bool
	d, err := disk.New("power", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The first life counts the requests, so that the outages of the second are spread over them.
	var each int
	watch := func(op disk.Op) error {
		if ops++; each == 0 || random.IntN(each) > 0 {
			return nil
		}
		now = &outage{dir: filepath.Join(dir, fmt.Sprint(len(all))), at: fmt.Sprintf("%s %d of %s", op.Kind, ops, filepath.Base(op.File)),
			committed: committed.Load(), begun: begun.Load()}
		for i := range handled {
			now.handled[i] = handled[i].Load()
		}
		all = append(all, *now)
		return d.PowerFails(now.dir, random)
	}
	d.Ask(watch)
	live(t, filepath.Join(dir, "first.db"), &committed, &begun, &handled)
	each, ops = max(1, ops/outages), 0
	committed.Store(0)
	begun.Store(0)
	for i := range handled {
		handled[i].Store(false)
	}
	live(t, filepath.Join(dir, "sluis.db"), &committed, &begun, &handled)
	d.Ask(nil)
	if len(all) < outages/3 {
		t.Fatalf("only %d outages", len(all))
	}
	for _, o := range all {
		survived(t, o)
	}
}

// live is the life of a database on the failing disk: commits, each with an event that is handled beside them, deletions
// and checkpoints.
func live(t *testing.T, path string, committed, begun *atomic.Int64, handled *[lifetime]atomic.Bool) {
	t.Helper()
	o := notes
	o.Disk, o.Poll = "power", time.Millisecond
	b := openFile(t, path, o)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() {
		ran <- b.Run(ctx, map[domain.Topic]domain.Handler{"told": func(_ context.Context, e domain.Event) error {
			var i int
			_, err := fmt.Sscanf(e.Subject, "n%d", &i)
			handled[i].Store(true)
			return err
		}})
	}()
	random := rand.New(rand.NewPCG(1, 1))
	for i := range lifetime {
		begun.Store(int64(i + 1))
		name := fmt.Sprintf("n%d", i)
		text := strings.Repeat("x", random.IntN(20_000))
		commit(t, b, func(tx domain.Tx) error {
			err := errors.Join(tx.Put(&note{ID: name, Tag: "a", N: i, Text: text}), tx.Put(&note{ID: "last", Tag: "b", N: i}),
				tx.Emit(domain.Event{Topic: "told", Subject: name}), record(tx, name))
			if i%5 == 4 {
				err = errors.Join(err, tx.Delete(&note{ID: fmt.Sprintf("n%d", i-4)}))
			}
			return err
		})
		committed.Store(int64(i + 1))
		if i%7 == 6 {
			if err := b.Checkpoint(t.Context()); err != nil && domain.KindOf(err) != domain.Unavailable {
				t.Fatal(err)
			}
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// survived opens what an outage left, on a disk that works.
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
	last := &note{ID: "last", N: -1}
	if err := b.Get(t.Context(), last); err != nil && domain.KindOf(err) != domain.NotFound {
		t.Fatal(err)
	}
	if n := int64(last.N + 1); n < o.committed || n > o.begun {
		t.Errorf("%s: %d commits are there, %d had returned and %d begun", o.at, n, o.committed, o.begun)
	}
	for i := range lifetime {
		name := fmt.Sprintf("n%d", i)
		there := i <= last.N
		erased := i%5 == 0 && i+4 <= last.N
		if found := b.Get(t.Context(), &note{ID: name}) == nil; found != (there && !erased) {
			t.Errorf("%s: of %d commits, document %s is there: %t", o.at, last.N+1, name, found)
		}
		var entries, events int
		count := func(n *int, query string) {
			if err := raw.QueryRow(query, name).Scan(n); err != nil {
				t.Fatal(err)
			}
		}
		count(&entries, "SELECT count(*) FROM doc_audit_entry WHERE json_extract(body, '$.subject') = ?")
		count(&events, "SELECT count(*) FROM outbox WHERE subject = ?")
		if entries == 1 != there || entries > 1 {
			t.Errorf("%s: of %d commits, %d entries of %s", o.at, last.N+1, entries, name)
		}
		if events > 1 || events == 1 && !there || events == 0 && there && !o.handled[i] {
			t.Errorf("%s: of %d commits, %d events of %s, handled %t", o.at, last.N+1, events, name, o.handled[i])
		}
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
