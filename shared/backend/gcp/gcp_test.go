package gcp_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
