package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/consent"
	"sluis.internal/functions/deliver"
	"sluis.internal/functions/erase"
	"sluis.internal/functions/portfolio"
	"sluis.internal/functions/seal"
	"sluis.internal/functions/sweep"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
	"sluis.internal/shared/webhook"
)

// house is every function behind one address, on a store of its own. Nothing of it runs by itself.
type house struct {
	shards  memory.Shards
	t       *testing.T
	c       *Checker
	now     time.Time
	env     domain.Env
	store   *tap
	keys    *envelope.Keys
	mux     *http.ServeMux
	consent *consent.Service
	notices *deliver.Service
	client  *domain.Client
	token   string            // a key of the client
	cookie  string            // an investor's visit
	path    map[string]string // what stands for the parameters of a path
	called  map[string]bool
}

// tap remembers what was emitted.
type tap struct {
	domain.Store
	mu     sync.Mutex
	events []domain.Event
}

type tapTx struct {
	domain.Tx
	events []domain.Event
}

func (x *tapTx) Emit(e domain.Event) error { x.events = append(x.events, e); return x.Tx.Emit(e) }

func (s *tap) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	var last *tapTx
	err := s.Store.Commit(ctx, func(tx domain.Tx) error { last = &tapTx{Tx: tx}; return fn(last) })
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, last.events...)
	}
	return err
}

// silent stands for extraction: it takes every answer.
type silent struct{}

func (silent) Answer(context.Context, domain.CustodianID, domain.AnswerRequest) error { return nil }

func build(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, c: checker(t), now: env.Clock(), path: map[string]string{}, called: map[string]bool{}, mux: http.NewServeMux()}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	var indexes []domain.Index
	var rows []struct{ Kind domain.DocumentKind }
	var custodians []domain.Custodian
	readJSON(t, "indexes.json", &indexes)
	readJSON(t, "retention.json", &rows)
	readJSON(t, "custodians.json", &custodians)
	options := sql.Options{Env: h.env, Indexes: indexes}
	for _, r := range rows {
		options.Kinds = append(options.Kinds, r.Kind)
	}
	b, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "data", "db"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	h.store = &tap{Store: b}
	if h.keys, err = envelope.LocalKeys(filepath.Join(t.TempDir(), "keys")); err != nil {
		t.Fatal(err)
	}
	door := &serve.Door{Store: h.store, Env: h.env, Salt: h.keys.Pseudonym(), Limits: serve.NewLimits(6000)}
	h.consent = &consent.Service{Store: h.store, Env: h.env, Door: door, Custodians: custodians, LinkKey: h.keys.Link(), PagesURL: "http://localhost:8081"}
	rules := webhook.Rules{Allow: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}
	h.notices = &deliver.Service{Store: h.store, Env: h.env, Door: door, Rules: rules, Close: h.keys.Encrypter(envelope.KeyWebhook),
		Open: h.keys.Decrypter(envelope.KeyWebhook)}
	h.consent.Routes(h.mux)
	h.notices.Routes(h.mux)
	(&seal.Service{Store: h.store, Env: h.env, Door: door, Sealer: envelope.NewSealer(h.keys.Encrypter(envelope.KeyOuter)),
		Shards: &h.shards, Public: h.keys.InnerPublic, Kids: h.keys.InnerKids}).Routes(h.mux)
	(&challenge.Service{Store: h.store, Env: h.env, Door: door, Display: h.keys.Decrypter(envelope.KeyDisplay), Bank: silent{}}).Routes(h.mux)
	(&portfolio.Service{Store: h.store, Env: h.env, Door: door, Opener: envelope.NewReader(h.keys.PortfolioKey(), &h.shards, h.env)}).Routes(h.mux)
	(&erase.Service{Store: h.store, Env: h.env, Door: door, Signers: h.keys.CertificateSigners, Shards: &h.shards, Wait: -1}).Routes(h.mux)
	h.client, err = consent.AddClient(t.Context(), h.store, h.env, "Client", consent.Terms{ReturnOrigins: []string{"https://app.example.com"},
		Saving: map[domain.Product]domain.Saving{domain.ProductCash: {Scope: domain.SaveHistory, Days: 30}}})
	if err != nil {
		t.Fatal(err)
	}
	h.token = h.key(domain.RoleClient)
	return h
}

