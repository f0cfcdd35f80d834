package extraction_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// accident is what happens at one commit of the engine's.
type accident struct {
	name  string
	point string // before-commit or after-commit
	dies  bool   // the process, and with it everything in memory
	stops bool   // the process is told to stop
	fails error  // the commit returns this, and the process goes on
}

var errStore = errors.New("the store failed")

var accidents = []accident{
	{name: "dies before", point: "before-commit", dies: true, fails: errDied},
	{name: "dies after", point: "after-commit", dies: true, fails: errDied},
	{name: "store fails before", point: "before-commit", fails: errStore},
	{name: "store fails after", point: "after-commit", fails: errStore},
	{name: "stops", point: "after-commit", stops: true},
}

// struck says what an accident met.
type struck struct {
	commits int  // of the engine's
	trying  bool // a login was under way, as far as the store knows
}

// strike plants the accident at the n-th commit from now.
func (w *world) strike(a accident, n int) *struck {
	s := &struck{}
	ctx, cancel := context.WithCancel(w.t.Context())
	w.ctx = ctx
	w.plant(func(point string) error {
		if point == "before-commit" {
			s.commits++
		}
		if s.commits != n || point != a.point {
			return nil
		}
		if cred := w.credential(); cred != nil {
			s.trying = cred.State == domain.CredentialTrying
		}
		if a.dies {
			w.process.dead.Store(true)
		}
		if a.stops {
			cancel()
		}
		return a.fails
	})
	return s
}

// path is a way through a session, as it goes if no accident happens.
type path struct {
	name    string
	prepare func(*world)
	cause   domain.Cause
	say     func(*world) (domain.AnswerKind, string) // what the investor answers to the challenge that is shown; "" waits
	stands  string                                   // in the end
	logins  int                                      // with the present password, at most
}

const interrupted = "failed(interrupted) paused(interrupted) unconfirmed"

func always(kind domain.AnswerKind, text string) func(*world) (domain.AnswerKind, string) {
	return func(*world) (domain.AnswerKind, string) { return kind, text }
}

// fails has the connector fail at a point, for good or for the first few times.
func fails(at string, times int, f *extraction.Failure) func(*world) {
	return func(w *world) {
		left := times
		w.bank.hook = func(_ context.Context, _ extraction.Session, here string) error {
			if here != at || left == 0 {
				return nil
			}
			left--
			return f
		}
	}
}

// known has a first version read before the accident.
func known(more ...func(*world)) func(*world) {
	return func(w *world) {
		w.begin(domain.CauseFirst)
		w.rest()
		w.bank.holdings[domain.ProductPositions][0].(*domain.Position).Quantity = "11"
		w.bank.given, w.bank.logins = nil, map[string]int{}
		for _, f := range more {
			f(w)
		}
	}
}

func asks(what string) func(*world) { return func(w *world) { w.bank.ask = what } }

const whole = "complete active accepted"

var paths = []path{
	{name: "code", prepare: asks("code"), cause: domain.CauseFirst, say: always(domain.AnswerCode, code), stands: whole, logins: 1},
	{name: "wrong code, then right", prepare: asks("code"), cause: domain.CauseFirst, stands: whole, logins: 1,
		say: func(w *world) (domain.AnswerKind, string) {
			if w.bank.visits[0].wrong == 0 {
				return domain.AnswerCode, "000000"
			}
			return domain.AnswerCode, code
		}},
	{name: "too many wrong codes", prepare: asks("code"), cause: domain.CauseFirst, say: always(domain.AnswerCode, "000000"),
		stands: "failed(sca_rejected) paused(sca_rejected) accepted", logins: 1},
	{name: "push", prepare: asks("push"), cause: domain.CauseFirst, stands: whole, logins: 1,
		say: func(w *world) (domain.AnswerKind, string) {
			w.bank.approved = w.bank.count("poll") > 0
			return domain.AnswerPoll, ""
		}},
	{name: "choice, renewed", prepare: asks("choice"), cause: domain.CauseFirst, stands: whole, logins: 1,
		say: func(w *world) (domain.AnswerKind, string) {
			switch {
			case w.challenge().State == domain.SCASelection:
				return domain.AnswerSelect, "TAN"
			case w.bank.count("renew") == 0:
				return domain.AnswerRenew, ""
			}
			return domain.AnswerCode, code
		}},
	{name: "cancelled by the investor", prepare: asks("code"), cause: domain.CauseFirst, say: always(domain.AnswerCancel, ""),
		stands: "failed(sca_cancelled) paused(sca_cancelled) accepted", logins: 1},
	{name: "nobody answers", prepare: asks("code"), cause: domain.CauseFirst, say: always("", ""),
		stands: "failed(sca_expired) paused(sca_expired) accepted", logins: 1},
	{name: "exempt", prepare: asks(""), cause: domain.CauseFirst, stands: whole, logins: 1},
	{name: "refused password", prepare: func(w *world) { w.seal(wrongPassword) }, cause: domain.CauseFirst,
		stands: "failed(credentials_refused) awaiting_credentials(credentials_refused) refused", logins: 1},
	{name: "refresh", prepare: known(), cause: domain.CauseScheduled, stands: whole, logins: 1},
	{name: "refresh that meets SCA", prepare: known(asks("code")), cause: domain.CauseScheduled,
		stands: "failed(sca_required) paused(sca_required) accepted", logins: 1},
	{name: "bank busy at login", prepare: fails("before login", 1, &extraction.Failure{Reason: domain.ReasonRateLimited, Retry: true, Unjudged: true}),
		cause: domain.CauseFirst, stands: whole, logins: 1},
	{name: "bank down at login", prepare: known(fails("before login", -1, &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, Unjudged: true})),
		cause: domain.CauseScheduled, stands: "failed(bank_unavailable) active(bank_unavailable) accepted"},
	{name: "broken reading", prepare: known(fails("read positions 1", 1, &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true})),
		cause: domain.CauseScheduled, stands: whole, logins: 1},
	{name: "failed product", prepare: fails("read transactions 1", -1, &extraction.Failure{Reason: domain.ReasonBankAnswer}),
		cause: domain.CauseFirst, stands: whole, logins: 1},
	{name: "bank that does not end", prepare: fails("before end", 2, &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true}),
		cause: domain.CauseFirst, stands: whole, logins: 1},
}

