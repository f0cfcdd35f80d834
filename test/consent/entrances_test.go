package consent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/functions/sweep"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// entrance is one use of one way into the system.
type entrance struct {
	at   string // "api GET /v1/client", "internal POST /answer", "topic session-requested", "clock"
	free string // why it needs no consent: then it only has to be there, and nothing below is set

	lead   []string // the steps of a journey after which it may be used
	lay    func(*scene, *journey.Player)
	use    func(context.Context, *visitor) error
	action string // as the audit log names it
	by     domain.ActorKind
	terms  string                // more that must fit, of: custodian product once; and for "reader": advisors may use it
	states []domain.ConsentState // in which it may be used; nil means valid alone
	late   bool                  // it only takes away: any time, any region, whatever became of the client
	shows  bool                  // it does nothing and only says how things stand, whatever that is
	hides  bool                  // it shows what the bank asks, and with a wrong consent nothing of that
	cuts   bool                  // a refusal also ends the session at the bank that is under way
}

// visitor is who uses an entrance: what they name and what they hold.
type visitor struct {
	*scene
	player     *journey.Player
	place      *journey.Place // with the key that is used
	consent    string
	connection string
	challenge  domain.ChallengeID
}

// call uses the client API on the visitor's consent or connection.
func call(method, path string, body any) func(context.Context, *visitor) error {
	return func(ctx context.Context, v *visitor) error {
		path := strings.NewReplacer("{consent}", v.consent, "{connection}", v.connection).Replace(path)
		return v.place.Call(ctx, method, path, body, nil)
	}
}

// step takes a step of a journey.
func step(words string) func(context.Context, *visitor) error {
	return func(ctx context.Context, v *visitor) error { return v.player.Play(ctx, words) }
}

// visit uses a page of the investor.
func visit(method, path string) func(context.Context, *visitor) error {
	return func(ctx context.Context, v *visitor) error {
		path := strings.ReplaceAll(path, "{challenge}", string(v.challenge))
		if u, err := url.Parse(v.player.Link()); err == nil {
			path = strings.ReplaceAll(path, "/i/{token}", u.Path)
		}
		var form any
		if method == http.MethodPost {
			form = url.Values{"consent_id": {v.consent}}
		}
		return v.player.Visit(ctx, method, path, form, nil)
	}
}

func eraseAs(scope string) func(context.Context, *visitor) error {
	return func(ctx context.Context, v *visitor) error {
		return v.player.Visit(ctx, http.MethodPost, "/erase", map[string]string{"consent_id": v.consent, "scope": scope}, nil)
	}
}

// renew asks for a new code.
func renew(ctx context.Context, v *visitor) error {
	body := map[string]string{"kind": "renew", "challenge_id": string(v.challenge)}
	return v.player.Visit(ctx, http.MethodPost, "/challenge/answer", body, nil)
}

// question looks for what the bank asks.
func question(ctx context.Context, v *visitor) error {
	state, err := v.player.Look(ctx)
	if err == nil && state.Challenge == nil {
		err = errHidden
	}
	return err
}

// stream does the same by the page's stream of events.
func stream(ctx context.Context, v *visitor) error {
	asked := false
	err := v.player.Watch(ctx, func(now *challenge.State) bool { asked = now.Challenge != nil; return true })
	if err == nil && !asked {
		err = errHidden
	}
	return err
}

var errHidden = errors.New("nothing is shown of what the bank asks")

// answer calls the internal entrance, as the challenge function does.
func answer(ctx context.Context, v *visitor) error {
	c := &domain.Connection{ID: domain.ConnectionID(v.connection)}
	if err := v.Home.Get(ctx, c); err != nil {
		return err
	}
	return v.Home.Answer(ctx, c.Custodian, domain.AnswerRequest{SessionID: c.SessionID, ChallengeID: v.challenge, Kind: domain.AnswerRenew})
}

// handle gives a topic's handler an event about the connection's session.
func handle(ctx context.Context, v *visitor) error {
	c := &domain.Connection{ID: domain.ConnectionID(v.connection)}
	if err := v.Home.Get(ctx, c); err != nil {
		return err
	}
	return v.Home.Handlers[domain.TopicSession](ctx, domain.Event{Topic: domain.TopicSession, Subject: string(c.SessionID), Custodian: c.Custodian})
}

// clock makes one round of the clock.
func clock(ctx context.Context, v *visitor) error {
	_, err := (&sweep.Service{Store: v.Home, Env: v.Home.Env}).Sweep(ctx)
	return err
}

