package domain

import (
	"fmt"
	"io"
	"regexp"
	"time"
)

// timeLayout is RFC 3339 in UTC with exactly three decimals, so that times compare as strings in every backend.
const timeLayout = "2006-01-02T15:04:05.000Z"

// Time is a moment in UTC with a resolution of one millisecond. Its text form has a fixed width and sorts.
type Time struct{ time.Time }

// timeShape is RFC 3339, section 5.6, of which time.Parse takes more than there is: an hour of one digit, a comma, a
// zone of 24 hours.
var timeShape = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// At makes a Time of t, dropping what is finer than a millisecond.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

// Add returns the moment d later.
func (t Time) Add(d time.Duration) Time { return At(t.Time.Add(d)) }

// Before says whether t lies before u.
func (t Time) Before(u Time) bool { return t.Time.Before(u.Time) }

// After says whether t lies after u.
func (t Time) After(u Time) bool { return t.Time.After(u.Time) }

// Sub returns how long u lies before t.
func (t Time) Sub(u Time) time.Duration { return t.Time.Sub(u.Time) }

// String is the text form: RFC 3339, UTC, three decimals. The zero Time is the empty string.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON implements json.Marshaler. Use the omitzero tag for times that may be absent.
func (t Time) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts any RFC 3339 time that is in one of the years 1 to 9999
// by UTC too, as no other has a text form that sorts; and not the very first moment of them, which stands for none.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = Time{}
		return nil
	}
	parsed, err := time.Parse(time.RFC3339Nano, string(b))
	if year := parsed.UTC().Year(); err != nil || !timeShape.Match(b) || year < 1 || year > 9999 || At(parsed).IsZero() {
		return fmt.Errorf("reading time: want RFC 3339, for example 2026-01-31T12:00:00Z")
	}
	*t = At(parsed)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return fmt.Errorf("reading time: want a string")
	}
	return t.UnmarshalText(b[1 : len(b)-1])
}

// Env is what a service needs of the world: the time, randomness, and where it runs. Tests inject their own.
type Env struct {
	Clock  func() time.Time // nil means time.Now
	Rand   io.Reader        // cryptographically secure in production; nil means crypto/rand
	Region string           // where this process keeps data: "local", or a cloud region such as "europe-west4"
}

// Now is the present moment.
func (e Env) Now() Time {
	if e.Clock == nil {
		return At(time.Now())
	}
	return At(e.Clock())
}
