package portfolio_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"sluis.internal/functions/portfolio"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// house is one client with one investor's connection, a store on disk and a clock that stands still.
type house struct {
	shards  memory.Shards
	t       *testing.T
	store   *tap
	env     domain.Env
	now     time.Time
	mux     *http.ServeMux
	closer  *envelope.Closer
	client  *domain.Client
	token   string // a key of the client
	consent *domain.Consent
	conn    *domain.Connection
	key     *domain.DataKey
}

// tap is a store that remembers what was emitted and can break on demand.
type tap struct {
	domain.Store
	mu     sync.Mutex
	events []domain.Event
	after  error // returned although the next commit that puts something happened
}

type tapTx struct {
	domain.Tx
	events []domain.Event
	puts   int
}

func (x *tapTx) Put(d domain.Document) error { x.puts++; return x.Tx.Put(d) }
func (x *tapTx) Emit(e domain.Event) error   { x.events = append(x.events, e); return x.Tx.Emit(e) }

func (s *tap) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	var last *tapTx
	err := s.Store.Commit(ctx, func(tx domain.Tx) error { last = &tapTx{Tx: tx}; return fn(last) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.events = append(s.events, last.events...)
		if last.puts > 0 && s.after != nil {
			err, s.after = s.after, nil
		}
	}
	return err
}

func build(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	h.store = &tap{Store: open(t, h.env)}
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	kek, err := aead.New(handle)
	if err != nil {
		t.Fatal(err)
	}
	h.closer = envelope.NewCloser(kek, &h.shards, h.env)
	door := &serve.Door{Store: h.store, Env: h.env, Salt: domain.NewSecret([]byte("salt"))}
	h.mux = http.NewServeMux()
	(&portfolio.Service{Store: h.store, Env: h.env, Door: door, Opener: envelope.NewReader(kek, &h.shards, h.env)}).Routes(h.mux)
	h.client = &domain.Client{ID: domain.NewID[domain.ClientID](h.env), Name: "Client", State: domain.ClientActive, CreatedAt: h.env.Now()}
	h.put(h.client)
	h.token = h.issue(h.client.ID, domain.RoleClient, "")
	h.consent, h.conn = h.connect("inv-1", nil)
	return h
}

