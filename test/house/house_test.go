package house

import (
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// TestKilledAndStarted: bank, inbox and addresses outlive the process, and a journey goes on.
func TestKilledAndStarted(t *testing.T) {
	h := Open(t, Options{})
	p := h.Player("killed")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := p.Play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000002", "challenge code")
	if err := h.Tell("clock 1m"); err != nil {
		t.Fatal(err)
	}
	before := h.PID()
	h.Kill()
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	if h.PID() == before {
		t.Fatal("it is the same process")
	}
	play("code 111111", "done", "webhooks consent.granted connection.active portfolio.updated")
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestTwoOnTheSameData: what one process began goes on at the other.
func TestTwoOnTheSameData(t *testing.T) {
	h := Open(t, Options{})
	second := h.Beside(t)
	p := h.Player("two")
	for i, words := range []string{"ask", "open", "grant", "login 20000002", "challenge code", "code 111111", "done",
		"webhooks consent.granted connection.active portfolio.updated"} {
		if i%2 == 1 {
			p = p.At(&second.Place)
		} else {
			p = p.At(&h.Place)
		}
		if err := p.Play(t.Context(), words); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
	}
}
