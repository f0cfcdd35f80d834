package comdirect

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 18, 9, 30, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lockedRand is deterministic randomness that many goroutines may read.
type lockedRand struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (l *lockedRand) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// stand is a bank that listens, and its clock.
type stand struct {
	*Bank
	clock  *clock
	url    string
	client *http.Client
}

// open puts up a bank with short delays; change may alter its options.
func openBank(t *testing.T, change func(*Options)) *stand {
	t.Helper()
	c := newClock()
	o := Options{Env: domain.Env{Clock: c.Now, Rand: &lockedRand{r: rand.NewChaCha8([32]byte{7})}}, Slow: time.Millisecond}
	if change != nil {
		change(&o)
	}
	b := New(o)
	s, err := ServeTLS(b, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return &stand{Bank: b, clock: c, url: s.URL(), client: s.Client()}
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
	broken error // why the body could not be read to its end
}

func (r reply) decode(t *testing.T, v any) {
	t.Helper()
	if r.broken != nil {
		t.Fatalf("body broke off: %v", r.broken)
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("status %d, body %.200q: %v", r.status, r.body, err)
	}
}

// code is the code of a refusal.
func (r reply) code() string {
	if r.status < 400 {
		return ""
	}
	var v struct {
		Code  string
		Error string
	}
	_ = json.Unmarshal(r.body, &v)
	return v.Code + v.Error
}

const requestInfo = `{"clientRequestId":{"sessionId":"0123456789abcdef","requestId":"093000000"}}`

// send makes a request; headers come in pairs and may replace the usual ones.
func (s *stand) send(t *testing.T, method, path, token string, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("x-http-request-info", requestInfo)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return reply{status: res.StatusCode, header: res.Header, body: raw, broken: err}
}

func (s *stand) get(t *testing.T, token, path string) reply {
	t.Helper()
	return s.send(t, http.MethodGet, path, token, "")
}

// form posts to the token endpoint.
func (s *stand) form(t *testing.T, pairs ...string) reply {
	t.Helper()
	v := url.Values{"client_id": {DefaultClientID}, "client_secret": {DefaultClientSecret}}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return s.send(t, http.MethodPost, "/oauth/token", "", v.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

func (s *stand) signIn(t *testing.T, number, pin string) reply {
	t.Helper()
	return s.form(t, "grant_type", "password", "username", number, "password", pin)
}

// tokens is what the token endpoint gives.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Type    string `json:"token_type"`
	Expires int    `json:"expires_in"`
	Scope   string `json:"scope"`
}

func (r reply) tokens(t *testing.T) tokens {
	t.Helper()
	want(t, r, http.StatusOK, "")
	var tk tokens
	r.decode(t, &tk)
	return tk
}

func want(t *testing.T, r reply, status int, code string) {
	t.Helper()
	if r.status != status || r.code() != code {
		t.Fatalf("got status %d code %q, want %d %q; body %.300s", r.status, r.code(), status, code, r.body)
	}
}

// visit is a session on its way through SCA.
type visit struct {
	*stand
	t       *testing.T
	login   Login
	tk      tokens
	session string
	once    onceInfo
}

// arrive logs in and reads the session.
func (s *stand) arrive(t *testing.T, number string) *visit {
	t.Helper()
	l, ok := Find(number)
	if !ok {
		t.Fatalf("no login %s", number)
	}
	v := &visit{stand: s, t: t, login: l, tk: s.signIn(t, number, l.PIN).tokens(t)}
	var sessions []sessionObject
	r := s.get(t, v.tk.Access, "/api/session/clients/user/v1/sessions")
	want(t, r, http.StatusOK, "")
	r.decode(t, &sessions)
	if len(sessions) != 1 || len(sessions[0].Identifier) != 32 {
		t.Fatalf("sessions %+v", sessions)
	}
	v.session = sessions[0].Identifier
	return v
}

func (v *visit) body() string {
	return fmt.Sprintf(`{"identifier":%q,"sessionTanActive":true,"activated2FA":true}`, v.session)
}

// validate asks for a challenge, of a method if one is given.
func (v *visit) validate(method string) reply {
	v.t.Helper()
	var headers []string
	if method != "" {
		headers = []string{onceHeader, fmt.Sprintf(`{"typ":%q}`, method)}
	}
	r := v.send(v.t, http.MethodPost, "/api/session/clients/user/v1/sessions/"+v.session+"/validate", v.tk.Access, v.body(), headers...)
	v.once = onceInfo{}
	if h := r.header.Get(onceHeader); h != "" {
		if err := json.Unmarshal([]byte(h), &v.once); err != nil {
			v.t.Fatal(err)
		}
	}
	return r
}

// activate answers the challenge.
func (v *visit) activate(code string) reply {
	v.t.Helper()
	headers := []string{onceHeader, fmt.Sprintf(`{"id":%q}`, v.once.ID)}
	if code != "" {
		headers = append(headers, "x-once-authentication", code)
	}
	return v.send(v.t, http.MethodPatch, "/api/session/clients/user/v1/sessions/"+v.session, v.tk.Access, v.body(), headers...)
}

// pollStatus asks after a push.
func (v *visit) pollStatus() string {
	v.t.Helper()
	r := v.get(v.t, v.tk.Access, v.once.Link.Href)
	want(v.t, r, http.StatusOK, "")
	var s struct{ Status string }
	r.decode(v.t, &s)
	return s.Status
}

func (v *visit) secondary() reply {
	v.t.Helper()
	return v.form(v.t, "grant_type", "cd_secondary", "token", v.tk.Access)
}

// enter takes a login all the way to a token for data, as its row of the table says.
func (s *stand) enter(t *testing.T, number string) *visit {
	t.Helper()
	v := s.arrive(t, number)
	if !v.login.exempt {
		want(t, v.validate(""), http.StatusCreated, "")
		switch v.once.Type {
		case PushTAN:
			if v.login.push == pushManual && !s.Approve(number) {
				t.Fatal("nothing to approve")
			}
			for v.pollStatus() == StatusPending {
			}
			want(t, v.activate(""), http.StatusOK, "")
		case FreeTAN:
			want(t, v.activate(""), http.StatusOK, "")
		default:
			v.answerAll()
		}
	}
	v.tk = v.secondary().tokens(t)
	return v
}

func (v *visit) answerAll() {
	v.t.Helper()
	for i, code := range v.login.Answers {
		last := i == len(v.login.Answers)-1
		if last && v.login.Renew {
			want(v.t, v.validate(""), http.StatusCreated, "")
		}
		r := v.activate(code)
		if last {
			want(v.t, r, http.StatusOK, "")
		} else if r.status < 400 {
			v.t.Fatalf("answer %d was taken", i)
		}
	}
}

// TestLogins walks the whole table: every login ends as its row says.
func TestLogins(t *testing.T) {
	s := openBank(t, nil)
	for _, l := range Logins() {
		t.Run(l.Number+" "+l.Name, func(t *testing.T) {
			if len(l.Number) != 8 || strings.Trim(l.Number, "0123456789") != "" || l.Note == "" {
				t.Fatalf("row %+v", l)
			}
			switch l.Reason {
			case "":
				s.retry(t, l.Number)
				v := s.enter(t, l.Number)
				checkProducts(t, v)
				want(t, s.send(t, http.MethodDelete, "/oauth/revoke", v.tk.Access, ""), http.StatusNoContent, "")
			case domain.ReasonCredentialsRefused:
				want(t, s.signIn(t, l.Number, l.PIN), http.StatusBadRequest, "invalid_grant")
			case domain.ReasonAccountLocked:
				r := s.signIn(t, l.Number, l.PIN)
				want(t, r, http.StatusBadRequest, "invalid_grant")
				if !bytes.Contains(r.body, []byte("User account is locked")) {
					t.Errorf("body %s", r.body)
				}
			case domain.ReasonBankUnavailable:
				want(t, s.signIn(t, l.Number, l.PIN), http.StatusInternalServerError, "internal")
			case domain.ReasonActionRequired:
				checkTerms(t, s, l)
			case domain.ReasonSCARejected:
				if len(l.Answers) > 0 {
					v := s.arrive(t, l.Number)
					want(t, v.validate(""), http.StatusCreated, "")
					for _, code := range l.Answers {
						want(t, v.activate(code), http.StatusBadRequest, CodeWrongTAN)
					}
					return // one more would lock it
				}
				checkPush(t, s, l.Number, StatusRejected, CodeWrongTAN)
			case domain.ReasonSCAExpired:
				checkIgnored(t, s, l.Number)
			default:
				t.Fatalf("no test for reason %s", l.Reason)
			}
		})
	}
}

// retry gets past a login that is answered with 429 at first.
func (s *stand) retry(t *testing.T, number string) {
	t.Helper()
	l, _ := Find(number)
	if l.faults[kindToken] != faultBusy {
		return
	}
	r := s.signIn(t, number, l.PIN)
	want(t, r, http.StatusTooManyRequests, "rate.limit")
	if r.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
	}
}

func checkTerms(t *testing.T, s *stand, l Login) {
	t.Helper()
	tk := s.signIn(t, l.Number, l.PIN).tokens(t)
	path := "/api/session/clients/user/v1/sessions"
	want(t, s.get(t, tk.Access, path), http.StatusUnprocessableEntity, CodeAction)
	s.AcceptTerms(l.Number)
	want(t, s.get(t, tk.Access, path), http.StatusOK, "")
}

func checkPush(t *testing.T, s *stand, number, status, code string) {
	t.Helper()
	v := s.arrive(t, number)
	want(t, v.validate(""), http.StatusCreated, "")
	want(t, v.activate(""), http.StatusBadRequest, CodeWrongTAN) // too early
	if got := v.pollStatus(); got != status {
		t.Fatalf("status %s, want %s", got, status)
	}
	if r := v.activate(""); r.status < 400 || r.code() != code {
		t.Fatalf("got %d %s", r.status, r.code())
	}
}

func checkIgnored(t *testing.T, s *stand, number string) {
	t.Helper()
	v := s.arrive(t, number)
	want(t, v.validate(""), http.StatusCreated, "")
	for range 5 {
		if got := v.pollStatus(); got != StatusPending {
			t.Fatalf("status %s", got)
		}
	}
	s.clock.move(time.Minute)
	if got := v.pollStatus(); got != StatusExpired {
		t.Fatalf("status %s", got)
	}
	want(t, v.activate(""), http.StatusUnprocessableEntity, CodeExpired)
	want(t, v.secondary(), http.StatusBadRequest, "invalid_grant")
}

// TestPhases checks which token opens what, and for how long.
func TestPhases(t *testing.T) {
	s := openBank(t, nil)
	const balances = "/api/banking/clients/user/v2/accounts/balances"
	v := s.arrive(t, "20000002")
	if v.tk.Scope != "TWO_FACTOR" || v.tk.Expires != 599 || v.tk.Type != "bearer" {
		t.Errorf("tokens %+v", v.tk)
	}
	want(t, s.get(t, v.tk.Access, balances), http.StatusForbidden, "insufficient_scope")
	want(t, v.secondary(), http.StatusBadRequest, "invalid_grant") // before SCA
	want(t, v.validate(""), http.StatusCreated, "")
	want(t, v.activate(Codes[SMSTAN]), http.StatusOK, "")
	want(t, s.get(t, v.tk.Access, balances), http.StatusForbidden, "insufficient_scope")
	first := v.secondary().tokens(t)
	if first.Scope != "BANKING_RO BROKERAGE_RW SESSION_RW" {
		t.Errorf("scope %q", first.Scope)
	}
	want(t, s.get(t, first.Access, balances), http.StatusOK, "")
	want(t, s.get(t, first.Refresh, balances), http.StatusUnauthorized, "invalid_token")
	want(t, s.get(t, first.Access+"x", balances), http.StatusUnauthorized, "invalid_token")
	want(t, s.get(t, "", balances), http.StatusUnauthorized, "invalid_token")

	s.clock.move(599 * time.Second)
	want(t, s.get(t, first.Access, balances), http.StatusUnauthorized, "invalid_token")
	second := s.form(t, "grant_type", "refresh_token", "refresh_token", first.Refresh).tokens(t)
	want(t, s.get(t, second.Access, balances), http.StatusOK, "")
	want(t, s.form(t, "grant_type", "refresh_token", "refresh_token", first.Refresh), http.StatusUnauthorized, "invalid_grant")

	want(t, s.send(t, http.MethodDelete, "/oauth/revoke", second.Access, "", "x-http-request-info", ""), http.StatusNoContent, "")
	want(t, s.get(t, second.Access, balances), http.StatusUnauthorized, "invalid_token")
	want(t, s.form(t, "grant_type", "refresh_token", "refresh_token", second.Refresh), http.StatusUnauthorized, "invalid_grant")
	if n := s.OpenSessions(""); n != 0 {
		t.Errorf("%d open sessions", n)
	}
	third := s.enter(t, "20000005")
	s.clock.move(20 * time.Minute)
	if n := s.OpenSessions("20000005"); n != 0 {
		t.Errorf("%d open sessions after the refresh token's life", n)
	}
	want(t, s.form(t, "grant_type", "refresh_token", "refresh_token", third.tk.Refresh), http.StatusUnauthorized, "invalid_grant")
}

// TestRefusals checks what the bank does not take.
func TestRefusals(t *testing.T) {
	s := openBank(t, nil)
	v := s.enter(t, "20000005")
	p := s.arrive(t, "20000002")
	sessions := "/api/session/clients/user/v1/sessions"
	tests := []struct {
		name   string
		reply  func() reply
		status int
		code   string
	}{
		{"wrong PIN", func() reply { return s.signIn(t, "20000001", "654321") }, 400, "invalid_grant"},
		{"empty PIN", func() reply { return s.signIn(t, "20000001", "") }, 400, "invalid_grant"},
		{"unknown number", func() reply { return s.signIn(t, "99999999", PIN) }, 400, "invalid_grant"},
		{"wrong client", func() reply {
			return s.form(t, "client_secret", "x", "grant_type", "password", "username", "20000001", "password", PIN)
		}, 401, "invalid_client"},
		{"unknown grant", func() reply { return s.form(t, "grant_type", "implicit") }, 400, "unsupported_grant_type"},
		{"secondary without token", func() reply { return s.form(t, "grant_type", "cd_secondary") }, 400, "invalid_grant"},
		{"huge form", func() reply {
			return s.form(t, "grant_type", "password", "username", "20000005", "password", PIN, "x", strings.Repeat("x", 20<<10))
		}, 401, "invalid_client"},
		{"no request info", func() reply { return s.send(t, "GET", sessions, p.tk.Access, "", "x-http-request-info", "") }, 400, CodeObject},
		{"request id too short", func() reply {
			return s.send(t, "GET", sessions, p.tk.Access, "", "x-http-request-info", strings.Replace(requestInfo, "093000000", "1", 1))
		}, 400, CodeObject},
		{"other client", func() reply { return s.get(t, p.tk.Access, "/api/session/clients/other/v1/sessions") }, 404, ""},
		{"other session", func() reply {
			return s.send(t, "POST", sessions+"/"+v.session+"/validate", p.tk.Access, p.body())
		}, 422, CodeObject},
		{"flags not set", func() reply {
			return s.send(t, "POST", sessions+"/"+p.session+"/validate", p.tk.Access, fmt.Sprintf(`{"identifier":%q}`, p.session))
		}, 422, CodeObject},
		{"method not offered", func() reply { return p.validate(PhotoTAN) }, 422, "UNPROCESSABLE_ONCE_AUTHENTICATION_INFO_HEADER"},
		{"answer without challenge", func() reply { return p.activate("111111") }, 422, "UNPROCESSABLE_ONCE_AUTHENTICATION_INFO_HEADER"},
		{"unknown path", func() reply { return s.get(t, v.tk.Access, "/api/nothing") }, 404, ""},
		{"order", func() reply { return s.send(t, "POST", "/api/brokerage/v3/orders", v.tk.Access, "{}") }, 422, CodeObject},
		{"unknown account", func() reply { return s.get(t, v.tk.Access, "/api/banking/v1/accounts/X/transactions") }, 404, ""},
		{"unknown depot", func() reply { return s.get(t, v.tk.Access, "/api/brokerage/v3/depots/X/positions") }, 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { want(t, tt.reply(), tt.status, tt.code) })
	}
}

// TestCountersAreThePersons checks that the bank counts over all sessions, and forgets only what its rules or options say.
func TestCountersAreThePersons(t *testing.T) {
	t.Run("three refused logins lock, and one that is taken forgets them", func(t *testing.T) {
		s := openBank(t, nil)
		for range 2 {
			for range 2 {
				want(t, s.signIn(t, "20000002", "654321"), http.StatusBadRequest, "invalid_grant")
			}
			want(t, s.signIn(t, "20000002", PIN), http.StatusOK, "")
		}
		for range 3 {
			want(t, s.signIn(t, "20000002", "654321"), http.StatusBadRequest, "invalid_grant")
		}
		if want(t, s.signIn(t, "20000002", PIN), http.StatusBadRequest, "invalid_grant"); !s.Locked("20000002") {
			t.Error("the third did not lock")
		}
	})
	t.Run("wrong TANs count over all sessions", func(t *testing.T) {
		s := openBank(t, nil)
		for i := range 3 {
			v := s.arrive(t, "20000002")
			want(t, v.validate(""), http.StatusCreated, "")
			if v.activate(WrongCode); s.Wrong("20000002") != i+1 || s.Locked("20000002") != (i == 2) {
				t.Errorf("after %d: %d counted, locked %v", i+1, s.Wrong("20000002"), s.Locked("20000002"))
			}
		}
	})
	t.Run("a bank that heals, where the options say so", func(t *testing.T) {
		s := openBank(t, func(o *Options) { o.Heals = 10 * time.Minute })
		for range 3 {
			s.signIn(t, "20000002", "654321")
		}
		if s.clock.move(11 * time.Minute); s.Locked("20000002") || s.InRow("20000002") != 0 {
			t.Error("it did not heal")
		}
	})
}

// TestTANs checks the rules for codes: the counters, the locks, and what resets them.
func TestTANs(t *testing.T) {
	t.Run("three wrong TANs lock", func(t *testing.T) {
		s := openBank(t, nil)
		v := s.arrive(t, "20000002")
		want(t, v.validate(""), http.StatusCreated, "")
		if v.once.Challenge != "+49-170-12XXXX" || v.once.Type != SMSTAN || v.once.Link != nil {
			t.Errorf("challenge %+v", v.once)
		}
		want(t, v.activate(WrongCode), http.StatusBadRequest, CodeWrongTAN)
		want(t, v.activate(WrongCode), http.StatusBadRequest, CodeWrongTAN)
		want(t, v.activate(WrongCode), http.StatusUnprocessableEntity, CodeLocked)
		want(t, v.activate(Codes[SMSTAN]), http.StatusUnauthorized, "invalid_token") // the session has ended
		want(t, s.signIn(t, "20000002", PIN), http.StatusBadRequest, "invalid_grant")
		if !s.Locked("20000002") || s.Refused("20000002") != 0 || s.OpenSessions("") != 0 {
			t.Error("want locked, not refused, no session")
		}
		if s.clock.move(1000 * time.Hour); !s.Locked("20000002") {
			t.Error("it healed by itself")
		}
		s.Unlock("20000002")
		s.enter(t, "20000002")
	})
	t.Run("a right TAN forgets wrong ones", func(t *testing.T) {
		s := openBank(t, nil)
		for range 3 {
			v := s.arrive(t, "20000022")
			want(t, v.validate(""), http.StatusCreated, "")
			v.answerAll()
		}
	})
	t.Run("five challenges lock", func(t *testing.T) {
		s := openBank(t, nil)
		v := s.arrive(t, "20000001")
		for range 4 {
			want(t, v.validate(""), http.StatusCreated, "")
		}
		if s.Challenges("20000001") != 4 {
			t.Errorf("%d challenges", s.Challenges("20000001"))
		}
		want(t, v.validate(""), http.StatusUnprocessableEntity, CodeLocked)
		if s.Unlock("20000001"); s.Locked("20000001") {
			t.Error("still locked")
		}
		s.enter(t, "20000001")
	})
	t.Run("a code grows old", func(t *testing.T) {
		s := openBank(t, nil)
		v := s.arrive(t, "20000002")
		want(t, v.validate(""), http.StatusCreated, "")
		s.clock.move(5 * time.Minute)
		want(t, v.activate(Codes[SMSTAN]), http.StatusUnprocessableEntity, CodeExpired)
	})
	t.Run("choice of method", func(t *testing.T) {
		s := openBank(t, nil)
		v := s.arrive(t, "20000004")
		for _, method := range []string{PhotoTAN, PushTAN, SMSTAN} {
			want(t, v.validate(method), http.StatusCreated, "")
			if v.once.Type != method || len(v.once.Available) != 3 {
				t.Errorf("challenge %+v", v.once)
			}
		}
		want(t, v.activate(Codes[SMSTAN]), http.StatusOK, "")
		want(t, v.validate(""), http.StatusCreated, "") // the session TAN is active now (chapter 3.2)
		if v.once.Type != FreeTAN {
			t.Errorf("type %s", v.once.Type)
		}
	})
}

// TestControl checks what tests steer by, in Go and over HTTP.
func TestControl(t *testing.T) {
	s := openBank(t, nil)
	v := s.arrive(t, "20000025")
	if s.Approve("20000025") {
		t.Error("approved what was not asked")
	}
	want(t, v.validate(""), http.StatusCreated, "")
	for range 3 {
		if v.pollStatus() != StatusPending {
			t.Error("want pending")
		}
	}
	want(t, s.send(t, "POST", "/sandbox/logins/20000025/approve", "", ""), http.StatusNoContent, "")
	if v.pollStatus() != StatusAuthenticated {
		t.Error("want authenticated")
	}
	want(t, v.activate(""), http.StatusOK, "")
	want(t, s.send(t, "POST", "/sandbox/logins/20000025/approve", "", ""), http.StatusConflict, "")
	want(t, s.send(t, "POST", "/sandbox/logins/20000025/dance", "", ""), http.StatusUnprocessableEntity, "")
	want(t, s.send(t, "POST", "/sandbox/logins/00000000/unlock", "", ""), http.StatusNotFound, "")
	want(t, v.validate(""), http.StatusCreated, "")

	want(t, s.signIn(t, "20000014", PIN), http.StatusOK, "")
	want(t, s.send(t, "POST", "/sandbox/logins/20000014/change-pin", "", "pin=777777", "Content-Type",
		"application/x-www-form-urlencoded"), http.StatusNoContent, "")
	want(t, s.signIn(t, "20000014", PIN), http.StatusBadRequest, "invalid_grant")
	want(t, s.signIn(t, "20000014", "777777"), http.StatusOK, "")
	var st Standing
	s.get(t, "", "/sandbox/logins/20000014").decode(t, &st)
	if st != (Standing{Attempts: 3, Refused: 1, Visits: 2, OpenSessions: 2}) {
		t.Errorf("standing %+v", st)
	}
	if s.Reset("20000014"); s.OpenSessions("20000014") != 0 || s.Attempts("20000014") != 0 {
		t.Error("reset left something")
	}
	want(t, s.signIn(t, "20000014", PIN), http.StatusOK, "")
}

// TestHooks checks OnRequest, FailNext and the request log.
func TestHooks(t *testing.T) {
	const positions = "/api/brokerage/v3/depots/{depotId}/positions"
	var seen atomic.Int64
	s := openBank(t, func(o *Options) { o.OnRequest = func(string, string, string) { seen.Add(1) } })
	v := s.enter(t, "20000005")
	d := v.depots()[0].DepotID
	s.FailNext("20000005", positions, http.StatusServiceUnavailable, 2)
	path := "/api/brokerage/v3/depots/" + d + "/positions"
	want(t, s.get(t, v.tk.Access, path), http.StatusServiceUnavailable, "internal")
	want(t, s.get(t, v.tk.Access, path), http.StatusServiceUnavailable, "internal")
	want(t, s.get(t, v.tk.Access, path), http.StatusOK, "")
	s.Hook(func(login, method, path string) {
		if path == positions {
			s.EndSessions(login)
		}
	})
	want(t, s.get(t, v.tk.Access, path), http.StatusUnauthorized, "invalid_token")
	if n := int(seen.Load()); n != len(s.Requests())-1 {
		t.Errorf("the first hook saw %d of %d requests, want all but the last", n, len(s.Requests()))
	}
	want(t, s.signIn(t, "pin-in-the-wrong-field", "secret-pin"), http.StatusBadRequest, "invalid_grant")
	requests := s.Requests()
	for _, r := range requests[:len(requests)-1] {
		if r.Login != "20000005" || r.Path == "" || r.Method == "" {
			t.Errorf("request %+v", r)
		}
	}
	if last := requests[len(requests)-1]; last.Login != "" || last.Status != 400 || last.Path != "/oauth/token" {
		t.Errorf("last %+v", last)
	}
	raw, err := json.Marshal(requests)
	if err != nil || bytes.Contains(raw, []byte("pin")) || bytes.Contains(raw, []byte(PIN)) {
		t.Errorf("log tells secrets: %s", raw)
	}
}

// TestRestart checks that a session waiting for its TAN goes on after the process was replaced, and that what must not
// be forgotten is not.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bank.json")
	keep := func(o *Options) { o.StateFile = file }
	before := openBank(t, keep)
	v := before.arrive(t, "20000002")
	want(t, v.validate(""), http.StatusCreated, "")
	want(t, v.activate(WrongCode), http.StatusBadRequest, CodeWrongTAN)
	before.ChangePIN("20000014", "777777")
	done := before.enter(t, "20000005")
	want(t, before.send(t, http.MethodDelete, "/oauth/revoke", done.tk.Access, ""), http.StatusNoContent, "")

	after := openBank(t, keep)
	v.stand, done.stand = after, after
	want(t, v.activate(WrongCode), http.StatusBadRequest, CodeWrongTAN)
	want(t, v.activate(Codes[SMSTAN]), http.StatusOK, "")
	v.tk = v.secondary().tokens(t)
	v.depots()
	want(t, after.get(t, done.tk.Access, "/api/brokerage/clients/user/v3/depots"), http.StatusUnauthorized, "invalid_token")
	want(t, after.signIn(t, "20000014", PIN), http.StatusBadRequest, "invalid_grant")
	want(t, after.signIn(t, "20000014", "777777"), http.StatusOK, "")
	if after.Visits("20000005") != 1 {
		t.Errorf("%d visits", after.Visits("20000005"))
	}
}

