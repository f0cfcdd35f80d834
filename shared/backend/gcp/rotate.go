package gcp

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"sluis.internal/shared/domain"
)

// What an operator's identity does with keys and secrets. No function has the roles for it, nor the code.

// versionTime bounds the making of a key's version: an HSM may think about an RSA key for a while.
const versionTime = 2 * time.Minute

// Rotate makes a new version of a key, and says which. It closes from now on: of a symmetric key it becomes the primary
// one; of an asymmetric key, functions take the newest that is enabled, within keyLife.
func Rotate(ctx context.Context, k *KMS, name string) (version string, err error) {
	resource, err := k.resource(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	v, err := k.client.CreateCryptoKeyVersion(ctx, &kmspb.CreateCryptoKeyVersionRequest{Parent: resource}, busy())
	for err == nil && v.State == kmspb.CryptoKeyVersion_PENDING_GENERATION {
		select {
		case <-ctx.Done():
			return v.Name, fmt.Errorf("rotating %s: %s is still being made; look again later: %w", name, v.Name, context.Cause(ctx))
		case <-time.After(time.Second):
		}
		v, err = k.client.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: v.Name}, busy())
	}
	if err == nil && v.State != kmspb.CryptoKeyVersion_ENABLED {
		return v.Name, fmt.Errorf("rotating %s: %s was made and is %s", name, v.Name, v.State)
	}
	if err == nil && v.Algorithm == kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION {
		_, err = k.client.UpdateCryptoKeyPrimaryVersion(ctx, &kmspb.UpdateCryptoKeyPrimaryVersionRequest{Name: resource, CryptoKeyVersionId: path.Base(v.Name)}, busy())
	}
	if err = refused(err); err != nil {
		return "", fmt.Errorf("rotating %s: %w", name, err)
	}
	return v.Name, nil
}

// resource is a key's resource name, which must be known.
func (k *KMS) resource(name string) (string, error) {
	resource := k.names(name)
	if resource == "" {
		return "", fmt.Errorf("looking for key %s: set SLUIS_KEY_%s to its resource name", name, strings.ToUpper(name))
	}
	return resource, nil
}

// KeyVersion is a version of a key.
type KeyVersion struct {
	Number int
	State  string           // as Cloud KMS calls it
	Closes bool             // what is closed now, it closes
	Public crypto.PublicKey // of an asymmetric key, while the version is enabled
}

// Versions lists all versions of a key, oldest first.
func Versions(ctx context.Context, k *KMS, name string) ([]KeyVersion, error) {
	resource, err := k.resource(name)
	if err != nil {
		return nil, err
	}
	key, err := ask(use{ctx, name}, "GetCryptoKey", k.client.GetCryptoKey, &kmspb.GetCryptoKeyRequest{Name: resource})
	if err != nil {
		return nil, fmt.Errorf("listing versions of %s: %w", name, err)
	}
	var all []KeyVersion
	newest := -1
	for v, err := range k.client.ListCryptoKeyVersions(ctx, &kmspb.ListCryptoKeyVersionsRequest{Parent: resource}, busy()).All() {
		if err != nil {
			return nil, fmt.Errorf("listing versions of %s: %w", name, refused(err))
		}
		one := KeyVersion{State: v.State.String(), Closes: v.Name == key.Primary.GetName()}
		one.Number, _ = strconv.Atoi(path.Base(v.Name))
		if v.State == kmspb.CryptoKeyVersion_ENABLED && key.Purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
			shown, err := (&versions{use: use{ctx, name}, k: k, name: resource}).version(v.Name)
			if err != nil {
				return nil, err
			}
			one.Public = shown.public
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b KeyVersion) int { return cmp.Compare(a.Number, b.Number) })
	for i, v := range all {
		if v.Public != nil {
			newest = i
		}
	}
	if newest >= 0 {
		all[newest].Closes = true
	}
	return all, nil
}

// Disable puts a version of a key out of use. It can be enabled again, or destroyed, in Cloud KMS.
func Disable(ctx context.Context, k *KMS, name string, number int) error {
	resource, err := k.resource(name)
	if err != nil {
		return err
	}
	if _, err := ask(use{ctx, name}, "UpdateCryptoKeyVersion", k.client.UpdateCryptoKeyVersion, &kmspb.UpdateCryptoKeyVersionRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state"}},
		CryptoKeyVersion: &kmspb.CryptoKeyVersion{Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", resource, number), State: kmspb.CryptoKeyVersion_DISABLED}}); err != nil {
		return fmt.Errorf("disabling version %d of %s: %w", number, name, err)
	}
	return nil
}

// SetSecret adds a version to a secret, which functions use from then on, within secretLife. The secret itself is
// Terraform's, as its place and its key are. What functions hold is not changed: everything derived from it would be
// other than it was.
func SetSecret(ctx context.Context, s *Secrets, name string, value domain.Secret) error {
	switch {
	case !secretShape.MatchString(name):
		return domain.Invalidf("name", "want a name such as comdirect/client_id")
	case strings.HasPrefix(name, "held/"):
		return domain.Invalidf("name", "%s cannot be changed: identifiers and links are derived from it", name)
	case value.Len() == 0:
		return domain.Invalidf("value", "want a secret, not nothing")
	}
	sum := checksum(value.Reveal()).GetValue()
	_, err := s.client.AddSecretVersion(ctx, &secretmanagerpb.AddSecretVersionRequest{Parent: s.resource(name),
		Payload: &secretmanagerpb.SecretPayload{Data: value.Reveal(), DataCrc32C: &sum}}, busy())
	if code(err) == codes.NotFound {
		return fmt.Errorf("setting secret %s: there is no %s; Terraform makes the secrets that custodians.json names: %w", name, s.resource(name), domain.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("setting secret %s: %w", name, err)
	}
	return nil
}
