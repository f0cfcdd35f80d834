package erase_test

import (
	"fmt"
	"slices"
	"testing"

	"sluis.internal/shared/domain"
)

// TestNarrowed narrows a consent and hands the event to the function, which may die at any commit: what the consent
// covers no more is gone from every version, and everything else is as it was.
func TestNarrowed(t *testing.T) {
	for died := range 6 {
		t.Run(fmt.Sprintf("dying at commit %d", died), func(t *testing.T) {
			h := build(t, 3)
			kept, versions := &domain.Part{ID: "part_kept", ConnectionID: h.conn.ID, Product: domain.ProductAccounts}, h.narrowed()
			h.put(kept)
			for i := range 120 {
				h.put(&domain.Part{ID: fmt.Sprintf("part_old_%03d", i), ConnectionID: h.conn.ID, Product: domain.ProductPositions})
			}
			alive := true
			h.store.before = func(commit int) {
				if commit == died && alive {
					alive = false
					panic("died")
				}
			}
			event := domain.Event{Topic: domain.TopicErasure, Subject: string(h.conn.ID)}
			for range 2 { // it comes again
				func() {
					defer func() { _ = recover() }()
					if err := h.service.Erasure(t.Context(), event); err != nil {
						t.Fatal(err)
					}
				}()
			}
			h.get(kept)
			if got := h.held(h.conn); got["part"] != 1 || got["portfolio"] != 2 || got["data_key"] != 1 || got["credential"] != 1 {
				t.Errorf("left are %v", got)
			}
			for _, v := range versions {
				h.get(v)
				cash, accounts := v.Products[domain.ProductCash], v.Products[domain.ProductAccounts]
				if cash.State != domain.ProductNotConsented || len(cash.Parts) > 0 || len(v.Summary) > 0 || accounts.Count != 1 {
					t.Errorf("version %d says %+v", v.Number, v)
				}
			}
			if len(h.certificates(h.conn)) > 0 || h.notices(h.conn) != "" {
				t.Error("narrowing is no erasure that somebody asked for")
			}
		})
	}
}

// narrowed leaves of the consent the accounts alone, after two versions with more were read.
func (h *house) narrowed() (versions []*domain.Portfolio) {
	h.t.Helper()
	found, _, err := domain.List[domain.Portfolio](h.t.Context(), h.store, domain.Query{Index: "portfolios_by_connection", Match: []string{string(h.conn.ID)}})
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range found {
		v := &found[i]
		v.Summary, v.SummaryMark = []byte("sums"), "mark"
		v.Products = map[domain.Product]domain.ProductStatus{
			domain.ProductAccounts: {State: domain.ProductComplete, Count: 1, Parts: []string{"part_kept"}},
			domain.ProductCash:     {State: domain.ProductComplete, Count: 3, Parts: []string{"part_0"}},
			domain.ProductOrders:   {State: domain.ProductNotConsented}}
		h.put(v)
		versions = append(versions, v)
	}
	h.consent.Products = slices.Clone(domain.Products[:1])
	h.put(h.consent)
	return versions
}
