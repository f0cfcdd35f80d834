package backendtest

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"sluis.internal/shared/domain"
)

// Shards is the contract that every keeper of shards passes: domain.Shards. open opens the one at a place, which is an
// empty directory's path at first; opened again, or twice at once, the same shards are there, unless forgets says that the
// keeper remembers nothing beyond its process.
func Shards(t *testing.T, forgets bool, open func(t *testing.T, place string) domain.Shards) {
	t.Run("kept until destroyed", func(t *testing.T) { shardLife(t, open(t, t.TempDir())) })
	t.Run("names", func(t *testing.T) { shardNames(t, open(t, t.TempDir())) })
	t.Run("at once", func(t *testing.T) { shardsAtOnce(t, open(t, t.TempDir())) })
	if !forgets {
		t.Run("opened again", func(t *testing.T) { shardsAgain(t, open) })
	}
}

func newShard() domain.ShardID { return domain.NewID[domain.ShardID](domain.Env{}) }

// made makes a shard and gives what it is.
func made(t *testing.T, s domain.Shards, id domain.ShardID) []byte {
	t.Helper()
	bits, err := s.Make(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if bits.Len() != domain.ShardSize || bytes.Equal(bits.Reveal(), make([]byte, domain.ShardSize)) {
		t.Fatalf("Make gives %d bytes, or nothing but zeroes", bits.Len())
	}
	return bytes.Clone(bits.Reveal())
}

// holds checks that the shard is what it should be; nil means that it is gone.
func holds(t *testing.T, s domain.Shards, id domain.ShardID, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), id)
	switch {
	case want == nil && !errors.Is(err, domain.ErrShardGone):
		t.Errorf("Get of a shard that is gone: %v", err)
	case want != nil && (err != nil || !bytes.Equal(got.Reveal(), want)):
		t.Errorf("Get gives other bytes, or %v", err)
	}
}

func shardLife(t *testing.T, s domain.Shards) {
	one, other := newShard(), newShard()
	holds(t, s, one, nil)
	bits, more := made(t, s, one), made(t, s, other)
	if bytes.Equal(bits, more) {
		t.Error("two shards are the same")
	}
	if _, err := s.Make(t.Context(), one); domain.KindOf(err) != domain.Conflict {
		t.Errorf("made twice: %v", err)
	}
	got, err := s.Get(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	got.Wipe() // the caller's own copy
	holds(t, s, one, bits)
	for range 2 {
		if err := s.Destroy(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		holds(t, s, one, nil)
	}
	holds(t, s, other, more)
	if err := s.Destroy(t.Context(), newShard()); err != nil {
		t.Errorf("destroying one that never was: %v", err)
	}
	if again := made(t, s, one); bytes.Equal(again, bits) {
		t.Error("a shard that was destroyed came back")
	}
}

func shardNames(t *testing.T, s domain.Shards) {
	for _, id := range []domain.ShardID{"", ".", "..", "../shr_x", "shr_", "shr_/../../x", newShard() + "x", "cred_0123456789abcdefghjkmnpqrs"} {
		if _, err := s.Make(t.Context(), id); err == nil {
			t.Errorf("Make takes %q", id)
		}
		if _, err := s.Get(t.Context(), id); err == nil || errors.Is(err, domain.ErrShardGone) {
			t.Errorf("Get takes %q: %v", id, err)
		}
		if err := s.Destroy(t.Context(), id); err == nil {
			t.Errorf("Destroy takes %q", id)
		}
	}
}

// shardsAtOnce has many make the same shard, of whom one succeeds, and then destroy it.
func shardsAtOnce(t *testing.T, s domain.Shards) {
	id := newShard()
	results := make(chan domain.Secret, 8)
	var group sync.WaitGroup
	for range cap(results) {
		group.Go(func() {
			if bits, err := s.Make(t.Context(), id); err == nil {
				results <- bits
			} else if domain.KindOf(err) != domain.Conflict {
				t.Errorf("making at once: %v", err)
			}
		})
	}
	group.Wait()
	if len(results) != 1 {
		t.Fatalf("%d made the same shard", len(results))
	}
	holds(t, s, id, (<-results).Reveal())
	for range cap(results) {
		group.Go(func() {
			if err := s.Destroy(t.Context(), id); err != nil {
				t.Errorf("destroying at once: %v", err)
			}
		})
	}
	group.Wait()
	holds(t, s, id, nil)
}

func shardsAgain(t *testing.T, open func(t *testing.T, place string) domain.Shards) {
	place, kept, gone := t.TempDir(), newShard(), newShard()
	first := open(t, place)
	bits := made(t, first, kept)
	made(t, first, gone)
	if err := first.Destroy(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	second := open(t, place)
	holds(t, second, kept, bits)
	holds(t, second, gone, nil)
	if err := second.Destroy(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	holds(t, first, kept, nil)
}
