// Package observe tells operators how the pipeline goes: spans of what was done for one act, across functions, and counts
// of what came of all of them. It is the one place that knows OpenTelemetry, and nobody's acts depend on it: what cannot
// be exported is dropped.
//
// Nothing of a person and no secret may stand in it, nor what a bank or a client wrote. So a caller names a value only
// for one of the labels below, and what is not of a label's closed set becomes "other"; addresses are told as the
// templates that we declared.
//
// What happened is counted from the audit entries of a transaction that has committed ([Committed]): an act that was tried
// again because others came in its way counts once, and one that was rolled back not at all.
package observe

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"sluis.internal/shared/domain"
)

const scope = "sluis.internal"

// instruments are what an open Exporter takes in.
type instruments struct {
	tracer  trace.Tracer
	methods map[domain.CustodianID]map[string]string // SCA methods of the catalogue: from the bank's own name to its kind

	refreshes, sca, denials, dead, kms metric.Int64Counter
	latency, age                       metric.Float64Histogram
}

// live is nil while nothing is exported. OpenTelemetry's own global providers stay empty: the libraries that look for
// them would tell of requests in words that are not ours.
var live atomic.Pointer[instruments]

// seconds are the histograms' bounds: from what a healthy endpoint takes to the five days after which one is given up.
var seconds = metric.WithExplicitBucketBoundaries(.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4*3600, 12*3600, 86400, 2*86400, 5*86400)

func newInstruments(tracer trace.Tracer, m metric.Meter, custodians []domain.Custodian) (*instruments, error) {
	i := &instruments{tracer: tracer, methods: map[domain.CustodianID]map[string]string{}}
	for _, c := range custodians {
		i.methods[c.ID] = map[string]string{}
		for _, method := range c.Methods {
			i.methods[c.ID][method.ID] = method.Kind
		}
	}
	for _, c := range []struct {
		into       *metric.Int64Counter
		name, what string
	}{
		{&i.refreshes, "sluis.refreshes", "sessions at a custodian that ended"},
		{&i.sca, "sluis.sca", "answers of a custodian to strong customer authentication, and questions that nobody answered"},
		{&i.denials, "sluis.consent.denials", "acts that a consent did not allow"},
		{&i.dead, "sluis.dead_letters", "events that were given up"},
		{&i.kms, "sluis.kms.calls", "calls of Cloud KMS, repetitions included in one"},
	} {
		var err error
		if *c.into, err = m.Int64Counter(c.name, metric.WithDescription(c.what)); err != nil {
			return nil, err
		}
	}
	var err error
	if i.latency, err = m.Float64Histogram("sluis.delivery.latency", metric.WithUnit("s"), seconds,
		metric.WithDescription("from a notice to its accepted delivery")); err != nil {
		return nil, err
	}
	i.age, err = m.Float64Histogram("sluis.delivery.age", metric.WithUnit("s"), seconds,
		metric.WithDescription("of a delivery at each attempt"))
	return i, err
}

// Kind is which side of an act a span tells of.
type Kind = trace.SpanKind

// Kinds of spans.
const (
	Inside   = trace.SpanKindInternal
	Served   = trace.SpanKindServer
	Asked    = trace.SpanKindClient
	Consumed = trace.SpanKindConsumer
)

// Span is one piece of an act. A nil Span is one that nobody wants to know of.
type Span struct{ span trace.Span }

// Begin begins a span, and returns the context of what belongs to it. name is ours: a constant, or a declared template.
func Begin(ctx context.Context, kind Kind, name string, labels ...Label) (context.Context, *Span) {
	return begin(ctx, kind, name, labels, nil)
}

func begin(ctx context.Context, kind Kind, name string, labels []Label, links []trace.Link) (context.Context, *Span) {
	i := live.Load()
	if i == nil {
		return ctx, nil
	}
	_, span := i.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes(i, labels)...), trace.WithLinks(links...))
	return trace.ContextWithSpan(ctx, closedSpan{span}), &Span{span}
}

// Root begins a span that is the first of its own trace: of an act that is not a part of what has it done.
func Root(ctx context.Context, name string, labels ...Label) (context.Context, *Span) {
	return Begin(trace.ContextWithSpanContext(ctx, trace.SpanContext{}), Inside, name, labels...)
}

