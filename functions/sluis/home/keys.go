package home

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

// Keys are all keys and secrets of pipeline.json in one hand, whose keeper is a directory or Google Cloud.
type Keys struct {
	extraction.Keys
	Inner           envelope.Inner                  // what browsers seal to
	Signers         func() ([]crypto.Signer, error) // of certificates of erasure
	Secrets         domain.Secrets
	Pseudonym, Link domain.Secret
	Banner          string // what a program that uses them prints
}

// Keys asks the backend's keeper of keys for them.
func (b *Backend) Keys(ctx context.Context) (*Keys, error) {
	if b.cloud != nil {
		return cloudKeys(ctx, b.cloud)
	}
	local := b.keys
	if local == nil {
		return nil, errors.New("opening keys: the data was opened to be looked at")
	}
	secrets, err := envelope.OpenSecrets(KeysIn(b.data))
	if err != nil {
		return nil, err
	}
	return &Keys{Keys: files{local}, Inner: local.InnerPublics, Signers: local.CertificateSigners,
		Secrets: secrets, Pseudonym: local.Pseudonym(), Link: local.Link(), Banner: local.Banner()}, nil
}

func cloudKeys(ctx context.Context, c *gcp.Cloud) (*Keys, error) {
	for _, name := range append([]string{"certificate"}, rotating...) {
		if variable := "SLUIS_KEY_" + strings.ToUpper(name); gcp.Setting(variable) == "" {
			return nil, fmt.Errorf("opening keys: set %s to the resource name of the key %s", variable, name)
		}
	}
	if err := c.Hold(ctx, "pseudonym", "link"); err != nil {
		return nil, err
	}
	return &Keys{Keys: gcp.Keys{KMS: c.KMS}, Inner: gcp.Public(c.KMS, "inner"), Signers: gcp.Signers(c.KMS, "certificate"),
		Secrets: c.Secrets, Pseudonym: c.Held["pseudonym"], Link: c.Held["link"],
		Banner: "Documents, events and keys are in Google Cloud, and this one process uses them with all functions' rights:\n" +
			"for development, NOT FOR PRODUCTION. In production each function has an identity of its own."}, nil
}

// files are local keys by the names of pipeline.json.
type files struct{ local *envelope.Keys }

func (f files) Closing(name string) domain.Encrypter {
	return f.local.Encrypter(envelope.KeyName(name))
}
func (f files) Opening(name string) domain.Decrypter {
	return f.local.Decrypter(envelope.KeyName(name))
}
func (f files) Renewing(name string) domain.Rewrapper {
	return f.local.Rewrapper(envelope.KeyName(name))
}

// Decrypters implements extraction.Keys; there is one key of this kind, the inner gate's.
func (f files) Decrypters(string) func() ([]crypto.Decrypter, error) { return f.local.InnerPrivates }

// SetSecret keeps a secret that an operator was given, such as a custodian's API credentials.
func (b *Backend) SetSecret(ctx context.Context, name string, value domain.Secret) error {
	if b.cloud != nil {
		return gcp.SetSecret(ctx, b.cloud.Secrets, name, value)
	}
	var known []string
	for _, c := range b.contracts.Custodians {
		if !c.Sandbox {
			known = append(known, c.Secrets...)
		}
	}
	if !slices.Contains(known, name) {
		return domain.Invalidf("name", "no custodian has a secret %q; those of custodians.json are: %s", name, strings.Join(known, ", "))
	}
	secrets, err := envelope.OpenSecrets(KeysIn(b.data))
	if err != nil {
		return err
	}
	return secrets.Set(name, value)
}

// Rotate makes a new version of a key, which closes from then on, and says where it is. Older versions open what they
// closed.
func (b *Backend) Rotate(ctx context.Context, key string) (string, error) {
	if b.cloud != nil {
		return gcp.Rotate(ctx, b.cloud.KMS, key)
	}
	dir := KeysIn(b.data)
	return dir, envelope.RotateNoting(dir, key, b.noteVersion)
}
