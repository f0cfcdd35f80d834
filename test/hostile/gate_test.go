package hostile

import (
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// documented are all refusals of the gates.
var documented = []error{envelope.ErrTooLarge, envelope.ErrMalformed, envelope.ErrHeader, envelope.ErrAlg, envelope.ErrEnc,
	envelope.ErrZip, envelope.ErrKid, envelope.ErrTyp, envelope.ErrSubject, envelope.ErrSealing, envelope.ErrPadding, envelope.ErrStale, envelope.ErrFuture,
	envelope.ErrOuter, envelope.ErrInner, envelope.ErrPayload}

// lock is both gates with all their keys, and what was truly sealed with them: for two connections, by two keys of
// ours, now and long ago, and a key of a stranger's.
type lock struct {
	sealer *envelope.Sealer
	opener *envelope.Opener
	now    domain.Time
	sealed map[string]genuine // by the JWE
	all    []string           // the JWEs, in order
	kid    string
}

// genuine is what a JWE was sealed as.
type genuine struct {
	subject string
	secret  string // the password, or the code
	code    bool
	late    bool // too old to be taken now
	foreign bool // by a key that is not ours
}

var bindings = []domain.Binding{
	{ClientID: "cli_1", ConsentID: "con_1", ConnectionID: "conn_1", Custodian: "bank"},
	{ClientID: "cli_1", ConsentID: "con_2", ConnectionID: "conn_2", Custodian: "bank"},
}

// asked is what the page was told to seal for a connection, and for a challenge.
func asked(b domain.Binding) domain.Sealing {
	return domain.Sealing{Subject: string(b.ConnectionID), Credential: "cred_1", Generation: 7, Nonce: "n"}
}

func askedCode(to domain.ChallengeID) domain.Sealing {
	return domain.Sealing{Subject: string(to), Generation: 2, Nonce: "n"}
}

const challenge = domain.ChallengeID("chal_1")

// newLock makes keys only once in a process: that takes a second.
var newLock = sync.OnceValues(makeLock)

func makeLock() (*lock, error) {
	dir, err := tempDir()
	if err != nil {
		return nil, err
	}
	keys, err := envelope.LocalKeys(dir + "/ours")
	if err != nil {
		return nil, err
	}
	strange, err := envelope.LocalKeys(dir + "/strange")
	if err != nil {
		return nil, err
	}
	l := &lock{sealer: envelope.NewSealer(keys.Encrypter(envelope.KeyOuter)), now: domain.At(time.Unix(1_800_000_000, 0)),
		opener: envelope.NewOpener(keys.Decrypter(envelope.KeyOuter), keys.InnerDecrypters), sealed: map[string]genuine{}}
	ours, err := keys.InnerPublic()
	if err != nil {
		return nil, err
	}
	theirs, err := strange.InnerPublic()
	if err != nil {
		return nil, err
	}
	l.kid, theirs.Kid = ours.Kid, ours.Kid // a stranger's key that says it is ours
	for i, key := range []envelope.JWK{ours, theirs} {
		for _, b := range bindings {
			err = errors.Join(err, l.credential(key, b, l.now, genuine{foreign: i == 1}), l.credential(key, b, l.now.Add(-time.Hour), genuine{foreign: i == 1, late: true}))
		}
		err = errors.Join(err, l.code(key, challenge, l.now, genuine{foreign: i == 1}), l.code(key, "chal_2", l.now, genuine{foreign: i == 1}),
			l.code(key, challenge, l.now.Add(-time.Hour), genuine{foreign: i == 1, late: true}))
	}
	// The right name on the wrong kind of thing: a code for what is a connection, a credential for what is a challenge.
	named := domain.Binding{ClientID: "cli_1", ConsentID: "con_1", ConnectionID: domain.ConnectionID(challenge), Custodian: "bank"}
	return l, errors.Join(err, l.code(ours, domain.ChallengeID(bindings[0].ConnectionID), l.now, genuine{}), l.credential(ours, named, l.now, genuine{}))
}

func (l *lock) credential(k envelope.JWK, b domain.Binding, at domain.Time, g genuine) error {
	g.subject, g.secret = string(b.ConnectionID), "password of "+string(b.ConnectionID)+" at "+at.String()
	jwe, err := k.SealCredential(asked(b), map[string]string{"username": "u", "password": g.secret}, at)
	l.sealed[jwe], l.all = g, append(l.all, jwe)
	return err
}

func (l *lock) code(k envelope.JWK, to domain.ChallengeID, at domain.Time, g genuine) error {
	g.subject, g.secret, g.code = string(to), "code of "+string(to), true
	jwe, err := k.SealCode(askedCode(to), g.secret, at)
	l.sealed[jwe], l.all = g, append(l.all, jwe)
	return err
}

// tampered makes something of two JWEs: mask says part by part (five of them) which of the two it comes from; then the
// change is made to one part.
func (l *lock) tampered(first, second, mask, part, change uint8, at uint16, with string) string {
	a := strings.Split(l.all[int(first)%len(l.all)], ".")
	b := strings.Split(l.all[int(second)%len(l.all)], ".")
	for i := range a {
		if mask>>i&1 == 1 {
			a[i] = b[i]
		}
	}
	text := a[part%5]
	i := int(at) % (len(text) + 1)
	raw, _ := base64.RawURLEncoding.DecodeString(text)
	j := int(at) % (len(raw) + 1)
	encode := base64.RawURLEncoding.EncodeToString
	switch change % 9 {
	case 1: // the text cut off
		text = text[:i]
	case 2: // something in the text
		text = text[:i] + with + text[i:]
	case 3: // one bit of what it says turned over
		if j < len(raw) {
			raw[j] ^= 1 << (at % 8)
			text = encode(raw)
		}
	case 4: // something in what it says: another member of the header, bytes more of a ciphertext
		text = encode(slices.Concat(raw[:j], []byte(with), raw[j:]))
	case 5: // what it says cut off
		text = encode(raw[:j])
	case 6: // the same in other words: padding, another alphabet
		text = base64.StdEncoding.EncodeToString(raw)
	case 7: // something else altogether
		text = with
	case 8: // a part more
		text += "." + with
	}
	a[part%5] = text
	return strings.Join(a, ".")
}

func addGate(f *testing.F) *lock {
	l, err := newLock()
	if err != nil {
		f.Fatal(err)
	}
	for i := range l.all {
		f.Add(uint8(i), uint8(i), uint8(0), uint8(0), uint8(0), uint16(0), "")
		for mask := range uint8(32) {
			f.Add(uint8(i), uint8(i+1), mask, uint8(0), uint8(0), uint16(0), "")
		}
	}
	for part, text := range strings.Split(l.all[0], ".") {
		end, raw := uint16(len(text)), uint16(base64.RawURLEncoding.DecodedLen(len(text)))
		for change := range uint8(9) {
			f.Add(uint8(0), uint8(1), uint8(0), uint8(part), change, uint16(30), "A")
			f.Add(uint8(4), uint8(5), uint8(0), uint8(part), change, uint16(1), " ")
		}
		for _, with := range []string{"=", "==", "\n", "A", "."} { // the same in other words
			f.Add(uint8(0), uint8(1), uint8(0), uint8(part), uint8(2), end, with)
			f.Add(uint8(4), uint8(5), uint8(0), uint8(part), uint8(2), end, with)
		}
		for _, with := range []string{`,"zip":"DEF"`, `,"crit":["b64"]`, `,"alg":"dir"`, `,"kid":"x"`, `,"KID":"x"`, " "} { // members more
			f.Add(uint8(0), uint8(1), uint8(0), uint8(part), uint8(4), raw-1, with)
			f.Add(uint8(4), uint8(5), uint8(0), uint8(part), uint8(4), raw-1, with)
		}
	}
	return l
}

// told checks that a refusal is one of the documented ones and names no secret.
func (l *lock) told(t *testing.T, err error) {
	t.Helper()
	if !slices.ContainsFunc(documented, func(want error) bool { return errors.Is(err, want) }) {
		t.Errorf("refused without a reason of ours: %v", err)
	}
	for _, g := range l.sealed {
		if strings.Contains(err.Error(), g.secret) {
			t.Errorf("the refusal tells a secret: %v", err)
		}
	}
}

// FuzzCredential opens both gates over what was tampered with. Nothing opens but what was sealed just so: by a key of
// ours, for that connection, word for word.
func FuzzCredential(f *testing.F) {
	l := addGate(f)
	f.Fuzz(func(t *testing.T, first, second, mask, part, change uint8, at uint16, with string) {
		jwe := l.tampered(first, second, mask, part, change, at, with)
		was, real := l.sealed[jwe]
		for _, b := range bindings {
			good := real && !was.code && !was.foreign && was.subject == string(b.ConnectionID)
			told, door := envelope.Inspect(jwe, envelope.Expect{Typ: envelope.TypCredential, Subject: string(b.ConnectionID), Kids: []string{l.kid}}, l.now)
			if door != nil {
				l.told(t, door)
			} else if told.Kid != l.kid || real && (was.code || was.late || was.subject != string(b.ConnectionID)) {
				t.Errorf("the door lets in for %s what was sealed as %+v", b.ConnectionID, was)
			}
			sealed, err := l.sealer.Seal(jwe, b, asked(b))
			if err != nil {
				l.told(t, err)
				continue
			}
			fields, err := l.opener.OpenCredentials(sealed, l.kid, b, asked(b))
			switch {
			case errors.Is(err, envelope.ErrSealing) && door == nil && told.Sealing != asked(b):
				l.told(t, err) // the door reads as what it was sealed; whether that was asked for is known to the opener
			case err != nil && door == nil && !errors.Is(err, envelope.ErrInner) && !errors.Is(err, envelope.ErrPayload):
				t.Errorf("the door lets in what is no envelope: %v", err)
			case err != nil && good:
				t.Errorf("what was sealed so does not open: %v", err)
			case err != nil:
				l.told(t, err)
			case !good || string(fields["password"].Reveal()) != was.secret || len(fields) != 2:
				t.Errorf("it opens, although it was sealed as %+v: %v", was, slices.Collect(maps.Keys(fields)))
			}
		}
	})
}

// FuzzOuter: of a sealed credential every bit counts, and everything that it is bound to.
func FuzzOuter(f *testing.F) {
	l, err := newLock()
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := l.sealer.Seal(l.all[0], bindings[0], asked(bindings[0]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), uint16(0), "", "", "", "", "", "", uint8(0))
	for change := range uint8(5) {
		f.Add(change, uint16(9), "x", "", "", "", "", "", uint8(0))
	}
	f.Add(uint8(0), uint16(0), "", "x", "", "", "", "", uint8(0))
	f.Add(uint8(0), uint16(0), "", "", "x", "", "", "", uint8(0))
	f.Add(uint8(0), uint16(0), "", "", "", "x", "", "", uint8(0))
	f.Add(uint8(0), uint16(0), "", "", "", "", "x", "", uint8(0))
	f.Add(uint8(0), uint16(0), "", "", "", "", "", "x", uint8(0))
	f.Add(uint8(0), uint16(0), "", "", "", "", "", "", uint8(1))
	f.Fuzz(func(t *testing.T, change uint8, at uint16, with, client, consent, connection, custodian, credential string, generation uint8) {
		b, t2 := bindings[0], asked(bindings[0])
		t2.Credential += domain.CredentialID(credential)
		t2.Generation += int64(generation)
		b.ClientID += domain.ClientID(client)
		b.ConsentID += domain.ConsentID(consent)
		b.ConnectionID += domain.ConnectionID(connection)
		b.Custodian += domain.CustodianID(custodian)
		text := slices.Clone(sealed)
		i := int(at) % len(text)
		switch change % 5 {
		case 1:
			text[i] ^= 1 << (at % 8)
		case 2:
			text = text[:i]
		case 3:
			text = slices.Concat(text[:i], []byte(with), text[i:])
		case 4:
			text = []byte(with)
		}
		same := b == bindings[0] && t2 == asked(b) && slices.Equal(text, sealed)
		_, err := l.opener.OpenCredentials(text, l.kid, b, t2)
		if (err == nil) != same {
			t.Errorf("changed by %d at %d, bound to %+v: %v", change%5, i, b, err)
		}
		if err != nil && !errors.Is(err, envelope.ErrOuter) && !errors.Is(err, envelope.ErrTooLarge) {
			t.Errorf("refused as %v", err)
		}
	})
}

// FuzzCode opens the inner gate over a code that was tampered with.
func FuzzCode(f *testing.F) {
	l := addGate(f)
	f.Fuzz(func(t *testing.T, first, second, mask, part, change uint8, at uint16, with string) {
		jwe := l.tampered(first, second, mask, part, change, at, with)
		was, real := l.sealed[jwe]
		good := real && was.code && !was.foreign && !was.late && was.subject == string(challenge)
		code, err := l.opener.OpenCode(jwe, askedCode(challenge), l.now)
		switch {
		case err != nil && good:
			t.Errorf("what was sealed so does not open: %v", err)
		case err != nil:
			l.told(t, err)
		case !good || string(code.Reveal()) != was.secret:
			t.Errorf("it opens, although it was sealed as %+v", was)
		}
	})
}
