package serve

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"sluis.internal/shared/domain"
)

// NewServer is an HTTP server with bounds on every phase of a request. A handler that streams moves the bound on its
// writing by itself. What net/http would log by itself is dropped: it may quote a request or a panic.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{Handler: overTLS(false, paced(unchained(h))), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 2 * MaxHeader, ErrorLog: log.New(io.Discard, "", 0)}
}

// MaxHeader is how many bytes the address and the headers of a request may have together. A little more net/http reads,
// so that we can say what is wrong.
const MaxHeader = 16 << 10

// headerSize is the length of a request's address and headers as HTTP/1.1 writes them.
func headerSize(r *http.Request) int {
	n := len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// unchained ends the connection after a request in chunks. A request that states its length too, net/http reads by its
// chunks; whoever stands before us may have read it by its length, and would take what follows for a request of its own.
// RFC 9112, section 6.1.
func unchained(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// overTLS tells browsers to come over TLS only, whatever they get (RFC 6797): where always is set, as the front door speaks
// nothing else, or the request came so.
func overTLS(always bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if always || r.TLS != nil {
			w.Header().Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
		}
		h.ServeHTTP(w, r)
	})
}

// Secured sets the headers of what no handler of ours answers: unknown addresses and methods, and redirects to an
// address's one spelling. Handlers set their own over them.
func Secured(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		h.ServeHTTP(w, r)
	})
}

// Known lets those requests through to mux that it has a pattern for, and answers the others with problems, in JSON
// as everything for programs. lost, unless it is nil, answers in their stead where there is nothing at an address.
func (d *Door) Known(mux *http.ServeMux, lost http.Handler) http.Handler {
	return d.identified(observed(Secured(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.show(w, r)
		if headerSize(r) > MaxHeader {
			writeProblem(w, Problem{Type: "about:blank", Title: http.StatusText(http.StatusRequestHeaderFieldsTooLarge), Status: http.StatusRequestHeaderFieldsTooLarge,
				Code: "headers_too_large", Detail: fmt.Sprintf("send at most 16 KiB of address and headers together: %d bytes", MaxHeader)})
			return
		}
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := verdict{header: http.Header{}}
		handler.ServeHTTP(&said, r)
		if said.status != http.StatusMethodNotAllowed && lost != nil {
			lost.ServeHTTP(w, r)
			return
		}
		if err := d.Take(w, r); err != nil {
			WriteProblem(w, err)
			return
		}
		if said.status != http.StatusMethodNotAllowed {
			WriteProblem(w, &domain.Error{Kind: domain.NotFound, Code: "not_found", Message: "there is nothing at this address; check it"})
			return
		}
		w.Header()["Allow"] = said.header["Allow"]
		writeProblem(w, Problem{Type: "about:blank", Title: http.StatusText(said.status), Status: said.status, Code: "method_not_allowed",
			Detail: "this address takes other methods; the header Allow lists them"})
	}))))
}

// verdict is what a ServeMux says of a request that it has no pattern for, without its text.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }
func (v *verdict) WriteHeader(status int)      { v.status = status }
