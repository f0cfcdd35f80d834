package challenge_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

func TestStateOfConnection(t *testing.T) {
	for state, page := range map[domain.ConnectionState]string{domain.ConnectionPending: "consent", domain.ConnectionAwaiting: "connect",
		domain.ConnectionBusy: "wait", domain.ConnectionSCA: "sca", domain.ConnectionActive: "done", domain.ConnectionPaused: "paused", domain.ConnectionRemoved: "ended"} {
		t.Run(string(state), func(t *testing.T) {
			h := build(t)
			h.conn.State, h.conn.Reason = state, domain.ReasonBankAnswer
			h.put(h.conn)
			s := h.state()
			if s.Page != page || s.Connection != state || s.Reason != domain.ReasonBankAnswer || s.Now != h.env.Now() {
				t.Errorf("got %+v", s)
			}
			if over := state == domain.ConnectionRemoved; (s.Session == nil) != over || (s.Challenge == nil) != over {
				t.Errorf("of a connection that is %s the session %+v and the question %+v are shown", state, s.Session, s.Challenge)
			}
		})
	}
	if len(domain.ConnectionMoves) != 7 {
		t.Error("the law has other states than this test")
	}
}

func TestStateOfSession(t *testing.T) {
	for state := range domain.SessionMoves {
		t.Run(string(state), func(t *testing.T) {
			h := build(t)
			h.session.State, h.session.Reason = state, domain.ReasonRateLimited
			h.put(h.session)
			s := h.state()
			if s.Session == nil || s.Session.ID != h.session.ID || s.Session.State != state || s.Session.Records != 3 || s.Session.Reason != domain.ReasonRateLimited {
				t.Errorf("got %+v", s.Session)
			}
			if (s.Challenge == nil) != domain.SessionMoves.Final(state) {
				t.Errorf("the question is %+v", s.Challenge)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		h := build(t)
		h.conn.SessionID = ""
		h.put(h.conn)
		if s := h.state(); s.Session != nil || s.Challenge != nil {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("gone", func(t *testing.T) {
		h := build(t)
		h.drop(h.session)
		if s := h.state(); s.Session != nil || s.Challenge != nil || s.Page != "sca" {
			t.Errorf("got %+v", s)
		}
	})
}

func TestStateOfChallenge(t *testing.T) {
	for state := range domain.SCAMoves {
		t.Run(string(state), func(t *testing.T) {
			h := build(t)
			h.challenge.State, h.challenge.PollSeconds = state, 5
			h.put(h.challenge)
			s := h.state()
			c := s.Challenge
			if passed := state == domain.SCAVerified || state == domain.SCAExempt; s.Session.Cleared != passed {
				t.Errorf("cleared is %t", s.Session.Cleared)
			}
			if domain.SCAMoves.Final(state) {
				if c != nil {
					t.Errorf("a question that is over is shown: %+v", c)
				}
				return
			}
			if c == nil || c.ID != h.challenge.ID || c.State != state || c.Flow != domain.FlowCode || c.Method != "P_TAN" || len(c.Methods) != 2 ||
				c.TriesLeft != 3 || c.AnswerBy != h.challenge.AnswerBy || c.PollSeconds != 5 ||
				c.Destination != "+49-170-12XXXX" || c.Text != "Look at your phone" || c.Digits != 6 {
				t.Errorf("got %+v", c)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		h := build(t)
		h.drop(h.challenge)
		if c := h.state().Challenge; c != nil {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("shows nothing", func(t *testing.T) {
		h := build(t)
		h.challenge.Display, h.challenge.Methods = nil, nil
		h.put(h.challenge)
		w := h.ask("GET", "/challenge/state", "")
		if c := h.read(w).Challenge; c == nil || c.ImageURL != "" || c.Text != "" {
			t.Errorf("got %+v", c)
		}
		if !strings.Contains(w.Body.String(), `"methods":[]`) || strings.Contains(w.Body.String(), "digits") {
			t.Errorf("the page cannot read %s", w.Body)
		}
	})
	t.Run("display of another challenge", func(t *testing.T) {
		h := build(t)
		stolen := h.challenge.Display
		h.challenge.SessionID = "ses_other"
		h.challenge.Display = stolen
		h.put(h.challenge)
		w := h.ask("GET", "/challenge/state", "")
		h.refused(w, 500, "internal")
		if strings.Contains(w.Body.String(), "+49-170") {
			t.Errorf("shown: %s", w.Body)
		}
	})
}

func TestCanRetry(t *testing.T) {
	for state, want := range map[domain.CredentialState]bool{domain.CredentialSealed: true, domain.CredentialAccepted: true, domain.CredentialUnconfirmed: true,
		domain.CredentialTrying: false, domain.CredentialRefused: false, "": false} {
		h := build(t)
		if state != "" {
			h.conn.Generation = 2
			h.put(h.conn, &domain.Credential{ID: domain.NewID[domain.CredentialID](h.env), ConnectionID: h.conn.ID, State: state, Generation: 2})
		}
		if got := h.state().CanRetry; got != want {
			t.Errorf("credential %s: can retry is %t", state, got)
		}
		h.conn.Generation = 3
		h.put(h.conn)
		if h.state().CanRetry {
			t.Errorf("credential %s: an older one can be tried again", state)
		}
	}
}

// TestImageAddress: the page loads a picture again when it is another one, and only then.
func TestImageAddress(t *testing.T) {
	h := build(t)
	first := h.state().Challenge.ImageURL
	if !strings.HasPrefix(first, "/challenge/"+string(h.challenge.ID)+"/image?v=") {
		t.Fatalf("the picture is at %q", first)
	}
	h.challenge.UpdatedAt = h.env.Now().Add(time.Minute)
	h.show(domain.Display{Image: []byte("\x89PNG picture"), MediaType: "image/png"}) // sealed anew, as a poll does
	h.put(h.challenge)
	if again := h.state().Challenge.ImageURL; again != first {
		t.Errorf("the same picture moved from %s to %s", first, again)
	}
	h.show(domain.Display{Image: []byte("\x89PNG another"), MediaType: "image/png"})
	h.put(h.challenge)
	if other := h.state().Challenge.ImageURL; other == first {
		t.Error("another picture at the same address")
	}
}

func TestImage(t *testing.T) {
	h := build(t)
	w := h.ask("GET", h.state().Challenge.ImageURL, "")
	if w.Code != 200 || w.Body.String() != "\x89PNG picture" {
		t.Fatalf("got %d %q", w.Code, w.Body)
	}
	for name, want := range map[string]string{"Content-Type": "image/png", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
		"Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	for media, status := range map[string]int{"image/png": 200, "image/jpeg": 200, "image/gif": 200, "image/svg+xml": 404, "text/html": 404,
		"image/png; charset=x": 404, "IMAGE/PNG": 404, "application/javascript": 404, "": 404} {
		h.show(domain.Display{Image: []byte("<svg onload=alert(1)>"), MediaType: media})
		h.put(h.challenge)
		if w := h.ask("GET", "/challenge/"+string(h.challenge.ID)+"/image", ""); w.Code != status {
			t.Errorf("%q: got %d", media, w.Code)
		} else if status == 404 && strings.Contains(w.Body.String(), "<svg") {
			t.Errorf("%q: shown all the same: %s", media, w.Body)
		}
	}
}

// TestAnotherVisitSeesOnlyThatSomebodyIsAtIt: a link to manage, or a newer one to reconnect, shows neither destination nor
// picture, and what it sends burns no tries.
func TestAnotherVisitSeesOnlyThatSomebodyIsAtIt(t *testing.T) {
	for _, purpose := range []domain.LinkUse{domain.LinkManage, domain.LinkReconnect, domain.LinkConsent} {
		t.Run(string(purpose), func(t *testing.T) {
			h := build(t)
			h.cookie = h.visit(func(v *domain.Visit) { v.Purpose = purpose })
			w := h.ask("GET", "/challenge/state", "")
			s := h.read(w)
			if !s.Elsewhere || s.Challenge != nil || s.Session == nil || strings.Contains(w.Body.String(), "+49-170") {
				t.Errorf("shown %s", w.Body)
			}
			h.refused(h.ask("GET", "/challenge/"+string(h.challenge.ID)+"/image", ""), 403, "challenge_elsewhere")
			for _, kind := range []domain.AnswerKind{domain.AnswerCode, domain.AnswerRenew, domain.AnswerCancel, domain.AnswerPoll} {
				h.refused(h.answer(kind, "sealed_code", "sealed"), 403, "challenge_elsewhere")
			}
			if got := h.bank.requests(); len(got) != 0 {
				t.Errorf("the bank heard %v", got)
			}
		})
	}
}

// TestALinkToManageNeverAnswers: not even what its own visit began, should that ever come to be.
func TestALinkToManageNeverAnswers(t *testing.T) {
	h := build(t)
	h.cookie = h.visit(func(v *domain.Visit) { v.Purpose = domain.LinkManage })
	h.session.Visit = domain.HashToken(h.cookie)
	h.put(h.session)
	if s := h.state(); s.Challenge != nil || s.CanRetry {
		t.Errorf("shown %+v", s)
	}
	h.refused(h.ask("GET", "/challenge/"+string(h.challenge.ID)+"/image", ""), 404, "not_found")
	h.refused(h.answer(domain.AnswerCancel), 403, "visit_purpose")
}

// TestImageIsForItsInvestor: nobody else sees it, and nobody after it is over.
func TestImageIsForItsInvestor(t *testing.T) {
	for name, c := range map[string]struct {
		lay    func(*house) string // the path asked for
		status int
		code   string
	}{
		"another investor's": {func(h *house) string {
			h.cookie = h.visit(func(v *domain.Visit) { v.ConnectionID, v.InvestorRef = "conn_other", "inv-2" })
			return string(h.challenge.ID)
		}, 404, "not_found"},
		"visit over": {func(h *house) string {
			h.cookie = h.visit(func(v *domain.Visit) { v.ExpiresAt = h.env.Now() })
			return string(h.challenge.ID)
		}, 401, "visit_ended"},
		"unknown":       {func(h *house) string { return string(domain.NewID[domain.ChallengeID](h.env)) }, 404, "not_found"},
		"no identifier": {func(*house) string { return "x" }, 400, "invalid_field"},
		"no picture": {func(h *house) string {
			h.show(domain.Display{Text: "x"})
			h.put(h.challenge)
			return string(h.challenge.ID)
		}, 404, "not_found"},
		"over": {func(h *house) string {
			if err := h.challenge.Move(domain.SCAVerified, h.env.Now()); err != nil {
				h.t.Fatal(err)
			}
			h.put(h.challenge)
			return string(h.challenge.ID)
		}, 404, "not_found"},
		"connection removed": {func(h *house) string {
			h.conn.State = domain.ConnectionRemoved
			h.put(h.conn)
			return string(h.challenge.ID)
		}, 404, "not_found"},
		"key away": {func(h *house) string {
			h.service.Display = away{}
			return string(h.challenge.ID)
		}, 503, "kms_away"},
		"store away": {func(h *house) string {
			h.store.fail("connection", errors.New("disk"))
			return string(h.challenge.ID)
		}, 500, "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			w := h.ask("GET", "/challenge/"+c.lay(h)+"/image", "")
			h.refused(w, c.status, c.code)
			if strings.Contains(w.Body.String(), "PNG") {
				t.Error("the picture is in the answer")
			}
		})
	}
}

// away is a key that cannot be reached.
type away struct{}

func (away) Decrypt(_, _ []byte) ([]byte, error) {
	return nil, &domain.Error{Kind: domain.Unavailable, Code: "kms_away", Message: "try again"}
}

func TestAnswerIsChecked(t *testing.T) {
	h := build(t)
	id := string(h.challenge.ID)
	for _, c := range []struct {
		name, body, code, field string
		status                  int
	}{
		{"nothing", `{}`, "invalid_field", "/challenge_id", 400},
		{"empty body", ``, "invalid_field", "/challenge_id", 400},
		{"no identifier", `{"challenge_id":"x","kind":"poll"}`, "invalid_field", "/challenge_id", 400},
		{"another kind of identifier", `{"challenge_id":"` + string(h.session.ID) + `","kind":"poll"}`, "invalid_field", "/challenge_id", 400},
		{"no kind", `{"challenge_id":"` + id + `"}`, "invalid_field", "/kind", 400},
		{"unknown kind", `{"challenge_id":"` + id + `","kind":"guess"}`, "invalid_field", "/kind", 400},
		{"code without one", `{"challenge_id":"` + id + `","kind":"code"}`, "invalid_field", "/sealed_code", 400},
		{"code too large", `{"challenge_id":"` + id + `","kind":"code","sealed_code":"` + strings.Repeat("A", envelope.MaxCodeJWE+1) + `"}`, "invalid_field", "/sealed_code", 400},
		{"code unsealed", `{"challenge_id":"` + id + `","kind":"code","code":"123456"}`, "invalid_field", "/code", 400},
		{"code a number", `{"challenge_id":"` + id + `","kind":"code","sealed_code":123456}`, "invalid_field", "/sealed_code", 400},
		{"no method", `{"challenge_id":"` + id + `","kind":"select"}`, "invalid_field", "/method", 400},
		{"method not offered", `{"challenge_id":"` + id + `","kind":"select","method":"M_TAN"}`, "invalid_field", "/method", 400},
		{"method in another case", `{"challenge_id":"` + id + `","kind":"select","method":"p_tan"}`, "invalid_field", "/method", 400},
		{"unknown challenge", `{"challenge_id":"` + string(domain.NewID[domain.ChallengeID](h.env)) + `","kind":"poll"}`, "not_found", "", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := *h
			h.t = t
			w := h.ask("POST", "/challenge/answer", c.body)
			h.refused(w, c.status, c.code)
			var p struct{ Field string }
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Field != c.field {
				t.Errorf("at fault is %q, want %q", p.Field, c.field)
			}
		})
	}
	if len(h.bank.requests()) != 0 || len(h.entries()) != 0 {
		t.Errorf("the bank was asked %v, recorded %v", h.bank.requests(), h.entries())
	}
}

func TestForeignChallenge(t *testing.T) {
	h := build(t)
	h.cookie = h.visit(func(v *domain.Visit) { v.ConnectionID, v.InvestorRef = "conn_other", "inv-2" })
	for _, kind := range []domain.AnswerKind{domain.AnswerCode, domain.AnswerPoll, domain.AnswerSelect, domain.AnswerRenew, domain.AnswerCancel} {
		h.refused(h.answer(kind, "sealed_code", "x", "method", "P_TAN"), 404, "not_found")
	}
	if len(h.bank.requests()) != 0 {
		t.Errorf("the bank was asked %v", h.bank.requests())
	}
}

func TestAnswerIsPassedOn(t *testing.T) {
	for kind, more := range map[domain.AnswerKind][]string{domain.AnswerCode: {"sealed_code", ""}, domain.AnswerSelect: {"method", "P_TAN_PUSH"},
		domain.AnswerRenew: nil, domain.AnswerCancel: nil, domain.AnswerPoll: nil} {
		t.Run(string(kind), func(t *testing.T) {
			h := build(t)
			h.challenge.State = domain.SCAAwaiting
			h.put(h.challenge)
			h.now = h.now.Add(time.Second)
			if kind == domain.AnswerCode {
				more = []string{"sealed_code", h.seal("123456")}
			}
			h.bank.answer = func(domain.AnswerRequest) error {
				h.session.Records = 99
				h.put(h.session)
				return nil
			}
			if s := h.read(h.answer(kind, more...)); s.Session.Records != 99 {
				t.Errorf("the answer shows how things stood before: %+v", s.Session)
			}
			want := domain.AnswerRequest{SessionID: h.session.ID, ChallengeID: h.challenge.ID, Kind: kind}
			if kind == domain.AnswerCode {
				want.SealedCode = more[1]
			}
			if kind == domain.AnswerSelect {
				want.Method = "P_TAN_PUSH"
			}
			if got := h.bank.requests(); len(got) != 1 || got[0] != want {
				t.Errorf("the bank was asked %+v", got)
			}
			es := h.entries()
			if len(es) != 1 || es[0].Data.Outcome != domain.OutcomeAllowed || es[0].Data.Details["kind"] != string(kind) || len(es[0].Data.Details) != 1 ||
				es[0].Subject != string(h.challenge.ID) || !strings.HasPrefix(es[0].Data.Actor.ID, "inv_") || es[0].Data.Origin == "" || es[0].Data.Custodian != "sandbox" {
				t.Errorf("recorded %+v", es)
			}
		})
	}
}

// TestBankIsAskedAtItsPace: however often a page asks, the bank is asked at its own interval, and not at all where
// there is nothing to wait for.
func TestBankIsAskedAtItsPace(t *testing.T) {
	for name, c := range map[string]struct {
		state   domain.SCAState
		every   int
		after   time.Duration
		through bool
	}{
		"too early":            {domain.SCAAwaiting, 5, 4999 * time.Millisecond, false},
		"in time":              {domain.SCAAwaiting, 5, 5 * time.Second, true},
		"no interval, at once": {domain.SCAAwaiting, 0, 0, false},
		"no interval":          {domain.SCAAwaiting, 0, time.Second, true},
		"too late":             {domain.SCAAwaiting, 5, 5 * time.Minute, false},
		"a code is wanted":     {domain.SCAIssued, 5, time.Minute, false},
		"a choice is wanted":   {domain.SCASelection, 5, time.Minute, false},
		"passed":               {domain.SCAVerified, 5, time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			h.challenge.State, h.challenge.PollSeconds = c.state, c.every
			h.put(h.challenge)
			h.now = h.now.Add(c.after)
			h.read(h.answer(domain.AnswerPoll))
			if got := len(h.bank.requests()) == 1; got != c.through || len(h.entries()) != len(h.bank.requests()) {
				t.Errorf("asked: %t, recorded %d", got, len(h.entries()))
			}
		})
	}
}

func TestBankRefuses(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&domain.Error{Kind: domain.Conflict, Code: "answer_in_progress", Message: "wait"}, 409, "answer_in_progress"},
		{&domain.Error{Kind: domain.Gone, Code: "challenge_over", Message: "over"}, 410, "challenge_over"},
		{&domain.Error{Kind: domain.Invalid, Code: "jwe_stale", Message: "again"}, 400, "jwe_stale"},
		{&domain.Error{Kind: domain.Unavailable, Code: "bank_unavailable", Message: "later", RetryAfter: 2 * time.Second, Err: errors.New("10.0.0.7")}, 503, "bank_unavailable"},
		{errors.New("dialling 10.0.0.7"), 500, "internal"},
	} {
		t.Run(c.code, func(t *testing.T) {
			h := build(t)
			h.bank.answer = func(domain.AnswerRequest) error { return c.err }
			w := h.answer(domain.AnswerRenew)
			h.refused(w, c.status, c.code)
			if strings.Contains(w.Body.String(), "10.0.0.7") {
				t.Error("the cause is shown")
			}
			if c.status == 503 && w.Header().Get("Retry-After") != "2" {
				t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
			}
		})
	}
}

func TestNoConsentNoAnswer(t *testing.T) {
	elsewhere := domain.NewID[domain.ClientID](domain.Env{})
	for _, c := range []struct {
		name   string
		lay    func(*house)
		status int
		code   string
	}{
		{"received", func(h *house) { h.consent.State = domain.ConsentReceived }, 403, "consent_received"},
		{"rejected", func(h *house) { h.consent.State = domain.ConsentRejected }, 403, "consent_rejected"},
		{"expired", func(h *house) { h.consent.State = domain.ConsentExpired }, 403, "consent_expired"},
		{"revoked, and the connection removed", func(h *house) {
			h.consent.State, h.conn.State = domain.ConsentRevoked, domain.ConnectionRemoved
		}, 403, "consent_revoked"},
		{"terminated", func(h *house) { h.consent.State = domain.ConsentTerminated }, 403, "consent_terminated"},
		{"over at this moment", func(h *house) { h.consent.ExpiresAt = h.env.Now() }, 403, "consent_expired"},
		{"of another client", func(h *house) { h.consent.ClientID = elsewhere }, 403, "consent_not_yours"},
		{"of another connection", func(h *house) { h.consent.ConnectionID = "conn_other" }, 403, "consent_not_yours"},
		{"of another investor", func(h *house) { h.consent.InvestorRef = "inv-2" }, 403, "consent_not_yours"},
		{"for another custodian", func(h *house) { h.consent.Custodian = "otherbank" }, 403, "consent_custodian"},
		{"not for this region", func(h *house) { h.consent.Regions = []string{"europe-west4"} }, 403, "consent_region"},
		{"unknown", func(h *house) {
			h.cookie = h.visit(func(v *domain.Visit) { v.ConsentID = "con_unknown" })
			h.session.Visit = domain.HashToken(h.cookie)
			h.put(h.session)
		}, 404, "consent_unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := build(t)
			c.lay(h)
			h.put(h.consent, h.conn)
			for _, kind := range []domain.AnswerKind{domain.AnswerCode, domain.AnswerRenew, domain.AnswerCancel} {
				h.refused(h.answer(kind, "sealed_code", h.seal("123456")), c.status, c.code)
			}
			if got := h.bank.requests(); len(got) != 0 {
				t.Errorf("the bank was asked %v", got)
			}
			es := h.entries()
			if len(es) != 3 {
				t.Fatalf("recorded %+v", es)
			}
			for _, e := range es {
				if e.Data.Outcome != domain.OutcomeDenied || e.Data.Reason != c.code || !strings.HasPrefix(e.Data.Actor.ID, "inv_") || e.Data.Origin == "" || e.ClientID == "" {
					t.Errorf("recorded %+v", e)
				}
			}
		})
	}
}

// innerKey is the inner gate's key, in a test's hand.
var innerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		panic(err)
	}
	return key
})

// seal is what the browser makes of a code, as what the sealing function gives it for this visit.
func (h *house) seal(code string) string {
	h.t.Helper()
	c := *h.challenge
	if err := h.store.Store.Get(h.t.Context(), &c); err != nil {
		h.t.Fatal(err)
	}
	return h.sealAs(h.cookie, c.NextSealing(), code)
}

func (h *house) sealAs(cookie string, t domain.Sealing, code string) string {
	h.t.Helper()
	v := &domain.Visit{Hash: domain.HashToken(cookie)}
	sealed, err := envelope.PublicJWK(&innerKey().PublicKey).SealCode(v.Issue(domain.NewSecret([]byte("salt")), t, h.env.Now()), code, h.env.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return sealed
}

// TestCodesAreTakenOnce: a code goes on once, in the visit that it was sealed in, for the question that it was sealed
// for. What is played again reaches nobody who could open it.
func TestCodesAreTakenOnce(t *testing.T) {
	h := build(t)
	first := h.seal("111111")
	h.read(h.answer(domain.AnswerCode, "sealed_code", first))
	next := domain.Sealing{Subject: string(h.challenge.ID), Generation: 2}
	for name, c := range map[string]struct {
		sealed string
		status int
		code   string
	}{
		"again":              {first, 409, "sealing_used"},
		"a number that was":  {h.sealAs(h.cookie, domain.Sealing{Subject: next.Subject, Generation: 1}, "222222"), 409, "sealing_used"},
		"a number to come":   {h.sealAs(h.cookie, domain.Sealing{Subject: next.Subject, Generation: 3}, "222222"), 409, "sealing_used"},
		"another visit's":    {h.sealAs(h.visit(func(*domain.Visit) {}), next, "222222"), 400, "sealing_over"},
		"another question's": {h.sealAs(h.cookie, domain.Sealing{Subject: "chal_other", Generation: 2}, "222222"), 400, "jwe_subject"},
		"no JWE":             {"sealed", 400, "jwe_malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			h.refused(h.answer(domain.AnswerCode, "sealed_code", c.sealed), c.status, c.code)
		})
	}
	late := h.sealAs(h.cookie, next, "222222")
	h.now = h.now.Add(domain.NonceLife)
	h.refused(h.answer(domain.AnswerCode, "sealed_code", late), 400, "sealing_over")
	if n := len(h.bank.requests()); n != 1 {
		t.Errorf("%d codes went on, want one", n)
	}
}

// TestCodesAreBounded: of one question, and of one visit, only so many codes go on to where they cost a key.
func TestCodesAreBounded(t *testing.T) {
	h := build(t)
	for range domain.MaxCodes {
		h.read(h.answer(domain.AnswerCode, "sealed_code", h.seal("111111")))
	}
	h.refused(h.answer(domain.AnswerCode, "sealed_code", h.seal("111111")), 429, "too_many_codes")
	v := &domain.Visit{Hash: domain.HashToken(h.cookie)}
	if err := h.store.Store.Get(t.Context(), v); err != nil || v.Sealings != domain.MaxCodes {
		t.Errorf("the visit counts %d, %v", v.Sealings, err)
	}
	v.Sealings = domain.MaxSealings
	h.challenge.Codes = 3
	h.put(v, h.challenge)
	h.refused(h.answer(domain.AnswerCode, "sealed_code", h.seal("111111")), 429, "too_many_sealings")
	if n := len(h.bank.requests()); n != domain.MaxCodes {
		t.Errorf("%d codes went on, want %d", n, domain.MaxCodes)
	}
}

// TestCodesAreKeptNowhere: a code goes through closed, and neither it nor its envelope stays behind.
func TestCodesAreKeptNowhere(t *testing.T) {
	h := build(t)
	const code = "739184-my-code"
	var sealed string
	var parts []string
	again := func() string {
		sealed = h.seal(code)
		parts = append(parts, strings.Split(sealed, ".")...)
		return sealed
	}
	for _, result := range []error{nil, errors.New("bank said no"), &domain.Error{Kind: domain.Unavailable, Code: "bank_unavailable", Message: "later"}} {
		h.bank.answer = func(r domain.AnswerRequest) error {
			if r.SealedCode != sealed {
				t.Error("the code did not arrive as it was sent")
			}
			return result
		}
		answer := h.answer(domain.AnswerCode, "sealed_code", again()).Body.String()
		if strings.Contains(answer, sealed[:60]) || strings.Contains(answer, code) {
			t.Errorf("the code comes back: %s", answer)
		}
	}
	h.consent.State = domain.ConsentRevoked
	h.put(h.consent)
	h.answer(domain.AnswerCode, "sealed_code", again())
	h.bank.answer = func(domain.AnswerRequest) error { panic(sealed) }
	h.consent.State = domain.ConsentValid
	h.put(h.consent)
	h.refused(h.answer(domain.AnswerCode, "sealed_code", again()), 500, "internal")
	if len(h.bank.requests()) != 4 || len(h.entries()) != 5 {
		t.Fatalf("asked %d times, recorded %d: the test looks at the wrong thing", len(h.bank.requests()), len(h.entries()))
	}
	kept, log := h.kept(), h.log.String()
	if !strings.Contains(kept, string(h.challenge.ID)) || !strings.Contains(log, "POST /challenge/answer") {
		t.Fatal("store or log are not there: the test looks at the wrong thing")
	}
	for _, part := range append(parts, code) {
		for name, text := range map[string]string{"store": kept, "log": log} {
			if strings.Contains(text, part) {
				t.Errorf("in the %s: %.40s", name, part)
			}
		}
	}
}

func TestVisitIsNeeded(t *testing.T) {
	h := build(t)
	h.cookie = strings.Repeat("A", 43)
	h.refused(h.ask("GET", "/challenge/state", ""), 401, "visit_ended")
	h.refused(h.ask("GET", "/challenge/events", ""), 401, "visit_ended")
	h.refused(h.ask("GET", "/challenge/"+string(h.challenge.ID)+"/image", ""), 401, "visit_ended")
	h.refused(h.answer(domain.AnswerCancel), 401, "visit_ended")
}

// TestStoreThatFails: nothing of our insides is shown, whatever cannot be read.
func TestStoreThatFails(t *testing.T) {
	for _, kind := range []domain.DocumentKind{"connection", "session", "challenge", "credential"} {
		t.Run(string(kind), func(t *testing.T) {
			h := build(t)
			h.store.fail(kind, errors.New("disk at /srv/sluis"))
			for _, path := range []string{"/challenge/state", "/challenge/events"} {
				w := h.ask("GET", path, "")
				h.refused(w, 500, "internal")
				if strings.Contains(w.Body.String(), "/srv/") {
					t.Errorf("shown: %s", w.Body)
				}
			}
		})
	}
}

// TestBankIsAskedOnceAtATime: a page that asks while another one's question is under way gets the state, and no more.
func TestBankIsAskedOnceAtATime(t *testing.T) {
	h := build(t)
	h.challenge.State = domain.SCAAwaiting
	h.put(h.challenge)
	h.now = h.now.Add(time.Minute)
	h.bank.says(func(domain.AnswerRequest) error {
		if s := h.read(h.answer(domain.AnswerPoll)); s.Challenge == nil {
			t.Error("the state lacks the question")
		}
		return nil
	})
	h.read(h.answer(domain.AnswerPoll))
	if n := len(h.bank.requests()); n != 1 {
		t.Errorf("asked %d times", n)
	}
	h.read(h.answer(domain.AnswerPoll))
	if n := len(h.bank.requests()); n != 2 {
		t.Errorf("asked %d times: the turn was not given back", n)
	}
}
