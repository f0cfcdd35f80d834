// Package authority walks every door by which somebody decides something, and compares what the others see of it.
package authority

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// door is one way in which a consent ends.
type door struct {
	name  string
	from  domain.ConsentState
	to    domain.ConsentState
	pass  func(*play) error
	asked bool // an erasure was asked for by itself
}

var doors = []door{
	{"denied", domain.ConsentReceived, domain.ConsentRejected, steps("link consent", "deny"), false},
	{"erased by the investor", domain.ConsentReceived, domain.ConsentRejected, eraseMine, true},
	{"terminated by the client", domain.ConsentReceived, domain.ConsentTerminated, steps("terminate"), false},
	{"erased by the client", domain.ConsentReceived, domain.ConsentTerminated, steps("erase all"), true},
	{"over", domain.ConsentReceived, domain.ConsentExpired, later, false},
	{"revoked", domain.ConsentValid, domain.ConsentRevoked, steps("link manage", "revoke"), false},
	{"erased by the investor", domain.ConsentValid, domain.ConsentRevoked, eraseMine, true},
	{"terminated by the client", domain.ConsentValid, domain.ConsentTerminated, steps("terminate"), false},
	{"erased by the client", domain.ConsentValid, domain.ConsentTerminated, steps("erase all"), true},
	{"over", domain.ConsentValid, domain.ConsentExpired, later, false},
}

type play struct {
	*journey.Player
	ctx   context.Context
	clock *atomic.Int64
}

func (p *play) do(words ...string) error {
	for _, w := range words {
		if err := p.Play(p.ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func steps(words ...string) func(*play) error { return func(p *play) error { return p.do(words...) } }

func eraseMine(p *play) error {
	if err := p.do("link manage"); err != nil {
		return err
	}
	return p.Visit(p.ctx, http.MethodPost, "/erase", map[string]string{"consent_id": p.Consent(), "scope": "all"}, nil)
}

func later(p *play) error {
	p.clock.Add(int64(100 * 24 * time.Hour))
	return nil
}

// TestEveryEndLooksTheSame: by whichever door a consent ends, the client sees one notice of it, of the same shape, the log
// has one entry of it, and an erasure follows where something may have been held or somebody asked for one, and only there.
func TestEveryEndLooksTheSame(t *testing.T) {
	var clock atomic.Int64
	env := domain.Env{Region: "local", Clock: func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }}
	stage, err := journey.OpenStage(t.Context(), home.Settings{Data: t.TempDir(), Env: env, Sweep: 50 * time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stage.Inbox.AnyTime()
	t.Cleanup(func() {
		if err := stage.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, d := range doors {
		t.Run(string(d.from)+" "+d.name, func(t *testing.T) {
			p := &play{stage.Player(strings.ReplaceAll(string(d.from)+"-"+d.name, " ", "_")), t.Context(), &clock}
			must(t, p.do("ask"))
			want := []string{"consent." + string(d.to)}
			if d.from == domain.ConsentValid {
				must(t, p.do("open", "grant"))
				want = append([]string{"consent.granted"}, want...)
			}
			if d.from == domain.ConsentValid || d.asked {
				want = append(want, "erasure.completed")
			}
			must(t, d.pass(p))
			must(t, p.do("webhooks "+strings.Join(want, " ")))
			for _, n := range notices(t, stage.Home, p.Connection()) {
				end := n.Type == domain.NoticeType("consent."+string(d.to))
				if strings.HasPrefix(string(n.Type), "consent.") && n.Subject != p.Consent() ||
					end && (n.State != string(domain.ConnectionRemoved) || n.Reason != domain.ReasonConsentEnded) {
					t.Errorf("the client is told %+v", n)
				}
			}
			if n := entries(t, stage.Home, p.Consent(), "sluis.consent."+string(d.to)); n != 1 {
				t.Errorf("the log has %d entries of the end", n)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func notices(t *testing.T, s domain.Store, connection string) (of []domain.Notice) {
	t.Helper()
	clients, _, err := domain.List[domain.Client](t.Context(), s, domain.Query{Index: "clients"})
	must(t, err)
	all, _, err := domain.List[domain.Notice](t.Context(), s, domain.Query{Index: "notices_by_client", Match: []string{clients[0].Key()}, Limit: 1000})
	must(t, err)
	for _, n := range all {
		if string(n.ConnectionID) == connection {
			of = append(of, n)
		}
	}
	return of
}

// entries counts the allowed acts of a type on a consent.
func entries(t *testing.T, s domain.Store, consent, action string) (n int) {
	t.Helper()
	q := domain.Query{Index: "entries_by_time", Limit: 1000}
	for {
		page, next, err := domain.List[domain.Entry](t.Context(), s, q)
		must(t, err)
		for _, e := range page {
			if e.Type == action && e.Subject == consent && e.Data.Outcome == domain.OutcomeAllowed {
				n++
			}
		}
		if q.Cursor = next; next == "" {
			return n
		}
	}
}
