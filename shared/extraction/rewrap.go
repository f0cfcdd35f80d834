package extraction

import (
	"bytes"
	"context"
	"errors"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// rewrap looks whether an older version of the portfolio key wrapped the connection's keyset, and wraps it anew if so.
// It touches neither credentials nor data, and needs no session.
//
// The keys are asked outside of the transaction. So there the keyset must still be wrapped as it was: one that was erased
// meanwhile stays erased, one that was made anew or wrapped anew by somebody else stays as it is.
func (e *Engine) rewrap(ctx context.Context, id domain.ConnectionID) error {
	key := &domain.DataKey{ConnectionID: id}
	if err := e.Store.Get(ctx, key); err != nil {
		return domain.IgnoreNotFound(err)
	}
	if key.Custodian != e.Custodian.ID {
		return &domain.Error{Kind: domain.Internal, Code: "custodian_foreign", Message: "this connection is another custodian's"}
	}
	act := domain.Act{Action: "data_key.rewrapped", Function: "extract", ConsentID: key.ConsentID, ClientID: key.ClientID, ConnectionID: id,
		Custodian: key.Custodian, Subject: string(id), Actor: domain.Actor{Kind: domain.ActorSystem, ID: "extract"}}
	var fresh []byte
	_, err := domain.Allowed(ctx, e.Env, e.Store, act)
	if err == nil {
		fresh, err = envelope.RewrapDataKey(e.Rewrapper, key)
	}
	if err == nil && fresh == nil || err != nil && !refused(err) {
		return err
	}
	err = domain.Perform(ctx, e.Env, e.Store, act, func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		now := &domain.DataKey{ConnectionID: id}
		if err := tx.Get(now); err != nil {
			return err
		}
		if fresh == nil || !bytes.Equal(now.Wrapped, key.Wrapped) {
			return errNothing
		}
		now.Wrapped = fresh
		return tx.Put(now)
	})
	if refused(err) || errors.Is(err, errNothing) { // a refusal is recorded by now; the next look is in a month
		return nil
	}
	return domain.IgnoreNotFound(err)
}
