package extraction_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// ways in which a consent stops to allow what it allowed before, and what the audit log says of it.
var ways = []struct {
	name   string
	change func(*world, *domain.Consent)
	denied string
	lives  bool // the consent itself goes on
}{
	{"revoked", func(w *world, c *domain.Consent) { c.State, c.EndedAt = domain.ConsentRevoked, w.env.Now() }, "consent_revoked", false},
	{"terminated", func(w *world, c *domain.Consent) { c.State, c.EndedAt = domain.ConsentTerminated, w.env.Now() }, "consent_terminated", false},
	{"expired", func(w *world, c *domain.Consent) { c.ExpiresAt = w.env.Now() }, "consent_expired", false},
	{"narrowed", func(_ *world, c *domain.Consent) { c.Products = c.Products[:4] }, "consent_scope", true},
	{"custodian changed", func(_ *world, c *domain.Consent) { c.Custodian = "otherbank" }, "consent_custodian", true},
	{"kept elsewhere", func(_ *world, c *domain.Consent) { c.Regions = []string{"europe-west4"} }, "consent_region", true},
}

// visitOnce goes from the login over a code to the portfolio.
func visitOnce(w *world) {
	w.t.Helper()
	first(w, "code")
	if w.theSession().State == domain.SessionSuspended {
		if err := w.answer(domain.AnswerCode, code); err != nil && domain.KindOf(err) != domain.Forbidden {
			w.t.Errorf("answering: %v", err)
		}
	}
	w.rest()
}

// TestConsentEndsAtAnyMoment changes the consent before each commit, around each step at the bank and at each record.
func TestConsentEndsAtAnyMoment(t *testing.T) {
	t.Parallel()
	h := build(t)
	whole := h.settle(t)
	moments := 0
	whole.moment = func() { moments++ }
	visitOnce(whole)
	whole.sound()
	if moments < 20 {
		t.Fatalf("only %d moments", moments)
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for at := 1; at <= moments; at++ {
				w := h.settle(t)
				now, complete, puts := 0, false, 0
				w.moment = func() {
					if now++; now == at {
						complete = w.theSession().State == domain.SessionComplete
						change(w, w.theConsent(), func(c *domain.Consent) { way.change(w, c) })
						puts = len(w.puts)
					}
				}
				visitOnce(w)
				w.moment = nil
				moment := fmt.Sprintf("moment %d: ", at)
				switch {
				case complete:
					w.expect(moment+"stands", w.stands(), "complete active accepted")
				case way.denied == "consent_scope" && w.theSession().State == domain.SessionComplete:
					// It was narrowed while nobody worked: what remained was read.
					w.expect(moment+"orders", w.version(1).Products[domain.ProductOrders].State, domain.ProductNotConsented)
				default:
					w.cancelled(moment, way.denied, way.lives, w.puts[puts:])
				}
				w.sound()
			}
		})
	}
}

// cancelled checks a session that its consent ended.
func (w *world) cancelled(moment, denied string, lives bool, puts []domain.Document) {
	w.t.Helper()
	s, c := w.theSession(), w.connection()
	want := "cancelled consent_ended"
	if lives {
		want = "cancelled interrupted"
		w.expect(moment+"connection", c.State, domain.ConnectionPaused)
		w.expect(moment+"notices", w.notices(), "connection.paused")
	}
	w.expect(moment+"session", say(s.State, s.Reason), want)
	if !slices.Contains(w.denied(), denied) {
		w.t.Errorf("%sthe audit log has no refusal %s, only %v", moment, denied, w.denied())
	}
	for _, d := range puts {
		switch d.(type) {
		case *domain.Portfolio, *domain.Part, *domain.DataKey:
			w.t.Errorf("%sa %s was stored afterwards", moment, d.Kind())
		}
	}
	if cred := w.credential(); cred.State == domain.CredentialTrying {
		w.t.Errorf("%sthe credential is left as if a login went on", moment)
	}
	if ch := listOf[domain.Challenge](w, "challenges_by_connection"); len(ch) > 0 && !domain.SCAMoves.Final(ch[0].State) {
		w.t.Errorf("%sthe challenge is still %s", moment, ch[0].State)
	}
	w.expect(moment+"versions", len(w.versions()), 0)
}

