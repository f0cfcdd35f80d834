package serve_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/schemas"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// bed is a door before a store on disk, with a clock that moves when told, and a log that can be read.
type bed struct {
	t    *testing.T
	now  time.Time
	env  domain.Env
	tap  *tap
	door *serve.Door
	mux  *http.ServeMux
	log  *lines
}

// tap is a store that refuses on demand.
type tap struct {
	domain.Store
	get, commit error
}

func (s *tap) Get(ctx context.Context, docs ...domain.Document) error {
	if s.get != nil {
		return s.get
	}
	return s.Store.Get(ctx, docs...)
}

func (s *tap) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	if s.commit != nil {
		return s.commit
	}
	return s.Store.Commit(ctx, fn)
}

// lines is a log that may be written and read at once.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBed(t *testing.T, perMinute int) *bed {
	t.Helper()
	b := &bed{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), mux: http.NewServeMux(), log: &lines{}}
	b.env = domain.Env{Clock: func() time.Time { return b.now }, Region: "local"}
	b.tap = &tap{Store: openStore(t, b.env)}
	b.door = &serve.Door{Store: b.tap, Env: b.env, Limits: serve.NewLimits(perMinute), Salt: domain.NewSecret([]byte("salt")),
		Log: slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return b
}

func openStore(t *testing.T, env domain.Env) domain.Store {
	t.Helper()
	raw, err := schemas.FS.ReadFile("indexes.json")
	if err != nil {
		t.Fatal(err)
	}
	o := sql.Options{Env: env, Kinds: []domain.DocumentKind{"visit", "once", "client", "advisor", "api_key"}}
	if err := json.Unmarshal(raw, &o.Indexes); err != nil {
		t.Fatal(err)
	}
	s, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), o)
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

