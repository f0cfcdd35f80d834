package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sluis.internal/shared/domain"
)

// Typ is the header "typ" of the inner gate: what kind of secret is inside.
type Typ string

const (
	TypCredential Typ = "sluis-credential+jwe" // sealed for a connection: a JSON object of field name to value
	TypCode       Typ = "sluis-code+jwe"       // sealed for a challenge: the SCA code as text
)

// The one algorithm of each kind that the inner gate knows. RFC 7518, sections 4.3 and 5.3.
const (
	AlgInner = "RSA-OAEP-256"
	EncInner = "A256GCM"
)

// Limits of the inner gate, in bytes and time.
const (
	MaxCredentialJWE = 16 << 10
	MaxCodeJWE       = 2 << 10
	MaxSealedAge     = 5 * time.Minute  // between the browser's sealing and its arrival
	MaxSealedAhead   = 60 * time.Second // how far the browser's clock may be ahead
)

const (
	maxHeader    = 1 << 10
	innerKeySize = 512 // bytes of an RSA-4096 ciphertext
	nonceSize    = 12  // RFC 7518, section 5.3
	tagSize      = 16
)

// Refusals of the inner gate, one for each reason. Compare with errors.Is.
var (
	ErrTooLarge  = &domain.Error{Kind: domain.TooLarge, Code: "jwe_too_large", Field: fieldSealed, Message: "what was sealed is too large; shorten it"}
	ErrMalformed = refuse("jwe_malformed", "want a compact JWE of five base64url parts; reload the page and try again")
	ErrHeader    = refuse("jwe_header", "want exactly alg, enc, kid, typ, iat, sub, gen, nonce and, for credentials, cid in the JWE header; reload the page and try again")
	ErrAlg       = refuse("jwe_alg", "want alg "+AlgInner+"; reload the page and try again")
	ErrEnc       = refuse("jwe_enc", "want enc "+EncInner+"; reload the page and try again")
	ErrZip       = refuse("jwe_zip", "compression is not allowed; leave zip out")
	ErrKid       = refuse("jwe_kid", "the key is not one of ours, or no longer; reload the page and try again")
	ErrTyp       = refuse("jwe_typ", "another kind of secret was sealed; reload the page and try again")
	ErrSubject   = refuse("jwe_subject", "it was sealed for something else; reload the page and try again")
	ErrSealing   = refuse("jwe_sealing", "it was sealed as something else than what was asked for; reload the page and try again")
	ErrPadding   = refuse("jwe_padding", "what was sealed does not fill whole blocks; reload the page and try again")
	ErrStale     = refuse("jwe_stale", "it was sealed too long ago; enter it again")
	ErrFuture    = refuse("jwe_future", "it was sealed in the future; set the device's clock and try again")
)

func refuse(code, message string) *domain.Error {
	return &domain.Error{Kind: domain.Invalid, Code: code, Field: fieldSealed, Message: message}
}

// fieldSealed stands in a refusal for the member that what was sealed came in, whose name only its reader knows.
const fieldSealed = "sealed"

// At gives a refusal of the inner gate the name of the member at fault. Other errors stay as they are.
func At(member string, err error) error {
	var refusal *domain.Error
	if !errors.As(err, &refusal) || refusal.Field != fieldSealed {
		return err
	}
	told := *refusal
	told.Field = member
	return &told
}

// Expect is what a JWE must have been sealed as.
type Expect struct {
	Typ     Typ
	Subject string        // the connection of a credential, the challenge of a code
	Kids    []string      // keys of ours that may be used
	AnyKid  bool          // whoever opens it looks whether the key is ours
	MaxAge  time.Duration // 0 means MaxSealedAge
}

// Told is what the header of a JWE says of what is in it.
type Told struct {
	Kid     string
	Sealing domain.Sealing
}

// Inspect checks a compact JWE against want, as far as that goes without a key, and returns what it says. now is the
// server's time. Every refusal is one of the errors above. Whether the sealing was issued and not used is for
// domain.TakeSealing to say.
func Inspect(jwe string, want Expect, now domain.Time) (Told, error) {
	h, err := inspect(jwe, want)
	if err != nil {
		return Told{}, err
	}
	age := want.MaxAge
	if age == 0 {
		age = MaxSealedAge
	}
	sealed := time.Unix(h.iat, 0)
	switch {
	case sealed.After(now.Time.Add(MaxSealedAhead)):
		return Told{}, ErrFuture
	case sealed.Before(now.Time.Add(-age)):
		return Told{}, ErrStale
	}
	return Told{h.kid, h.sealing()}, nil
}

