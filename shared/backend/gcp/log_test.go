package gcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
)

// in puts a context into a trace.
func in(ctx context.Context, id trace.TraceID) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{9}, TraceFlags: trace.FlagsSampled}))
}

// TestLogger: a line is what Cloud Logging reads, with its trace where there is one.
func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := gcp.NewLogger(&out, "p", slog.LevelDebug).With("function", "seal").WithGroup("g")
	traced := in(t.Context(), trace.TraceID{1})
	for _, c := range []struct {
		ctx      context.Context
		level    slog.Level
		severity string
		trace    any
	}{
		{t.Context(), slog.LevelDebug, "DEBUG", nil},
		{traced, slog.LevelInfo, "INFO", "projects/p/traces/01000000000000000000000000000000"},
		{t.Context(), slog.LevelWarn, "WARNING", nil},
		{traced, slog.LevelError, "ERROR", "projects/p/traces/01000000000000000000000000000000"},
	} {
		out.Reset()
		log.Log(c.ctx, c.level, "said", "msg", "of a group")
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		group, _ := line["g"].(map[string]any)
		if line["severity"] != c.severity || line["message"] != "said" || line["function"] != "seal" || group["msg"] != "of a group" {
			t.Errorf("%s", out.String())
		}
		if _, err := time.Parse(time.RFC3339, line["time"].(string)); err != nil {
			t.Error(err)
		}
		if line["logging.googleapis.com/trace"] != c.trace {
			t.Errorf("want the trace %v: %s", c.trace, out.String())
		}
	}
}

// TestTrace: whoever handles an event stands in the trace of the act that emitted it, also when the event comes again.
func TestTrace(t *testing.T) {
	gcptest.Emulators(t)
	gcptest.Topics(t, "p-trace", "contract")
	b, err := gcp.New(t.Context(), gcp.Options{Project: "p-trace"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Commit(in(t.Context(), trace.TraceID{7}), func(tx domain.Tx) error {
		return errors.Join(tx.Emit(domain.Event{Topic: "contract", Subject: "a"}),
			tx.Record(domain.Note(domain.Env{}, "test", "a.done", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "a", nil)))
	}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	came := make(chan trace.TraceID, 2)
	handle := func(ctx context.Context, e domain.Event) error {
		came <- trace.SpanContextFromContext(ctx).TraceID()
		if len(came) < 2 {
			return &domain.Error{Kind: domain.Unavailable, Code: "once_more", RetryAfter: time.Millisecond}
		}
		stop()
		return nil
	}
	if err := b.Run(ctx, map[domain.Topic]domain.Handler{"contract": handle}); err != nil {
		t.Error(err)
	}
	for range 2 {
		select {
		case id := <-came:
			if id != (trace.TraceID{7}) {
				t.Errorf("handled in the trace %s", id)
			}
		default:
			t.Fatal("it did not come twice")
		}
	}
}

// TestLogLevel: a level that is none is refused at the start, by its name.
func TestLogLevel(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	t.Setenv("SLUIS_LOG_LEVEL", "loud")
	if _, err := gcp.At(schemas.FS)(t.Context()); err == nil || !strings.Contains(err.Error(), `in SLUIS_LOG_LEVEL, not "loud"`) {
		t.Errorf("it came to %v", err)
	}
	for text, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "ERROR": slog.LevelError} {
		t.Setenv("SLUIS_LOG_LEVEL", text)
		gcp.At(schemas.FS)(t.Context()) // which fails further on: there is no project
		if log := slog.Default(); !log.Enabled(t.Context(), want) || log.Enabled(t.Context(), want-1) {
			t.Errorf("%q does not log from %v on", text, want)
		}
	}
}
