package main

import (
	"context"
	"path/filepath"
	"testing"
)

// TestJourneys plays every journey of the demo, many at once on one home, as clients would.
func TestJourneys(t *testing.T) {
	all, err := journeys()
	if err != nil {
		t.Fatal(err)
	}
	s := testStage(t)
	t.Run("all", func(t *testing.T) {
		for _, j := range all {
			t.Run(j.Name, func(t *testing.T) { t.Parallel(); playIn(t, s, j) })
		}
	})
	if letters, err := s.home.DeadLetters(t.Context(), 10); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %v, %v", letters, err)
	}
	if open := s.home.bank.OpenSessions(""); open > 0 {
		t.Errorf("%d sessions stand open at the bank after the journeys", open)
	}
}

func testStage(t *testing.T) *stage {
	t.Helper()
	s, err := openStage(context.Background(), &options{Data: filepath.Join(t.TempDir(), "data")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func playIn(t *testing.T, s *stage, j journey) {
	t.Helper()
	s.journey(t.Context(), j, func(_ journey, l *line) {
		if l != nil && !l.OK {
			t.Errorf("%s: %s", l.Step, l.Error)
		}
	})
}

// TestRestart stops the process while the bank waits for a code, starts it again on the same data, and goes on: the
// suspended session, the investor's visit and the webhooks' sequence survive.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := openStage(t.Context(), &options{Data: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.player("restarted")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := p.play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000002", "challenge code")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(context.Background(), &options{Data: dir}); err != nil {
		t.Fatal(err)
	}
	p.app.api, p.investor.pages, p.bank = s.home.apiURL(), s.home.pagesURL(), s.home.bank
	play("code 111111", "done", "read positions complete", "webhooks consent.granted connection.active portfolio.updated")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
