package extraction_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// inBubble runs a test in which time passes by itself when everybody waits.
func inBubble(t *testing.T, f func(t *testing.T, h *house)) {
	if _, err := keys().InnerPublic(); err != nil { // made outside: the keys live longer than the bubble
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := build(t)
		start, began := h.now, time.Now()
		h.ticks = func() time.Time { return start.Add(time.Since(began)) }
		f(t, h)
	})
}

// gated is a point at the bank where a visitor is held up.
type gated struct {
	at      string
	arrived chan struct{}
	release chan struct{}
	deaf    bool // does not notice that its context ends
	once    sync.Once
}

func (b *bank) gate(at string, deaf bool) *gated {
	g := &gated{at: at, arrived: make(chan struct{}), release: make(chan struct{}), deaf: deaf}
	b.hook = func(ctx context.Context, _ extraction.Session, here string) error {
		var err error
		if here != at {
			return nil
		}
		g.once.Do(func() {
			close(g.arrived)
			if g.deaf {
				<-g.release
				return
			}
			select {
			case <-g.release:
			case <-ctx.Done():
				err = &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, Err: context.Cause(ctx)}
			}
		})
		return err
	}
	return g
}

// background runs the first event of the queue and gives its result.
func (w *world) background() chan error {
	w.t.Helper()
	w.collect()
	engine, ctx, event := w.engine, w.ctx, w.queue[0].event
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx, event) }()
	return done
}

// where a visitor can be held up in a visit with a code: the first two are within a login.
var places = []string{"before login", "after login", "before resume", "read positions 1", "read orders end"}

// upTo queues the session in which the visitor will be held up.
func (w *world) upTo(place string) {
	w.t.Helper()
	if place == "before login" || place == "after login" {
		w.bank.ask = "code"
		w.seal(password)
		w.begin(domain.CauseFirst)
		return
	}
	first(w, "code")
	w.must(w.answer(domain.AnswerCode, code))
	w.queue = w.queue[1:] // the event that looks after the challenge
}

// TestConsentEndsWhileTheBankIsSlow: nobody waits for the bank to notice that the consent is gone.
func TestConsentEndsWhileTheBankIsSlow(t *testing.T) {
	for _, place := range places {
		for _, way := range ways {
			t.Run(place+" "+way.name, func(t *testing.T) {
				inBubble(t, func(t *testing.T, h *house) {
					w := h.settle(t)
					w.upTo(place)
					g := w.bank.gate(place, false)
					done := w.background()
					<-g.arrived
					puts := len(w.puts)
					change(w, w.theConsent(), func(c *domain.Consent) { way.change(w, c) })
					since := time.Now()
					if err := <-done; err != nil {
						t.Error(err)
					}
					if waited := time.Since(since); waited > 10*time.Second {
						t.Errorf("it took %v to notice", waited)
					}
					if place == "after login" {
						w.bank.visits[0].lost = true // the connector was broken off before it could tell
					}
					w.cancelled("", way.denied, way.lives, w.puts[puts:])
					w.queue = nil
					w.sound()
				})
			})
		}
	}
}

// TestSlowBank: the lease is renewed for as long as it takes, and nobody else begins meanwhile.
func TestSlowBank(t *testing.T) {
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				w := h.settle(t)
				w.upTo(place)
				g := w.bank.gate(place, false)
				done := w.background()
				<-g.arrived
				event := w.queue[0].event
				for range 20 {
					time.Sleep(time.Minute)
					var e *domain.Error
					if err := w.engine.Run(t.Context(), event); !errors.As(err, &e) || e.Code != "session_running" || e.RetryAfter <= 0 {
						t.Fatalf("the event came again: %v", err)
					}
				}
				close(g.release)
				if err := <-done; err != nil {
					t.Error(err)
				}
				w.expect("logins", w.bank.count("login"), 1)
				if w.theSession().State == domain.SessionSuspended {
					w.must(w.answer(domain.AnswerCode, code))
					w.queue = w.queue[1:]
				}
				w.deliver()
				w.expect("stands", w.stands(), "complete active accepted")
				w.queue = nil
				w.sound()
			})
		})
	}
}

