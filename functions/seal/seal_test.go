package seal_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

func TestKey(t *testing.T) {
	h := build(t)
	w := h.ask("GET", "/seal/key", "")
	var out struct {
		JWK struct {
			Kty, N, E, Kid, Alg, Use string
			Ops                      []string `json:"key_ops"`
		}
		Sub string
		Now int64
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	public, err := keys.InnerPublic()
	if err != nil {
		t.Fatal(err)
	}
	if k := out.JWK; k.Kty != "RSA" || k.Alg != "RSA-OAEP-256" || k.Use != "enc" || k.Kid != public.Kid || k.N != public.N || k.E != "AQAB" ||
		!slices.Equal(k.Ops, []string{"encrypt"}) {
		t.Errorf("the key is %+v", k)
	}
	for _, private := range []string{`"d"`, `"p"`, `"q"`, `"dp"`} {
		if strings.Contains(w.Body.String(), private+":") {
			t.Errorf("the key has the member %s: is that a public key?", private)
		}
	}
	if out.Sub != string(h.conn.ID) || out.Now != h.now.Unix() {
		t.Errorf("for %q at %d", out.Sub, out.Now)
	}
}

func TestSeal(t *testing.T) {
	h := build(t)
	jwe := h.jwe()
	s := h.begun(h.give(jwe))
	if s.State != domain.SessionQueued || s.Cause != domain.CauseFirst || s.ConnectionID != h.conn.ID || s.ConsentID != h.consent.ID ||
		s.ClientID != h.conn.ClientID || s.Custodian != "sandbox" || s.ExpiresAt != h.env.Now().Add(domain.SessionLife) {
		t.Errorf("the session is %+v", s)
	}
	conn, cred := &domain.Connection{ID: h.conn.ID}, &domain.Credential{ConnectionID: h.conn.ID}
	if !h.get(conn) || !h.get(cred) {
		t.Fatal("connection or credential are not there")
	}
	if conn.State != domain.ConnectionBusy || conn.SessionID != s.ID {
		t.Errorf("the connection is %+v", conn)
	}
	if cred.State != domain.CredentialSealed || cred.ConsentID != h.consent.ID || cred.ClientID != h.conn.ClientID || cred.Custodian != "sandbox" {
		t.Errorf("the credential is %+v", cred)
	}
	if got := h.emitted(); !slices.Equal(got, []string{string(s.ID)}) {
		t.Errorf("emitted %v", got)
	}
	es := h.entries("credential.sealed")
	if len(es) != 1 || es[0].Data.Outcome != domain.OutcomeAllowed || es[0].Data.Actor != (domain.Actor{Kind: domain.ActorInvestor, ID: "inv-1"}) ||
		es[0].Data.Origin == "" || es[0].Data.Details["session"] != string(s.ID) || es[0].Data.Purpose != "tax" || es[0].Data.Custodian != "sandbox" {
		t.Errorf("recorded %+v", es)
	}
	if text := string(must(json.Marshal(es))); strings.Contains(text, jwe[:40]) || strings.Contains(text, password) {
		t.Error("the entry tells too much")
	}

	// Both gates open for this very binding, and for no other.
	shard, err := h.shards.Get(t.Context(), cred.Shard)
	if err != nil || cred.SessionShard == "" || cred.SessionShard == cred.Shard {
		t.Fatalf("the credential's shards are %q and %q, %v", cred.Shard, cred.SessionShard, err)
	}
	if _, err := envelope.NewOpener(keys.Decrypter(envelope.KeyOuter), keys.InnerDecrypters).OpenCredentials(cred.Sealed, cred.InnerKey, conn.Binding()); err == nil {
		t.Error("it opens without its shard")
	}
	opener := envelope.NewOpener(keys.Decrypter(envelope.KeyOuter), keys.InnerDecrypters).Under(shard)
	fields, err := opener.OpenCredentials(cred.Sealed, cred.InnerKey, conn.Binding())
	if err != nil || string(fields["password"].Reveal()) != password {
		t.Errorf("opened %v with %v", fields, err)
	}
	other := conn.Binding()
	other.ConsentID = "con_other"
	if _, err := opener.OpenCredentials(cred.Sealed, cred.InnerKey, other); !errors.Is(err, envelope.ErrOuter) {
		t.Errorf("under another consent: %v", err)
	}
	if strings.Contains(string(cred.Sealed), jwe[:40]) {
		t.Error("the second gate is open")
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestRefusedEnvelopes: each refusal of the first gate comes out as itself, and nothing comes of it.
func TestRefusedEnvelopes(t *testing.T) {
	h := build(t)
	good := strings.Split(h.jwe(), ".")
	header, err := base64.RawURLEncoding.DecodeString(good[0])
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) string {
		var members map[string]any
		if err := json.Unmarshal(header, &members); err != nil {
			t.Fatal(err)
		}
		members[name] = value
		if value == nil {
			delete(members, name)
		}
		return join(base64.RawURLEncoding.EncodeToString(must(json.Marshal(members))), good[1:]...)
	}
	for _, c := range []struct {
		name, jwe string
		status    int
		code      string
	}{
		{"nothing", "", 400, "jwe_malformed"},
		{"four parts", strings.Join(good[:4], "."), 400, "jwe_malformed"},
		{"six parts", join(good[0], append(good[1:], "AA")...), 400, "jwe_malformed"},
		{"no base64url", join(good[0], good[1]+"=", good[2], good[3], good[4]), 400, "jwe_malformed"},
		{"key of another size", join(good[0], "AAAA", good[2], good[3], good[4]), 400, "jwe_malformed"},
		{"JSON serialisation", `{"protected":"` + good[0] + `"}`, 400, "jwe_malformed"},
		{"too large", strings.Repeat("A", envelope.MaxCredentialJWE+1), 413, "jwe_too_large"},
		{"no JSON header", join("AAAA", good[1:]...), 400, "jwe_header"},
		{"unknown member", with("crit", []string{"x"}), 400, "jwe_header"},
		{"member missing", with("iat", nil), 400, "jwe_header"},
		{"RSA1_5", with("alg", "RSA1_5"), 400, "jwe_alg"},
		{"dir", with("alg", "dir"), 400, "jwe_alg"},
		{"CBC", with("enc", "A256CBC-HS512"), 400, "jwe_enc"},
		{"compressed", with("zip", "DEF"), 400, "jwe_zip"},
		{"unknown key", with("kid", "somebody-else"), 400, "jwe_kid"},
		{"a code", with("typ", string(envelope.TypCode)), 400, "jwe_typ"},
		{"for another connection", with("sub", string(domain.NewID[domain.ConnectionID](h.env))), 400, "jwe_subject"},
		{"too old", with("iat", h.now.Add(-envelope.MaxSealedAge-time.Second).Unix()), 400, "jwe_stale"},
		{"of the future", with("iat", h.now.Add(envelope.MaxSealedAhead+time.Second).Unix()), 400, "jwe_future"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			h.unchanged(func() { h.refused(h.give(c.jwe), c.status, c.code) })
		})
	}
	for name, body := range map[string]string{"a number": `{"jwe":1}`, "another member": `{"jwe":"","password":"x"}`, "twice": `{"jwe":"","jwe":""}`} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			h.unchanged(func() { h.refused(h.ask("POST", "/seal", body), 400, "invalid_field") })
		})
	}
	if n := len(h.entries("credential.sealed")); n != 0 {
		t.Errorf("%d credentials are said to be sealed", n)
	}
}

