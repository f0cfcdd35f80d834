package portfolio_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// pages reads a product to its end and returns the source identifiers in order.
func (h *house) pages(path string, limit int) (ids []string) {
	h.t.Helper()
	for next := ""; ; {
		a := h.want(200, "", "GET", fmt.Sprintf("%s?limit=%d%s", path, limit, next))
		for _, d := range a.body["data"].([]any) {
			ids = append(ids, d.(map[string]any)["source_id"].(string))
		}
		cursor, more := a.body["next"].(string)
		if !more {
			return ids
		}
		next = "&cursor=" + cursor
	}
}

func TestRecordsPageByPage(t *testing.T) {
	for _, limit := range []int{1, 4, 5, 7, 12, 1000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			h := build(t)
			h.version(1, 5, 5, 2)
			ids := h.pages(h.path("/portfolio/transactions"), limit)
			if len(ids) != 12 {
				t.Fatalf("have %d records, want 12", len(ids))
			}
			for i, id := range ids {
				if want := fmt.Sprintf("v1-%04d", i); id != want {
					t.Errorf("record %d is %s, want %s", i, id, want)
				}
			}
			total := 0
			for _, e := range h.entries("portfolio.read") {
				var n int
				if _, err := fmt.Sscan(e.Data.Details["count"], &n); err != nil {
					t.Fatal(err)
				}
				total += n
				if e.Data.Details["product"] != "transactions" || e.Data.Actor.Kind != domain.ActorClient || e.Data.Origin == "" {
					t.Errorf("entry lacks something: %+v", e)
				}
			}
			if total != 12 {
				t.Errorf("the audit log counts %d records, want 12", total)
			}
		})
	}
}

func TestManySmallPartsMakeShortPages(t *testing.T) {
	h := build(t)
	sizes := make([]int, 20)
	for i := range sizes {
		sizes[i] = 1
	}
	h.version(1, sizes...)
	a := h.want(200, "", "GET", h.path("/portfolio/transactions?limit=1000"))
	if n := len(a.body["data"].([]any)); n != 8 || a.body["next"] == nil {
		t.Errorf("one call opened %d parts, want 8 and a next page", n)
	}
	if ids := h.pages(h.path("/portfolio/transactions"), 1000); len(ids) != 20 {
		t.Errorf("have %d records over all pages, want 20", len(ids))
	}
}

func TestRecordSaysWhereItCameFrom(t *testing.T) {
	h := build(t)
	h.version(1, 1)
	a := h.want(200, "", "GET", h.path("/portfolio/transactions"))
	r := a.body["data"].([]any)[0].(map[string]any)
	if r["source"] != "sandbox" || r["retrieved_at"] != h.env.Now().String() || r["consent_id"] != string(h.consent.ID) {
		t.Errorf("provenance not filled in: %v", r)
	}
}

func TestPagingStaysOnItsVersion(t *testing.T) {
	h := build(t)
	h.version(1, 6)
	first := h.want(200, "", "GET", h.path("/portfolio/transactions?limit=3"))
	h.now = h.now.Add(time.Minute)
	h.version(2, 9)
	second := h.want(200, "", "GET", h.path("/portfolio/transactions?limit=3&cursor="+first.body["next"].(string)))
	if got := second.body["data"].([]any)[0].(map[string]any)["source_id"]; got != "v1-0003" {
		t.Errorf("the second page begins with %v, want v1-0003", got)
	}
	if second.body["next"] != nil {
		t.Error("the second page should be the last")
	}
	if ids := h.pages(h.path("/portfolio/transactions"), 4); len(ids) != 9 {
		t.Errorf("a new reading gives %d records, want those of version 2", len(ids))
	}
}

func TestPagingOfARetiredVersionSaysSo(t *testing.T) {
	h := build(t)
	old := h.version(1, 3, 3)
	first := h.want(200, "", "GET", h.path("/portfolio/transactions?limit=3"))
	cursor := "?cursor=" + first.body["next"].(string)
	status := old.Products[domain.ProductTransactions]
	kept := status.Parts
	status.Parts, status.Saved = nil, false
	old.Products[domain.ProductTransactions] = status
	h.put(old)
	h.want(410, "version_gone", "GET", h.path("/portfolio/transactions"+cursor))
	status.Parts = []string{kept[0], "part_swept"}
	old.Products[domain.ProductTransactions] = status
	h.put(old)
	h.want(410, "version_gone", "GET", h.path("/portfolio/transactions"+cursor))
	old.ExpiresAt = h.env.Now()
	h.put(old)
	h.want(410, "version_gone", "GET", h.path("/portfolio/transactions"))
}

