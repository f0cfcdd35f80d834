package gcp

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"

	"sluis.internal/shared/domain"
)

// What an operator's identity does with keys and secrets. No function has the roles for it, nor the code.

// versionTime bounds the making of a key's version: an HSM may think about an RSA key for a while.
const versionTime = 2 * time.Minute

// Rotate makes a new version of a key, and says which. It closes from now on: of a symmetric key it becomes the primary
// one; of an RSA key, functions take the newest that is enabled, within keyLife.
func Rotate(ctx context.Context, k *KMS, name string) (version string, err error) {
	resource := k.names(name)
	if resource == "" {
		return "", fmt.Errorf("rotating %s: set SLUIS_KEY_%s to the key's resource name", name, strings.ToUpper(name))
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
		_, err = k.client.UpdateCryptoKeyPrimaryVersion(ctx, &kmspb.UpdateCryptoKeyPrimaryVersionRequest{Name: resource, CryptoKeyVersionId: lastOf(v.Name)}, busy())
	}
	if err = refused(err); err != nil {
		return "", fmt.Errorf("rotating %s: %w", name, err)
	}
	return v.Name, nil
}

func lastOf(resource string) string { return resource[strings.LastIndex(resource, "/")+1:] }

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