// TestDamagedState checks that a state file that is no state does not stop the bank.
func TestDamagedState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bank.json")
	for _, content := range []string{"", "{", `{"people":{"20000001":null},"sessions":null}`, `{"people":null}`} {
		writeFile(t, file, content)
		s := openBank(t, func(o *Options) { o.StateFile = file })
		s.enter(t, "20000001")
	}
}

// TestDeterminism checks that two banks with the same clock and randomness say the same.
func TestDeterminism(t *testing.T) {
	var answers [2]string
	for i := range answers {
		s := openBank(t, func(o *Options) { o.Key = []byte("key of a test") })
		v := s.arrive(t, "20000001")
		answers[i] = v.session + v.tk.Access + string(v.validate("").body) + v.once.Challenge
		want(t, v.activate(Codes[PhotoTAN]), http.StatusOK, "")
		v.tk = v.secondary().tokens(t)
		d := v.depots()[0].DepotID
		for _, part := range []string{"positions?with-attr=instrument", "transactions"} {
			answers[i] += string(s.get(t, v.tk.Access, "/api/brokerage/v3/depots/"+d+"/"+part).body)
		}
	}
	if answers[0] != answers[1] {
		t.Error("two banks differ")
	}
}

// TestManyAtOnce lets many readers in together; the race detector looks on.
func TestManyAtOnce(t *testing.T) {
	s := openBank(t, func(o *Options) { o.StateFile = filepath.Join(t.TempDir(), "bank.json") })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v := s.enter(t, []string{"20000005", "20000044"}[i%2])
			v.depots()
			s.send(t, http.MethodDelete, "/oauth/revoke", v.tk.Access, "")
			s.Requests()
		})
	}
	wg.Wait()
	if s.Visits("20000005") != 4 || s.OpenSessions("") != 0 {
		t.Errorf("%d visits, %d open", s.Visits("20000005"), s.OpenSessions(""))
	}
}

// TestSlow checks that slowness goes through the injected sleeper and ends with the request.
func TestSlow(t *testing.T) {
	var slept []time.Duration
	s := openBank(t, func(o *Options) {
		o.Slow = 3 * time.Second
		o.Sleep = func(ctx context.Context, d time.Duration) error {
			slept = append(slept, d)
			return ctx.Err()
		}
	})
	s.enter(t, "20000031")
	if len(slept) != 1 || slept[0] != 3*time.Second {
		t.Errorf("slept %v", slept)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if sleep(ctx, time.Hour) == nil {
		t.Error("slept on though nobody waits")
	}
}
