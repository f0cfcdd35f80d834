package sandbox

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// certificate says what was erased, when and by whose wish, until when backups may hold copies that nobody can read.
type certificate struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
	Cause string `json:"cause"`
	Actor struct {
		Kind string `json:"kind"`
	} `json:"actor"`
	Erased       map[string]int `json:"erased"` // documents by kind
	ErasedAt     time.Time      `json:"erased_at"`
	BackupsUntil time.Time      `json:"backups_until"`
	KeyID        string         `json:"key_id"`
	Verified     bool           `json:"-"` // the signature is that key's
}

// What lists what was erased, in words.
func (c certificate) What() []string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(c.Erased)) {
		out = append(out, fmt.Sprintf("%d × %s", c.Erased[kind], plain(kind)))
	}
	return out
}

// certificates lists a connection's certificates of erasure, newest first, each with its signature checked.
func (a *app) certificates(ctx context.Context, connection string) ([]certificate, error) {
	var page struct {
		Data []json.RawMessage `json:"data"`
		Keys []struct {
			Kid string `json:"kid"`
			X   string `json:"x"`
		} `json:"keys"`
	}
	if err := a.api.get(ctx, "/v1/connections/"+connection+"/erasures?limit=100", &page); err != nil {
		return nil, err
	}
	// A client that has to prove an erasure to somebody else keeps the key, and compares it with what comes here.
	keys := map[string]ed25519.PublicKey{}
	for _, k := range page.Keys {
		if x, err := base64.RawURLEncoding.DecodeString(k.X); err == nil && len(x) == ed25519.PublicKeySize {
			keys[k.Kid] = x
		}
	}
	var out []certificate
	for _, raw := range page.Data {
		var c certificate
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, fmt.Errorf("reading certificate: %w", err)
		}
		if key := keys[c.KeyID]; key != nil {
			c.Verified = signedBy(key, raw)
		}
		out = append(out, c)
	}
	return out, nil
}

// signedBy checks a certificate's signature: Ed25519 over the certificate without its member "signature", in the
// canonical form of RFC 8785. For what a certificate holds (ASCII names, strings, whole numbers) that is JSON with
// sorted names, without spaces and without HTML escapes.
func signedBy(key ed25519.PublicKey, raw []byte) bool {
	var members map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&members); err != nil {
		return false
	}
	text, _ := members["signature"].(string)
	signature, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	delete(members, "signature")
	var canonical bytes.Buffer
	e := json.NewEncoder(&canonical)
	e.SetEscapeHTML(false)
	if err := e.Encode(members); err != nil {
		return false
	}
	return ed25519.Verify(key, bytes.TrimSuffix(canonical.Bytes(), []byte("\n")), signature)
}
