package envelope

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
)

// refusals are JWEs that must be refused for what they are, by Inspect and, behind the outer gate, by the Opener.
func refusals(t testing.TB) []refusal {
	h, good := credentialHeader(), `{"username":"1"}`
	public, symmetric := &testKey().PublicKey, make([]byte, 32)
	rand.Read(symmetric)
	with := func(old, new string) string { return forge(t, strings.Replace(h, old, new, 1), good) }
	parts := strings.Split(forge(t, h, good), ".")
	swap := func(i int, part string) string {
		p := append([]string{}, parts...)
		p[i] = part
		return strings.Join(p, ".")
	}
	cases := []refusal{
		{"RSA1_5", compact(t, joseSeal(t, jose.A256GCM, jose.RSA1_5, public, "")), ErrAlg},
		{"RSA-OAEP with SHA-1", compact(t, joseSeal(t, jose.A256GCM, jose.RSA_OAEP, public, "")), ErrAlg},
		{"dir", compact(t, joseSeal(t, jose.A256GCM, jose.DIRECT, symmetric, "")), ErrAlg},
		{"A256KW", compact(t, joseSeal(t, jose.A256GCM, jose.A256KW, symmetric, "")), ErrAlg},
		{"alg none", with(`"RSA-OAEP-256"`, `"none"`), ErrAlg},
		{"alg in lower case", with(`"RSA-OAEP-256"`, `"rsa-oaep-256"`), ErrAlg},
		{"A128GCM", compact(t, joseSeal(t, jose.A128GCM, jose.RSA_OAEP_256, public, "")), ErrEnc},
		{"A192GCM", compact(t, joseSeal(t, jose.A192GCM, jose.RSA_OAEP_256, public, "")), ErrEnc},
		{"A256CBC-HS512", compact(t, joseSeal(t, jose.A256CBC_HS512, jose.RSA_OAEP_256, public, "")), ErrEnc},
		{"zip", compact(t, joseSeal(t, jose.A256GCM, jose.RSA_OAEP_256, public, jose.DEFLATE)), ErrZip},
		{"zip that is null", with(`{`, `{"zip":null,`), ErrZip},
		{"unknown kid", with(testKid(), "another"), ErrKid},
		{"empty kid", with(testKid(), ""), ErrHeader},
		{"wrong subject", with("conn_1", "conn_2"), ErrSubject},
		{"wrong typ", with(string(TypCredential), string(TypCode)), ErrTyp},
		{"typ JWT", with(string(TypCredential), "JWT"), ErrTyp},
		{"duplicate kid", with(`{`, `{"kid":"another",`), ErrHeader},
		{"duplicate alg, escaped", with(`{`, `{"\u0061lg":"RSA1_5",`), ErrHeader},
		{"name in another case", with(`"alg"`, `"Alg"`), ErrHeader},
		{"array as header", forge(t, "["+h+"]", good), ErrHeader},
		{"something after the header", forge(t, h+"{}", good), ErrHeader},
		{"header cut short", forge(t, h[:len(h)-1], good), ErrHeader},
		{"invalid UTF-8 in the header", with("conn_1", "conn_1\xff"), ErrHeader},
		{"header too long", with(`{`, `{`+strings.Repeat(" ", maxHeader)), ErrHeader},
		{"iat as text", with(fmt.Sprint(testNow.Unix()), `"1772366400"`), ErrHeader},
		{"iat with a fraction", with(fmt.Sprint(testNow.Unix()), "1772366400.5"), ErrHeader},
		{"iat with an exponent", with(fmt.Sprint(testNow.Unix()), "1e9"), ErrHeader},
		{"iat below zero", with(fmt.Sprint(testNow.Unix()), "-1"), ErrHeader},
		{"iat in milliseconds", with(fmt.Sprint(testNow.Unix()), "1772366400000"), ErrHeader},
		{"generation 0", with(`"gen":3`, `"gen":0`), ErrHeader},
		{"generation as text", with(`"gen":3`, `"gen":"3"`), ErrHeader},
		{"empty nonce", with("n-1", ""), ErrHeader},
		{"kid as number", with(`"`+testKid()+`"`, "1"), ErrHeader},
		{"kid as object", with(`"`+testKid()+`"`, "{}"), ErrHeader},
		{"JSON serialisation", joseSeal(t, jose.A256GCM, jose.RSA_OAEP_256, public, "").FullSerialize(), ErrMalformed},
		{"empty", "", ErrMalformed},
		{"four parts", strings.Join(parts[:4], "."), ErrMalformed},
		{"six parts", strings.Join(parts, ".") + ".", ErrMalformed},
		{"padding", swap(4, parts[4]+"=="), ErrMalformed},
		{"line break", swap(3, parts[3]+"\n"), ErrMalformed},
		{"standard alphabet", swap(3, "+/+/"), ErrMalformed},
		{"loose bits", swap(4, strings.Repeat("A", 21)+"B"), ErrMalformed},
		{"no key", swap(1, ""), ErrMalformed},
		{"key of an RSA-2048", swap(1, parts[1][:342]), ErrMalformed},
		{"short nonce", swap(2, parts[2][:12]), ErrMalformed},
		{"short tag", swap(4, parts[4][:16]), ErrMalformed},
		{"no content", swap(3, ""), ErrMalformed},
	}
	for _, name := range []string{"crit", "epk", "jwk", "jku", "x5u", "x5c", "cty", "apu", "p2c", "exp", "anything", ""} {
		cases = append(cases, refusal{"extra " + name, with(`{`, `{"`+name+`":"x",`), ErrHeader})
	}
	for _, name := range []string{"alg", "enc", "kid", "typ", "iat", "sub", "cid", "gen", "nonce"} {
		cases = append(cases, refusal{"without " + name, with(`"`+name+`"`, `"other"`), ErrHeader})
	}
	return cases
}

