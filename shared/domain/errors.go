package domain

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the closed set of ways in which an act can fail. shared/serve maps each onto one HTTP status.
type Kind string

const (
	Invalid         Kind = "invalid"         // the input is wrong; Field and Message say what to change
	Unauthenticated Kind = "unauthenticated" // we do not know who asks
	Forbidden       Kind = "forbidden"       // we know, and they may not: consent, scope, role
	NotFound        Kind = "not_found"       // it does not exist, or not for this caller
	Conflict        Kind = "conflict"        // the state does not allow it
	Gone            Kind = "gone"            // it existed, and was used up, erased or expired
	TooLarge        Kind = "too_large"       // a limit on size
	RateLimited     Kind = "rate_limited"    // a limit on pace; RetryAfter says when
	Unavailable     Kind = "unavailable"     // passing; the same call may succeed later
	Internal        Kind = "internal"        // everything else; nothing of it is shown outside
)

// Kinds lists every kind, for tables and tests.
var Kinds = []Kind{Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Gone, TooLarge, RateLimited, Unavailable, Internal}

// Error is a failure that may be shown outside: Code is stable, Message names the remedy, and neither holds internals,
// secrets or personal data. Err, the cause, is for the log only.
type Error struct {
	Kind       Kind
	Code       string // stable, snake_case
	Field      string // the input at fault as a JSON pointer or parameter name, where one is
	Message    string
	RetryAfter time.Duration
	Faults     []Fault // of an Invalid input with several: all of them; see All
	Err        error
}

func (e *Error) Error() string {
	text := e.Code
	if e.Field != "" {
		text += " (" + e.Field + ")"
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an *Error of the same kind and code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Code == e.Code
}

// KindOf returns the kind of err; an error that is not ours is Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// IgnoreNotFound makes nothing of an error that says that a document is not there: its life ended, and what was to be done
// with it need not be.
func IgnoreNotFound(err error) error {
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}

// CodeOf returns the stable code of err; an error that is not ours has the code "internal".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return "internal"
}

// Invalidf makes an Invalid error about one field.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Code: "invalid_field", Field: field, Message: fmt.Sprintf(format, args...)}
}

// ErrNotFound is what Store and Tx return, wrapped or not, for a document that does not exist.
var ErrNotFound = &Error{Kind: NotFound, Code: "not_found", Message: "there is no such resource; check the identifier"}

// Recovered runs do, and makes an error of a panic: where nobody else stands behind a goroutine, a panic would end the
// process and print what was thrown, which may be anything.
func Recovered(do func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = &Error{Kind: Internal, Code: "panic"}
		}
	}()
	return do()
}
