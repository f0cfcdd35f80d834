package envelope

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/shared/domain"
)

// keeper stands before a key, remembers what it gave, and may fail.
type keeper struct {
	outer tink.AEAD
	fail  error
	gave  [][]byte
}

func (k *keeper) Decrypt(sealed, label []byte) ([]byte, error) {
	if k.fail != nil {
		return nil, k.fail
	}
	plain, err := k.outer.Decrypt(sealed, label)
	k.gave = append(k.gave, plain)
	return plain, err
}

// innerKeeper is a keeper of the inner gate.
type innerKeeper struct {
	innerHalf
	fail error
	gave [][]byte
}

func (k *innerKeeper) Decrypt(r io.Reader, sealed []byte, o crypto.DecrypterOpts) ([]byte, error) {
	if k.fail != nil {
		return nil, k.fail
	}
	plain, err := k.innerHalf.Decrypt(r, sealed, o)
	k.gave = append(k.gave, plain)
	return plain, err
}

func (k *innerKeeper) keys() (map[string]crypto.Decrypter, error) {
	return map[string]crypto.Decrypter{testKid(): k}, nil
}

// behindOuter closes the outer gate over anything, as somebody could who got hold of the sealing function.
func behindOuter(t testing.TB, outer tink.AEAD, jwe string) []byte {
	t.Helper()
	label, err := credentialLabel(testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := outer.Encrypt([]byte(jwe), label)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestOpenerRefusesWhatInspectDoes(t *testing.T) {
	outer := newAEAD(t)
	o := NewOpener(outer, innerKeys)
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			fields, err := o.OpenCredentials(behindOuter(t, outer, c.jwe), testKid(), testBind, testAs)
			if !errors.Is(err, c.want) || fields != nil {
				t.Errorf("OpenCredentials = %v, %v; want %v", fields, err, c.want)
			}
		})
	}
}

func TestStoredCredentialMayBeOld(t *testing.T) {
	outer := newAEAD(t)
	old := strings.Replace(credentialHeader(), fmt.Sprint(testNow.Unix()), "1000000000", 1)
	fields, err := NewOpener(outer, innerKeys).OpenCredentials(behindOuter(t, outer, forge(t, old, `{"username":"1"}`)), testKid(), testBind, testAs)
	if err != nil || len(fields) != 1 {
		t.Errorf("OpenCredentials = %v, %v", fields, err)
	}
}

func TestTamperingWithAnyPart(t *testing.T) {
	outer := newAEAD(t)
	o := NewOpener(outer, innerKeys)
	parts := strings.Split(sealTest(t, map[string]string{"username": "1", "password": canary}), ".")
	names := []string{"header", "encrypted key", "nonce", "ciphertext", "tag"}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			raw, _ := decodePart(parts[i])
			want := ErrInner
			if i == 0 { // a header that is as good as the right one, but not the one that was sealed
				raw = bytes.Replace(raw, fmt.Append(nil, testNow.Unix()), fmt.Append(nil, testNow.Unix()+1), 1)
			} else {
				raw[len(raw)/2] ^= 1
			}
			spoiled := slices.Clone(parts)
			spoiled[i] = base64.RawURLEncoding.EncodeToString(raw)
			jwe := strings.Join(spoiled, ".")
			if _, err := Inspect(jwe, credentialWant(), testNow); err != nil {
				t.Fatalf("Inspect saw it without a key: %v", err)
			}
			fields, err := o.OpenCredentials(behindOuter(t, outer, jwe), testKid(), testBind, testAs)
			if !errors.Is(err, want) || fields != nil {
				t.Errorf("OpenCredentials = %v, %v; want %v", fields, err, want)
			}
		})
	}
	t.Run("outer ciphertext", func(t *testing.T) {
		sealed := behindOuter(t, outer, strings.Join(parts, "."))
		for i := 0; i < len(sealed); i += 7 {
			spoiled := bytes.Clone(sealed)
			spoiled[i] ^= 1
			if _, err := o.OpenCredentials(spoiled, testKid(), testBind, testAs); !errors.Is(err, ErrOuter) {
				t.Fatalf("byte %d: %v; want %v", i, err, ErrOuter)
			}
			if _, err := o.OpenCredentials(sealed[:i], testKid(), testBind, testAs); !errors.Is(err, ErrOuter) {
				t.Fatalf("cut at %d: %v; want %v", i, err, ErrOuter)
			}
		}
		if _, err := o.OpenCredentials(make([]byte, MaxCredentialJWE*2), testKid(), testBind, testAs); !errors.Is(err, ErrTooLarge) {
			t.Errorf("oversized: %v; want %v", err, ErrTooLarge)
		}
	})
}

