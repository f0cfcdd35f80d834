package extraction_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// expect compares how things stand, each as text.
func (w *world) expect(what string, got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// say is values with a space between any two.
func say(values ...any) string { return strings.TrimSpace(fmt.Sprintln(values...)) }

// stands says how session, connection and credential stand.
func (w *world) stands() string {
	w.t.Helper()
	s, c := w.theSession(), w.connection()
	text := fmt.Sprintf("%s(%s) %s(%s)", s.State, s.Reason, c.State, c.Reason)
	if cred := w.credential(); cred != nil {
		text += " " + string(cred.State)
	}
	return strings.ReplaceAll(text, "()", "")
}

// first begins the first session of a world, and runs it as far as it goes by itself.
func first(w *world, ask string) *world {
	w.t.Helper()
	w.bank.ask = ask
	w.seal(password)
	w.begin(domain.CauseFirst)
	w.deliver()
	return w
}

func TestFirstLoginWithCode(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.expect("after the login", w.stands(), "suspended awaiting_sca accepted")
	c := w.challenge()
	w.expect("the challenge", say(c.State, c.Flow, c.Method, c.TriesLeft, len(c.Methods), len(c.Display) > 0, c.AnswerBy.Sub(w.env.Now())),
		"challenge_issued code TAN 3 2 true 5m0s")
	w.must(w.answer(domain.AnswerCode, code))
	w.expect("after the code", w.stands(), "queued connecting accepted")
	w.expect("the challenge", w.challenge().State, domain.SCAVerified)
	w.deliver()
	w.expect("after the reading", w.stands(), "complete active accepted")
	w.expect("steps", w.bank.steps(), "login code resume end")
	w.expect("notices", w.notices(), "connection.active portfolio.updated")
	v := w.version(1)
	w.expect("products", say(v.Products[domain.ProductCash].State, v.Products[domain.ProductOrders].State, v.Products[domain.ProductLiabilities].State),
		"complete empty empty")
	w.expect("positions", len(w.records(v, domain.ProductPositions)), 2)
	w.expect("next refresh", w.connection().NextRefreshAt.Sub(w.env.Now()), 24*time.Hour)
	w.expect("told to the connector", say(w.bank.languages, w.bank.products), "map[fr:true] map[[accounts cash positions transactions orders liabilities]:true]")
	w.rest() // the event that looks after the challenge finds nothing to do
	w.expect("at last", w.stands(), "complete active accepted")
	w.sound()
	for _, secret := range []string{password, code, "12345678", "+49-170-12XXXX", `"stage"`} {
		if w.onDisk(secret) {
			t.Errorf("%q lies on the disk", secret)
		}
	}
	actions := map[string]bool{}
	for _, e := range w.entries("") {
		actions[e.Type] = true
		w.expect(e.Type+" names consent, connection and purpose", say(e.Data.ConsentID, e.Data.ConnectionID, e.Data.Purpose, e.Data.Custodian),
			say(w.consent, w.conn, "wealth_overview bank"))
	}
	for _, action := range []string{"session.started", "session.suspended", "session.answered", "sca.verified", "data_key.created",
		"portfolio.stored", "session.closed"} {
		if !actions["sluis."+action] {
			t.Errorf("the audit log lacks %s", action)
		}
	}
}

func TestTwoVersions(t *testing.T) {
	w := first(build(t).settle(t), "")
	w.expect("exempt", w.stands(), "complete active accepted")
	w.expect("steps", w.bank.steps(), "login end")
	w.advance(24 * time.Hour)
	w.bank.holdings[domain.ProductPositions][0].(*domain.Position).Quantity = "11"
	w.begin(domain.CauseScheduled)
	w.deliver()
	w.expect("after the refresh", w.stands(), "complete active accepted")
	w.expect("notices", w.notices(), "connection.active portfolio.updated portfolio.updated")
	w.expect("versions", len(w.versions()), 2)
	if !strings.Contains(w.records(w.version(2), domain.ProductPositions)[0], `"quantity":"11"`) {
		t.Error("the second version has not what the bank gave")
	}
	w.rest()
	w.sound()
}

func TestUnattendedMeetsSCA(t *testing.T) {
	for _, cause := range []domain.Cause{domain.CauseScheduled, domain.CauseRequested} {
		t.Run(string(cause), func(t *testing.T) {
			w := first(build(t).settle(t), "")
			w.bank.ask = "code"
			w.begin(cause)
			w.rest()
			w.expect("stands", w.stands(), "failed(sca_required) paused(sca_required) accepted")
			w.expect("notices", w.notices(), "connection.active portfolio.updated connection.paused")
			w.expect("steps", w.bank.steps(), "login end login end")
			w.expect("next refresh", w.connection().NextRefreshAt.IsZero(), true)
			w.sound()
			w.begin(domain.CauseReconnect)
			w.deliver()
			w.must(w.answer(domain.AnswerCode, code))
			w.rest()
			w.expect("after the investor came back", w.stands(), "complete active accepted")
			w.sound()
		})
	}
}

// stubborn asks a challenge although nobody is there.
type stubborn struct{ extraction.Connector }

func (c stubborn) Step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	s.Attended = true
	return c.Connector.Step(ctx, s, in)
}

