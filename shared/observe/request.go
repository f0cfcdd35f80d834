package observe

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"

	"sluis.internal/shared/domain"
)

// requestKey and callerKey are where a context keeps the names of the request that it belongs to.
type (
	requestKey struct{}
	callerKey  struct{}
)

// WithRequest is ctx as a part of a request.
func WithRequest(ctx context.Context, id domain.RequestID) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// WithCaller is ctx as a part of a request that its caller has a name for, of a shape that may be repeated.
func WithCaller(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, callerKey{}, name)
}

// Request is the request that ctx is a part of; "" if it is of none.
func Request(ctx context.Context) domain.RequestID {
	id, _ := ctx.Value(requestKey{}).(domain.RequestID)
	return id
}

// Request notes the request that the span is of, so that what a client reports is found by its name.
func (s *Span) Request(id domain.RequestID) {
	if s != nil && id != "" {
		s.span.SetAttributes(attribute.String("request.id", string(id)))
	}
}

// Requests has every line that is logged for a request name it.
func Requests(h slog.Handler) slog.Handler {
	if _, ok := h.(requests); ok {
		return h
	}
	return requests{h}
}

type requests struct{ slog.Handler }

func (h requests) Handle(ctx context.Context, r slog.Record) error {
	if id := Request(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("request_id", string(id)))
		if name, ok := ctx.Value(callerKey{}).(string); ok {
			r.AddAttrs(slog.String("client_request_id", name))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h requests) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requests{h.Handler.WithAttrs(attrs)}
}
func (h requests) WithGroup(name string) slog.Handler { return requests{h.Handler.WithGroup(name)} }
