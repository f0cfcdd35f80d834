package gcp

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/api/iterator"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// Stocks counts the documents of every kind, without reading them: Google bills one read for a thousand.
func (b *Backend) Stocks(ctx context.Context) ([]backend.Stock, error) {
	var all []backend.Stock
	for _, kind := range slices.Sorted(maps.Keys(b.kinds)) {
		found, err := b.store.Collection(string(kind)).NewAggregationQuery().WithCount("n").Get(ctx)
		if err != nil {
			return nil, fault(ctx, "counting "+string(kind), err)
		}
		n, _ := found["n"].(*firestorepb.Value)
		all = append(all, backend.Stock{Of: kind, Count: int(n.GetIntegerValue()), Bytes: -1})
	}
	return all, nil
}

// Pending counts all events by topic and state. It reads the whole outbox. An event that was published is leased until
// it is settled or counts as lost; one that failed a moment ago looks the same.
func (b *Backend) Pending(ctx context.Context) ([]backend.Backlog, error) {
	docs := b.store.Collection(outbox).Select("topic", "created", "due", "dead", "attempt").Documents(ctx)
	defer docs.Stop()
	lines := map[backend.Backlog]backend.Backlog{}
	now := b.env.Now()
	for {
		snap, err := docs.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		var p post
		if err == nil {
			err = snap.DataTo(&p)
		}
		if err != nil {
			return nil, fault(ctx, "counting events", err)
		}
		key := backend.Backlog{Topic: domain.Topic(p.Topic), State: p.state(now)}
		line := lines[key]
		line.Topic, line.State, line.Count = key.Topic, key.State, line.Count+1
		line.Oldest = max(line.Oldest, now.Sub(domain.At(p.Created)))
		lines[key] = line
	}
	return slices.SortedFunc(maps.Values(lines), func(x, y backend.Backlog) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.State, y.State))
	}), nil
}

func (p *post) state(now domain.Time) string {
	due := domain.At(p.Due)
	switch {
	case !p.Dead.IsZero():
		return "dead"
	case !due.After(now):
		return "due"
	case p.Attempt > 0 && !due.After(now.Add(straggling)):
		return "leased"
	}
	return "delayed"
}
