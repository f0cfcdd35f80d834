package seal_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/seal"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/memory"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// keys are made once, as an RSA-4096 key takes a second.
var keys *envelope.Keys

func TestMain(m *testing.M) {
	os.Exit(withKeys(m))
}

func withKeys(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sluis-seal-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if keys, err = envelope.LocalKeys(filepath.Join(dir, "keys")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := keys.InnerPublic(); err != nil { // wait for it before the directory goes
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// house is one investor who has granted a consent and comes to give a credential.
type house struct {
	shards  *memory.Shards
	t       *testing.T
	now     time.Time
	env     domain.Env
	tap     *tap
	fault   func(point string) error
	service *seal.Service
	mux     *http.ServeMux
	consent *domain.Consent
	conn    *domain.Connection
	cookie  string
}

// tap is a store that remembers what was emitted by the commits that said they succeeded.
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

func build(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, shards: &memory.Shards{}, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), mux: http.NewServeMux()}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	h.tap = &tap{Store: h.open()}
	h.service = &seal.Service{Store: h.tap, Env: h.env, Door: &serve.Door{Store: h.tap, Env: h.env, Salt: domain.NewSecret([]byte("salt"))},
		Sealer: envelope.NewSealer(keys.Encrypter(envelope.KeyOuter)), Shards: h.shards, Public: keys.InnerPublic, Kids: keys.InnerKids}
	h.service.Routes(h.mux)
	now := h.env.Now()
	h.conn = &domain.Connection{ID: domain.NewID[domain.ConnectionID](h.env), ClientID: domain.NewID[domain.ClientID](h.env),
		ConsentID: domain.NewID[domain.ConsentID](h.env), InvestorRef: "inv-1", Custodian: "sandbox", State: domain.ConnectionAwaiting, CreatedAt: now}
	h.consent = &domain.Consent{ID: h.conn.ConsentID, ClientID: h.conn.ClientID, ConnectionID: h.conn.ID, InvestorRef: "inv-1",
		Purpose: domain.Purpose{Code: "tax"}, Products: domain.Products, Custodian: "sandbox", Access: domain.AccessRecurring,
		ExpiresAt: now.Add(24 * time.Hour), State: domain.ConsentValid, CreatedAt: now}
	h.put(&domain.Client{ID: h.conn.ClientID, State: domain.ClientActive}, h.conn, h.consent)
	h.cookie = h.visit(func(*domain.Visit) {})
	return h
}

func (h *house) open() domain.Store {
	h.t.Helper()
	var kinds []struct {
		Kind domain.DocumentKind `json:"kind"`
	}
	o := sql.Options{Env: h.env, Fault: func(point string) error {
		if h.fault == nil {
			return nil
		}
		return h.fault(point)
	}}
	for name, v := range map[string]any{"indexes.json": &o.Indexes, "retention.json": &kinds} {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := json.Unmarshal(raw, v); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, k := range kinds {
		o.Kinds = append(o.Kinds, k.Kind)
	}
	s, err := sql.Open(h.t.Context(), "sqlite:"+filepath.Join(h.t.TempDir(), "db"), o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return s
}

func (h *house) put(docs ...domain.Document) {
	h.t.Helper()
	err := h.tap.Store.Commit(h.t.Context(), func(tx domain.Tx) error {
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

// get reads a document again and says whether it is there.
func (h *house) get(d domain.Document) bool {
	h.t.Helper()
	err := h.tap.Store.Get(h.t.Context(), d)
	if err != nil && domain.KindOf(err) != domain.NotFound {
		h.t.Fatal(err)
	}
	return err == nil
}

// visit lets the investor in, with what change makes of the visit, and returns the cookie.
func (h *house) visit(change func(*domain.Visit)) string {
	token := base64.RawURLEncoding.EncodeToString(h.env.Random(32))
	v := &domain.Visit{Hash: domain.HashToken(token), ConsentID: h.consent.ID, ConnectionID: h.conn.ID, ClientID: h.consent.ClientID,
		InvestorRef: "inv-1", Purpose: domain.LinkConsent, ExpiresAt: h.env.Now().Add(time.Hour)}
	change(v)
	h.put(v)
	return token
}

func (h *house) ask(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(h.t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: h.cookie})
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	return w
}

const password = "correct horse battery staple"

// jwe is what the browser makes of the credential.
func (h *house) jwe() string {
	h.t.Helper()
	public, err := keys.InnerPublic()
	if err != nil {
		h.t.Fatal(err)
	}
	jwe, err := public.SealCredential(h.conn.ID, map[string]string{"username": "12345678", "password": password}, h.env.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return jwe
}

func (h *house) give(jwe string) *httptest.ResponseRecorder {
	h.t.Helper()
	body, err := json.Marshal(map[string]string{"jwe": jwe})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ask("POST", "/seal", string(body))
}

func (h *house) again() *httptest.ResponseRecorder { return h.ask("POST", "/seal/again", "{}") }

// begun reads the session that an answer names.
func (h *house) begun(w *httptest.ResponseRecorder) *domain.Session {
	h.t.Helper()
	var out struct {
		SessionID domain.SessionID `json:"session_id"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != 202 {
		h.t.Fatalf("got %d %s", w.Code, w.Body)
	}
	s := &domain.Session{ID: out.SessionID}
	if !h.get(s) {
		h.t.Fatalf("there is no session %s", out.SessionID)
	}
	return s
}

// refused checks that an answer is that problem.
func (h *house) refused(w *httptest.ResponseRecorder, status int, code string) {
	h.t.Helper()
	var p serve.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != status || p.Code != code || p.Detail == "" {
		h.t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, code)
	}
}

// entries lists the audit entries of an action.
func (h *house) entries(action string) (out []domain.Entry) {
	h.t.Helper()
	all, _, err := domain.List[domain.Entry](h.t.Context(), h.tap.Store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Type == "sluis."+action {
			out = append(out, e)
		}
	}
	return out
}

// sessions lists the connection's sessions.
func (h *house) sessions() []domain.Session {
	h.t.Helper()
	all, _, err := domain.List[domain.Session](h.t.Context(), h.tap.Store, domain.Query{Index: "sessions_by_connection", Match: []string{string(h.conn.ID)}})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// emitted lists the subjects of all session events, in order.
func (h *house) emitted() (out []string) {
	h.t.Helper()
	h.tap.mu.Lock()
	defer h.tap.mu.Unlock()
	for _, e := range h.tap.events {
		if e.Topic != domain.TopicSession || e.Custodian != "sandbox" || !e.NotBefore.IsZero() {
			h.t.Errorf("emitted %+v", e)
		}
		out = append(out, e.Subject)
	}
	return out
}

// unchanged checks that nothing but audit entries came of what do does.
func (h *house) unchanged(do func()) {
	h.t.Helper()
	look := func() string {
		conn, cred := &domain.Connection{ID: h.conn.ID}, &domain.Credential{ConnectionID: h.conn.ID}
		h.get(conn)
		h.get(cred)
		raw, err := json.Marshal([]any{conn, cred, h.sessions(), h.emitted()})
		if err != nil {
			h.t.Fatal(err)
		}
		return string(raw)
	}
	before := look()
	do()
	if after := look(); after != before {
		h.t.Errorf("before %s\nafter  %s", before, after)
	}
}

// lay puts a session of the connection in that state, and a credential if there is a state for one.
func (h *house) lay(session domain.SessionState, credential domain.CredentialState) *domain.Session {
	h.t.Helper()
	now := h.env.Now()
	s := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), ClientID: h.conn.ClientID, ConsentID: h.consent.ID, ConnectionID: h.conn.ID,
		Custodian: "sandbox", Cause: domain.CauseFirst, State: session, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(domain.SessionLife)}
	h.conn.SessionID = s.ID
	docs := []domain.Document{s, h.conn}
	if credential != "" {
		docs = append(docs, &domain.Credential{ID: domain.NewID[domain.CredentialID](h.env), ConnectionID: h.conn.ID, ConsentID: h.consent.ID,
			ClientID: h.conn.ClientID, Custodian: "sandbox", State: credential, Sealed: []byte("old"), CreatedAt: now, UpdatedAt: now})
	}
	if session == domain.SessionSuspended {
		s.Sealed = []byte("state at the bank")
		c := &domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), SessionID: s.ID, ConnectionID: h.conn.ID, State: domain.SCAIssued,
			Display: []byte("masked number"), AnswerBy: now.Add(time.Minute), ExpiresAt: s.ExpiresAt}
		s.ChallengeID, h.conn.State = c.ID, domain.ConnectionSCA
		docs = append(docs, c)
	}
	h.put(docs...)
	return s
}