// queued lays a session that waits to be run.
func queued(s *scene, p *journey.Player) {
	s.change(func(tx domain.Tx) error {
		c := &domain.Connection{ID: domain.ConnectionID(p.Connection())}
		if err := tx.Get(c); err != nil {
			return err
		}
		now := s.Home.Env.Now()
		c.SessionID = domain.NewID[domain.SessionID](s.Home.Env)
		return putAll(tx, c, &domain.Session{ID: c.SessionID, ClientID: c.ClientID, ConsentID: c.ConsentID, ConnectionID: c.ID,
			Custodian: c.Custodian, Cause: domain.CauseRequested, State: domain.SessionQueued, CreatedAt: now, UpdatedAt: now,
			ExpiresAt: now.Add(domain.SessionLife)})
	})
}

// due lays a reading that is due, when the clock has nothing else to do.
func due(s *scene, p *journey.Player) {
	must(s.t, clock(s.t.Context(), &visitor{scene: s}))
	s.change(func(tx domain.Tx) error {
		c := &domain.Connection{ID: domain.ConnectionID(p.Connection())}
		if err := tx.Get(c); err != nil {
			return err
		}
		c.NextRefreshAt = s.Home.Env.Now()
		return tx.Put(c)
	})
}

func putAll(tx domain.Tx, docs ...domain.Document) error {
	for _, d := range docs {
		if err := tx.Put(d); err != nil {
			return err
		}
	}
	return nil
}

// Leads to where entrances are.
var (
	asked     = []string{"ask"}
	opened    = []string{"ask", "open"}
	granted   = []string{"ask", "open", "grant"}
	suspended = []string{"ask", "open", "grant", "login 20000001", "challenge code"}
	read      = []string{"ask", "open", "grant", "login 20000005", "done"}
	managing  = append(slices.Clone(read), "link manage")
)

var (
	open2  = []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid}
	anyOf  = domain.AnyConsentState
	inVain = "it is the client's own, and about no investor"
)

// entrances are all of them. One route has several rows where it is used in several ways.
var entrances = slices.Concat(free, clientEntrances, readingEntrances, investorEntrances, shownEntrances, systemEntrances)

var free = []entrance{
	{at: "api GET /v1/client", free: inVain},
	{at: "api GET /v1/custodians", free: inVain},
	{at: "api POST /v1/advisors", free: inVain},
	{at: "api GET /v1/advisors", free: inVain},
	{at: "api DELETE /v1/advisors/{advisor}", free: inVain},
	{at: "api POST /v1/keys", free: inVain},
	{at: "api GET /v1/keys", free: inVain},
	{at: "api POST /v1/keys/{key}/rotate", free: inVain},
	{at: "api DELETE /v1/keys/{key}", free: inVain},
	{at: "api POST /v1/endpoints", free: inVain},
	{at: "api GET /v1/endpoints", free: inVain},
	{at: "api GET /v1/endpoints/{endpoint}", free: inVain},
	{at: "api PATCH /v1/endpoints/{endpoint}", free: inVain},
	{at: "api DELETE /v1/endpoints/{endpoint}", free: inVain},
	{at: "api POST /v1/endpoints/{endpoint}/rotate", free: inVain},
	{at: "api POST /v1/endpoints/{endpoint}/test", free: inVain},
	{at: "api GET /v1/deliveries", free: "identifiers and states: that a consent ended must be told after its end"},
	{at: "api GET /v1/deliveries/{delivery}", free: "identifiers and states: that a consent ended must be told after its end"},
	{at: "api POST /v1/replays", free: "identifiers and states: that a consent ended must be told after its end"},
	{at: "topic notice-raised", free: "identifiers and states: that a consent ended must be told after its end"},
	{at: "topic delivery-due", free: "identifiers and states: that a consent ended must be told after its end"},
	{at: "topic erasure-requested", free: "it erases only what an ended consent left, or what was begun under one"},
	{at: "api POST /v1/consents", free: "it asks for one"},
	{at: "api GET /v1/consents", free: "states of consents, their own; what the caller may not see is left out"},
	{at: "api GET /v1/connections", free: "states of connections, their own; what the caller may not see is left out"},
	{at: "pages GET /{$}", free: "it is the same for everybody"},
	{at: "pages GET /static/{file}", free: "it is the same for everybody"},
	{at: "pages POST /leave", free: "it ends the visit"},
	{at: "pages GET /seal/key", free: "a public key"},
}