func join(first string, rest ...string) string {
	return strings.Join(append([]string{first}, rest...), ".")
}

// TestNoConsentNoAct: whatever is wrong with the consent, both ways in are shut, and the attempt is on record.
func TestNoConsentNoAct(t *testing.T) {
	elsewhere := domain.NewID[domain.ClientID](domain.Env{})
	for _, c := range []struct {
		name   string
		lay    func(*house)
		status int
		code   string
	}{
		{"received", state(domain.ConsentReceived), 403, "consent_received"},
		{"rejected", state(domain.ConsentRejected), 403, "consent_rejected"},
		{"expired", state(domain.ConsentExpired), 403, "consent_expired"},
		{"revoked", state(domain.ConsentRevoked), 403, "consent_revoked"},
		{"terminated", state(domain.ConsentTerminated), 403, "consent_terminated"},
		{"over at this moment, not yet noted", func(h *house) { h.consent.ExpiresAt = h.env.Now(); h.put(h.consent) }, 403, "consent_expired"},
		{"of another client", func(h *house) { h.consent.ClientID = elsewhere; h.put(h.consent) }, 403, "consent_not_yours"},
		{"of another connection", func(h *house) { h.consent.ConnectionID = "conn_other"; h.put(h.consent) }, 403, "consent_not_yours"},
		{"of another investor", func(h *house) { h.consent.InvestorRef = "inv-2"; h.put(h.consent) }, 403, "consent_not_yours"},
		{"for another custodian", func(h *house) { h.consent.Custodian = "otherbank"; h.put(h.consent) }, 403, "consent_custodian"},
		{"connection of another consent", func(h *house) { h.conn.ConsentID = "con_other"; h.put(h.conn) }, 403, "consent_custodian"},
		{"not for this region", func(h *house) { h.consent.Regions = []string{"europe-west4"}; h.put(h.consent) }, 403, "consent_region"},
		{"one reading, and it was done", func(h *house) {
			h.consent.Access, h.conn.LastRefreshedAt, h.conn.State = domain.AccessOnce, h.env.Now(), domain.ConnectionActive
			h.put(h.consent, h.conn)
		}, 403, "consent_one_off"},
		{"unknown", func(h *house) { h.cookie = h.visit(func(v *domain.Visit) { v.ConsentID = "con_unknown" }) }, 404, "consent_unknown"},
	} {
		for _, way := range []string{"credential.sealed", "session.requested"} {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				h := build(t)
				h.lay(domain.SessionFailed, domain.CredentialAccepted)
				c.lay(h)
				h.unchanged(func() {
					if way == "credential.sealed" {
						h.refused(h.give(h.jwe()), c.status, c.code)
					} else {
						h.refused(h.again(), c.status, c.code)
					}
				})
				es := h.entries(way)
				if len(es) != 1 || es[0].Data.Outcome != domain.OutcomeDenied || es[0].Data.Reason != c.code || es[0].ClientID == "" ||
					es[0].Data.Actor.ID != "inv-1" || es[0].Data.Origin == "" || es[0].Subject != string(h.conn.ID) {
					t.Errorf("recorded %+v", es)
				}
			})
		}
	}
}

