package envelope

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// keyring unwraps keysets and remembers them for a while.
type keyring struct {
	*memory[tink.AEAD]
}

func newKeyring(env domain.Env) *keyring { return &keyring{newMemory[tink.AEAD](env)} }

// keysetLabel ties a wrapped keyset to its connection.
func keysetLabel(k *domain.DataKey) []byte {
	return domain.Name("sluis/portfolio/v1", string(k.ClientID), string(k.ConsentID), string(k.ConnectionID))
}

// keyset returns k unwrapped by the portfolio key and its shard. The memory goes by all that k says, so that a keyset
// presented under another connection, consent, client or shard is unwrapped anew, and refused.
func (r *keyring) keyset(kek tink.AEAD, s shards, k *domain.DataKey) (tink.AEAD, error) {
	if len(k.Wrapped) == 0 || k.ConnectionID == "" {
		return nil, fmt.Errorf("unwrapping keyset: %w", ErrSealed)
	}
	label, wrapped, id := keysetLabel(k), bytes.Clone(k.Wrapped), k.Shard
	return r.get(keysetName(domain.Name(string(label), string(id)), wrapped), k.ConnectionID, func() (key tink.AEAD, err error) {
		err = s.over(kek, id, func(kek WrappingKey) error {
			key, err = unwrapKeyset(kek, wrapped, label)
			return err
		})
		return key, err
	})
}

func (r *keyring) unwrap(kek tink.AEAD, label, wrapped []byte, owner domain.ConnectionID) (tink.AEAD, error) {
	return r.get(keysetName(label, wrapped), owner, func() (tink.AEAD, error) { return unwrapKeyset(kek, wrapped, label) })
}

// keysetName is what a keyset is remembered by.
func keysetName(label, wrapped []byte) [sha256.Size]byte {
	return sha256.Sum256(domain.Name(string(label), string(wrapped)))
}

// newKeyset makes AES-256-GCM keys, wrapped and tied to label.
func newKeyset(kek tink.AEAD, label []byte) (handle *keyset.Handle, wrapped []byte, err error) {
	if handle, err = keyset.NewHandle(aead.AES256GCMKeyTemplate()); err != nil {
		return nil, nil, fmt.Errorf("making data key: %w", err)
	}
	var out bytes.Buffer
	w := &witness{AEAD: kek}
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&out), w, label); err != nil {
		if w.err != nil {
			err = w.err
		}
		return nil, nil, fmt.Errorf("wrapping data key: %w", err)
	}
	return handle, out.Bytes(), nil
}

func unwrapKeyset(kek tink.AEAD, wrapped, label []byte) (tink.AEAD, error) {
	// Tink keeps no cause, so the witness does: a KMS out of reach must not look like an altered keyset.
	w := &witness{AEAD: kek}
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), w, label)
	if err != nil {
		return nil, shut("unwrapping keyset", ErrSealed, w.err)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("reading keyset: %w", err)
	}
	return key, nil
}

// witness remembers why the key it stands before refused.
type witness struct {
	tink.AEAD
	err error
}

func (w *witness) Decrypt(ciphertext, label []byte) (plain []byte, err error) {
	plain, w.err = w.AEAD.Decrypt(ciphertext, label)
	return plain, w.err
}

func (w *witness) Encrypt(plain, label []byte) (ciphertext []byte, err error) {
	ciphertext, w.err = w.AEAD.Encrypt(plain, label)
	return ciphertext, w.err
}

// readOnly makes a tink.AEAD of an opening half.
type readOnly struct{ domain.Decrypter }

func (readOnly) Encrypt(_, _ []byte) ([]byte, error) {
	return nil, errors.New("closing: this key only opens")
}
