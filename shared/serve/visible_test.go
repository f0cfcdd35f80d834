package serve_test

import (
	"fmt"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// TestVisible: an advisor's pages are full and in order, end where the last consent that names them does, and never
// carry a cursor that stands at one that does not.
func TestVisible(t *testing.T) {
	b := newBed(t, 0)
	advisor := domain.Principal{Role: domain.RoleAdvisor, ClientID: "cli_1", AdvisorID: "adv_1"}
	var want []string
	var all []domain.Document
	for i := range 500 {
		c := &domain.Consent{ID: domain.ConsentID(fmt.Sprintf("con_%03d", 999-i)), ClientID: "cli_1"}
		if i%67 == 3 {
			c.Advisors, want = []domain.AdvisorID{"adv_1"}, append(want, c.Key())
		}
		all = append(all, c)
	}
	b.put(all...)
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []string
		q := domain.Query{Index: "consents_by_client", Match: []string{"cli_1"}, Limit: limit}
		for {
			page, next, err := serve.Visible(t.Context(), b.tap.Store, q, advisor, func(c *domain.Consent) (bool, error) { return advisor.Sees(c), nil })
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page {
				got = append(got, c.Key())
			}
			if next != "" && len(page) < limit || len(page) == 0 {
				t.Fatalf("a page of %d although more follows, limit %d", len(page), limit)
			}
			if q.Cursor = next; next == "" {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("limit %d: %v, want %v", limit, got, want)
		}
	}
}
