// Package memory keeps things for tests, and only as long as their process lives.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"

	"sluis.internal/shared/domain"
)

// Shards keeps shards. The zero value is ready, and safe for concurrent use. Fault, where it is set, is asked before each
// call takes effect (make, get, destroy) and after it did (made, got, destroyed): its error is the call's.
type Shards struct {
	Fault func(point string, id domain.ShardID) error

	mu   sync.Mutex
	bits map[domain.ShardID][]byte
}

// Make implements domain.ShardMaker.
func (s *Shards) Make(_ context.Context, id domain.ShardID) (made domain.Secret, err error) {
	err = s.call("make", "made", id, func() error {
		if s.bits[id] != nil {
			return &domain.Error{Kind: domain.Conflict, Code: "shard_exists", Message: "there is such a shard"}
		}
		bits := make([]byte, domain.ShardSize)
		rand.Read(bits) // never fails
		if s.bits == nil {
			s.bits = map[domain.ShardID][]byte{}
		}
		s.bits[id], made = bits, domain.NewSecret(bytes.Clone(bits))
		return nil
	})
	return made, err
}

// Get implements domain.ShardReader.
func (s *Shards) Get(_ context.Context, id domain.ShardID) (got domain.Secret, err error) {
	err = s.call("get", "got", id, func() error {
		if s.bits[id] == nil {
			return domain.ErrShardGone
		}
		got = domain.NewSecret(bytes.Clone(s.bits[id]))
		return nil
	})
	return got, err
}

// Destroy implements domain.ShardDestroyer.
func (s *Shards) Destroy(_ context.Context, id domain.ShardID) error {
	return s.call("destroy", "destroyed", id, func() error {
		clear(s.bits[id])
		delete(s.bits, id)
		return nil
	})
}

// call has one thing done between the two points at which a process may die.
func (s *Shards) call(before, after string, id domain.ShardID, do func() error) error {
	if _, err := domain.ParseID[domain.ShardID](string(id)); err != nil {
		return err
	}
	if s.Fault != nil {
		if err := s.Fault(before, id); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := do()
	s.mu.Unlock()
	if err == nil && s.Fault != nil {
		err = s.Fault(after, id)
	}
	return err
}

// IDs are the names of the shards that there are, in no order.
func (s *Shards) IDs() (all []domain.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.bits {
		all = append(all, id)
	}
	return all
}
