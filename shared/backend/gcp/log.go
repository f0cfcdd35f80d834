package gcp

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"sluis.internal/shared/observe"
)

// NewLogger writes what is logged as one JSON object a line, in the form that Cloud Logging reads from a function's output: its
// own names for level and message, and the trace that a line belongs to, so that the lines of all functions that had
// to do with one act stand together. https://docs.cloud.google.com/logging/docs/structured-logging
func NewLogger(w io.Writer, project string, level slog.Leveler) *slog.Logger {
	plain := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.LevelKey:
			return slog.String("severity", severity(a.Value))
		case a.Key == slog.MessageKey:
			a.Key = "message"
		}
		return a
	}})
	return slog.New(observe.Requests(traced{plain, plain, nil, "projects/" + project + "/traces/"}))
}

// severity is Cloud Logging's word for a level.
func severity(v slog.Value) string {
	level, _ := v.Any().(slog.Level)
	switch {
	case level >= slog.LevelError:
		return "ERROR"
	case level >= slog.LevelWarn:
		return "WARNING"
	case level >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}

// traced adds the trace that the context belongs to, at the top of the line, whatever groups the logger is in.
type traced struct {
	slog.Handler                                   // with everything that the logger was given
	top          slog.Handler                      // with nothing of it
	given        []func(slog.Handler) slog.Handler // what it was given
	traces       string
}

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	trace, span, sampled, ok := observe.Trace(ctx)
	if !ok {
		return h.Handler.Handle(ctx, r)
	}
	line := h.top.WithAttrs([]slog.Attr{slog.String("logging.googleapis.com/trace", h.traces+trace),
		slog.String("logging.googleapis.com/spanId", span), slog.Bool("logging.googleapis.com/trace_sampled", sampled)})
	for _, give := range h.given {
		line = give(line)
	}
	return line.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h traced) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h traced) with(give func(slog.Handler) slog.Handler) slog.Handler {
	return traced{give(h.Handler), h.top, append(slices.Clip(h.given), give), h.traces}
}
