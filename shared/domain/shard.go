package domain

import (
	"context"
	"errors"
	"time"
)

// A shard is 256 random bits that lie outside whatever is backed up. What is closed under one opens with it alone, and so
// whoever destroys it makes every copy unreadable: those in backups, too, whatever keys there are (GDPR Article 17). Powers
// over shards are split by type: who closes makes, who opens reads, erasure destroys.

// ShardSize is the length of a shard, in bytes.
const ShardSize = 32

// ShardMaker makes shards.
type ShardMaker interface {
	// Make makes the shard of that name, durable before it is returned. A name whose shard exists is a Conflict. The caller
	// wipes it.
	Make(ctx context.Context, id ShardID) (Secret, error)
}

// ShardReader reads shards.
type ShardReader interface {
	// Get gives the shard of that name, or ErrShardGone. The caller wipes it.
	Get(ctx context.Context, id ShardID) (Secret, error)
}

// ShardDestroyer destroys shards.
type ShardDestroyer interface {
	// Destroy makes the shard unreadable for good, durably. One that is not there is destroyed.
	Destroy(ctx context.Context, id ShardID) error
}

// Shards is all powers over shards in one hand, as one process on one machine has them.
type Shards interface {
	ShardMaker
	ShardReader
	ShardDestroyer
}

// ErrShardGone is what a shard that was destroyed, or lost, is answered with.
var ErrShardGone = &Error{Kind: Gone, Code: "shard_gone", Message: "a key to this was erased, or lost; read the custodian again, or enter the credentials again"}

// ShardUse is what a shard is for.
type ShardUse string

const (
	ShardCredential ShardUse = "credential" // a credential
	ShardSession    ShardUse = "session"    // states at the bank of the sessions that a credential began
	ShardData       ShardUse = "data_key"   // a connection's keyset
)

// LooseShard is a shard that no document needs: one that is about to be made for a document that is still to come, or one
// that is to be destroyed because its document is gone. It is noted before the shard is made, taken off by the commit
// that needs it, and noted again by the commit that needs it no more: so no shard is ever forgotten.
type LooseShard struct {
	ID           ShardID      `json:"id"`
	Use          ShardUse     `json:"use"`
	ClientID     ClientID     `json:"client_id"`
	ConsentID    ConsentID    `json:"consent_id"`
	ConnectionID ConnectionID `json:"connection_id"`
	Custodian    CustodianID  `json:"custodian"`
	Doomed       bool         `json:"doomed,omitempty"` // nobody may take it any more
	CreatedAt    Time         `json:"created_at"`
	DueAt        Time         `json:"due_at"` // when sweep looks whether it is still there
}

func (*LooseShard) Kind() DocumentKind { return "loose_shard" }
func (l *LooseShard) Key() string      { return string(l.ID) }

// ShardPatience is how long a shard may be loose before sweep looks: longer than any commit takes that could need it.
const ShardPatience = time.Hour

// LoosenShard notes within tx a shard of what b binds that no document needs. A doomed one is to be destroyed; any other
// is about to be made.
func LoosenShard(e Env, tx Tx, b Binding, use ShardUse, id ShardID, doomed bool) error {
	if id == "" {
		return nil
	}
	now := e.Now()
	return tx.Put(&LooseShard{ID: id, Use: use, ClientID: b.ClientID, ConsentID: b.ConsentID, ConnectionID: b.ConnectionID,
		Custodian: b.Custodian, Doomed: doomed, CreatedAt: now, DueAt: now.Add(ShardPatience)})
}

// TakeShards takes loose shards within tx for the documents that the same commit writes. One that was doomed meanwhile, by
// an erasure, is a Conflict.
func TakeShards(tx Tx, ids ...ShardID) error {
	loose := make([]*LooseShard, len(ids))
	for i, id := range ids {
		loose[i] = &LooseShard{ID: id}
		there, err := Find(tx, loose[i])
		if err != nil {
			return err
		}
		if !there || loose[i].Doomed {
			return errShardTaken
		}
	}
	var errs []error
	for _, l := range loose {
		errs = append(errs, tx.Delete(l))
	}
	return errors.Join(errs...)
}

var errShardTaken = &Error{Kind: Unavailable, Code: "erased_meanwhile", RetryAfter: time.Second, Message: "something was erased meanwhile; try again"}

// ReplaceCredential puts within tx a connection's credential, whose shards were announced and made, in the place of the old
// one, if there was any, and has the old one's shards destroyed.
func ReplaceCredential(e Env, tx Tx, old, fresh *Credential) error {
	if err := TakeShards(tx, fresh.Shard, fresh.SessionShard); err != nil {
		return err
	}
	if old == nil {
		return tx.Put(fresh)
	}
	return errors.Join(tx.Put(fresh), LoosenShard(e, tx, old.Binding(), ShardCredential, old.Shard, true),
		LoosenShard(e, tx, old.Binding(), ShardSession, old.SessionShard, true),
		tx.Emit(Event{Topic: TopicErasure, Subject: string(old.ConnectionID), Custodian: old.Custodian, Lane: string(old.ClientID)}))
}
