package leak

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// keyBytes of a key are enough to know it by: all of a symmetric key, the end of a private one.
const keyBytes = 32

// LearnKeys lays every key in a directory of local keys.
func (n *Nest) LearnKeys(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		return err
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pieces := material(content)
		if len(pieces) == 0 {
			return fmt.Errorf("%s holds no key that is known here", path)
		}
		for _, piece := range pieces {
			n.Learn(Canary{Key, filepath.Base(path), piece})
		}
	}
	return nil
}

var keysetValue = regexp.MustCompile(`"value":\s*"([A-Za-z0-9+/=]+)"`)

// material are pieces of the secret in a key file: a Tink keyset as JSON, a private key as PEM, or bytes in base64.
func material(content []byte) (pieces []string) {
	tail := func(raw []byte, err error) {
		if err == nil && len(raw) >= keyBytes {
			pieces = append(pieces, string(raw[len(raw)-keyBytes:]))
		}
	}
	if block, _ := pem.Decode(content); block != nil {
		tail(block.Bytes, nil)
		if len(block.Bytes) > 1000 { // RSA: a piece of the private exponent too, which comes after the modulus
			tail(block.Bytes[:732], nil)
		}
		return pieces
	}
	for _, m := range keysetValue.FindAllSubmatch(content, -1) {
		tail(base64.StdEncoding.DecodeString(string(m[1])))
	}
	if len(pieces) == 0 {
		tail(base64.StdEncoding.DecodeString(string(bytes.TrimSpace(content))))
	}
	return pieces
}

// openDataKey unwraps a connection's key by the portfolio key itself, without asking package envelope how, and learns it.
func openDataKey(_ context.Context, a *Archive, raw json.RawMessage) error {
	var k domain.DataKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return err
	}
	a.vanish("wrapped data key", k.Wrapped)
	wrapping := struct {
		domain.Encrypter
		domain.Decrypter
	}{a.keys.Closing(string(envelope.KeyPortfolio)), a.keys.Opening(string(envelope.KeyPortfolio))}
	label := domain.Name("sluis/portfolio/v1", string(k.ClientID), string(k.ConsentID), string(k.ConnectionID))
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(k.Wrapped)), wrapping, label)
	if err != nil {
		return err
	}
	var plain bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&plain)); err != nil {
		return err
	}
	for _, piece := range material(plain.Bytes()) {
		a.search.Add(Canary{Key, "a connection's key", piece})
	}
	return nil
}
