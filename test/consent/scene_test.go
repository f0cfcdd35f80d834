// Package consent_test shows that nothing happens without a consent (promise 1 of the design).
//
// Two tests, both against a whole instance in this process, with its sandbox bank and the client's inbox for webhooks:
//
//	entrances  every way into the system (each route of pipeline.json, each topic's handler, the clock) is tried with
//	           every wrong consent. Each try is refused, changes nothing, and stands once in the audit log with who,
//	           what, which consent and why. A new entrance without a row in the table fails the test.
//	moments    journeys are played, and what was allowed is taken away in the midst of them: between any two steps,
//	           during any request at the bank, and around any commit. After that nothing more is asked of the bank but
//	           to close the session, nothing is stored or read, what was held is erased, and one webhook says so.
//
// The clock is the tests' own, so that a consent can end by time without waiting for it.
package consent_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/consent"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/domain"
)

// scene is an instance with two clients: the one whose investors consent, with two advisors, and a stranger.
type scene struct {
	*journey.Stage
	t        testing.TB
	shift    *atomic.Int64 // of the clock, ahead of the real one
	client   domain.ClientID
	called   *advisor // named in the consents
	other    *advisor // of the same client, not named
	alien    *journey.Place
	stranger domain.ClientID
	plays    int
}

// advisor is a person at the client with a key of their own.
type advisor struct {
	id    domain.AdvisorID
	token string
}

// open starts a scene. The clock's rounds are made by hand unless set says how often.
func open(t testing.TB, set home.Settings) *scene {
	t.Helper()
	s := &scene{t: t, shift: &atomic.Int64{}}
	set.Data = filepath.Join(t.TempDir(), "data")
	set.Env.Clock = func() time.Time { return time.Now().Add(time.Duration(s.shift.Load())) }
	if set.Sweep == 0 {
		set.Sweep = 24 * time.Hour
	}
	var err error
	s.Stage, err = journey.OpenStage(context.Background(), set, nil)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	s.Inbox.AnyTime()
	var self struct {
		ID domain.ClientID `json:"id"`
	}
	must(t, s.Call(t.Context(), http.MethodGet, "/v1/client", nil, &self))
	s.client = self.ID
	s.called, s.other = s.hire("Called"), s.hire("Other")
	stranger := s.Place
	s.alien = &stranger
	client, err := consent.AddClient(t.Context(), s.Home, s.Home.Env, "Stranger", consent.Terms{})
	must(t, err)
	s.stranger = client.ID
	s.alien.Token = s.key(client.ID, domain.RoleClient, "")
	return s
}

// hire adds an advisor with a key.
func (s *scene) hire(name string) *advisor {
	var made struct {
		ID domain.AdvisorID `json:"id"`
	}
	must(s.t, s.Call(s.t.Context(), http.MethodPost, "/v1/advisors", map[string]string{"name": name}, &made))
	return &advisor{made.ID, s.key(s.client, domain.RoleAdvisor, made.ID)}
}

func (s *scene) key(client domain.ClientID, role domain.Role, id domain.AdvisorID) string {
	_, token, err := consent.IssueKey(s.t.Context(), s.Home, s.Home.Env, client, consent.KeyTerms{Role: role, AdvisorID: id, Label: "test"})
	must(s.t, err)
	return string(token.Reveal())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as is the place with another key.
func (s *scene) as(token string) *journey.Place {
	p := s.Place
	p.Token = token
	return &p
}

// player begins a journey of an investor of their own. A consent is asked for with the called advisor in it.
func (s *scene) player() *journey.Player {
	s.plays++
	return s.Player(fmt.Sprintf("investor-%d", s.plays))
}

// ask is the step that asks for a consent that names the called advisor.
func (s *scene) ask(more string) string { return "ask advisors=" + string(s.called.id) + more }

// play does steps that must succeed.
func (s *scene) play(p *journey.Player, steps ...string) {
	s.t.Helper()
	for _, words := range steps {
		if words == "ask" {
			words = s.ask("")
		}
		if err := s.step(p, words); err != nil {
			s.t.Fatalf("%s: %v", words, err)
		}
	}
}

// step does one step. One that waits looks more often than a browser does.
func (s *scene) step(p *journey.Player, words string) error {
	wanted := journey.Awaited(words)
	if wanted == nil {
		return p.Play(s.t.Context(), words)
	}
	return s.until(func() (bool, error) { return s.arrived(p, wanted) })
}

// arrived looks at the investor's page, and asks the bank, as the page does, whether an approval has come.
func (s *scene) arrived(p *journey.Player, wanted func(*challenge.State) bool) (bool, error) {
	state, err := p.Look(s.t.Context())
	if err != nil || wanted(state) {
		return err == nil, err
	}
	if c := state.Challenge; c != nil && c.Flow == domain.FlowDecoupled {
		s.shift.Add(int64(time.Duration(c.PollSeconds) * time.Second)) // as often as the bank may be asked
		body := map[string]string{"kind": string(domain.AnswerPoll), "challenge_id": string(c.ID)}
		err = p.Visit(s.t.Context(), http.MethodPost, "/challenge/answer", body, nil)
		if journey.IsRefusal(err) { // the next look says why
			err = nil
		}
	}
	return false, err
}

// patience bounds every wait; nothing takes as long, even on a slow machine.
const patience = 30 * time.Second

var errWaited = errors.New("waited too long")

func (s *scene) until(fulfilled func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if ok, err := fulfilled(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errWaited
		}
	}
}