func TestConnectorThatAsksNobody(t *testing.T) {
	w := first(build(t).settle(t), "")
	w.bank.ask = "code"
	w.engine.Connector = stubborn{w.engine.Connector}
	w.begin(domain.CauseScheduled)
	w.rest()
	w.expect("stands", w.stands(), "failed(sca_required) paused(sca_required) accepted")
	w.sound()
}

func TestWrongCodes(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.must(w.answer(domain.AnswerCode, "000000"))
	c := w.challenge()
	w.expect("after a wrong code", say(w.stands(), c.State, c.TriesLeft), "suspended awaiting_sca accepted rejected 2")
	w.must(w.answer(domain.AnswerCode, "000001"))
	w.expect("after another", w.challenge().TriesLeft, 1)
	w.must(w.answer(domain.AnswerCode, code))
	w.rest()
	w.expect("after the right one", w.stands(), "complete active accepted")
	w.sound()

	w = first(w.settle(t), "code")
	for range 3 {
		w.must(w.answer(domain.AnswerCode, "000000"))
	}
	w.expect("after the last try", w.stands(), "failed(sca_rejected) paused(sca_rejected) accepted")
	w.expect("the challenge", w.challenge().State, domain.SCAFailed)
	if err := w.answer(domain.AnswerCode, code); domain.KindOf(err) != domain.Gone {
		t.Errorf("a code after the last try: %v", err)
	}
	w.rest()
	w.expect("steps", w.bank.steps(), "login code code code end")
	w.expect("notices", w.notices(), "connection.paused")
	w.sound()
}

func TestExpiredThenRenewed(t *testing.T) {
	w := build(t).settle(t)
	w.bank.lasts = time.Minute
	first(w, "code")
	w.advance(50 * time.Second)
	w.must(w.answer(domain.AnswerRenew, ""))
	w.expect("the time to answer", w.challenge().AnswerBy.Sub(w.env.Now()), time.Minute)
	w.advance(30 * time.Second) // the first event looks and finds time left
	w.deliver()
	w.expect("after the first challenge's time", w.stands(), "suspended awaiting_sca accepted")
	w.advance(31 * time.Second)
	if err := w.answer(domain.AnswerCode, code); domain.CodeOf(err) != "challenge_expired" {
		t.Errorf("a code that comes too late: %v", err)
	}
	w.rest()
	w.expect("after the second's", w.stands(), "failed(sca_expired) paused(sca_expired) accepted")
	w.expect("the challenge", w.challenge().State, domain.SCAExpired)
	w.sound()
}

func TestEarlyEventComesAgain(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.collect()
	event := w.queue[0].event
	w.advance(5*time.Minute - 2*time.Second) // the queue's clock runs ahead of ours
	err := w.engine.Run(t.Context(), event)
	var e *domain.Error
	if !errors.As(err, &e) || e.Kind != domain.Unavailable || e.RetryAfter != 2*time.Second {
		t.Errorf("the only event that looks was taken too early: %v", err)
	}
	w.rest()
	w.expect("stands", w.stands(), "failed(sca_expired) paused(sca_expired) accepted")
	w.sound()
}

func TestDecoupled(t *testing.T) {
	w := first(build(t).settle(t), "push")
	c := w.challenge()
	w.expect("the challenge", say(c.State, c.Flow, c.PollSeconds), "awaiting_user decoupled 2")
	answerBy, events := c.AnswerBy, len(w.queue)
	for range 20 {
		w.advance(2 * time.Second)
		w.must(w.answer(domain.AnswerPoll, ""))
	}
	w.expect("the time to answer", w.challenge().AnswerBy, answerBy)
	w.expect("events", len(w.queue), events)
	if err := w.answer(domain.AnswerCode, code); domain.KindOf(err) != domain.Invalid {
		t.Errorf("a code where none is asked: %v", err)
	}
	w.bank.approved = true
	w.must(w.answer(domain.AnswerPoll, ""))
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.sound()
}

