package comdirect

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

func TestChallengesAreShown(t *testing.T) {
	for _, c := range []struct {
		name, method string
		status       domain.SCAState
		flow         domain.SCAFlow
		check        func(*testing.T, domain.Display)
	}{
		{"photoTAN", "P_TAN", domain.SCAIssued, domain.FlowCode, func(t *testing.T, d domain.Display) {
			if d.MediaType != "image/png" || !bytes.Equal(d.Image, onePixel()) {
				t.Errorf("display %+v", d)
			}
		}},
		{"SMS", "M_TAN", domain.SCAIssued, domain.FlowCode, func(t *testing.T, d domain.Display) {
			if d.Destination != "+49-170-12XXXX" {
				t.Errorf("destination %q", d.Destination)
			}
		}},
		{"push", "P_TAN_PUSH", domain.SCAAwaiting, domain.FlowDecoupled, func(*testing.T, domain.Display) {}},
		{"one that we do not know", "X_TAN", domain.SCASelection, "", func(*testing.T, domain.Display) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &access{t: t, bank: newBank(t)}
			a.bank.method = c.method
			out, err := a.login()
			if got := a.status(out, err); got != c.status || out.Challenge.Flow != c.flow || out.Challenge.Method != c.method {
				t.Fatalf("challenge %+v", out.Challenge)
			}
			if len(out.Challenge.Methods) != 3 || out.Challenge.TriesLeft != maxWrong {
				t.Errorf("methods %v, %d tries", out.Challenge.Methods, out.Challenge.TriesLeft)
			}
			c.check(t, out.Challenge.Display)
		})
	}
}

func TestChallengesAreRefused(t *testing.T) {
	const header = "x-once-authentication-info"
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		reason domain.Reason
	}{
		{"no header", status(201, `{}`), domain.ReasonBankAnswer},
		{"no JSON", status(201, `{}`, header, "x"), domain.ReasonBankAnswer},
		{"no identifier", status(201, `{}`, header, `{"typ":"M_TAN"}`), domain.ReasonBankAnswer},
		{"an identifier that is more", status(201, `{}`, header, `{"id":"1\"}","typ":"M_TAN"}`), domain.ReasonBankAnswer},
		{"an image that is none", status(201, `{}`, header, `{"id":"1","typ":"P_TAN","challenge":"PHNjcmlwdD4="}`), domain.ReasonBankAnswer},
		{"an image that is no base64", status(201, `{}`, header, `{"id":"1","typ":"P_TAN","challenge":"§"}`), domain.ReasonBankAnswer},
		{"a link to elsewhere", status(201, `{}`, header, `{"id":"1","typ":"P_TAN_PUSH","link":{"href":"https://evil.example/x"}}`), domain.ReasonBankAnswer},
		{"a link that climbs", status(201, `{}`, header, `{"id":"1","typ":"P_TAN_PUSH","link":{"href":"/api/session/v1/authentications/../x"}}`), domain.ReasonBankAnswer},
		{"no method that we know", status(201, `{}`, header, `{"id":"1","typ":"X_TAN","availableTypes":["Y_TAN"]}`), domain.ReasonActionRequired},
		{"locked", status(422, `{"code":"ZUGANG_GESPERRT"}`), domain.ReasonAccountLocked},
		{"conditions", status(422, `{"code":"BEDINGUNGEN_BESTAETIGEN"}`), domain.ReasonActionRequired},
		{"any other no", status(422, `{"code":"request.object.invalid"}`), domain.ReasonBankAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &access{t: t, bank: newBank(t)}
			a.bank.answers["POST "+pathSessions+"/"+bankID+"/validate"] = c.answer
			_, err := a.login()
			var f *extraction.Failure
			if !errors.As(err, &f) || f.Reason != c.reason || f.Retry {
				t.Errorf("failure %+v; want %s for good", f, c.reason)
			}
			if a.bank.seen("POST "+pathSessions) != 1 || a.bank.seen("DELETE "+pathRevoke) != 1 {
				t.Errorf("the bank saw %v; want one validation, then the token revoked", a.bank.log)
			}
		})
	}
}

// TestFifthChallengeIsNeverAskedFor: the bank would lock the access.
func TestFifthChallengeIsNeverAskedFor(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.status(a.login())
	for range 3 {
		if got := a.status(a.step(extraction.Input{Kind: extraction.InputRenew})); got != domain.SCAIssued {
			t.Fatalf("renewing came to %s", got)
		}
	}
	for _, in := range []extraction.Input{{Kind: extraction.InputRenew}, {Kind: extraction.InputSelect, Method: "P_TAN"}} {
		out, err := a.step(in)
		if got := a.status(out, err); got != domain.SCAIssued || out.Challenge.Method != "M_TAN" || out.Challenge.Display.Text == "" {
			t.Errorf("%s came to %+v; want the challenge that stands, and why", in.Kind, out.Challenge)
		}
	}
	if a.bank.challenges != maxChallenges {
		t.Errorf("%d challenges; want %d", a.bank.challenges, maxChallenges)
	}
	if out, err := a.code(rightTAN); err != nil || out.Portfolio == nil {
		t.Errorf("answering it came to %v", err)
	}
}

