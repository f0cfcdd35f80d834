package bench

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// credential is what an investor types.
var credential = map[string]string{"username": "20000044", "password": "123456"}

// bareKeys are an RSA key as long as the inner gate's, and an AES key as long as any.
var bareKeys = sync.OnceValues(func() (*rsa.PrivateKey, cipher.AEAD) {
	inner, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		panic("making a key: " + err.Error())
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		panic("making a key: " + err.Error())
	}
	outer, err := cipher.NewGCM(block)
	if err != nil {
		panic("making a key: " + err.Error())
	}
	return inner, outer
})

// sealedSize is what a sealed credential measures, roughly.
const sealedSize = 1024

// bareSealing is one RSA operation with the public key and one AES operation for each gate.
func bareSealing() func() error {
	inner, outer := bareKeys()
	plain, nonce := make([]byte, sealedSize), make([]byte, 12)
	return func() error {
		if _, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &inner.PublicKey, make([]byte, 32), nil); err != nil {
			return err
		}
		for range 2 {
			_, _ = rand.Read(nonce) // never fails
			outer.Seal(nil, nonce, plain, nil)
		}
		return nil
	}
}

// bareOpening is one RSA operation with the private key and one AES operation for each gate.
func bareOpening(tb testing.TB) func() error {
	inner, outer := bareKeys()
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &inner.PublicKey, make([]byte, 32), nil)
	must(tb, err)
	nonce := make([]byte, 12)
	closed := outer.Seal(nil, nonce, make([]byte, sealedSize), nil)
	return func() error {
		for range 2 {
			if _, err := outer.Open(nil, nonce, closed, nil); err != nil {
				return err
			}
		}
		_, err := rsa.DecryptOAEP(sha256.New(), nil, inner, wrapped, nil)
		return err
	}
}

// gates are both gates with keys of their own.
type gates struct {
	jwk    envelope.JWK
	sealer *envelope.Sealer
	opener *envelope.Opener
	bound  domain.Binding
	asked  domain.Sealing
}

func newGates(tb testing.TB) *gates {
	tb.Helper()
	keys, err := envelope.LocalKeys(filepath.Join(tb.TempDir(), "keys"))
	must(tb, err)
	g := &gates{sealer: envelope.NewSealer(keys.Encrypter(envelope.KeyOuter)),
		opener: envelope.NewOpener(keys.Decrypter(envelope.KeyOuter), keys.InnerDecrypters),
		bound: domain.Binding{ClientID: domain.NewID[domain.ClientID](domain.Env{}), ConsentID: domain.NewID[domain.ConsentID](domain.Env{}),
			ConnectionID: domain.NewID[domain.ConnectionID](domain.Env{}), Custodian: "sandbox-comdirect"}}
	g.asked = domain.Sealing{Subject: string(g.bound.ConnectionID), Credential: domain.NewID[domain.CredentialID](domain.Env{}), Generation: 1,
		Nonce: "hZzfFoQgm1gqjP9wxBvJ9Dd4pCkdkZ0Q8D5q0m1k2uI"}
	g.jwk, err = keys.InnerPublic()
	must(tb, err)
	return g
}

// seal does what the browser, and then the sealing function, do.
func (g *gates) seal() ([]byte, error) {
	now := domain.At(time.Now())
	jwe, err := g.jwk.SealCredential(g.asked, credential, now)
	if err != nil {
		return nil, err
	}
	want := envelope.Expect{Typ: envelope.TypCredential, Subject: string(g.bound.ConnectionID), Kids: []string{g.jwk.Kid}}
	if _, err := envelope.Inspect(jwe, want, now); err != nil {
		return nil, err
	}
	return g.sealer.Seal(jwe, g.bound, g.asked)
}

func (g *gates) open(sealed []byte) error {
	fields, err := g.opener.OpenCredentials(sealed, g.jwk.Kid, g.bound, g.asked)
	for _, f := range fields {
		f.Wipe()
	}
	return err
}
