package sweep_test

import (
	"fmt"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// warned are the keys that clients were told of, and how often; a notice that is there still must say what the entry does.
func (h *house) warned() map[string]int {
	h.t.Helper()
	out, told := map[string]int{}, 0
	for _, e := range h.entries("key.warned") {
		out[e.Subject]++
		n := &domain.Notice{ID: domain.NoticeID(e.Data.Details["notice_id"])}
		err := h.store.Store.Get(h.t.Context(), n)
		if gone := domain.KindOf(err) == domain.NotFound; !gone && (err != nil || n.Type != domain.NoticeKeyExpiring || n.Subject != e.Subject ||
			n.ClientID != h.client.ID || n.ConnectionID != "") {
			h.t.Errorf("the notice is %+v, %v", n, err)
		}
	}
	for _, e := range h.store.emitted(domain.TopicNotice) {
		if e.Lane == string(h.client.ID) {
			told++
		}
	}
	if told != len(h.entries("key.warned")) {
		h.t.Errorf("%d events, %d entries", told, len(h.entries("key.warned")))
	}
	return out
}

// TestKeysAreWarnedOfOnce: thirty days before a key's end its client is told, once, however often and by how many it is
// swept; of a key that was replaced or revoked, of one that is shorter than that and of one without an end nobody is.
func TestKeysAreWarnedOfOnce(t *testing.T) {
	h := build(t)
	key := func(change func(*domain.APIKey)) string {
		k, _ := domain.NewAPIKey(h.env, h.client.ID, domain.RoleClient, "", "")
		change(k)
		h.put(k)
		return k.Key()
	}
	yes := key(func(*domain.APIKey) {})
	late := key(func(k *domain.APIKey) { k.Lasts(domain.KeyLife + time.Hour) })
	key(func(k *domain.APIKey) { k.Lasts(domain.KeyWarning) })
	key(func(k *domain.APIKey) { k.Line, k.ExpiresAt, k.WarnAt = "", domain.Time{}, domain.Time{} })
	key(func(k *domain.APIKey) {
		fresh, _ := domain.NewAPIKey(h.env, h.client.ID, "", "", "")
		if err := k.Replace(fresh, domain.KeyLife, h.env.Now()); err != nil {
			t.Fatal(err)
		}
	})
	sweep := func() {
		t.Helper()
		h.store.before = func() {
			if _, err := h.service.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, err := h.service.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.now = h.now.Add(domain.KeyLife - domain.KeyWarning - time.Minute)
	if sweep(); len(h.warned()) != 0 {
		t.Fatalf("told early: %v", h.warned())
	}
	h.now = h.now.Add(time.Minute)
	for range 3 {
		sweep()
	}
	if got := h.warned(); len(got) != 1 || got[yes] != 1 {
		t.Fatalf("told %v, want %s once", got, yes)
	}
	h.now = h.now.Add(40 * 24 * time.Hour) // nobody swept for so long that it has ended
	sweep()
	sweep()
	if got := h.warned(); len(got) != 2 || got[late] != 1 {
		t.Errorf("told %v, want %s too", got, late)
	}
	if got := h.entries("key.warned"); len(got) != 2 || got[0].ClientID != h.client.ID {
		t.Errorf("entries %v", got)
	}
}

// TestManyKeysAreWarnedOf: what one sweep leaves, the next one does.
func TestManyKeysAreWarnedOf(t *testing.T) {
	h := build(t)
	var docs []domain.Document
	for i := range 250 {
		k, _ := domain.NewAPIKey(h.env, h.client.ID, domain.RoleReviewer, "", fmt.Sprint(i))
		docs = append(docs, k)
	}
	h.put(docs...)
	h.now = h.now.Add(domain.KeyLife)
	for _, want := range []int{200, 250, 250} {
		r, err := h.service.Sweep(t.Context())
		if err != nil || len(h.warned()) != want || r.More != (want == 200) {
			t.Fatalf("%d were told of, want %d, more %t: %v", len(h.warned()), want, r.More, err)
		}
	}
}
