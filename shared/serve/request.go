package serve

import (
	"log/slog"
	"net/http"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Headers of an answer that name its request: our name for it, and the caller's own, if it sent one in Request-Id.
const (
	requestHeader       = "Request-Id"
	callerRequestHeader = "Client-Request-Id"
)

// callerRequest is the shape of a caller's name for a request. Any other is neither repeated nor logged.
var callerRequest = domain.NewShape(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives a request a name of ours, once: it stands in the answer's header, in problems, log lines and traces. A
// caller's own never stands in its place, as two requests could have the same.
func identify(w http.ResponseWriter, r *http.Request, env domain.Env) *http.Request {
	if w.Header().Get(requestHeader) != "" {
		return r
	}
	id := domain.NewID[domain.RequestID](domain.Env{Clock: env.Clock}) // never from the randomness that secrets come from
	w.Header().Set(requestHeader, string(id))
	ctx := observe.WithRequest(r.Context(), id)
	if theirs := r.Header.Get(requestHeader); callerRequest.MatchString(theirs) {
		w.Header().Set(callerRequestHeader, theirs)
		ctx = observe.WithCaller(ctx, theirs)
	}
	return r.WithContext(ctx)
}

// Identified names each request that comes to h.
func (d *Door) identified(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, identify(w, r, d.Env)) })
}

// Reference is the name of the request that w answers, for a page to show.
func Reference(w http.ResponseWriter) string { return w.Header().Get(requestHeader) }

func (d *Door) logger() *slog.Logger {
	if d.Log == nil {
		return slog.Default()
	}
	return slog.New(observe.Requests(d.Log.Handler()))
}