var clientEntrances = []entrance{
	{at: "api PATCH /v1/consents/{consent}", lead: read, action: "consent.narrowed", by: domain.ActorClient, states: open2,
		use: call("PATCH", "/v1/consents/{consent}", map[string][]string{"products": {"accounts", "cash"}})},
	{at: "api DELETE /v1/consents/{consent}", lead: read, action: "consent.terminated", by: domain.ActorClient, late: true,
		states: append(slices.Clone(open2), domain.ConsentTerminated), use: call("DELETE", "/v1/consents/{consent}", nil)},
	{at: "api POST /v1/consents/{consent}/links", lead: asked, action: "link.created", by: domain.ActorClient,
		states: open2[:1], use: call("POST", "/v1/consents/{consent}/links", map[string]string{"purpose": "consent"})},
	{at: "api POST /v1/consents/{consent}/links", lead: read, action: "link.created", by: domain.ActorClient,
		use: call("POST", "/v1/consents/{consent}/links", map[string]string{"purpose": "reconnect"})},
	{at: "api POST /v1/consents/{consent}/links", lead: read, action: "link.created", by: domain.ActorClient, states: anyOf, late: true,
		use: call("POST", "/v1/consents/{consent}/links", map[string]string{"purpose": "manage"})},
	{at: "api POST /v1/connections/{connection}/refresh", lead: read, action: "refresh.requested", by: domain.ActorClient, terms: "custodian once",
		use: call("POST", "/v1/connections/{connection}/refresh", map[string]string{})},
	{at: "api DELETE /v1/connections/{connection}", lead: read, action: "erasure.begun", by: domain.ActorClient, states: anyOf, late: true,
		use: call("DELETE", "/v1/connections/{connection}", nil)},
	{at: "api DELETE /v1/connections/{connection}/credentials", lead: read, action: "erasure.begun", by: domain.ActorClient, states: anyOf, late: true,
		use: call("DELETE", "/v1/connections/{connection}/credentials", nil)},
	{at: "api DELETE /v1/connections/{connection}/data", lead: read, action: "erasure.begun", by: domain.ActorClient, states: anyOf, late: true,
		use: call("DELETE", "/v1/connections/{connection}/data", nil)},
}

var readingEntrances = []entrance{
	{at: "api GET /v1/connections/{connection}/portfolio", lead: read, action: "portfolio.read", by: domain.ActorClient,
		terms: "custodian reader", use: call("GET", "/v1/connections/{connection}/portfolio", nil)},
	{at: "api GET /v1/connections/{connection}/portfolios", lead: read, action: "portfolio.listed", by: domain.ActorClient,
		terms: "custodian reader", use: call("GET", "/v1/connections/{connection}/portfolios", nil)},
	{at: "api GET /v1/connections/{connection}/portfolio/{product}", lead: read, action: "portfolio.read", by: domain.ActorClient,
		terms: "custodian product reader", use: call("GET", "/v1/connections/{connection}/portfolio/positions", nil)},
	{at: "api GET /v1/consents/{consent}", lead: read, action: "consent.read", by: domain.ActorClient, states: anyOf, terms: "reader",
		shows: true, use: call("GET", "/v1/consents/{consent}", nil)},
	{at: "api GET /v1/connections/{connection}", lead: read, by: domain.ActorClient, states: anyOf, terms: "reader",
		shows: true, use: call("GET", "/v1/connections/{connection}", nil)},
	{at: "api GET /v1/connections/{connection}/erasures", lead: read, by: domain.ActorClient, states: anyOf,
		shows: true, use: call("GET", "/v1/connections/{connection}/erasures", nil)},
}

var investorEntrances = []entrance{
	{at: "pages POST /i/{token}", lead: asked, action: "link.redeemed", by: domain.ActorInvestor, states: open2,
		use: visit("POST", "/i/{token}")},
	{at: "pages POST /consent/grant", lead: opened, action: "consent.granted", by: domain.ActorInvestor, states: open2, use: step("grant")},
	{at: "pages POST /consent/deny", lead: opened, action: "consent.rejected", by: domain.ActorInvestor, late: true,
		states: []domain.ConsentState{domain.ConsentReceived, domain.ConsentRejected}, use: step("deny")},
	{at: "pages POST /me/revoke", lead: managing, action: "consent.revoked", by: domain.ActorInvestor, late: true,
		states: []domain.ConsentState{domain.ConsentValid, domain.ConsentRevoked}, use: visit("POST", "/me/revoke")},
	{at: "pages POST /erase", lead: managing, action: "erasure.begun", by: domain.ActorInvestor, states: anyOf, late: true, use: eraseAs("data")},
	{at: "pages POST /erase", lead: managing, action: "erasure.begun", by: domain.ActorInvestor, states: anyOf, late: true, use: eraseAs("all")},
	{at: "pages POST /seal", lead: granted, action: "sealing.taken", by: domain.ActorInvestor, terms: "custodian once", use: step("login 20000005")},
	{at: "pages POST /seal/again", lead: read, action: "session.requested", by: domain.ActorInvestor, terms: "custodian once", use: step("again")},
	{at: "pages POST /challenge/answer", lead: suspended, action: "challenge.answered", by: domain.ActorInvestor, terms: "custodian", use: renew},
}

