package deliver

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
	"sluis.internal/shared/webhook"
)

// caller is a client's program with an API key.
type caller struct {
	t     *testing.T
	mux   *http.ServeMux
	token string
}

// open gives the bed its front door, and a caller of the given role and client.
func (b *bed) open(role domain.Role, client *domain.Client) *caller {
	b.t.Helper()
	b.Rules = webhook.Rules{Allow: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8090")}}
	b.Door = &serve.Door{Store: b.store, Env: b.Env, Salt: domain.NewSecret([]byte("salt")), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	advisor := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](b.Env), ClientID: client.ID, State: domain.AdvisorActive}
	key, token := domain.NewAPIKey(b.Env, client.ID, role, advisor.ID, "")
	b.store.seed(client, key, advisor)
	mux := http.NewServeMux()
	b.Routes(mux)
	return &caller{b.t, mux, string(token.Reveal())}
}

// call returns the status and the JSON of an answer.
func (c *caller) call(method, path, body string, headers ...string) (int, map[string]any, http.Header) {
	c.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+c.token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.mux.ServeHTTP(w, r)
	var out map[string]any
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			c.t.Fatalf("%s %s answered %s", method, path, w.Body)
		}
	}
	return w.Code, out, w.Header()
}

// want calls and checks the status.
func (c *caller) want(status int, method, path, body string, headers ...string) map[string]any {
	c.t.Helper()
	got, out, _ := c.call(method, path, body, headers...)
	if got != status {
		c.t.Fatalf("%s %s %s: status %d, want %d: %v", method, path, body, got, status, out)
	}
	return out
}

func data(out map[string]any) []any { return out["data"].([]any) }

func TestEndpointsOverTheAPI(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	status, made, headers := c.call("POST", "/v1/endpoints", `{"url":"https://a.example.com/hook","types":["portfolio.updated"]}`)
	id, secret := made["id"].(string), made["secret"].(string)
	if status != 201 || headers.Get("Location") != "/v1/endpoints/"+id || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("%d %v %v", status, made, headers)
	}
	ep := b.reload(&domain.Endpoint{ID: domain.EndpointID(id)})
	if b.secretOf(ep, ep.Secret) != secret || strings.Contains(string(b.store.docs[name(ep)]), secret) {
		t.Error("what is kept is not the secret that was shown, closed")
	}
	got := c.want(200, "GET", "/v1/endpoints/"+id, "")
	if _, shown := got["secret"]; shown || got["url"] != "https://a.example.com/hook" || got["state"] != "enabled" {
		t.Errorf("read: %v", got)
	}
	if listed := data(c.want(200, "GET", "/v1/endpoints", "")); len(listed) != 1 || listed[0].(map[string]any)["secret"] != nil {
		t.Errorf("listed: %v", listed)
	}
	got = c.want(200, "PATCH", "/v1/endpoints/"+id, `{"url":"http://127.0.0.1:8090/hook","types":[],"state":"disabled"}`)
	if got["url"] != "http://127.0.0.1:8090/hook" || len(got["types"].([]any)) != 0 || got["state"] != "disabled" {
		t.Errorf("changed: %v", got)
	}
	ep = b.reload(ep)
	ep.Failures, ep.FailingSince, ep.OpenAfter = 9, b.Env.Now(), b.Env.Now().Add(time.Hour)
	b.store.seed(ep)
	if got = c.want(200, "PATCH", "/v1/endpoints/"+id, `{"state":"enabled"}`); got["failures"] != 0.0 || got["open_after"] != nil || got["failing_since"] != nil {
		t.Errorf("enabled: %v", got)
	}
	c.want(204, "DELETE", "/v1/endpoints/"+id, "")
	if ep = b.reload(ep); ep.State != domain.EndpointRemoved || ep.Secret != nil || ep.Previous != nil {
		t.Errorf("removed: %+v", ep)
	}
	c.want(404, "GET", "/v1/endpoints/"+id, "")
	c.want(404, "DELETE", "/v1/endpoints/"+id, "")
	if listed := data(c.want(200, "GET", "/v1/endpoints", "")); len(listed) != 0 {
		t.Errorf("a removed endpoint is listed: %v", listed)
	}
	for action, want := range map[string]int{"endpoint.created": 1, "endpoint.changed": 2, "endpoint.removed": 1} {
		e := b.entriesOf(action)
		if len(e) != want || e[0].Subject != id || e[0].Data.Actor.Kind != domain.ActorClient || e[0].Data.Origin == "" {
			t.Errorf("%s: %d entries, %+v", action, len(e), e)
		}
	}
}