func TestChoice(t *testing.T) {
	w := first(build(t).settle(t), "choice")
	w.expect("the challenge", w.challenge().State, domain.SCASelection)
	if err := w.answer(domain.AnswerSelect, "PIGEON"); domain.KindOf(err) != domain.Invalid {
		t.Errorf("a method that is not offered: %v", err)
	}
	w.expect("after it", w.stands(), "suspended awaiting_sca accepted")
	w.must(w.answer(domain.AnswerSelect, "TAN"))
	w.expect("with a display", len(w.challenge().Display) > 0, true)
	if err := w.answer(domain.AnswerPoll, ""); domain.KindOf(err) != domain.Invalid {
		t.Errorf("a poll where a code is asked: %v", err)
	}
	w.must(w.answer(domain.AnswerSelect, "PUSH"))
	c := w.challenge()
	w.expect("the other method", say(c.State, c.Method, len(c.Display)), "awaiting_user PUSH 0")
	w.must(w.answer(domain.AnswerCancel, ""))
	w.expect("after the cancel", w.stands(), "failed(sca_cancelled) paused(sca_cancelled) accepted")
	w.rest()
	w.expect("steps", w.bank.steps(), "login select select select end")
	w.sound()
}

func TestUnreadableCode(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.sealCode(code)
	r := domain.AnswerRequest{SessionID: w.session, ChallengeID: w.challenge().ID, Kind: domain.AnswerCode, SealedCode: "no.jwe"}
	if err := w.engine.Answer(t.Context(), r); domain.KindOf(err) != domain.Invalid {
		t.Errorf("a code that does not open: %v", err)
	}
	r.SealedCode = w.sealCode(code)
	w.advance(6 * time.Minute)
	if err := w.engine.Answer(t.Context(), r); domain.KindOf(err) != domain.Gone {
		t.Errorf("a code after the time: %v", err)
	}
	r.Kind = "shout"
	if err := w.engine.Answer(t.Context(), r); err == nil {
		t.Error("an unknown kind of answer was taken")
	}
	w.expect("steps", w.bank.steps(), "login")
	w.rest()
	w.sound()
}

func TestAnswersThatDoNotBelong(t *testing.T) {
	h := build(t)
	other, w := first(h.settle(t), "code"), first(h.settle(t), "code")
	r := domain.AnswerRequest{SessionID: w.session, ChallengeID: other.challenge().ID, Kind: domain.AnswerCode, SealedCode: other.sealCode(code)}
	if err := w.engine.Answer(t.Context(), r); domain.KindOf(err) != domain.Gone {
		t.Errorf("another session's challenge: %v", err)
	}
	r.ChallengeID = w.challenge().ID
	if err := w.engine.Answer(t.Context(), r); domain.CodeOf(err) != "jwe_subject" {
		t.Errorf("another challenge's code: %v", err)
	}
	r.SealedCode = w.sealCode(code)
	asked := w.challenge()
	asked.Admitted = nil
	w.write(asked)
	if err := w.engine.Answer(t.Context(), r); domain.CodeOf(err) != "sealing_used" {
		t.Errorf("a code that was not let in, or was opened before: %v", err)
	}
	r.SessionID = domain.NewID[domain.SessionID](w.env)
	if err := w.engine.Answer(t.Context(), r); domain.KindOf(err) != domain.NotFound {
		t.Errorf("an unknown session: %v", err)
	}
	for _, x := range []*world{other, w} {
		x.expect("stands", x.stands(), "suspended awaiting_sca accepted")
		x.rest()
		x.sound()
	}
}

func TestForeignCustodian(t *testing.T) {
	w := build(t).settle(t)
	w.seal(password)
	w.begin(domain.CauseFirst)
	event := w.queue[0].event
	w.engine.Custodian.ID = "otherbank"
	if err := w.engine.Run(t.Context(), event); domain.CodeOf(err) != "custodian_foreign" {
		t.Errorf("an event that went astray: %v", err)
	}
	if err := w.engine.Answer(t.Context(), domain.AnswerRequest{SessionID: w.session}); domain.CodeOf(err) != "custodian_foreign" {
		t.Errorf("an answer that went astray: %v", err)
	}
	w.expect("steps", w.bank.steps(), "")
	w.expect("stands", w.stands(), "queued connecting sealed")
}

func TestErasedSession(t *testing.T) {
	w := build(t).settle(t)
	if err := w.engine.Run(t.Context(), domain.Event{Topic: domain.TopicSession, Subject: string(domain.NewID[domain.SessionID](w.env))}); err != nil {
		t.Errorf("the event of a session that was erased: %v", err)
	}
}

