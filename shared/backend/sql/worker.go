package sql

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"time"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Leases are short, as only a live worker renews them: what a killed process had claimed is due again within lease.
const (
	lease      = 5 * time.Second
	renewEvery = 1500 * time.Millisecond
	cleanEvery = 30 * time.Second // see Checkpoint
	lastWord   = time.Second      // for handlers to return once their context has ended

	defaultConcurrency = 8

	// A process that dies over an event may do so because of it, and a handler may ask to wait for ever. Such attempts
	// end too, but there are more of them: a machine that is switched off often must not lose events to the dead letters.
	crashAllowance = 10 // times MaxAttempts
)

var (
	errStopping  = errors.New("the worker stops")
	errLeaseLost = errors.New("the lease is lost")
	errPanic     = &domain.Error{Kind: domain.Internal, Code: "panic"}
	errAbandoned = &domain.Error{Kind: domain.Internal, Code: "abandoned"}
	errCrashes   = &domain.Error{Kind: domain.Internal, Code: "interrupted"}
)

// worker is one Run.
type worker struct {
	b        *Backend
	id       string
	claims   int
	handlers map[domain.Topic]domain.Handler
	free     map[domain.Topic]int // how many more may run; the loop's alone
	busy     map[lane]int         // how many run; the loop's alone
	done     chan lane            // a handler ended

	ctx    context.Context // of the handlers
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	inflight map[*delivery]struct{}
}

// lane is whom events of a topic are for: domain.Event.
type lane struct {
	topic domain.Topic
	name  string
}

// delivery is one claimed event.
type delivery struct {
	event    domain.Event
	failures int
	trace    string // W3C Trace Context of the act that emitted it
	owner    string // of this claim: no later claim has the same
	ctx      context.Context
	cancel   context.CancelCauseFunc
}

// Run implements domain.Queue. An event of a topic without a handler stays where it is. A handler that panics has
// failed. When ctx ends nothing more is claimed; handlers may go on for Options.Grace, then their contexts end too;
// what they then have not finished is due again at once, for whoever runs next. It returns nil, or backend.ErrClosed.
func (b *Backend) Run(ctx context.Context, handlers map[domain.Topic]domain.Handler) error {
	w := b.newWorker(ctx, handlers)
	wake, unsubscribe := b.subscribe()
	defer unsubscribe()
	defer w.cancel(errStopping)
	beating := make(chan struct{})
	stopBeating := make(chan struct{})
	go func() {
		defer close(beating)
		w.beat(stopBeating)
	}()
	w.loop(ctx, wake)
	w.stop()
	close(stopBeating)
	<-beating
	select {
	case <-b.closed:
		return backend.ErrClosed
	default:
		return nil
	}
}

func (b *Backend) newWorker(ctx context.Context, handlers map[domain.Topic]domain.Handler) *worker {
	w := &worker{b: b, id: hex.EncodeToString(b.env.Random(8)), handlers: handlers,
		free: map[domain.Topic]int{}, busy: map[lane]int{}, inflight: map[*delivery]struct{}{}}
	w.ctx, w.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	all := 0
	for topic := range handlers {
		n := b.opts.Concurrency[topic]
		if n <= 0 {
			n = defaultConcurrency
		}
		w.free[topic], all = n, all+n
	}
	w.done = make(chan lane, all)
	return w
}

// loop claims and starts what is due until ctx ends. It looks again when this process emitted, when a handler is
// free, when the next event it knows of is due, and, for other processes' events, every Options.Poll.
func (w *worker) loop(ctx context.Context, wake <-chan struct{}) {
	for {
		timer := time.NewTimer(w.claimAll(ctx))
		select {
		case <-wake:
		case l := <-w.done:
			w.free[l.topic]++
			if w.busy[l]--; w.busy[l] == 0 {
				delete(w.busy, l)
			}
		case <-timer.C:
		case <-w.b.closed:
			return
		case <-ctx.Done():
			return
		}
		timer.Stop()
	}
}

// claimAll starts what is due and may run, and says how long to wait before looking again.
func (w *worker) claimAll(ctx context.Context) time.Duration {
	poll := w.b.opts.Poll
	wait := poll - poll/10 + rand.N(poll/5+1)
	for topic := range w.handlers {
		for w.free[topic] > 0 && ctx.Err() == nil {
			turn, most, due, err := w.next(ctx, topic)
			if err == nil && due <= 0 {
				var n int
				if n, err = w.claim(ctx, turn, most); n > 0 && err == nil {
					continue
				}
				due = poll // another worker was quicker
			}
			if err != nil && ctx.Err() == nil {
				w.b.opts.Log.Warn("claiming events failed", "topic", topic, "error", err)
				due = time.Second
			}
			wait = min(wait, due)
			break
		}
	}
	return max(wait, time.Millisecond)
}

