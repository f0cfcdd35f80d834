package sweep

import (
	"context"
	"errors"
	"strconv"

	"sluis.internal/shared/domain"
)

// loosen has those shards destroyed that were announced and that no commit came for, and asks again for the destruction of
// those that is overdue. Nothing opens by them, or what does is of a commit that was lost.
func (s *Service) loosen(ctx context.Context, r *Report) error {
	for range maxBatches {
		found, next, err := domain.List[domain.LooseShard](ctx, s.Store, domain.Query{Index: "loose_shards_due", To: s.upTo(), Limit: renewBatch})
		if err != nil || len(found) == 0 {
			return err
		}
		asked := 0
		err = s.Store.Commit(ctx, func(tx domain.Tx) error {
			var due []*domain.LooseShard
			for i := range found {
				there, err := domain.Find(tx, &found[i])
				if err != nil {
					return err
				}
				if there && !s.Env.Now().Before(found[i].DueAt) {
					due = append(due, &found[i])
				}
			}
			if asked = len(due); asked == 0 {
				return nil
			}
			for _, l := range due {
				l.Doomed, l.DueAt = true, s.Env.Now().Add(domain.ShardPatience)
				event := domain.Event{Topic: domain.TopicErasure, Subject: string(l.ConnectionID), Custodian: l.Custodian, Lane: string(l.ClientID)}
				if err := errors.Join(tx.Put(l), tx.Emit(event)); err != nil {
					return err
				}
			}
			return tx.Record(domain.Note(s.Env, "sweep", "shard.doomed", actor, "", string(due[0].Kind()), map[string]string{"count": strconv.Itoa(asked)}))
		})
		r.Loose += asked
		if err != nil || next == "" || asked == 0 {
			return err
		}
	}
	r.More = true
	return nil
}