func state(s domain.ConsentState) func(*house) {
	return func(h *house) { h.consent.State = s; h.put(h.consent) }
}

func TestOneOffConsentBeforeItsReading(t *testing.T) {
	h := build(t)
	h.consent.Access = domain.AccessOnce
	h.put(h.consent)
	first := h.begun(h.give(h.jwe()))
	if err := first.Move(domain.SessionFailed, domain.ReasonBankUnavailable, h.env.Now()); err != nil {
		t.Fatal(err)
	}
	h.put(first)
	h.begun(h.again()) // nothing was read yet
}

func TestVisitIsNeeded(t *testing.T) {
	h := build(t)
	jwe := h.jwe()
	for name, cookie := range map[string]string{"over": h.visit(func(v *domain.Visit) { v.ExpiresAt = h.env.Now() }), "unknown": strings.Repeat("A", 43)} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t, h.cookie = t, cookie
			h.unchanged(func() {
				h.refused(h.ask("GET", "/seal/key", ""), 401, "visit_ended")
				h.refused(h.give(jwe), 401, "visit_ended")
				h.refused(h.again(), 401, "visit_ended")
			})
		})
	}
}

// TestReplace: a new credential takes the place of the old one, whatever the bank thought of that.
func TestReplace(t *testing.T) {
	for _, old := range []domain.CredentialState{domain.CredentialSealed, domain.CredentialTrying, domain.CredentialAccepted, domain.CredentialRefused, domain.CredentialUnconfirmed} {
		t.Run(string(old), func(t *testing.T) {
			h := build(t)
			h.conn.State, h.conn.Versions = domain.ConnectionPaused, 2
			h.lay(domain.SessionFailed, old)
			before := &domain.Credential{ConnectionID: h.conn.ID}
			h.get(before)
			s := h.begun(h.give(h.jwe()))
			after := &domain.Credential{ConnectionID: h.conn.ID}
			if !h.get(after) || after.State != domain.CredentialSealed || after.ID == before.ID || string(after.Sealed) == "old" || !after.TriedAt.IsZero() {
				t.Errorf("the credential is %+v", after)
			}
			if s.Cause != domain.CauseReconnect {
				t.Errorf("the cause is %s", s.Cause)
			}
		})
	}
}

