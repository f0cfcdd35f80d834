package home

import (
	"context"
	"path/filepath"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// Backend is the store and queue that everything in a process shares, and the contracts that it was opened by.
type Backend struct {
	*sql.Backend
	Env       domain.Env
	contracts domain.Contracts
}

// KeysIn is the directory of the local keys below the data directory.
func KeysIn(data string) string { return filepath.Join(data, "keys") }

// OpenBackend opens the database alone, as operator commands do. Close it after use.
func OpenBackend(ctx context.Context, s Settings) (*Backend, error) {
	b := &Backend{Env: s.Env}
	if b.Env.Region == "" {
		b.Env.Region = "local"
	}
	var err error
	if b.contracts, err = domain.ReadContracts(schemas.FS); err != nil {
		return nil, err
	}
	dsn := s.Backend
	if dsn == "" {
		dsn = "sqlite:" + filepath.Join(s.Data, "sluis.db")
	}
	b.Backend, err = sql.Open(ctx, dsn, sql.Options{Env: b.Env, Indexes: b.contracts.Indexes, Kinds: b.contracts.Kinds(), Fault: s.Fault, Disk: s.Disk})
	return b, err
}
