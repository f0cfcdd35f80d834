// Package access shows who may do what: every operation of openapi.yaml and every page, for every role, with one's own
// things and with another tenant's; what an end of a key, a link or a visit stops; and the tricks by which browsers and
// paths have been made to do what they should not.
//
// A [world] is a whole house in this process with two clients that have the same things each: advisors, keys, endpoints,
// a consent that was read, one that nobody decided, one whose bank asks a question. What may be done stands in rules.txt;
// the tests carry it out row by row. The clock of a world can be moved, so that keys and visits expire at once.
package access

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/consent"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	house.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a house in this process, with a clock that can be moved.
type world struct {
	*testing.T
	*journey.Stage
	set     home.Settings
	shift   atomic.Int64
	commits atomic.Int64
	inboxes []*journey.Inbox
	taking  string // an address that takes whatever webhook comes
}

// open starts a world. It ends with the test. Its clock begins in the past, as webhooks are refused that are not of now.
func open(t *testing.T) *world {
	t.Helper()
	w := &world{T: t}
	w.pass(-past)
	w.set = home.Settings{Data: t.TempDir(), Sweep: time.Hour, Rules: &domain.BankRules{}, // two clients' investors share the few logins of the sandbox
		Env: domain.Env{Clock: func() time.Time { return time.Now().Add(time.Duration(w.shift.Load())) }},
		Fault: func(point string) error {
			if point == "before-commit" {
				w.commits.Add(1)
			}
			return nil
		}}
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
		in := journey.NewInbox(l, nil)
		go func() { _ = in.Serve() }() // ends with its listener
		w.inboxes = append(w.inboxes, in)
		w.set.Webhooks = append(w.set.Webhooks, netip.MustParseAddrPort(l.Addr().String()))
	}
	taking := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(taking.Close)
	w.taking = taking.URL + "/webhooks"
	w.set.Webhooks = append(w.set.Webhooks, netip.MustParseAddrPort(taking.Listener.Addr().String()))
	stage, err := journey.OpenStage(t.Context(), w.set, nil)
	must(t, err)
	w.Stage = stage
	t.Cleanup(func() { must(t, stage.Close()) })
	return w
}

// past is long enough for a key in rotation and a visit to expire.
const past = 61 * time.Minute

// pass moves the clock ahead.
func (w *world) pass(d time.Duration) { w.shift.Add(int64(d)) }

// request is one request to one of the hosts of pipeline.json, with everything that may differ.
type request struct {
	host, method, path, body string
	header                   http.Header
}