// TestStumblingValidationCounts: an attempt that came to nothing may have counted at the bank.
func TestStumblingValidationCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &access{t: t, bank: newBank(t)}
		path := "POST " + pathSessions + "/" + bankID + "/validate"
		a.bank.answers[path] = answers(status(500, ""), status(503, ""), a.bank.canned)
		if got := a.status(a.login()); got != domain.SCAIssued {
			t.Fatalf("login came to %s", got)
		}
		for range 3 {
			a.status(a.step(extraction.Input{Kind: extraction.InputRenew}))
		}
		if n := a.bank.seen(path); n != maxChallenges {
			t.Errorf("%d validations; want %d", n, maxChallenges)
		}
	})
}

func TestAnswers(t *testing.T) {
	patch := "PATCH " + pathSessions + "/" + bankID
	for _, c := range []struct {
		name   string
		tan    string
		answer http.HandlerFunc
		status domain.SCAState // exempt: the door is open
		tries  int
		reason domain.Reason
		sent   int
	}{
		{"right", rightTAN, nil, domain.SCAExempt, 0, "", 1},
		{"right, with spaces", " " + rightTAN + "\n", nil, domain.SCAExempt, 0, "", 1},
		{"wrong", wrongTAN, nil, domain.SCARejected, 1, "", 1},
		{"empty", "", nil, domain.SCARejected, 2, "", 0},
		{"no TAN at all", "1\r\nX-Evil: 1", nil, domain.SCARejected, 2, "", 0},
		{"expired", rightTAN, status(422, `{"code":"expired"}`), domain.SCAExpired, 2, "", 1},
		{"locked", rightTAN, status(422, `{"code":"ZUGANG_GESPERRT"}`), "", 0, domain.ReasonAccountLocked, 1},
		{"our own header is refused", rightTAN, status(422, `{"code":"UNPROCESSABLE_ONCE_AUTHENTICATION_INFO_HEADER"}`), "", 0, domain.ReasonBankAnswer, 1},
		{"unknown path", rightTAN, status(404, ""), "", 0, domain.ReasonBankAnswer, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &access{t: t, bank: newBank(t)}
			a.status(a.login())
			if c.answer != nil {
				a.bank.answers[patch] = c.answer
			}
			out, err := a.code(c.tan)
			var f *extraction.Failure
			if c.reason != "" {
				if !errors.As(err, &f) || f.Reason != c.reason || f.Retry {
					t.Fatalf("failure %+v, %v; want %s for good", f, err, c.reason)
				}
			} else if got := a.status(out, err); got != c.status {
				t.Fatalf("the answer came to %s; want %s", got, c.status)
			}
			if out.Challenge != nil && out.Challenge.TriesLeft != c.tries {
				t.Errorf("%d tries left; want %d", out.Challenge.TriesLeft, c.tries)
			}
			if n := a.bank.seen(patch); n != c.sent {
				t.Errorf("%d activations; want %d", n, c.sent)
			}
			if err != nil && strings.Contains(err.Error(), c.tan) {
				t.Error("the error holds the TAN")
			}
		})
	}
}

// TestThirdWrongCodeIsNeverSent: after two the challenge says that no try is left.
func TestThirdWrongCodeIsNeverSent(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.status(a.login())
	for _, left := range []int{1, 0} {
		out, err := a.code(wrongTAN)
		if got := a.status(out, err); got != domain.SCARejected || out.Challenge.TriesLeft != left {
			t.Errorf("challenge %+v; want rejected with %d tries", out.Challenge, left)
		}
	}
}

// TestUncertainActivation: where the bank's answer is lost, the TAN is given again only if it was not taken.
func TestUncertainActivation(t *testing.T) {
	patch := "PATCH " + pathSessions + "/" + bankID
	for _, c := range []struct {
		name  string
		first func(*testBank) http.HandlerFunc
		sent  int
		opens bool
	}{
		{"taken, then 500", func(b *testBank) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { b.active = true; say(w, 500, "") }
		}, 1, true},
		{"taken, then silence", func(b *testBank) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { b.active = true; panic(io.ErrUnexpectedEOF) }
		}, 1, true},
		{"taken before we died, now refused", func(b *testBank) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { b.active = true; say(w, 422, `{"code":"TAN_UNGUELTIG"}`) }
		}, 1, true},
		{"not taken, 500 twice", func(b *testBank) http.HandlerFunc { return answers(status(500, ""), status(502, ""), b.canned) }, 3, true},
		{"not taken, 500 for ever", func(*testBank) http.HandlerFunc { return status(500, "") }, tries, false},
		{"not taken, silence", func(*testBank) http.HandlerFunc { return breaks(io.ErrUnexpectedEOF) }, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &access{t: t, bank: newBank(t)}
				a.status(a.login())
				a.bank.answers[patch] = c.first(a.bank)
				out, err := a.code(rightTAN)
				if (out.Portfolio != nil) != c.opens {
					t.Errorf("the answer came to %v; want open %v", err, c.opens)
				}
				var f *extraction.Failure
				if !c.opens && (!errors.As(err, &f) || !f.Retry || f.Reason != domain.ReasonBankUnavailable) {
					t.Errorf("failure %+v; want one that the investor may repeat", f)
				}
				if n := a.bank.seen(patch); n != c.sent {
					t.Errorf("%d activations; want %d", n, c.sent)
				}
			})
		})
	}
}

