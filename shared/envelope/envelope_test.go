package envelope

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

const canary = "canary-Passw0rd-é"

var (
	testKey  = sync.OnceValue(newTestKey)
	otherKey = sync.OnceValue(newTestKey)
	testNow  = domain.At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	testAs   = domain.Sealing{Subject: "conn_1", Credential: "cred_1", Generation: 3, Nonce: "n-1"}
	testBind = domain.Binding{ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "comdirect"}
)

func codeAs(c domain.ChallengeID) domain.Sealing {
	return domain.Sealing{Subject: string(c), Generation: 2, Nonce: "n-2"}
}

func newTestKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, innerBits)
	if err != nil {
		panic(err)
	}
	return key
}

func newAEAD(t testing.TB) tink.AEAD {
	t.Helper()
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	a, err := aead.New(h)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testJWK() JWK { return PublicJWK(&testKey().PublicKey) }

func testKid() string { return testJWK().Kid }

func innerKeys() (map[string]crypto.Decrypter, error) {
	return map[string]crypto.Decrypter{testKid(): innerHalf{testKey()}}, nil
}

// credentialHeader is what the browser writes, for tests that spoil it.
func credentialHeader() string {
	return fmt.Sprintf(`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"%s","typ":"sluis-credential+jwe","iat":%d,"sub":"conn_1","cid":"cred_1","gen":3,"nonce":"n-1"}`,
		testKid(), testNow.Unix())
}

// forge seals payload properly under any header, so that the header alone is at fault.
func forge(t testing.TB, protected, payload string) string {
	t.Helper()
	typ := TypCredential
	if strings.Contains(protected, string(TypCode)) {
		typ = TypCode
	}
	return forgeBare(t, protected, string(pad([]byte(payload), typ.block())))
}

// forgeBare is forge for a payload that is not filled up, or not as it should be.
func forgeBare(t testing.TB, protected, payload string) string {
	t.Helper()
	cek, iv := make([]byte, 32), make([]byte, 12)
	rand.Read(cek)
	rand.Read(iv)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &testKey().PublicKey, cek, nil)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	sealed := gcm(t, cek).Seal(nil, iv, []byte(payload), []byte(b64([]byte(protected))))
	cut := len(sealed) - tagSize
	return strings.Join([]string{b64([]byte(protected)), b64(wrapped), b64(iv), b64(sealed[:cut]), b64(sealed[cut:])}, ".")
}

func gcm(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// joseSeal seals with go-jose in ways that ours never would.
func joseSeal(t testing.TB, enc jose.ContentEncryption, alg jose.KeyAlgorithm, key any, zip jose.CompressionAlgorithm) *jose.JSONWebEncryption {
	t.Helper()
	o := &jose.EncrypterOptions{Compression: zip}
	o.WithType(jose.ContentType(TypCredential)).WithHeader("iat", testNow.Unix()).WithHeader("sub", "conn_1").
		WithHeader("cid", "cred_1").WithHeader("gen", 3).WithHeader("nonce", "n-1")
	e, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: key, KeyID: testKid()}, o)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := e.Encrypt([]byte(`{"username":"1","password":"2"}`))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func compact(t testing.TB, j *jose.JSONWebEncryption) string {
	t.Helper()
	s, err := j.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sealTest(t testing.TB, fields map[string]string) string {
	t.Helper()
	jwe, err := testJWK().SealCredential(testAs, fields, testNow)
	if err != nil {
		t.Fatal(err)
	}
	return jwe
}

func credentialWant() Expect {
	return Expect{Typ: TypCredential, Subject: "conn_1", Kids: []string{testKid()}}
}

func TestCredentialPassesBothGates(t *testing.T) {
	outer := newAEAD(t)
	jwe := sealTest(t, map[string]string{"username": "12345678", "password": canary + "<&>\"\\\n\u2028😀"})
	told, err := Inspect(jwe, credentialWant(), testNow)
	if err != nil || told != (Told{testKid(), testAs}) {
		t.Fatalf("Inspect = %+v, %v", told, err)
	}
	sealed, err := NewSealer(outer).Seal(jwe, testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte(jwe[:20])) {
		t.Error("the outer gate let the JWE show through")
	}
	fields, err := NewOpener(outer, innerKeys).OpenCredentials(sealed, told.Kid, testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	if len(fields) != 2 || string(fields["username"].Reveal()) != "12345678" ||
		string(fields["password"].Reveal()) != canary+"<&>\"\\\n\u2028😀" {
		t.Error("other fields came out than went in")
	}
}

func TestCodePassesInnerGate(t *testing.T) {
	jwe, err := testJWK().SealCode(codeAs("chal_1"), "123456", testNow)
	if err != nil {
		t.Fatal(err)
	}
	o := NewOpener(newAEAD(t), innerKeys)
	code, err := o.OpenCode(jwe, codeAs("chal_1"), testNow.Add(MaxSealedAge))
	if err != nil || string(code.Reveal()) != "123456" {
		t.Fatalf("OpenCode = %d bytes, %v", code.Len(), err)
	}
}

func TestThumbprintIsRFC7638(t *testing.T) {
	want, err := (&jose.JSONWebKey{Key: &testKey().PublicKey}).Thumbprint(crypto.SHA256)
	if err != nil || base64.RawURLEncoding.EncodeToString(want) != testKid() {
		t.Errorf("kid %s is not the thumbprint go-jose finds (%v)", testKid(), err)
	}
}