// TestAgain: a person's word uses the credential once more, except one that the bank refused, or may be judging now.
func TestAgain(t *testing.T) {
	for _, c := range []struct {
		credential domain.CredentialState
		may        bool
	}{
		{domain.CredentialSealed, true},
		{domain.CredentialAccepted, true},
		{domain.CredentialUnconfirmed, true},
		{domain.CredentialRefused, false},
		{domain.CredentialTrying, false},
		{"", false},
	} {
		t.Run("credential "+string(c.credential), func(t *testing.T) {
			h := build(t)
			h.conn.State = domain.ConnectionPaused
			h.lay(domain.SessionFailed, c.credential)
			if !c.may {
				h.unchanged(func() { h.refused(h.again(), 409, "credential_needed") })
				return
			}
			before := &domain.Credential{ConnectionID: h.conn.ID}
			h.get(before)
			s := h.begun(h.again())
			after, conn := &domain.Credential{ConnectionID: h.conn.ID}, &domain.Connection{ID: h.conn.ID}
			h.get(after)
			h.get(conn)
			if before.ID != after.ID || before.State != after.State || string(after.Sealed) != "old" {
				t.Errorf("the credential changed: %+v", after)
			}
			if s.Cause != domain.CauseReconnect || conn.State != domain.ConnectionBusy || conn.SessionID != s.ID {
				t.Errorf("session %+v, connection %+v", s, conn)
			}
			if es := h.entries("session.requested"); len(es) != 1 || es[0].Data.Outcome != domain.OutcomeAllowed || es[0].Data.Details["session"] != string(s.ID) {
				t.Errorf("recorded %+v", es)
			}
		})
	}
}

// TestConnectionStates: where a credential makes no sense, none is taken.
func TestConnectionStates(t *testing.T) {
	for from, may := range map[domain.ConnectionState]bool{domain.ConnectionPending: false, domain.ConnectionAwaiting: true, domain.ConnectionBusy: true,
		domain.ConnectionSCA: true, domain.ConnectionActive: true, domain.ConnectionPaused: true, domain.ConnectionRemoved: false} {
		t.Run(string(from), func(t *testing.T) {
			h := build(t)
			h.conn.State = from
			h.put(h.conn)
			if may {
				h.begun(h.give(h.jwe()))
				return
			}
			h.unchanged(func() { h.refused(h.give(h.jwe()), 409, "connection_state") })
		})
	}
}

