package extraction_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/extraction"
)

const wrongPassword = "wrong-password"

func TestRefusedPasswordIsGivenOnce(t *testing.T) {
	t.Parallel()
	for _, cause := range []domain.Cause{domain.CauseFirst, domain.CauseScheduled, domain.CauseRequested, domain.CauseReconnect} {
		t.Run(string(cause), func(t *testing.T) {
			w := build(t).settle(t)
			w.seal(wrongPassword)
			w.begin(cause)
			event := w.queue[0].event
			w.rest()
			w.expect("stands", w.stands(), "failed(credentials_refused) awaiting_credentials(credentials_refused) refused")
			w.expect("notices", w.notices(), "connection.awaiting_credentials")
			for range 3 { // the same event again, at once and later
				if err := w.engine.Run(t.Context(), event); err != nil {
					t.Error(err)
				}
				w.advance(time.Hour)
			}
			for _, again := range []domain.Cause{domain.CauseScheduled, domain.CauseRequested, domain.CauseReconnect} {
				w.begin(again) // no other function would, but should one of them, nothing happens at the bank
				w.rest()
				w.expect(string(again), w.stands(), "failed(credentials_refused) awaiting_credentials(credentials_refused) refused")
			}
			w.expect("logins", w.bank.logins[wrongPassword], 1)
			w.seal(password)
			w.begin(domain.CauseReconnect)
			w.rest()
			w.expect("with another password", w.stands(), "complete active accepted")
			w.sound()
		})
	}
}

// breaks has the connector fail once at a point.
func (b *bank) breaks(at string, err error) {
	b.hook = func(_ context.Context, _ extraction.Session, here string) error {
		if here != at {
			return nil
		}
		b.hook = nil
		return err
	}
}

func TestUnknownEndOfALogin(t *testing.T) {
	t.Parallel()
	h := build(t)
	for _, end := range []struct {
		name string
		at   string
		err  error
	}{
		{"connection lost", "after login", &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true}},
		{"not a failure", "after login", errors.New("something")},
		{"answer not understood", "after login", &extraction.Failure{Reason: domain.ReasonBankAnswer}},
		{"locked", "before login", &extraction.Failure{Reason: domain.ReasonAccountLocked}},
	} {
		for _, known := range []bool{false, true} {
			name := end.name + ", new"
			if known {
				name = end.name + ", known"
			}
			t.Run(name, func(t *testing.T) {
				w := h.settle(t)
				w.seal(password)
				if known {
					first(w, "")
				}
				logins := w.bank.count("login")
				w.bank.breaks(end.at, end.err)
				w.begin(domain.CauseRequested)
				w.rest()
				w.expect("credential", w.credential().State, domain.CredentialUnconfirmed)
				w.expect("session", w.theSession().State, domain.SessionFailed)
				w.begin(domain.CauseScheduled)
				w.rest()
				w.expect("after the schedule", w.stands(), "failed(interrupted) paused(interrupted) unconfirmed")
				w.expect("logins", w.bank.count("login"), logins+1)
				for _, cause := range []domain.Cause{domain.CauseRequested, domain.CauseReconnect} {
					w.begin(cause)
					w.rest()
					w.expect("on a person's word", w.stands(), "complete active accepted")
				}
				w.sound()
			})
		}
	}
}

func TestUnjudgedLogin(t *testing.T) {
	for _, known := range []domain.CredentialState{domain.CredentialSealed, domain.CredentialAccepted, domain.CredentialUnconfirmed} {
		t.Run(string(known), func(t *testing.T) {
			w := build(t).settle(t)
			w.seal(password)
			change(w, w.credential(), func(c *domain.Credential) { c.State = known })
			busy := &extraction.Failure{Reason: domain.ReasonRateLimited, Retry: true, RetryAfter: 7 * time.Minute, Unjudged: true}
			w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
				if at == "before login" {
					return busy
				}
				return nil
			}
			w.begin(domain.CauseRequested)
			start := w.clock()
			w.rest()
			w.expect("after every retry", w.stands(), "failed(rate_limited) paused(rate_limited) "+string(known))
			w.expect("waited", w.clock().Sub(start), 14*time.Minute)
			w.expect("steps", w.bank.steps(), "login login login")
			w.expect("passwords", len(w.bank.logins), 0)
			w.begin(domain.CauseRequested)
			w.bank.breaks("before login", busy)
			w.rest()
			w.expect("when it passes", w.stands(), "complete active accepted")
			w.sound()
		})
	}
}