// TestSleepingWorker: a worker that is held up together with its clock loses its session to another, and does no harm
// when it wakes.
func TestSleepingWorker(t *testing.T) {
	for _, place := range places {
		t.Run(place, func(t *testing.T) {
			extraction.StageEach(t)
			w := build(t).settle(t)
			w.bank.many(domain.ProductOrders, 3, 300<<10)
			w.upTo(place)
			g := w.bank.gate(place, true)
			w.engine.Lease = time.Hour // its goroutine that renews does not come to it
			done := w.background()
			<-g.arrived
			sleeper := w.process
			w.restart()
			w.advance(2 * time.Hour)
			w.bank.hook = nil
			w.begin0()
			w.rest()
			stands := "complete active accepted"
			if place == "before login" || place == "after login" {
				stands = "failed(interrupted) paused(interrupted) unconfirmed"
			}
			w.expect("after the second worker", w.stands(), stands)
			versions, parts := len(w.versions()), len(listOf[domain.Part](w, "parts_by_connection"))
			w.process = sleeper
			close(g.release)
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.expect("after the sleeper", w.stands(), stands)
			w.expect("versions", len(w.versions()), versions)
			w.expect("parts", len(listOf[domain.Part](w, "parts_by_connection")), parts)
			w.expect("logins", w.bank.count("login"), 1)
			w.rest()
			w.sound()
		})
	}
}

// TestSleeperCannotClose: what a worker that wakes too late leaves at the bank is closed there, even if it cannot close it
// itself: its event was handled by the other worker, and does not come again.
func TestSleeperCannotClose(t *testing.T) {
	w := build(t).settle(t)
	w.upTo("after login")
	g := w.bank.gate("after login", true)
	w.engine.Lease = time.Hour
	done := w.background()
	<-g.arrived
	w.restart()
	w.advance(2 * time.Hour)
	fails("before end", 1, &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true})(w)
	w.begin0()
	w.rest()
	w.expect("after the second worker", w.stands(), interrupted)
	close(g.release)
	if err := <-done; domain.CodeOf(err) != "bank_session_open" {
		t.Errorf("the sleeper came to %v", err)
	}
	w.expect("held after the sleeper", len(w.theSession().Sealed) > 0, true)
	w.queue = nil // events of the sleeper's
	w.rest()
	w.expect("stands", w.stands(), interrupted)
	w.sound()
}

// TestGivenBackMeanwhile: two workers have the same event, as the first one's lease ran out. It gives the session back just
// before the second one, whose the event is by now, notes that the login was interrupted. The event is not lost.
func TestGivenBackMeanwhile(t *testing.T) {
	w := build(t).settle(t)
	w.upTo("before login")
	g := w.bank.gate("before login", true)
	held := w.bank.hook
	w.bank.hook = func(ctx context.Context, s extraction.Session, at string) error {
		if err := held(ctx, s, at); err != nil || at != "before login" {
			return err
		}
		return &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, Unjudged: true}
	}
	w.engine.Lease = time.Hour
	done := w.background()
	<-g.arrived
	w.restart()
	w.advance(2 * time.Hour)
	commits := 0
	w.moment = func() {
		if commits++; commits < 2 { // the claim
			return
		}
		w.moment, w.bank.hook = nil, nil
		close(g.release)
		if err := <-done; domain.CodeOf(err) != string(domain.ReasonBankUnavailable) {
			t.Errorf("the first worker came to %v", err)
		}
	}
	w.queue = nil
	w.begin0()
	w.deliver()
	w.expect("between", w.stands(), "queued(bank_unavailable) connecting sealed")
	w.advance(time.Minute)
	w.deliver()
	w.expect("stands", w.stands(), "suspended awaiting_sca accepted")
	w.expect("logins", w.bank.logins[password], 1)
}

// TestStoppedAfterThePassword: between two requests of a login, the second is not let out any more. The bank may have looked
// at the password, so it is not sent again.
func TestStoppedAfterThePassword(t *testing.T) {
	for after, stands := range map[bool]string{true: interrupted, false: "complete active accepted"} {
		w := build(t).settle(t)
		ctx, stop := context.WithCancel(t.Context())
		w.ctx = ctx
		ask := func(ctx context.Context, s extraction.Session) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, custodian.Endpoints["api"]+"/login", nil)
			if err != nil {
				return err
			}
			resp, err := s.HTTP.Do(req)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		}
		var once sync.Once
		w.bank.hook = func(ctx context.Context, s extraction.Session, at string) (err error) {
			once.Do(func() {
				if after {
					err = ask(ctx, s)
				}
				stop()
				err = errors.Join(err, ask(ctx, s))
			})
			return err
		}
		first(w, "")
		w.rest()
		w.expect("stands", w.stands(), stands)
		w.sound()
	}
}

