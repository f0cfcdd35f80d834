// Package seal checks the browser's sealing module against two others that speak JWE: jose from npm, and ours in Go.
// What one closes the others open.
package seal

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

const module = "../../functions/consent/static/seal.js"

var (
	now  = domain.At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	bind = domain.Binding{ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "comdirect"}

	private = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 4096)
		if err != nil {
			panic(err)
		}
		return key
	})
)

// login and code are what the page is told to seal.
var (
	login = domain.Sealing{Subject: "conn_1", Credential: "cred_1", Generation: 3, Nonce: "n-1"}
	code  = domain.Sealing{Subject: "chal_1", Generation: 2, Nonce: "n-2"}
)

// through is an outer gate that is always open: these tests are about the inner one.
type through struct{}

func (through) Decrypt(sealed, _ []byte) ([]byte, error) { return bytes.Clone(sealed), nil }

func public() envelope.JWK {
	return envelope.PublicJWK(&private().PublicKey)
}

func opener() *envelope.Opener {
	return envelope.NewOpener(through{}, func() (map[string]crypto.Decrypter, error) {
		return map[string]crypto.Decrypter{public().Kid: private()}, nil
	})
}

// fields are awkward on purpose: everything that JSON escapes, and more than one byte a character.
var fields = map[string]string{"username": "12345678", "password": "pässwörd \"<&>\\/'\u2028\t\n😀 \x7f"}

// asker asks the script one thing and reads its answer.
type asker func(question map[string]any, answer any)

// node is a directory in which the script runs: the sealing module as it is, and jose.
func node(t *testing.T) asker {
	t.Helper()
	program := need(t, "node")
	dir := t.TempDir()
	for from, to := range map[string]string{module: "seal.mjs", "interop.mjs": "interop.mjs", "package.json": "package.json", "package-lock.json": "package-lock.json"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install(t, dir)
	return func(question map[string]any, answer any) {
		t.Helper()
		text, err := json.Marshal(question)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "interop.mjs")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(text)
		var failure bytes.Buffer
		cmd.Stderr = &failure
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", question["do"], err, failure.String())
		}
		if err := json.Unmarshal(out, answer); err != nil {
			t.Fatalf("%s: %v", question["do"], err)
		}
	}
}

// install takes the packages beside this test where there are any, and gets them where not.
func install(t *testing.T, dir string) {
	t.Helper()
	if here, err := filepath.Abs("node_modules"); err == nil {
		if _, err := os.Stat(filepath.Join(here, "jose", "package.json")); err == nil {
			if err := os.Symlink(here, filepath.Join(dir, "node_modules")); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	cmd := exec.Command(need(t, "npm"), "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("npm ci: %v\n%s", err, out))
	}
}

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		missing(t, program+" is not installed")
	}
	return path
}