// next says in how long the topic's next event is due, whose turn it is among the lanes with a due event, and how many
// that lane may have: that of which the fewest run, and of several the one that has waited longest, has one; a lane
// that waits alone has all that may run. It takes no lock: looking costs other writers nothing.
func (w *worker) next(ctx context.Context, topic domain.Topic) (turn lane, most int, in time.Duration, err error) {
	first, waits := int64(math.MaxInt64), int64(0)
	most = w.free[topic]
	err = w.b.reading(ctx, func(s *statements) error {
		now, found := w.b.env.Now().UnixMilli(), false
		return s.rows(ctx, nextDue, []any{string(topic)}, func(scan func(...any) error) (bool, error) {
			var due int64
			l := lane{topic: topic}
			if err := scan(&l.name, &due); err != nil {
				return false, err
			}
			first = min(first, due)
			if due > now {
				return true, nil
			}
			if found {
				most = 1
			}
			if !found || w.busy[l] < w.busy[turn] || w.busy[l] == w.busy[turn] && due < waits {
				turn, waits = l, due
			}
			found = true
			return true, nil
		})
	})
	in = time.Duration(min(first-w.b.env.Now().UnixMilli(), time.Hour.Milliseconds())) * time.Millisecond
	return turn, most, in, err
}

// claim leases up to most due events of a lane, starts them and says how many.
func (w *worker) claim(ctx context.Context, l lane, most int) (int, error) {
	w.claims++
	owner := w.id + "-" + strconv.Itoa(w.claims)
	query := fmt.Sprintf(claimEvents, w.b.dialect.lockRows)
	var claimed []*delivery
	err := w.relaxed(ctx, func(s *statements) error {
		claimed = nil
		now := w.b.env.Now()
		args := []any{owner, now.Add(lease).UnixMilli(), string(l.topic), l.name, now.UnixMilli(), most}
		return s.rows(context.WithoutCancel(ctx), query, args, func(scan func(...any) error) (bool, error) {
			d := &delivery{owner: owner}
			err := event(scan, &d.event, &d.failures, &d.trace)
			claimed = append(claimed, d)
			return true, err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("claiming: %w", err)
	}
	for _, d := range claimed {
		w.free[l.topic]--
		w.busy[l]++
		w.start(d)
	}
	return len(claimed), nil
}

// relaxed runs one statement that may be lost in a power failure.
func (w *worker) relaxed(ctx context.Context, do func(*statements) error) error {
	return w.b.write(ctx, func(wr *writer) (bool, error) {
		err := do(wr.relaxed)
		return w.b.dialect.contended(err), err
	})
}

func (w *worker) start(d *delivery) {
	d.ctx, d.cancel = context.WithCancelCause(w.ctx)
	w.mu.Lock()
	w.inflight[d] = struct{}{}
	w.mu.Unlock()
	go func() {
		defer func() { w.done <- lane{d.event.Topic, d.event.Lane} }()
		w.handle(d)
	}()
}

// handle runs the handler and settles its event, also if the handler panics or ends its goroutine.
func (w *worker) handle(d *delivery) {
	var err error = errAbandoned
	defer func() {
		if recover() != nil { // what was thrown may hold anything: it is not logged
			err = errPanic
			w.note(slog.LevelError, "a handler panicked", d, slog.Any("at", panicked()))
		}
		w.settle(d, err)
		w.mu.Lock()
		delete(w.inflight, d)
		w.mu.Unlock()
		d.cancel(nil)
	}()
	if d.event.Attempt > crashAllowance*w.b.opts.MaxAttempts {
		err = errCrashes
		return
	}
	ctx, span := observe.Begin(observe.In(d.ctx, d.trace), observe.Consumed, "handle "+string(d.event.Topic),
		observe.Topic(d.event.Topic), observe.Custodian(d.event.Custodian))
	defer func() { span.End(err) }()
	err = w.handlers[d.event.Topic](ctx, d.event)
}

// panicked lists the functions that led to a panic, from within the deferred function that recovered it.
func panicked() []string {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var at []string
	for {
		f, more := frames.Next()
		at = append(at, f.Function+":"+strconv.Itoa(f.Line))
		if !more {
			return at
		}
	}
}

// settle ends a delivery: done, again later, dead, or given back because we stop. If it fails the lease runs out and
// the event comes again.
func (w *worker) settle(d *delivery, err error) {
	if w.b.opts.Fault("before-settle") != nil || errors.Is(context.Cause(d.ctx), errLeaseLost) {
		return
	}
	now := w.b.env.Now()
	id, failures := string(d.event.ID), d.failures
	if !backend.Waits(err) {
		failures++
	}
	query, args := ackEvent, []any{id, d.owner}
	switch {
	case err == nil:
	case errors.Is(context.Cause(d.ctx), errStopping):
		query, args = freeEvent, []any{now.UnixMilli(), id, d.owner}
	case failures >= w.b.opts.MaxAttempts || errors.Is(err, errCrashes):
		w.note(slog.LevelError, "an event became a dead letter", d, slog.String("code", domain.CodeOf(err)))
		query, args = buryEvent, []any{now.UnixMilli(), domain.CodeOf(err), id, d.owner}
	default:
		w.note(slog.LevelInfo, "an event failed and will come again", d, slog.String("code", domain.CodeOf(err)))
		query, args = retryEvent, []any{now.Add(backend.Delay(failures, err)).UnixMilli(), failures, domain.CodeOf(err), id, d.owner}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), lease)
	defer cancel()
	if err := w.relaxed(ctx, func(s *statements) error {
		_, err := s.exec(context.WithoutCancel(ctx), query, args...)
		return err
	}); err != nil {
		w.note(slog.LevelWarn, "settling an event failed; it will come again", d, slog.Any("error", err))
	} else if query == buryEvent {
		observe.DeadLetter(d.ctx, d.event.Topic)
	}
}

// beat renews the leases of what is being handled, and cleans up behind what was deleted or replaced.
func (w *worker) beat(stop <-chan struct{}) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	cleaned := w.b.env.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		w.renew()
		if now := w.b.env.Now(); now.Sub(cleaned) >= cleanEvery && w.b.stale.Load() {
			ctx, cancel := context.WithTimeout(w.ctx, renewEvery)
			if w.b.Checkpoint(ctx) == nil { // otherwise a reader was in the way: the next beat tries again
				cleaned = now
			}
			cancel()
		}
	}
}

