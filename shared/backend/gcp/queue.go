package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/pubsub/v2"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

const (
	outbox = "outbox"

	// straggling is how long after it was published an event that is still in the outbox counts as lost. A handler
	// that takes longer says so every renewEvery.
	straggling = 30 * time.Second
	renewEvery = 10 * time.Second

	publishTime    = 5 * time.Second
	settleTime     = 10 * time.Second
	crashAllowance = 10 // times MaxAttempts: an event whose handlers always die ends too
	pumpPage       = 200
	pumpEvery      = time.Second
)

var (
	errPanic     = &domain.Error{Kind: domain.Internal, Code: "panic"}
	errAbandoned = &domain.Error{Kind: domain.Internal, Code: "abandoned"}
	errCrashes   = &domain.Error{Kind: domain.Internal, Code: "interrupted"}
	errStopping  = errors.New("the worker stops")
)

// post is an event in the outbox. Due is when it is to be published, or published again; a dead letter has none, so
// that it is in no query for what is due.
type post struct {
	Topic     string    `firestore:"topic"`
	Subject   string    `firestore:"subject"`
	Custodian string    `firestore:"custodian,omitempty"`
	Lane      string    `firestore:"lane,omitempty"` // carried along: functions come in as many instances as there is work
	NotBefore string    `firestore:"not_before,omitempty"`
	Created   time.Time `firestore:"created"`
	Due       time.Time `firestore:"due,omitempty"`
	Attempt   int       `firestore:"attempt"`  // how often it was published
	Failures  int       `firestore:"failures"` // reported by handlers
	Reason    string    `firestore:"reason,omitempty"`
	Dead      time.Time `firestore:"dead,omitempty"`
	Trace     string    `firestore:"trace,omitempty"` // W3C Trace Context's traceparent of the act that emitted it
}

// letter is an event on its way, with the trace of the act that emitted it.
type letter struct {
	domain.Event
	trace string
}

func posted(e letter, now, due domain.Time) post {
	return post{Topic: string(e.Topic), Subject: e.Subject, Custodian: string(e.Custodian), Lane: e.Lane, NotBefore: e.NotBefore.String(),
		Created: now.Time, Due: due.Time, Attempt: e.Attempt, Trace: e.trace}
}

func (p post) event(id string) (letter, error) {
	e := letter{domain.Event{ID: domain.EventID(id), Topic: domain.Topic(p.Topic), Subject: p.Subject,
		Custodian: domain.CustodianID(p.Custodian), Lane: p.Lane, Attempt: p.Attempt}, p.Trace}
	return e, e.NotBefore.UnmarshalText([]byte(p.NotBefore))
}

// publish rings for events. A failure is no loss: they stay in the outbox.
func (b *Backend) publish(ctx context.Context, events []letter) {
	if len(events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTime)
	defer cancel()
	results := make([]*pubsub.PublishResult, len(events))
	for i, e := range events {
		body, err := json.Marshal(e.Event)
		if err != nil {
			panic("an event is JSON: " + err.Error())
		}
		attributes := map[string]string{"event": string(e.ID)}
		if e.Custodian != "" {
			attributes["custodian"] = string(e.Custodian)
		}
		if e.trace != "" {
			attributes["traceparent"] = e.trace
		}
		results[i] = b.publisher(e.Topic).Publish(ctx, &pubsub.Message{Data: body, Attributes: attributes})
	}
	for i, r := range results {
		if _, err := r.Get(ctx); err != nil {
			b.note(ctx, slog.LevelWarn, "publishing an event failed; it will be published again", events[i].Event, slog.Any("error", err))
		}
	}
}

func (b *Backend) publisher(topic domain.Topic) *pubsub.Publisher {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.publishers[topic]
	if p == nil {
		p = b.bus.Publisher(string(topic))
		p.PublishSettings.DelayThreshold = time.Millisecond
		b.publishers[topic] = p
	}
	return p
}

// Deliver has an event, as it was published, handled, and notes the result in the outbox. It returns an error only if
// the result could not be noted: then Pub/Sub should bring the event again.
func (b *Backend) Deliver(ctx context.Context, e domain.Event, handle domain.Handler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, span := observe.Begin(ctx, observe.Consumed, "handle "+string(e.Topic), observe.Topic(e.Topic), observe.Custodian(e.Custodian))
	stop := b.renewing(ctx, e)
	err := b.handle(ctx, e, handle)
	stop()
	span.End(err)
	if b.opts.Fault("before-settle") != nil {
		return errAbandoned
	}
	return b.settle(ctx, e, err)
}