func TestCursorTamper(t *testing.T) {
	h := build(t)
	p := h.version(1, 3)
	mine := h.conn
	_, h.conn = h.connect("inv-2", nil)
	h.key = nil
	foreign := h.version(1, 3)
	h.conn = mine
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, cursor := range map[string]string{
		"garbage":            "%21%21",
		"not ours":           encode("hello"),
		"another product":    encode("cash|" + string(p.ID) + "|0|0"),
		"negative part":      encode("transactions|" + string(p.ID) + "|-1|0"),
		"part beyond":        encode("transactions|" + string(p.ID) + "|2|0"),
		"offset beyond":      encode("transactions|" + string(p.ID) + "|0|4"),
		"offset at the end":  encode("transactions|" + string(p.ID) + "|1|1"),
		"number too large":   encode("transactions|" + string(p.ID) + "|99999999999999999999|0"),
		"no such identifier": encode("transactions|pf_x|0|0"),
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			a := h.want(400, "invalid_field", "GET", h.path("/portfolio/transactions?cursor="+cursor))
			if a.body["field"] != "cursor" {
				t.Errorf("the problem is about %v", a.body["field"])
			}
		})
	}
	h.t = t
	h.want(404, "version_unknown", "GET", h.path("/portfolio/transactions?cursor="+encode("transactions|"+string(foreign.ID)+"|0|0")))
	h.want(400, "invalid_field", "GET", h.path("/portfolio/transactions?version=1&cursor="+encode("transactions|"+string(p.ID)+"|0|0")))
}

func TestEmptyListNeverHidesAFailure(t *testing.T) {
	h := build(t)
	h.version(1, 3)
	for product, want := range map[string]string{
		"accounts":     "map[count:0 saved:true state:empty]",
		"cash":         "map[count:3 saved:false state:complete]",
		"positions":    "map[count:0 reason:bank_answer saved:false state:failed]",
		"transactions": "map[count:3 saved:true state:complete]",
	} {
		t.Run(product, func(t *testing.T) {
			h.t = t
			a := h.want(200, "", "GET", h.path("/portfolio/"+product))
			if have := fmt.Sprint(a.body["status"]); have != want {
				t.Errorf("have status %s, want %s", have, want)
			}
			if data, ok := a.body["data"].([]any); !ok || product != "transactions" && len(data) > 0 {
				t.Errorf("data is %v", a.body["data"])
			}
		})
	}
	h.t = t
	h.now = h.now.Add(time.Second)
	h.want(403, "consent_scope", "GET", h.path("/portfolio/orders"))
	h.want(400, "invalid_field", "GET", h.path("/portfolio/secrets"))
	denied := h.entries("portfolio.read")
	if e := denied[len(denied)-1]; e.Data.Outcome != domain.OutcomeDenied || e.Data.Reason != "consent_scope" {
		t.Errorf("the refusal is not recorded: %+v", e)
	}
}

func TestVersions(t *testing.T) {
	h := build(t)
	one := h.version(1, 1)
	h.now = h.now.Add(time.Hour)
	two := h.version(2, 2)
	h.now = h.now.Add(time.Hour)
	h.version(3, 3)
	for query, number := range map[string]float64{"": 3, "?version=1": 1, "?version=2": 2, "?version=3": 3, "?version=" + string(two.ID): 2} {
		a := h.want(200, "", "GET", h.path("/portfolio"+query))
		if a.body["number"] != number {
			t.Errorf("%q gives version %v, want %v", query, a.body["number"], number)
		}
	}
	for query, code := range map[string]string{"?version=4": "version_unknown", "?version=pf_" + strings.Repeat("0", 26): "version_unknown"} {
		h.want(404, code, "GET", h.path("/portfolio"+query))
	}
	for _, query := range []string{"?version=0", "?version=x", "?version=-1", "?version=pf_1"} {
		h.want(400, "invalid_field", "GET", h.path("/portfolio"+query))
	}
	records := h.want(200, "", "GET", h.path("/portfolio/transactions?version=2&limit=1"))
	if v := records.body["version"].(map[string]any); v["number"] != 2.0 {
		t.Errorf("?version=2 of a product gives version %v", v)
	}
	one.ExpiresAt = h.env.Now()
	h.put(one)
	h.want(410, "version_gone", "GET", h.path("/portfolio?version=1"))
	list := h.want(200, "", "GET", h.path("/portfolios?limit=2"))
	if data := list.body["data"].([]any); len(data) != 2 || data[0].(map[string]any)["number"] != 3.0 || list.body["next"] == nil {
		t.Errorf("the list is %v", list)
	}
	rest := h.want(200, "", "GET", h.path("/portfolios?limit=2&cursor="+list.body["next"].(string)))
	if data := rest.body["data"].([]any); len(data) != 0 || rest.body["next"] != nil {
		t.Errorf("an ended version is listed: %v", rest)
	}
}

