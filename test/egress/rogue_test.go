package egress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// rogue is a connector that tries, beside its work, everything it must not: at login, while it reads, and at the end.
type rogue struct {
	extraction.Connector
	mu     sync.Mutex
	tries  map[extraction.Phase]int
	passed []string
	quits  bool // it gives up at the first refusal, as an honest connector with a mistake in it does
}

func (r *rogue) Step(ctx context.Context, s extraction.Session, in extraction.Input) (extraction.Outcome, error) {
	if err := r.try(ctx, s, extraction.PhaseLogin); err != nil {
		return extraction.Outcome{}, err
	}
	out, err := r.Connector.Step(ctx, s, in)
	if err != nil || out.Portfolio == nil {
		return out, err
	}
	honest := out.Portfolio.Read[domain.ProductPositions]
	out.Portfolio.Read[domain.ProductPositions] = func(yield func(domain.Record, error) bool) {
		_ = r.try(ctx, s, extraction.PhaseRead) // only a rogue that quits says what became of it, and that one never reads
		honest(yield)
	}
	return out, nil
}

func (r *rogue) End(ctx context.Context, s extraction.Session) error {
	return errors.Join(r.try(ctx, s, extraction.PhaseEnd), r.Connector.End(ctx, s))
}

// try makes requests that must all be refused: every bend of one that is declared for the phase, and all that are
// declared for another phase.
func (r *rogue) try(ctx context.Context, s extraction.Session, phase extraction.Phase) error {
	var forbidden []*http.Request
	bent := false
	for _, d := range r.Requests() {
		if d.Phase == phase && !bent {
			bent = true
			for _, name := range slices.Sorted(maps.Keys(bends)) {
				q := plain(ctx, s.Custodian, d)
				bends[name](q)
				forbidden = append(forbidden, q)
			}
		}
		elsewhere := !slices.ContainsFunc(r.Requests(), func(o extraction.Request) bool {
			return o.Phase == phase && o.Method == d.Method && o.Path == d.Path
		})
		if elsewhere {
			forbidden = append(forbidden, plain(ctx, s.Custodian, d))
		}
	}
	for _, q := range forbidden {
		resp, err := s.HTTP.Transport.RoundTrip(q)
		r.mu.Lock()
		r.tries[phase]++
		if err == nil {
			resp.Body.Close()
			r.passed = append(r.passed, fmt.Sprintf("%s: %s %v", phase, q.Method, q.URL))
		}
		r.mu.Unlock()
		if r.quits {
			return err
		}
	}
	return nil
}

func stage(t *testing.T, r *rogue) *journey.Stage {
	t.Helper()
	s, err := journey.OpenStage(context.Background(), home.Settings{Data: filepath.Join(t.TempDir(), "data"),
		Connector: func(c extraction.Connector) extraction.Connector {
			if r == nil {
				return c
			}
			r.Connector = c
			return r
		}}, nil)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	_, err = s.Home.Keys.Inner.Public() // it is made in the background, and would outlive the directory
	must(t, err)
	return s
}

func play(t *testing.T, s *journey.Stage, name string, steps ...string) *journey.Player {
	t.Helper()
	p := s.Player(name)
	for _, words := range steps {
		if err := p.Play(t.Context(), words); err != nil {
			t.Fatalf("%s: %v", words, err)
		}
	}
	return p
}

const login = "20000002"

var story = []string{"ask", "open", "grant", "login " + login, "challenge code", "code 111111", "done", "read positions complete"}

// TestRogueConnector lets a rogue into the whole house. The bank hears nothing but what an honest connector says, the
// portfolio is read nonetheless, and each attempt stands in the audit log, told without the attempt's own words.
func TestRogueConnector(t *testing.T) {
	honest := stage(t, nil)
	play(t, honest, "honest", story...)
	closed(t, honest)
	r := &rogue{tries: map[extraction.Phase]int{}}
	s := stage(t, r)
	trap := listenEverywhere(t)
	p := play(t, s, "rogue", story...)
	closed(t, s)
	if len(r.passed) > 0 {
		t.Errorf("%d requests passed: %v", len(r.passed), r.passed)
	}
	for _, phase := range phases {
		if r.tries[phase] < len(bends) {
			t.Errorf("%s: %d tries", phase, r.tries[phase])
		}
	}
	if got, want := spoken(s.Home.Bank), spoken(honest.Home.Bank); !maps.Equal(got, want) {
		t.Errorf("the bank heard %v, want %v", got, want)
	}
	if reached := trap.reached(); len(reached) > 0 {
		t.Errorf("it reached %v", reached)
	}
	checkRefusals(t, s, p, r)
}

// closed waits until the visit is over at the bank, which is after the investor sees that all is done.
func closed(t *testing.T, s *journey.Stage) {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(entries(t, s, "sluis.session.closed")) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a session stays open at the bank")
		}
	}
}

// entries are all of the audit log of one type.
func entries(t *testing.T, s *journey.Stage, kind string) []domain.Entry {
	t.Helper()
	var all []domain.Entry
	for q := (domain.Query{Index: "entries_by_time", Limit: 1000}); ; {
		page, next, err := domain.List[domain.Entry](t.Context(), s.Home, q)
		must(t, err)
		for _, e := range page {
			if e.Type == kind {
				all = append(all, e)
			}
		}
		if q.Cursor = next; next == "" {
			return all
		}
	}
}

// spoken counts what a bank was asked.
func spoken(b *bank.Bank) map[string]int {
	out := map[string]int{}
	for _, r := range b.Requests() {
		out[r.Login+" "+r.Method+" "+r.Path]++
	}
	return out
}

// checkRefusals finds one audit entry for each of the rogue's tries.
func checkRefusals(t *testing.T, s *journey.Stage, p *journey.Player, r *rogue) {
	t.Helper()
	want := 0
	for _, n := range r.tries {
		want += n
	}
	hosts := map[string]bool{"undeclared": true, bank.HostName: true}
	refused := entries(t, s, "sluis.egress.refused")
	for _, e := range refused {
		d := e.Data
		if d.Outcome != domain.OutcomeDenied || d.Reason != string(domain.ReasonEgressRefused) || string(d.ConsentID) != p.Consent() ||
			string(d.ConnectionID) != p.Connection() || d.Custodian != "sandbox-comdirect" || !hosts[d.Details["host"]] {
			t.Errorf("entry %+v", e)
		}
	}
	if len(refused) != want {
		t.Errorf("%d refusals are recorded of %d", len(refused), want)
	}
}

// TestHonestMistake: a connector whose own request is refused ends its session with that reason, and the client is told.
func TestHonestMistake(t *testing.T) {
	r := &rogue{tries: map[extraction.Phase]int{}, quits: true}
	s := stage(t, r)
	play(t, s, "mistake", "ask", "open", "grant", "login "+login, "paused "+string(domain.ReasonEgressRefused),
		"webhooks consent.granted connection.paused")
	if n := len(s.Home.Bank.Requests()); n != 0 || r.tries[extraction.PhaseLogin] != 1 {
		t.Errorf("the bank heard %d requests after %v tries", n, r.tries)
	}
}
