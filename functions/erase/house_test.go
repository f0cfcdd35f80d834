package erase_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/erase"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// house is one client and one investor with a connection that holds everything a connection can hold.
type house struct {
	shards    memory.Shards
	t         *testing.T
	store     *tap
	env       domain.Env
	now       time.Time
	service   *erase.Service
	signers   []crypto.Signer
	away      error // of the signers
	public    ed25519.PublicKey
	mux       *http.ServeMux
	client    *domain.Client
	token     string
	consent   *domain.Consent
	conn      *domain.Connection
	forgotten []domain.ConnectionID
}

// tap is a store that remembers what was emitted, how much each commit changed, and dies on demand.
type tap struct {
	away bool // the bank is, so that extraction closes nothing there
	domain.Store
	mu      sync.Mutex
	events  []domain.Event
	changes []int // documents put and deleted, by commit
	dieAt   int   // the number of the commit that fails, counted from 1; 0 is never
	applied bool  // whether that commit takes effect all the same
	before  func(commit int)
}

type tapTx struct {
	domain.Tx
	events  []domain.Event
	changes int
}

func (x *tapTx) Put(d domain.Document) error    { x.changes++; return x.Tx.Put(d) }
func (x *tapTx) Delete(d domain.Document) error { x.changes++; return x.Tx.Delete(d) }
func (x *tapTx) Emit(e domain.Event) error      { x.events = append(x.events, e); return x.Tx.Emit(e) }

var errDied = errors.New("the process died")

func (s *tap) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	s.mu.Lock()
	n, before := len(s.changes)+1, s.before
	dies := s.dieAt == n
	s.mu.Unlock()
	if before != nil {
		before(n)
	}
	if dies && !s.applied {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changes = append(s.changes, 0)
		return errDied
	}
	var last *tapTx
	err := s.Store.Commit(ctx, func(tx domain.Tx) error { last = &tapTx{Tx: tx}; return fn(last) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, last.changes)
	if err == nil {
		s.events = append(s.events, last.events...)
		for _, e := range last.events {
			if e.Topic == domain.TopicSession && !s.away {
				s.closeBank(ctx, domain.SessionID(e.Subject))
			}
		}
		if dies {
			err = errDied
		}
	}
	return err
}

// closeBank does as extraction does for a session that has ended.
func (s *tap) closeBank(ctx context.Context, id domain.SessionID) {
	_ = s.Store.Commit(ctx, func(tx domain.Tx) error {
		x := &domain.Session{ID: id}
		if err := tx.Get(x); err != nil {
			return err
		}
		x.Sealed = nil
		return errors.Join(tx.Put(x), tx.Record(domain.Note(domain.Env{}, "extract", "session.closed", domain.Actor{Kind: domain.ActorSystem, ID: "extract"}, "", string(id), nil)))
	})
}

func (s *tap) emitted(topic domain.Topic) (out []domain.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Topic == topic {
			out = append(out, e)
		}
	}
	return out
}

func build(t *testing.T, parts int) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	h.store = &tap{Store: open(t, h.env)}
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	h.signers, h.public = []crypto.Signer{private}, private.Public().(ed25519.PublicKey)
	door := &serve.Door{Store: h.store, Env: h.env, Salt: domain.NewSecret([]byte("salt"))}
	h.service = &erase.Service{Store: h.store, Env: h.env, Door: door, Signers: func() ([]crypto.Signer, error) { return h.signers, h.away }, Copies: erase.Copies{Backups: 7 * 24 * time.Hour},
		Shards: &h.shards, Wait: -1, Forget: func(id domain.ConnectionID) { h.forgotten = append(h.forgotten, id) }}
	h.mux = http.NewServeMux()
	h.service.Routes(h.mux)
	h.client = &domain.Client{ID: domain.NewID[domain.ClientID](h.env), State: domain.ClientActive}
	h.put(h.client)
	h.token = h.issue(domain.RoleClient, "")
	h.consent, h.conn = h.connect("inv-1", domain.ConsentValid)
	h.fill(parts)
	h.now = h.now.Add(time.Hour)
	return h
}