func (b *bed) put(docs ...domain.Document) {
	b.t.Helper()
	err := b.tap.Store.Commit(b.t.Context(), func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return tx.Record(domain.Note(b.env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// client makes an active client.
func (b *bed) client() *domain.Client {
	c := &domain.Client{ID: domain.NewID[domain.ClientID](b.env), State: domain.ClientActive}
	b.put(c)
	return c
}

// key makes a key and returns its token.
func (b *bed) key(client domain.ClientID, role domain.Role, advisor domain.AdvisorID) (*domain.APIKey, string) {
	k, token := domain.NewAPIKey(b.env, client, role, advisor, "")
	b.put(k)
	return k, string(token.Reveal())
}

// visit lets an investor in and returns the cookie's value.
func (b *bed) visit(life time.Duration) string {
	token := base64.RawURLEncoding.EncodeToString(b.env.Random(32))
	b.put(&domain.Visit{Hash: domain.HashToken(token), InvestorRef: "inv-1", ExpiresAt: b.env.Now().Add(life)})
	return token
}

// denials lists the entries of refused acts.
func (b *bed) denials() (out []domain.Entry) {
	b.t.Helper()
	all, _, err := domain.List[domain.Entry](b.t.Context(), b.tap.Store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range all {
		if e.Data.Outcome == domain.OutcomeDenied {
			out = append(out, e)
		}
	}
	return out
}

// ask makes a request; headers are names and values in turn.
func (b *bed) ask(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	b.mux.ServeHTTP(w, r)
	return w
}

// problem reads a problem and checks what holds of each.
func (b *bed) problem(w *httptest.ResponseRecorder) serve.Problem {
	b.t.Helper()
	var p serve.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		b.t.Fatalf("%d %q is no problem: %v", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		b.t.Errorf("Content-Type is %q", got)
	}
	if p.Status != w.Code || p.Type != "about:blank" || p.Title != http.StatusText(w.Code) || p.Code == "" || p.Detail == "" {
		b.t.Errorf("%d with the problem %+v", w.Code, p)
	}
	return p
}

// want checks that w is a problem of that status and code.
func (b *bed) want(w *httptest.ResponseRecorder, status int, code string) {
	b.t.Helper()
	if p := b.problem(w); p.Status != status || p.Code != code {
		b.t.Errorf("got %d %s, want %d %s", p.Status, p.Code, status, code)
	}
}

// give is an endpoint that answers v.
func give(v any) serve.Endpoint {
	return func(context.Context, *serve.Call) (serve.Answer, error) { return serve.Answer{Body: v}, nil }
}

// fail is an endpoint that fails.
func fail(err error) serve.Endpoint {
	return func(context.Context, *serve.Call) (serve.Answer, error) { return serve.Answer{}, err }
}

var roles = []domain.Role{domain.RoleClient, domain.RoleAdvisor, domain.RoleReviewer}

func TestKeys(t *testing.T) {
	b := newBed(t, 0)
	b.door.API(b.mux, "GET /who", roles, func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		return serve.Answer{Body: map[string]string{"client": string(c.Principal.ClientID), "role": string(c.Principal.Role),
			"advisor": string(c.Principal.AdvisorID), "key": string(c.Principal.KeyID)}}, nil
	})
	client := b.client()
	good, token := b.key(client.ID, domain.RoleClient, "")
	other, otherToken := b.key(client.ID, domain.RoleClient, "")
	secret := token[len(token)-43:]
	revoked, revokedToken := b.key(client.ID, domain.RoleClient, "")
	if err := revoked.Move(domain.KeyRevoked, b.env.Now()); err != nil {
		t.Fatal(err)
	}
	rotated, rotatedToken := b.key(client.ID, domain.RoleClient, "")
	rotated.ExpiresAt = b.env.Now().Add(time.Hour)
	over, overToken := b.key(client.ID, domain.RoleClient, "")
	over.ExpiresAt = b.env.Now()
	b.put(revoked, rotated, over)

	for name, c := range map[string]struct {
		header string
		status int
	}{
		"good":                       {"Bearer " + token, 200},
		"scheme in another case":     {"bEARER " + token, 200},
		"rotated, still good":        {"Bearer " + rotatedToken, 200},
		"none":                       {"", 401},
		"scheme alone":               {"Bearer", 401},
		"no scheme":                  {token, 401},
		"another scheme":             {"Basic " + token, 401},
		"two spaces":                 {"Bearer  " + token, 401},
		"space after":                {"Bearer " + token + " ", 401},
		"another prefix":             {"Bearer sluiz" + token[5:], 401},
		"one character less":         {"Bearer " + token[:len(token)-1], 401},
		"one character more":         {"Bearer " + token + "A", 401},
		"wrong secret":               {"Bearer " + token[:len(token)-43] + strings.Repeat("A", 43), 401},
		"secret of another key":      {"Bearer sluis_" + string(other.ID) + "_" + secret, 401},
		"unknown key":                {"Bearer sluis_key_00000000000000000000000000_" + secret, 401},
		"identifier of another kind": {"Bearer sluis_cli_00000000000000000000000000_" + secret, 401},
		"path in the identifier":     {"Bearer sluis_key_../../../../../../../../00_" + secret, 401},
		"not UTF-8":                  {"Bearer sluis_key_\xff0000000000000000000000000_" + secret, 401},
		"very long":                  {"Bearer " + strings.Repeat("sluis_", 2000), 401},
		"revoked":                    {"Bearer " + revokedToken, 401},
		"expired at this moment":     {"Bearer " + overToken, 401},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			w := b.ask("GET", "/who", "", "Authorization", c.header)
			if c.status == 200 {
				if w.Code != 200 {
					t.Errorf("got %d %s", w.Code, w.Body)
				}
				return
			}
			b.want(w, 401, "key_invalid")
			if got := w.Header().Get("WWW-Authenticate"); got != `Bearer realm="sluis"` {
				t.Errorf("WWW-Authenticate is %q", got)
			}
			if strings.Contains(w.Body.String(), secret) {
				t.Error("the secret is in the answer")
			}
		})
	}
	var who map[string]string
	if err := json.Unmarshal(b.ask("GET", "/who", "", "Authorization", "Bearer "+token).Body.Bytes(), &who); err != nil {
		t.Fatal(err)
	}
	if who["client"] != string(client.ID) || who["role"] != "client" || who["key"] != string(good.ID) {
		t.Errorf("the key acts for %v", who)
	}
	for _, s := range []string{secret, otherToken[len(otherToken)-43:]} {
		if strings.Contains(b.log.String(), s) {
			t.Error("a secret is in the log")
		}
	}
}

// TestKeysOfThoseWhoMayNoLonger looks at whom a good key acts for.
func TestKeysOfThoseWhoMayNoLonger(t *testing.T) {
	b := newBed(t, 0)
	b.door.API(b.mux, "GET /who", roles, give("in"))
	elsewhere := b.client()
	for _, c := range []struct {
		name   string
		lay    func(*domain.Client, *domain.Advisor)
		role   domain.Role
		status int
		code   string
	}{
		{"active", func(*domain.Client, *domain.Advisor) {}, domain.RoleAdvisor, 200, ""},
		{"client suspended", func(c *domain.Client, _ *domain.Advisor) { c.State = domain.ClientSuspended }, domain.RoleClient, 403, "client_suspended"},
		{"client closed", func(c *domain.Client, _ *domain.Advisor) { c.State = domain.ClientClosed }, domain.RoleReviewer, 403, "client_suspended"},
		{"advisor's client suspended", func(c *domain.Client, _ *domain.Advisor) { c.State = domain.ClientSuspended }, domain.RoleAdvisor, 403, "client_suspended"},
		{"advisor removed", func(_ *domain.Client, a *domain.Advisor) { a.State = domain.AdvisorRemoved }, domain.RoleAdvisor, 403, "advisor_removed"},
		{"advisor removed, client's key", func(_ *domain.Client, a *domain.Advisor) { a.State = domain.AdvisorRemoved }, domain.RoleClient, 200, ""},
		{"advisor of another client", func(_ *domain.Client, a *domain.Advisor) { a.ClientID = elsewhere.ID }, domain.RoleAdvisor, 403, "advisor_removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			client := b.client()
			advisor := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](b.env), ClientID: client.ID, State: domain.AdvisorActive}
			named := advisor.ID
			if c.role != domain.RoleAdvisor {
				named = ""
			}
			_, token := b.key(client.ID, c.role, named)
			c.lay(client, advisor)
			b.put(client, advisor)
			w := b.ask("GET", "/who", "", "Authorization", "Bearer "+token)
			if c.code == "" && w.Code != c.status {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
			if c.code != "" {
				b.want(w, c.status, c.code)
			}
		})
	}
	_, orphan := b.key(domain.NewID[domain.ClientID](b.env), domain.RoleClient, "")
	b.want(b.ask("GET", "/who", "", "Authorization", "Bearer "+orphan), 403, "client_suspended")
	_, lost := b.key(elsewhere.ID, domain.RoleAdvisor, domain.NewID[domain.AdvisorID](b.env))
	b.want(b.ask("GET", "/who", "", "Authorization", "Bearer "+lost), 403, "advisor_removed")
}

