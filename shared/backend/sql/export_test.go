package sql

import (
	"context"
	"strings"
	"testing"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// Pragma reads a setting of both writing connections.
func (b *Backend) Pragma(t *testing.T, name string) (durable, relaxed string) {
	t.Helper()
	w, err := b.acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer b.release(w)
	if err := w.durable.row(context.Background(), "PRAGMA "+name, nil, &durable); err != nil {
		t.Fatal(err)
	}
	if err := w.relaxed.row(context.Background(), "PRAGMA "+name, nil, &relaxed); err != nil {
		t.Fatal(err)
	}
	return durable, relaxed
}

// TurnPlan says how the database finds the lanes that wait.
func (b *Backend) TurnPlan(t *testing.T) (plan []string) {
	t.Helper()
	err := b.read.rows(context.Background(), "EXPLAIN QUERY PLAN "+nextDue, []any{"topic"}, func(scan func(...any) error) (bool, error) {
		var id, parent, unused int
		var detail string
		err := scan(&id, &parent, &unused, &detail)
		plan = append(plan, detail)
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Plans says how the database reads an index: the first page, the next, and with bounds where there is a range.
func (b *Backend) Plans(t *testing.T, def domain.Index) []string {
	t.Helper()
	ix := b.indexes[def.Name]
	queries := []domain.Query{{}}
	if def.Range != "" {
		queries = append(queries, domain.Query{From: "a"}, domain.Query{To: "b"}, domain.Query{From: "a", To: "b"})
	}
	var plans []string
	for _, q := range queries {
		q.Match = make([]string, len(def.Equal))
		for _, after := range []*backend.Position{nil, {Order: "a", Key: "b"}} {
			text, args := ix.query(q, after, 2)
			var plan []string
			err := b.read.rows(context.Background(), "EXPLAIN QUERY PLAN "+text, args, func(scan func(...any) error) (bool, error) {
				var id, parent, unused int
				var detail string
				err := scan(&id, &parent, &unused, &detail)
				plan = append(plan, detail)
				return true, err
			})
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			plans = append(plans, strings.Join(plan, "; "))
		}
	}
	return plans
}
