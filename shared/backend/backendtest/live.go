package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// Live checks the queue's promises in real time, for backends whose events cross a network, which no bubble of
// testing/synctest holds. What takes minutes or hours happens by the backend's clock, which the test moves; how long a
// service takes is waited for, and nothing is asserted about it.
func Live(t *testing.T, open func(t *testing.T, o Opts) Backend) {
	for name, test := range map[string]func(*testing.T, *stand){
		"delivers":            liveDelivers,
		"aborted":             liveAborted,
		"applied_yet_failed":  liveAppliedYetFailed,
		"not_before":          liveNotBefore,
		"retry_after":         liveRetryAfter,
		"dead_letter":         liveDeadLetter,
		"panic":               livePanic,
		"crash_before_settle": liveCrashBeforeSettle,
		"nobody_there":        liveNobodyThere,
		"stop_lets_finish":    liveStopLetsFinish,
		"many":                liveMany,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &stand{open: open})
		})
	}
}

// stand is one live test: a backend whose clock can be moved, and what its handlers saw.
type stand struct {
	open  opener
	ahead atomic.Int64
	seen  seen
}

// at opens a backend that goes by the stand's clock.
func (s *stand) at(t *testing.T, o Opts) Backend {
	o.Env.Clock = s.now
	return s.open.at(t, o)
}

func (s *stand) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// pass moves the clock ahead.
func (s *stand) pass(d time.Duration) { s.ahead.Add(int64(d)) }

const (
	patience = time.Minute     // for what must happen
	quiet    = 4 * time.Second // for what must not
)

// until waits for n deliveries in all.
func (s *stand) until(t *testing.T, n int) []domain.Event {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if events, _ := s.seen.all(); len(events) >= n {
			return events
		}
		if time.Now().After(deadline) {
			s.seen.want(t, n)
		}
	}
}

// still checks that no more than n deliveries come.
func (s *stand) still(t *testing.T, n int) {
	t.Helper()
	time.Sleep(quiet)
	s.seen.want(t, n)
}

func liveDelivers(t *testing.T, s *stand) {
	b := s.at(t, Opts{})
	running(t, b, s.seen.ok())
	want := domain.Event{Topic: topic, Subject: "ses_1", Custodian: "comdirect", Lane: "cli_1"}
	emit(t, b, want)
	got := s.until(t, 1)[0]
	if _, err := domain.ParseID[domain.EventID](string(got.ID)); err != nil {
		t.Errorf("its id is %q", got.ID)
	}
	if got.ID = ""; got.Attempt != 1 {
		t.Errorf("it is attempt %d, want 1", got.Attempt)
	}
	if got.Attempt = 0; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	s.still(t, 1)
	s.pass(time.Hour) // what was handled never comes again
	s.still(t, 1)
}

func liveAborted(t *testing.T, s *stand) {
	f := newFaults("before-commit")
	b := s.at(t, Opts{Fault: f.ask})
	running(t, b, s.seen.ok())
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
	s.pass(time.Hour)
	s.still(t, 0)
}

// liveAppliedYetFailed: the process dies between the commit and whatever follows it.
func liveAppliedYetFailed(t *testing.T, s *stand) {
	f := newFaults("after-commit")
	b := s.at(t, Opts{Fault: f.ask})
	running(t, b, s.seen.ok())
	f.arm()
	err := b.Commit(context.Background(), func(tx domain.Tx) error {
		return errors.Join(tx.Emit(domain.Event{Topic: topic, Subject: "a"}), tx.Record(entry("a")))
	})
	if !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	s.pass(time.Minute)
	s.until(t, 1)
	s.still(t, 1)
}

func liveNotBefore(t *testing.T, s *stand) {
	b := s.at(t, Opts{})
	running(t, b, s.seen.ok())
	due := domain.At(s.now().Add(30 * time.Minute))
	emit(t, b, domain.Event{Topic: topic, Subject: "late", NotBefore: due}, domain.Event{Topic: topic, Subject: "now"},
		domain.Event{Topic: topic, Subject: "past", NotBefore: domain.At(s.now().Add(-time.Hour))})
	s.until(t, 2)
	s.pass(29 * time.Minute)
	s.still(t, 2)
	s.pass(time.Minute)
	if late := s.until(t, 3)[2]; late.Subject != "late" || late.NotBefore != due || late.Attempt != 1 {
		t.Errorf("got %+v", late)
	}
}

