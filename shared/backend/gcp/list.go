package gcp

import (
	"context"
	"errors"
	"fmt"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/iterator"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// List implements domain.Store. Every index of indexes.json that has fields is a composite index in production (the
// emulator does without). A page ends early where its documents come to 8 MiB; Next says whether more follow.
func (b *Backend) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	if err := b.open(); err != nil {
		return domain.Page{}, err
	}
	ix, ok := b.indexes[q.Index]
	if !ok {
		return domain.Page{}, fmt.Errorf("listing: there is no index %q", q.Index)
	}
	if err := backend.CheckQuery(ix, &q); err != nil {
		return domain.Page{}, err
	}
	after, err := backend.Begin(q)
	if err != nil {
		return domain.Page{}, err
	}
	docs := b.query(ix, q, after).Documents(ctx)
	defer docs.Stop()
	var page domain.Page
	var last backend.Position
	size := 0
	for {
		snap, err := docs.Next()
		if errors.Is(err, iterator.Done) {
			return page, nil
		}
		if err != nil {
			return domain.Page{}, fault(ctx, "listing "+q.Index, err)
		}
		body, err := unpack(snap)
		if err != nil {
			return domain.Page{}, fmt.Errorf("listing %s: %w", q.Index, err)
		}
		size += len(body)
		if len(page.Documents) == q.Limit || len(page.Documents) > 0 && size > backend.MaxPage {
			page.Next = backend.Cursor(q, last)
			return page, nil
		}
		page.Documents = append(page.Documents, body)
		last = backend.Position{Key: snap.Ref.ID}
		if ix.Range != "" {
			last.Order, _ = snap.Data()[ix.Range].(string)
		}
	}
}

// query is one more than a page of the index, so that Next is known.
func (b *Backend) query(ix domain.Index, q domain.Query, after *backend.Position) firestore.Query {
	all := b.store.Collection(string(ix.Of)).Query
	for i, field := range ix.Equal {
		all = all.Where(field, "==", q.Match[i])
	}
	direction := firestore.Asc
	if ix.Order == "desc" {
		direction = firestore.Desc
	}
	if ix.Range != "" {
		if from := q.From; from != "" {
			all = all.Where(ix.Range, ">=", from)
		} else {
			all = all.Where(ix.Range, ">", "") // documents without the field are not in the index
		}
		if q.To != "" {
			all = all.Where(ix.Range, "<", q.To)
		}
		all = all.OrderBy(ix.Range, direction)
	}
	all = all.OrderBy(fieldKey, direction).Limit(q.Limit + 1)
	switch {
	case after == nil:
	case ix.Range != "":
		all = all.StartAfter(after.Order, after.Key)
	default:
		all = all.StartAfter(after.Key)
	}
	return all
}
