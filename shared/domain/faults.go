package domain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with an input.
type Fault struct {
	Field   string `json:"field"` // a JSON Pointer (RFC 6901) into the body, or the name of a parameter or header
	Code    string `json:"code"`  // stable, snake_case
	Message string `json:"message"`
}

// Codes of faults in the form of an input. A rule about a member of which one of them is said is not checked: it would
// speak of a value that was never read.
const (
	FaultUnknown  = "unknown_member"
	FaultRepeated = "repeated_member"
	FaultNull     = "null_member"
	FaultType     = "wrong_type"
)

// MaxFaults is how many faults of one input are said.
const MaxFaults = 50

// Faults collects everything that is wrong with an input, so that a caller can mend all of it at once. The zero Faults
// has none.
type Faults struct{ all []Fault }

// Add says that a rule about field does not hold.
func (f *Faults) Add(field, format string, args ...any) {
	f.add(Fault{Field: field, Code: "invalid_field", Message: fmt.Sprintf(format, args...)})
}

// Form says that a field's form is wrong.
func (f *Faults) Form(code, field, message string) {
	f.add(Fault{Field: field, Code: code, Message: message})
}

// Join adds the faults that an Invalid error tells of, and gives back any other error.
func (f *Faults) Join(err error) error {
	var e *Error
	if err == nil || !errors.As(err, &e) || e.Kind != Invalid {
		return err
	}
	for _, fault := range e.All() {
		f.add(fault)
	}
	return nil
}

func (f *Faults) add(fault Fault) {
	if len(f.all) == MaxFaults {
		return
	}
	if slices.Contains(f.all, fault) || fault.Code == "invalid_field" && f.Spoilt(fault.Field) {
		return
	}
	f.all = append(f.all, fault)
}

// spoils reports whether the fault left nothing in field to check.
func (f Fault) spoils(field string) bool {
	if f.Code != FaultNull && f.Code != FaultType && f.Code != FaultRepeated {
		return false
	}
	return field == f.Field || strings.HasPrefix(field, f.Field+"/") || strings.HasPrefix(f.Field, field+"/")
}

// Spoilt reports whether one of the fields could not be read.
func (f *Faults) Spoilt(fields ...string) bool {
	return slices.ContainsFunc(f.all, func(fault Fault) bool { return slices.ContainsFunc(fields, fault.spoils) })
}

// Len is how many faults there are.
func (f *Faults) Len() int { return len(f.all) }

// Err is an Invalid error with all faults, or nil where there are none. Its own field and message are the first one's.
func (f *Faults) Err() error {
	if len(f.all) == 0 {
		return nil
	}
	first := f.all[0]
	code := first.Code
	switch code {
	case FaultUnknown, FaultRepeated, FaultNull, FaultType:
		code = "invalid_field"
	}
	return &Error{Kind: Invalid, Code: code, Field: first.Field, Message: first.Message, Faults: f.all}
}

// All is every fault that an Invalid error tells of: at least itself.
func (e *Error) All() []Fault {
	if len(e.Faults) > 0 {
		return e.Faults
	}
	return []Fault{{Field: e.Field, Code: e.Code, Message: e.Message}}
}