// begin0 has the event of the newest session come again.
func (w *world) begin0() {
	w.queue = append(w.queue, queued{event: domain.Event{Topic: domain.TopicSession, Subject: string(w.session), Custodian: custodian.ID}})
}

func TestTwoRunsAtOnce(t *testing.T) {
	h := build(t)
	for range 10 {
		w := h.settle(t)
		w.seal(password)
		w.begin(domain.CauseFirst)
		event := w.queue[0].event
		other := w.newEngine(&process{house: w.house})
		var wg sync.WaitGroup
		for _, e := range []*extraction.Engine{w.engine, other, w.engine, other} {
			wg.Go(func() {
				if err := e.Run(t.Context(), event); err != nil && domain.CodeOf(err) != "session_running" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		w.rest()
		w.expect("stands", w.stands(), "complete active accepted")
		w.expect("logins", w.bank.logins[password], 1)
		w.expect("versions", len(w.versions()), 1)
		w.sound()
	}
}

func TestTwoAnswersAtOnce(t *testing.T) {
	w := first(build(t).settle(t), "code")
	g := w.bank.gate("before code", false)
	r := domain.AnswerRequest{SessionID: w.session, ChallengeID: w.challenge().ID, Kind: domain.AnswerCode, SealedCode: w.sealCode(code)}
	done := make(chan error)
	go func() { done <- w.engine.Answer(t.Context(), r) }()
	<-g.arrived
	if err := w.newEngine(&process{house: w.house}).Answer(t.Context(), r); domain.CodeOf(err) != "answer_in_progress" {
		t.Errorf("a second answer: %v", err)
	}
	for _, q := range w.queue { // and the event that looks after the challenge
		if err := w.engine.Run(t.Context(), q.event); domain.CodeOf(err) != "session_running" {
			t.Errorf("an event during the answer: %v", err)
		}
	}
	close(g.release)
	w.must(<-done)
	w.rest()
	w.expect("steps", w.bank.steps(), "login code resume end")
	w.expect("stands", w.stands(), "complete active accepted")
	w.sound()
}

// TestAnswerThatTakesTooLong: the bank does not answer within the request. The answer is lost, the session is not.
func TestAnswerThatTakesTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		w := first(h.settle(t), "code")
		w.bank.gate("before code", false)
		since := time.Now()
		if err := w.answer(domain.AnswerCode, code); domain.KindOf(err) != domain.Unavailable {
			t.Errorf("an answer that took too long: %v", err)
		}
		if waited := time.Since(since); waited > 2*time.Minute {
			t.Errorf("the investor waited %v", waited)
		}
		w.expect("after it", w.stands(), "suspended(bank_unavailable) awaiting_sca accepted")
		w.must(w.answer(domain.AnswerCode, code))
		w.deliver()
		w.expect("after another", w.stands(), "complete active accepted")
		w.queue = nil
		w.sound()
	})
}

// TestBrowserGone: what happens at the bank is written down even though the investor went away.
func TestBrowserGone(t *testing.T) {
	w := first(build(t).settle(t), "code")
	ctx, cancel := context.WithCancel(t.Context())
	w.bank.hook = func(ctx context.Context, _ extraction.Session, _ string) error { cancel(); return ctx.Err() }
	r := domain.AnswerRequest{SessionID: w.session, ChallengeID: w.challenge().ID, Kind: domain.AnswerCode, SealedCode: w.sealCode(code)}
	w.must(w.engine.Answer(ctx, r))
	w.expect("the challenge", w.challenge().State, domain.SCAVerified)
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.sound()
}

