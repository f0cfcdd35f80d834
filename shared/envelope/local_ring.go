package envelope

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ring is what the numbered files of one key hold, oldest first. A file may be added or removed at any time, by an
// operator or another process.
type ring[K any] struct {
	dir, name string
	fresh     func() ([]byte, error)      // makes the content of a file
	read      func([][]byte) ([]K, error) // of files, oldest first; wipes what it has read

	mu    sync.Mutex
	paths []string // as they were read
	all   []K
}

// ensure reads the files, and makes the first one where there is none.
func (r *ring[K]) ensure() error {
	files, err := ensure(r.dir, r.name, r.fresh)
	if err != nil {
		return err
	}
	for _, content := range files {
		clear(content)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.load()
}

// load reads the files, if they are others than those that were read last. The caller holds the lock.
func (r *ring[K]) load() error {
	paths, err := list(r.dir, r.name)
	if err != nil || len(paths) == 0 || slices.Equal(paths, r.paths) {
		return err
	}
	var files [][]byte
	for _, p := range paths {
		content, err := readPrivate(p)
		if err != nil {
			return err
		}
		files = append(files, content)
	}
	all, err := r.read(files)
	if err != nil {
		return fmt.Errorf("reading key %s: %w", r.name, err)
	}
	r.paths, r.all = paths, all
	return nil
}

// known are the keys as they were read last.
func (r *ring[K]) known() []K {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// now are the keys as they lie in the directory. What cannot be read leaves them as they were: they are good still.
func (r *ring[K]) now() []K {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		slog.Warn("reading local keys again: going on with those read before", "key", r.name, "error", err)
	}
	return r.all
}

func readKeysets(files [][]byte) ([]tink.AEAD, error) {
	var all []tink.AEAD
	for _, content := range files {
		handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
		clear(content)
		if err != nil {
			return nil, fmt.Errorf("the file is damaged; restore it from a copy: %w", err)
		}
		key, err := aead.New(handle)
		if err != nil {
			return nil, fmt.Errorf("the file is damaged; restore it from a copy: %w", err)
		}
		all = append(all, tagged{key, handle.KeysetInfo().GetPrimaryKeyId()})
	}
	return all, nil
}

// tagged is a key with the number that Tink begins with whatever it closes.
type tagged struct {
	tink.AEAD
	id uint32
}

func readInner(files [][]byte) ([]*rsa.PrivateKey, error) {
	var all []*rsa.PrivateKey
	for _, content := range files {
		key, ok := readPEM(content).(*rsa.PrivateKey)
		clear(content)
		if !ok || key.N.BitLen() != innerBits {
			return nil, fmt.Errorf("want RSA-%d; the file is damaged, restore it from a copy", innerBits)
		}
		all = append(all, key)
	}
	return all, nil
}

func readCertificates(files [][]byte) ([]crypto.Signer, error) {
	var all []crypto.Signer
	for _, content := range files {
		key, ok := readPEM(content).(ed25519.PrivateKey)
		clear(content)
		if !ok {
			return nil, errors.New("want Ed25519; the file is damaged, restore it from a copy")
		}
		all = append(all, key)
	}
	return all, nil
}

// keys are the keys of one name: the newest closes, all open.
type keys struct{ ring[tink.AEAD] }

var errNoKey = errors.New("using local key: there is no key of that name")

func (k *keys) Encrypt(plain, label []byte) ([]byte, error) {
	if k == nil {
		return nil, errNoKey
	}
	all := k.known()
	return all[len(all)-1].Encrypt(plain, label)
}

// Decrypt opens what any of the keys closed. What none opens may have been closed under a key that another process knows
// already, so that the files are looked at again.
func (k *keys) Decrypt(sealed, label []byte) ([]byte, error) {
	if k == nil {
		return nil, errNoKey
	}
	before := k.known()
	plain, err := open(before, sealed, label)
	if err == nil {
		return plain, nil
	}
	if after := k.now(); len(after) != len(before) || after[len(after)-1] != before[len(before)-1] {
		return open(after, sealed, label)
	}
	return nil, err
}

// open tries the newest key first.
func open(all []tink.AEAD, sealed, label []byte) (plain []byte, err error) {
	err = errNoKey
	for _, key := range slices.Backward(all) {
		if plain, err = key.Decrypt(sealed, label); err == nil {
			return plain, nil
		}
	}
	return nil, err
}
