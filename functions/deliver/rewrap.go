package deliver

import (
	"bytes"
	"context"
	"fmt"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// rewrap looks whether an older version of the webhook key closed the endpoint's secrets, and closes them anew if so.
// The keys are asked outside of the transaction: a secret that was changed or removed meanwhile stays as it is then.
func (s *Service) rewrap(ctx context.Context, id domain.EndpointID) error {
	ep := &domain.Endpoint{ID: id}
	if err := s.Store.Get(ctx, ep); err != nil {
		return domain.IgnoreNotFound(err)
	}
	fresh := map[string][]byte{}
	for _, sealed := range [][]byte{ep.Secret, ep.Previous} {
		if len(sealed) == 0 {
			continue
		}
		again, err := s.Renew.Rewrap(sealed, envelope.WebhookLabel(ep))
		if err != nil {
			return fmt.Errorf("closing webhook secret anew: %w", err)
		}
		if again != nil {
			fresh[string(sealed)] = again
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return s.Store.Commit(ctx, func(tx domain.Tx) error {
		now := &domain.Endpoint{ID: id}
		if err := tx.Get(now); err != nil {
			return domain.IgnoreNotFound(err)
		}
		before := *now
		for _, sealed := range []*[]byte{&now.Secret, &now.Previous} {
			if again := fresh[string(*sealed)]; again != nil {
				*sealed = again
			}
		}
		if bytes.Equal(now.Secret, before.Secret) && bytes.Equal(now.Previous, before.Previous) {
			return nil
		}
		if err := tx.Put(now); err != nil {
			return err
		}
		return tx.Record(domain.Note(s.Env, function, "endpoint.secret_rewrapped", system, now.ClientID, now.Key(), nil))
	})
}