// missing skips the test, but not where everything is to be tested.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SLUIS_FULL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// privateJWK is the private key for jose.
func privateJWK(t *testing.T) json.RawMessage {
	t.Helper()
	text, err := (&jose.JSONWebKey{Key: private(), KeyID: public().Kid, Algorithm: envelope.AlgInner, Use: "enc"}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type sealed struct{ JWE string }

type opened struct {
	Header map[string]any
	Bytes  []byte
}

// text is the payload, whose filling must be a byte 0x80 and zeros up to the block.
func (o opened) text(t *testing.T, block int) string {
	t.Helper()
	text, filling, found := bytes.Cut(o.Bytes, []byte{0x80, 0})
	if !found || len(o.Bytes)%block != 0 || len(text)+block < len(o.Bytes) || len(bytes.Trim(filling, "\x00")) > 0 {
		t.Errorf("%q is not filled up to blocks of %d", o.Bytes, block)
	}
	return string(text)
}

// known is what the page knows of our keys: another one's thumbprint and this one's.
func known() []string { return []string{strings.Repeat("A", 43), public().Kid} }

// checkHeader compares with the only header that may be.
func checkHeader(t *testing.T, got map[string]any, typ envelope.Typ, as domain.Sealing) {
	t.Helper()
	want := map[string]any{"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": public().Kid, "typ": string(typ), "iat": float64(now.Unix()),
		"sub": as.Subject, "gen": float64(as.Generation), "nonce": as.Nonce}
	if as.Credential != "" {
		want["cid"] = string(as.Credential)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("header %v; want %v", got, want)
	}
}

// checkOpens puts a credential through Inspect and the Opener.
func checkOpens(t *testing.T, jwe string) {
	t.Helper()
	told, err := envelope.Inspect(jwe, envelope.Expect{Typ: envelope.TypCredential, Subject: "conn_1", Kids: []string{public().Kid}}, now)
	if err != nil {
		t.Fatal(err)
	}
	if told.Sealing != login {
		t.Errorf("it says that it was sealed as %+v", told.Sealing)
	}
	got, err := opener().OpenCredentials([]byte(jwe), told.Kid, bind, login)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(fields) {
		t.Errorf("%d fields; want %d", len(got), len(fields))
	}
	for name, want := range fields {
		if string(got[name].Reveal()) != want {
			t.Errorf("%s = %q; want %q", name, got[name].Reveal(), want)
		}
	}
}

func checkText(t *testing.T, text string) {
	t.Helper()
	var got map[string]string
	if err := json.Unmarshal([]byte(text), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(fields) {
		t.Errorf("payload %q, %v; want %q", text, err, fields)
	}
}

func TestInterop(t *testing.T) {
	ask := node(t)
	for name, test := range map[string]func(*testing.T, asker){
		"Browser credential opens everywhere": browserCredentialOpensEverywhere,
		"Browser code opens everywhere":       browserCodeOpensEverywhere,
		"Browser seals by its own clock":      browserSealsByItsOwnClock,
		"Jose credential opens with ours":     joseCredentialOpensWithOurs,
		"Our credential opens with jose":      ourCredentialOpensWithJose,
		"Browser overwrites its buffers":      browserOverwritesItsBuffers,
		"Browser hides lengths":               browserHidesLengths,
		"Browser refuses foreign keys":        browserRefusesForeignKeys,
	} {
		t.Run(name, func(t *testing.T) { test(t, ask) })
	}
}

func browserCredentialOpensEverywhere(t *testing.T, ask asker) {
	var s sealed
	// A fraction more: iat is whole seconds.
	ask(map[string]any{"do": "seal", "jwk": public(), "known": known(), "typ": envelope.TypCredential, "sub": "conn_1", "cid": "cred_1", "gen": 3, "nonce": "n-1", "now": float64(now.Unix()) + 0.999, "payload": fields}, &s)
	checkOpens(t, s.JWE)
	var o opened
	ask(map[string]any{"do": "decrypt", "jwk": privateJWK(t), "jwe": s.JWE}, &o)
	checkHeader(t, o.Header, envelope.TypCredential, login)
	checkText(t, o.text(t, envelope.BlockCredential))
}

func browserCodeOpensEverywhere(t *testing.T, ask asker) {
	for _, text := range []string{"123456", "0", "é-😀 42"} {
		var s sealed
		ask(map[string]any{"do": "seal", "jwk": public(), "known": known(), "typ": envelope.TypCode, "sub": "chal_1", "now": now.Unix(), "payload": text, "gen": 2, "nonce": "n-2"}, &s)
		got, err := opener().OpenCode(s.JWE, code, now)
		if err != nil || string(got.Reveal()) != text {
			t.Errorf("OpenCode = %q, %v; want %q", got.Reveal(), err, text)
		}
		var o opened
		ask(map[string]any{"do": "decrypt", "jwk": privateJWK(t), "jwe": s.JWE}, &o)
		checkHeader(t, o.Header, envelope.TypCode, code)
		if got := o.text(t, envelope.BlockCode); got != text {
			t.Errorf("jose opens %q; want %q", got, text)
		}
	}
}

func browserSealsByItsOwnClock(t *testing.T, ask asker) {
	var s sealed
	ask(map[string]any{"do": "seal", "jwk": public(), "known": known(), "typ": envelope.TypCredential, "sub": "conn_1", "cid": "cred_1", "gen": 3, "nonce": "n-1", "payload": fields}, &s)
	want := envelope.Expect{Typ: envelope.TypCredential, Subject: "conn_1", Kids: []string{public().Kid}}
	if _, err := envelope.Inspect(s.JWE, want, domain.Env{}.Now()); err != nil {
		t.Error(err)
	}
}

func joseCredentialOpensWithOurs(t *testing.T, ask asker) {
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	header := map[string]any{"alg": envelope.AlgInner, "enc": envelope.EncInner, "kid": public().Kid, "typ": envelope.TypCredential, "iat": now.Unix(), "sub": "conn_1", "cid": "cred_1", "gen": 3, "nonce": "n-1"}
	var s sealed
	ask(map[string]any{"do": "encrypt", "jwk": public(), "header": header, "text": string(text), "block": envelope.BlockCredential}, &s)
	checkOpens(t, s.JWE)
}

func ourCredentialOpensWithJose(t *testing.T, ask asker) {
	jwe, err := public().SealCredential(login, fields, now)
	if err != nil {
		t.Fatal(err)
	}
	checkOpens(t, jwe)
	var o opened
	ask(map[string]any{"do": "decrypt", "jwk": privateJWK(t), "jwe": jwe}, &o)
	checkHeader(t, o.Header, envelope.TypCredential, login)
	checkText(t, o.text(t, envelope.BlockCredential))
}

func browserOverwritesItsBuffers(t *testing.T, ask asker) {
	var seen struct{ Left, Watched int }
	ask(map[string]any{"do": "spy", "jwk": public(), "known": known(), "typ": envelope.TypCredential, "sub": "conn_1", "cid": "cred_1", "gen": 3, "nonce": "n-1", "now": now.Unix(), "payload": fields}, &seen)
	if seen.Watched != 4 || seen.Left != 0 {
		t.Errorf("%d of %d buffers with secrets were left; want 0 of 4", seen.Left, seen.Watched)
	}
}

// browserHidesLengths: whatever is typed, what is sealed is as long.
func browserHidesLengths(t *testing.T, ask asker) {
	length := func(typ envelope.Typ, payload any) int {
		var s sealed
		ask(map[string]any{"do": "seal", "jwk": public(), "known": known(), "typ": typ, "sub": "x", "now": now.Unix(), "payload": payload}, &s)
		return len(s.JWE)
	}
	if a, b := length(envelope.TypCredential, map[string]string{"p": "1"}), length(envelope.TypCredential, map[string]string{"p": strings.Repeat("1", 200)}); a != b {
		t.Errorf("credentials of two lengths are sealed to %d and %d characters", a, b)
	}
	if a, b := length(envelope.TypCode, "1"), length(envelope.TypCode, strings.Repeat("1", 63)); a != b {
		t.Errorf("codes of two lengths are sealed to %d and %d characters", a, b)
	}
}

// browserRefusesForeignKeys: a sealing function that hands out a key of its own gets nothing. Nothing is encrypted, and
// no key is even read.
func browserRefusesForeignKeys(t *testing.T, ask asker) {
	swapped, small := mustKey(t, 4096), mustKey(t, 2048)
	with := func(change func(map[string]any)) map[string]any {
		var members map[string]any
		text, err := json.Marshal(public())
		if err := errors.Join(err, json.Unmarshal(text, &members)); err != nil {
			t.Fatal(err)
		}
		change(members)
		return members
	}
	of := func(key *rsa.PublicKey, kid string) envelope.JWK {
		k := envelope.PublicJWK(key)
		k.Kid = kid
		return k
	}
	both := append(known(), envelope.Thumbprint(small), envelope.Thumbprint(swapped))
	for _, c := range []struct {
		name  string
		jwk   any
		known any
	}{
		{"another key under the name of ours", of(swapped, public().Kid), known()},
		{"another key under its own name", envelope.PublicJWK(swapped), known()},
		{"2048 bits under the name of ours", of(small, public().Kid), known()},
		{"2048 bits, known", envelope.PublicJWK(small), both},
		{"our key under the name of another that is known", of(&private().PublicKey, both[3]), both},
		{"our key under no name", with(func(m map[string]any) { delete(m, "kid") }), known()},
		{"another type", with(func(m map[string]any) { m["kty"] = "EC" }), known()},
		{"a symmetric key", map[string]any{"kty": "oct", "k": "AAAA", "kid": public().Kid, "alg": "A256GCM", "use": "enc"}, known()},
		{"SHA-1", with(func(m map[string]any) { m["alg"] = "RSA-OAEP" }), known()},
		{"for signatures", with(func(m map[string]any) { m["use"] = "sig" }), known()},
		{"another use of it", with(func(m map[string]any) { m["key_ops"] = []string{"encrypt", "wrapKey"} }), known()},
		{"a member more", with(func(m map[string]any) { m["x5u"] = "https://x.example" }), known()},
		{"a private member", with(func(m map[string]any) { m["d"] = "AQAB" }), known()},
		{"exponent 1", with(func(m map[string]any) { m["e"] = "AQ" }), known()},
		{"a modulus that is no text", with(func(m map[string]any) { m["n"] = []any{m["n"]} }), known()},
		{"the modulus, padded", with(func(m map[string]any) { m["n"] = m["n"].(string) + "=" }), known()},
		{"leading zeros", with(func(m map[string]any) { m["n"] = "AAAA" + m["n"].(string) }), known()},
		{"no key", nil, known()},
		{"text", "jwk", known()},
		{"a page that knows no key", public(), []string{}},
		{"a page that knows nothing", public(), nil},
		{"a page whose list is text", public(), "x" + public().Kid},
	} {
		var seen struct {
			Code    string
			Touched int
			JWE     string
		}
		ask(map[string]any{"do": "refuse", "jwk": c.jwk, "known": c.known, "typ": envelope.TypCredential, "sub": "conn_1", "cid": "cred_1", "gen": 3, "nonce": "n-1", "now": now.Unix(), "payload": fields}, &seen)
		if seen.Code != "key_foreign" || seen.Touched != 0 || seen.JWE != "" {
			t.Errorf("%s: refused as %q, %d keys and texts went into WebCrypto", c.name, seen.Code, seen.Touched)
		}
	}
}

func mustKey(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

// TestModuleStandsAlone: on a page that takes a password nothing may be loaded from anywhere, nor sent.
func TestModuleStandsAlone(t *testing.T) {
	source, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	for _, forbidden := range []string{"import ", "import(", "require(", "fetch(", "XMLHttpRequest", "localStorage", "sessionStorage", "console.", "eval("} {
		if bytes.Contains(source, []byte(forbidden)) {
			t.Errorf("the sealing module has %q in it", strings.TrimSpace(forbidden))
		}
	}
}