func open(t *testing.T, env domain.Env) domain.Store {
	t.Helper()
	var options struct {
		indexes []domain.Index
		kinds   []struct {
			Kind domain.DocumentKind `json:"kind"`
		}
	}
	for name, v := range map[string]any{"indexes.json": &options.indexes, "retention.json": &options.kinds} {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatal(err)
		}
	}
	o := sql.Options{Env: env, Indexes: options.indexes}
	for _, k := range options.kinds {
		o.Kinds = append(o.Kinds, k.Kind)
	}
	b, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
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

func (h *house) gone(d domain.Document) bool {
	h.t.Helper()
	err := h.store.Get(h.t.Context(), d)
	if err != nil && domain.KindOf(err) != domain.NotFound {
		h.t.Fatal(err)
	}
	return err != nil
}

func (h *house) issue(role domain.Role, advisor domain.AdvisorID) string {
	key, token := domain.NewAPIKey(h.env, h.client.ID, role, advisor, "")
	h.put(key)
	return string(token.Reveal())
}

func (h *house) connect(ref string, state domain.ConsentState) (*domain.Consent, *domain.Connection) {
	now := h.env.Now()
	conn := &domain.Connection{ID: domain.NewID[domain.ConnectionID](h.env), ClientID: h.client.ID,
		ConsentID: domain.NewID[domain.ConsentID](h.env), InvestorRef: ref, Custodian: "sandbox",
		State: domain.ConnectionActive, CreatedAt: now, UpdatedAt: now}
	if state == domain.ConsentReceived {
		conn.State = domain.ConnectionPending
	}
	consent := &domain.Consent{ID: conn.ConsentID, ClientID: h.client.ID, ConnectionID: conn.ID, InvestorRef: ref,
		Products: domain.Products, Custodian: "sandbox", Access: domain.AccessRecurring, ExpiresAt: now.Add(24 * time.Hour),
		State: state, CreatedAt: now, UpdatedAt: now}
	h.put(conn, consent)
	return consent, conn
}

// shard makes a shard.
func (h *house) shard() domain.ShardID {
	h.t.Helper()
	id := domain.NewID[domain.ShardID](h.env)
	if _, err := h.shards.Make(h.t.Context(), id); err != nil {
		h.t.Fatal(err)
	}
	return id
}

// fill gives h.conn a credential, a data key, two versions, so many parts, an ended session, one that is suspended
// with a challenge, and a schedule.
func (h *house) fill(parts int) {
	h.t.Helper()
	now, id := h.env.Now(), h.conn.ID
	session := func(state domain.SessionState) *domain.Session {
		return &domain.Session{ID: domain.NewID[domain.SessionID](h.env), ConnectionID: id, ConsentID: h.consent.ID,
			ClientID: h.client.ID, Custodian: "sandbox", State: state, CreatedAt: now, ExpiresAt: now.Add(domain.SessionLife)}
	}
	ended, waiting := session(domain.SessionComplete), session(domain.SessionSuspended)
	waiting.Sealed, waiting.Shard = []byte("state at the bank"), h.shard()
	challenge := &domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), SessionID: waiting.ID, ConnectionID: id,
		State: domain.SCAIssued, CreatedAt: now}
	waiting.ChallengeID = challenge.ID
	docs := []domain.Document{ended, waiting, challenge,
		&domain.Credential{ID: domain.NewID[domain.CredentialID](h.env), ConnectionID: id, ConsentID: h.consent.ID,
			State: domain.CredentialTrying, Sealed: []byte("credential"), Shard: h.shard(), SessionShard: waiting.Shard, CreatedAt: now},
		&domain.DataKey{ConnectionID: id, Wrapped: []byte("key"), Shard: h.shard(), CreatedAt: now}}
	for number := range int64(2) {
		p := &domain.Portfolio{ID: domain.NewID[domain.PortfolioID](h.env), ConnectionID: id, Number: number + 1, RetrievedAt: now}
		h.conn.PortfolioID = p.ID
		docs = append(docs, p)
	}
	for i := range parts {
		docs = append(docs, &domain.Part{ID: fmt.Sprintf("part_%s_%03d", id, i), ConnectionID: id, Product: domain.ProductCash, CreatedAt: now, Sealed: []byte("part")})
	}
	h.conn.SessionID, h.conn.NextRefreshAt, h.conn.LastRefreshedAt = waiting.ID, now.Add(24*time.Hour), now
	h.conn.Products = map[domain.Product]domain.ProductStatus{domain.ProductCash: {State: domain.ProductComplete, Count: 1}}
	for chunk := range slices.Chunk(append(docs, h.conn), 100) {
		h.put(chunk...)
	}
}

