package gcp_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
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