func liveRetryAfter(t *testing.T, s *stand) {
	b := s.at(t, Opts{})
	running(t, b, s.seen.then(func(e domain.Event) error {
		if e.Attempt > 1 {
			return nil
		}
		return fmt.Errorf("asking the bank: %w", &domain.Error{Kind: domain.RateLimited, Code: "slow_down", RetryAfter: 17 * time.Minute})
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	s.until(t, 1)
	time.Sleep(quiet) // until the failure is noted
	s.pass(16 * time.Minute)
	s.still(t, 1)
	s.pass(2 * time.Minute)
	if events := s.until(t, 2); events[1].Attempt != 2 || events[1].ID != events[0].ID {
		t.Errorf("it came again as %+v", events[1])
	}
	s.pass(time.Hour)
	s.still(t, 2)
}

func liveDeadLetter(t *testing.T, s *stand) {
	ctx := context.Background()
	b := s.at(t, Opts{MaxAttempts: 3, Indexes: schemaIndexes(t)})
	var mended atomic.Bool
	running(t, b, s.seen.then(func(domain.Event) error {
		if mended.Load() {
			return nil
		}
		return fmt.Errorf("secret detail: %w", &domain.Error{Kind: domain.Unavailable, Code: "bank_down"})
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a", Custodian: "comdirect"})
	for n := range 3 {
		s.until(t, n+1)
		time.Sleep(quiet)
		s.pass(time.Hour)
	}
	s.still(t, 3)
	events, _ := s.seen.all()
	letters, err := b.DeadLetters(ctx, 10)
	if err != nil || len(letters) != 1 || letters[0].Event != events[2] || letters[0].Reason != "bank_down" {
		t.Fatalf("dead letters: %+v, %v", letters, err)
	}
	mended.Store(true)
	if err := b.Redrive(ctx, events[0].ID); err != nil {
		t.Fatal(err)
	}
	if again := s.until(t, 4)[3]; again != events[0] {
		t.Errorf("redriven: %+v, want %+v", again, events[0])
	}
	if letters, err = b.DeadLetters(ctx, 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters after that: %+v, %v", letters, err)
	}
	if err := b.Redrive(ctx, "x"); domain.KindOf(err) != domain.Invalid {
		t.Errorf("redriving what is no event: %v", err)
	}
	redrivenByOperator(t, b, events[0].ID)
}

func livePanic(t *testing.T, s *stand) {
	b := s.at(t, Opts{MaxAttempts: 1})
	running(t, b, s.seen.then(func(e domain.Event) error {
		if e.Subject == "bad" {
			panic("a secret")
		}
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "bad"}, domain.Event{Topic: topic, Subject: "good"})
	s.until(t, 2)
	time.Sleep(quiet)
	letters, err := b.DeadLetters(context.Background(), 0)
	if err != nil || len(letters) != 1 || letters[0].Event.Subject != "bad" || letters[0].Reason != "panic" {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}

// liveCrashBeforeSettle: the process dies after the handler's effect, before it could say so.
func liveCrashBeforeSettle(t *testing.T, s *stand) {
	f := newFaults("before-settle")
	b := s.at(t, Opts{Fault: f.ask})
	running(t, b, s.seen.ok())
	f.arm()
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	s.until(t, 1)
	s.pass(time.Minute)
	if events := s.until(t, 2); events[1].ID != events[0].ID {
		t.Errorf("got %+v", events)
	}
}

// liveNobodyThere: events wait while nobody runs, and are there for who comes later.
func liveNobodyThere(t *testing.T, s *stand) {
	place := t.TempDir()
	b := s.at(t, Opts{Place: place})
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	running(t, s.at(t, Opts{Place: place}), s.seen.ok())
	s.until(t, 1)
}

func liveStopLetsFinish(t *testing.T, s *stand) {
	b := s.at(t, Opts{})
	begun, finished := make(chan struct{}), atomic.Bool{}
	stop := running(t, b, s.seen.then(func(domain.Event) error {
		close(begun)
		time.Sleep(time.Second)
		finished.Store(true)
		return nil
	}))
	emit(t, b, domain.Event{Topic: topic, Subject: "a"})
	<-begun
	stop()
	if !finished.Load() {
		t.Error("the handler was left behind")
	}
}

// liveMany emits from two backends and handles in both: every event is handled.
func liveMany(t *testing.T, s *stand) {
	const n = 200
	place := t.TempDir()
	both := []Backend{s.at(t, Opts{Place: place}), s.at(t, Opts{Place: place})}
	for _, b := range both {
		running(t, b, s.seen.ok())
	}
	for i := range n / 4 {
		emit(t, both[i%2], domain.Event{Topic: topic, Subject: fmt.Sprint(4 * i)}, domain.Event{Topic: topic, Subject: fmt.Sprint(4*i + 1)},
			domain.Event{Topic: topic, Subject: fmt.Sprint(4*i + 2)}, domain.Event{Topic: topic, Subject: fmt.Sprint(4*i + 3)})
	}
	s.until(t, n)
	handled := map[string]bool{}
	events, _ := s.seen.all()
	for _, e := range events {
		handled[e.Subject] = true
	}
	if len(handled) != n {
		t.Errorf("%d of %d events were handled", len(handled), n)
	}
}
