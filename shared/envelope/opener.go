package envelope

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"maps"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
)

// Limits of what may be inside, in bytes.
const (
	MaxFields     = 16
	MaxFieldName  = 64
	MaxFieldValue = 4 << 10
	MaxCode       = 128
)

// Refusals of the gates themselves. The reader of an error learns which gate stayed shut, never why.
var (
	ErrOuter   = &domain.Error{Kind: domain.Invalid, Code: "outer_gate_shut", Message: "the credential does not open: it was altered, or belongs to another connection; enter it again"}
	ErrInner   = &domain.Error{Kind: domain.Invalid, Code: "inner_gate_shut", Field: fieldSealed, Message: "what was sealed does not open: it was altered; enter it again"}
	ErrPayload = &domain.Error{Kind: domain.Invalid, Code: "jwe_payload", Field: fieldSealed, Message: "what was sealed is not what this page seals; reload the page and enter it again"}
)

// InnerKeys gives the private halves of the inner gate by kid. It may wait until they are there.
type InnerKeys func() (map[string]crypto.Decrypter, error)

// Opener opens both gates. Only extraction has one.
type Opener struct {
	outer domain.Decrypter
	inner InnerKeys
}

// NewOpener makes an Opener of the opening halves of both gates.
func NewOpener(outer domain.Decrypter, inner InnerKeys) *Opener { return &Opener{outer, inner} }

// OpenCredentials opens both gates over sealed (domain.Credential.Sealed), which must have been sealed for b, as t, and
// to the inner key kid. It returns the fields by name; the caller wipes them. Errors are those of Inspect without the
// time (stored credentials live long, and their age was checked at the door), ErrOuter, ErrInner, ErrPayload, or what
// the keys' keeper says where it cannot be reached.
func (o *Opener) OpenCredentials(sealed []byte, kid string, b domain.Binding, t domain.Sealing) (map[string]domain.Secret, error) {
	label, err := credentialLabel(b, t)
	if err != nil {
		return nil, err
	}
	if len(sealed) > MaxCredentialJWE+1<<10 {
		return nil, ErrTooLarge
	}
	jwe, err := o.outer.Decrypt(sealed, label)
	if err != nil {
		return nil, shut("opening outer gate", ErrOuter, err)
	}
	defer clear(jwe)
	key, err := o.key(kid)
	if err != nil {
		return nil, err
	}
	text := string(jwe)
	h, err := inspect(text, Expect{Typ: TypCredential, Subject: string(b.ConnectionID), Kids: []string{kid}})
	if err != nil {
		return nil, err
	}
	if h.sealing() != t {
		return nil, ErrSealing
	}
	full, err := openInner(text, key)
	if err != nil {
		return nil, err
	}
	defer clear(full)
	payload, ok := unpad(full, BlockCredential)
	if !ok {
		return nil, ErrPayload
	}
	return takeFields(payload)
}

// OpenCode opens the inner gate over an SCA code that was sealed as t, for the challenge that this names, at most
// MaxSealedAge ago. The caller wipes it.
func (o *Opener) OpenCode(jwe string, t domain.Sealing, now domain.Time) (domain.Secret, error) {
	keys, err := o.inner()
	if err != nil {
		return domain.Secret{}, fmt.Errorf("opening inner gate: %w", err)
	}
	want := Expect{Typ: TypCode, Subject: t.Subject, Kids: slices.Collect(maps.Keys(keys))}
	told, err := Inspect(jwe, want, now)
	if err != nil {
		return domain.Secret{}, err
	}
	if told.Sealing != t {
		return domain.Secret{}, ErrSealing
	}
	full, err := openInner(jwe, keys[told.Kid])
	if err != nil {
		return domain.Secret{}, err
	}
	code, ok := unpad(full, BlockCode)
	if !ok || !codeShape(code) {
		clear(full)
		return domain.Secret{}, ErrPayload
	}
	return domain.NewSecret(code), nil
}

func (o *Opener) key(kid string) (crypto.Decrypter, error) {
	keys, err := o.inner()
	if err != nil {
		return nil, fmt.Errorf("opening inner gate: %w", err)
	}
	key, ok := keys[kid]
	if !ok {
		return nil, ErrKid
	}
	return key, nil
}

// codeShape is 1 to MaxCode bytes of printable UTF-8.
func codeShape(b []byte) bool {
	if len(b) == 0 || len(b) > MaxCode || !utf8.Valid(b) {
		return false
	}
	for rest := b; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if !unicode.IsPrint(r) {
			return false
		}
		rest = rest[n:]
	}
	return true
}

// openInner decrypts a JWE that was inspected. The algorithms are checked again by go-jose and once more before the
// private key is used.
func openInner(jwe string, key crypto.Decrypter) ([]byte, error) {
	parsed, err := jose.ParseEncryptedCompact(jwe, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, ErrMalformed
	}
	unwrap := &contentKey{private: key}
	defer unwrap.wipe()
	payload, err := parsed.Decrypt(unwrap)
	if err != nil {
		return nil, shut("opening inner gate", ErrInner, unwrap.err)
	}
	return payload, nil
}

// contentKey is a jose.OpaqueKeyDecrypter that keeps what go-jose hides: the content key, to wipe it, and the reason
// why the private key did not answer.
type contentKey struct {
	private crypto.Decrypter
	plain   []byte
	err     error
}

func (k *contentKey) DecryptKey(encrypted []byte, h jose.Header) ([]byte, error) {
	if h.Algorithm != AlgInner {
		k.err = ErrAlg
		return nil, k.err
	}
	k.plain, k.err = k.private.Decrypt(rand.Reader, encrypted, &rsa.OAEPOptions{Hash: crypto.SHA256})
	return k.plain, k.err
}

func (k *contentKey) wipe() { clear(k.plain) }

// shut turns the failure of a decryption into the refusal, unless the keeper of the keys could not be asked: that may
// pass, and must not look like a bad credential.
func shut(act string, refusal *domain.Error, cause error) error {
	switch domain.KindOf(cause) {
	case domain.Unavailable, domain.RateLimited:
		return fmt.Errorf("%s: %w", act, cause)
	}
	told := *refusal
	told.Err = cause
	return fmt.Errorf("%s: %w", act, &told)
}