// TestAnsweringWorkerDies: whoever answers next carries on, without waiting for the event.
func TestAnsweringWorkerDies(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"answer", "event"} {
		t.Run(by, func(t *testing.T) {
			w := first(build(t).settle(t), "code")
			w.bank.hook = func(context.Context, extraction.Session, string) error { w.process.dead.Store(true); return errDied }
			if err := w.answer(domain.AnswerCode, code); err == nil {
				t.Fatal("a dead process answered")
			}
			w.bank.hook = nil
			w.restart()
			w.expect("at first", w.theSession().State, domain.SessionRunning)
			if err := w.answer(domain.AnswerCode, code); domain.CodeOf(err) != "answer_in_progress" {
				t.Errorf("an answer under the dead worker's lease: %v", err)
			}
			w.advance(time.Minute)
			if by == "event" {
				w.begin0()
				w.deliver()
				w.expect("after the event", w.stands(), "suspended awaiting_sca accepted")
			}
			w.must(w.answer(domain.AnswerCode, code))
			w.rest()
			w.expect("stands", w.stands(), "complete active accepted")
			w.expect("steps", w.bank.steps(), "login code code resume end")
			w.sound()
		})
	}
}

// eraseData does in one commit what the function erase does first: it destroys the data key and cancels the session.
func (w *world) eraseData() {
	w.t.Helper()
	s, conn := w.theSession(), w.connection()
	if err := s.Move(domain.SessionCancelled, domain.ReasonDataErased, w.env.Now()); err != nil {
		w.t.Fatal(err)
	}
	conn.PortfolioID, conn.Products = "", nil
	w.alter(func(tx domain.Tx) error {
		return errors.Join(tx.Delete(&domain.DataKey{ConnectionID: w.conn}), tx.Put(s), tx.Put(conn),
			tx.Emit(domain.Event{Topic: domain.TopicSession, Subject: s.Key(), Custodian: s.Custodian}))
	})
}

// TestEraseAtAnyMoment erases the data before each commit, step and record of a large reading.
func TestEraseAtAnyMoment(t *testing.T) {
	extraction.StageEach(t)
	h := build(t)
	moments, at := 0, 0
	for ; at <= moments; at++ {
		w := h.settle(t)
		w.bank.many(domain.ProductOrders, 3, 300<<10)
		now, erased, puts := 0, false, 0
		w.moment = func() {
			if now++; now == at && !domain.SessionMoves.Final(w.theSession().State) {
				erased = true
				w.eraseData()
				puts = len(w.puts)
			}
		}
		first(w, "")
		w.rest()
		w.moment = nil
		if at == 0 {
			moments = now
		}
		if erased {
			w.expect("session", say(w.theSession().State, w.theSession().Reason), "cancelled data_erased")
			w.expect("versions", len(w.versions()), 0)
			for _, d := range w.puts[puts:] {
				if d.Kind() == "part" || d.Kind() == "portfolio" || d.Kind() == "data_key" {
					t.Errorf("moment %d: a %s was stored afterwards", at, d.Kind())
				}
			}
		} else {
			w.expect("session", w.theSession().State, domain.SessionComplete)
		}
		w.sound()
	}
	if moments < 30 {
		t.Errorf("only %d moments", moments)
	}
}

// TestKeyErasedAlone: should the data key go without the session, the reading begins again with another.
func TestKeyErasedAlone(t *testing.T) {
	extraction.StageEach(t)
	w := build(t).settle(t)
	w.bank.many(domain.ProductOrders, 3, 300<<10)
	w.bank.hook = func(_ context.Context, _ extraction.Session, at string) error {
		if at == "read orders 2" {
			w.bank.hook = nil
			w.alter(func(tx domain.Tx) error { return tx.Delete(&domain.DataKey{ConnectionID: w.conn}) })
		}
		return nil
	}
	first(w, "")
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("steps", w.bank.steps(), "login resume end")
	w.sound()
}

