package domain

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIDsParseAsTheirOwnTypeOnly(t *testing.T) {
	for _, c := range []struct {
		prefix string
		make   func() string
		parse  func(string) error
	}{
		{"cli", id[ClientID], parses[ClientID]}, {"adv", id[AdvisorID], parses[AdvisorID]}, {"key", id[KeyID], parses[KeyID]},
		{"con", id[ConsentID], parses[ConsentID]}, {"conn", id[ConnectionID], parses[ConnectionID]},
		{"cred", id[CredentialID], parses[CredentialID]}, {"ses", id[SessionID], parses[SessionID]},
		{"chal", id[ChallengeID], parses[ChallengeID]}, {"pf", id[PortfolioID], parses[PortfolioID]},
		{"evt", id[NoticeID], parses[NoticeID]}, {"ep", id[EndpointID], parses[EndpointID]}, {"dlv", id[DeliveryID], parses[DeliveryID]},
		{"aud", id[EntryID], parses[EntryID]}, {"era", id[ErasureID], parses[ErasureID]}, {"msg", id[EventID], parses[EventID]}, {"shr", id[ShardID], parses[ShardID]},
	} {
		t.Run(c.prefix, func(t *testing.T) {
			text := c.make()
			body, ok := strings.CutPrefix(text, c.prefix+"_")
			if !ok || len(body) != 26 {
				t.Fatalf("made %q", text)
			}
			if err := c.parse(text); err != nil {
				t.Error(err)
			}
			for _, bad := range []string{"", c.prefix, c.prefix + "_", body, "x" + text, text + "0", text[:len(text)-1],
				strings.ToUpper(text), text[:len(text)-1] + "u", text[:len(text)-1] + "/", text[:len(text)-1] + "é", "zz_" + body, c.prefix + "-" + body} {
				if err := c.parse(bad); KindOf(err) != Invalid || CodeOf(err) != "invalid_identifier" {
					t.Errorf("%q: %v", bad, err)
				}
			}
		})
	}
	if parses[ConsentID](id[ConnectionID]()) == nil || parses[ConnectionID](id[ConsentID]()) == nil {
		t.Error("con_ and conn_ are mistaken for one another")
	}
}

func id[T identifier]() string { return string(NewID[T](Env{})) }

func parses[T identifier](s string) error { _, err := ParseID[T](s); return err }

