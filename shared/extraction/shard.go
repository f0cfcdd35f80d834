package extraction

import (
	"context"
	"errors"
	"fmt"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// Shards are the powers over shards that extraction has: it makes those of connections' keysets, and reads.
type Shards interface {
	domain.ShardMaker
	domain.ShardReader
}

// shard gets a shard. A document of an earlier build names none: its credential is to be entered again, its data is read
// again, as where a shard was lost.
func (e *Engine) shard(ctx context.Context, id domain.ShardID) (domain.Secret, error) {
	if id == "" {
		return domain.Secret{}, domain.ErrShardGone
	}
	return e.Shards.Get(ctx, id)
}

// openCredential opens both gates over the job's credential. Without the shard of its sessions there is no use in a login:
// nothing of it could be kept.
func (e *Engine) openCredential(ctx context.Context, j *job) (map[string]domain.Secret, error) {
	sessions, err := e.shard(ctx, j.credential.SessionShard)
	if err != nil {
		return nil, err
	}
	sessions.Wipe()
	shard, err := e.shard(ctx, j.credential.Shard)
	if err != nil {
		return nil, err
	}
	defer shard.Wipe()
	return e.Opener.In(ctx).Under(shard).OpenCredentials(j.credential.Sealed, j.credential.InnerKey, j.connection.Binding())
}

// unopened is what a step comes to that could not open what it needs: where a shard is gone, so is the credential.
func unopened(err error) *Failure {
	f := &Failure{Reason: domain.ReasonInternal, Unjudged: true, Retry: domain.KindOf(err) == domain.Unavailable, Err: err}
	if errors.Is(err, domain.ErrShardGone) {
		f.Reason = domain.ReasonCredentialsErased
	}
	return f
}

// lose deletes a credential that nobody can open any more, so that the investor is asked for another.
func (t *settled) lose(e domain.Env, tx domain.Tx, f *Failure) error {
	if t.credential == nil || !errors.Is(f.Err, domain.ErrShardGone) {
		return nil
	}
	c := t.credential
	return errors.Join(tx.Delete(c), domain.LoosenShard(e, tx, c.Binding(), domain.ShardCredential, c.Shard, true),
		domain.LoosenShard(e, tx, c.Binding(), domain.ShardSession, c.SessionShard, true))
}

// underState calls do with the key of a session's state, over its shard.
func (e *Engine) underState(ctx context.Context, s *domain.Session, do func(envelope.WrappingKey) error) error {
	shard, err := e.shard(ctx, s.Shard)
	if err != nil {
		return fmt.Errorf("getting the shard of a session: %w", err)
	}
	defer shard.Wipe()
	return do(envelope.Under(shard, domain.ShardSession, domain.In(ctx, e.State)))
}

// findKey finds the connection's keyset. One whose shard is gone is none: what lies under it nobody can read, so it is made
// anew, and everything is written anew.
func (r *reading) findKey(ctx context.Context) error {
	if r.key != nil {
		return nil
	}
	key := &domain.DataKey{ConnectionID: r.j.connection.ID}
	if err := r.e.Store.Get(ctx, key); err != nil {
		return domain.IgnoreNotFound(err)
	}
	shard, err := r.e.shard(ctx, key.Shard)
	switch {
	case errors.Is(err, domain.ErrShardGone):
		return nil
	case err != nil:
		return err
	}
	shard.Wipe()
	r.key = key
	return nil
}

// newDataKey makes the connection's keyset, and first its shard.
func (r *reading) newDataKey(ctx context.Context) error {
	e, b := r.e, r.j.connection.Binding()
	id := domain.NewID[domain.ShardID](e.Env)
	err := e.perform(ctx, r.j, e.act(r.j.session, "shard.announced"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		if _, err := mine(tx, r.j.session); err != nil {
			return err
		}
		return domain.LoosenShard(e.Env, tx, b, domain.ShardData, id, false)
	})
	if err != nil {
		return err
	}
	shard, err := e.Shards.Make(ctx, id)
	if err != nil {
		return err
	}
	defer shard.Wipe()
	fresh, err := e.Portfolio.In(ctx).NewDataKey(b, id, shard)
	if err != nil {
		return err
	}
	err = e.perform(ctx, r.j, e.act(r.j.session, "data_key.created"), func(tx domain.Tx, _ *domain.Consent, _ *domain.Act) error {
		if _, err := mine(tx, r.j.session); err != nil {
			return err
		}
		lost, err := domain.Maybe(tx, &domain.DataKey{ConnectionID: b.ConnectionID})
		if err != nil {
			return err
		}
		if err := domain.TakeShards(tx, id); err != nil {
			return err
		}
		if lost != nil {
			err = domain.LoosenShard(e.Env, tx, b, domain.ShardData, lost.Shard, true)
		}
		return errors.Join(err, tx.Put(fresh))
	})
	if err == nil {
		r.key = fresh
	}
	return err
}
