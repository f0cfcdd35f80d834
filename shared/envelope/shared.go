package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// Shared closes and opens what lives for minutes, such as the state of a session at the bank, under data keys of its own.
// One data key closes everything for as long as it is remembered, and goes along with each, wrapped: so a KMS is asked once
// in KeysetLife and not, twice and more, for each visit to a bank. What is closed stays bound to its own label. Safe for
// concurrent use.
type Shared struct {
	ring  *keyring
	kek   WrappingKey
	label []byte

	mu  sync.Mutex
	now *dataKey // closes
}

// dataKey is made once, by the first who needs it. The others wait for it, and share its failure.
type dataKey struct {
	until domain.Time
	wrap  func() (wrapped []byte, err error)
}

// NewShared makes a Shared under a key, for one use that name tells.
func NewShared(kek WrappingKey, env domain.Env, name string) *Shared {
	return &Shared{ring: newKeyring(env), kek: kek, label: domain.Name("sluis/shared/v1", name)}
}

// Encrypt implements domain.Encrypter: the length of the wrapped data key (2 bytes, big-endian), that key, and then what
// it closed, with AES-256-GCM.
func (s *Shared) Encrypt(plain, label []byte) ([]byte, error) {
	key, wrapped, err := s.current()
	if err != nil {
		return nil, err
	}
	sealed, err := key.Encrypt(plain, label)
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(len(wrapped)))
	return append(append(out, wrapped...), sealed...), nil
}

// Decrypt implements domain.Decrypter.
func (s *Shared) Decrypt(sealed, label []byte) ([]byte, error) {
	if len(sealed) < 2 {
		return nil, ErrSealed
	}
	n := int(binary.BigEndian.Uint16(sealed))
	if sealed = sealed[2:]; len(sealed) < n {
		return nil, ErrSealed
	}
	key, err := s.ring.unwrap(s.kek, s.label, bytes.Clone(sealed[:n]), "")
	if err != nil {
		return nil, err
	}
	return key.Decrypt(sealed[n:], label)
}

// current is the data key that closes now.
func (s *Shared) current() (tink.AEAD, []byte, error) {
	k := s.hold()
	wrapped, err := k.wrap()
	if err != nil {
		s.drop(k)
		return nil, nil, err
	}
	key, err := s.ring.unwrap(s.kek, s.label, wrapped, "")
	return key, wrapped, err
}

func (s *Shared) hold() *dataKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.ring.env.Now(); s.now == nil || !now.Before(s.now.until) {
		s.now = &dataKey{until: now.Add(KeysetLife), wrap: sync.OnceValues(s.fresh)}
	}
	return s.now
}

func (s *Shared) drop(k *dataKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == k {
		s.now = nil
	}
}

// fresh makes a data key. Whoever closed a state mostly opens it, so the key is remembered for that, too.
func (s *Shared) fresh() ([]byte, error) {
	handle, wrapped, err := newKeyset(s.kek, s.label)
	if err != nil {
		return nil, err
	}
	_, err = s.ring.get(keysetName(s.label, wrapped), "", func() (tink.AEAD, error) { return aead.New(handle) })
	return wrapped, err
}

// Remembering opens with d and remembers what it opened for KeysetLife: the secret that signs an endpoint's webhooks, for
// example, is wanted for each of them. What is closed anew is opened anew. Safe for concurrent use.
func Remembering(d domain.Decrypter, env domain.Env) domain.Decrypter {
	return remembering{d, newMemory[[]byte](env)}
}

type remembering struct {
	domain.Decrypter
	opened *memory[[]byte]
}

// Decrypt implements domain.Decrypter; the caller may wipe what it gets.
func (r remembering) Decrypt(sealed, label []byte) ([]byte, error) {
	name := sha256.Sum256(domain.Name(string(label), string(sealed)))
	plain, err := r.opened.get(name, "", func() ([]byte, error) { return r.Decrypter.Decrypt(sealed, label) })
	return bytes.Clone(plain), err
}