// api is a request to the client API with a key.
func api(token, method, path, body string) request {
	r := request{"api", method, path, body, http.Header{}}
	if token != "" {
		r.header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// page is a request to the investor's pages with a visit's cookie, as a browser sends it from the pages themselves.
func page(visit, method, path, body string) request {
	r := request{"pages", method, path, body, http.Header{"Sec-Fetch-Site": {"same-origin"}}}
	if visit != "" {
		r.header.Set("Cookie", cookieName+"="+visit)
	}
	return r
}

// The cookies of a visit and of a browser.
const (
	cookieName  = "__Host-sluis"
	browserName = "__Host-sluis-browser"
)

// send sends a request to the house without a socket. A stream is read up to its first event.
func (w *world) send(r request) *httptest.ResponseRecorder {
	w.Helper()
	ctx, done := context.WithTimeout(w.Context(), 30*time.Second)
	defer done()
	req := httptest.NewRequestWithContext(ctx, r.method, r.path, strings.NewReader(r.body))
	maps.Copy(req.Header, r.header)
	if r.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
		if r.host == "pages" && !strings.HasPrefix(r.body, "{") {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	out := httptest.NewRecorder()
	w.Home.Handler(r.host).ServeHTTP(&firstEvent{ResponseRecorder: out, done: done}, req)
	return out
}

// firstEvent ends a request once its stream has sent something.
type firstEvent struct {
	*httptest.ResponseRecorder
	done func()
}

func (f *firstEvent) Flush() {
	f.ResponseRecorder.Flush()
	f.done()
}

// ask sends a request that must succeed, and reads its answer into out.
func (w *world) ask(r request, out any) {
	w.Helper()
	a := w.send(r)
	if a.Code >= 300 {
		w.Fatalf("%s %s: %d %s", r.method, r.path, a.Code, a.Body)
	}
	if out != nil {
		must(w, json.Unmarshal(a.Body.Bytes(), out))
	}
}

// tenant is one client with all that its things are called.
type tenant struct {
	place  journey.Place
	name   string
	client domain.ClientID
	keys   map[string]string // tokens, by the columns of rules.txt and by what became of them
	visits map[string]string // cookies, by the same
	ids    map[string]string // what its requests name, by prefix
	hidden map[string]string // what neither the advisor nor the visiting investor may know of
	asking *journey.Player   // whose bank asks a question
}

// made is the answer to a creation.
type made struct{ ID, Token, State string }

// tenant adds a client and everything that it has. What is to be expired is made first and an hour passes after it.
func (w *world) tenants(names ...string) []*tenant {
	w.Helper()
	all := make([]*tenant, len(names))
	for i, name := range names {
		t := &tenant{place: w.Place, name: name, keys: map[string]string{}, visits: map[string]string{}, ids: map[string]string{}, hidden: map[string]string{"ref": "unseen-" + strings.TrimPrefix(name, "inv-")}}
		t.place.Inbox = w.inboxes[i]
		month := domain.Saving{Scope: domain.SaveHistory, Days: 30}
		must(w, t.place.Join(w.Context(), w.Home, w.Home.Env, consent.Terms{ReturnOrigins: []string{"https://app.example.com"},
			Saving: map[domain.Product]domain.Saving{domain.ProductAccounts: month, domain.ProductPositions: month}}))
		t.keys["client"] = t.place.Token
		var c struct{ ID domain.ClientID }
		w.ask(api(t.place.Token, "GET", "/v1/client", ""), &c)
		t.client = c.ID
		w.people(t)
		p := w.play(t, name+"-gone", "ask", "open")
		t.visits["expired"] = p.Cookie().Value
		all[i] = t
	}
	w.pass(past)
	for _, t := range all {
		w.consents(t)
		w.names(t)
	}
	w.quiet(all...)
	return all
}

// people adds advisors, and a key for every column and every end of a key.
func (w *world) people(t *tenant) {
	w.Helper()
	key := func(name, body string) made {
		var k made
		w.ask(api(t.place.Token, "POST", "/v1/keys", body), &k)
		t.keys[name] = k.Token
		return k
	}
	for _, name := range []string{"advisor", "stranger", "removed"} {
		var a made
		w.ask(api(t.place.Token, "POST", "/v1/advisors", `{"name": "Adviser of `+t.name+`"}`), &a)
		key(name, `{"role": "advisor", "advisor_id": "`+a.ID+`"}`)
		switch name {
		case "advisor":
			t.ids["adv"] = a.ID
		case "stranger":
			t.hidden["adv"] = a.ID
		case "removed":
			w.ask(api(t.place.Token, "DELETE", "/v1/advisors/"+a.ID, ""), nil)
		}
	}
	key("reviewer", `{"role": "reviewer"}`)
	t.ids["key"] = key("spare", `{"role": "reviewer"}`).ID
	key("plain", `{"role": "client"}`)
	old := key("replaced", `{"role": "client", "admin": true}`)
	w.ask(api(t.place.Token, "POST", "/v1/keys/"+old.ID+"/rotate", `{"overlap_hours": 168}`), nil)
	over := key("expired", `{"role": "client"}`)
	w.ask(api(t.place.Token, "POST", "/v1/keys/"+over.ID+"/rotate", `{"overlap_hours": 1}`), nil)
	over = key("revoked", `{"role": "client"}`)
	w.ask(api(t.place.Token, "DELETE", "/v1/keys/"+over.ID, ""), nil)
}

// play begins a journey of a tenant's investor.
func (w *world) play(t *tenant, investor string, steps ...string) *journey.Player {
	w.Helper()
	p := t.place.Player(investor)
	w.steps(p, steps...)
	return p
}

func (w *world) steps(p *journey.Player, steps ...string) {
	w.Helper()
	for _, s := range steps {
		if err := p.Play(w.Context(), s); err != nil {
			w.Fatalf("%s: %v", s, err)
		}
	}
}

// consents makes one that was read twice, one of the same investor whose bank asks a question, and two of another
// investor that nobody decided.
func (w *world) consents(t *tenant) {
	w.Helper()
	ask := "ask advisors=" + t.ids["adv"]
	read := w.play(t, t.name, ask, "open", "grant", "login 20000005", "done", "refresh", "version 2")
	t.ids["con"], t.ids["conn"], t.ids["ref"] = read.Consent(), read.Connection(), t.name
	t.asking = w.play(t, t.name, ask, "open", "grant", "login 20000001", "challenge code")
	t.ids["chal"], t.visits["own"] = string(t.asking.Asked()), t.asking.Cookie().Value
	managing := t.asking.Elsewhere()
	w.steps(managing, "link manage")
	t.visits["managing"] = managing.Cookie().Value
	w.play(t, t.hidden["ref"], "ask advisors="+t.hidden["adv"])
	other := w.play(t, t.hidden["ref"], "ask advisors="+t.hidden["adv"], "open")
	t.hidden["con"], t.hidden["conn"] = other.Consent(), other.Connection()
	t.visits["visitor"] = other.Cookie().Value
	left := w.play(t, t.name, ask, "open")
	t.visits["left"] = left.Cookie().Value
	if a := w.send(page(t.visits["left"], "POST", "/leave", "")); a.Code != http.StatusSeeOther {
		w.Fatalf("leaving: %d", a.Code)
	}
	unopened := w.play(t, t.name, ask)
	_, t.visits["unopened"], _ = strings.Cut(unopened.Link(), "/i/")
	t.visits["garbage"] = strings.Repeat("x", 43)
	t.visits["none"] = ""
}

// names asks the API what else the tenant has.
func (w *world) names(t *tenant) {
	w.Helper()
	var list struct {
		Data []struct {
			ID       string
			NoticeID string `json:"notice_id"`
		}
	}
	for kind, path := range map[string]string{"ep": "/v1/endpoints", "pf": "/v1/connections/" + t.ids["conn"] + "/portfolios", "dlv": "/v1/deliveries"} {
		w.ask(api(t.place.Token, "GET", path, ""), &list)
		t.ids[kind] = list.Data[0].ID
		if kind == "dlv" {
			t.ids["evt"] = list.Data[0].NoticeID
		}
	}
	t.ids["url"] = w.taking
	var k journey.SealKey
	w.ask(page(t.visits["own"], "GET", "/seal/key", ""), &k)
	jwe, err := k.JWK.SealCredential(k.Sealing(), map[string]string{"username": "20000001", "password": bank.PIN}, w.Home.Env.Now())
	must(w, err)
	t.ids["jwe"] = jwe
}

// recorded is what the audit log says of what do does.
func (w *world) recorded(do func()) []domain.Entry {
	w.Helper()
	from, before := w.Home.Env.Now(), map[domain.EntryID]bool{}
	for _, e := range w.entries(from) {
		before[e.ID] = true
	}
	do()
	return slices.DeleteFunc(w.entries(from), func(e domain.Entry) bool { return before[e.ID] })
}

// entries lists the audit log from a moment on.
func (w *world) entries(from domain.Time) []domain.Entry {
	w.Helper()
	var all []domain.Entry
	q := domain.Query{Index: "entries_by_time", From: from.String(), Limit: 1000}
	for {
		found, next, err := domain.List[domain.Entry](w.Context(), w.Home, q)
		must(w, err)
		if all = append(all, found...); next == "" {
			return all
		}
		q.Cursor = next
	}
}

// snapshot is every document of the tenants but the audit log, as JSON, by index and key, with everybody's links, visits
// and remembered requests: what no refused request may change.
func (w *world) snapshot(tenants ...*tenant) map[string]string {
	w.Helper()
	all := map[string]string{}
	var connections []string
	list := func(index string, match ...string) {
		q := domain.Query{Index: index, Match: match, Limit: 1000}
		for {
			page, err := w.Home.List(w.Context(), q)
			must(w, err)
			for _, body := range page.Documents {
				var d struct{ ID, Hash string }
				must(w, json.Unmarshal(body, &d))
				all[index+" "+d.ID+d.Hash+newest.FindString(string(body))] = string(body)
				if index == "connections_by_client" {
					connections = append(connections, d.ID)
				}
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				return
			}
		}
	}
	for _, t := range tenants {
		for _, index := range []string{"advisors_by_client", "keys_by_client", "consents_by_client", "connections_by_client", "notices_by_client", "endpoints_by_client", "deliveries_by_client"} {
			list(index, string(t.client))
		}
	}
	for _, index := range []string{"expired_links", "expired_visits", "expired_once"} {
		list(index)
	}
	for _, id := range connections {
		for _, index := range []string{"sessions_by_connection", "challenges_by_connection", "portfolios_by_connection", "parts_by_connection", "erasures_by_connection"} {
			list(index, id)
		}
		for _, d := range []domain.Document{&domain.Credential{ConnectionID: domain.ConnectionID(id)}, &domain.DataKey{ConnectionID: domain.ConnectionID(id)}} {
			if err := w.Home.Get(w.Context(), d); domain.KindOf(err) == domain.NotFound {
				continue
			} else {
				must(w, err)
			}
			raw, err := json.Marshal(d)
			must(w, err)
			all[string(d.Kind())+" "+d.Key()] = string(raw)
		}
	}
	return all
}

// newest tells a pointer to a consent's newest link from the link.
var newest = regexp.MustCompile(`"newest":"[^"]*"`)

// changes says what differs between two snapshots, without its content.
func changes(before, after map[string]string) []string {
	var out []string
	for k := range after {
		if before[k] != after[k] {
			out = append(out, fmt.Sprintf("%s\n  %.300s\n  %.300s", k, before[k], after[k]))
		}
	}
	for k := range before {
		if _, there := after[k]; !there {
			out = append(out, k+" is gone")
		}
	}
	slices.Sort(out)
	return out
}

// quiet waits until nothing is under way any more: no session at a bank, no webhook on its way.
func (w *world) quiet(tenants ...*tenant) map[string]string {
	w.Helper()
	var last map[string]string
	for range 600 {
		now := w.snapshot(tenants...)
		if maps.Equal(last, now) && busy(now) == "" {
			return now
		}
		last = now
		select {
		case <-w.Context().Done():
			w.Fatal("ended while something was under way")
		case <-time.After(50 * time.Millisecond):
		}
	}
	w.Fatal("something is always under way: ", busy(last))
	return nil
}

// busy finds something that is under way.
func busy(snapshot map[string]string) string {
	for key, body := range snapshot {
		kind, _, _ := strings.Cut(key, " ")
		switch kind {
		case "deliveries_by_client", "sessions_by_connection":
			for _, state := range []string{"pending", "queued", "running"} {
				if bytes.Contains([]byte(body), []byte(`"state":"`+state+`"`)) {
					return body
				}
			}
		}
	}
	return ""
}