func open(t *testing.T, env domain.Env) domain.Store {
	t.Helper()
	var indexes []domain.Index
	var kinds []struct {
		Kind domain.DocumentKind `json:"kind"`
	}
	read(t, "indexes.json", &indexes)
	read(t, "retention.json", &kinds)
	options := sql.Options{Env: env, Indexes: indexes}
	for _, k := range kinds {
		options.Kinds = append(options.Kinds, k.Kind)
	}
	b, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func read(t *testing.T, name string, v any) {
	t.Helper()
	raw, err := schemas.FS.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func (h *house) put(docs ...domain.Document) {
	h.t.Helper()
	err := h.store.Store.Commit(h.t.Context(), func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return tx.Record(domain.Note(h.env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) get(d domain.Document) {
	h.t.Helper()
	if err := h.store.Get(h.t.Context(), d); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) issue(client domain.ClientID, role domain.Role, advisor domain.AdvisorID) string {
	key, token := domain.NewAPIKey(h.env, client, role, advisor, "")
	h.put(key)
	return string(token.Reveal())
}

// advisor makes an advisor and a key of theirs.
func (h *house) advisor() (domain.AdvisorID, string) {
	a := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](h.env), ClientID: h.client.ID, Name: "A", State: domain.AdvisorActive}
	h.put(a)
	return a.ID, h.issue(h.client.ID, domain.RoleAdvisor, a.ID)
}

// connect makes a valid consent with an active connection and an accepted credential.
func (h *house) connect(ref string, advisors []domain.AdvisorID) (*domain.Consent, *domain.Connection) {
	now := h.env.Now()
	conn := &domain.Connection{ID: domain.NewID[domain.ConnectionID](h.env), ClientID: h.client.ID,
		ConsentID: domain.NewID[domain.ConsentID](h.env), InvestorRef: ref, Custodian: "sandbox", State: domain.ConnectionActive,
		CreatedAt: now, UpdatedAt: now}
	consent := &domain.Consent{ID: conn.ConsentID, ClientID: h.client.ID, ConnectionID: conn.ID, InvestorRef: ref,
		Purpose:  domain.Purpose{Code: "reporting"},
		Products: []domain.Product{domain.ProductAccounts, domain.ProductCash, domain.ProductPositions, domain.ProductTransactions},
		Advisors: advisors, Custodian: "sandbox", Access: domain.AccessRecurring, ExpiresAt: now.Add(24 * time.Hour),
		State: domain.ConsentValid, CreatedAt: now, UpdatedAt: now}
	credential := &domain.Credential{ID: domain.NewID[domain.CredentialID](h.env), ConnectionID: conn.ID, ConsentID: consent.ID,
		ClientID: h.client.ID, Custodian: "sandbox", State: domain.CredentialAccepted, Sealed: []byte("sealed")}
	h.put(conn, consent, credential)
	return consent, conn
}

// version stores a version of h.conn whose transactions lie in parts of the given sizes.
func (h *house) version(number int64, sizes ...int) *domain.Portfolio {
	h.t.Helper()
	if h.key == nil {
		id := domain.NewID[domain.ShardID](h.env)
		shard, err := h.shards.Make(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		key, err := h.closer.NewDataKey(h.conn.Binding(), id, shard)
		if err != nil {
			h.t.Fatal(err)
		}
		h.key = key
		h.put(key)
	}
	p := &domain.Portfolio{ID: domain.NewID[domain.PortfolioID](h.env), ClientID: h.client.ID, ConsentID: h.consent.ID,
		ConnectionID: h.conn.ID, SessionID: domain.NewID[domain.SessionID](h.env), Custodian: "sandbox", Number: number,
		RetrievedAt: h.env.Now(), SummaryMark: fmt.Sprintf("sum%d", number)}
	status := domain.ProductStatus{State: domain.ProductComplete, Saved: true}
	for i, n := range sizes {
		var lines bytes.Buffer
		for range n {
			line, err := json.Marshal(&domain.Transaction{Provenance: domain.Provenance{SourceID: fmt.Sprintf("v%d-%04d", number, status.Count)},
				AccountID: "acc_1", Type: domain.TransactionBuy})
			if err != nil {
				h.t.Fatal(err)
			}
			lines.Write(append(line, '\n'))
			status.Count++
		}
		id := fmt.Sprintf("part_%s_%d_%d", h.conn.ID, number, i)
		h.put(&domain.Part{ID: id, ClientID: h.client.ID, ConsentID: h.consent.ID, ConnectionID: h.conn.ID,
			Product: domain.ProductTransactions, Count: n, CreatedAt: h.env.Now(), Sealed: h.seal(string(domain.ProductTransactions), id, lines.Bytes())})
		status.Parts = append(status.Parts, id)
	}
	p.Products = map[domain.Product]domain.ProductStatus{domain.ProductTransactions: status,
		domain.ProductAccounts:  {State: domain.ProductEmpty, Saved: true},
		domain.ProductPositions: {State: domain.ProductFailed, Reason: domain.ReasonBankAnswer},
		domain.ProductCash:      {State: domain.ProductComplete, Count: 3},
		domain.ProductOrders:    {State: domain.ProductNotConsented}}
	p.Summary = h.seal("summary", p.SummaryMark, []byte(`[{"account_id":"acc_1","currency":"EUR","computed":"1.50","unvalued":0}]`))
	h.get(h.conn)
	h.conn.PortfolioID, h.conn.Versions, h.conn.LastRefreshedAt = p.ID, number, h.env.Now()
	h.conn.Products = map[domain.Product]domain.ProductStatus{domain.ProductTransactions: {State: domain.ProductComplete, Count: status.Count, Saved: true, Parts: status.Parts}}
	h.put(p, h.conn)
	return p
}

func (h *house) seal(what, id string, plain []byte) []byte {
	h.t.Helper()
	sealed, err := h.closer.Close(h.key, what, id, plain)
	if err != nil {
		h.t.Fatal(err)
	}
	return sealed
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

func (a answer) String() string { return fmt.Sprintf("%d %v", a.status, a.body) }

func (h *house) call(token, method, path string, headers ...string) answer {
	h.t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header()}
	if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
		h.t.Errorf("%s %s: %d %q: %v", method, path, w.Code, w.Body, err)
	}
	return a
}

// want calls as the client and checks status and, for problems, code.
func (h *house) want(status int, code, method, path string, headers ...string) answer {
	h.t.Helper()
	a := h.call(h.token, method, path, headers...)
	if a.status != status || code != "" && a.body["code"] != code {
		h.t.Errorf("%s %s: have %v, want %d %s", method, path, a, status, code)
	}
	return a
}

func (h *house) path(rest string) string { return "/v1/connections/" + string(h.conn.ID) + rest }

// entries gives the audit entries of one action.
func (h *house) entries(action string) (out []domain.Entry) {
	h.t.Helper()
	all, next, err := domain.List[domain.Entry](h.t.Context(), h.store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil || next != "" {
		h.t.Fatal(err, next)
	}
	for _, e := range all {
		if strings.TrimPrefix(e.Type, "sluis.") == action {
			out = append(out, e)
		}
	}
	return out
}

var errLost = errors.New("the answer was lost")
