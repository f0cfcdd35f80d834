package journey

import (
	"context"
	"path/filepath"
	"testing"

	"sluis.internal/functions/sluis/home"
)

// TestJourneys plays every journey of the demo, many at once on one home, as clients would.
func TestJourneys(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	s := testStage(t)
	t.Run("all", func(t *testing.T) {
		for _, j := range all {
			t.Run(j.Name, func(t *testing.T) { t.Parallel(); playIn(t, s, j) })
		}
	})
	if letters, err := s.Home.DeadLetters(t.Context(), 10); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %v, %v", letters, err)
	}
	if open := s.Home.Bank.OpenSessions(""); open > 0 {
		t.Errorf("%d sessions stand open at the bank after the journeys", open)
	}
}

func testStage(t *testing.T) *Stage {
	t.Helper()
	s, err := OpenStage(context.Background(), home.Settings{Data: filepath.Join(t.TempDir(), "data")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func playIn(t *testing.T, s *Stage, j Journey) {
	t.Helper()
	s.Perform(t.Context(), j, func(l Line) {
		if !l.OK {
			t.Errorf("%s: %s", l.Step, l.Error)
		}
	})
}

// TestRestart stops the process while the bank waits for a code, starts it again on the same data, and goes on: the
// suspended session, the investor's visit and the webhooks' sequence survive.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, err := OpenStage(t.Context(), home.Settings{Data: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Player("restarted")
	play := func(steps ...string) {
		t.Helper()
		for _, words := range steps {
			if err := p.Play(t.Context(), words); err != nil {
				t.Fatalf("%s: %v", words, err)
			}
		}
	}
	play("ask", "open", "grant", "login 20000002", "challenge code")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background(), home.Settings{Data: dir}); err != nil {
		t.Fatal(err)
	}
	play("code 111111", "done", "read positions complete", "webhooks consent.granted connection.active portfolio.updated")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