func TestPolling(t *testing.T) {
	ask := "GET " + pathAuthentication + "AB12"
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		status domain.SCAState
		every  time.Duration
		tries  int
		reason domain.Reason
	}{
		{"pending", status(200, `{"status":"PENDING"}`), domain.SCAAwaiting, pollEvery, 2, ""},
		{"a word that we do not know", status(200, `{"status":"THINKING"}`), domain.SCAAwaiting, pollEvery, 2, ""},
		{"approved", status(200, `{"status":"AUTHENTICATED"}`), domain.SCAExempt, 0, 0, ""},
		{"declined", status(200, `{"status":"REJECTED"}`), domain.SCARejected, pollEvery, 0, ""},
		{"expired", status(200, `{"status":"EXPIRED"}`), domain.SCAExpired, pollEvery, 2, ""},
		{"forgotten", status(404, ""), domain.SCAExpired, pollEvery, 2, ""},
		{"out of order", status(500, ""), domain.SCAAwaiting, pollEvery, 2, ""},
		{"too often", status(429, "", "Retry-After", "9"), domain.SCAAwaiting, 9 * time.Second, 2, ""},
		{"far too often", status(429, "", "Retry-After", "900"), domain.SCAAwaiting, longestWait, 2, ""},
		{"broken line", breaks(io.ErrUnexpectedEOF), domain.SCAAwaiting, pollEvery, 2, ""},
		{"no JSON", status(200, `<html>`), "", 0, 0, domain.ReasonBankAnswer},
		{"locked", status(422, `{"code":"ZUGANG_GESPERRT"}`), "", 0, 0, domain.ReasonAccountLocked},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &access{t: t, bank: newBank(t)}
				a.bank.method = "P_TAN_PUSH"
				a.status(a.login())
				a.bank.answers[ask] = c.answer
				a.bank.status = "AUTHENTICATED" // what activation finds
				out, err := a.step(extraction.Input{Kind: extraction.InputPoll})
				var f *extraction.Failure
				if c.reason != "" {
					if !errors.As(err, &f) || f.Reason != c.reason {
						t.Errorf("failure %+v; want %s", f, c.reason)
					}
					return
				}
				if got := a.status(out, err); got != c.status {
					t.Fatalf("polling came to %s; want %s", got, c.status)
				}
				if q := out.Challenge; q != nil && (q.PollEvery != c.every || q.TriesLeft != c.tries) {
					t.Errorf("every %s, %d tries; want %s, %d", q.PollEvery, q.TriesLeft, c.every, c.tries)
				}
			})
		})
	}
}

// TestPollingWithoutLink asks by trying to activate, which the bank refuses mildly until the app has approved.
func TestPollingWithoutLink(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.bank.method, a.bank.link = "P_TAN_PUSH", ""
	a.status(a.login())
	poll := extraction.Input{Kind: extraction.InputPoll}
	for range 3 {
		if got := a.status(a.step(poll)); got != domain.SCAAwaiting {
			t.Fatalf("polling came to %s", got)
		}
	}
	a.bank.status = "AUTHENTICATED"
	if out, err := a.step(poll); err != nil || out.Portfolio == nil {
		t.Errorf("polling came to %v", err)
	}
}

func TestExemptions(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.bank.method = exempt
	if out, err := a.login(); err != nil || out.Portfolio == nil {
		t.Fatalf("TAN_FREI came to %v", err)
	}
	if n := a.bank.seen("PATCH "); n != 1 {
		t.Errorf("%d activations; want one without a TAN", n)
	}
	b := &access{t: t, bank: newBank(t), away: true}
	b.portfolio()
	if n := b.bank.seen("POST " + pathSessions); n != 0 {
		t.Errorf("%d validations of an active session; want none", n)
	}
}

func TestAnswersOfTheWrongKind(t *testing.T) {
	a := &access{t: t, bank: newBank(t)}
	a.status(a.login())
	for _, in := range []extraction.Input{{Kind: extraction.InputPoll}, {Kind: extraction.InputSelect, Method: "X_TAN"},
		{Kind: extraction.InputResume}, {Kind: "other"}} {
		if out, err := a.step(in); err == nil {
			t.Errorf("%s %s came to %+v; want an error", in.Kind, in.Method, out)
		}
	}
	if a.bank.challenges != 1 {
		t.Errorf("%d challenges; want one", a.bank.challenges)
	}
}
