package envelope

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// Bounds of the cache of unwrapped keysets.
const (
	KeysetLife = 10 * time.Minute // how long an erased keyset may still be in the memory of a process
	MaxKeysets = 256
)

// keyring unwraps connections' keysets and remembers them for a while, because the portfolio key may be a KMS that
// bills and limits every call. Requests for one keyset at once unwrap it once.
type keyring struct {
	env  domain.Env
	mu   sync.Mutex
	held map[[sha256.Size]byte]*held
}

// held is one keyset, unwrapped or about to be.
type held struct {
	connection domain.ConnectionID
	until      domain.Time
	timer      *time.Timer // drops it in time even if nobody asks again
	unwrap     func() (tink.AEAD, error)
}

func newKeyring(env domain.Env) *keyring {
	return &keyring{env: env, held: map[[sha256.Size]byte]*held{}}
}

// keysetLabel ties a wrapped keyset to its connection.
func keysetLabel(k *domain.DataKey) []byte {
	return domain.Name("sluis/portfolio/v1", string(k.ClientID), string(k.ConsentID), string(k.ConnectionID))
}

// keyset returns k unwrapped by the portfolio key. The memory goes by all that k says, so that a keyset presented under another
// connection, consent or client is unwrapped anew, and refused.
func (r *keyring) keyset(kek tink.AEAD, k *domain.DataKey) (tink.AEAD, error) {
	if len(k.Wrapped) == 0 || k.ConnectionID == "" {
		return nil, fmt.Errorf("unwrapping keyset: %w", ErrSealed)
	}
	name := sha256.Sum256(append(keysetLabel(k), k.Wrapped...))
	h := r.hold(name, kek, k)
	key, err := h.unwrap()
	if err != nil {
		r.drop(name, h)
		return nil, err
	}
	return key, nil
}

func (r *keyring) hold(name [sha256.Size]byte, kek tink.AEAD, k *domain.DataKey) *held {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.env.Now()
	if h, ok := r.held[name]; ok && now.Before(h.until) {
		return h
	}
	r.makeRoom(now)
	h := &held{connection: k.ConnectionID, until: now.Add(KeysetLife)}
	wrapped, label := bytes.Clone(k.Wrapped), keysetLabel(k)
	h.unwrap = sync.OnceValues(func() (tink.AEAD, error) { return unwrapKeyset(kek, wrapped, label) })
	h.timer = time.AfterFunc(KeysetLife, func() { r.drop(name, h) })
	r.held[name] = h
	return h
}

// makeRoom drops what is over and, if that is not enough, what will be over first.
func (r *keyring) makeRoom(now domain.Time) {
	for len(r.held) > 0 {
		var oldest [sha256.Size]byte
		var first *held
		for name, h := range r.held {
			if first == nil || h.until.Before(first.until) {
				oldest, first = name, h
			}
		}
		if len(r.held) < MaxKeysets && now.Before(first.until) {
			return
		}
		first.timer.Stop()
		delete(r.held, oldest)
	}
}

func (r *keyring) drop(name [sha256.Size]byte, h *held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.timer.Stop()
	if r.held[name] == h {
		delete(r.held, name)
	}
}

// forget drops every keyset of the connection.
func (r *keyring) forget(connection domain.ConnectionID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, h := range r.held {
		if h.connection == connection {
			h.timer.Stop()
			delete(r.held, name)
		}
	}
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
