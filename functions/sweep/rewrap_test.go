package sweep_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// kept makes a connection's keyset and an endpoint, both to be looked at some time from now.
func (h *house) kept(in time.Duration) (*domain.DataKey, *domain.Endpoint) {
	h.t.Helper()
	at := h.env.Now().Add(in)
	key := &domain.DataKey{ConnectionID: domain.NewID[domain.ConnectionID](h.env), ClientID: h.client.ID, Custodian: "sandbox", Wrapped: []byte("w"), RewrapAt: at}
	ep := &domain.Endpoint{ID: domain.NewID[domain.EndpointID](h.env), ClientID: h.client.ID, State: domain.EndpointEnabled, Secret: []byte("s"), RewrapAt: at}
	h.put(key, ep)
	return key, ep
}

// asked are the subjects of the events that have keys' versions looked at.
func (h *house) asked() (subjects []string) {
	for _, e := range append(h.store.emitted(domain.TopicSession), h.store.emitted(domain.TopicDelivery)...) {
		if e.Topic == domain.TopicSession && e.Custodian != "sandbox" || e.Lane != string(h.client.ID) {
			h.t.Errorf("the event is %+v", e)
		}
		subjects = append(subjects, e.Subject)
	}
	return subjects
}

// TestRewrap: what is kept for long is looked at once a month, and not twice; what was removed is left alone.
func TestRewrap(t *testing.T) {
	h := build(t)
	key, ep := h.kept(24 * time.Hour)
	_, gone := h.kept(24 * time.Hour)
	gone.State, gone.Secret = domain.EndpointRemoved, nil
	h.put(gone)
	h.sweep()
	if got := h.asked(); len(got) > 0 {
		t.Errorf("looked at before the time: %v", got)
	}
	h.now = h.now.Add(24*time.Hour + time.Millisecond)
	for range 2 {
		h.sweep()
	}
	got := h.asked()
	if !slices.Contains(got, key.Key()) || !slices.Contains(got, ep.Key()) || slices.Contains(got, gone.Key()) || len(got) != 3 {
		t.Errorf("looked at were %v", got)
	}
	h.get(key)
	h.get(ep)
	if next := h.env.Now().Add(domain.RewrapEvery); !key.RewrapAt.Equal(next.Time) || !ep.RewrapAt.Equal(next.Time) || string(key.Wrapped) != "w" {
		t.Errorf("the next look is at %s and %s", key.RewrapAt, ep.RewrapAt)
	}
	if n := len(h.entries("rewrap.asked")); n != 2 {
		t.Errorf("the log tells %d times", n)
	}
	h.now = h.now.Add(domain.RewrapEvery + time.Millisecond)
	h.sweep()
	if got := h.asked(); len(got) != 6 {
		t.Errorf("a month later %d", len(got))
	}
}

// TestRewrapBesides: a keyset that is erased between the listing and the commit stays erased, and somebody else's look
// counts.
func TestRewrapBesides(t *testing.T) {
	h := build(t)
	key, _ := h.kept(-time.Hour)
	h.store.before = func() {
		if err := h.store.Store.Commit(t.Context(), func(tx domain.Tx) error {
			if err := tx.Delete(key); err != nil {
				return err
			}
			return tx.Record(domain.Note(h.env, "test", "erased", domain.Actor{Kind: domain.ActorOperator, ID: "test"}, "", "test", nil))
		}); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.service.Rewrap(t.Context(), h.env.Now()); err != nil {
		t.Fatal(err)
	}
	if got := h.asked(); !h.gone(&domain.DataKey{ConnectionID: key.ConnectionID}) || slices.Contains(got, key.Key()) {
		t.Errorf("what was erased is there again, or looked at: %v", got)
	}
	again, _ := h.kept(-time.Hour)
	h.store.before = func() {
		if _, err := h.service.Rewrap(t.Context(), h.env.Now()); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.service.Rewrap(t.Context(), h.env.Now()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, subject := range h.asked() {
		if subject == again.Key() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("two sweeps at once have it looked at %d times", n)
	}
}

// TestRewrapAll: an operator who cannot wait has everything looked at, over many commits, and each once.
func TestRewrapAll(t *testing.T) {
	h := build(t)
	var docs []domain.Document
	for i := range 250 {
		docs = append(docs, &domain.DataKey{ConnectionID: domain.ConnectionID(fmt.Sprint("conn-", i)), ClientID: h.client.ID, Custodian: "sandbox",
			RewrapAt: h.env.Now().Add(time.Duration(i) * time.Hour)})
	}
	h.put(docs...)
	for want := 250; want >= 0; want -= 250 {
		if n, err := h.service.Rewrap(t.Context(), h.env.Now().Add(domain.RewrapEvery)); err != nil || n != want {
			t.Errorf("%d were looked at, want %d: %v", n, want, err)
		}
	}
	if got := h.asked(); len(got) != 250 {
		t.Errorf("%d events", len(got))
	}
}
