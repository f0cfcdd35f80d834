package envelope

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"sync"

	"sluis.internal/shared/domain"
)

// MaxPlain is the largest content of a part once it is decompressed, in bytes.
const MaxPlain = 8 << 20

// ErrPartTooLarge is the refusal of more than MaxPlain bytes, before closing or while decompressing.
var ErrPartTooLarge = &domain.Error{Kind: domain.TooLarge, Code: "part_too_large", Message: "want at most 8 MiB in a part; split it"}

// WrappingKey is both halves of a key that wraps data keys: to close more under an existing one, it must be unwrapped first.
type WrappingKey interface {
	domain.Encrypter
	domain.Decrypter
}

// Closer makes a connection's keyset and closes what was read under it. It has no way to open what it closed.
// Extraction has one. Safe for concurrent use.
type Closer struct {
	ring   *keyring
	kek    WrappingKey
	shards shards
}

// NewCloser makes a Closer under the portfolio key.
func NewCloser(kek WrappingKey, from domain.ShardReader, env domain.Env) *Closer {
	return &Closer{newKeyring(env), kek, shards{from: from}}
}

// NewDataKey makes the keyset of a connection: AES-256-GCM, wrapped by its shard and the portfolio key, and tied to client,
// consent and connection. id and shard are what a domain.ShardMaker made for it.
func (c *Closer) NewDataKey(b domain.Binding, id domain.ShardID, shard domain.Secret) (*domain.DataKey, error) {
	if b.ClientID == "" || b.ConsentID == "" || b.ConnectionID == "" {
		return nil, fmt.Errorf("making data key: want client, consent and connection")
	}
	k := &domain.DataKey{ConnectionID: b.ConnectionID, ClientID: b.ClientID, ConsentID: b.ConsentID, Custodian: b.Custodian,
		Shard: id, CreatedAt: c.ring.env.Now()}
	k.RewrapAt = k.CreatedAt.Add(domain.RewrapEvery)
	var err error
	_, k.Wrapped, err = newKeyset(Under(shard, domain.ShardData, c.kek), keysetLabel(k))
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Usable is nil if the connection's keyset can be used, or else says why not: domain.ErrShardGone where its shard is lost.
func (c *Closer) Usable(k *domain.DataKey) error {
	_, err := c.ring.keyset(c.kek, c.shards, k)
	return err
}

// Close compresses plain and closes it under the connection's keyset, bound to the connection, to what it is (a
// domain.Product, or a name such as "summary") and to the identifier of the document it will lie in.
func (c *Closer) Close(k *domain.DataKey, what, id string, plain []byte) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, ErrPartTooLarge
	}
	key, err := c.ring.keyset(c.kek, c.shards, k)
	if err != nil {
		return nil, err
	}
	packed, err := pack(plain)
	if err != nil {
		return nil, fmt.Errorf("compressing part: %w", err)
	}
	sealed, err := key.Encrypt(packed, partLabel(k, what, id))
	if err != nil {
		return nil, fmt.Errorf("closing part: %w", err)
	}
	return sealed, nil
}

// compressors are kept, as making one takes a megabyte.
var compressors = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic("making a compressor: " + err.Error()) // the level is a constant
	}
	return z
}}

// blank overwrites what a compressor remembers: a block that it looks back to, and one that it fills, of 64 KiB each.
var blank [128 << 10]byte

// pack compresses plain. The compressor keeps nothing of it.
func pack(plain []byte) ([]byte, error) {
	z := compressors.Get().(*gzip.Writer)
	defer func() {
		z.Reset(io.Discard)
		if _, err := z.Write(blank[:]); err == nil {
			compressors.Put(z)
		}
	}()
	var packed bytes.Buffer
	z.Reset(&packed)
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	err := z.Close()
	return packed.Bytes(), err
}

// Forget drops the connection's keyset from memory, as erasure wants.
func (c *Closer) Forget(connection domain.ConnectionID) { c.ring.forget(connection) }

func partLabel(k *domain.DataKey, what, id string) []byte {
	return domain.Name("sluis/part/v1", string(k.ConnectionID), what, id)
}

// Reader opens what a Closer closed, and can close nothing. The portfolio function has one. Safe for concurrent use.
type Reader struct {
	ring   *keyring
	kek    readOnly
	shards shards
}

// NewReader makes a Reader under the opening half of the portfolio key.
func NewReader(kek domain.Decrypter, from domain.ShardReader, env domain.Env) *Reader {
	return &Reader{newKeyring(env), readOnly{kek}, shards{from: from}}
}

// Open opens a part and decompresses it, up to MaxPlain bytes. what and id are those given to Close.
func (r *Reader) Open(k *domain.DataKey, what, id string, sealed []byte) ([]byte, error) {
	key, err := r.ring.keyset(r.kek, r.shards, k)
	if err != nil {
		return nil, err
	}
	packed, err := key.Decrypt(sealed, partLabel(k, what, id))
	if err != nil {
		return nil, shut("opening part", ErrSealed, err)
	}
	return unpack(packed)
}

// Forget drops the connection's keyset from memory, as erasure wants.
func (r *Reader) Forget(connection domain.ConnectionID) { r.ring.forget(connection) }

// unpack decompresses one gzip stream and nothing after it.
func unpack(packed []byte) ([]byte, error) {
	source := bytes.NewReader(packed)
	z, err := gzip.NewReader(source)
	if err != nil {
		return nil, shut("decompressing part", ErrSealed, err)
	}
	z.Multistream(false)
	plain, err := io.ReadAll(io.LimitReader(z, MaxPlain+1))
	switch {
	case err != nil:
		return nil, shut("decompressing part", ErrSealed, err)
	case len(plain) > MaxPlain:
		return nil, fmt.Errorf("decompressing part: %w", ErrPartTooLarge)
	case source.Len() > 0:
		return nil, shut("decompressing part", ErrSealed, nil)
	}
	return plain, nil
}
