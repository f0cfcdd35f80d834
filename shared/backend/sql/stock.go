package sql

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"sluis.internal/shared/backend"
)

// Stocks counts the documents of every kind. It reads all of them.
func (b *Backend) Stocks(ctx context.Context) ([]backend.Stock, error) {
	var all []backend.Stock
	for _, kind := range slices.Sorted(maps.Keys(b.tables)) {
		s := backend.Stock{Of: kind}
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
