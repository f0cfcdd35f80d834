package main

import (
	"context"
	"errors"
	"path/filepath"

	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// data is the directory that everything lies in.
func (o *options) data() string {
	if o.Data == "" {
		return "sluis-data"
	}
	return o.Data
}

// keys is the directory of the local keys.
func (o *options) keys() string { return filepath.Join(o.data(), "keys") }

func (o *options) dsn() string {
	if o.Backend != "" {
		return o.Backend
	}
	return "sqlite:" + filepath.Join(o.data(), "sluis.db")
}

// openBackend is the store and queue that everything in this process shares.
type openBackend struct {
	*sql.Backend
	env       domain.Env
	lives     []life
	indexes   []domain.Index
	catalogue []domain.Custodian
}

func open(ctx context.Context, o *options) (*openBackend, error) {
	b := &openBackend{env: domain.Env{Region: "local"}}
	var err error
	if b.lives, err = read[[]life]("retention.json"); err != nil {
		return nil, err
	}
	if b.indexes, err = read[[]domain.Index]("indexes.json"); err != nil {
		return nil, err
	}
	if b.catalogue, err = read[[]domain.Custodian]("custodians.json"); err != nil {
		return nil, err
	}
	kinds := make([]domain.DocumentKind, len(b.lives))
	for i, l := range b.lives {
		kinds[i] = l.Kind
	}
	b.Backend, err = sql.Open(ctx, o.dsn(), sql.Options{Env: b.env, Indexes: b.indexes, Kinds: kinds})
	return b, err
}

// withStore opens the backend for one operator command.
func withStore(ctx context.Context, o *options, fn func(*openBackend) error) error {
	b, err := open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(fn(b), b.Close())
}
