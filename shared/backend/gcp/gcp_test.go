package gcp_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"testing"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

// open opens a project of its own for each place.
func open(t *testing.T, o backendtest.Opts) backendtest.Backend {
	t.Helper()
	place := sha256.Sum256([]byte(o.Place))
	project := "p-" + hex.EncodeToString(place[:8])
	gcptest.Topics(t, project, "contract")
	b, err := gcp.New(context.Background(), gcp.Options{Env: o.Env, Project: project, Indexes: o.Indexes, Kinds: o.Kinds,
		Concurrency: o.Concurrency, MaxAttempts: o.MaxAttempts, Fault: o.Fault})
	if err != nil {
		t.Fatal(err)
	}
	return backendtest.Backend{Store: b, Queue: b, Close: b.Close}
}

func TestContract(t *testing.T) {
	gcptest.Emulators(t)
	t.Run("store", func(t *testing.T) { backendtest.Store(t, open) })
	t.Run("queue", func(t *testing.T) { backendtest.Live(t, open) })
	t.Run("list", func(t *testing.T) { backendtest.List(t, open) })
}

// TestLargeCommit: more than Firestore takes at once is refused in our words, and nothing of it is kept.
func TestLargeCommit(t *testing.T) {
	gcptest.Emulators(t)
	b, err := gcp.New(t.Context(), gcp.Options{Project: "p-large", Kinds: []domain.DocumentKind{"part"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	part := func(i int) *domain.Part { return &domain.Part{ID: fmt.Sprint("part_", i)} }
	err = b.Commit(t.Context(), func(tx domain.Tx) error {
		for i := range 20 {
			p := part(i)
			p.Sealed = make([]byte, 500<<10)
			if err := tx.Put(p); err != nil {
				return err
			}
		}
		return nil
	})
	if domain.KindOf(err) != domain.TooLarge {
		t.Errorf("it came to %v", err)
	}
	if err := b.Get(t.Context(), part(0)); domain.KindOf(err) != domain.NotFound {
		t.Errorf("a part of it was kept: %v", err)
	}
}

// TestUnchanged: a document that is put as it was read is not written, unless something else was written in its place
// before; and one read twice in a transaction is read once.
func TestUnchanged(t *testing.T) {
	gcptest.Emulators(t)
	meter := gcptest.NewMeter(t, os.Getenv("FIRESTORE_EMULATOR_HOST"))
	direct := os.Getenv("FIRESTORE_EMULATOR_HOST")
	os.Setenv("FIRESTORE_EMULATOR_HOST", meter.Host)
	defer os.Setenv("FIRESTORE_EMULATOR_HOST", direct)
	b, err := gcp.New(t.Context(), gcp.Options{Project: "p-unchanged", Kinds: []domain.DocumentKind{"advisor"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	advisor := func(name string) *domain.Advisor { return &domain.Advisor{ID: "adv_1", Name: name} }
	commit := func(name string, reads, writes, deletes int, left string, fn func(tx domain.Tx) error) {
		t.Helper()
		meter.Take()
		err := b.Commit(t.Context(), func(tx domain.Tx) error {
			return errors.Join(fn(tx), tx.Record(domain.Note(domain.Env{}, "test", "advisor.tried", domain.Actor{}, "", "adv_1", nil)))
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := meter.Take()
		if got[gcptest.Reads] != reads || got[gcptest.Writes] != writes+1 || got[gcptest.Deletes] != deletes {
			t.Errorf("%s: %v; want %d reads, %d writes and the entry, %d deletes", name, got, reads, writes, deletes)
		}
		found := advisor("")
		if err := b.Get(t.Context(), found); err != nil || found.Name != left {
			t.Errorf("%s left %q, %v; want %q", name, found.Name, err, left)
		}
	}
	get := func(tx domain.Tx) error { return tx.Get(advisor("")) }
	commit("made", 0, 1, 0, "Ada", func(tx domain.Tx) error { return tx.Put(advisor("Ada")) })
	commit("put as read", 1, 0, 0, "Ada", func(tx domain.Tx) error { return errors.Join(get(tx), get(tx), tx.Put(advisor("Ada"))) })
	commit("put unread", 0, 1, 0, "Ada", func(tx domain.Tx) error { return tx.Put(advisor("Ada")) })
	commit("changed", 1, 1, 0, "Bea", func(tx domain.Tx) error { return errors.Join(get(tx), tx.Put(advisor("Bea"))) })
	commit("changed and back", 1, 2, 0, "Bea", func(tx domain.Tx) error {
		return errors.Join(get(tx), tx.Put(advisor("Cleo")), tx.Put(advisor("Bea")))
	})
	commit("deleted and back", 1, 1, 1, "Bea", func(tx domain.Tx) error {
		return errors.Join(get(tx), tx.Delete(advisor("")), tx.Put(advisor("Bea")))
	})
}
