package envelope

import "sluis.internal/shared/domain"

// ErrSealed is what Open and Reader say of something that was altered, or belongs elsewhere.
var ErrSealed = &domain.Error{Kind: domain.Internal, Code: "sealed_unreadable", Message: "stored data does not open: it was altered, or its key is gone"}

// Open opens what Seal closed under the same label. The caller wipes the Secret.
func Open(d domain.Decrypter, label, sealed []byte) (domain.Secret, error) {
	if len(sealed) > MaxSmall+1<<10 {
		return domain.Secret{}, ErrSealed
	}
	plain, err := d.Decrypt(sealed, label)
	if err != nil {
		return domain.Secret{}, shut("opening sealed data", ErrSealed, err)
	}
	return domain.NewSecret(plain), nil
}