func TestRefusedInput(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	ep := b.endpoint("https://a.example.com/")
	at, n, d := "/v1/endpoints/"+ep.Key(), "evt_"+strings.Repeat("0", 26), "dlv_"+strings.Repeat("0", 26)
	both := `"from":"2026-01-01T00:00:00Z","to":"2026-01-02T00:00:00Z"`
	for name, r := range map[string]struct{ method, path, body, field string }{
		"no address":            {"POST", "/v1/endpoints", `{}`, "/url"},
		"private address":       {"POST", "/v1/endpoints", `{"url":"https://10.0.0.1/"}`, "/url"},
		"plain http":            {"POST", "/v1/endpoints", `{"url":"http://a.example.com/"}`, "/url"},
		"unknown type":          {"POST", "/v1/endpoints", `{"url":"https://a.example.com/","types":["consent.granted","x"]}`, "/types/1"},
		"type twice":            {"POST", "/v1/endpoints", `{"url":"https://a.example.com/","types":["consent.granted","consent.granted"]}`, "/types/1"},
		"unknown member":        {"POST", "/v1/endpoints", `{"url":"https://a.example.com/","secret":"whsec_x"}`, "/secret"},
		"patched to private":    {"PATCH", at, `{"url":"https://127.0.0.1/"}`, "/url"},
		"patched to a type":     {"PATCH", at, `{"types":["x"]}`, "/types/0"},
		"patched to removed":    {"PATCH", at, `{"state":"removed"}`, "/state"},
		"overlap too long":      {"POST", at + "/rotate", `{"overlap_hours":169}`, "/overlap_hours"},
		"overlap below nothing": {"POST", at + "/rotate", `{"overlap_hours":-1}`, "/overlap_hours"},
		"test with members":     {"POST", at + "/test", `{"x":1}`, "/x"},
		"not an identifier":     {"GET", "/v1/endpoints/x", "", "endpoint"},
		"filter by nonsense":    {"GET", "/v1/deliveries?endpoint_id=x", "", "endpoint_id"},
		"filter by nonsense 2":  {"GET", "/v1/deliveries?notice_id=x", "", "notice_id"},
		"page too long":         {"GET", "/v1/deliveries?limit=1001", "", "limit"},
		"replay of nothing":     {"POST", "/v1/replays", `{}`, ""},
		"replay of two things":  {"POST", "/v1/replays", `{"delivery_id":"` + d + `","notice_id":"` + n + `"}`, ""},
		"replay of nonsense":    {"POST", "/v1/replays", `{"delivery_id":"` + n + `"}`, "/delivery_id"},
		"replay of nonsense 2":  {"POST", "/v1/replays", `{"notice_id":"` + d + `"}`, "/notice_id"},
		"replay of nonsense 3":  {"POST", "/v1/replays", `{"endpoint_id":"x",` + both + `}`, "/endpoint_id"},
		"range of a notice":     {"POST", "/v1/replays", `{"notice_id":"` + n + `",` + both + `}`, "/endpoint_id"},
		"endpoint and no range": {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `"}`, "/from"},
		"half a range":          {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `","from":"2026-01-01T00:00:00Z"}`, "/from"},
		"range backwards":       {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `","from":"2026-01-02T00:00:00Z","to":"2026-01-01T00:00:00Z"}`, "/from"},
		"not a time":            {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `","from":"yesterday"}`, "/from"},
		"cursor too long":       {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `",` + both + `,"cursor":"` + strings.Repeat("x", 513) + `"}`, "/cursor"},
	} {
		out := c.want(400, r.method, r.path, r.body)
		if field, _ := out["field"].(string); field != r.field || out["detail"] == "" {
			t.Errorf("%s: %v, want a problem about %q", name, out, r.field)
		}
	}
	if len(b.store.entries) != 0 || len(b.store.events) != 0 {
		t.Error("a refused request left something behind")
	}
}

