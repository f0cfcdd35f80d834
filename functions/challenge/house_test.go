package challenge_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sluis.internal/functions/challenge"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// house is one investor at the page while a session waits for the answer to a question.
type house struct {
	t         *testing.T
	now       time.Time // by the house's own clock; zero where the bubble's is taken
	env       domain.Env
	dir       string
	store     *tap
	display   tink.AEAD
	service   *challenge.Service
	bank      *bank
	mux       *http.ServeMux
	log       *lines
	consent   *domain.Consent
	conn      *domain.Connection
	session   *domain.Session
	challenge *domain.Challenge
	cookie    string
	address   string // where the browser is; empty for anywhere
	opened    *atomic.Int64
}

// tap is a store that refuses to read a kind on demand.
type tap struct {
	domain.Store
	mu     sync.Mutex
	broken map[domain.DocumentKind]error
	asked  int // how often
}

func (s *tap) Get(ctx context.Context, docs ...domain.Document) error {
	s.mu.Lock()
	s.asked++
	err := domain.Each(docs, func(d domain.Document) error { return s.broken[d.Kind()] })
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.Store.Get(ctx, docs...)
}

// fail has every reading of kind fail from now on.
func (s *tap) fail(kind domain.DocumentKind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken[kind] = err
}

// bank is the extraction that answers are passed on to.
type bank struct {
	mu     sync.Mutex
	asked  []domain.AnswerRequest
	at     []time.Time
	answer func(domain.AnswerRequest) error // nil takes everything
}

func (b *bank) Answer(_ context.Context, _ domain.CustodianID, r domain.AnswerRequest) error {
	b.mu.Lock()
	b.asked, b.at = append(b.asked, r), append(b.at, time.Now())
	answer := b.answer
	b.mu.Unlock()
	if answer == nil {
		return nil
	}
	return answer(r)
}

// says has the bank answer so from now on.
func (b *bank) says(answer func(domain.AnswerRequest) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func (b *bank) requests() []domain.AnswerRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
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

// build lays a house with a clock that stands.
func build(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	h.lay()
	return h
}

// bubble lays a house by the clock of a synctest bubble, which the caller is in.
func bubble(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, env: domain.Env{Region: "local"}}
	h.lay()
	return h
}