// held counts what is left of a connection, by kind.
func (h *house) held(conn *domain.Connection) map[string]int {
	h.t.Helper()
	out := map[string]int{}
	for kind, d := range map[string]domain.Document{"credential": &domain.Credential{ConnectionID: conn.ID}, "data_key": &domain.DataKey{ConnectionID: conn.ID}} {
		if !h.gone(d) {
			out[kind] = 1
		}
	}
	for kind, index := range map[string]string{"challenge": "challenges_by_connection", "portfolio": "portfolios_by_connection", "part": "parts_by_connection"} {
		page, err := h.store.List(h.t.Context(), domain.Query{Index: index, Match: []string{string(conn.ID)}, Limit: 1000})
		if err != nil {
			h.t.Fatal(err)
		}
		if len(page.Documents) > 0 {
			out[kind] = len(page.Documents)
		}
	}
	return out
}

// certificates gives everything of the erasures index: certificates and, if the work broke off, lines without signature.
func (h *house) certificates(conn *domain.Connection) []domain.Erasure {
	h.t.Helper()
	all, _, err := domain.List[domain.Erasure](h.t.Context(), h.store, domain.Query{Index: "erasures_by_connection",
		Match: []string{string(conn.ID)}, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// notices gives the types of the connection's notices in order.
func (h *house) notices(conn *domain.Connection) string {
	h.t.Helper()
	all, _, err := domain.List[domain.Notice](h.t.Context(), h.store, domain.Query{Index: "notices_by_client", Match: []string{string(h.client.ID)}, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b domain.Notice) int { return int(a.Sequence - b.Sequence) })
	var types []string
	for i, n := range all {
		if n.ConnectionID == conn.ID {
			types = append(types, string(n.Type))
		}
		if n.Sequence != int64(i+1) {
			h.t.Errorf("notice %d has the sequence %d", i+1, n.Sequence)
		}
	}
	return strings.Join(types, " ")
}

func (h *house) entries(action string) (n int) {
	h.t.Helper()
	all, _, err := domain.List[domain.Entry](h.t.Context(), h.store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Type == "sluis."+action {
			n++
		}
	}
	return n
}

// call makes a request as the holder of token; for POST, as an investor with that cookie.
func (h *house) call(token, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if method == "POST" {
		r.Header.Set("Content-Type", "application/json")
		r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: token})
	} else {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	return w
}

// erase asks as the client and checks the certificate.
func (h *house) erase(rest string) domain.Erasure {
	h.t.Helper()
	w := h.call(h.token, "DELETE", "/v1/connections/"+string(h.conn.ID)+rest, "")
	if w.Code != 200 {
		h.t.Fatalf("DELETE %s: %d %s", rest, w.Code, w.Body)
	}
	return h.certificate(w)
}

func (h *house) certificate(w *httptest.ResponseRecorder) (cert domain.Erasure) {
	h.t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &cert); err != nil {
		h.t.Fatal(err)
	}
	if err := erase.Verify(cert, h.public); err != nil {
		h.t.Errorf("the certificate does not verify: %v", err)
	}
	return cert
}

// visit lets an investor in and returns the cookie.
func (h *house) visit(consent *domain.Consent) string {
	cookie := base64.RawURLEncoding.EncodeToString(h.env.Random(32))
	h.put(&domain.Visit{Hash: domain.HashToken(cookie), ConsentID: consent.ID, ConnectionID: consent.ConnectionID,
		ClientID: consent.ClientID, InvestorRef: consent.InvestorRef, Purpose: domain.LinkManage, ExpiresAt: h.env.Now().Add(time.Hour)})
	return cookie
}