func TestOthersSeeNothing(t *testing.T) {
	b := newBed(t)
	mine := b.open(domain.RoleClient, b.client)
	ep := b.endpoint("https://a.example.com/")
	n := b.raise(domain.NoticePortfolioUpdated)
	event, _ := b.store.take()
	if err := b.handle(event); err != nil {
		t.Fatal(err)
	}
	d := b.delivery(n, ep)
	mine.want(200, "GET", "/v1/deliveries/"+d.Key(), "")
	other := b.open(domain.RoleClient, &domain.Client{ID: domain.NewID[domain.ClientID](b.Env), State: domain.ClientActive})
	at, both := "/v1/endpoints/"+ep.Key(), `"from":"1990-01-01T00:00:00Z","to":"2090-01-02T00:00:00Z"`
	for _, r := range [][3]string{
		{"GET", at, ""}, {"PATCH", at, `{"state":"disabled"}`}, {"DELETE", at, ""}, {"POST", at + "/rotate", ""}, {"POST", at + "/test", ""},
		{"GET", "/v1/deliveries/" + d.Key(), ""}, {"POST", "/v1/replays", `{"delivery_id":"` + d.Key() + `"}`},
		{"POST", "/v1/replays", `{"notice_id":"` + n.Key() + `"}`}, {"POST", "/v1/replays", `{"endpoint_id":"` + ep.Key() + `",` + both + `}`},
	} {
		foreign := other.want(404, r[0], r[1], r[2])
		missing := other.want(404, r[0], strings.ReplaceAll(r[1], ep.Key()[3:], strings.Repeat("0", 26)), strings.ReplaceAll(r[2], ep.Key()[3:], strings.Repeat("0", 26)))
		if foreign["code"] != missing["code"] || foreign["detail"] != missing["detail"] {
			t.Errorf("%v: what is another's looks other than what does not exist: %v, %v", r, foreign, missing)
		}
	}
	for _, query := range []string{"", "?endpoint_id=" + ep.Key(), "?notice_id=" + n.Key(), "?notice_id=" + n.Key() + "&endpoint_id=" + ep.Key()} {
		if got := data(other.want(200, "GET", "/v1/deliveries"+query, "")); len(got) != 0 {
			t.Errorf("%s shows another's deliveries: %v", query, got)
		}
		if got := data(mine.want(200, "GET", "/v1/deliveries"+query, "")); len(got) != 1 {
			t.Errorf("%s shows %d deliveries to their client", query, len(got))
		}
	}
	if got := b.reload(ep); got.State != domain.EndpointEnabled || got.Previous != nil || len(b.store.events) != 1 {
		t.Error("another client changed something")
	}
}

func TestRolesAndRoutes(t *testing.T) {
	raw, err := schemas.FS.ReadFile("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	var pipeline struct {
		Functions []struct {
			Name   string
			Routes []struct{ Method, Path string }
		}
	}
	if err := json.Unmarshal(raw, &pipeline); err != nil {
		t.Fatal(err)
	}
	b := newBed(t)
	ep := b.endpoint("https://a.example.com/")
	advisor, reviewer := b.open(domain.RoleAdvisor, b.client), b.open(domain.RoleReviewer, b.client)
	seen := 0
	for _, f := range pipeline.Functions {
		if f.Name != "endpoints" {
			continue
		}
		for _, r := range f.Routes {
			seen++
			path := strings.ReplaceAll(strings.ReplaceAll(r.Path, "{endpoint}", ep.Key()), "{delivery}", "dlv_"+strings.Repeat("0", 26))
			advisor.want(403, r.Method, path, "")
			if status, out, _ := reviewer.call(r.Method, path, ""); (status == 403) != (r.Method != "GET") || out["code"] == "internal" {
				t.Errorf("a reviewer's %s %s: %d", r.Method, path, status)
			}
		}
	}
	if seen != 10 {
		t.Errorf("%d routes are listed, want 10", seen)
	}
}