func TestManifest(t *testing.T) {
	h := build(t)
	h.want(404, "portfolio_none", "GET", h.path("/portfolio"))
	h.want(404, "portfolio_none", "GET", h.path("/portfolio/transactions"))
	h.version(1, 2)
	a := h.want(200, "", "GET", h.path("/portfolio"))
	if sums := fmt.Sprint(a.body["reconciliation"]); sums != "[map[account_id:acc_1 computed:1.50 currency:EUR unvalued:0]]" {
		t.Errorf("sums are %s", sums)
	}
	if strings.Contains(fmt.Sprint(a.body), "part_") {
		t.Error("the manifest shows the names of parts")
	}
	h.consent.Products = []domain.Product{domain.ProductAccounts, domain.ProductCash}
	h.put(h.consent)
	a = h.want(200, "", "GET", h.path("/portfolio"))
	if a.body["reconciliation"] != nil {
		t.Error("sums over positions are shown although the consent was narrowed")
	}
	if have := fmt.Sprint(a.body["products"].(map[string]any)["transactions"]); have != "map[count:0 saved:false state:not_consented]" {
		t.Errorf("transactions are %s after the consent was narrowed", have)
	}
	h.want(403, "consent_scope", "GET", h.path("/portfolio/transactions"))
}

func TestErasedKeyIsGone(t *testing.T) {
	h := build(t)
	p := h.version(1, 2)
	err := h.store.Commit(t.Context(), func(tx domain.Tx) error {
		if err := tx.Delete(h.key); err != nil {
			return err
		}
		return tx.Record(domain.Note(h.env, "test", "x", domain.Actor{}, "", "x", nil))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.want(410, "version_gone", "GET", h.path("/portfolio?version="+string(p.ID)))
	h.want(410, "version_gone", "GET", h.path("/portfolio/transactions"))
}

func TestTamperedPartIsNotShown(t *testing.T) {
	h := build(t)
	p := h.version(1, 2, 2)
	parts := p.Products[domain.ProductTransactions].Parts
	one, two := &domain.Part{ID: parts[0]}, &domain.Part{ID: parts[1]}
	h.get(one)
	h.get(two)
	one.Sealed, two.Sealed = two.Sealed, one.Sealed
	h.put(one, two)
	h.want(500, "internal", "GET", h.path("/portfolio/transactions"))
}

func TestConsentIsCheckedOnEachRead(t *testing.T) {
	for name, spoil := range map[string]func(*domain.Consent, *house){
		"consent_revoked":    func(c *domain.Consent, _ *house) { c.State = domain.ConsentRevoked },
		"consent_terminated": func(c *domain.Consent, _ *house) { c.State = domain.ConsentTerminated },
		"consent_expired":    func(c *domain.Consent, h *house) { c.ExpiresAt = h.env.Now() },
		"consent_custodian":  func(c *domain.Consent, _ *house) { c.Custodian = "other" },
		"consent_region":     func(c *domain.Consent, _ *house) { c.Regions = []string{"mars"} },
	} {
		t.Run(name, func(t *testing.T) {
			h := build(t)
			h.version(1, 2)
			spoil(h.consent, h)
			h.put(h.consent)
			for _, path := range []string{"/portfolio", "/portfolios", "/portfolio/transactions"} {
				h.want(403, name, "GET", h.path(path))
			}
			h.want(403, name, "POST", h.path("/refresh"))
			n := len(h.entries("portfolio.read")) + len(h.entries("portfolio.listed")) + len(h.entries("refresh.requested"))
			if n != 4 {
				t.Errorf("%d refusals are recorded, want 4", n)
			}
			if len(h.store.events) > 0 {
				t.Errorf("something was emitted: %v", h.store.events)
			}
		})
	}
}

func TestRoles(t *testing.T) {
	h := build(t)
	h.version(1, 1)
	named, advisor := h.advisor()
	h.consent.Advisors = []domain.AdvisorID{named}
	h.put(h.consent)
	_, stranger := h.advisor()
	reviewer := h.issue(h.client.ID, domain.RoleReviewer, "")
	other := &domain.Client{ID: domain.NewID[domain.ClientID](h.env), State: domain.ClientActive}
	h.put(other)
	foreign := h.issue(other.ID, domain.RoleClient, "")
	get := map[string][]string{"states": {"", "?"}, "data": {"/portfolio", "/portfolios", "/portfolio/transactions"}}
	for _, c := range []struct {
		name, token           string
		states, data, refresh int
	}{
		{"client", h.token, 200, 200, 429},
		{"advisor named", advisor, 200, 200, 403},
		{"advisor not named", stranger, 404, 404, 403},
		{"reviewer", reviewer, 200, 403, 403},
		{"another client", foreign, 404, 404, 404},
		{"nobody", "sluis_key_x", 401, 401, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			for kind, want := range map[string]int{"states": c.states, "data": c.data} {
				for _, rest := range get[kind] {
					if a := h.call(c.token, "GET", h.path(rest)); a.status != want {
						t.Errorf("GET %s: have %v, want %d", rest, a, want)
					}
				}
			}
			if a := h.call(c.token, "POST", h.path("/refresh")); a.status != c.refresh {
				t.Errorf("refresh: have %v, want %d", a, c.refresh)
			}
		})
	}
	h.t = t
	denied := 0
	for _, e := range h.entries("portfolio.read") {
		if e.Data.Outcome == domain.OutcomeDenied && e.Data.Reason == "consent_not_yours" {
			denied++
		}
	}
	if denied != 2 {
		t.Errorf("%d refusals of the advisor not named are recorded, want 2", denied)
	}
}

func TestAdvisorListIsHonest(t *testing.T) {
	h := build(t)
	named, advisor := h.advisor()
	want := map[string]bool{}
	for i := range 30 {
		if i%5 == 0 {
			_, conn := h.connect("inv-x", []domain.AdvisorID{named})
			want[string(conn.ID)] = true
		} else {
			h.connect("inv-y", nil)
		}
	}
	have := map[string]bool{}
	for next := ""; ; {
		a := h.call(advisor, "GET", "/v1/connections?limit=4"+next)
		data := a.body["data"].([]any)
		if len(data) > 4 {
			t.Fatalf("a page has %d connections, want at most 4", len(data))
		}
		for _, d := range data {
			have[d.(map[string]any)["id"].(string)] = true
		}
		cursor, more := a.body["next"].(string)
		if !more {
			break
		}
		next = "&cursor=" + cursor
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("the advisor sees %v, want %v", have, want)
	}
	a := h.want(200, "", "GET", "/v1/connections?investor_ref=inv-x&limit=1000")
	if n := len(a.body["data"].([]any)); n != len(want) {
		t.Errorf("the filter gives %d, want %d", n, len(want))
	}
}

func TestConnectionShowsCompleteness(t *testing.T) {
	h := build(t)
	h.version(1, 4)
	session := &domain.Session{ID: domain.NewID[domain.SessionID](h.env), ConnectionID: h.conn.ID, Cause: domain.CauseFirst,
		State: domain.SessionFailed, Reason: domain.ReasonBankUnavailable, Sealed: []byte("hidden"), CreatedAt: h.env.Now()}
	h.conn.SessionID, h.conn.State, h.conn.Reason = session.ID, domain.ConnectionPaused, domain.ReasonBankUnavailable
	h.put(session, h.conn)
	a := h.want(200, "", "GET", h.path(""))
	if have := fmt.Sprint(a.body["products"]); have != "map[transactions:map[count:4 saved:true state:complete]]" {
		t.Errorf("products are %s", have)
	}
	if s := a.body["session"].(map[string]any); s["reason"] != "bank_unavailable" || s["sealed"] != nil {
		t.Errorf("session is %v", s)
	}
}