func (h *house) key(role domain.Role) string {
	h.t.Helper()
	_, token, err := consent.IssueKey(h.t.Context(), h.store, h.env, h.client.ID, role, "", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return string(token.Reveal())
}

// call makes a request and checks the answer against openapi.yaml.
func (h *house) call(status int, method, template, body string) map[string]any {
	h.t.Helper()
	target := template
	for name, value := range h.path {
		target = strings.ReplaceAll(target, "{"+name+"}", value)
	}
	return h.request(status, method, template, target, body)
}

func (h *house) request(status int, method, template, target, body string) map[string]any {
	h.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if strings.HasPrefix(template, "/v1/") {
		r.Header.Set("Authorization", "Bearer "+h.token)
	} else {
		r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: h.cookie})
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	if w.Code != status {
		h.t.Fatalf("%s %s: have %d %s, want %d", method, target, w.Code, w.Body, status)
	}
	if err := h.c.Answer(method, template, w.Code, w.Body.Bytes()); err != nil {
		h.t.Errorf("%v\n%s", err, w.Body)
	}
	if status < 300 {
		h.called[method+" "+template] = true
	}
	if strings.HasPrefix(template, "/v1/") && status != 401 && w.Header().Get("RateLimit") == "" {
		h.t.Errorf("%s %s: no RateLimit", method, template)
	}
	var out map[string]any
	if strings.Contains(w.Header().Get("Content-Type"), "json") {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			h.t.Fatal(err)
		}
	}
	return out
}