// Answering begins the span of a request. Where ctx belongs to a trace of ours, it goes on with that. A traceparent that
// came with the request anybody may have written: it begins a trace of ours, which links to theirs. Who calls decides
// neither what we keep nor which of our acts look like one.
func Answering(ctx context.Context, name, traceparent string) (context.Context, *Span) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		return Begin(ctx, Served, name)
	}
	var links []trace.Link
	if theirs := trace.SpanContextFromContext(In(ctx, traceparent)); theirs.IsValid() {
		links = []trace.Link{{SpanContext: theirs}}
	}
	return begin(ctx, Served, name, nil, links)
}

// Within is Begin for what is done so often, or for nobody, that it is told of only as a part of an act.
func Within(ctx context.Context, kind Kind, name string, labels ...Label) (context.Context, *Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil
	}
	return Begin(ctx, kind, name, labels...)
}

// closedSpan is a span by which libraries that find it in a context cannot tell of more: of whole addresses, for example.
type closedSpan struct{ trace.Span }

// TracerProvider implements trace.Span.
func (closedSpan) TracerProvider() trace.TracerProvider { return noop.NewTracerProvider() }

// SetAttributes implements trace.Span.
func (closedSpan) SetAttributes(...attribute.KeyValue) {}

// AddEvent implements trace.Span.
func (closedSpan) AddEvent(string, ...trace.EventOption) {}

// AddLink implements trace.Span.
func (closedSpan) AddLink(trace.Link) {}

// RecordError implements trace.Span.
func (closedSpan) RecordError(error, ...trace.EventOption) {}

// SetStatus implements trace.Span.
func (closedSpan) SetStatus(codes.Code, string) {}

// SetName implements trace.Span.
func (closedSpan) SetName(string) {}

// Name gives the span a better name, where it is only known later.
func (s *Span) Name(name string) {
	if s != nil {
		s.span.SetName(name)
	}
}

// Status notes an answer's HTTP status; from 500 on, or with none, it is a failure.
func (s *Span) Status(status int) {
	if s == nil {
		return
	}
	if status > 0 {
		s.span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	if status <= 0 || status >= 500 {
		s.span.SetStatus(codes.Error, "")
	}
}

// End ends the span. Of an error nothing but its code is kept.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.span.SetAttributes(attribute.String("code", shape(domain.CodeOf(err))))
		if domain.KindOf(err) == domain.Internal || domain.KindOf(err) == domain.Unavailable {
			s.span.SetStatus(codes.Error, "")
		}
	}
	s.span.End()
}

// Committed counts what the entries of a transaction tell of, once it has committed.
func Committed(ctx context.Context, entries []*domain.Entry) {
	i := live.Load()
	if i == nil {
		return
	}
	for _, e := range entries {
		i.entry(ctx, e)
	}
}

// DeadLetter counts an event that was given up.
func DeadLetter(ctx context.Context, t domain.Topic) {
	if i := live.Load(); i != nil {
		i.dead.Add(ctx, 1, metric.WithAttributes(attributes(i, []Label{Topic(t)})...))
	}
}

// Tried notes how old a delivery was when it was tried.
func Tried(ctx context.Context, age time.Duration) {
	if i := live.Load(); i != nil {
		i.age.Record(ctx, age.Seconds())
	}
}

// Delivered notes how long it took from a notice to its accepted delivery.
func Delivered(ctx context.Context, latency time.Duration) {
	if i := live.Load(); i != nil {
		i.latency.Record(ctx, latency.Seconds())
	}
}

// AskedKMS counts a call of Cloud KMS: the key of pipeline.json, the method and the gRPC status.
func AskedKMS(ctx context.Context, key, method, status string) {
	if i := live.Load(); i != nil {
		i.kms.Add(ctx, 1, metric.WithAttributes(attributes(i, []Label{Key(key), KMSMethod(method), Code(status)})...))
	}
}

var w3c propagation.TraceContext

// Traceparent is the trace of ctx as W3C Trace Context writes it; empty where there is none.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// In puts ctx into the trace that a traceparent names. Only what our own functions and our queue say may be taken so; for
// what others send there is Answering.
func In(ctx context.Context, traceparent string) context.Context {
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// Trace names the trace and the span that ctx belongs to, and says whether it is recorded; ok is false where there is none.
func Trace(ctx context.Context) (traceID, spanID string, sampled, ok bool) {
	s := trace.SpanContextFromContext(ctx)
	return s.TraceID().String(), s.SpanID().String(), s.IsSampled(), s.IsValid()
}
