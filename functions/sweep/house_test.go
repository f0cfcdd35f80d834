package sweep_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/sweep"
	"sluis.internal/schemas"
	"sluis.internal/shared/backend/sql"
	"sluis.internal/shared/domain"
)

// house is a store on disk, a clock that stands still and the sweep.
type house struct {
	t       *testing.T
	store   *tap
	env     domain.Env
	now     time.Time
	service *sweep.Service
	client  *domain.Client
}

// tap is a store that remembers what was emitted, and lets a test act between a listing and the commit after it.
type tap struct {
	domain.Store
	mu     sync.Mutex
	events []domain.Event
	before func()
}

type tapTx struct {
	domain.Tx
	events []domain.Event
}

func (x *tapTx) Emit(e domain.Event) error { x.events = append(x.events, e); return x.Tx.Emit(e) }

func (s *tap) Commit(ctx context.Context, fn func(domain.Tx) error) error {
	s.mu.Lock()
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		before()
	}
	var last *tapTx
	err := s.Store.Commit(ctx, func(tx domain.Tx) error { last = &tapTx{Tx: tx}; return fn(last) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.events = append(s.events, last.events...)
	}
	return err
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

// retention is a row of retention.json.
type retention struct {
	Kind  domain.DocumentKind `json:"kind"`
	Ends  string              `json:"ends"`
	Field string              `json:"field"`
}

func build(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	h.env = domain.Env{Clock: func() time.Time { return h.now }, Region: "local"}
	var indexes []domain.Index
	var rows []retention
	for name, v := range map[string]any{"indexes.json": &indexes, "retention.json": &rows} {
		raw, err := schemas.FS.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatal(err)
		}
	}
	options, lives := sql.Options{Env: h.env, Indexes: indexes}, []domain.Index(nil)
	for _, row := range rows {
		options.Kinds = append(options.Kinds, row.Kind)
		for _, i := range indexes {
			if row.Ends == "ttl" && i.Of == row.Kind && i.Range == row.Field && len(i.Equal) == 0 {
				lives = append(lives, i)
			}
		}
	}
	b, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	h.store = &tap{Store: b}
	h.service = &sweep.Service{Store: h.store, Env: h.env, Lives: lives}
	h.client = &domain.Client{ID: domain.NewID[domain.ClientID](h.env), State: domain.ClientActive}
	h.put(h.client)
	return h
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

func (h *house) delete(d domain.Document) {
	h.t.Helper()
	err := h.store.Store.Commit(h.t.Context(), func(tx domain.Tx) error {
		return errors.Join(tx.Delete(d), tx.Record(domain.Note(h.env, "test", "laid", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil)))
	})
	if err != nil {
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

func (h *house) sweep() sweep.Report {
	h.t.Helper()
	r, err := h.service.Sweep(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// connect makes a valid, recurring consent with an active connection that was read an hour ago and is due now.
func (h *house) connect() (*domain.Consent, *domain.Connection) {
	consent, conn := h.made()
	h.put(conn, consent)
	return consent, conn
}

func (h *house) made() (*domain.Consent, *domain.Connection) {
	now := h.env.Now()
	conn := &domain.Connection{ID: domain.NewID[domain.ConnectionID](h.env), ClientID: h.client.ID,
		ConsentID: domain.NewID[domain.ConsentID](h.env), InvestorRef: "inv", Custodian: "sandbox", State: domain.ConnectionActive,
		NextRefreshAt: now, LastRefreshedAt: now.Add(-time.Hour), CreatedAt: now, UpdatedAt: now}
	consent := &domain.Consent{ID: conn.ConsentID, ClientID: h.client.ID, ConnectionID: conn.ID, InvestorRef: "inv",
		Products: domain.Products, Custodian: "sandbox", Access: domain.AccessRecurring, ExpiresAt: now.Add(24 * time.Hour),
		State: domain.ConsentValid, CreatedAt: now, UpdatedAt: now}
	h.put(&domain.Credential{ConnectionID: conn.ID, State: domain.CredentialAccepted})
	return consent, conn
}

func (h *house) entries(action string) (out []domain.Entry) {
	h.t.Helper()
	all, _, err := domain.List[domain.Entry](h.t.Context(), h.store, domain.Query{Index: "entries_by_time", Limit: 1000})
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