func (h *house) get(d domain.Document) {
	h.t.Helper()
	if err := h.store.Get(h.t.Context(), d); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) put(docs ...domain.Document) {
	h.t.Helper()
	err := h.store.Commit(h.t.Context(), func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return tx.Record(domain.Note(h.env, "extract", "test.laid", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestEveryAnswerIsAsDescribed calls every route of every function at least once, and looks at all that is left in the
// audit log, the outbox and the notices.
func TestEveryAnswerIsAsDescribed(t *testing.T) {
	h := build(t)
	h.account()
	conn := h.ask()
	h.connect(conn)
	h.read(conn)
	h.webhooks()
	h.problems()
	h.end(conn)
	for _, r := range routes(t) {
		if !h.called[r] && r != "GET /challenge/events" { // a stream has no end to wait for
			t.Errorf("%s was not called", r)
		}
	}
	h.traces()
}

func (h *house) account() {
	h.t.Helper()
	h.call(200, "GET", "/v1/client", "")
	h.call(200, "GET", "/v1/custodians", "")
	h.path["advisor"] = h.call(201, "POST", "/v1/advisors", `{"name":"Jane Doe"}`)["id"].(string)
	h.call(200, "GET", "/v1/advisors", "")
	h.path["key"] = h.call(201, "POST", "/v1/keys", `{"role":"advisor","advisor_id":"`+h.path["advisor"]+`","label":"desk"}`)["id"].(string)
	h.call(201, "POST", "/v1/keys", `{"role":"reviewer"}`)
	h.call(201, "POST", "/v1/keys/{key}/rotate", `{"overlap_hours":1}`)
	h.call(200, "GET", "/v1/keys", "")
	h.call(204, "DELETE", "/v1/keys/{key}", "")
	h.path["endpoint"] = h.call(201, "POST", "/v1/endpoints", `{"url":"http://127.0.0.1:9/hook"}`)["id"].(string)
}

// ask makes a consent with everything set, lets the investor in and has them grant it.
func (h *house) ask() *domain.Connection {
	h.t.Helper()
	body := `{"investor_ref":"inv-1","purpose":{"code":"tax","text":"For your tax return."},"products":["accounts","cash","positions",
		"transactions","orders","liabilities"],"custodians":["sandbox-comdirect"],"advisors":["` + h.path["advisor"] + `"],
		"return_url":"https://app.example.com/done"}`
	made := h.call(201, "POST", "/v1/consents", body)
	h.path["consent"], h.path["connection"] = made["id"].(string), made["connection_id"].(string)
	h.call(200, "GET", "/v1/consents", "")
	h.call(200, "GET", "/v1/connections/{connection}", "")
	h.call(201, "POST", "/v1/consents/{consent}/links", `{"purpose":"manage"}`)
	link := made["link"].(map[string]any)["url"].(string)
	cookie, visit, err := h.consent.Redeem(h.t.Context(), link[strings.LastIndex(link, "/")+1:], "")
	if err != nil {
		h.t.Fatal(err)
	}
	h.cookie = cookie
	if err := h.consent.Grant(h.t.Context(), visit, "sandbox-comdirect", ""); err != nil {
		h.t.Fatal(err)
	}
	h.call(200, "GET", "/v1/consents/{consent}", "")
	h.call(200, "GET", "/challenge/state", "")
	conn := &domain.Connection{ID: domain.ConnectionID(h.path["connection"])}
	h.get(conn)
	return conn
}

// connect seals a credential and lays the bank's question.
func (h *house) connect(conn *domain.Connection) {
	h.t.Helper()
	h.call(200, "GET", "/seal/key", "")
	jwk, err := h.keys.InnerPublic()
	if err != nil {
		h.t.Fatal(err)
	}
	jwe, err := jwk.SealCredential(conn.ID, map[string]string{"username": "1", "password": "2"}, h.env.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	session := &domain.Session{ID: domain.SessionID(h.call(202, "POST", "/seal", `{"jwe":"`+jwe+`"}`)["session_id"].(string))}
	h.get(session)
	h.get(conn)
	asked := &domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), SessionID: session.ID, ClientID: conn.ClientID,
		ConsentID: conn.ConsentID, ConnectionID: conn.ID, Custodian: conn.Custodian, State: domain.SCAIssued, Flow: domain.FlowCode,
		Method: "P_TAN", Methods: []domain.SCAMethod{{ID: "P_TAN", Flow: domain.FlowCode, Kind: "photo_tan"}}, TriesLeft: 2,
		CreatedAt: h.env.Now(), AnswerBy: h.env.Now().Add(time.Minute), ExpiresAt: session.ExpiresAt}
	display := marshal(h.t, domain.Display{Destination: "+49-170-12XXXX", Text: "Scan", Image: []byte("\x89PNG"), MediaType: "image/png", Digits: 6})
	if asked.Display, err = envelope.Seal(h.keys.Encrypter(envelope.KeyDisplay), envelope.DisplayLabel(asked), display); err != nil {
		h.t.Fatal(err)
	}
	session.State, session.ChallengeID, conn.State = domain.SessionSuspended, asked.ID, domain.ConnectionSCA
	h.put(session, asked, conn)
	h.path["challenge"] = string(asked.ID)
	h.call(200, "GET", "/challenge/state", "")
	h.call(200, "GET", "/challenge/{challenge}/image", "")
	h.call(200, "POST", "/challenge/answer", `{"challenge_id":"`+string(asked.ID)+`","kind":"renew"}`)
	h.call(400, "POST", "/challenge/answer", `{"challenge_id":"`+string(asked.ID)+`","kind":"guess"}`)
	session.State, conn.State, conn.Reason = domain.SessionFailed, domain.ConnectionPaused, domain.ReasonSCARejected
	credential := &domain.Credential{ConnectionID: conn.ID}
	h.get(credential)
	credential.State = domain.CredentialAccepted
	h.put(session, conn, credential)
	again := &domain.Session{ID: domain.SessionID(h.call(202, "POST", "/seal/again", ``)["session_id"].(string))}
	h.get(again)
	h.get(conn)
	again.State = domain.SessionComplete
	h.put(again)
}

// read lays a portfolio with one record of each product and reads it.
func (h *house) read(conn *domain.Connection) {
	h.t.Helper()
	id := domain.NewID[domain.ShardID](h.env)
	shard, err := h.shards.Make(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	closer := envelope.NewCloser(h.keys.PortfolioKey(), &h.shards, h.env)
	key, err := closer.NewDataKey(conn.Binding(), id, shard)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &domain.Portfolio{ID: domain.NewID[domain.PortfolioID](h.env), ClientID: conn.ClientID, ConsentID: conn.ConsentID,
		ConnectionID: conn.ID, SessionID: conn.SessionID, Custodian: conn.Custodian, Number: 1, SummaryMark: "sum",
		Products: map[domain.Product]domain.ProductStatus{}, RetrievedAt: h.env.Now(), ExpiresAt: h.env.Now().Add(time.Hour)}
	sealed := func(what, id string, plain []byte) []byte {
		out, err := closer.Close(key, what, id, plain)
		if err != nil {
			h.t.Fatal(err)
		}
		return out
	}
	for _, r := range allRecords() {
		id := "part_" + string(r.Product())
		h.put(&domain.Part{ID: id, ConnectionID: conn.ID, Count: 1, Sealed: sealed(string(r.Product()), id, append(marshal(h.t, r), '\n'))})
		p.Products[r.Product()] = domain.ProductStatus{State: domain.ProductComplete, Count: 1, Saved: true, Parts: []string{id}}
	}
	p.Summary = sealed("summary", "sum", marshal(h.t, []domain.Reconciliation{{AccountID: "acc_1", Currency: "EUR", Computed: "1", Stated: &decimal}}))
	conn.State, conn.PortfolioID, conn.Products, conn.NextRefreshAt = domain.ConnectionActive, p.ID, p.Products, h.env.Now().Add(time.Hour)
	conn.Reason, conn.LastRefreshedAt = "", h.env.Now().Add(-time.Hour)
	h.put(key, p, conn)
	h.call(200, "GET", "/v1/connections", "")
	h.call(200, "GET", "/v1/connections/{connection}", "")
	h.call(200, "GET", "/v1/connections/{connection}/portfolio", "")
	h.call(200, "GET", "/v1/connections/{connection}/portfolios", "")
	for _, product := range domain.Products {
		h.path["product"] = string(product)
		page := h.call(200, "GET", "/v1/connections/{connection}/portfolio/{product}", "")
		lines := page["data"].([]any)
		if len(lines) != 1 {
			h.t.Errorf("%s has %d records, want 1", product, len(lines))
		}
		for _, line := range lines {
			if err := h.c.Record(product, marshal(h.t, line)); err != nil {
				h.t.Errorf("%s: %v", product, err)
			}
		}
	}
	h.call(202, "POST", "/v1/connections/{connection}/refresh", "")
	h.call(200, "POST", "/v1/connections/{connection}/refresh", "{}")
}

func (h *house) webhooks() {
	h.t.Helper()
	h.call(200, "GET", "/v1/endpoints", "")
	h.call(200, "GET", "/v1/endpoints/{endpoint}", "")
	h.call(201, "POST", "/v1/endpoints/{endpoint}/rotate", "")
	h.call(202, "POST", "/v1/endpoints/{endpoint}/test", "")
	for _, e := range slices.Clone(h.store.events) {
		if e.Topic == domain.TopicNotice {
			if err := h.notices.Notify(h.t.Context(), e); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	sent := h.call(200, "GET", "/v1/deliveries", "")["data"].([]any)
	delivery := &domain.Delivery{ID: domain.DeliveryID(sent[0].(map[string]any)["id"].(string))}
	h.get(delivery)
	delivery.State = domain.DeliveryFailed
	delivery.Attempts = []domain.Attempt{{At: h.env.Now(), Failure: "timeout", Duration: 9}, {At: h.env.Now(), Status: 500, Failure: "status"}}
	h.put(delivery)
	h.path["delivery"] = string(delivery.ID)
	h.call(200, "GET", "/v1/deliveries/{delivery}", "")
	h.call(202, "POST", "/v1/replays", `{"delivery_id":"`+string(delivery.ID)+`"}`)
	h.call(200, "PATCH", "/v1/endpoints/{endpoint}", `{"types":["portfolio.updated"],"state":"disabled"}`)
	h.call(204, "DELETE", "/v1/endpoints/{endpoint}", "")
}

func (h *house) problems() {
	h.t.Helper()
	const consents, connections, one = "/v1/consents", "/v1/connections", "/v1/connections/{connection}"
	h.call(400, "POST", consents, `{"investor_ref":"Jane Doe"}`)
	h.call(400, "POST", consents, `{"surprise":1}`)
	h.call(400, "POST", consents, `{`)
	h.call(413, "POST", consents, `{"investor_ref":"`+strings.Repeat("x", 70<<10)+`"}`)
	h.request(400, "GET", connections, connections+"?limit=0", "")
	h.request(400, "GET", connections, connections+"?cursor=x", "")
	h.request(404, "GET", one, "/v1/connections/"+string(domain.NewID[domain.ConnectionID](h.env)), "")
	h.request(400, "GET", one, "/v1/connections/x", "")
	client := h.token
	h.token = h.key(domain.RoleReviewer)
	h.call(403, "GET", one+"/portfolio", "")
	h.token = "sluis_nothing"
	h.call(401, "GET", consents, "")
	h.token = client
}

// end takes everything away again, in every way.
func (h *house) end(conn *domain.Connection) {
	h.t.Helper()
	h.call(200, "PATCH", "/v1/consents/{consent}", `{"products":["accounts","cash"]}`)
	h.path["product"] = "orders"
	h.call(403, "GET", "/v1/connections/{connection}/portfolio/{product}", "")
	h.call(200, "DELETE", "/v1/connections/{connection}/credentials", "")
	h.call(409, "POST", "/v1/connections/{connection}/refresh", "")
	h.call(200, "DELETE", "/v1/connections/{connection}/data", "")
	h.call(404, "GET", "/v1/connections/{connection}/portfolio", "")
	h.call(200, "POST", "/erase", `{"consent_id":"`+h.path["consent"]+`","scope":"data"}`)
	h.call(200, "DELETE", "/v1/connections/{connection}", "")
	h.call(200, "GET", "/v1/connections/{connection}/erasures", "")
	h.call(403, "GET", "/v1/connections/{connection}/portfolio", "")
	made := h.call(201, "POST", "/v1/consents", `{"investor_ref":"inv-2","purpose":{"code":"reporting"},"products":["cash"]}`)
	h.path["consent"] = made["id"].(string)
	h.call(204, "DELETE", "/v1/consents/{consent}", "")
	h.call(204, "DELETE", "/v1/advisors/{advisor}", "")
	h.call(201, "POST", "/v1/consents", `{"investor_ref":"inv-3","purpose":{"code":"reporting"},"products":["cash"],"access":"one_off"}`)
	h.now = h.now.Add(200 * 24 * time.Hour)
	if _, err := (&sweep.Service{Store: h.store, Env: h.env}).Sweep(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.call(200, "GET", "/v1/consents", "")
}

// traces checks the audit log, the outbox and the webhooks that would be sent.
func (h *house) traces() {
	h.t.Helper()
	n := map[string]int{}
	check := func(what string, err error, text []byte) {
		if n[what]++; err != nil {
			h.t.Errorf("%s: %v\n%s", what, err, text)
		}
	}
	for q := (domain.Query{Index: "entries_by_time", Limit: 1000}); ; {
		page, err := h.store.List(h.t.Context(), q)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, raw := range page.Documents {
			check("entry", h.c.Entry(raw), raw)
		}
		if q.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	for _, e := range h.store.events {
		e.ID = domain.NewID[domain.EventID](h.env)
		text := marshal(h.t, e)
		check("event", h.c.Event(text), text)
		if e.Topic == domain.TopicNotice {
			notice := &domain.Notice{ID: domain.NoticeID(e.Subject)}
			h.get(notice)
			body, err := webhook.Render(notice)
			if err != nil {
				h.t.Fatal(err)
			}
			check("webhook", h.c.Webhook(body), bytes.Clone(body))
		}
	}
	if n["entry"] < 40 || n["event"] < 20 || n["webhook"] < 10 {
		h.t.Errorf("too little was seen: %v", n)
	}
}
