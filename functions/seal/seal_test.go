package seal_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
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
		Cid string
		Gen int64
		Now int64

		Nonce string
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
	if _, err := domain.ParseID[domain.CredentialID](out.Cid); err != nil || out.Sub != string(h.conn.ID) || out.Gen != 1 ||
		len(out.Nonce) != 43 || out.Now != h.now.Unix() {
		t.Errorf("for %+v, %v", out, err)
	}
	c := h.lay(domain.SessionSuspended, domain.CredentialAccepted).ChallengeID
	if err := json.Unmarshal(h.ask("GET", "/seal/key?challenge="+string(c), "").Body.Bytes(), &out); err != nil || out.Sub != string(c) || out.Gen != 1 {
		t.Errorf("for a code %+v, %v", out, err)
	}
	strange := &domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), ConnectionID: "conn_other", State: domain.SCAIssued}
	h.put(strange)
	h.refused(h.ask("GET", "/seal/key?challenge="+string(strange.ID), ""), 404, "not_found")
	h.refused(h.ask("GET", "/seal/key?challenge="+string(domain.NewID[domain.ChallengeID](h.env)), ""), 404, "not_found")
	h.refused(h.ask("GET", "/seal/key?challenge=x", ""), 400, "invalid_field")
}

// TestKeyThatThePageKnows: while a rotation spreads, a page gets the newest key that it knows, for it takes no other.
func TestKeyThatThePageKnows(t *testing.T) {
	h := build(t)
	second, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	public, err := keys.InnerPublics()
	if err != nil {
		t.Fatal(err)
	}
	h.service.Inner = func() ([]crypto.PublicKey, error) { return []crypto.PublicKey{public[0], &second.PublicKey}, nil }
	older, newer := envelope.Thumbprint(public[0].(*rsa.PublicKey)), envelope.Thumbprint(&second.PublicKey)
	for asked, want := range map[string]string{"": newer, "?kids=" + older: older, "?kids=" + newer: newer,
		"?kids=" + older + "," + newer: newer, "?kids=unknown": newer, "?kids=x," + older: older} {
		var out struct{ JWK envelope.JWK }
		w := h.ask("GET", "/seal/key"+asked, "")
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.JWK.Kid != want {
			t.Errorf("asked for %q, got %d and the key %s, want %s", asked, w.Code, out.JWK.Kid, want)
		}
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
	if len(es) != 1 || es[0].Data.Outcome != domain.OutcomeAllowed || es[0].Data.Actor != h.service.Door.Pseudonym(h.conn.ClientID, h.consent.ID, "inv-1").Actor() ||
		es[0].Data.Origin == "" || es[0].Data.Details["session"] != string(s.ID) || es[0].Data.Purpose != "tax" || es[0].Data.Custodian != "sandbox" {
		t.Errorf("recorded %+v", es)
	}
	if text := string(must(json.Marshal(es))); strings.Contains(text, jwe[:40]) || strings.Contains(text, password) {
		t.Error("the entry tells too much")
	}

	// Both gates open for this very binding, and for no other.
	opener := envelope.NewOpener(keys.Decrypter(envelope.KeyOuter), keys.InnerDecrypters)
	fields, err := opener.OpenCredentials(cred.Sealed, cred.InnerKey, conn.Binding(), cred.Sealing())
	if err != nil || string(fields["password"].Reveal()) != password {
		t.Errorf("opened %v with %v", fields, err)
	}
	other := conn.Binding()
	other.ConsentID = "con_other"
	if _, err := opener.OpenCredentials(cred.Sealed, cred.InnerKey, other, cred.Sealing()); !errors.Is(err, envelope.ErrOuter) {
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
		{"not confirmed in this visit", func(h *house) { h.cookie = h.visit(func(v *domain.Visit) { v.Confirmation = nil }) }, 403, "confirmation_needed"},
		{"a visit to manage", func(h *house) { h.cookie = h.visit(func(v *domain.Visit) { v.Purpose = domain.LinkManage }) }, 403, "visit_purpose"},
		{"unknown", func(h *house) { h.cookie = h.visit(func(v *domain.Visit) { v.ConsentID = "con_unknown" }) }, 404, "consent_unknown"},
	} {
		for _, way := range []string{"sealing.taken", "session.requested"} {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				h := build(t)
				h.lay(domain.SessionFailed, domain.CredentialAccepted)
				c.lay(h)
				h.unchanged(func() {
					if way == "sealing.taken" {
						h.refused(h.give(h.jwe()), c.status, c.code)
					} else {
						h.refused(h.again(), c.status, c.code)
					}
				})
				es := h.entries(way)
				if len(es) != 1 || es[0].Data.Outcome != domain.OutcomeDenied || es[0].Data.Reason != c.code || es[0].ClientID == "" ||
					es[0].Data.Actor.ID[:4] != "inv_" || es[0].Data.Origin == "" || es[0].Subject != string(h.conn.ID) {
					t.Errorf("recorded %+v", es)
				}
			})
		}
	}
}

