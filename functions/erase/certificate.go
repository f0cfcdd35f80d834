package erase

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// canonical is what a certificate's signature covers: the certificate as JSON without the member "signature", in the
// canonical form of RFC 8785, so that a client can check it in any language.
func canonical(cert domain.Erasure) ([]byte, error) {
	text, err := json.Marshal(cert)
	if err != nil {
		return nil, fmt.Errorf("writing certificate: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("writing certificate: %w", err)
	}
	delete(members, "signature")
	text, err = json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("writing certificate: %w", err)
	}
	value := jsontext.Value(text)
	if err := value.Canonicalize(); err != nil {
		return nil, fmt.Errorf("writing certificate: %w", err)
	}
	return value, nil
}

// sign fills in the newest key's identifier and its signature.
func (s *Service) sign(ctx context.Context, cert *domain.Erasure) error {
	signers, err := s.Signers()
	if err != nil {
		return fmt.Errorf("signing certificate: %w", err)
	}
	signer := signers[len(signers)-1]
	cert.KeyID = envelope.SignerID(signer)
	text, err := canonical(*cert)
	if err != nil {
		return err
	}
	// Ed25519 hashes by itself (RFC 8032), so the message is passed as it is, and no randomness is used.
	cert.Signature, err = domain.In(ctx, signer).Sign(nil, text, crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("signing certificate: %w", err)
	}
	return nil
}

// ErrSignature is what Verify says of a certificate that was altered, or signed by somebody else.
var ErrSignature = &domain.Error{Kind: domain.Invalid, Code: "certificate_signature", Field: "signature",
	Message: "the signature is not this key's over this certificate"}

// Verify checks a certificate of erasure against the public key that the certificate's key_id names.
func Verify(cert domain.Erasure, public ed25519.PublicKey) error {
	text, err := canonical(cert)
	if err != nil {
		return err
	}
	if len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, text, cert.Signature) {
		return ErrSignature
	}
	return nil
}

// key is the public half of a version of the certificate key as a JWK (RFC 8037).
type key struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use"`
}

// keys are the public halves of all versions of the certificate key, newest first: one of them signed each certificate.
func (s *Service) keys() ([]key, error) {
	signers, err := s.Signers()
	if err != nil {
		return nil, fmt.Errorf("reading certificate keys: %w", err)
	}
	var all []key
	for _, signer := range slices.Backward(signers) {
		public, ok := signer.Public().(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("reading certificate keys: want Ed25519, have %T", signer.Public())
		}
		all = append(all, key{Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(public), Kid: envelope.SignerID(signer), Alg: "EdDSA", Use: "sig"})
	}
	return all, nil
}