// handle runs the handler; one that panics or ends its goroutine has failed.
func (b *Backend) handle(ctx context.Context, e domain.Event, handle domain.Handler) error {
	if e.Attempt > crashAllowance*b.opts.MaxAttempts {
		return errCrashes
	}
	result := make(chan error, 1)
	go func() {
		var err error = errAbandoned
		defer func() {
			if recover() != nil { // what was thrown may hold anything: it is not logged
				err = errPanic
				b.note(ctx, slog.LevelError, "a handler panicked", e)
			}
			result <- err
		}()
		err = handle(ctx, e)
	}()
	return <-result
}

// renewing tells the outbox now and then that the event is being handled, until the function it returns is called.
func (b *Backend) renewing(ctx context.Context, e domain.Event) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := b.outbox(e).Update(ctx, []firestore.Update{{Path: "due", Value: b.env.Now().Add(straggling).Time}})
			if err != nil && ctx.Err() == nil {
				b.note(ctx, slog.LevelInfo, "renewing an event failed", e, slog.Any("error", err))
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (b *Backend) outbox(e domain.Event) *firestore.DocumentRef {
	return b.store.Collection(outbox).Doc(string(e.ID))
}

// settle ends a delivery: done, again later, dead, or given back because we stop.
func (b *Backend) settle(ctx context.Context, e domain.Event, err error) error {
	stopping := errors.Is(context.Cause(ctx), errStopping)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err == nil {
		if _, err := b.outbox(e).Delete(ctx); err != nil {
			return fault(ctx, "settling", err)
		}
		return nil
	}
	var buried bool
	settled := b.store.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		var p post
		buried = false
		snap, getErr := tx.Get(b.outbox(e))
		if status.Code(getErr) == codes.NotFound {
			return nil // handled elsewhere meanwhile
		}
		if getErr != nil {
			return getErr
		}
		if err := snap.DataTo(&p); err != nil {
			return err
		}
		b.retry(ctx, &p, e, err, stopping)
		buried = !p.Dead.IsZero()
		return tx.Set(snap.Ref, p)
	})
	if settled == nil && buried {
		observe.DeadLetter(ctx, e.Topic)
	}
	return fault(ctx, "settling", settled)
}

// retry notes a failure.
func (b *Backend) retry(ctx context.Context, p *post, e domain.Event, err error, stopping bool) {
	now := b.env.Now()
	if stopping {
		p.Due = now.Time
		return
	}
	if !backend.Waits(err) {
		p.Failures++
	}
	p.Reason = domain.CodeOf(err)
	if p.Failures >= b.opts.MaxAttempts || errors.Is(err, errCrashes) {
		b.note(ctx, slog.LevelError, "an event became a dead letter", e, slog.String("code", p.Reason))
		p.Dead, p.Due = now.Time, time.Time{}
		return
	}
	b.note(ctx, slog.LevelInfo, "an event failed and will come again", e, slog.String("code", p.Reason))
	p.Due = now.Add(backend.Delay(p.Failures, err)).Time
}

