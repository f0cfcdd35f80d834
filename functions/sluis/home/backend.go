package home

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"

	"sluis.internal/functions/erase"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// Backend is the store and queue that everything in a process shares, and the contracts that it was opened by.
type Backend struct {
	domain.Store
	domain.Queue
	Books
	Env       domain.Env
	copies    erase.Copies // of what was deleted: how long they are kept
	contracts domain.Contracts
	data      string
	cloud     *gcp.Cloud // nil where everything lies on this machine
	close     func() error
}

// Books say how much lies in a backend, and what waits.
type Books interface {
	Stocks(context.Context) ([]backend.Stock, error)
	Pending(context.Context) ([]backend.Backlog, error)
}

// KeysIn is the directory of the local keys below the data directory.
func KeysIn(data string) string { return filepath.Join(data, "keys") }

// ShardsIn is the directory of the shards below the data directory, unless one is named. It is kept out of backups.
func ShardsIn(data, named string) string { return cmp.Or(named, filepath.Join(data, "shards")) }

// OpenBackend opens store and queue alone, as operator commands do. Close it after use.
func OpenBackend(ctx context.Context, s Settings) (*Backend, error) {
	b := &Backend{Env: s.Env, data: s.Data, copies: s.Copies}
	if place, ok := strings.CutPrefix(s.Backend, "gcp:"); ok {
		if err := b.openCloud(ctx, place, s); err != nil {
			return nil, err
		}
		return b, nil
	}
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
	db, err := sql.Open(ctx, dsn, sql.Options{Env: b.Env, Indexes: b.contracts.Indexes, Kinds: b.contracts.Kinds(), Fault: s.Fault, Disk: s.Disk})
	if err != nil {
		return nil, err
	}
	b.Store, b.Queue, b.Books, b.close = db, db, db, db.Close
	return b, nil
}

// openCloud opens a place in Google Cloud, PROJECT[/DATABASE]. What else is to be known stands in the environment, as
// with functions: see gcp.Cloud.
func (b *Backend) openCloud(ctx context.Context, place string, s Settings) (err error) {
	project, database, _ := strings.Cut(place, "/")
	if b.cloud, err = gcp.Open(ctx, schemas.FS, gcp.Options{Env: s.Env, Project: project, Database: database, Fault: s.Fault}); err != nil {
		return err
	}
	b.Env, b.contracts, b.copies = b.cloud.Env, b.cloud.Contracts, erase.Copies{Backups: gcp.Backups, Shards: gcp.ShardVersions}
	b.Store, b.Queue, b.Books, b.close = b.cloud.Backend, b.cloud.Backend, b.cloud.Backend, b.cloud.Close
	return nil
}

// Close lets go of everything that OpenBackend took.
func (b *Backend) Close() error { return b.close() }