func TestSwappingWhatIsBound(t *testing.T) {
	outer := newAEAD(t)
	o, s := NewOpener(outer, innerKeys), NewSealer(outer)
	jwe := sealTest(t, map[string]string{"username": "1"})
	sealed, err := s.Seal(jwe, testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		swap func(*domain.Binding)
	}{
		{"client", func(b *domain.Binding) { b.ClientID = "cli_2" }},
		{"consent", func(b *domain.Binding) { b.ConsentID = "con_2" }},
		{"connection", func(b *domain.Binding) { b.ConnectionID = "conn_2" }},
		{"custodian", func(b *domain.Binding) { b.Custodian = "other" }},
		{"two of them", func(b *domain.Binding) { b.ClientID, b.ConsentID = "con_1", "cli_1" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := testBind
			c.swap(&b)
			if _, err := o.OpenCredentials(sealed, testKid(), b, testAs); !errors.Is(err, ErrOuter) {
				t.Errorf("OpenCredentials = %v; want %v", err, ErrOuter)
			}
		})
	}
	t.Run("sealed again for another connection", func(t *testing.T) {
		b := testBind
		b.ConnectionID = "conn_2"
		again, err := s.Seal(jwe, b, testAs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.OpenCredentials(again, testKid(), b, testAs); !errors.Is(err, ErrSubject) {
			t.Errorf("OpenCredentials = %v; want %v", err, ErrSubject)
		}
	})
	for i := range reflect.TypeFor[domain.Binding]().NumField() {
		b := testBind
		reflect.ValueOf(&b).Elem().Field(i).SetString("")
		if _, err := s.Seal(jwe, b, testAs); err == nil {
			t.Errorf("sealed with field %d of the binding empty", i)
		}
		if _, err := o.OpenCredentials(sealed, testKid(), b, testAs); err == nil {
			t.Errorf("opened with field %d of the binding empty", i)
		}
	}
}

// TestOlderCredentialDoesNotOpen: an earlier login of the same connection, put back in the place of a newer one, stays
// shut, whatever its row says; and so does one that a sealer closed under another name than the browser did.
func TestOlderCredentialDoesNotOpen(t *testing.T) {
	outer := newAEAD(t)
	o, s := NewOpener(outer, innerKeys), NewSealer(outer)
	jwe := sealTest(t, map[string]string{"username": "1"})
	sealed, err := s.Seal(jwe, testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		as    func(*domain.Sealing)
		again error // where the outer gate was closed under that name, too
	}{
		{"a newer generation", func(s *domain.Sealing) { s.Generation++ }, ErrSealing},
		{"an older generation", func(s *domain.Sealing) { s.Generation-- }, ErrSealing},
		{"another credential", func(s *domain.Sealing) { s.Credential = "cred_2" }, ErrSealing},
		{"one of an earlier build", func(s *domain.Sealing) { s.Generation = 0 }, nil},
		{"one without a name", func(s *domain.Sealing) { s.Credential = "" }, nil},
	} {
		as := testAs
		c.as(&as)
		if _, err := o.OpenCredentials(sealed, testKid(), testBind, as); err == nil || c.again != nil && !errors.Is(err, ErrOuter) {
			t.Errorf("%s: OpenCredentials = %v; want %v", c.name, err, ErrOuter)
		}
		again, err := s.Seal(jwe, testBind, as)
		if (err == nil) != (c.again != nil) {
			t.Errorf("%s: Seal = %v", c.name, err)
		}
		if err != nil {
			continue
		}
		if _, err := o.OpenCredentials(again, testKid(), testBind, as); !errors.Is(err, c.again) {
			t.Errorf("%s, closed so: OpenCredentials = %v; want %v", c.name, err, c.again)
		}
	}
	as := testAs
	as.Nonce = "n-2"
	if _, err := o.OpenCredentials(sealed, testKid(), testBind, as); !errors.Is(err, ErrSealing) {
		t.Errorf("another nonce: OpenCredentials = %v; want %v", err, ErrSealing)
	}
	code, err := testJWK().SealCode(codeAs("chal_1"), "123456", testNow)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []domain.Sealing{{Subject: "chal_1", Generation: 3, Nonce: "n-2"}, {Subject: "chal_1", Generation: 2, Nonce: "n-1"}} {
		if _, err := o.OpenCode(code, other, testNow); !errors.Is(err, ErrSealing) {
			t.Errorf("OpenCode as %+v = %v; want %v", other, err, ErrSealing)
		}
	}
}

func TestOpenerKnowsItsKeys(t *testing.T) {
	outer := newAEAD(t)
	o := NewOpener(outer, innerKeys)
	other := PublicJWK(&otherKey().PublicKey)
	foreign, err := other.SealCredential(testAs, map[string]string{"username": "1"}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.OpenCredentials(behindOuter(t, outer, foreign), other.Kid, testBind, testAs); !errors.Is(err, ErrKid) {
		t.Errorf("a key that is not ours: %v; want %v", err, ErrKid)
	}
	other.Kid = testKid()
	lying, err := other.SealCredential(testAs, map[string]string{"username": "1"}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.OpenCredentials(behindOuter(t, outer, lying), testKid(), testBind, testAs); !errors.Is(err, ErrInner) {
		t.Errorf("a key under our kid that is not ours: %v; want %v", err, ErrInner)
	}
	broken := NewOpener(outer, func() (map[string]crypto.Decrypter, error) { return nil, io.ErrUnexpectedEOF })
	if _, err := broken.OpenCredentials(behindOuter(t, outer, foreign), testKid(), testBind, testAs); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("keys that cannot be read: %v", err)
	}
	if _, err := broken.OpenCode("", codeAs("chal_1"), testNow); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("keys that cannot be read: %v", err)
	}
}

func TestUnreachableKeeperIsNoBadCredential(t *testing.T) {
	away := &domain.Error{Kind: domain.Unavailable, Code: "kms_unavailable"}
	outer, inner := &keeper{outer: newAEAD(t)}, &innerKeeper{innerHalf: innerHalf{testKey()}}
	o := NewOpener(outer, inner.keys)
	sealed := behindOuter(t, outer.outer, sealTest(t, map[string]string{"username": "1"}))
	for _, c := range []struct {
		name         string
		outer, inner error
		want, not    error
	}{
		{"outer away", away, nil, away, ErrOuter},
		{"inner away", nil, away, away, ErrInner},
		{"outer refuses", io.EOF, nil, ErrOuter, away},
		{"inner refuses", nil, io.EOF, ErrInner, away},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer.fail, inner.fail = c.outer, c.inner
			if _, err := o.OpenCredentials(sealed, testKid(), testBind, testAs); !errors.Is(err, c.want) || errors.Is(err, c.not) {
				t.Errorf("OpenCredentials = %v; want %v", err, c.want)
			}
		})
	}
}

