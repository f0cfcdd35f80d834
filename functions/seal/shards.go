package seal

import (
	"context"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// shards are the two that a credential needs: its own, and the one of the sessions that it begins. seal cannot read back
// what it made.
type shards struct {
	credential, session domain.ShardID
	bits                domain.Secret // of the credential's
}

func (s shards) wipe() { s.bits.Wipe() }

// makeShards announces the shards of a credential that is about to be sealed, and makes them. Should nothing come of it,
// they are destroyed within hours. Where the consent does not allow it, none are made: the act that needs them is refused.
func (s *Service) makeShards(ctx context.Context, c *serve.Call) (shards, error) {
	v := c.Visit
	act := domain.Act{Action: "credential.sealed", Function: "seal", ConsentID: v.ConsentID, ClientID: v.ClientID,
		InvestorRef: v.InvestorRef, ConnectionID: v.ConnectionID}
	consent, err := domain.Allowed(ctx, s.Env, s.Store, act)
	if domain.KindOf(err) == domain.Forbidden || domain.KindOf(err) == domain.NotFound {
		return shards{}, nil
	}
	if err != nil {
		return shards{}, err
	}
	made := shards{credential: domain.NewID[domain.ShardID](s.Env), session: domain.NewID[domain.ShardID](s.Env)}
	b := domain.Binding{ClientID: v.ClientID, ConsentID: v.ConsentID, ConnectionID: v.ConnectionID, Custodian: consent.Custodian}
	err = s.Store.Commit(ctx, func(tx domain.Tx) error {
		if err := domain.LoosenShard(s.Env, tx, b, domain.ShardCredential, made.credential, false); err != nil {
			return err
		}
		if err := domain.LoosenShard(s.Env, tx, b, domain.ShardSession, made.session, false); err != nil {
			return err
		}
		entry := domain.Note(s.Env, "seal", "shard.announced", v.Actor(), v.ClientID, string(v.ConnectionID), nil)
		entry.Data.ConsentID, entry.Data.ConnectionID, entry.Data.Custodian, entry.Data.Origin = v.ConsentID, v.ConnectionID, b.Custodian, c.Origin
		return tx.Record(entry)
	})
	if err != nil {
		return shards{}, err
	}
	other, err := s.Shards.Make(ctx, made.session)
	if err != nil {
		return shards{}, err
	}
	other.Wipe()
	made.bits, err = s.Shards.Make(ctx, made.credential)
	return made, err
}
