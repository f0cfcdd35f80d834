package sql_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"sluis.internal/shared/backend/backendtest"
	"sluis.internal/shared/backend/sql"
)

func open(t *testing.T, o backendtest.Opts) backendtest.Backend {
	t.Helper()
	b, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(o.Place, "sluis.db"), sql.Options{Env: o.Env, Indexes: o.Indexes, Kinds: o.Kinds,
		Concurrency: o.Concurrency, MaxAttempts: o.MaxAttempts, Fault: o.Fault,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return backendtest.Backend{Store: b, Queue: b, Close: b.Close}
}

func TestContract(t *testing.T) { backendtest.Run(t, open) }

func TestLive(t *testing.T) { backendtest.Live(t, open) }