func TestPayloads(t *testing.T) {
	outer := newAEAD(t)
	o := NewOpener(outer, innerKeys)
	many := make(map[string]string)
	for i := range MaxFields + 1 {
		many[fmt.Sprintf("field%d", i)] = "x"
	}
	tooMany, _ := json.Marshal(many)
	for _, c := range []struct{ name, payload string }{
		{"nothing but space", " "}, {"no JSON", canary}, {"a string", `"` + canary + `"`}, {"an array", `["` + canary + `"]`},
		{"null", "null"}, {"an empty object", "{}"}, {"a number in it", `{"username":1}`}, {"null in it", `{"username":null}`},
		{"an object in it", `{"username":{"a":"b"}}`}, {"twice the same", `{"username":"1","username":"2"}`},
		{"twice the same, escaped", `{"username":"1","usern\u0061me":"2"}`}, {"no name", `{"":"1"}`}, {"cut short", `{"username":"1"`},
		{"comma at the end", `{"username":"1",}`}, {"comma at the start", `{,"username":"1"}`}, {"no colon", `{"username" "1"}`},
		{"more after it", `{"username":"1"} {}`}, {"open string", `{"username":"1`}, {"line break in a string", "{\"username\":\"1\n\"}"},
		{"unknown escape", `{"username":"\x41"}`}, {"short escape", `{"username":"\u12"}`}, {"lone surrogate", `{"username":"\ud800"}`},
		{"two high surrogates", `{"username":"\ud800\ud800"}`}, {"lone low surrogate", `{"username":"\udc00"}`},
		{"invalid UTF-8", "{\"username\":\"\xff\"}"}, {"byte order mark", "\ufeff{\"username\":\"1\"}"},
		{"long value", `{"username":"` + strings.Repeat("x", MaxFieldValue+1) + `"}`},
		{"long name", `{"` + strings.Repeat("x", MaxFieldName+1) + `":"1"}`}, {"too many", string(tooMany)},
	} {
		t.Run(c.name, func(t *testing.T) {
			fields, err := o.OpenCredentials(behindOuter(t, outer, forge(t, credentialHeader(), c.payload)), testKid(), testBind, testAs)
			if !errors.Is(err, ErrPayload) || fields != nil {
				t.Errorf("OpenCredentials = %v, %v; want %v", fields, err, ErrPayload)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Error("the error tells the secret")
			}
		})
	}
}

