package sql

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"sluis.internal/shared/domain"
)

// Stock is how much the database holds of a kind.
type Stock struct {
	Of    domain.DocumentKind `json:"kind"`
	Count int                 `json:"count"`
	Bytes int64               `json:"bytes"` // of the documents as JSON, without keys and indexes
}

// Stocks counts the documents of every kind. It reads all of them.
func (b *Backend) Stocks(ctx context.Context) ([]Stock, error) {
	var all []Stock
	for _, kind := range slices.Sorted(maps.Keys(b.tables)) {
		s := Stock{Of: kind}
		err := b.reading(ctx, func(st *statements) error {
			return st.row(ctx, "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM "+b.tables[kind].name, nil, &s.Count, &s.Bytes)
		})
		if err != nil {
			return nil, fmt.Errorf("counting documents: %w", err)
		}
		all = append(all, s)
	}
	return all, nil
}