// rest waits until no event is due or being handled.
func (s *scene) rest() {
	s.t.Helper()
	quiet := 0
	err := s.until(func() (bool, error) {
		backlog, err := s.Home.Pending(s.t.Context())
		busy := slices.ContainsFunc(backlog, func(l backend.Backlog) bool { return l.State == "due" || l.State == "leased" })
		if quiet++; busy {
			quiet = 0
		}
		return quiet > 2, err
	})
	if err != nil {
		s.t.Fatalf("waiting for the queue to be empty: %v", err)
	}
}

// change edits documents as if they had always been so, past all rules.
func (s *scene) change(edit func(domain.Tx) error) {
	s.t.Helper()
	must(s.t, s.Home.Commit(s.t.Context(), func(tx domain.Tx) error {
		if err := edit(tx); err != nil {
			return err
		}
		return tx.Record(domain.Note(s.Home.Env, "sluis", "test.changed", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil))
	}))
}

// snapshot is every document but the audit entries, by kind and key, and how many events wait.
type snapshot map[string]string

// listed says how all documents of a kind are found: by an index of all, by one for each client, or by the connection
// whose key they have or that an index wants.
var listed = map[domain.DocumentKind]struct{ index, of string }{
	"client": {"clients", ""}, "advisor": {"advisors_by_client", "client"}, "api_key": {"keys_by_client", "client"},
	"consent": {"consents_by_client", "client"}, "connection": {"connections_by_client", "client"},
	"credential": {"", "key"}, "data_key": {"", "key"},
	"portfolio": {"portfolios_by_connection", "connection"}, "part": {"parts_by_connection", "connection"},
	"link": {"expired_links", ""}, "visit": {"expired_visits", ""}, "session": {"expired_sessions", ""},
	"challenge": {"expired_challenges", ""}, "notice": {"expired_notices", ""}, "delivery": {"expired_deliveries", ""},
	"endpoint": {"endpoints_by_client", "client"}, "once": {"expired_once", ""}, "pace": {"expired_paces", ""}, "bank_access": {"expired_bank_accesses", ""},
	"erasure": {"erasures_by_connection", "connection"},
}

// kinds are those of retention.json, without the audit log.
func kinds(t testing.TB) (all []domain.DocumentKind) {
	t.Helper()
	raw, err := schemas.FS.ReadFile("retention.json")
	must(t, err)
	var rows []struct {
		Kind domain.DocumentKind `json:"kind"`
	}
	must(t, json.Unmarshal(raw, &rows))
	for _, r := range rows {
		if _, known := listed[r.Kind]; !known && r.Kind != "audit_entry" {
			t.Fatalf("retention.json has the kind %s, which this test does not know how to list", r.Kind)
		}
		if r.Kind != "audit_entry" {
			all = append(all, r.Kind)
		}
	}
	return all
}

// look takes a snapshot.
func (s *scene) look() snapshot {
	s.t.Helper()
	found := snapshot{}
	clients := s.list("clients", "")
	var connections []document
	for id := range clients {
		maps.Copy(found, tagged("client", clients))
		for _, d := range s.list("connections_by_client", id) {
			connections = append(connections, d)
		}
	}
	for _, kind := range kinds(s.t) {
		switch how := listed[kind]; how.of {
		case "":
			maps.Copy(found, tagged(kind, s.list(how.index, "")))
		case "client":
			for id := range clients {
				maps.Copy(found, tagged(kind, s.list(how.index, id)))
			}
		case "connection":
			for _, c := range connections {
				maps.Copy(found, tagged(kind, s.list(how.index, c.key)))
			}
		case "key":
			for _, c := range connections {
				d := &document{kind: kind, key: c.key}
				switch err := s.Home.Get(s.t.Context(), d); {
				case err == nil:
					found[string(kind)+"/"+c.key] = string(d.body)
				case domain.KindOf(err) != domain.NotFound:
					s.t.Fatal(err)
				}
			}
		}
	}
	backlog, err := s.Home.Pending(s.t.Context())
	must(s.t, err)
	for _, l := range backlog {
		found["events/"+string(l.Topic)+"/"+l.State] = fmt.Sprint(l.Count)
	}
	return found
}

func tagged(kind domain.DocumentKind, docs map[string]document) snapshot {
	out := make(snapshot, len(docs))
	for key, d := range docs {
		out[string(kind)+"/"+key] = string(d.body)
	}
	return out
}

// list reads all pages of an index, by key.
func (s *scene) list(index, match string) map[string]document {
	s.t.Helper()
	q := domain.Query{Index: index, Limit: 1000}
	if match != "" {
		q.Match = []string{match}
	}
	found := map[string]document{}
	for {
		page, err := s.Home.List(s.t.Context(), q)
		must(s.t, err)
		for _, body := range page.Documents {
			var name struct{ ID, Hash string }
			must(s.t, json.Unmarshal(body, &name))
			key := cmp.Or(name.ID, name.Hash)
			found[key] = document{key: key, body: body}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return found
		}
	}
}

// document is any document, as it lies in the store.
type document struct {
	kind domain.DocumentKind
	key  string
	body []byte
}

func (d *document) Kind() domain.DocumentKind       { return d.kind }
func (d *document) Key() string                     { return d.key }
func (d *document) MarshalJSON() ([]byte, error)    { return d.body, nil }
func (d *document) UnmarshalJSON(body []byte) error { d.body = slices.Clone(body); return nil }

// changed lists what differs between two snapshots. Of events only more of them count: some wait for their time.
func (before snapshot) changed(after snapshot) (keys []string) {
	for key, body := range after {
		if before[key] != body && !(strings.HasPrefix(key, "events/") && number(body) < number(before[key])) {
			keys = append(keys, key)
		}
	}
	for key := range before {
		if _, there := after[key]; !there && !strings.HasPrefix(key, "events/") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func number(text string) int {
	n, _ := strconv.Atoi(text) // absent counts as none
	return n
}