func TestLimitOfEndpoints(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	for range maxEndpoints - 1 {
		b.endpoint("https://a.example.com/")
	}
	body := `{"url":"https://a.example.com/"}`
	last := c.want(201, "POST", "/v1/endpoints", body, "Idempotency-Key", "k")
	if out := c.want(409, "POST", "/v1/endpoints", body); out["code"] != "endpoint_limit" {
		t.Errorf("%v", out)
	}
	again := c.want(201, "POST", "/v1/endpoints", body, "Idempotency-Key", "k")
	if again["id"] != last["id"] || again["secret"] != nil {
		t.Errorf("the same request at the limit: %v", again)
	}
	c.want(204, "DELETE", "/v1/endpoints/"+last["id"].(string), "")
	c.want(201, "POST", "/v1/endpoints", body)
}

// With a store that breaks, the same request again must not make or change anything a second time.
func TestSameRequestAgain(t *testing.T) {
	for _, how := range []fault{sound, failsBefore, failsAfter} {
		t.Run(fmt.Sprint(how), func(t *testing.T) {
			b := newBed(t)
			c := b.open(domain.RoleClient, b.client)
			twice := func(path, body, key string, status int) (first, second map[string]any) {
				t.Helper()
				base := b.store.commits
				b.store.fault = func(commit int) fault {
					if commit == base+1 {
						return how
					}
					return sound
				}
				if how == sound {
					first = c.want(status, "POST", path, body, "Idempotency-Key", key)
				} else {
					c.want(503, "POST", path, body, "Idempotency-Key", key)
				}
				return first, c.want(status, "POST", path, body, "Idempotency-Key", key)
			}
			_, ep := twice("/v1/endpoints", `{"url":"https://a.example.com/"}`, "make", 201)
			if n := len(all[domain.Endpoint](b.store)); n != 1 || len(b.entriesOf("endpoint.created")) != 1 {
				t.Errorf("%d endpoints were made", n)
			}
			if _, shown := ep["secret"]; shown != (how == failsBefore) {
				t.Errorf("secret shown: %v", shown)
			}
			at := "/v1/endpoints/" + ep["id"].(string)
			twice(at+"/rotate", `{"overlap_hours":1}`, "rotate", 201)
			if n := len(b.entriesOf("endpoint.secret_rotated")); n != 1 {
				t.Errorf("rotated %d times", n)
			}
			made := b.reload(&domain.Endpoint{ID: domain.EndpointID(ep["id"].(string))})
			made.Unverified = false
			b.store.seed(made)
			first, second := twice(at+"/test", "", "test", 202)
			if n := len(all[domain.Notice](b.store)); n != 2 || !slices.ContainsFunc(all[domain.Notice](b.store), func(n domain.Notice) bool { return n.Key() == second["notice_id"] }) || first != nil && first["notice_id"] != second["notice_id"] {
				t.Errorf("%d tests: %v, %v", n, first, second)
			}
			c.want(409, "POST", "/v1/endpoints", `{"url":"https://other.example.com/"}`, "Idempotency-Key", "make")
		})
	}
}

