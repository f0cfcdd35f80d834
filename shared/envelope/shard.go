package envelope

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"sluis.internal/shared/domain"
)

// Under puts a shard beneath key: what it closes is closed first with AES-256-GCM under a key that HKDF-SHA-256 (RFC 5869)
// makes of the shard for that use, with the same associated data. So neither the key opens without the shard nor the shard
// without the key.
func Under(shard domain.Secret, use domain.ShardUse, key WrappingKey) WrappingKey {
	s := beneath{shard, use}
	return struct {
		closesUnder
		opensUnder
	}{closesUnder{s, key}, opensUnder{s, key}}
}

type closesUnder struct {
	beneath beneath
	key     domain.Encrypter
}

// Encrypt implements domain.Encrypter.
func (u closesUnder) Encrypt(plain, label []byte) ([]byte, error) {
	shard, err := u.beneath.aead()
	if err != nil {
		return nil, err
	}
	return u.key.Encrypt(shard.Seal(nil, nil, plain, label), label)
}

type opensUnder struct {
	beneath beneath
	key     domain.Decrypter
}

// Decrypt implements domain.Decrypter.
func (u opensUnder) Decrypt(sealed, label []byte) ([]byte, error) {
	shard, err := u.beneath.aead()
	if err != nil {
		return nil, err
	}
	inside, err := u.key.Decrypt(sealed, label)
	if err != nil {
		return nil, err
	}
	return shard.Open(nil, nil, inside, label)
}

// beneath is a shard for one use.
type beneath struct {
	shard domain.Secret
	use   domain.ShardUse
}

// aead is the cipher of the shard; it puts a random nonce of 96 bits before what it closes.
func (u beneath) aead() (cipher.AEAD, error) {
	if u.shard.Len() != domain.ShardSize {
		return nil, fmt.Errorf("using shard: want %d bytes, have %d", domain.ShardSize, u.shard.Len())
	}
	key, err := hkdf.Key(sha256.New, u.shard.Reveal(), nil, "sluis/shard/v1/"+string(u.use), 32)
	if err != nil {
		return nil, fmt.Errorf("using shard: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("using shard: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Under is the same Sealer over a credential's shard, without which nobody opens what it closes.
func (s *Sealer) Under(shard domain.Secret) *Sealer {
	return &Sealer{closesUnder{beneath{shard, domain.ShardCredential}, s.outer}}
}

// Under is the same Opener over a credential's shard.
func (o *Opener) Under(shard domain.Secret) *Opener {
	return &Opener{opensUnder{beneath{shard, domain.ShardCredential}, o.outer}, o.inner}
}

// shards finds the shards of keysets for the calls of one act.
type shards struct {
	from domain.ShardReader
	ctx  context.Context
}

func (s shards) in(ctx context.Context) shards { return shards{s.from, ctx} }

// over calls do with a keyset's wrapping key over its shard. Without the shard it fails with domain.ErrShardGone.
func (s shards) over(kek WrappingKey, id domain.ShardID, do func(WrappingKey) error) error {
	if id == "" {
		return domain.ErrShardGone
	}
	ctx := s.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	shard, err := s.from.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("getting the shard of a keyset: %w", err)
	}
	defer shard.Wipe()
	return do(Under(shard, domain.ShardData, kek))
}