// inspect is Inspect without the time: a stored credential was checked for its age at the door and may be old since.
func inspect(jwe string, want Expect) (header, error) {
	limit := MaxCredentialJWE
	if want.Typ == TypCode {
		limit = MaxCodeJWE
	}
	if len(jwe) > limit {
		return header{}, ErrTooLarge
	}
	parts := strings.Split(jwe, ".")
	if len(parts) != 5 {
		return header{}, ErrMalformed
	}
	var raw [5][]byte
	for i, p := range parts {
		b, ok := decodePart(p)
		if !ok {
			return header{}, ErrMalformed
		}
		raw[i] = b
	}
	h, err := parseHeader(raw[0])
	if err != nil {
		return header{}, err
	}
	if err := h.check(want); err != nil {
		return header{}, err
	}
	if len(raw[1]) != innerKeySize || len(raw[2]) != nonceSize || len(raw[3]) == 0 || len(raw[4]) != tagSize {
		return header{}, ErrMalformed
	}
	if len(raw[3])%want.Typ.block() != 0 {
		return header{}, ErrPadding
	}
	return h, nil
}

// decodePart is strict base64url without padding: no line breaks, which encoding/base64 would skip, and no loose
// bits at the end, so that one ciphertext has one spelling. RFC 7515, section 2.
func decodePart(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}

// header is the protected header of the inner gate: these members and no other.
type header struct {
	alg, enc, kid, typ, sub, nonce string
	cid                            string // of a credential only
	iat                            int64  // Unix seconds
	gen                            int64
}

func (h header) sealing() domain.Sealing {
	return domain.Sealing{Subject: h.sub, Credential: domain.CredentialID(h.cid), Generation: h.gen, Nonce: h.nonce}
}

func (h header) check(want Expect) error {
	switch {
	case h.alg != AlgInner:
		return ErrAlg
	case h.enc != EncInner:
		return ErrEnc
	case h.typ != string(want.Typ):
		return ErrTyp
	case (h.cid != "") != (want.Typ == TypCredential):
		return ErrHeader
	case !want.AnyKid && !slices.Contains(want.Kids, h.kid):
		return ErrKid
	case h.sub != want.Subject:
		return ErrSubject
	}
	return nil
}

// parseHeader reads the header member by member: encoding/json alone would take duplicate and unknown names and
// names in another case.
func parseHeader(raw []byte) (header, error) {
	var h header
	if len(raw) > maxHeader || !utf8.Valid(raw) {
		return h, ErrHeader
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return h, ErrHeader
	}
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		key, ok := name.(string)
		if err != nil || !ok || seen[key] {
			return h, ErrHeader
		}
		seen[key] = true
		if err := h.set(d, key); err != nil {
			return h, err
		}
	}
	if _, err := d.Token(); err != nil || !h.complete(len(seen)) {
		return h, ErrHeader
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return h, ErrHeader
	}
	return h, nil
}

// complete says whether all members are there. None of them may be empty, nor 0.
func (h *header) complete(members int) bool {
	want := 8
	if h.cid != "" {
		want++
	}
	return members == want && h.iat > 0 && h.gen > 0
}

// set reads the value of one member.
func (h *header) set(d *json.Decoder, key string) error {
	var field *string
	var count *int64
	switch key {
	case "alg":
		field = &h.alg
	case "enc":
		field = &h.enc
	case "kid":
		field = &h.kid
	case "typ":
		field = &h.typ
	case "sub":
		field = &h.sub
	case "nonce":
		field = &h.nonce
	case "cid":
		field = &h.cid
	case "iat":
		count = &h.iat
	case "gen":
		count = &h.gen
	case "zip":
		return ErrZip
	default:
		return ErrHeader
	}
	value, err := d.Token()
	if err != nil {
		return ErrHeader
	}
	if field != nil {
		text, ok := value.(string)
		*field = text
		if !ok || text == "" {
			return ErrHeader
		}
		return nil
	}
	number, ok := value.(json.Number)
	if !ok || len(number) > 12 {
		return ErrHeader
	}
	*count, err = strconv.ParseInt(string(number), 10, 64)
	if err != nil || *count < 0 {
		return ErrHeader
	}
	return nil
}