// TestStoreThatFailsIsNoRefusal: who cannot be looked up is not told that the key is wrong.
func TestStoreThatFailsIsNoRefusal(t *testing.T) {
	b := newBed(t, 0)
	b.door.API(b.mux, "GET /who", roles, give("in"))
	b.door.Investor(b.mux, "GET /visit", give("in"))
	b.door.Stream(b.mux, "GET /stream", func(http.ResponseWriter, *http.Request, *domain.Visit) error { return nil })
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	cookie := "__Host-sluis=" + b.visit(time.Hour)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{errors.New("disk at /srv/sluis is full"), 500, "internal"},
		{&domain.Error{Kind: domain.Unavailable, Code: "busy", Message: "try again", RetryAfter: 1500 * time.Millisecond}, 503, "busy"},
	} {
		b.tap.get = c.err
		for path, header := range map[string][]string{"/who": {"Authorization", "Bearer " + token}, "/visit": {"Cookie", cookie}, "/stream": {"Cookie", cookie}} {
			w := b.ask("GET", path, "", header...)
			b.want(w, c.status, c.code)
			if strings.Contains(w.Body.String(), "/srv/") {
				t.Errorf("insides shown: %s", w.Body)
			}
			if c.status == 503 && w.Header().Get("Retry-After") != "2" {
				t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
			}
		}
	}
}