// shownEntrances say how things stand. With a wrong consent they may say that, or refuse; they change nothing.
var shownEntrances = []entrance{
	{at: "pages GET /i/{token}", lead: asked, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/i/{token}")},
	{at: "pages GET /consent", lead: opened, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/consent")},
	{at: "pages GET /connect", lead: granted, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/connect")},
	{at: "pages GET /sca", lead: suspended, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/sca")},
	{at: "pages GET /done", lead: read, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/done")},
	{at: "pages GET /me", lead: managing, shows: true, states: anyOf, by: domain.ActorInvestor, use: visit("GET", "/me")},
	{at: "pages GET /challenge/state", lead: suspended, shows: true, hides: true, by: domain.ActorInvestor, use: question},
	{at: "pages GET /challenge/events", lead: suspended, shows: true, hides: true, by: domain.ActorInvestor, use: stream},
	{at: "pages GET /challenge/{challenge}/image", lead: suspended, shows: true, hides: true, by: domain.ActorInvestor,
		use: visit("GET", "/challenge/{challenge}/image")},
}

var systemEntrances = []entrance{
	{at: "topic session-requested", lead: read, lay: queued, action: "session.started", by: domain.ActorSystem, terms: "custodian", cuts: true, use: handle},
	{at: "internal POST /answer", lead: suspended, action: "session.answered", by: domain.ActorSystem, terms: "custodian", cuts: true, use: answer},
	{at: "clock", lead: read, lay: due, action: "refresh.scheduled", by: domain.ActorSystem, terms: "custodian once", cuts: true, use: clock},
}

// ways lists every way into the system.
func ways(t *testing.T) (all []string) {
	t.Helper()
	p, err := home.ReadPipeline()
	must(t, err)
	for _, f := range p.Functions {
		if f.Trigger != "" {
			all = append(all, "topic "+string(f.Trigger))
		}
		if f.Schedule != "" {
			all = append(all, "clock")
		}
		for _, r := range f.Routes {
			all = append(all, r.Host+" "+r.Method+" "+r.Path)
		}
	}
	return all
}

// TestEveryEntranceHasARow holds the table to pipeline.json, both ways.
func TestEveryEntranceHasARow(t *testing.T) {
	rows := map[string]bool{}
	for _, e := range entrances {
		rows[e.at] = true
		if (e.free == "") != (e.use != nil) {
			t.Errorf("%s: say either why it needs no consent, or how it is used", e.at)
		}
	}
	all := ways(t)
	for _, at := range all {
		if !rows[at] {
			t.Errorf("%s has no row: say what it does with a wrong consent", at)
		}
		delete(rows, at)
	}
	if len(rows) > 0 {
		t.Errorf("no such entrances: %q", slices.Sorted(maps.Keys(rows)))
	}
}

// TestEntrances tries every entrance with wrong consents, and with the right one: with all wrong ones at full length,
// otherwise with a third of them by the seed. A scene serves a few entrances: the sessions that they leave waiting at
// the bank end by themselves after five minutes, which would be a change that nobody made.
func TestEntrances(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	const perScene = 6
	var s *scene
	tries, used := 0, 0
	for i, e := range entrances {
		if e.free != "" {
			continue
		}
		if used%perScene == 0 {
			s = open(t, home.Settings{})
		}
		used++
		t.Run(fmt.Sprintf("%d %s", i, e.at), func(t *testing.T) {
			s.t = t
			v := s.prepare(e)
			for n, w := range wrongs(e) {
				if !*house.Long && (uint64(n+i)+*house.Seed)%3 != 0 {
					continue
				}
				tries++
				t.Run(w.name, func(t *testing.T) { s.t = t; s.try(e, v, w) })
			}
			s.t = t
			s.control(e)
		})
	}
	t.Logf("%d tries at %d entrances", tries, len(ways(t)))
}

// prepare leads an investor to the entrance.
func (s *scene) prepare(e entrance) *visitor {
	s.t.Helper()
	s.Home.Bank.Unlock("20000001") // it counts questions that nobody answers
	p := s.player()
	s.play(p, e.lead...)
	s.rest()
	if e.lay != nil {
		e.lay(s, p)
	}
	return &visitor{scene: s, player: p, place: &s.Place, consent: p.Consent(), connection: p.Connection(), challenge: p.Asked()}
}

// control makes sure that the right consent opens the entrance, so that the refusals were about the wrong.
func (s *scene) control(e entrance) {
	s.t.Helper()
	v := s.prepare(e)
	before := s.entries()
	if err := e.use(s.t.Context(), v); err != nil {
		s.t.Errorf("with the right consent: %v", err)
	}
	s.rest()
	done := false
	for _, entry := range s.entriesSince(before) {
		done = done || entry.Type == "sluis."+e.action && entry.Data.Outcome == domain.OutcomeAllowed
		if entry.Data.Outcome == domain.OutcomeDenied {
			s.t.Errorf("with the right consent %s was denied: %s", entry.Type, entry.Data.Reason)
		}
	}
	if !done && !e.shows {
		s.t.Errorf("with the right consent no %s was recorded", e.action)
	}
}
