package comdirect

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// answers is a handler that gives one answer after the other, and the last one for ever.
func answers(all ...http.HandlerFunc) http.HandlerFunc {
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		n++
		all[min(n, len(all))-1](w, r)
	}
}

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		say(w, code, body)
	}
}

// breaks throws an error instead of an answer.
func breaks(err error) http.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) { panic(err) }
}

func TestLoginFailures(t *testing.T) {
	for _, c := range []struct {
		name     string
		answer   http.HandlerFunc
		reason   domain.Reason
		retry    bool
		unjudged bool
	}{
		{"wrong PIN, 401", status(401, `{"error":"invalid_grant","error_description":"Bad credentials"}`), domain.ReasonCredentialsRefused, false, false},
		{"wrong PIN, 400", status(400, `{"error":"invalid_grant"}`), domain.ReasonCredentialsRefused, false, false},
		{"401 without a word", status(401, ""), domain.ReasonCredentialsRefused, false, false},
		{"locked, said in words", status(400, `{"error":"invalid_grant","error_description":"User account is locked"}`), domain.ReasonAccountLocked, false, false},
		{"locked, in a code", status(401, `{"code":"ZUGANG_GESPERRT"}`), domain.ReasonAccountLocked, false, false},
		{"locked, in the header", status(422, "", "x-http-response-info", `{"messages":[{"key":"zugang-gesperrt"}]}`), domain.ReasonAccountLocked, false, false},
		{"locked, by status", status(423, ""), domain.ReasonAccountLocked, false, false},
		{"conditions to accept", status(403, `{"code":"AGB_ZUSTIMMUNG"}`), domain.ReasonActionRequired, false, false},
		{"PIN to change", status(400, `{"error":"invalid_grant","error_description":"PIN change needed"}`), domain.ReasonActionRequired, false, false},
		{"our own client is refused", status(401, `{"error":"invalid_client"}`), domain.ReasonInternal, false, true},
		{"malformed request", status(400, `{"error":"invalid_request"}`), domain.ReasonBankAnswer, false, false},
		{"unknown path", status(404, "<html>"), domain.ReasonBankAnswer, false, false},
		{"a redirect", status(302, "", "Location", "https://evil.example/"), domain.ReasonBankAnswer, false, false},
		{"too many", status(429, "", "Retry-After", "7"), domain.ReasonRateLimited, true, true},
		{"out of order", status(503, ""), domain.ReasonBankUnavailable, true, true},
		{"no token", status(200, `{}`), domain.ReasonBankAnswer, false, false},
		{"a token with a line break", status(200, `{"access_token":"a\r\nb"}`), domain.ReasonBankAnswer, false, false},
		{"a life that is no number", status(200, `{"access_token":"a","expires_in":"soon"}`), domain.ReasonBankAnswer, false, false},
		{"an endless answer", status(200, strings.Repeat(" ", answerBytes+1)), domain.ReasonBankAnswer, false, false},
		{"the connection broke", breaks(io.ErrUnexpectedEOF), domain.ReasonBankUnavailable, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &access{t: t, bank: newBank(t)}
			a.bank.answers["POST "+pathToken] = c.answer
			_, err := a.login()
			var f *extraction.Failure
			if !errors.As(err, &f) || f.Reason != c.reason || f.Retry != c.retry || f.Unjudged != c.unjudged {
				t.Fatalf("failure %+v; want %s, retry %v, unjudged %v", f, c.reason, c.retry, c.unjudged)
			}
			if n := a.bank.passwords; n != 1 {
				t.Errorf("the password was sent %d times", n)
			}
			for _, secret := range []string{password, username, clientKey} {
				if strings.Contains(err.Error(), secret) {
					t.Error("the error holds a secret")
				}
			}
		})
	}
}

// TestUnreachable tells a bank that was never reached from one that may have heard the password.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	dead := extraction.Transport(extraction.TransportOptions{DialTo: map[string]string{"api.comdirect.de": address}})
	for _, c := range []struct {
		name     string
		close    func()
		unjudged bool
	}{
		{"nobody speaks TLS there", func() {
			go func() {
				conn, err := l.Accept()
				if err == nil {
					io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
					conn.Close()
				}
			}()
		}, true},
		{"nobody listens", func() { l.Close() }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.close()
			a := &access{t: t, bank: newBank(t)}
			s := a.session(extraction.PhaseLogin)
			s.HTTP = extraction.NewClient(extraction.Guard(s.Custodian, Connector{}.Requests(), dead, nil))
			_, err := Connector{}.Step(t.Context(), s, extraction.Input{Kind: extraction.InputLogin, Credentials: map[string]domain.Secret{
				"username": domain.NewSecret([]byte(username)), "password": domain.NewSecret([]byte(password))}})
			var f *extraction.Failure
			if !errors.As(err, &f) || f.Reason != domain.ReasonBankUnavailable || !f.Retry || f.Unjudged != c.unjudged {
				t.Errorf("failure %+v, %v; want a retry, the password unjudged", f, err)
			}
		})
	}
}