// TestOneVisitAtATimeEntersCredentials: the newest that confirmed. The one before is told, and changes nothing.
func TestOneVisitAtATimeEntersCredentials(t *testing.T) {
	h := build(t)
	h.lay(domain.SessionFailed, domain.CredentialAccepted)
	before := h.cookie
	newer := h.visit(func(*domain.Visit) {})
	h.cookie = before
	h.unchanged(func() {
		h.refused(h.give(h.jwe()), 409, "visit_superseded")
		h.refused(h.again(), 409, "visit_superseded")
	})
	h.cookie = newer
	session := h.begun(h.give(h.jwe()))
	if session.Visit != domain.HashToken(newer) {
		t.Errorf("the session was begun by %q", session.Visit)
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

// TestStoreThatFails: each of the two commits may fail before and after it took effect. What was counted is not taken
// again, and a session that has begun is found; a new login always goes through.
func TestStoreThatFails(t *testing.T) {
	died := errors.New("the process died")
	for _, c := range []struct {
		name   string
		commit int // the how manieth fails
		point  string
		taken  bool // the sealing was counted
		stored bool // the credential was kept and the session begun
		again  string
	}{
		{"before it is counted", 1, "before-commit", false, false, ""},
		{"after it was counted", 1, "after-commit", true, false, "sealing_used"},
		{"before it is kept", 2, "before-commit", true, false, "sealing_used"},
		{"after it was kept", 2, "after-commit", true, true, "session_running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := build(t)
			jwe, left := h.jwe(), c.commit
			h.fault = func(at string) error {
				if at == c.point {
					left--
				}
				if left == 0 && at == c.point {
					return died
				}
				return nil
			}
			h.refused(h.give(jwe), 500, "internal")
			h.fault = nil
			if got := len(h.sessions()) == 1 && len(h.entries("credential.sealed")) == 1 && h.get(&domain.Credential{ConnectionID: h.conn.ID}); got != c.stored {
				t.Errorf("stored: %t, want %t", got, c.stored)
			}
			if got := len(h.entries("sealing.taken")) == 1; got != c.taken {
				t.Errorf("taken: %t, want %t", got, c.taken)
			}
			if c.again != "" {
				h.refused(h.give(jwe), 409, c.again)
			} else {
				h.begun(h.give(jwe))
			}
			if !c.stored && c.taken {
				h.begun(h.give(h.jwe()))
			}
			if len(h.sessions()) != 1 || len(h.entries("credential.sealed")) != 1 {
				t.Errorf("%d sessions, %d entries", len(h.sessions()), len(h.entries("credential.sealed")))
			}
		})
	}
}

// counted is the outer gate's key, which counts how often it is asked.
type counted struct {
	domain.Encrypter
	asked int
}

func (c *counted) Encrypt(plain, label []byte) ([]byte, error) {
	c.asked++
	return c.Encrypter.Encrypt(plain, label)
}

// fail ends the connection's session, so that another may begin.
func (h *house) fail(s *domain.Session) {
	h.t.Helper()
	if err := s.Move(domain.SessionFailed, domain.ReasonBankUnavailable, h.env.Now()); err != nil {
		h.t.Fatal(err)
	}
	h.put(s)
}

// TestSealedIsTakenOnce: what was sealed is taken once, in the visit that it was sealed in, while that is fresh; not
// after an erasure, and not after a newer one. What is refused does not reach the outer gate's key.
func TestSealedIsTakenOnce(t *testing.T) {
	h := build(t)
	key := &counted{Encrypter: keys.Encrypter(envelope.KeyOuter)}
	h.service.Sealer = envelope.NewSealer(key)
	first, unused := h.jwe(), h.jwe() // both as the first
	h.fail(h.begun(h.give(first)))
	second := h.jwe()
	h.fail(h.begun(h.give(second)))
	next := h.asked()
	with := func(change func(*domain.Sealing)) domain.Sealing { t := next; change(&t); return t }
	elsewhere := h.visit(func(*domain.Visit) {})
	h.holds(h.cookie) // it confirmed again, and is the newest
	late := h.jweAs(next)
	for name, c := range map[string]struct {
		jwe    string
		status int
		code   string
	}{
		"the last again":              {second, 409, "sealing_used"},
		"the one before":              {first, 409, "sealing_used"},
		"one of that time, not used":  {unused, 409, "sealing_used"},
		"another visit's":             {h.jweAs(h.issue(elsewhere, next)), 400, "sealing_over"},
		"another credential's":        {h.jweAs(with(func(t *domain.Sealing) { t.Credential = domain.NewID[domain.CredentialID](h.env) })), 400, "sealing_over"},
		"a generation that skips one": {h.jweAs(h.issue(h.cookie, with(func(t *domain.Sealing) { t.Generation++ }))), 409, "sealing_used"},
		"a nonce made up":             {h.jweAs(with(func(t *domain.Sealing) { t.Nonce = strings.Repeat("A", 43) })), 400, "sealing_over"},
		"a nonce that is none":        {h.jweAs(with(func(t *domain.Sealing) { t.Nonce = "x" })), 400, "sealing_over"},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			h.unchanged(func() { h.refused(h.give(c.jwe), c.status, c.code) })
		})
	}
	err := h.tap.Store.Commit(t.Context(), func(tx domain.Tx) error {
		note := domain.Note(h.env, "test", "erased", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil)
		return errors.Join(tx.Delete(&domain.Credential{ConnectionID: h.conn.ID}), tx.Record(note))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.unchanged(func() { h.refused(h.give(second), 409, "sealing_used") })
	h.now = h.now.Add(domain.NonceLife)
	h.unchanged(func() { h.refused(h.give(late), 400, "sealing_over") })
	if key.asked != 2 {
		t.Errorf("the outer gate's key was asked %d times, want 2", key.asked)
	}
}

// TestKeysAreUsedWithinBounds: a visitor has a number of uses of keys, whichever way; then none, also if all come at once.
func TestKeysAreUsedWithinBounds(t *testing.T) {
	h := build(t)
	key := &counted{Encrypter: keys.Encrypter(envelope.KeyOuter)}
	h.service.Sealer = envelope.NewSealer(key)
	v := &domain.Visit{Hash: domain.HashToken(h.cookie)}
	h.get(v)
	v.Sealings = domain.MaxSealings - 3
	h.put(v)
	h.fail(h.begun(h.give(h.jwe())))
	h.fail(h.begun(h.again()))
	h.fail(h.begun(h.give(h.jwe())))
	h.unchanged(func() {
		h.refused(h.give(h.jwe()), 429, "too_many_sealings")
		h.refused(h.again(), 429, "too_many_sealings")
	})
	if key.asked != 2 {
		t.Errorf("the outer gate's key was asked %d times, want 2", key.asked)
	}
	h.cookie = h.visit(func(*domain.Visit) {})
	h.begun(h.again())
}

// TestNewestIsKept: of two logins that were counted, one after the other, the newer is kept, whichever comes first to be
// kept.
func TestNewestIsKept(t *testing.T) {
	h := build(t)
	older := h.jwe()
	var newer *domain.Session
	h.tap.after = func() { // the older was counted; before it is kept, a newer one comes and is kept
		newer = h.begun(h.give(h.jwe()))
		h.fail(newer)
	}
	h.refused(h.give(older), 409, "sealing_used")
	cred, conn := &domain.Credential{ConnectionID: h.conn.ID}, &domain.Connection{ID: h.conn.ID}
	h.get(cred)
	h.get(conn)
	if cred.Generation != 2 || conn.Generation != 2 || conn.Sealings != 2 || !cred.Fits(conn) || conn.SessionID != newer.ID {
		t.Errorf("the credential is %+v of %+v", cred, conn)
	}
}

// TestOlderCredentialIsNotUsed: one that an earlier build sealed, or that was put back, is asked for anew.
func TestOlderCredentialIsNotUsed(t *testing.T) {
	for name, generation := range map[string]int64{"of an earlier build": 0, "put back": 1, "of a time to come": 3} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			h.conn.State = domain.ConnectionPaused
			h.lay(domain.SessionFailed, domain.CredentialAccepted)
			cred := &domain.Credential{ConnectionID: h.conn.ID}
			h.get(cred)
			cred.Generation, h.conn.Generation, h.conn.Sealings = generation, 2, 2
			h.put(cred, h.conn)
			h.unchanged(func() { h.refused(h.again(), 409, "credential_needed") })
			h.begun(h.give(h.jwe()))
		})
	}
}