// walk goes the path to its end. The investor answers again whenever an answer got lost.
func (w *world) walk(p path) {
	w.t.Helper()
	w.begin(p.cause)
	for range 100 {
		w.deliver()
		s := w.theSession()
		if domain.SessionMoves.Final(s.State) {
			break
		}
		if s.State == domain.SessionSuspended || s.State == domain.SessionRunning && s.ChallengeID != "" {
			if kind, text := p.say(w); kind != "" {
				_ = w.answer(kind, text) // it may be lost: the session says what became of it
				w.revive()
				w.advance(time.Second)
				continue
			}
		}
		w.advance(10 * time.Second)
	}
	w.rest()
}

// TestAccidents lets every accident happen at every commit of every path.
func TestAccidents(t *testing.T) {
	t.Parallel()
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			accidentsOn(t, p)
		})
	}
}

// TestAccidentsInManyParts does so where parts are stored before their version, and some are taken back.
func TestAccidentsInManyParts(t *testing.T) {
	extraction.StageEach(t)
	accidentsOn(t, path{name: "many parts, one product failed", cause: domain.CauseFirst, stands: whole, logins: 1,
		prepare: func(w *world) {
			w.bank.many(domain.ProductTransactions, 3, 300<<10)
			fails("read transactions 2", -1, &extraction.Failure{Reason: domain.ReasonBankAnswer})(w)
		}})
}

func accidentsOn(t *testing.T, p path) {
	t.Helper()
	h := build(t)
	w := h.onPath(t, p)
	seen := w.strike(accident{}, 0)
	w.walk(p)
	w.plant(nil)
	w.expect("without an accident", w.stands(), p.stands)
	w.sound()
	commits := seen.commits
	if commits < 2 {
		t.Fatalf("only %d commits", commits)
	}
	for _, a := range accidents {
		for n := 1; n <= commits; n++ {
			h.accident(t, p, a, n)
		}
	}
}

func (h *house) onPath(t *testing.T, p path) *world {
	w := h.settle(t)
	w.seal(password)
	if p.prepare != nil {
		p.prepare(w)
	}
	return w
}

func (h *house) accident(t *testing.T, p path, a accident, n int) {
	t.Helper()
	w := h.onPath(t, p)
	versions := len(w.versions())
	met := w.strike(a, n)
	w.walk(p)
	w.plant(nil)
	what := fmt.Sprintf("%s at commit %d: ", a.name, n)
	stands := w.stands()
	// A login whose end nobody knows is not repeated. Only death, or a claim of which nobody knows whether it took effect, does that.
	if mayLose := met.trying && (a.dies || a.name == "store fails after"); stands != p.stands && !(mayLose && stands == interrupted) {
		t.Errorf("%sit stands %s", what, stands)
	}
	for pin, times := range w.bank.logins {
		if times > p.logins {
			t.Errorf("%s%d logins with %s (%s)", what, times, pin, w.bank.steps())
		}
	}
	if stands == whole {
		versions++
	}
	w.expect(what+"versions", len(w.versions()), versions)
	w.sound()
	if t.Failed() {
		t.Fatalf("%ssteps %s", what, w.bank.steps())
	}
	h.recovers(t, w, what, stands)
}

// recovers has a person try again after an accident: a right password opens, and a refused one is not tried.
func (h *house) recovers(t *testing.T, w *world, what, stands string) {
	t.Helper()
	if stands != interrupted || w.bank.logins[wrongPassword] > 0 {
		return
	}
	logins := w.bank.count("login")
	w.begin(domain.CauseScheduled)
	w.rest()
	w.expect(what+"logins of the schedule", w.bank.count("login"), logins)
	w.bank.hook, w.bank.ask = nil, ""
	w.seal(password)
	w.begin(domain.CauseReconnect)
	w.rest()
	w.expect(what+"after the investor came back", w.stands(), whole)
	w.sound()
}