// TestGivenUpLogin holds that nothing stays open where no State goes back.
func TestGivenUpLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &access{t: t, bank: newBank(t)}
		a.bank.answers["GET "+pathSessions] = status(500, "")
		_, err := a.login()
		var f *extraction.Failure
		if !errors.As(err, &f) || f.Reason != domain.ReasonBankUnavailable || f.Unjudged {
			t.Errorf("failure %+v", f)
		}
		if n := a.bank.seen("GET " + pathSessions); n != tries {
			t.Errorf("asked %d times; want %d", n, tries)
		}
		if a.bank.seen("DELETE "+pathRevoke) != 1 {
			t.Error("the token was not revoked")
		}
	})
}

// While the bank looks at the password, the work is cut short: the answer is waited for, so that what it opened is closed.
func TestLoginCutShort(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	ctx, cut := context.WithCancel(t.Context())
	a.bank.answers["POST "+pathToken] = func(w http.ResponseWriter, r *http.Request) {
		cut()
		if r.Context().Err() != nil {
			t.Error("the answer to the password was given up")
		}
		a.bank.token(w, r)
	}
	_, err := Connector{}.Step(ctx, a.session(extraction.PhaseLogin), extraction.Input{Kind: extraction.InputLogin,
		Credentials: map[string]domain.Secret{"username": domain.NewSecret([]byte(username)), "password": domain.NewSecret([]byte(password))}})
	if err == nil || a.bank.passwords != 1 || a.bank.seen("GET ") != 0 || a.bank.seen("DELETE "+pathRevoke) != 1 {
		t.Errorf("%v, after %d passwords the bank was asked %q", err, a.bank.passwords, a.bank.log)
	}
	a = &access{t: t, bank: newBank(t)} // and work that was cut short before does not begin
	if _, err := (Connector{}).Step(ctx, a.session(extraction.PhaseLogin), extraction.Input{Kind: extraction.InputLogin,
		Credentials: map[string]domain.Secret{"username": domain.NewSecret([]byte(username)), "password": domain.NewSecret([]byte(password))}}); err == nil || a.bank.passwords != 0 {
		t.Errorf("%v, and the password was sent %d times", err, a.bank.passwords)
	}
}

func TestTokensAreRefreshed(t *testing.T) {
	t.Run("before they end", func(t *testing.T) {
		now := time.Date(2026, 3, 31, 23, 58, 0, 0, time.UTC)
		a := &access{t: t, bank: newBank(t), clock: func() time.Time { return now }}
		a.status(a.login())
		now = now.Add(9 * time.Minute)
		if _, err := a.code(rightTAN); err != nil {
			t.Fatal(err)
		}
		a.bank.mu.Lock()
		defer a.bank.mu.Unlock()
		if a.bank.issued != 3 { // password, refresh, secondary
			t.Errorf("%d tokens were issued; want 3", a.bank.issued)
		}
	})
	t.Run("when the bank forgot one", func(t *testing.T) {
		a := &access{t: t, bank: newBank(t)}
		a.portfolio()
		a.bank.answers["GET "+pathSessions] = answers(status(401, ""), a.bank.canned)
		out, err := a.step(extraction.Input{Kind: extraction.InputResume})
		if err != nil || out.Portfolio == nil {
			t.Fatalf("resuming came to %v", err)
		}
		if !bytes.Contains(a.state, []byte("access-canary-3")) {
			t.Error("the new token is not in the State")
		}
	})
	t.Run("unless the session is over", func(t *testing.T) {
		a := &access{t: t, bank: newBank(t)}
		a.portfolio()
		a.bank.answers["GET "+pathSessions] = status(401, "")
		a.bank.answers["POST "+pathToken] = status(401, `{"error":"invalid_grant"}`)
		_, err := a.step(extraction.Input{Kind: extraction.InputResume})
		var f *extraction.Failure
		if !errors.As(err, &f) || f.Reason != domain.ReasonSCARequired || f.Retry {
			t.Errorf("failure %+v; want sca_required for good", f)
		}
	})
	t.Run("and over while a challenge is open", func(t *testing.T) {
		a := &access{t: t, bank: newBank(t)}
		a.status(a.login())
		a.bank.answers["PATCH "+pathSessions+"/"+bankID] = status(401, "")
		a.bank.answers["POST "+pathToken] = status(401, `{"error":"invalid_grant"}`)
		_, err := a.code(rightTAN)
		var f *extraction.Failure
		if !errors.As(err, &f) || f.Reason != domain.ReasonSCAExpired || f.Retry {
			t.Errorf("failure %+v; want sca_expired for good", f)
		}
	})
}

func TestEndRevokesBothTokens(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		ok     bool
		times  int
	}{
		{"open", status(204, ""), true, 2},
		{"closed already", status(401, ""), true, 2},
		{"out of order", status(500, ""), false, tries},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &access{t: t, bank: newBank(t)}
				a.portfolio()
				a.bank.answers["DELETE "+pathRevoke] = c.answer
				err := Connector{}.End(t.Context(), a.session(extraction.PhaseEnd))
				var f *extraction.Failure
				if (err == nil) != c.ok || !c.ok && (!errors.As(err, &f) || !f.Retry) {
					t.Errorf("ending: %v; want ok %v", err, c.ok)
				}
				if n := a.bank.seen("DELETE "); n != c.times {
					t.Errorf("%d revocations; want %d", n, c.times)
				}
			})
		})
	}
}