func TestRoles(t *testing.T) {
	b := newBed(t, 0)
	client := b.client()
	advisor := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](b.env), ClientID: client.ID, State: domain.AdvisorActive}
	b.put(advisor)
	for _, allowed := range [][]domain.Role{{}, {domain.RoleClient}, {domain.RoleAdvisor}, {domain.RoleReviewer}, {domain.RoleClient, domain.RoleReviewer}, roles} {
		called := 0
		mux := http.NewServeMux()
		b.mux = mux
		b.door.API(mux, "POST /thing/{id}", allowed, func(context.Context, *serve.Call) (serve.Answer, error) { called++; return serve.Answer{}, nil })
		for _, role := range roles {
			named := domain.AdvisorID("")
			if role == domain.RoleAdvisor {
				named = advisor.ID
			}
			k, token := b.key(client.ID, role, named)
			before, denied := called, len(b.denials())
			w := b.ask("POST", "/thing/secret-path", "", "Authorization", "Bearer "+token)
			may := false
			for _, r := range allowed {
				may = may || r == role
			}
			if may != (w.Code == 204) || may != (called == before+1) {
				t.Errorf("%s where %v may: %d, called %d times", role, allowed, w.Code, called-before)
			}
			if may {
				continue
			}
			b.want(w, 403, "role_forbidden")
			all := b.denials()
			if len(all) != denied+1 {
				t.Fatalf("%d refusals recorded, want one more than %d", len(all), denied)
			}
			e := all[len(all)-1]
			for _, other := range all {
				if other.Data.Actor.Key == k.ID {
					e = other
				}
			}
			if e.Data.Actor.Key != k.ID || e.ClientID != client.ID || e.Subject != "POST /thing/{id}" || e.Data.Reason != "role_forbidden" ||
				e.Data.Origin == "" || e.Type != "sluis.request.refused" || e.Data.Details["role"] != string(role) {
				t.Errorf("the refusal is recorded as %+v", e)
			}
		}
	}
}

// TestUnrecordedRefusal: a refusal that cannot be recorded is a failure, and still no permission.
func TestUnrecordedRefusal(t *testing.T) {
	b := newBed(t, 0)
	b.door.API(b.mux, "GET /thing", nil, func(context.Context, *serve.Call) (serve.Answer, error) {
		t.Error("the handler ran")
		return serve.Answer{}, nil
	})
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	b.tap.commit = errors.New("disk full")
	b.want(b.ask("GET", "/thing", "", "Authorization", "Bearer "+token), 500, "internal")
	if !strings.Contains(b.log.String(), "recording refusal: disk full") {
		t.Error("the failure is not in the log")
	}
}

