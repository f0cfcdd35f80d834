package backendtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
)

// Queue checks events, each promise in a bubble of its own.
func Queue(t *testing.T, open func(t *testing.T, o Opts) Backend) {
	for name, test := range map[string]func(*testing.T, opener){
		"delivers":            delivers,
		"aborted":             aborted,
		"applied_yet_failed":  appliedYetFailed,
		"not_before":          notBefore,
		"backoff":             backoff,
		"retry_after":         retryAfter,
		"waiting":             waiting,
		"dead_letter":         deadLetter,
		"dead_letters_listed": deadLettersListed,
		"panic":               panics,
		"concurrency":         concurrency,
		"lanes":               lanes,
		"no_handler":          noHandler,
		"long_handler":        longHandler,
		"stop_lets_finish":    stopLetsFinish,
		"stop_ends_contexts":  stopEndsContexts,
		"crash_before_settle": crashBeforeSettle,
		"reopened":            reopened,
		"two_backends":        twoBackends,
		"many":                many,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, open) })
		})
	}
}

const topic domain.Topic = "contract"

// soon is longer than any delay a queue may add by itself to a first delivery.
const soon = 2 * time.Second

// running starts b's Run and returns what stops it and waits. The end of the test stops it too.
func running(t *testing.T, b Backend, handlers map[domain.Topic]domain.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Run(ctx, handlers); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// seen collects deliveries.
type seen struct {
	mu     sync.Mutex
	events []domain.Event
	at     []time.Time
}

// then makes a handler that notes the event and answers with result.
func (s *seen) then(result func(e domain.Event) error) map[domain.Topic]domain.Handler {
	return map[domain.Topic]domain.Handler{topic: func(_ context.Context, e domain.Event) error {
		s.mu.Lock()
		s.events, s.at = append(s.events, e), append(s.at, time.Now())
		s.mu.Unlock()
		return result(e)
	}}
}

func (s *seen) ok() map[domain.Topic]domain.Handler {
	return s.then(func(domain.Event) error { return nil })
}

func (s *seen) all() ([]domain.Event, []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events, s.at
}

func (s *seen) want(t *testing.T, n int) {
	t.Helper()
	if events, _ := s.all(); len(events) != n {
		t.Fatalf("delivered %d times, want %d: %+v", len(events), n, events)
	}
}

func delivers(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var s seen
	running(t, b, s.ok())
	time.Sleep(time.Minute) // the queue is idle, and still
	want := domain.Event{Topic: topic, Subject: "ses_1", Custodian: "comdirect", Lane: "cli_1"}
	emit(t, b, want)
	time.Sleep(soon)
	s.want(t, 1)
	events, _ := s.all()
	got := events[0]
	if _, err := domain.ParseID[domain.EventID](string(got.ID)); err != nil {
		t.Errorf("its id is %q", got.ID)
	}
	if got.ID = ""; got.Attempt != 1 {
		t.Errorf("it is attempt %d, want 1", got.Attempt)
	}
	if got.Attempt = 0; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	time.Sleep(10 * time.Minute)
	s.want(t, 1)
}

func aborted(t *testing.T, open opener) {
	f := newFaults("before-commit")
	b := open.at(t, Opts{Fault: f.ask})
	var s seen
	running(t, b, s.ok())
	act := func(end error) error {
		return b.Commit(context.Background(), func(tx domain.Tx) error {
			return errors.Join(tx.Emit(domain.Event{Topic: topic, Subject: "a"}), tx.Record(entry("a")), end)
		})
	}
	if act(errors.New("no")) == nil {
		t.Error("the act did not fail")
	}
	f.arm()
	if act(nil) == nil {
		t.Error("the commit did not fail")
	}
	time.Sleep(time.Minute)
	s.want(t, 0)
}

func appliedYetFailed(t *testing.T, open opener) {
	f := newFaults("after-commit")
	b := open.at(t, Opts{Fault: f.ask})
	var s seen
	running(t, b, s.ok())
	f.arm()
	err := b.Commit(context.Background(), func(tx domain.Tx) error {
		return errors.Join(tx.Emit(domain.Event{Topic: topic, Subject: "a"}), tx.Record(entry("a")))
	})
	if !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	time.Sleep(soon)
	s.want(t, 1)
}

func notBefore(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var s seen
	running(t, b, s.ok())
	start := time.Now()
	due := domain.At(start.Add(30 * time.Minute))
	emit(t, b, domain.Event{Topic: topic, Subject: "late", NotBefore: due}, domain.Event{Topic: topic, Subject: "now"},
		domain.Event{Topic: topic, Subject: "past", NotBefore: domain.At(start.Add(-time.Hour))})
	time.Sleep(soon)
	s.want(t, 2)
	time.Sleep(30*time.Minute - soon - time.Millisecond)
	s.want(t, 2)
	time.Sleep(soon)
	s.want(t, 3)
	if events, _ := s.all(); events[2].Subject != "late" || events[2].NotBefore != due {
		t.Errorf("got %+v", events[2])
	}
}

func backoff(t *testing.T, open opener) {
	b := open.at(t, Opts{MaxAttempts: 20})
	var s seen
	running(t, b, s.then(func(e domain.Event) error {
		if e.Attempt < 12 {
			return errors.New("not yet")
		}
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(40 * time.Minute)
	s.want(t, 12)
	events, at := s.all()
	for n := 1; n < len(at); n++ {
		least := min(time.Second<<(n-1), 10*time.Minute)
		if gap := at[n].Sub(at[n-1]); gap < least || gap > least*5/4+soon {
			t.Errorf("before attempt %d: %v, want %v and some jitter", n+1, gap, least)
		}
		if events[n].Attempt != n+1 || events[n].ID != events[0].ID {
			t.Errorf("delivery %d is %+v", n+1, events[n])
		}
	}
}

func retryAfter(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var s seen
	running(t, b, s.then(func(e domain.Event) error {
		if e.Attempt > 1 {
			return nil
		}
		return fmt.Errorf("asking the bank: %w", &domain.Error{Kind: domain.RateLimited, Code: "slow_down", RetryAfter: 17 * time.Minute})
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(20 * time.Minute)
	s.want(t, 2)
	if _, at := s.all(); at[1].Sub(at[0]) < 17*time.Minute || at[1].Sub(at[0]) > 17*time.Minute+soon {
		t.Errorf("it came again after %v", at[1].Sub(at[0]))
	}
}

// waiting: who only asks to wait has not failed, however often; what fails in between still counts.
func waiting(t *testing.T, open opener) {
	b := open.at(t, Opts{MaxAttempts: 3})
	var s seen
	running(t, b, s.then(func(e domain.Event) error {
		switch {
		case e.Attempt == 4:
			return errors.New("failed once")
		case e.Attempt < 9:
			return &domain.Error{Kind: domain.Unavailable, Code: "held", RetryAfter: time.Minute}
		}
		return errors.New("failed")
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(20 * time.Minute)
	s.want(t, 10)
	if letters, err := b.DeadLetters(context.Background(), 0); err != nil || len(letters) != 1 || letters[0].Event.Attempt != 10 {
		t.Errorf("dead letters: %v, %v, want it after the third failure", letters, err)
	}
}

func deadLetter(t *testing.T, open opener) {
	ctx := context.Background()
	b := open.at(t, Opts{MaxAttempts: 3, Indexes: schemaIndexes(t)})
	var s seen
	var broken atomic.Bool
	broken.Store(true)
	running(t, b, s.then(func(domain.Event) error {
		if broken.Load() {
			return fmt.Errorf("secret detail: %w", &domain.Error{Kind: domain.Unavailable, Code: "bank_down"})
		}
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a", Custodian: "comdirect"})
	time.Sleep(3 * time.Minute)
	s.want(t, 3)
	letters, err := b.DeadLetters(ctx, 10)
	if err != nil || len(letters) != 1 {
		t.Fatalf("dead letters: %+v, %v", letters, err)
	}
	events, at := s.all()
	want := domain.DeadLetter{Event: events[2], Reason: "bank_down", At: domain.At(at[2])}
	if letters[0] != want {
		t.Errorf("got %+v, want %+v", letters[0], want)
	}
	broken.Store(false)
	if err := b.Redrive(ctx, events[0].ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(soon)
	s.want(t, 4)
	if events, _ := s.all(); events[3] != events[0] {
		t.Errorf("redriven: %+v, want %+v", events[3], events[0])
	}
	if letters, err = b.DeadLetters(ctx, 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters after that: %+v, %v", letters, err)
	}
	for name, id := range map[string]domain.EventID{"again": events[0].ID, "malformed": "x"} {
		if err := b.Redrive(ctx, id); domain.KindOf(err) != domain.NotFound && domain.KindOf(err) != domain.Invalid {
			t.Errorf("redriving %s: %v", name, err)
		}
	}
	redrivenByOperator(t, b, events[0].ID)
}

// redrivenByOperator looks for exactly one audit entry of a redrive.
func redrivenByOperator(t *testing.T, b Backend, id domain.EventID) {
	t.Helper()
	entries, _, err := domain.List[domain.Entry](context.Background(), b, domain.Query{Index: "entries_by_time"})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if e.Subject == string(id) && e.Data.Actor.Kind == domain.ActorOperator {
			found++
		}
	}
	if found != 1 {
		t.Errorf("%d audit entries of the redrive, want 1", found)
	}
}

func deadLettersListed(t *testing.T, open opener) {
	b := open.at(t, Opts{MaxAttempts: 1})
	var s seen
	running(t, b, s.then(func(domain.Event) error { return errors.New("no") }))
	for n := range 5 {
		emit(t, b, domain.Event{Topic: topic, Subject: fmt.Sprint(n)})
		time.Sleep(soon)
	}
	for limit, want := range map[int][]string{0: {"4", "3", "2", "1", "0"}, 2: {"4", "3"}, 1000: {"4", "3", "2", "1", "0"}} {
		letters, err := b.DeadLetters(context.Background(), limit)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, l := range letters {
			got = append(got, l.Event.Subject)
			if l.Reason != "internal" {
				t.Errorf("the reason is %q, want the code of an unknown error", l.Reason)
			}
		}
		equal(t, fmt.Sprintf("newest first, up to %d", limit), got, want)
	}
	for _, limit := range []int{-1, 1001} {
		if _, err := b.DeadLetters(context.Background(), limit); domain.KindOf(err) != domain.Invalid {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

func panics(t *testing.T, open opener) {
	b := open.at(t, Opts{MaxAttempts: 2})
	var s seen
	running(t, b, s.then(func(e domain.Event) error {
		if e.Subject == "bad" {
			panic("a secret")
		}
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "bad"}, domain.Event{Topic: topic, Subject: "good"})
	time.Sleep(3 * time.Minute)
	s.want(t, 3)
	letters, err := b.DeadLetters(context.Background(), 0)
	if err != nil || len(letters) != 1 || letters[0].Event.Subject != "bad" || letters[0].Reason != "panic" {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}

// gauge measures how many run at once.
type gauge struct {
	mu        sync.Mutex
	now, most int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

func (g *gauge) read() (most, now int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most, g.now
}

func concurrency(t *testing.T, open opener) {
	const wide, narrow = domain.Topic("wide"), domain.Topic("narrow")
	b := open.at(t, Opts{Concurrency: map[domain.Topic]int{wide: 5, narrow: 1}})
	gauges := map[domain.Topic]*gauge{wide: {}, narrow: {}}
	handlers := map[domain.Topic]domain.Handler{}
	var events []domain.Event
	for name, g := range gauges {
		handlers[name] = func(context.Context, domain.Event) error {
			g.add(1)
			time.Sleep(10 * time.Second)
			g.add(-1)
			return nil
		}
		for n := range 20 {
			events = append(events, domain.Event{Topic: name, Subject: fmt.Sprint(n)})
		}
	}
	emit(t, b, events...)
	running(t, b, handlers)
	time.Sleep(4 * time.Minute)
	for name, want := range map[domain.Topic]int{wide: 5, narrow: 1} {
		most, now := gauges[name].read()
		if most != want || now != 0 {
			t.Errorf("%s: %d at once, want %d; %d still run", name, most, want, now)
		}
	}
}

// lanes floods one lane. The few events of another, and one without a lane, have their turn at once, and so they do
// when they come later; a lane that is alone has every handler.
func lanes(t *testing.T, open opener) {
	b := open.at(t, Opts{Concurrency: map[domain.Topic]int{topic: 4}})
	var mu sync.Mutex
	var order []string
	var flood []domain.Event
	for range 60 {
		flood = append(flood, domain.Event{Topic: topic, Subject: "a", Lane: "flood"})
	}
	few := []domain.Event{{Topic: topic, Subject: "b", Lane: "few"}, {Topic: topic, Subject: "b", Lane: "few"}, {Topic: topic, Subject: "c"}}
	emit(t, b, flood...)
	running(t, b, map[domain.Topic]domain.Handler{topic: func(_ context.Context, e domain.Event) error {
		mu.Lock()
		order = append(order, e.Subject)
		mu.Unlock()
		time.Sleep(10 * time.Second)
		return nil
	}})
	for range 2 {
		time.Sleep(15 * time.Second)
		mu.Lock()
		order = nil
		mu.Unlock()
		emit(t, b, few...)
		time.Sleep(17 * time.Second) // in which four begin twice
		mu.Lock()
		if said := strings.Join(order[:min(len(order), 8)], ""); strings.Count(said, "b") != 2 || strings.Count(said, "c") != 1 || len(said) != 8 {
			t.Errorf("begun were %s; b and c wait behind a", said)
		}
		mu.Unlock()
	}
	time.Sleep(5 * time.Minute)
	if mu.Lock(); strings.Count(strings.Join(order, ""), "a") < 40 {
		t.Errorf("the flood itself is held up: %v", order)
	}
	mu.Unlock()
}

func noHandler(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var s seen
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	stop := running(t, b, map[domain.Topic]domain.Handler{"other": func(context.Context, domain.Event) error { return nil }})
	time.Sleep(3 * time.Minute)
	stop()
	running(t, b, s.ok())
	time.Sleep(soon)
	s.want(t, 1)
	if events, _ := s.all(); events[0].Attempt != 1 {
		t.Errorf("it was touched before: %+v", events[0])
	}
}

// longHandler takes longer than any lease, while another backend would be glad to have the event.
func longHandler(t *testing.T, open opener) {
	place := t.TempDir()
	var s seen
	handlers := s.then(func(domain.Event) error {
		time.Sleep(3 * time.Minute)
		return nil
	})
	one, two := open.at(t, Opts{Place: place}), open.at(t, Opts{Place: place})
	running(t, one, handlers)
	running(t, two, handlers)
	emit(t, one, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(5 * time.Minute)
	s.want(t, 1)
}

func stopLetsFinish(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	var s seen
	var finished atomic.Bool
	stop := running(t, b, s.then(func(domain.Event) error {
		time.Sleep(5 * time.Second)
		finished.Store(true)
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(soon)
	stop()
	if !finished.Load() {
		t.Fatal("Run returned before its handler")
	}
	emit(t, b, domain.Event{Topic: topic, Subject: "b"})
	time.Sleep(3 * time.Minute)
	s.want(t, 1) // nothing is claimed any more
	running(t, b, s.ok())
	time.Sleep(3 * time.Minute)
	s.want(t, 2) // and a is not delivered again
}

// stopEndsContexts stops a handler that has no end but its context's, and one that has none at all for a while.
func stopEndsContexts(t *testing.T, open opener) {
	b := open.at(t, Opts{MaxAttempts: 1})
	deaf := make(chan struct{})
	var started atomic.Int32
	handler := func(ctx context.Context, e domain.Event) error {
		if started.Add(1); e.Subject == "deaf" {
			<-deaf
			return ctx.Err()
		}
		<-ctx.Done()
		return ctx.Err()
	}
	stop := running(t, b, map[domain.Topic]domain.Handler{topic: handler, "deaf": handler})
	emit(t, b, domain.Event{Topic: topic, Subject: "a"}, domain.Event{Topic: "deaf", Subject: "deaf"})
	time.Sleep(soon)
	begun := time.Now()
	stop()
	if took := time.Since(begun); took < 5*time.Second || took > time.Minute {
		t.Errorf("stopping took %v", took)
	}
	if started.Load() != 2 {
		t.Fatalf("%d handlers started, want 2", started.Load())
	}
	var s seen
	handlers := s.ok()
	handlers["deaf"] = handlers[topic]
	running(t, b, handlers)
	time.Sleep(soon) // no lease is left to wait for
	s.want(t, 2)     // and being stopped was no failure, of which one would have been too many
	close(deaf)
	time.Sleep(3 * time.Minute)
	s.want(t, 2)
}

// crashBeforeSettle plays the death of a process between the end of a handler and the note of it.
func crashBeforeSettle(t *testing.T, open opener) {
	place := t.TempDir()
	f := newFaults("before-settle")
	b := open.at(t, Opts{Place: place, Fault: f.ask, MaxAttempts: 1})
	var s seen
	stop := running(t, b, s.ok())
	f.arm()
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	time.Sleep(100 * time.Millisecond)
	s.want(t, 1)
	stop()
	running(t, open.at(t, Opts{Place: place, MaxAttempts: 1}), s.ok())
	time.Sleep(time.Minute)
	s.want(t, 2)
	if events, _ := s.all(); events[1].Attempt != 2 {
		t.Errorf("got %+v, want attempt 2", events[1])
	}
	time.Sleep(3 * time.Minute)
	s.want(t, 2)
}

func reopened(t *testing.T, open opener) {
	place := t.TempDir()
	b := open.at(t, Opts{Place: place})
	emit(t, b, domain.Event{Topic: topic, Subject: "now"},
		domain.Event{Topic: topic, Subject: "later", NotBefore: domain.At(time.Now().Add(10 * time.Minute))})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var s seen
	running(t, open.at(t, Opts{Place: place}), s.ok())
	time.Sleep(soon)
	s.want(t, 1)
	time.Sleep(10 * time.Minute)
	s.want(t, 2)
}

// twoBackends lets two that share data emit and handle: what one emits the other may handle, nothing is lost, and
// while nobody dies nothing is handled twice.
func twoBackends(t *testing.T, open opener) {
	place := t.TempDir()
	one, two := open.at(t, Opts{Place: place}), open.at(t, Opts{Place: place})
	var s seen
	running(t, two, s.ok())
	emit(t, one, domain.Event{Topic: topic, Subject: "across"})
	time.Sleep(soon)
	s.want(t, 1)
	running(t, one, s.then(func(domain.Event) error {
		time.Sleep(time.Second)
		return nil
	}))
	const n = 100
	for i := range n {
		emit(t, []Backend{one, two}[i%2], domain.Event{Topic: topic, Subject: fmt.Sprint(i)})
	}
	time.Sleep(3 * time.Minute)
	s.want(t, n+1)
}

func many(t *testing.T, open opener) {
	b := open.at(t, Opts{})
	const n = 1000
	events := make([]domain.Event, n)
	for i := range events {
		events[i] = domain.Event{Topic: topic, Subject: fmt.Sprint(i)}
	}
	emit(t, b, events...)
	subjects := map[string]int{}
	var s seen
	running(t, b, s.then(func(e domain.Event) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		subjects[e.Subject]++
		return nil
	}))
	time.Sleep(time.Minute)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(subjects) != n {
		t.Errorf("%d of %d events were delivered", len(subjects), n)
	}
}