type refusal struct {
	name string
	jwe  string
	want error
}

func TestInspectRefuses(t *testing.T) {
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			if told, err := Inspect(c.jwe, credentialWant(), testNow); !errors.Is(err, c.want) || told != (Told{}) {
				t.Errorf("Inspect = %q, %v; want %v", told.Kid, err, c.want)
			}
		})
	}
}

func TestInspectLimitsSize(t *testing.T) {
	password := strings.Repeat("x", MaxCredentialJWE)
	header := func(typ Typ) string {
		if typ == TypCredential {
			return credentialHeader()
		}
		return strings.NewReplacer(string(TypCredential), string(typ), `,"cid":"cred_1"`, "").Replace(credentialHeader())
	}
	for _, c := range []struct {
		name string
		typ  Typ
		n    int
		want error
	}{
		{"large credential", TypCredential, 10 << 10, nil},
		{"too large credential", TypCredential, MaxCredentialJWE, ErrTooLarge},
		{"large code", TypCode, 500, nil},
		{"too large code", TypCode, MaxCodeJWE, ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			jwe := forge(t, header(c.typ), password[:c.n])
			want := credentialWant()
			want.Typ = c.typ
			if _, err := Inspect(jwe, want, testNow); !errors.Is(err, c.want) {
				t.Errorf("Inspect of %d bytes = %v; want %v", len(jwe), err, c.want)
			}
		})
	}
}

func TestInspectWatchesTheClock(t *testing.T) {
	jwe := sealTest(t, map[string]string{"username": "1"})
	for _, c := range []struct {
		name   string
		later  time.Duration
		maxAge time.Duration
		want   error
	}{
		{"fresh", 0, 0, nil},
		{"just fresh enough", MaxSealedAge, 0, nil},
		{"stale", MaxSealedAge + time.Second, 0, ErrStale},
		{"stale for a stricter door", 11 * time.Second, 10 * time.Second, ErrStale},
		{"clock a little ahead", -MaxSealedAhead, 0, nil},
		{"from the future", -MaxSealedAhead - time.Second, 0, ErrFuture},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := credentialWant()
			want.MaxAge = c.maxAge
			if _, err := Inspect(jwe, want, testNow.Add(c.later)); !errors.Is(err, c.want) {
				t.Errorf("Inspect = %v; want %v", err, c.want)
			}
		})
	}
}

func TestAtNamesTheMember(t *testing.T) {
	var told *domain.Error
	if err := At("/jwe", fmt.Errorf("checking: %w", ErrKid)); !errors.Is(err, ErrKid) || !errors.As(err, &told) || told.Field != "/jwe" {
		t.Errorf("got %v", err)
	}
	if ErrKid.Field != fieldSealed {
		t.Error("the refusal itself was changed")
	}
	for _, other := range []error{nil, errors.New("x"), domain.ErrNotFound, domain.Invalidf("/kind", "want another")} {
		if got := At("/jwe", other); got != other {
			t.Errorf("%v became %v", other, got)
		}
	}
}

func TestRefusalsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range []*domain.Error{ErrTooLarge, ErrMalformed, ErrHeader, ErrAlg, ErrEnc, ErrZip, ErrKid, ErrTyp, ErrSubject, ErrSealing, ErrPadding,
		ErrStale, ErrFuture, ErrOuter, ErrInner, ErrPayload, ErrSealed, ErrPartTooLarge} {
		if seen[e.Code] || e.Message == "" {
			t.Errorf("%s is not its own or says no remedy", e.Code)
		}
		seen[e.Code] = true
	}
}

// FuzzInspect compares with go-jose: what Inspect lets pass must be what go-jose would open, key and all. Its seeds
// hold nothing but zeroes behind the header, so that every fuzzing process has the same.
func FuzzInspect(f *testing.F) {
	b64 := base64.RawURLEncoding.EncodeToString
	header := `{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"k","typ":"sluis-credential+jwe","iat":1772366400,"sub":"conn_1","cid":"c","gen":1,"nonce":"n"}`
	rest := "." + b64(make([]byte, innerKeySize)) + "." + b64(make([]byte, nonceSize)) + "." + b64(make([]byte, BlockCredential)) + "." + b64(make([]byte, tagSize))
	want := Expect{Typ: TypCredential, Subject: "conn_1", Kids: []string{"k"}}
	if _, err := Inspect(b64([]byte(header))+rest, want, testNow); err != nil {
		f.Fatalf("the first seed is refused: %v", err)
	}
	for _, h := range []string{header, header + " ", header[1:], strings.Replace(header, "{", `{"zip":"DEF",`, 1),
		strings.Replace(header, "{", `{"kid":"k",`, 1), strings.Replace(header, "sub", "s\\u0075b", 1), strings.ReplaceAll(header, ",", " ,\t")} {
		f.Add(b64([]byte(h)) + rest)
	}
	f.Add("....")
	f.Add(`{"protected":""}`)
	f.Fuzz(func(t *testing.T, jwe string) {
		told, err := Inspect(jwe, want, testNow)
		if err != nil {
			var refusal *domain.Error
			if !errors.As(err, &refusal) || refusal.Field != "sealed" || told != (Told{}) {
				t.Errorf("refused without a reason of ours: %+v, %v", told, err)
			}
			return
		}
		parsed, err := jose.ParseEncryptedCompact(jwe, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil || parsed.Header.KeyID != told.Kid || parsed.Header.Algorithm != AlgInner || parsed.Header.ExtraHeaders["sub"] != "conn_1" {
			t.Errorf("let pass what go-jose reads otherwise: %v", err)
		}
	})
}