func (h *house) lay() {
	h.t.Helper()
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err == nil {
		h.display, err = aead.New(handle)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.dir, h.bank, h.mux, h.log, h.opened = h.t.TempDir(), &bank{}, http.NewServeMux(), &lines{}, &atomic.Int64{}
	h.store = &tap{Store: h.open(), broken: map[domain.DocumentKind]error{}}
	log := slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	usual := slog.Default()
	slog.SetDefault(log)
	h.t.Cleanup(func() { slog.SetDefault(usual) })
	h.service = &challenge.Service{Store: h.store, Env: h.env, Display: counted{h.display, h.opened}, Bank: h.bank,
		Door: &serve.Door{Store: h.store, Env: h.env, Salt: domain.NewSecret([]byte("salt")), Log: log}}
	h.service.Routes(h.mux)
	h.settle()
}

// counted counts what is opened.
type counted struct {
	domain.Decrypter
	opened *atomic.Int64
}

func (c counted) Decrypt(closed, label []byte) ([]byte, error) {
	c.opened.Add(1)
	return c.Decrypter.Decrypt(closed, label)
}

// stranger is another client's investor in the same place.
func (h *house) stranger() *house {
	h.t.Helper()
	other := *h
	other.address = "198.51.100.1"
	other.settle()
	return &other
}

// settle has an investor come to where the bank asks.
func (h *house) settle() {
	h.t.Helper()
	now := h.env.Now()
	h.conn = &domain.Connection{ID: domain.NewID[domain.ConnectionID](h.env), ClientID: domain.NewID[domain.ClientID](h.env),
		ConsentID: domain.NewID[domain.ConsentID](h.env), InvestorRef: "inv-1", Custodian: "sandbox", State: domain.ConnectionSCA, CreatedAt: now}
	h.consent = &domain.Consent{ID: h.conn.ConsentID, ClientID: h.conn.ClientID, ConnectionID: h.conn.ID, InvestorRef: "inv-1",
		Purpose: domain.Purpose{Code: "tax"}, Products: domain.Products, Custodian: "sandbox", Access: domain.AccessRecurring,
		ExpiresAt: now.Add(24 * time.Hour), State: domain.ConsentValid, CreatedAt: now}
	h.session = &domain.Session{ID: domain.NewID[domain.SessionID](h.env), ConnectionID: h.conn.ID, ConsentID: h.consent.ID, ClientID: h.conn.ClientID,
		Custodian: "sandbox", Cause: domain.CauseFirst, State: domain.SessionSuspended, Records: 3, ExpiresAt: now.Add(domain.SessionLife)}
	h.challenge = &domain.Challenge{ID: domain.NewID[domain.ChallengeID](h.env), SessionID: h.session.ID, ConnectionID: h.conn.ID, ConsentID: h.consent.ID,
		ClientID: h.conn.ClientID, Custodian: "sandbox", State: domain.SCAIssued, Flow: domain.FlowCode, Method: "P_TAN",
		Methods:   []domain.SCAMethod{{ID: "P_TAN", Flow: domain.FlowCode, Kind: "photo_tan"}, {ID: "P_TAN_PUSH", Flow: domain.FlowDecoupled, Kind: "app"}},
		TriesLeft: 3, UpdatedAt: now, AnswerBy: now.Add(5 * time.Minute), ExpiresAt: h.session.ExpiresAt}
	h.show(domain.Display{Destination: "+49-170-12XXXX", Text: "Look at your phone", Image: []byte("\x89PNG picture"), MediaType: "image/png", Digits: 6})
	h.conn.SessionID, h.session.ChallengeID = h.session.ID, h.challenge.ID
	h.cookie = h.visit(func(*domain.Visit) {})
	h.session.Visit = domain.HashToken(h.cookie)
	h.put(&domain.Client{ID: h.conn.ClientID, State: domain.ClientActive}, h.conn, h.consent, h.session, h.challenge)
}

func (h *house) open() domain.Store {
	h.t.Helper()
	var kinds []struct {
		Kind domain.DocumentKind `json:"kind"`
	}
	o := sql.Options{Env: h.env}
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
	s, err := sql.Open(h.t.Context(), "sqlite:"+filepath.Join(h.dir, "db"), o)
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

// show gives the challenge something to show.
func (h *house) show(d domain.Display) {
	h.t.Helper()
	raw, err := json.Marshal(d)
	if err != nil {
		h.t.Fatal(err)
	}
	if h.challenge.Display, err = envelope.Seal(h.display, envelope.DisplayLabel(h.challenge), raw); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) change(fn func(domain.Tx) error) {
	h.t.Helper()
	err := h.store.Store.Commit(context.WithoutCancel(h.t.Context()), func(tx domain.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Record(domain.Note(h.env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) put(docs ...domain.Document) {
	h.t.Helper()
	h.change(func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Put(d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *house) drop(docs ...domain.Document) {
	h.t.Helper()
	h.change(func(tx domain.Tx) error {
		for _, d := range docs {
			if err := tx.Delete(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// visit lets the investor in and returns the cookie.
func (h *house) visit(change func(*domain.Visit)) string {
	h.t.Helper()
	token := base64.RawURLEncoding.EncodeToString(h.env.Random(32))
	v := &domain.Visit{Hash: domain.HashToken(token), ConsentID: h.consent.ID, ConnectionID: h.conn.ID, ClientID: h.consent.ClientID,
		InvestorRef: "inv-1", Purpose: domain.LinkConsent,
		Confirmation: &domain.Confirmation{Digest: "5e1f", Language: "en", Version: "1"}, ExpiresAt: h.env.Now().Add(domain.VisitLife)}
	change(v)
	h.put(v)
	return token
}

func (h *house) request(ctx context.Context, method, path, body string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if h.address != "" {
		r.RemoteAddr = net.JoinHostPort(h.address, "4711")
	}
	r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: h.cookie})
	return r
}

func (h *house) ask(method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, h.request(h.t.Context(), method, path, body))
	return w
}

// state asks how things stand.
func (h *house) state() challenge.State {
	h.t.Helper()
	return h.read(h.ask("GET", "/challenge/state", ""))
}

func (h *house) read(w *httptest.ResponseRecorder) (s challenge.State) {
	h.t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != 200 {
		h.t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return s
}

// answer answers the challenge; more are further members.
func (h *house) answer(kind domain.AnswerKind, more ...string) *httptest.ResponseRecorder {
	h.t.Helper()
	body := map[string]string{"challenge_id": string(h.challenge.ID), "kind": string(kind)}
	for i := 0; i < len(more); i += 2 {
		body[more[i]] = more[i+1]
	}
	raw, err := json.Marshal(body)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ask("POST", "/challenge/answer", string(raw))
}

// refused checks that an answer is that problem.
func (h *house) refused(w *httptest.ResponseRecorder, status int, code string) {
	h.t.Helper()
	var p serve.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != status || p.Code != code || p.Detail == "" {
		h.t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, code)
	}
}

// entries lists the audit entries of answers.
func (h *house) entries() (out []domain.Entry) {
	h.t.Helper()
	all, _, err := domain.List[domain.Entry](h.t.Context(), h.store.Store, domain.Query{Index: "entries_by_time", Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Type == "sluis.challenge.answered" {
			out = append(out, e)
		}
	}
	return out
}

// kept reads every byte of the store's files.
func (h *house) kept() string {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(h.dir, "*"))
	if err != nil || len(files) == 0 {
		h.t.Fatalf("no files: %v", err)
	}
	var all strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