func TestRotateOverTheAPI(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	ep := b.endpoint("https://a.example.com/")
	old, at := b.secretOf(ep, ep.Secret), "/v1/endpoints/"+ep.Key()
	out := c.want(201, "POST", at+"/rotate", "")
	got := b.reload(ep)
	if b.secretOf(got, got.Secret) != out["secret"] || b.secretOf(got, got.Previous) != old || out["secret"] == old {
		t.Error("the new secret does not stand beside the old one")
	}
	if left := got.PreviousEnds.Sub(b.Env.Now()); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("the old secret ends in %v", left)
	}
	c.want(201, "POST", at+"/rotate", `{"overlap_hours":0}`)
	if got := b.reload(ep); got.Previous != nil || !got.PreviousEnds.IsZero() {
		t.Error("a rotation without overlap leaves the old secret")
	}
}

func TestTestGoesToOneEndpointThroughAnOpenBreaker(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	ep := b.endpoint("https://a.example.com/", domain.NoticeConsentGranted)
	b.endpoint("https://b.example.com/")
	ep.Failures, ep.OpenAfter, ep.FailingSince = 7, b.Env.Now().Add(time.Hour), b.Env.Now()
	b.store.seed(ep)
	out := c.want(202, "POST", "/v1/endpoints/"+ep.Key()+"/test", "")
	for range 2 {
		event, _ := b.store.take()
		if err := b.handle(event); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.sent) != 1 || b.sent[0].url != ep.URL || string(b.sent[0].id) != out["notice_id"] || !strings.Contains(b.sent[0].body, `"type":"endpoint.test"`) || len(b.store.events) != 0 {
		t.Errorf("sent: %+v", b.sent)
	}
	if got := b.reload(ep); got.Failures != 0 || !got.OpenAfter.IsZero() {
		t.Errorf("the breaker is still open: %+v", got)
	}
	if got := c.want(200, "GET", "/v1/deliveries/"+out["delivery_id"].(string), ""); got["state"] != "delivered" || len(got["attempts"].([]any)) != 1 {
		t.Errorf("delivery: %v", got)
	}
	c.want(200, "PATCH", "/v1/endpoints/"+ep.Key(), `{"state":"disabled"}`)
	c.want(409, "POST", "/v1/endpoints/"+ep.Key()+"/test", "")
}

func TestDeliveriesPageNewestFirst(t *testing.T) {
	b := newBed(t)
	c := b.open(domain.RoleClient, b.client)
	one, two := b.endpoint("https://a.example.com/"), b.endpoint("https://b.example.com/")
	var notices []*domain.Notice
	start := time.Now()
	for i := range 5 {
		b.Env.Clock = func() time.Time { return start.Add(time.Duration(i) * time.Second) }
		notices = append(notices, b.raise(domain.NoticePortfolioUpdated))
		event, _ := b.store.take()
		for event.Topic != domain.TopicNotice {
			event, _ = b.store.take()
		}
		if err := b.handle(event); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for cursor := ""; ; {
		out := c.want(200, "GET", "/v1/deliveries?limit=2&endpoint_id="+one.Key()+cursor, "")
		if n := len(data(out)); n > 2 {
			t.Fatalf("a page of 2 holds %d", n)
		}
		for _, d := range data(out) {
			seen = append(seen, d.(map[string]any)["notice_id"].(string))
		}
		if out["next"] == nil {
			break
		}
		cursor = "&cursor=" + out["next"].(string)
	}
	var want []string
	for _, n := range slices.Backward(notices) {
		want = append(want, n.Key())
	}
	if !slices.Equal(seen, want) {
		t.Errorf("listed %v, want %v", seen, want)
	}
	if got := data(c.want(200, "GET", "/v1/deliveries?notice_id="+notices[2].Key(), "")); len(got) != 2 {
		t.Errorf("a notice has %d deliveries, want 2", len(got))
	}
	got := data(c.want(200, "GET", "/v1/deliveries?notice_id="+notices[2].Key()+"&endpoint_id="+two.Key(), ""))
	if len(got) != 1 || got[0].(map[string]any)["endpoint_id"] != two.Key() {
		t.Errorf("notice and endpoint: %v", got)
	}
}