// TestKeysThatCannotBeReached: the failure is passing, and nothing is stored.
func TestKeysThatCannotBeReached(t *testing.T) {
	away := &domain.Error{Kind: domain.Unavailable, Code: "kms_away", Message: "try again", RetryAfter: time.Second}
	gone := func() ([]crypto.PublicKey, error) { return nil, away }
	for name, cut := range map[string]func(*house){
		"inner": func(h *house) { h.service.Inner = gone },
		"outer": func(h *house) { h.service.Sealer = envelope.NewSealer(broken{away}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			cut(h)
			jwe := h.jwe()
			h.refused(h.give(jwe), 503, "kms_away")
			if len(h.sessions()) != 0 || h.get(&domain.Credential{ConnectionID: h.conn.ID}) || len(h.emitted()) != 0 {
				t.Error("something was kept")
			}
			if name == "outer" { // it was counted before the key was asked
				h.refused(h.give(jwe), 409, "sealing_used")
			}
		})
	}
	h := build(t)
	h.service.Inner = gone
	h.refused(h.ask("GET", "/seal/key", ""), 503, "kms_away")
}

type broken struct{ err error }

func (b broken) Encrypt(_, _ []byte) ([]byte, error) { return nil, b.err }

const program = `package main

import (
	"crypto"
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
		Inner: func() ([]crypto.PublicKey, error) { return nil, nil }}
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
