package serve

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"sluis.internal/shared/domain"
)

// statuses is the one table from a kind of error to an HTTP status.
var statuses = map[domain.Kind]int{
	domain.Invalid:         http.StatusBadRequest,
	domain.Unauthenticated: http.StatusUnauthorized,
	domain.Forbidden:       http.StatusForbidden,
	domain.NotFound:        http.StatusNotFound,
	domain.Conflict:        http.StatusConflict,
	domain.Gone:            http.StatusGone,
	domain.TooLarge:        http.StatusRequestEntityTooLarge,
	domain.RateLimited:     http.StatusTooManyRequests,
	domain.Unavailable:     http.StatusServiceUnavailable,
	domain.Internal:        http.StatusInternalServerError,
}

// Problem is an error as clients see it: RFC 9457 problem details with a stable code.
type Problem struct {
	Type   string `json:"type"` // about:blank: the code says what it is
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	Field  string `json:"field,omitempty"`

	Errors    []domain.Fault `json:"errors,omitempty"`     // of an input: everything that is wrong with it, the first one first
	RequestID string         `json:"request_id,omitempty"` // which request it was
}

// ProblemOf is what may be shown of err. Of an internal error nothing is.
func ProblemOf(err error) Problem {
	var e *domain.Error
	if !errors.As(err, &e) || e.Kind == domain.Internal || statuses[e.Kind] == 0 {
		e = &domain.Error{Kind: domain.Internal, Code: "internal", Message: "something failed on our side; try again, and tell us if it stays"}
	}
	status := statuses[e.Kind]
	p := Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: e.Code, Detail: e.Message, Field: e.Field}
	if e.Kind == domain.Invalid {
		p.Errors = e.All()
	}
	return p
}

// WriteProblem answers with err as application/problem+json and returns the status.
func WriteProblem(w http.ResponseWriter, err error) int {
	p := ProblemOf(err)
	var e *domain.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sluis"`)
	}
	writeProblem(w, p)
	return p.Status
}

func writeProblem(w http.ResponseWriter, p Problem) {
	p.RequestID = w.Header().Get(requestHeader)
	body, err := Marshal(p)
	if err != nil { // it is made of strings, which cannot fail
		body = []byte("{}")
	}
	send(w, p.Status, "application/problem+json", body)
}
