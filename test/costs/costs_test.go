package main

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"
)

// TestRunbook: the runbook's tables are those that costs.json makes.
func TestRunbook(t *testing.T) {
	m, err := Read(inputs)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("../../" + runbook)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(raw), begin)
	tables, _, closed := strings.Cut(after, end)
	if !ok || !closed || tables != m.Markdown() {
		t.Errorf("%s has other tables: go run ./test/costs -write", runbook)
	}
}

// TestOneConnection works one line out by hand.
func TestOneConnection(t *testing.T) {
	m, err := Read(inputs)
	if err != nil {
		t.Fatal(err)
	}
	m.Acts = map[string]Act{"first": {Reads: 200}, "same": {Reads: 100}, "changed": {Reads: 100, KMS: 5}, "retried": {Reads: 50}}
	for name, v := range map[string]float64{"refreshes": 30, "changed": 0.5, "retried": 0.1, "new": 0.1, "reads": 10, "read_documents": 4, "rsa": 1} {
		a := m.Assumptions[name]
		a.Value = v
		m.Assumptions[name] = a
	}
	sum, sessions, readings := m.acts(1)
	// 0.1 first at 200, 15 and 15 refreshes at 100, 1.5 retries at 50, 10 readings at 4 documents.
	if want := 0.1*200 + 30*100 + 1.5*50 + 10*4; math.Abs(sum.Reads-want) > 1e-9 || sessions != 30.1 || readings != 10 {
		t.Errorf("%v documents read in %v sessions, want %v in 30.1", sum.Reads, sessions, want)
	}
	if want := 15*5 + 10.0; math.Abs(sum.KMS-want) > 1e-9 {
		t.Errorf("%v KMS calls, want %v", sum.KMS, want)
	}
	lines := m.Lines(1000)
	if got, want := lines[0].USD, sum.Reads*1000*0.06/100_000; math.Abs(got-want) > 1e-9 {
		t.Errorf("reading and writing cost %v, want %v", got, want)
	}
	if got, want := lines[2].USD, 1000*(30.1*0.15+(85-30.1)*0.03)/10_000; math.Abs(got-want) > 1e-9 {
		t.Errorf("KMS costs %v, want %v", got, want)
	}
}

// TestGrows: more connections never cost less, and what is fixed is fixed.
func TestGrows(t *testing.T) {
	m, err := Read(inputs)
	if err != nil {
		t.Fatal(err)
	}
	small, large := m.Lines(1000), m.Lines(1_000_000)
	for i := range small {
		fixed := small[i].Name == "Cloud KMS, versions of keys" || small[i].Name == "Secrets and the clock"
		if large[i].USD < small[i].USD || (large[i].USD == small[i].USD) != fixed {
			t.Errorf("%s: %v for a thousand, %v for a million", small[i].Name, small[i].USD, large[i].USD)
		}
	}
}

// TestStrict: what no line asks for, or nobody knows, is refused.
func TestStrict(t *testing.T) {
	for old, text := range map[string]string{
		`"as_of"`:          `"of"`,
		`"prices": {`:      `"prices": {"x": {"usd": 1, "per": 1},`,
		`"assumptions": {`: `"assumptions": {"x": {"value": 1},`,
		`"usd": 0.06`:      `"usd": -1000`,
	} {
		bad := bytes.Replace(inputs, []byte(old), []byte(text), 1)
		if _, err := Read(bad); err == nil || bytes.Equal(bad, inputs) {
			t.Errorf("%s is taken", text)
		}
	}
}