func TestSessionAtWorkIsLeftAlone(t *testing.T) {
	for _, at := range []domain.SessionState{domain.SessionQueued, domain.SessionRunning} {
		t.Run(string(at), func(t *testing.T) {
			h := build(t)
			h.conn.State = domain.ConnectionBusy
			old := h.lay(at, domain.CredentialSealed)
			h.unchanged(func() {
				h.refused(h.give(h.jwe()), 409, "session_running")
				h.refused(h.again(), 409, "session_running")
			})
			// One that nobody ended in all its life is dead, and must not bar the way for ever.
			old.ExpiresAt = h.env.Now()
			h.put(old)
			s := h.begun(h.give(h.jwe()))
			h.get(old)
			if old.State != domain.SessionCancelled || old.Reason != domain.ReasonInterrupted || !slices.Equal(h.emitted(), []string{string(s.ID)}) { // nothing of it is open at the bank
				t.Errorf("the old one is %s, emitted %v", old.State, h.emitted())
			}
		})
	}
	for _, at := range []domain.SessionState{domain.SessionComplete, domain.SessionFailed, domain.SessionCancelled} {
		t.Run(string(at), func(t *testing.T) {
			h := build(t)
			old := h.lay(at, domain.CredentialSealed)
			s := h.begun(h.give(h.jwe()))
			before := old.State
			h.get(old)
			if old.State != before || !slices.Equal(h.emitted(), []string{string(s.ID)}) {
				t.Errorf("the old one is %s, emitted %v", old.State, h.emitted())
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		h := build(t)
		h.conn.SessionID = domain.NewID[domain.SessionID](h.env)
		h.put(h.conn)
		h.begun(h.give(h.jwe()))
	})
}

// TestSuspendedSessionGivesWay: the investor begins anew; what the old question showed is wiped, and extraction, to
// which the old session is handed with its way back in, closes it at the bank.
func TestSuspendedSessionGivesWay(t *testing.T) {
	for _, question := range []domain.SCAState{domain.SCASelection, domain.SCAIssued, domain.SCAAwaiting, domain.SCARejected, domain.SCAExpired, domain.SCAVerified, ""} {
		t.Run("question "+string(question), func(t *testing.T) {
			h := build(t)
			old := h.lay(domain.SessionSuspended, domain.CredentialAccepted)
			c := &domain.Challenge{ID: old.ChallengeID}
			h.get(c)
			c.State = question
			if question == "" {
				old.ChallengeID = "chal_gone"
			}
			h.put(c, old)
			s := h.begun(h.again())
			h.get(old)
			h.get(c)
			if old.State != domain.SessionCancelled || old.Reason != domain.ReasonInterrupted || string(old.Sealed) != "state at the bank" || old.EndedAt.IsZero() {
				t.Errorf("the old session is %+v", old)
			}
			if question != "" && question != domain.SCAVerified && (c.State != domain.SCAFailed || len(c.Display) > 0) {
				t.Errorf("the question is %+v", c)
			}
			if got := h.emitted(); !slices.Equal(got, []string{string(old.ID), string(s.ID)}) {
				t.Errorf("emitted %v", got)
			}
			conn := &domain.Connection{ID: h.conn.ID}
			h.get(conn)
			if conn.SessionID != s.ID || conn.State != domain.ConnectionBusy {
				t.Errorf("the connection is %+v", conn)
			}
		})
	}
}

// TestManyAtOnce: of many clicks one session comes.
func TestManyAtOnce(t *testing.T) {
	h := build(t)
	old := h.lay(domain.SessionSuspended, domain.CredentialAccepted)
	jwe := h.jwe()
	var group sync.WaitGroup
	codes := make([]int, 12)
	for i := range codes {
		group.Go(func() {
			if i%2 == 0 {
				codes[i] = h.give(jwe).Code
			} else {
				codes[i] = h.again().Code
			}
		})
	}
	group.Wait()
	slices.Sort(codes)
	if codes[0] != http.StatusAccepted || codes[1] != http.StatusConflict || codes[len(codes)-1] != http.StatusConflict {
		t.Errorf("answered %v", codes)
	}
	if all := h.sessions(); len(all) != 2 {
		t.Errorf("there are %d sessions, want the old one and one more", len(all))
	}
	if got := h.emitted(); len(got) != 2 || got[0] != string(old.ID) {
		t.Errorf("emitted %v", got)
	}
}

// TestStoreThatFails: before the commit nothing has happened, and after it all has; the next click finds its traces.
func TestStoreThatFails(t *testing.T) {
	died := errors.New("the process died")
	for _, point := range []string{"before-commit", "after-commit"} {
		t.Run(point, func(t *testing.T) {
			h := build(t)
			jwe, armed := h.jwe(), true
			h.fault = func(at string) error {
				if armed && at == point {
					armed = false
					return died
				}
				return nil
			}
			h.refused(h.give(jwe), 500, "internal")
			if armed {
				t.Fatal("nothing failed")
			}
			happened := point == "after-commit"
			if got := len(h.sessions()) == 1 && len(h.entries("credential.sealed")) == 1 && h.get(&domain.Credential{ConnectionID: h.conn.ID}); got != happened {
				t.Errorf("happened: %t, want %t", got, happened)
			}
			if happened {
				h.refused(h.give(jwe), 409, "session_running")
			} else {
				h.begun(h.give(jwe))
			}
			if len(h.sessions()) != 1 || len(h.entries("credential.sealed")) != 1 {
				t.Errorf("%d sessions, %d entries", len(h.sessions()), len(h.entries("credential.sealed")))
			}
		})
	}
}

// TestKeysThatCannotBeReached: the failure is passing, and nothing is stored.
func TestKeysThatCannotBeReached(t *testing.T) {
	away := &domain.Error{Kind: domain.Unavailable, Code: "kms_away", Message: "try again", RetryAfter: time.Second}
	for name, cut := range map[string]func(*house){
		"kids":  func(h *house) { h.service.Kids = func() ([]string, error) { return nil, away } },
		"outer": func(h *house) { h.service.Sealer = envelope.NewSealer(broken{away}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			cut(h)
			h.unchanged(func() { h.refused(h.give(h.jwe()), 503, "kms_away") })
		})
	}
	h := build(t)
	h.service.Public = func() (envelope.JWK, error) { return envelope.JWK{}, away }
	h.refused(h.ask("GET", "/seal/key", ""), 503, "kms_away")
}

type broken struct{ err error }

func (b broken) Encrypt(_, _ []byte) ([]byte, error) { return nil, b.err }

const program = `package main

import (
	"net/http"

	"sluis.internal/functions/seal"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

type key struct{}

func (key) Encrypt(plain, _ []byte) ([]byte, error) { return plain, nil }

func main() {
	s := &seal.Service{Door: &serve.Door{}, Sealer: envelope.NewSealer(key{}),
		Public: func() (envelope.JWK, error) { return envelope.JWK{}, nil }, Kids: func() ([]string, error) { return nil, nil }}
	mux := http.NewServeMux()
	s.Routes(mux)
	println(domain.Env{}.Now().String(), serve.NewServer(mux).ListenAndServe())
}
`

// TestLinksNoOpeningCode builds the function as a program and looks at what the linker put in: whoever seals cannot
// open, not even by mistake.
func TestLinksNoOpeningCode(t *testing.T) {
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "sealing")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []string{"seal.(*Service).seal", "envelope.(*Sealer).Seal", "envelope.Inspect"} {
		if !strings.Contains(string(symbols), wanted) {
			t.Fatalf("%s is not there: the test looks at the wrong thing", wanted)
		}
	}
	for line := range strings.Lines(string(symbols)) {
		for _, forbidden := range []string{"envelope.(*Opener)", "envelope.openInner", "envelope.Open", "envelope.(*Reader)", "envelope.unwrapKeyset",
			"envelope.innerHalf", "envelope.openingHalf", "envelope.LocalKeys", "JSONWebEncryption.Decrypt", "keyset.ReadWithAssociatedData",
			"insecurecleartextkeyset.Read", "extraction."} {
			if strings.Contains(line, forbidden) {
				t.Errorf("linked: %s", strings.TrimSpace(line))
			}
		}
	}
}