func TestOpenCodeRefuses(t *testing.T) {
	o := NewOpener(newAEAD(t), innerKeys)
	seal := func(challenge domain.ChallengeID, code string) string {
		jwe, err := testJWK().SealCode(codeAs(challenge), code, testNow)
		if err != nil {
			t.Fatal(err)
		}
		return jwe
	}
	for _, c := range []struct {
		name string
		jwe  string
		at   domain.Time
		want error
	}{
		{"good", seal("chal_1", "123456"), testNow, nil},
		{"good, longest", seal("chal_1", strings.Repeat("é", MaxCode/2)), testNow, nil},
		{"another challenge's", seal("chal_2", "123456"), testNow, ErrSubject},
		{"stale", seal("chal_1", "123456"), testNow.Add(MaxSealedAge + 1e9), ErrStale},
		{"from the future", seal("chal_1", "123456"), testNow.Add(-MaxSealedAhead - 1e9), ErrFuture},
		{"a credential", sealTest(t, map[string]string{"username": "1"}), testNow, ErrTyp},
		{"empty", seal("chal_1", ""), testNow, ErrPayload},
		{"too long", seal("chal_1", strings.Repeat("1", MaxCode+1)), testNow, ErrPayload},
		{"line break", seal("chal_1", "123\n456"), testNow, ErrPayload},
		{"invalid UTF-8", seal("chal_1", "\xff"), testNow, ErrPayload},
		{"oversized", seal("chal_1", strings.Repeat("1", MaxCodeJWE)), testNow, ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := o.OpenCode(c.jwe, codeAs("chal_1"), c.at); !errors.Is(err, c.want) {
				t.Errorf("OpenCode = %v; want %v", err, c.want)
			}
		})
	}
}

// TestNothingIsLeft holds on to every slice a key gave and finds it overwritten, whether opening went well or not.
func TestNothingIsLeft(t *testing.T) {
	outer, inner := &keeper{outer: newAEAD(t)}, &innerKeeper{innerHalf: innerHalf{testKey()}}
	o := NewOpener(outer, inner.keys)
	good := sealTest(t, map[string]string{"username": "1", "password": canary})
	spoiled := good[:len(good)-2] + "AA"
	for _, jwe := range []string{good, spoiled, forge(t, credentialHeader(), `{"password":"`+canary+`"`)} {
		fields, err := o.OpenCredentials(behindOuter(t, outer.outer, jwe), testKid(), testBind, testAs)
		for name, f := range fields {
			b := f.Reveal()
			f.Wipe()
			if !zero(b) {
				t.Errorf("%s outlives Wipe", name)
			}
		}
		if (err == nil) != (jwe == good) {
			t.Fatalf("OpenCredentials = %v", err)
		}
	}
	if len(outer.gave) != 3 || len(inner.gave) != 3 {
		t.Fatalf("%d outer and %d inner answers; want 3 and 3", len(outer.gave), len(inner.gave))
	}
	for _, b := range slices.Concat(outer.gave, inner.gave) {
		if len(b) == 0 || !zero(b) {
			t.Errorf("%d bytes of a key's answer were left", len(b))
		}
	}
	for _, payload := range []string{`{"password":"` + canary + `"}`, `{"password":"` + canary + `"`, canary} {
		raw := []byte(payload)
		takeFields(raw)
		if !zero(raw) {
			t.Errorf("the payload was left")
		}
	}
}

func zero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

func TestOpenedSecretsRedactThemselves(t *testing.T) {
	outer := newAEAD(t)
	fields, err := NewOpener(outer, innerKeys).OpenCredentials(behindOuter(t, outer, sealTest(t, map[string]string{"password": canary})), testKid(), testBind, testAs)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "fields", fields, "one", fields["password"])
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "fields", fields, "one", fields["password"])
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Sprintf("%x", canary)
	all := fmt.Sprintf("%v %+v %#v %s %q", fields, fields, fields, fields["password"], fields["password"]) + string(text) + log.String()
	if strings.Contains(all, "canary") || strings.Contains(all, raw) || strings.Contains(all, fmt.Sprint([]byte(canary))) {
		t.Errorf("the secret shows: %s", all)
	}
}

// FuzzFields compares with encoding/json: what is taken must be what it reads.
func FuzzFields(f *testing.F) {
	f.Add([]byte(`{"username":"1","password":"\u00e9\ud83d\ude00\n\/"}`))
	f.Add([]byte(` { "a" : "b" } `))
	f.Add([]byte(`{"a":"b","a":"c"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want map[string]string
		jsonErr := json.Unmarshal(raw, &want)
		fields, err := takeFields(bytes.Clone(raw))
		if err != nil {
			return
		}
		got := maps.Collect(func(yield func(string, string) bool) {
			for name, v := range fields {
				if !yield(name, string(v.Reveal())) {
					return
				}
			}
		})
		if jsonErr != nil || !maps.Equal(got, want) {
			t.Errorf("took %q from %q; encoding/json takes %q (%v)", got, raw, want, jsonErr)
		}
		for name, v := range fields {
			if !utf8.ValidString(name) || !utf8.Valid(v.Reveal()) || len(name) > MaxFieldName || v.Len() > MaxFieldValue {
				t.Errorf("took %q beyond the limits", name)
			}
		}
	})
}