func TestNoConsentNoSession(t *testing.T) {
	h := build(t)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			if way.denied == "consent_scope" {
				return // what remains may be read: see TestNarrowConsentIsRead
			}
			w := h.settle(t)
			w.seal(password)
			w.begin(domain.CauseFirst)
			change(w, w.theConsent(), func(c *domain.Consent) { way.change(w, c) })
			w.rest()
			w.cancelled("", way.denied, way.lives, nil)
			w.expect("steps", w.bank.steps(), "")
			w.sound()
		})
	}
}

// TestForeignConsent has a session lean on the consent of another client. Nothing at all is done under it.
func TestForeignConsent(t *testing.T) {
	h := build(t)
	other, w := h.settle(t), h.settle(t)
	w.seal(password)
	w.begin(domain.CauseFirst)
	change(w, w.theSession(), func(s *domain.Session) { s.ConsentID = other.consent })
	if err := w.engine.Run(t.Context(), w.queue[0].event); domain.CodeOf(err) != "consent_not_yours" {
		t.Errorf("a session under another's consent: %v", err)
	}
	w.expect("steps", w.bank.steps(), "")
	w.expect("stands", w.stands(), "queued connecting sealed")
	w.expect("refusals", other.denied(), "[consent_not_yours consent_not_yours]")
}

func TestNarrowConsentIsRead(t *testing.T) {
	w := build(t).settle(t, func(c *domain.Consent) { c.Products = []domain.Product{domain.ProductCash} })
	first(w, "")
	w.expect("stands", w.stands(), "complete active accepted")
	for p, status := range w.version(1).Products {
		want := domain.ProductNotConsented
		if p == domain.ProductCash {
			want = domain.ProductComplete
		}
		w.expect(string(p), status.State, want)
	}
	w.expect("sums without accounts", len(w.summary(w.version(1))), 0)
	w.sound()
}

func TestConsentEndsWhileSuspended(t *testing.T) {
	h := build(t)
	for _, way := range ways[:4] {
		t.Run(way.name, func(t *testing.T) {
			w := first(h.settle(t), "code")
			change(w, w.theConsent(), func(c *domain.Consent) { way.change(w, c) })
			if way.lives {
				w.must(w.answer(domain.AnswerCode, code)) // what remains is read
				w.rest()
				w.expect("stands", w.stands(), "complete active accepted")
				w.sound()
				return
			}
			if err := w.answer(domain.AnswerCode, code); domain.CodeOf(err) != way.denied {
				t.Errorf("an answer under it: %v", err)
			}
			w.cancelled("", way.denied, way.lives, nil)
			w.rest()
			w.expect("steps", w.bank.steps(), "login end")
			w.sound()
		})
	}
}

// TestRefusedPasswordAsConsentEnds: what the bank said of a password is written down even though the consent is gone.
func TestRefusedPasswordAsConsentEnds(t *testing.T) {
	w := build(t).settle(t)
	w.seal(wrongPassword)
	w.moment = func() {
		if w.bank.logins[wrongPassword] == 1 && w.theConsent().Custodian == custodian.ID {
			change(w, w.theConsent(), func(c *domain.Consent) { c.Custodian = "otherbank" })
		}
	}
	w.begin(domain.CauseFirst)
	w.rest()
	w.expect("stands", w.stands(), "cancelled(interrupted) paused(interrupted) refused")
	w.sound()
}

func TestOneReadingOnly(t *testing.T) {
	w := first(build(t).settle(t, func(c *domain.Consent) { c.Access = domain.AccessOnce }), "")
	w.expect("next refresh", w.connection().NextRefreshAt.IsZero(), true)
	w.sound()
	w = first(w.settle(t), "")
	w.expect("next refresh", w.connection().NextRefreshAt.Sub(w.env.Now()), 24*time.Hour)
}