// TestSleeperThatFails: a worker that wakes with a failed product takes back nothing that the version of another names.
func TestSleeperThatFails(t *testing.T) {
	extraction.StageEach(t)
	w := build(t).settle(t)
	w.bank.many(domain.ProductTransactions, 3, 300<<10)
	g := w.bank.gate("read transactions 2", true)
	held := w.bank.hook
	w.bank.hook = func(ctx context.Context, s extraction.Session, at string) error {
		if err := held(ctx, s, at); err != nil || at != "read transactions 2" {
			return err
		}
		return &extraction.Failure{Reason: domain.ReasonBankAnswer}
	}
	w.seal(password)
	w.begin(domain.CauseFirst)
	w.engine.Lease = time.Hour
	done := w.background()
	<-g.arrived
	w.restart()
	w.advance(2 * time.Hour)
	w.bank.hook = nil
	w.begin0()
	w.rest()
	w.expect("after the second worker", w.stands(), "complete active accepted")
	w.bank.hook = func(context.Context, extraction.Session, string) error { return nil }
	close(g.release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.expect("dropped", len(w.entries("portfolio.parts_dropped")), 0)
	w.expect("sweep looks for parts of the first worker", w.connection().Staged, true)
	w.expect("transactions", len(w.records(w.version(1), domain.ProductTransactions)), 3)
	w.sound()
}

// TestSleeperWakesAmidst: a worker that wakes while another has its session does not write into it.
func TestSleeperWakesAmidst(t *testing.T) {
	extraction.StageEach(t)
	w := build(t).settle(t)
	w.bank.many(domain.ProductOrders, 3, 300<<10)
	w.seal(password)
	w.begin(domain.CauseFirst)
	sleeper, second := w.bank.gate("read positions 1", true), (*gated)(nil)
	w.engine.Lease = time.Hour
	asleep := w.background()
	<-sleeper.arrived
	w.restart()
	w.advance(2 * time.Hour)
	second = w.bank.gate("read orders 1", true)
	w.begin0()
	awake := w.background()
	<-second.arrived
	puts := len(w.puts)
	close(sleeper.release)
	if err := <-asleep; domain.CodeOf(err) != "session_taken" {
		t.Errorf("the sleeper came to %v", err)
	}
	w.expect("written by the sleeper", len(w.puts), puts)
	w.expect("meanwhile", w.theSession().State, domain.SessionRunning)
	close(second.release)
	if err := <-awake; err != nil {
		t.Error(err)
	}
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("versions", len(w.versions()), 1)
	w.sound()
}

// TestAnswerCutShort: a connector that only says that its time was over leaves the question open.
func TestAnswerCutShort(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		w := first(h.settle(t), "code")
		w.bank.hook = func(ctx context.Context, _ extraction.Session, _ string) error { <-ctx.Done(); return ctx.Err() }
		if err := w.answer(domain.AnswerCode, code); domain.CodeOf(err) != "stopping" {
			t.Errorf("an answer that was cut short: %v", err)
		}
		w.bank.hook = nil
		w.expect("after it", w.stands(), "suspended awaiting_sca accepted")
		w.must(w.answer(domain.AnswerCode, code))
		w.deliver()
		w.expect("after another", w.stands(), "complete active accepted")
		w.queue = nil
		w.sound()
	})
}

// TestLoginCutShort: a login that the process's stop broke off ends its session, and the log calls that what it is.
func TestLoginCutShort(t *testing.T) {
	w := build(t).settle(t)
	ctx, stop := context.WithCancel(t.Context())
	w.ctx = ctx
	w.bank.hook = func(ctx context.Context, _ extraction.Session, _ string) error {
		stop()
		<-ctx.Done()
		return ctx.Err()
	}
	first(w, "")
	w.expect("stands", w.stands(), interrupted)
	w.rest()
	w.sound()
}

// TestSilentEnd: a sequence that ends without a word because its context did is not taken for the whole product.
func TestSilentEnd(t *testing.T) {
	w := build(t).settle(t)
	ctx, stop := context.WithCancel(t.Context())
	w.ctx = ctx
	w.bank.records = map[domain.Product]func(context.Context) extraction.Records{domain.ProductTransactions: func(ctx context.Context) extraction.Records {
		return func(yield func(domain.Record, error) bool) {
			for i, r := range w.bank.holdings[domain.ProductTransactions] {
				if i == 1 {
					stop()
				}
				if ctx.Err() != nil || !yield(copyOf(r), nil) {
					return
				}
			}
		}
	}}
	first(w, "")
	w.rest()
	w.expect("stands", w.stands(), "complete active accepted")
	w.expect("transactions", len(w.records(w.version(1), domain.ProductTransactions)), 2)
	w.expect("steps", w.bank.steps(), "login resume end")
	w.sound()
}