// TestPanickingConnector: a connector that panics ends its session, or its product, and tells nobody what it knew.
func TestPanickingConnector(t *testing.T) {
	for _, c := range []struct{ at, stands, steps string }{
		{"before login", "failed(internal) paused(internal) unconfirmed", "login"},
		{"before code", "failed(internal) paused(internal) accepted", "login code end"},
		{"before resume", "failed(internal) paused(internal) accepted", "login code resume end"},
		{"read cash 0", "complete active accepted", "login code resume end"},
		{"before end", "complete active accepted", "login code resume end end"},
	} {
		t.Run(c.at, func(t *testing.T) {
			w := build(t).settle(t)
			var log bytes.Buffer
			before := slog.Default()
			slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
			t.Cleanup(func() { slog.SetDefault(before) })
			once := false
			w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
				if at == c.at && !once {
					once = true
					panic("I saw " + password)
				}
				return nil
			}
			first(w, "code")
			if w.theSession().State == domain.SessionSuspended {
				w.must(w.answer(domain.AnswerCode, code))
			}
			w.rest()
			w.expect("stands", w.stands(), c.stands)
			w.expect("steps", w.bank.steps(), c.steps)
			w.sound()
			if !strings.Contains(log.String(), "panicked") || strings.Contains(log.String(), password) {
				t.Errorf("the log says %s", &log)
			}
		})
	}
}

// TestLogTellsNoSecrets: an error that is not a Failure may hold anything, and its text is not logged.
func TestLogTellsNoSecrets(t *testing.T) {
	w := build(t).settle(t)
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	w.bank.breaks("read cash 0", fmt.Errorf("fetching https://api.bank.example/?token=%s", password))
	first(w, "")
	w.bank.breaks("before login", errors.New(password))
	w.refresh()
	w.expect("stands", w.stands(), "failed(internal) active(internal) unconfirmed")
	w.expect("lines", strings.Count(log.String(), "step failed"), 2)
	if strings.Contains(log.String(), password) {
		t.Errorf("the log says %s", &log)
	}
	w.sound()
}

// odd outcomes that no connector should give.
func TestOddOutcomes(t *testing.T) {
	for _, c := range []struct {
		name string
		out  extraction.Outcome
	}{
		{"none", extraction.Outcome{}},
		{"both", extraction.Outcome{Challenge: &extraction.Challenge{Status: domain.SCAIssued}, Portfolio: &extraction.Portfolio{}}},
		{"verified challenge", extraction.Outcome{Challenge: &extraction.Challenge{Status: domain.SCAVerified}}},
		{"unknown status", extraction.Outcome{Challenge: &extraction.Challenge{Status: "confused"}}},
		{"huge display", extraction.Outcome{Challenge: &extraction.Challenge{Status: domain.SCAIssued, Display: domain.Display{Image: make([]byte, 1<<20)}}}},
		{"huge state", extraction.Outcome{Challenge: &extraction.Challenge{Status: domain.SCAIssued, State: make([]byte, 1<<20)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := build(t).settle(t)
			w.engine.Connector = odd{w.engine.Connector, c.out}
			first(w, "code")
			w.rest()
			w.expect("stands", w.stands(), "failed(internal) paused(internal) unconfirmed")
			w.sound()
		})
	}
}

type odd struct {
	extraction.Connector
	out extraction.Outcome
}

func (o odd) Step(context.Context, extraction.Session, extraction.Input) (extraction.Outcome, error) {
	return o.out, nil
}
func (odd) End(context.Context, extraction.Session) error { return nil }

// TestResumeThatMeetsSCA: a bank that asks again when a reading is taken up gets another challenge of the same session.
func TestResumeThatMeetsSCA(t *testing.T) {
	w := first(build(t).settle(t), "code")
	w.must(w.answer(domain.AnswerCode, code))
	old := w.challenge().ID
	w.engine.Connector = odd{w.engine.Connector, extraction.Outcome{Challenge: &extraction.Challenge{Status: domain.SCAIssued,
		Flow: domain.FlowCode, Method: "TAN", TriesLeft: 3, State: []byte(`{"visit":0,"stage":"asked"}`)}}}
	w.deliver()
	w.expect("stands", w.stands(), "suspended awaiting_sca accepted")
	w.expect("another challenge", w.challenge().ID == old, false)
	w.restart()
	w.must(w.answer(domain.AnswerCode, code))
	w.rest()
	w.expect("at last", w.stands(), "complete active accepted")
	w.sound()
}