func TestPauseThatIsTooLong(t *testing.T) {
	w := build(t).settle(t)
	w.seal(password)
	w.bank.breaks("before login", &extraction.Failure{Reason: domain.ReasonRateLimited, Retry: true, RetryAfter: 400 * 24 * time.Hour, Unjudged: true})
	w.begin(domain.CauseFirst)
	start := w.clock()
	w.rest()
	w.expect("stands", w.stands(), "failed(rate_limited) paused(rate_limited) sealed")
	w.expect("waited", w.clock().Sub(start), time.Duration(0))
	w.sound()
}

func TestPassingFailureLeavesTheSchedule(t *testing.T) {
	w := first(build(t).settle(t), "")
	w.advance(24 * time.Hour)
	w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
		if at == "before login" {
			return &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, Unjudged: true}
		}
		return nil
	}
	w.begin(domain.CauseScheduled)
	w.rest()
	w.expect("stands", w.stands(), "failed(bank_unavailable) active(bank_unavailable) accepted")
	w.expect("next refresh", w.connection().NextRefreshAt.Sub(w.env.Now()), time.Hour)
	w.expect("notices", w.notices(), "connection.active portfolio.updated")
	w.sound()
}

func TestErasedCredential(t *testing.T) {
	w := build(t).settle(t)
	w.seal(password)
	w.begin(domain.CauseRequested)
	w.alter(func(tx domain.Tx) error { return tx.Delete(&domain.Credential{ConnectionID: w.conn}) })
	w.rest()
	w.expect("stands", w.stands(), "failed(credentials_erased) awaiting_credentials(credentials_erased)")
	w.expect("steps", w.bank.steps(), "")
	w.sound()
}

// TestSwappedCredential moves a sealed credential to another connection, as somebody with the store in hand could.
func TestSwappedCredential(t *testing.T) {
	h := build(t)
	victim, thief := h.settle(t), h.settle(t)
	victim.seal(password)
	thief.seal("thief")
	stolen := victim.credential()
	change(thief, thief.credential(), func(c *domain.Credential) { c.Sealed, c.InnerKey = stolen.Sealed, stolen.InnerKey })
	thief.begin(domain.CauseFirst)
	thief.rest()
	thief.expect("stands", thief.stands(), "failed(internal) paused(internal) sealed")
	thief.expect("steps", thief.bank.steps(), "")
	thief.sound()
}

// brokenKey is a keeper of keys that cannot be reached.
type brokenKey struct{}

func (brokenKey) Decrypt(_, _ []byte) ([]byte, error) {
	return nil, &domain.Error{Kind: domain.Unavailable, Code: "kms_unavailable"}
}
func (brokenKey) Encrypt(_, _ []byte) ([]byte, error) {
	return nil, &domain.Error{Kind: domain.Unavailable, Code: "kms_unavailable"}
}

func TestKeysOutOfReach(t *testing.T) {
	for _, k := range []struct {
		name  string
		lose  func(*world)
		steps string
	}{
		{"outer gate", func(w *world) { w.engine.Opener = envelope.NewOpener(brokenKey{}, keys().InnerDecrypters) }, "login end"},
		{"session state", func(w *world) { w.engine.State = brokenKey{} }, "login code resume end"},
		{"portfolio", func(w *world) { w.engine.Portfolio = envelope.NewCloser(brokenKey{}, &w.shards, w.env) }, "login code resume resume end"},
	} {
		t.Run(k.name, func(t *testing.T) {
			w := build(t).settle(t)
			if k.name == "outer gate" {
				w.seal(password)
				w.begin(domain.CauseFirst)
			} else {
				first(w, "code")
				w.must(w.answer(domain.AnswerCode, code))
			}
			k.lose(w)
			w.deliver()
			if state := w.theSession().State; domain.SessionMoves.Final(state) {
				t.Errorf("the session is %s, the key may come back", state)
			}
			w.restart()
			w.rest()
			w.expect("stands", w.stands(), "complete active accepted")
			w.expect("steps", w.bank.steps(), k.steps)
			w.sound()
		})
	}
}

func TestSessionKeyLostAfterLogin(t *testing.T) {
	w := build(t).settle(t)
	w.seal(password)
	w.begin(domain.CauseFirst)
	w.engine.State = brokenKey{}
	w.deliver()
	w.restart()
	w.bank.forget() // its state could not be kept
	w.rest()
	w.expect("stands", w.stands(), "failed(interrupted) paused(interrupted) unconfirmed")
	w.expect("logins", w.bank.logins[password], 1)
	w.sound()
}
