package envelope

import (
	"bytes"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/keyset"

	"sluis.internal/shared/domain"
)

// RewrapDataKey wraps a connection's keyset anew if an older version of the portfolio key wrapped it; or else it gives
// nil. The keyset stays the same, and so does all that was closed under it.
func RewrapDataKey(r domain.Rewrapper, k *domain.DataKey) ([]byte, error) {
	set, err := keyset.NewBinaryReader(bytes.NewReader(k.Wrapped)).ReadEncrypted()
	if err != nil {
		return nil, shut("wrapping keyset anew", ErrSealed, err)
	}
	fresh, err := r.Rewrap(set.EncryptedKeyset, keysetLabel(k))
	if err != nil {
		return nil, shut("wrapping keyset anew", ErrSealed, err)
	}
	if fresh == nil {
		return nil, nil
	}
	set.EncryptedKeyset = fresh
	var wrapped bytes.Buffer
	if err := keyset.NewBinaryWriter(&wrapped).WriteEncrypted(set); err != nil {
		return nil, fmt.Errorf("wrapping keyset anew: %w", err)
	}
	return wrapped.Bytes(), nil
}

// WrappedBy is what the portfolio key made of a connection's keyset: whatever names the version of the key is in there.
func WrappedBy(k *domain.DataKey) []byte {
	set, err := keyset.NewBinaryReader(bytes.NewReader(k.Wrapped)).ReadEncrypted()
	if err != nil {
		return nil
	}
	return set.EncryptedKeyset
}

// SameKeyset says whether two documents hold the same keyset, however it is wrapped: one that was erased and made anew
// is another.
func SameKeyset(a, b *domain.DataKey) bool {
	if bytes.Equal(a.Wrapped, b.Wrapped) {
		return true
	}
	x, err := keyset.NewBinaryReader(bytes.NewReader(a.Wrapped)).ReadEncrypted()
	if err != nil {
		return false
	}
	y, err := keyset.NewBinaryReader(bytes.NewReader(b.Wrapped)).ReadEncrypted()
	return err == nil && a.CreatedAt.Equal(b.CreatedAt.Time) && x.KeysetInfo.GetPrimaryKeyId() == y.KeysetInfo.GetPrimaryKeyId()
}

// Rewrapper is both halves of a key, but only to close anew what an older file of it closed.
func (k *Keys) Rewrapper(name KeyName) domain.Rewrapper { return renewing{k.sets[name]} }

type renewing struct{ k *keys }

// Rewrap implements domain.Rewrapper.
func (r renewing) Rewrap(sealed, label []byte) ([]byte, error) {
	plain, err := r.k.Decrypt(sealed, label) // which looks at the files again, if it must
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	all := r.k.now()
	newest := all[len(all)-1]
	if again, err := newest.Decrypt(sealed, label); err == nil {
		clear(again)
		return nil, nil
	}
	return newest.Encrypt(plain, label)
}