// Pump publishes what is due until ctx ends: delayed events, failed ones, and those whose publication was lost. One
// pump is enough, and several do no harm.
func (b *Backend) Pump(ctx context.Context) error {
	for {
		more, err := b.pump(ctx)
		if err != nil && ctx.Err() == nil {
			b.opts.Log.Warn("publishing what is due failed", "error", err)
		}
		wait := pumpEvery
		if more {
			wait = 0
		}
		select {
		case <-b.closed:
			return backend.ErrClosed
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// pump publishes one page, and says whether more may be due.
func (b *Backend) pump(ctx context.Context) (bool, error) {
	now := b.env.Now()
	docs := b.store.Collection(outbox).Where("due", "<=", now.Time).OrderBy("due", firestore.Asc).Limit(pumpPage).Documents(ctx)
	snaps, err := docs.GetAll()
	if err != nil {
		return false, fault(ctx, "looking for due events", err)
	}
	var events []letter
	for _, snap := range snaps {
		e, err := b.take(ctx, snap, now)
		if err != nil {
			return false, err
		}
		if e != nil {
			events = append(events, *e)
		}
	}
	b.publish(ctx, events)
	return len(snaps) == pumpPage, nil
}

// take claims a due event for publication; nil if somebody else was quicker.
func (b *Backend) take(ctx context.Context, snap *firestore.DocumentSnapshot, now domain.Time) (*letter, error) {
	var p post
	if err := snap.DataTo(&p); err != nil {
		return nil, err
	}
	e, err := p.event(snap.Ref.ID)
	if err != nil {
		return nil, err
	}
	e.Attempt++
	_, err = snap.Ref.Update(ctx, []firestore.Update{{Path: "due", Value: now.Add(straggling).Time}, {Path: "attempt", Value: e.Attempt}},
		firestore.LastUpdateTime(snap.UpdateTime))
	switch status.Code(err) {
	case codes.OK:
		return &e, nil
	case codes.FailedPrecondition, codes.NotFound:
		return nil, nil
	}
	return nil, fault(ctx, "taking a due event", err)
}

// Run implements domain.Queue: it pulls from the subscription of each topic, which has the topic's name, and pumps.
// In the cloud the functions are pushed to instead, and sweep pumps.
func (b *Backend) Run(ctx context.Context, handlers map[domain.Topic]domain.Handler) error {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	run := func(do func() error) {
		group.Go(func() {
			if err := do(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	run(func() error { return b.Pump(ctx) })
	for topic, handle := range handlers {
		run(func() error { return b.receive(ctx, work, topic, handle) })
	}
	<-ctx.Done()
	timer := time.AfterFunc(b.opts.Grace, func() { stop(errStopping) })
	defer timer.Stop()
	group.Wait()
	return errors.Join(errs...)
}

// receive pulls one topic's events until ctx ends; handlers work with the context work.
func (b *Backend) receive(ctx, work context.Context, topic domain.Topic, handle domain.Handler) error {
	s := b.bus.Subscriber(string(topic))
	s.ReceiveSettings.NumGoroutines = 1
	s.ReceiveSettings.MaxOutstandingMessages = 8
	if n := b.opts.Concurrency[topic]; n > 0 {
		s.ReceiveSettings.MaxOutstandingMessages = n
	}
	err := s.Receive(ctx, func(_ context.Context, m *pubsub.Message) {
		var e domain.Event
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Topic != topic {
			b.opts.Log.Error("a message on the topic is no event", "topic", topic)
			m.Ack()
			return
		}
		if err := b.Deliver(observe.In(work, m.Attributes["traceparent"]), e, handle); err != nil {
			m.Nack()
			return
		}
		m.Ack()
	})
	if err != nil {
		return fmt.Errorf("receiving from %s: %w", topic, err)
	}
	return nil
}

// DeadLetters implements domain.Queue: up to limit of them, 1 to 1000; 0 means 100.
func (b *Backend) DeadLetters(ctx context.Context, limit int) ([]domain.DeadLetter, error) {
	if limit < 0 || limit > 1000 {
		return nil, domain.Invalidf("limit", "want 1 to 1000")
	}
	if limit == 0 {
		limit = 100
	}
	docs := b.store.Collection(outbox).OrderBy("dead", firestore.Desc).OrderBy(firestore.DocumentID, firestore.Desc).Limit(limit).Documents(ctx)
	defer docs.Stop()
	var letters []domain.DeadLetter
	for {
		snap, err := docs.Next()
		if errors.Is(err, iterator.Done) {
			return letters, nil
		}
		if err != nil {
			return nil, fault(ctx, "listing dead letters", err)
		}
		var p post
		if err := snap.DataTo(&p); err != nil {
			return nil, fmt.Errorf("listing dead letters: %w", err)
		}
		e, err := p.event(snap.Ref.ID)
		if err != nil {
			return nil, fmt.Errorf("listing dead letters: %w", err)
		}
		letters = append(letters, domain.DeadLetter{Event: e.Event, Reason: p.Reason, At: domain.At(p.Dead)})
	}
}

// Redrive implements domain.Queue, and records that an operator did it. The event has all its attempts again.
func (b *Backend) Redrive(ctx context.Context, id domain.EventID) error {
	if _, err := domain.ParseID[domain.EventID](string(id)); err != nil {
		return err
	}
	return b.Commit(ctx, func(tx domain.Tx) error {
		t := tx.(*transaction)
		var p post
		snap, err := t.ft.Get(b.store.Collection(outbox).Doc(string(id)))
		if err != nil {
			return fault(ctx, "redriving", err)
		}
		if err := snap.DataTo(&p); err != nil {
			return err
		}
		if p.Dead.IsZero() {
			return domain.ErrNotFound
		}
		p.Dead, p.Due, p.Attempt, p.Failures, p.Reason = time.Time{}, b.env.Now().Add(straggling).Time, 1, 0, ""
		e, err := p.event(string(id))
		if err != nil {
			return err
		}
		t.wrote, t.events = true, append(t.events, e)
		operator := domain.Actor{Kind: domain.ActorOperator, ID: "operator"}
		return errors.Join(t.ft.Set(snap.Ref, p), tx.Record(domain.Note(b.env, "sluis", "event.redriven", operator, "", string(id), nil)))
	})
}

// note logs what happened to an event.
func (b *Backend) note(ctx context.Context, level slog.Level, message string, e domain.Event, more ...slog.Attr) {
	attrs := append([]slog.Attr{slog.String("topic", string(e.Topic)), slog.String("event", string(e.ID)),
		slog.Int("attempt", e.Attempt)}, more...)
	b.opts.Log.LogAttrs(ctx, level, message, attrs...)
}
