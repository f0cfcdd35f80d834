package serve

import (
	"net/http"
	"slices"
	"strings"

	"sluis.internal/shared/observe"
)

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// observed tells of each request by the route that took it. A ServeMux notes it in the request.
func observed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if !slices.Contains(methods, method) {
			method = "other"
		}
		ctx, span := observe.Answering(r.Context(), method, r.Header.Get("traceparent"))
		if span == nil {
			h.ServeHTTP(w, r)
			return
		}
		span.Request(observe.Request(r.Context()))
		out := &noted{ResponseWriter: w}
		r = r.WithContext(ctx)
		defer func() { // also if h panics, with no status then
			if strings.Contains(r.Pattern, " ") { // the platform's own ServeMux before ours has one without a method
				span.Name(r.Pattern)
			}
			span.Status(out.status)
			span.End(nil)
		}()
		h.ServeHTTP(out, r)
		if out.status == 0 {
			out.status = http.StatusOK
		}
	})
}

// noted remembers an answer's status.
type noted struct {
	http.ResponseWriter
	status int
}

func (c *noted) WriteHeader(status int) {
	if c.status == 0 && status >= 200 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *noted) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// send has an answer go out that is whole, and need not wait for what else there is to do within the request.
func (c *noted) send() {
	if c.status == http.StatusNoContent || c.Header().Get("Content-Length") != "" {
		_ = http.NewResponseController(c.ResponseWriter).Flush() // or it goes at the end of the request
	}
}

// Unwrap lets http.ResponseController reach what can flush and set deadlines.
func (c *noted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