func TestRequestsAreNumbered(t *testing.T) {
	now := time.Date(2026, 3, 31, 23, 59, 59, 999e6, time.UTC)
	v := &visit{s: extraction.Session{Env: domain.Env{Clock: func() time.Time { return now }}}}
	seen := map[int]bool{}
	for range 50 {
		seen[v.number()] = true
	}
	now = now.Add(time.Millisecond) // midnight
	for range 50 {
		seen[v.number()] = true
	}
	for n := range seen {
		if n < 0 || n > 999_999_999 {
			t.Errorf("number %d has not nine digits", n)
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d numbers; want 100 different ones", len(seen))
	}
}

func TestFormsAreWipedAndEscaped(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	form := addField(make([]byte, 0, 4), "a", []byte("first"))
	outgrown := form
	form = addField(form, "b", all)
	got, err := url.ParseQuery(string(form))
	if err != nil || got.Get("a") != "first" || got.Get("b") != string(all) {
		t.Errorf("the form reads back as %q, %v", got, err)
	}
	if bytes.Contains(outgrown[:cap(outgrown)], []byte("first")) {
		t.Error("the outgrown form was not wiped")
	}
	w := &wiping{b: form}
	io.ReadAll(w)
	w.Close()
	if !bytes.Equal(form, make([]byte, len(form))) {
		t.Error("the body was not wiped")
	}
	if n, err := w.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error("a closed body can be read")
	}
}

// TestBodiesLeaveNoCopy: whoever copies a form through a buffer of the form's size has nothing of what stood first left in
// it in the end.
func TestBodiesLeaveNoCopy(t *testing.T) {
	form := addField(addField(nil, "username", []byte(username)), "password", []byte(strings.Repeat("p4ss/", 8)))
	secret := string(form)
	form = addField(addField(addField(form, "grant_type", []byte("password")), "client_id", []byte("some-client")), "client_secret", []byte(clientKey))
	want := string(form)
	buffer, sent := make([]byte, len(form)), []byte{}
	for w := (&wiping{b: form}); ; {
		n, err := w.Read(buffer)
		sent = append(sent, buffer[:n]...)
		if err != nil {
			break
		}
	}
	if string(sent) != want {
		t.Errorf("%q was sent, want %q", sent, want)
	}
	for i := 0; i+6 <= len(secret); i++ {
		if bytes.Contains(buffer, []byte(secret[i:i+6])) {
			t.Fatalf("%q is left in %q", secret[i:i+6], buffer)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	v := &visit{s: extraction.Session{Env: domain.Env{Clock: func() time.Time { return now }}}}
	for header, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-1": 0, "soon": 0,
		"99999999999": 24 * time.Hour, "9999999": 24 * time.Hour, "Tue, 31 Mar 2026 12:00:30 GMT": 30 * time.Second, "Tue, 31 Mar 2026 11:00:30 GMT": 0} {
		if got := v.retryAfter(header); got != want {
			t.Errorf("Retry-After %q is %s; want %s", header, got, want)
		}
	}
}

func TestRefusalsShowNothingPersonal(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":"request.query.invalid"}`:                      "status 422 request.query.invalid",
		`{"code":"4711 Max"}`:                                   "status 422",
		`{"error":"invalid_grant","error_description":"12345"}`: "status 422 invalid_grant",
		`not JSON`: "status 422",
	} {
		v := &visit{}
		r := v.refused(call{path: pathAccounts + "ABCDEF/transactions"}, &http.Response{StatusCode: 422, Body: io.NopCloser(strings.NewReader(body))})
		if got := r.Error(); got != "asking the bank for /api/banking/v1/accounts/{id}/transactions: "+want {
			t.Errorf("%s reads %q", body, got)
		}
	}
}

// TestStateHoldsEverything restarts from a copy of the State at every step of a visit with a choice of methods.
func TestStateHoldsEverything(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.status(a.login())
	for _, in := range []extraction.Input{{Kind: extraction.InputSelect, Method: "P_TAN"}, {Kind: extraction.InputRenew}} {
		a.state = bytes.Clone(a.state)
		if got := a.status(a.step(in)); got != domain.SCAIssued {
			t.Fatalf("%s came to %s", in.Kind, got)
		}
	}
	if out, err := a.code(rightTAN); err != nil || out.Portfolio == nil {
		t.Errorf("the code came to %v", err)
	}
	a.bank.mu.Lock()
	defer a.bank.mu.Unlock()
	var info []string
	for _, h := range a.bank.headers {
		if v := h.Get("x-http-request-info"); v != "" {
			info = append(info, strings.Split(v, `"requestId"`)[0])
		}
	}
	for _, v := range info {
		if v != info[0] {
			t.Error("the visit has two names for itself")
		}
	}
	if a.bank.challenges != 3 {
		t.Errorf("%d challenges; want 3", a.bank.challenges)
	}
}
