package envelope

import (
	"bytes"
	"errors"
	"testing"

	kept "sluis.internal/shared/backend/memory"
	"sluis.internal/shared/domain"
)

// shardKeeper keeps the shards of this package's tests.
var shardKeeper kept.Shards

func newShard(t testing.TB) (domain.ShardID, domain.Secret) {
	t.Helper()
	id := domain.NewID[domain.ShardID](domain.Env{})
	shard, err := shardKeeper.Make(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return id, shard
}

func TestUnderBindsKeyShardUseAndLabel(t *testing.T) {
	_, shard := newShard(t)
	_, other := newShard(t)
	key, label := newAEAD(t), []byte("label")
	closes := Under(shard, domain.ShardSession, key)
	sealed, err := closes.Encrypt([]byte(canary), label)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := closes.Encrypt([]byte(canary), label); err != nil || bytes.Equal(again, sealed) {
		t.Errorf("closed twice it looks the same, %v", err)
	}
	if plain, err := closes.Decrypt(sealed, label); err != nil || string(plain) != canary {
		t.Errorf("Decrypt gives %d bytes, %v", len(plain), err)
	}
	inside, err := key.Decrypt(sealed, label) // whoever has the key alone
	if err != nil || bytes.Contains(inside, []byte(canary)) {
		t.Errorf("without the shard the key shows it, %v", err)
	}
	for name, c := range map[string]struct {
		key   WrappingKey
		label string
	}{
		"another shard": {Under(other, domain.ShardSession, key), "label"},
		"another use":   {Under(shard, domain.ShardData, key), "label"},
		"another key":   {Under(shard, domain.ShardSession, newAEAD(t)), "label"},
		"another label": {closes, "other"},
		"no shard":      {Under(domain.Secret{}, domain.ShardSession, key), "label"},
		"a short shard": {Under(domain.NewSecret(make([]byte, 16)), domain.ShardSession, key), "label"},
	} {
		if plain, err := c.key.Decrypt(sealed, []byte(c.label)); err == nil {
			t.Errorf("%s opens %d bytes", name, len(plain))
		}
	}
	if _, err := Under(domain.Secret{}, domain.ShardSession, key).Encrypt([]byte("x"), label); err == nil {
		t.Error("it closes under no shard")
	}
}

func TestCredentialNeedsItsShard(t *testing.T) {
	outer, jwe := newAEAD(t), sealTest(t, map[string]string{"username": "1", "password": canary})
	_, shard := newShard(t)
	_, other := newShard(t)
	sealed, err := NewSealer(outer).Under(shard).Seal(jwe, testBind)
	if err != nil {
		t.Fatal(err)
	}
	o := NewOpener(outer, innerKeys)
	fields, err := o.Under(shard).OpenCredentials(sealed, testKid(), testBind)
	if err != nil || string(fields["password"].Reveal()) != canary {
		t.Fatalf("with its shard it does not open: %v", err)
	}
	for name, opener := range map[string]*Opener{"no shard": o, "another": o.Under(other), "an empty one": o.Under(domain.Secret{})} {
		if _, err := opener.OpenCredentials(sealed, testKid(), testBind); err == nil {
			t.Errorf("with %s it opens", name)
		}
	}
}

// TestKeysetNeedsItsShard destroys the shard: what was opened before opens until it is forgotten, and then never again,
// whatever copies there are; and a keyset that names another shard, or none, does not open.
func TestKeysetNeedsItsShard(t *testing.T) {
	kek := newAEAD(t)
	c, r := NewCloser(kek, &shardKeeper, domain.Env{}), NewReader(kek, &shardKeeper, domain.Env{})
	k := newDataKey(t, c, "conn_1")
	sealed := closePart(t, c, k, []byte(canary))
	id, _ := newShard(t)
	moved, none := *k, *k
	moved.Shard, none.Shard = id, ""
	if _, err := r.Open(&moved, "positions", "part1", sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("under another shard: %v", err)
	}
	if _, err := r.Open(&none, "positions", "part1", sealed); !errors.Is(err, domain.ErrShardGone) {
		t.Errorf("under no shard: %v", err)
	}
	if plain, err := r.Open(k, "positions", "part1", sealed); err != nil || string(plain) != canary {
		t.Fatalf("under its own: %v", err)
	}
	if err := shardKeeper.Destroy(t.Context(), k.Shard); err != nil {
		t.Fatal(err)
	}
	r.Forget("conn_1")
	c.Forget("conn_1")
	if _, err := r.Open(k, "positions", "part1", sealed); !errors.Is(err, domain.ErrShardGone) {
		t.Errorf("after Destroy: %v", err)
	}
	if err := c.Usable(k); !errors.Is(err, domain.ErrShardGone) {
		t.Errorf("Usable after Destroy: %v", err)
	}
	if _, err := unwrapKeyset(kek, k.Wrapped, keysetLabel(k)); err == nil {
		t.Error("the portfolio key alone unwraps a keyset")
	}
}
