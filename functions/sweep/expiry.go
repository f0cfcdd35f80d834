package sweep

import (
	"context"
	"errors"

	"sluis.internal/shared/domain"
)

// expire ends the consents whose time is over, granted or not.
func (s *Service) expire(ctx context.Context, r *Report) error {
	var failures error
	for _, state := range []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid} {
		found, next, err := domain.List[domain.Consent](ctx, s.Store, domain.Query{Index: "consents_by_state",
			Match: []string{string(state)}, To: s.upTo(), Limit: maxExpiries})
		if err != nil {
			return errors.Join(failures, err)
		}
		for i := range found {
			switch err := s.expireOne(ctx, &found[i]); {
			case err == nil:
				r.Expired++
			case !errors.Is(err, errNothing):
				failures = errors.Join(failures, err)
			}
		}
		r.More = r.More || next != ""
	}
	return failures
}

// expireOne ends one consent and its connection, tells the client, and has what it gave erased.
func (s *Service) expireOne(ctx context.Context, seen *domain.Consent) error {
	a := act("consent.expired", seen.ClientID, seen.ID, seen.ConnectionID)
	a.Subject, a.States, a.Late = string(seen.ID), domain.AnyConsentState, true
	return domain.Perform(ctx, s.Env, s.Store, a, func(tx domain.Tx, c *domain.Consent, _ *domain.Act) error {
		conn := &domain.Connection{ID: c.ConnectionID}
		if err := tx.Get(conn); err != nil {
			return err
		}
		if domain.ConsentMoves.Final(c.State) || s.Env.Now().Before(c.ExpiresAt) {
			return errNothing // somebody was faster
		}
		return domain.EndConsent(s.Env, tx, c, conn, domain.ConsentExpired)
	})
}
