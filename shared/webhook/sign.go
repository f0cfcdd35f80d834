package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"sluis.internal/shared/domain"
)

// The headers of Standard Webhooks.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// Sizes of a signing key in bytes, as Standard Webhooks wants them. Ours are as long as the digest: HMAC gains nothing
// from more.
const (
	minKey = 24
	maxKey = 64
	ourKey = sha256.Size
)

const secretPrefix = "whsec_"

// ErrSecret says that a secret has not the form of a Standard Webhooks secret. It shows nothing of it.
var ErrSecret = errors.New("reading webhook secret: want whsec_ and base64 of 24 to 64 bytes")

// NewSecret makes a signing secret in the form that is shown to the client: "whsec_" and base64 of 32 random bytes.
func NewSecret(e domain.Env) domain.Secret {
	key := e.Random(ourKey)
	defer clear(key)
	text := make([]byte, 0, len(secretPrefix)+base64.StdEncoding.EncodedLen(ourKey))
	return domain.NewSecret(base64.StdEncoding.AppendEncode(append(text, secretPrefix...), key))
}

// Sign returns the value of webhook-signature: for each secret "v1," and the base64 of an HMAC-SHA256, with spaces
// between. Several secrets sign while one replaces another, so that either verifies. Only whole seconds of at count.
func Sign(id domain.NoticeID, at domain.Time, body []byte, secrets ...domain.Secret) (string, error) {
	if len(secrets) == 0 {
		return "", ErrSecret
	}
	head := string(id) + "." + Timestamp(at) + "."
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		key, err := keyOf(secret)
		if err != nil {
			return "", err
		}
		mac := hmac.New(sha256.New, key)
		clear(key)
		mac.Write([]byte(head))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " "), nil
}

// Timestamp is at as webhook-timestamp says it: whole seconds since 1970.
func Timestamp(at domain.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// keyOf decodes a secret. The caller wipes the key.
func keyOf(secret domain.Secret) ([]byte, error) {
	text, ok := bytes.CutPrefix(secret.Reveal(), []byte(secretPrefix))
	if !ok {
		return nil, ErrSecret
	}
	key := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(key, text)
	if err != nil || n < minKey || n > maxKey {
		clear(key)
		return nil, ErrSecret
	}
	return key[:n], nil
}