// renew extends every lease. A handler whose event was given to another worker meanwhile (the machine slept, the disk
// stood still) is told to stop.
func (w *worker) renew() {
	w.mu.Lock()
	running := make([]*delivery, 0, len(w.inflight))
	for d := range w.inflight {
		running = append(running, d)
	}
	w.mu.Unlock()
	if len(running) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), lease-renewEvery)
	defer cancel()
	until := w.b.env.Now().Add(lease).UnixMilli()
	for _, d := range running {
		var n int64
		err := w.relaxed(ctx, func(s *statements) (err error) {
			n, err = s.exec(context.WithoutCancel(ctx), renewLease, until, string(d.event.ID), d.owner)
			return err
		})
		if err != nil {
			w.note(slog.LevelWarn, "renewing a lease failed", d, slog.Any("error", err))
			return
		}
		if n == 0 && w.running(d) {
			d.cancel(errLeaseLost)
		}
	}
}

func (w *worker) running(d *delivery) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.inflight[d]
	return ok
}

// stop lets handlers finish for Options.Grace, then ends their contexts, and gives back what is still not finished.
func (w *worker) stop() {
	if w.idle(w.b.opts.Grace) {
		return
	}
	w.cancel(errStopping)
	if w.idle(lastWord) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for d := range w.inflight {
		w.note(slog.LevelWarn, "a handler does not end; its event is given back", d)
		ctx, cancel := context.WithTimeout(context.Background(), lastWord)
		if err := w.relaxed(ctx, func(s *statements) error {
			_, err := s.exec(context.WithoutCancel(ctx), freeEvent, w.b.env.Now().UnixMilli(), string(d.event.ID), d.owner)
			return err
		}); err != nil {
			w.note(slog.LevelWarn, "giving an event back failed; its lease will run out", d, slog.Any("error", err))
		}
		cancel()
	}
}

// idle waits until no handler runs, up to limit, and says whether that is so.
func (w *worker) idle(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		w.mu.Lock()
		n := len(w.inflight)
		w.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-w.done:
		case <-timer.C:
			return false
		}
	}
}

// note logs what happened to an event. Of a handler's error only the code is logged: its text may hold anything.
func (w *worker) note(level slog.Level, message string, d *delivery, more ...slog.Attr) {
	attrs := append([]slog.Attr{slog.String("topic", string(d.event.Topic)), slog.String("event", string(d.event.ID)),
		slog.Int("attempt", d.event.Attempt)}, more...)
	w.b.opts.Log.LogAttrs(context.Background(), level, message, attrs...)
}
