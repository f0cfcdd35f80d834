package sweep

import (
	"context"
	"errors"

	"sluis.internal/shared/domain"
)

// warn tells clients of keys that are about to end, each once: that it was told, and the notice, are one commit.
func (s *Service) warn(ctx context.Context, r *Report) error {
	found, next, err := domain.List[domain.APIKey](ctx, s.Store, domain.Query{Index: "keys_to_warn", To: s.upTo(), Limit: batchSize})
	if err != nil {
		return err
	}
	var failures error
	for i := range found {
		switch err := s.warnOf(ctx, found[i].ID); {
		case err == nil:
			r.Warned++
		case !errors.Is(err, errNothing):
			failures = errors.Join(failures, err)
		}
	}
	r.More = r.More || next != ""
	return failures
}

func (s *Service) warnOf(ctx context.Context, id domain.KeyID) error {
	return s.Store.Commit(ctx, func(tx domain.Tx) error {
		k := &domain.APIKey{ID: id}
		if err := tx.Get(k); err != nil {
			return err
		}
		now := s.Env.Now()
		if k.WarnAt.IsZero() || now.Before(k.WarnAt) {
			return errNothing // somebody was faster, or it was replaced or revoked
		}
		n := domain.NewNotice(s.Env, k.ClientID, domain.NoticeKeyExpiring, k.Key(), string(k.State))
		k.WarnAt = domain.Time{}
		if err := errors.Join(tx.Put(k), n.Raise(tx)); err != nil {
			return err
		}
		return tx.Record(domain.Note(s.Env, "sweep", "key.warned", actor, k.ClientID, k.Key(),
			map[string]string{"notice_id": n.Key(), "expires_at": k.ExpiresAt.String()}))
	})
}