func TestVisits(t *testing.T) {
	b := newBed(t, 0)
	b.door.Investor(b.mux, "GET /me", func(_ context.Context, c *serve.Call) (serve.Answer, error) {
		return serve.Answer{Body: c.Visit.InvestorRef}, nil
	})
	b.door.Stream(b.mux, "GET /me/stream", func(w http.ResponseWriter, _ *http.Request, v *domain.Visit) error {
		_, err := w.Write([]byte(v.InvestorRef))
		return err
	})
	good := b.visit(time.Hour)
	for name, c := range map[string]struct {
		cookies []string
		in      bool
	}{
		"good":                       {[]string{"__Host-sluis=" + good}, true},
		"among others":               {[]string{"a=b", "__Host-sluis=" + good}, true},
		"none":                       {nil, false},
		"without the prefix":         {[]string{"sluis=" + good}, false},
		"empty":                      {[]string{"__Host-sluis="}, false},
		"too short":                  {[]string{"__Host-sluis=" + good[:42]}, false},
		"too long":                   {[]string{"__Host-sluis=" + good + "A"}, false},
		"unknown":                    {[]string{"__Host-sluis=" + strings.Repeat("A", 43)}, false},
		"the hash and not the token": {[]string{"__Host-sluis=" + domain.HashToken(good)}, false},
		"over at this moment":        {[]string{"__Host-sluis=" + b.visit(0)}, false},
		"over":                       {[]string{"__Host-sluis=" + b.visit(-time.Hour)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.t = t
			var headers []string
			for _, cookie := range c.cookies {
				headers = append(headers, "Cookie", cookie)
			}
			for _, path := range []string{"/me", "/me/stream"} {
				w := b.ask("GET", path, "", headers...)
				if c.in && (w.Code != 200 || !strings.Contains(w.Body.String(), "inv-1")) {
					t.Errorf("%s: got %d %s", path, w.Code, w.Body)
				}
				if !c.in {
					b.want(w, 401, "visit_ended")
				}
			}
		})
	}
}

func TestVisitCookie(t *testing.T) {
	set, end := httptest.NewRecorder(), httptest.NewRecorder()
	serve.SetVisit(set, "token")
	serve.EndVisit(end)
	for want, w := range map[string]*httptest.ResponseRecorder{
		"__Host-sluis=token; Path=/; Max-Age=1800; HttpOnly; Secure; SameSite=Strict": set,
		"__Host-sluis=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Strict":         end,
	} {
		if got := w.Header().Get("Set-Cookie"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestCrossOrigin(t *testing.T) {
	b := newBed(t, 0)
	called := 0
	count := func(context.Context, *serve.Call) (serve.Answer, error) { called++; return serve.Answer{}, nil }
	b.door.Investor(b.mux, "POST /act", count)
	b.door.Public(b.mux, "POST /public", count)
	b.door.API(b.mux, "POST /api", roles, count)
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	cookie := "__Host-sluis=" + b.visit(time.Hour)
	for name, c := range map[string]struct {
		headers []string
		may     bool
	}{
		"no browser":                    {nil, true},
		"our own page":                  {[]string{"Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"}, true},
		"typed address":                 {[]string{"Sec-Fetch-Site", "none"}, true},
		"our own page, old browser":     {[]string{"Origin", "http://example.com"}, true},
		"another site":                  {[]string{"Sec-Fetch-Site", "cross-site"}, false},
		"another host of the same site": {[]string{"Sec-Fetch-Site", "same-site"}, false},
		"another site, old browser":     {[]string{"Origin", "http://evil.example"}, false},
		"another port, old browser":     {[]string{"Origin", "http://example.com:8090"}, false},
		"a sandboxed frame":             {[]string{"Origin", "null"}, false},
		"claims to be us in Referer":    {[]string{"Sec-Fetch-Site", "cross-site", "Referer", "http://example.com/"}, false},
	} {
		for _, path := range []string{"/act", "/public", "/api"} {
			t.Run(name+path, func(t *testing.T) {
				b := *b
				b.t = t
				before := called
				w := b.ask("POST", path, "", append(c.headers, "Cookie", cookie, "Authorization", "Bearer "+token)...)
				if c.may != (called == before+1) {
					t.Errorf("called %d times: %d %s", called-before, w.Code, w.Body)
				}
				if !c.may {
					b.want(w, 403, "cross_origin")
				}
			})
		}
	}
}
