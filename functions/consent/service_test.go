package consent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// home is a consent function at work: one client with a key, two custodians, an in-memory store, a clock that stands.
type home struct {
	*Service
	t      testing.TB
	store  *memory
	mux    *http.ServeMux
	clock  *atomic.Int64 // Unix milliseconds
	client *domain.Client
	key    string
}

// noise is deterministic randomness for many goroutines.
type noise struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (n *noise) Read(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.r.Read(p)
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newHome(t testing.TB) *home {
	t.Helper()
	h := &home{t: t, store: newMemory(t), mux: http.NewServeMux(), clock: &atomic.Int64{}}
	h.clock.Store(start.UnixMilli())
	env := domain.Env{Clock: func() time.Time { return time.UnixMilli(h.clock.Load()) },
		Rand: &noise{r: rand.NewChaCha8([32]byte{1})}, Region: "local"}
	door := &serve.Door{Store: h.store, Env: env, Salt: domain.NewSecret([]byte("salt")), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	h.Service = &Service{Store: h.store, Env: env, Door: door, Custodians: catalogue(t),
		LinkKey: domain.NewSecret([]byte("0123456789abcdef0123456789abcdef")), PagesURL: "http://localhost:8081/"}
	h.Routes(h.mux)
	h.client, h.key = h.newClient("Beacon Wealth", Terms{ReturnOrigins: []string{"https://app.example"},
		Saving: map[domain.Product]domain.Saving{domain.ProductCash: {Scope: domain.SaveNone}}})
	return h
}

func catalogue(t testing.TB) []domain.Custodian {
	t.Helper()
	raw, err := schemas.FS.ReadFile("custodians.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []domain.Custodian
	if err := json.Unmarshal(raw, &out); err != nil || len(out) < 2 {
		t.Fatalf("reading custodians: %d, %v", len(out), err)
	}
	return out
}

func (h *home) newClient(name string, terms Terms) (*domain.Client, string) {
	h.t.Helper()
	c, err := AddClient(context.Background(), h.store, h.Env, name, terms)
	if err != nil {
		h.t.Fatal(err)
	}
	return c, h.newKeyFor(c.ID, domain.RoleClient, "")
}

func (h *home) newKeyFor(id domain.ClientID, role domain.Role, advisor domain.AdvisorID) string {
	h.t.Helper()
	_, token, err := IssueKey(context.Background(), h.store, h.Env, id, KeyTerms{Role: role, AdvisorID: advisor})
	if err != nil {
		h.t.Fatal(err)
	}
	return string(token.Reveal())
}

func (h *home) pass(d time.Duration) { h.clock.Add(d.Milliseconds()) }

// reply is an answer of the API: its status and its members.
type reply struct {
	status int
	body   map[string]any
	header http.Header
	raw    string
}

func (r reply) text(member string) string {
	text, _ := r.body[member].(string)
	return text
}

// as sends a request with a key; headers are name, value, name, value.
func (h *home) as(key, method, path, body string, headers ...string) reply {
	h.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+key)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	out := reply{status: w.Code, header: w.Header(), raw: w.Body.String()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out.body); err != nil {
			h.t.Errorf("%s %s: answer is not JSON: %v", method, path, err)
		}
	}
	return out
}

// call sends a request as the client and wants a status.
func (h *home) call(want int, method, path, body string, headers ...string) reply {
	h.t.Helper()
	r := h.as(h.key, method, path, body, headers...)
	if r.status != want {
		h.t.Fatalf("%s %s: status %d, want %d: %s", method, path, r.status, want, r.raw)
	}
	return r
}

const asked = `{"investor_ref":"inv-1","purpose":{"code":"wealth_overview","text":"Your wealth at a glance"},"products":["accounts","cash","positions"]}`

// ask makes a consent and returns it with its link's token.
func (h *home) ask(body string) (domain.ConsentID, string) {
	h.t.Helper()
	r := h.call(http.StatusCreated, "POST", "/v1/consents", body)
	return domain.ConsentID(r.text("id")), tokenOf(h.t, r)
}

func tokenOf(t testing.TB, r reply) string {
	t.Helper()
	link, _ := r.body["link"].(map[string]any)
	if link == nil {
		link = r.body
	}
	url, _ := link["url"].(string)
	token, ok := strings.CutPrefix(url, "http://localhost:8081/i/")
	if !ok || len(token) != tokenLength {
		t.Fatalf("link %q has not the shape of one", url)
	}
	return token
}

// browser is the random value of the browser in which tests open links.
var browser = strings.Repeat("b", 43)

// read is what investors in tests confirm.
var read = domain.Confirmation{Digest: "5e1f", Language: "en", Version: "1"}

// visit redeems a token.
func (h *home) visit(token string) *domain.Visit {
	h.t.Helper()
	_, v, err := h.Redeem(context.Background(), token, browser, "origin")
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

// granted makes a consent that the investor granted for the first custodian.
func (h *home) granted(body string) (domain.ConsentID, *domain.Visit) {
	h.t.Helper()
	id, token := h.ask(body)
	v := h.visit(token)
	if err := h.Grant(context.Background(), v, h.Custodians[0].ID, read, "origin"); err != nil {
		h.t.Fatal(err)
	}
	return id, v
}

func (h *home) consent(id domain.ConsentID) *domain.Consent {
	h.t.Helper()
	c := &domain.Consent{ID: id}
	if err := h.store.Get(context.Background(), c); err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *home) connection(id domain.ConsentID) *domain.Connection {
	h.t.Helper()
	c := &domain.Connection{ID: h.consent(id).ConnectionID}
	if err := h.store.Get(context.Background(), c); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// wantEntry checks that the newest entry of an action is as said, and returns it.
func (h *home) wantEntry(action string, outcome domain.Outcome, reason string) domain.Entry {
	h.t.Helper()
	all := h.store.entries(action)
	if len(all) == 0 {
		h.t.Fatalf("no entry of %s", action)
	}
	for i := len(all) - 1; i >= 0; i-- { // several may share one millisecond
		if e := all[i]; e.Data.Outcome == outcome && e.Data.Reason == reason {
			if e.SpecVersion != "1.0" || e.Time.IsZero() || e.Subject == "" || e.Data.Actor.Kind == "" || e.Data.Actor.ID == "" {
				h.t.Errorf("entry of %s is incomplete: %+v", action, e)
			}
			return e
		}
	}
	h.t.Fatalf("no entry of %s with outcome %s and reason %q among %+v", action, outcome, reason, all)
	return domain.Entry{}
}

// wantCode checks the stable code of an error.
func wantCode(t testing.TB, err error, kind domain.Kind, code string) {
	t.Helper()
	if err == nil || domain.KindOf(err) != kind || domain.CodeOf(err) != code {
		t.Errorf("got error %v, want %s %s", err, kind, code)
	}
}

// apiRoutes reads this function's API routes from pipeline.json.
func apiRoutes(t testing.TB) [][2]string {
	t.Helper()
	raw, err := schemas.FS.ReadFile("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	var flow struct {
		Functions []struct {
			Name   string
			Routes []struct{ Host, Method, Path string }
		}
	}
	if err := json.Unmarshal(raw, &flow); err != nil {
		t.Fatal(err)
	}
	var out [][2]string
	for _, f := range flow.Functions {
		for _, r := range f.Routes {
			if f.Name == function && r.Host == "api" {
				out = append(out, [2]string{r.Method, r.Path})
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("pipeline.json has no API routes of consent")
	}
	return out
}

func TestEveryRouteOfThePipelineAnswers(t *testing.T) {
	h := newHome(t)
	paths := strings.NewReplacer("{consent}", "con_x", "{advisor}", "adv_x", "{key}", "key_x")
	for _, route := range apiRoutes(t) {
		t.Run(route[0]+" "+route[1], func(t *testing.T) {
			r := httptest.NewRequest(route[0], paths.Replace(route[1]), nil)
			if _, pattern := h.mux.Handler(r); pattern != route[0]+" "+route[1] {
				t.Errorf("registered as %q", pattern)
			}
			w := httptest.NewRecorder()
			h.mux.ServeHTTP(w, r)
			if w.Code != http.StatusUnauthorized {
				t.Errorf("without a key: status %d, want 401", w.Code)
			}
		})
	}
}

func TestRoles(t *testing.T) {
	h := newHome(t)
	advisor := h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id")
	keys := map[domain.Role]string{domain.RoleClient: h.key,
		domain.RoleAdvisor:  h.newKeyFor(h.client.ID, domain.RoleAdvisor, domain.AdvisorID(advisor)),
		domain.RoleReviewer: h.newKeyFor(h.client.ID, domain.RoleReviewer, "")}
	open := map[string]bool{"GET /v1/consents": true, "GET /v1/consents/{consent}": true}
	paths := strings.NewReplacer("{consent}", "con_x", "{advisor}", "adv_x", "{key}", "key_x")
	for _, route := range apiRoutes(t) {
		for role, key := range keys {
			t.Run(route[0]+" "+route[1]+" as "+string(role), func(t *testing.T) {
				before := len(h.store.entries("request.refused"))
				r := h.as(key, route[0], paths.Replace(route[1]), "")
				refused := r.status == http.StatusForbidden && r.text("code") == "role_forbidden"
				want := role != domain.RoleClient && !open[route[0]+" "+route[1]]
				if refused != want {
					t.Errorf("refused %v, want %v: %s", refused, want, r.raw)
				}
				if recorded := len(h.store.entries("request.refused")) - before; want != (recorded == 1) {
					t.Errorf("%d refusals recorded", recorded)
				}
			})
		}
	}
}

func TestCatalogueShowsNoSecretsOrEndpoints(t *testing.T) {
	h := newHome(t)
	r := h.call(http.StatusOK, "GET", "/v1/custodians", "")
	rows, _ := r.body["data"].([]any)
	if len(rows) != len(h.Custodians) {
		t.Fatalf("%d custodians, want %d", len(rows), len(h.Custodians))
	}
	first, _ := rows[0].(map[string]any)
	for _, member := range []string{"id", "name", "country", "methods", "products", "unattended", "sandbox"} {
		if _, ok := first[member]; !ok {
			t.Errorf("member %s is missing", member)
		}
		delete(first, member)
	}
	if len(first) > 0 {
		t.Errorf("too much is shown: %v", first)
	}
	for _, hidden := range []string{h.Custodians[0].Endpoints["api"], h.Custodians[0].Secrets[0], "quirk"} {
		if strings.Contains(r.raw, hidden) {
			t.Errorf("%q is shown", hidden)
		}
	}
}

func TestClientSeesItsTerms(t *testing.T) {
	h := newHome(t)
	r := h.call(http.StatusOK, "GET", "/v1/client", "")
	saving, _ := r.body["saving"].(map[string]any)
	cash, _ := saving["cash"].(map[string]any)
	orders, _ := saving["orders"].(map[string]any)
	if r.text("name") != "Beacon Wealth" || cash["scope"] != "none" || orders["scope"] != "latest" || len(saving) != len(domain.Products) {
		t.Errorf("got %s", r.raw)
	}
	if regions, ok := r.body["regions"].([]any); !ok || len(regions) != 0 {
		t.Errorf("regions %v, want an empty list", r.body["regions"])
	}
}
