package envelope

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
)

// JWK is the public half of the inner gate as pages need it: an RSA key of RFC 7517 and RFC 7518, section 6.3, that
// may encrypt only.
type JWK struct {
	Kty    string   `json:"kty"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	Kid    string   `json:"kid"`
	Alg    string   `json:"alg"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
}

// PublicJWK describes key. Its identifier is its thumbprint, and nothing that anybody chose.
func PublicJWK(key *rsa.PublicKey) JWK {
	n, e := rsaMembers(key)
	return JWK{Kty: "RSA", N: n, E: e, Kid: thumbprint(n, e), Alg: AlgInner, Use: "enc", KeyOps: []string{"encrypt"}}
}

// Thumbprint is a key's RFC 7638 identifier: base64url of SHA-256 over its required members.
func Thumbprint(key *rsa.PublicKey) string {
	return thumbprint(rsaMembers(key))
}

func thumbprint(n, e string) string {
	sum := sha256.Sum256([]byte(`{"e":"` + e + `","kty":"RSA","n":"` + n + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func rsaMembers(key *rsa.PublicKey) (n, e string) {
	return base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
}

// SealCredential closes the inner gate as the browser does, for programs that play the browser. t is what they were told
// to seal, fields are the custodian's by name.
func (k JWK) SealCredential(t domain.Sealing, fields map[string]string, now domain.Time) (string, error) {
	payload, err := json.Marshal(fields)
	if err != nil {
		return "", fmt.Errorf("sealing credential: %w", err)
	}
	defer clear(payload)
	return k.seal(TypCredential, t, payload, now)
}

// SealCode closes the inner gate over an SCA code, as the browser does.
func (k JWK) SealCode(t domain.Sealing, code string, now domain.Time) (string, error) {
	return k.seal(TypCode, t, []byte(code), now)
}

func (k JWK) seal(typ Typ, t domain.Sealing, payload []byte, now domain.Time) (string, error) {
	text, err := json.Marshal(k)
	if err != nil {
		return "", fmt.Errorf("reading public key: %w", err)
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(text); err != nil {
		return "", fmt.Errorf("reading public key: %w", err)
	}
	options := (&jose.EncrypterOptions{}).WithType(jose.ContentType(typ)).WithHeader("iat", now.Unix()).
		WithHeader("sub", t.Subject).WithHeader("gen", t.Generation).WithHeader("nonce", t.Nonce)
	if typ == TypCredential {
		options = options.WithHeader("cid", t.Credential)
	}
	e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: key.Key, KeyID: k.Kid}, options)
	if err != nil {
		return "", fmt.Errorf("closing inner gate: %w", err)
	}
	full := pad(payload, typ.block())
	defer clear(full)
	sealed, err := e.Encrypt(full)
	if err != nil {
		return "", fmt.Errorf("closing inner gate: %w", err)
	}
	return sealed.CompactSerialize()
}
