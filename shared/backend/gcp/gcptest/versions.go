package gcptest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (k *keyVersion) algorithm() kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm {
	switch {
	case k.symmetric != nil:
		return kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION
	case k.decrypts != nil:
		return kmspb.CryptoKeyVersion_RSA_DECRYPT_OAEP_4096_SHA256
	}
	return kmspb.CryptoKeyVersion_EC_SIGN_ED25519
}

func (k *keyVersion) shown(key string, number int) *kmspb.CryptoKeyVersion {
	return &kmspb.CryptoKeyVersion{Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", key, number), State: k.state, Algorithm: k.algorithm()}
}

// find finds a version by its resource name, for a caller with the permission. The vault is locked.
func (v *Vault) find(ctx context.Context, permission, name string) (version *keyVersion, key string, number int, err error) {
	key, number = split(name)
	if err := v.permit(ctx, permission, key); err != nil {
		return nil, "", 0, err
	}
	k := v.keys[key]
	if k == nil || number < 1 || number > len(k.versions) {
		return nil, "", 0, status.Errorf(codes.NotFound, "no key version %s", name)
	}
	return k.versions[number-1], key, number, nil
}

// ListCryptoKeyVersions implements Cloud KMS's: all, or the enabled ones, on one page.
func (v *Vault) ListCryptoKeyVersions(ctx context.Context, q *kmspb.ListCryptoKeyVersionsRequest) (*kmspb.ListCryptoKeyVersionsResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.permit(ctx, "cloudkms.cryptoKeyVersions.list", q.Parent); err != nil {
		return nil, err
	}
	k := v.keys[q.Parent]
	if k == nil {
		return nil, status.Errorf(codes.NotFound, "no key %s", q.Parent)
	}
	if !slices.Contains([]string{"", "state=ENABLED"}, q.Filter) {
		return nil, status.Errorf(codes.Unimplemented, "the filter %q", q.Filter)
	}
	answer := &kmspb.ListCryptoKeyVersionsResponse{}
	for i, version := range slices.Backward(k.versions) { // in no promised order
		if q.Filter == "" || version.state == kmspb.CryptoKeyVersion_ENABLED {
			answer.CryptoKeyVersions = append(answer.CryptoKeyVersions, version.shown(q.Parent, i+1))
		}
	}
	return answer, nil
}

// CreateCryptoKeyVersion implements Cloud KMS's: a version of the same kind. It is not the primary one, and one of an
// asymmetric key is not there at once.
func (v *Vault) CreateCryptoKeyVersion(ctx context.Context, q *kmspb.CreateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.permit(ctx, "cloudkms.cryptoKeyVersions.create", q.Parent); err != nil {
		return nil, err
	}
	k := v.keys[q.Parent]
	if k == nil {
		return nil, status.Errorf(codes.NotFound, "no key %s", q.Parent)
	}
	fresh := &keyVersion{state: kmspb.CryptoKeyVersion_PENDING_GENERATION}
	var err error
	switch like := k.versions[0]; {
	case like.symmetric != nil:
		fresh.state = kmspb.CryptoKeyVersion_ENABLED
		fresh.symmetric, err = newGCM()
	case like.decrypts != nil:
		fresh.decrypts, err = rsa.GenerateKey(rand.Reader, like.decrypts.N.BitLen())
	default:
		_, fresh.signs, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	k.versions = append(k.versions, fresh)
	return fresh.shown(q.Parent, len(k.versions)), nil
}

// GetCryptoKeyVersion implements Cloud KMS's. What is being generated is ready when it is asked for.
func (v *Vault) GetCryptoKeyVersion(ctx context.Context, q *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	version, key, number, err := v.find(ctx, "cloudkms.cryptoKeyVersions.get", q.Name)
	if err != nil {
		return nil, err
	}
	if version.state == kmspb.CryptoKeyVersion_PENDING_GENERATION {
		version.state = kmspb.CryptoKeyVersion_ENABLED
	}
	return version.shown(key, number), nil
}

// GetCryptoKey implements Cloud KMS's.
func (v *Vault) GetCryptoKey(ctx context.Context, q *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.permit(ctx, "cloudkms.cryptoKeys.get", q.Name); err != nil {
		return nil, err
	}
	k := v.keys[q.Name]
	switch {
	case k == nil:
		return nil, status.Errorf(codes.NotFound, "no key %s", q.Name)
	case k.versions[0].symmetric != nil:
		return &kmspb.CryptoKey{Name: q.Name, Purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, Primary: k.versions[k.primary-1].shown(q.Name, k.primary)}, nil
	case k.versions[0].decrypts != nil:
		return &kmspb.CryptoKey{Name: q.Name, Purpose: kmspb.CryptoKey_ASYMMETRIC_DECRYPT}, nil
	}
	return &kmspb.CryptoKey{Name: q.Name, Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN}, nil
}

// UpdateCryptoKeyVersion implements Cloud KMS's: a version is enabled or disabled, nothing else.
func (v *Vault) UpdateCryptoKeyVersion(ctx context.Context, q *kmspb.UpdateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	version, key, number, err := v.find(ctx, "cloudkms.cryptoKeyVersions.update", q.GetCryptoKeyVersion().GetName())
	if err != nil {
		return nil, err
	}
	may := []kmspb.CryptoKeyVersion_CryptoKeyVersionState{kmspb.CryptoKeyVersion_ENABLED, kmspb.CryptoKeyVersion_DISABLED}
	if !slices.Equal(q.UpdateMask.GetPaths(), []string{"state"}) || !slices.Contains(may, q.CryptoKeyVersion.State) || !slices.Contains(may, version.state) {
		return nil, status.Error(codes.InvalidArgument, "want the state alone, from and to enabled or disabled")
	}
	version.state = q.CryptoKeyVersion.State
	return version.shown(key, number), nil
}

// UpdateCryptoKeyPrimaryVersion implements Cloud KMS's: for symmetric keys alone.
func (v *Vault) UpdateCryptoKeyPrimaryVersion(ctx context.Context, q *kmspb.UpdateCryptoKeyPrimaryVersionRequest) (*kmspb.CryptoKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	version, key, number, err := v.find(ctx, "cloudkms.cryptoKeys.update", q.Name+"/cryptoKeyVersions/"+q.CryptoKeyVersionId)
	if err != nil {
		return nil, err
	}
	if version.symmetric == nil || version.state != kmspb.CryptoKeyVersion_ENABLED {
		return nil, status.Error(codes.FailedPrecondition, "a primary version is enabled, and a symmetric key's")
	}
	v.keys[key].primary = number
	return &kmspb.CryptoKey{Name: key, Primary: version.shown(key, number)}, nil
}
