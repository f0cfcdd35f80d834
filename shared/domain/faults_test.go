package domain

import (
	"errors"
	"fmt"
	"testing"
)

func TestFaults(t *testing.T) {
	var none Faults
	if none.Err() != nil || none.Len() != 0 {
		t.Error("no faults are an error")
	}
	var f Faults
	f.Form(FaultType, "/purpose", "this has the wrong type")
	f.Form(FaultUnknown, "/colour", "there is no such member")
	f.Add("/purpose/code", "want a purpose")  // nobody read it
	f.Add("/colour/x", "want a colour")       // this one was
	f.Add("/products", "name at least %d", 1) // and this
	f.Add("/products", "name at least %d", 1) // said before
	if err := f.Join(fmt.Errorf("checking: %w", Invalidf("/language", "want a language"))); err != nil {
		t.Error(err)
	}
	other := &Error{Kind: Conflict, Code: "x"}
	if err := f.Join(other); !errors.Is(err, other) || f.Join(nil) != nil {
		t.Errorf("what is no fault becomes %v", err)
	}
	var e *Error
	if !errors.As(f.Err(), &e) || e.Kind != Invalid || e.Code != "invalid_field" || e.Field != "/purpose" || e.Message != "this has the wrong type" {
		t.Fatalf("have %+v", e)
	}
	want := []Fault{{"/purpose", FaultType, "this has the wrong type"}, {"/colour", FaultUnknown, "there is no such member"},
		{"/colour/x", "invalid_field", "want a colour"}, {"/products", "invalid_field", "name at least 1"}, {"/language", "invalid_field", "want a language"}}
	if have := fmt.Sprint(e.All()); have != fmt.Sprint(want) {
		t.Errorf("have %v, want %v", have, want)
	}
	var again Faults
	if err := again.Join(e); err != nil || fmt.Sprint(again.all) != fmt.Sprint(want) {
		t.Errorf("joined, they are %v", again.all)
	}
	for i := range 2 * MaxFaults {
		again.Add(fmt.Sprintf("/%d", i), "no")
	}
	if again.Len() != MaxFaults {
		t.Errorf("%d faults are said", again.Len())
	}
	if one := Invalidf("/a", "no").All(); len(one) != 1 || one[0] != (Fault{"/a", "invalid_field", "no"}) {
		t.Errorf("one fault is %v", one)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"cursor", "endpoint_id", "investor_ref", "limit", "notice_id", "state"}
	for word, want := range map[string]string{"endpoint": "endpoint_id", "Limit": "limit", "stat": "state", "limti": "limit", "investorref": "investor_ref",
		"notice": "notice_id", "page": "", "x": "", "": "", "per_page": "", "cursors": "cursor"} {
		if have := Nearest(word, known); have != want {
			t.Errorf("%q is taken for %q, want %q", word, have, want)
		}
	}
}
