package portfolio_test

import (
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func (h *house) session(state domain.SessionState) *domain.Session {
	s := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), ClientID: h.client.ID, ConsentID: h.consent.ID,
		ConnectionID: h.conn.ID, Custodian: "sandbox", Cause: domain.CauseFirst, State: state, CreatedAt: h.env.Now(),
		ExpiresAt: h.env.Now().Add(domain.SessionLife)}
	h.conn.SessionID = s.ID
	h.put(s, h.conn)
	return s
}

func (h *house) credential(state domain.CredentialState) {
	c := &domain.Credential{ConnectionID: h.conn.ID}
	h.get(c)
	c.State = state
	h.put(c)
}

func TestRefreshQueuesASession(t *testing.T) {
	for name, lay := range map[string]func(*house){
		"active":                  func(h *house) {},
		"paused":                  func(h *house) { h.conn.State = domain.ConnectionPaused },
		"connecting, no session":  func(h *house) { h.conn.State = domain.ConnectionBusy },
		"awaiting SCA, no longer": func(h *house) { h.conn.State = domain.ConnectionSCA },
		"credential unconfirmed":  func(h *house) { h.credential(domain.CredentialUnconfirmed) },
		"credential sealed":       func(h *house) { h.credential(domain.CredentialSealed) },
		"login broken off":        func(h *house) { h.credential(domain.CredentialTrying) },
		"last session failed":     func(h *house) { h.conn.LastRefreshedAt = h.env.Now(); h.session(domain.SessionFailed) },
		"last session long gone": func(h *house) {
			h.conn.SessionID = domain.NewID[domain.SessionID](h.env)
			h.conn.LastRefreshedAt = h.env.Now().Add(-time.Minute)
		},
		"session whose life is over": func(h *house) {
			s := h.session(domain.SessionQueued)
			s.ExpiresAt = h.env.Now()
			h.put(s)
		},
		"one-off, nothing read": func(h *house) { h.consent.Access = domain.AccessOnce; h.put(h.consent) },
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			lay(h)
			h.put(h.conn)
			before := h.conn.SessionID
			a := h.want(202, "", "POST", h.path("/refresh"))
			s := &domain.Session{ID: domain.SessionID(a.body["session_id"].(string))}
			h.get(s)
			if s.State != domain.SessionQueued || s.Cause != domain.CauseRequested || s.ConsentID != h.consent.ID ||
				!s.ExpiresAt.Equal(h.env.Now().Add(domain.SessionLife).Time) {
				t.Errorf("the session is %+v", s)
			}
			h.get(h.conn)
			if h.conn.SessionID != s.ID || h.conn.State != domain.ConnectionActive && h.conn.State != domain.ConnectionBusy {
				t.Errorf("the connection is %+v", h.conn)
			}
			if len(h.store.events) != 1 || h.store.events[0].Subject != string(s.ID) || h.store.events[0].Custodian != "sandbox" {
				t.Errorf("emitted %+v", h.store.events)
			}
			old := &domain.Session{ID: before}
			if before != "" && h.store.Get(t.Context(), old) == nil && !domain.SessionMoves.Final(old.State) {
				t.Error("the session before is still open")
			}
			c := &domain.Credential{ConnectionID: h.conn.ID}
			h.get(c)
			if c.State == domain.CredentialTrying {
				t.Error("the credential is still being tried")
			}
		})
	}
}

func TestRefreshRefused(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		code   string
		lay    func(*house)
	}{
		"removed":             {409, "connection_state", func(h *house) { h.conn.State = domain.ConnectionRemoved }},
		"pending":             {409, "connection_state", func(h *house) { h.conn.State = domain.ConnectionPending }},
		"awaiting":            {409, "credentials_missing", func(h *house) { h.conn.State = domain.ConnectionAwaiting }},
		"credentials refused": {409, "credentials_refused", func(h *house) { h.credential(domain.CredentialRefused) }},
		"one-off, read": {403, "consent_one_off", func(h *house) {
			h.consent.Access = domain.AccessOnce
			h.put(h.consent)
			h.conn.LastRefreshedAt = h.env.Now().Add(-time.Hour)
		}},
		"just read": {429, "refreshed_just_now", func(h *house) {
			h.conn.LastRefreshedAt = h.env.Now().Add(-59 * time.Second)
			h.session(domain.SessionComplete)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			c.lay(h)
			h.put(h.conn)
			a := h.want(c.status, c.code, "POST", h.path("/refresh"))
			if c.status == 429 && a.header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
			}
			if len(h.store.events) > 0 {
				t.Errorf("emitted %+v", h.store.events)
			}
			denied := h.entries("refresh.requested")
			if c.code == "consent_one_off" && (len(denied) != 1 || denied[0].Data.Outcome != domain.OutcomeDenied) {
				t.Errorf("the refusal by the consent is not recorded: %+v", denied)
			}
		})
	}
	t.Run("no credential", func(t *testing.T) {
		h := build(t)
		err := h.store.Commit(t.Context(), func(tx domain.Tx) error {
			if err := tx.Delete(&domain.Credential{ConnectionID: h.conn.ID}); err != nil {
				return err
			}
			return tx.Record(domain.Note(h.env, "test", "x", domain.Actor{}, "", "x", nil))
		})
		if err != nil {
			t.Fatal(err)
		}
		h.want(409, "credentials_missing", "POST", h.path("/refresh"))
	})
}

func TestRefreshFindsTheSessionUnderWay(t *testing.T) {
	for _, state := range []domain.SessionState{domain.SessionQueued, domain.SessionRunning, domain.SessionSuspended} {
		t.Run(string(state), func(t *testing.T) {
			h := build(t)
			s := h.session(state)
			a := h.want(200, "", "POST", h.path("/refresh"))
			if a.body["session_id"] != string(s.ID) || a.body["state"] != string(state) || len(h.store.events) > 0 {
				t.Errorf("have %v and %d events", a, len(h.store.events))
			}
		})
	}
}

func TestRefreshesAtOnceMakeOneSession(t *testing.T) {
	h := build(t)
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() { ids[i], _ = h.call(h.token, "POST", h.path("/refresh")).body["session_id"].(string) })
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("sessions differ: %v", ids)
		}
	}
	if len(h.store.events) != 1 {
		t.Errorf("%d sessions were emitted, want 1", len(h.store.events))
	}
}

// TestRefreshAfterTheClockWasPutBack: a reading that lies an hour ahead tells nothing of when the next may be.
func TestRefreshAfterTheClockWasPutBack(t *testing.T) {
	h := build(t)
	h.conn.LastRefreshedAt = h.env.Now().Add(time.Hour)
	h.session(domain.SessionComplete)
	h.put(h.conn)
	h.want(202, "", "POST", h.path("/refresh"))
}

func TestRefreshIsIdempotent(t *testing.T) {
	h := build(t)
	h.store.after = errLost
	h.want(500, "internal", "POST", h.path("/refresh"), "Idempotency-Key", "k1")
	h.get(h.conn)
	done := &domain.Session{ID: h.conn.SessionID}
	h.get(done)
	done.State = domain.SessionComplete
	h.put(done)
	again := h.want(200, "", "POST", h.path("/refresh"), "Idempotency-Key", "k1")
	if again.body["session_id"] != string(done.ID) || len(h.store.events) != 1 {
		t.Errorf("the repeated request made another session: %v", again)
	}
	if fresh := h.want(202, "", "POST", h.path("/refresh"), "Idempotency-Key", "k2"); fresh.body["session_id"] == string(done.ID) {
		t.Error("another request got the old session")
	}
}