func TestIDsSortByTheirTime(t *testing.T) {
	var now time.Time
	env := Env{Clock: func() time.Time { return now }}
	var ids []ConsentID
	for i := range 200 { // milliseconds, then years: past 2038 and to 2230
		now = time.Date(2026, 1, 1, 0, 0, 0, i*int(time.Millisecond), time.UTC)
		if i >= 100 {
			now = time.Date(2026+i, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		ids = append(ids, NewID[ConsentID](env))
	}
	if !slices.IsSorted(ids) {
		t.Error("they do not")
	}
}

func TestIDsOfOneMomentDiffer(t *testing.T) {
	seen := map[ConsentID]bool{}
	for range 1000 {
		seen[NewID[ConsentID](still)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000", len(seen))
	}
}

// The layout of a ULID, 48 bits of time and 80 of randomness: the first characters say the time, all of the rest is random.
func TestIDsHaveTheirLayout(t *testing.T) {
	zero := Env{Clock: still.Clock, Rand: bytes.NewReader(make([]byte, 10))}
	ones := Env{Clock: still.Clock, Rand: bytes.NewReader(bytes.Repeat([]byte{0xff}, 10))}
	low, high := string(NewID[ClientID](zero)), string(NewID[ClientID](ones))
	raw, err := crockford.DecodeString(low[4:])
	if err != nil || len(raw) != 16 {
		t.Fatal(err)
	}
	ms := int64(0)
	for _, b := range raw[:6] {
		ms = ms<<8 | int64(b)
	}
	if ms != noon.UnixMilli() || !bytes.Equal(raw[6:], make([]byte, 10)) {
		t.Errorf("raw %x", raw)
	}
	if low[:13] != high[:13] || low >= high {
		t.Errorf("%s, %s", low, high)
	}
}

type brokenRand struct{}

func (brokenRand) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

func TestRandomPanicsRatherThanBeGuessed(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("went on without randomness")
		}
	}()
	Env{Rand: brokenRand{}}.Random(16)
}

func TestAPIKeys(t *testing.T) {
	k, token := NewAPIKey(still, "cli_1", RoleAdvisor, "adv_1", "label")
	text := string(token.Reveal())
	got, secret, ok := SplitAPIKey(text)
	if !ok || got != k.ID || len(secret) != 43 || !k.Opens(secret, noon) {
		t.Fatalf("token %q of %+v", text, k)
	}
	if strings.Contains(fmt.Sprintf("%+v", k), secret) || bytes.Contains(k.Hash, []byte(secret)) {
		t.Error("the key holds its secret")
	}
	for _, bad := range []string{"", "sluis_", text[1:], text + "a", text[:len(text)-1], strings.Replace(text, "_key_", "_con_", 1),
		text[:36] + "-" + text[37:], strings.ToUpper(text)} {
		if _, _, ok := SplitAPIKey(bad); ok {
			t.Errorf("%q has the shape of a key", bad)
		}
	}
	for _, c := range []struct {
		name string
		with func(*APIKey)
		want bool
	}{
		{"active", func(*APIKey) {}, true},
		{"revoked", func(k *APIKey) { k.State = KeyRevoked }, false},
		{"of no state", func(k *APIKey) { k.State = "" }, false},
		{"in its overlap", func(k *APIKey) { k.ExpiresAt = noon.Add(time.Millisecond) }, true},
		{"after its overlap", func(k *APIKey) { k.ExpiresAt = noon }, false},
		{"another hash", func(k *APIKey) { k.Hash = append([]byte{k.Hash[0] ^ 1}, k.Hash[1:]...) }, false},
		{"no hash", func(k *APIKey) { k.Hash = nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := *k
			c.with(&one)
			if one.Opens(secret, noon) != c.want || one.Opens(secret[1:]+"A", noon) || one.Opens("", noon) {
				t.Errorf("opens: %v, want %v", !c.want, c.want)
			}
		})
	}
}

func TestLinksAreUsedOnce(t *testing.T) {
	l := &Link{ExpiresAt: noon.Add(LinkLife)}
	if err := l.Use(noon); err != nil || l.UsedAt != noon {
		t.Fatalf("%v, %+v", err, l)
	}
	for name, bad := range map[string]*Link{"used": l, "expired": {ExpiresAt: noon}, "never lived": {}} {
		before := *bad
		if err := bad.Use(noon); KindOf(err) != Gone || CodeOf(err) != "link_used" || *bad != before {
			t.Errorf("%s: %v, %+v", name, err, bad)
		}
	}
	if HashToken("a") == HashToken("b") || len(HashToken("a")) != 43 || strings.Contains(HashToken("token"), "token") {
		t.Error("hashes of tokens")
	}
}

func TestNamesDoNotMeet(t *testing.T) {
	lists := [][]string{nil, {""}, {"", ""}, {"a"}, {"a", "b"}, {"ab"}, {"a,b"}, {"1:a,"}, {"a", ""}, {"", "a"}, {"a,1:b"}}
	seen := map[string][]string{}
	for _, parts := range lists {
		name := string(Name(parts...))
		if other, taken := seen[name]; taken {
			t.Errorf("%q and %q are both %q", parts, other, name)
		}
		seen[name] = parts
	}
}

func TestDecimals(t *testing.T) {
	for text, want := range map[Decimal]bool{
		"0": true, "-0": true, "12.50": true, "-12.50": true, "0.000000000000000001": true, Decimal(strings.Repeat("9", 30)): true,
		"": false, "-": false, "+1": false, ".5": false, "5.": false, "01": false, "1e3": false, "1,5": false, " 1": false, "1\n": false,
		"NaN": false, "0x1": false, "0.0000000000000000001": false, Decimal(strings.Repeat("9", 31)): false, "١": false,
	} {
		if text.Valid() != want {
			t.Errorf("%q: valid %v", text, !want)
		}
	}
}
