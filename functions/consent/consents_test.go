package consent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

func TestCreateConsentMakesEverythingAtOnce(t *testing.T) {
	h := newHome(t)
	entries := len(h.store.entries(""))
	r := h.call(http.StatusCreated, "POST", "/v1/consents", asked)
	id := domain.ConsentID(r.text("id"))
	if got := r.header.Get("Location"); got != "/v1/consents/"+string(id) {
		t.Errorf("Location %q", got)
	}
	for member, want := range map[string]string{"state": "received", "access": "recurring", "language": "en",
		"expires_at": "2026-05-30T12:00:00.000Z", "created_at": "2026-03-01T12:00:00.000Z", "investor_ref": "inv-1"} {
		if r.text(member) != want {
			t.Errorf("%s is %q, want %q", member, r.text(member), want)
		}
	}
	for _, absent := range []string{"decided_at", "ended_at", "custodian", "return_url"} {
		if _, there := r.body[absent]; there {
			t.Errorf("%s is there already", absent)
		}
	}
	saving, _ := r.body["saving"].(map[string]any)
	if cash, _ := saving["cash"].(map[string]any); len(saving) != 3 || cash["scope"] != "none" {
		t.Errorf("saving %v", saving)
	}
	con := h.connection(id)
	if con.State != domain.ConnectionPending || con.ConsentID != id || con.ClientID != h.client.ID || con.InvestorRef != "inv-1" || string(con.ID) != r.text("connection_id") {
		t.Errorf("connection %+v", con)
	}
	if l, _, _, err := h.Peek(context.Background(), tokenOf(t, r), browser); err != nil || l.Purpose != domain.LinkConsent || l.ConsentID != id {
		t.Errorf("link %+v, %v", l, err)
	}
	e := h.wantEntry("consent.created", domain.OutcomeAllowed, "")
	if len(h.store.entries("")) != entries+1 || e.Data.ConsentID != id || e.Data.ConnectionID != con.ID ||
		e.Data.Purpose != "wealth_overview" || e.Data.Actor.Kind != domain.ActorClient || e.Data.Actor.Key == "" || e.Data.Origin == "" {
		t.Errorf("entry %+v", e)
	}
	if strings.Contains(fmt.Sprint(h.store.docs), tokenOf(t, r)) {
		t.Error("the link's token is kept")
	}
}

func TestCreateConsentRefusesWhatIsWrong(t *testing.T) {
	h := newHome(t)
	other, _ := h.newClient("Other", Terms{})
	foreign := addAdvisor(t, h, other.ID)
	own := domain.AdvisorID(h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id"))
	gone := domain.AdvisorID(h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Bob"}`).text("id"))
	h.call(http.StatusNoContent, "DELETE", "/v1/advisors/"+string(gone), "")
	far := start.Add(domain.MaxConsent + time.Millisecond*2).Format(time.RFC3339Nano)
	cases := []struct{ name, member, value, field string }{
		{"no reference", "investor_ref", `""`, "/investor_ref"},
		{"an e-mail address", "investor_ref", `"a@b.example"`, "/investor_ref"},
		{"a long reference", "investor_ref", `"` + strings.Repeat("a", 65) + `"`, "/investor_ref"},
		{"unknown purpose", "purpose", `{"code":"marketing"}`, "/purpose/code"},
		{"long purpose", "purpose", `{"code":"tax","text":"` + strings.Repeat("é", 281) + `"}`, "/purpose/text"},
		{"hidden direction in purpose", "purpose", `{"code":"tax","text":"a\u202eb"}`, "/purpose/text"},
		{"no products", "products", `[]`, "/products"},
		{"unknown product", "products", `["cards"]`, "/products"},
		{"product twice", "products", `["cash","cash"]`, "/products"},
		{"unknown custodian", "custodians", `["comdirect","nobank"]`, "/custodians/1"},
		{"custodian twice", "custodians", `["comdirect","comdirect"]`, "/custodians/1"},
		{"unknown advisor", "advisors", `["adv_00000000000000000000000000"]`, "/advisors/0"},
		{"malformed advisor", "advisors", `["Ada"]`, "/advisors/0"},
		{"foreign advisor", "advisors", `["` + string(own) + `","` + string(foreign) + `"]`, "/advisors/1"},
		{"removed advisor", "advisors", `["` + string(gone) + `"]`, "/advisors/0"},
		{"advisor twice", "advisors", `["` + string(own) + `","` + string(own) + `"]`, "/advisors/1"},
		{"unknown access", "access", `"always"`, "/access"},
		{"over already", "expires_at", `"2026-03-01T12:00:00Z"`, "/expires_at"},
		{"too long", "expires_at", `"` + far + `"`, "/expires_at"},
		{"not a time", "expires_at", `"tomorrow"`, "/expires_at"},
		{"unknown language", "language", `"it"`, "/language"},
		{"return elsewhere", "return_url", `"https://evil.example/"`, "/return_url"},
		{"return with userinfo", "return_url", `"https://app.example@evil.example/"`, "/return_url"},
		{"return to a script", "return_url", `"javascript:alert(1)"`, "/return_url"},
		{"unknown member", "scope", `"all"`, "/scope"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var body map[string]json.RawMessage
			if err := json.Unmarshal([]byte(asked), &body); err != nil {
				t.Fatal(err)
			}
			body[c.member] = json.RawMessage(c.value)
			text, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			r := h.as(h.key, "POST", "/v1/consents", string(text))
			if r.status != http.StatusBadRequest || r.text("code") != "invalid_field" || r.text("field") != c.field {
				t.Errorf("status %d %s, want 400 at %s", r.status, r.raw, c.field)
			}
		})
	}
	if n := h.store.count("consent") + h.store.count("connection") + h.store.count("link"); n != 0 {
		t.Errorf("%d documents made by refused requests", n)
	}
}

func addAdvisor(t *testing.T, h *home, client domain.ClientID) domain.AdvisorID {
	t.Helper()
	a := &domain.Advisor{ID: domain.NewID[domain.AdvisorID](h.Env), ClientID: client, Name: "Foreign", State: domain.AdvisorActive}
	e := operatorNote(h.Env, "advisor.created", client, a.Key())
	err := h.store.Commit(context.Background(), func(tx domain.Tx) error { tx.Put(a); return tx.Record(e) })
	if err != nil {
		t.Fatal(err)
	}
	return a.ID
}

func TestConsentOutsideTheClientsRegionsIsRefused(t *testing.T) {
	h := newHome(t)
	_, key := h.newClient("Dutch only", Terms{Regions: []string{"europe-west4"}})
	r := h.as(key, "POST", "/v1/consents", asked)
	if r.status != http.StatusForbidden || r.text("code") != "consent_region" {
		t.Errorf("got %d %s", r.status, r.raw)
	}
	h.wantEntry("consent.created", domain.OutcomeDenied, "consent_region")
}

func TestIdempotencyKeys(t *testing.T) {
	h := newHome(t)
	id, _ := h.ask(asked)
	cases := []struct {
		name, path, body, other string
		kind                    domain.DocumentKind
		token                   bool // whether the first answer alone shows a token
	}{
		{"consents", "/v1/consents", asked, strings.Replace(asked, "inv-1", "inv-2", 1), "consent", false},
		{"links", "/v1/consents/" + string(id) + "/links", `{"purpose":"manage"}`, `{"purpose":"consent"}`, "link", false},
		{"advisors", "/v1/advisors", `{"name":"Ada"}`, `{"name":"Bob"}`, "advisor", false},
		{"keys", "/v1/keys", `{"role":"reviewer"}`, `{"role":"client"}`, "api_key", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			first := h.call(http.StatusCreated, "POST", c.path, c.body, "Idempotency-Key", c.name)
			made := h.store.count(c.kind)
			h.pass(time.Hour)
			again := h.call(http.StatusCreated, "POST", c.path, c.body, "Idempotency-Key", c.name)
			if c.token {
				if first.text("token") == "" || again.text("token") != "" {
					t.Errorf("token first %q, then %q", first.text("token"), again.text("token"))
				}
				delete(first.body, "token")
			}
			if fmt.Sprint(first.body) != fmt.Sprint(again.body) {
				t.Errorf("first %v\nagain %v", first.body, again.body)
			}
			if n := h.store.count(c.kind); n != made {
				t.Errorf("%d of %s, then %d", made, c.kind, n)
			}
			r := h.as(h.key, "POST", c.path, c.other, "Idempotency-Key", c.name)
			if r.status != http.StatusConflict || r.text("code") != "idempotency_key_reused" {
				t.Errorf("same key, other body: %d %s", r.status, r.raw)
			}
			fresh := h.call(http.StatusCreated, "POST", c.path, c.body)
			if fresh.raw == first.raw || h.store.count(c.kind) <= made {
				t.Error("a request without the key made nothing new")
			}
		})
	}
}

func TestRepeatedRequestTellsTheConsentAsItStands(t *testing.T) {
	h := newHome(t)
	first := h.call(http.StatusCreated, "POST", "/v1/consents", asked, "Idempotency-Key", "k")
	if err := h.Deny(context.Background(), h.visit(tokenOf(t, first)), ""); err != nil {
		t.Fatal(err)
	}
	again := h.call(http.StatusCreated, "POST", "/v1/consents", asked, "Idempotency-Key", "k")
	if again.text("id") != first.text("id") || again.text("state") != "rejected" || tokenOf(t, again) != tokenOf(t, first) {
		t.Errorf("again %s", again.raw)
	}
}

func TestIdempotencyKeysAreEachClientsOwn(t *testing.T) {
	h := newHome(t)
	_, other := h.newClient("Other", Terms{})
	a := h.call(http.StatusCreated, "POST", "/v1/consents", asked, "Idempotency-Key", "k")
	b := h.as(other, "POST", "/v1/consents", asked, "Idempotency-Key", "k")
	if b.status != http.StatusCreated || b.text("id") == a.text("id") {
		t.Errorf("other client: %d %s", b.status, b.raw)
	}
}

func TestListConsents(t *testing.T) {
	h := newHome(t)
	advisor := domain.AdvisorID(h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id"))
	named := strings.Replace(asked, `"inv-1"`, `"inv-2","advisors":["`+string(advisor)+`"]`, 1)
	var all []string
	for i := range 5 {
		body := asked
		if i%2 == 1 {
			body = named
		}
		id, _ := h.ask(body)
		all = append([]string{string(id)}, all...) // newest first
		h.pass(time.Second)
	}
	_, foreign := h.newClient("Other", Terms{})
	for _, c := range []struct {
		name, key, query string
		want             []string
	}{
		{"client", h.key, "?limit=2", all},
		{"client, one investor", h.key, "?limit=1&investor_ref=inv-2", []string{all[1], all[3]}},
		{"client, unknown investor", h.key, "?limit=1&investor_ref=nobody", nil},
		{"reviewer", h.newKeyFor(h.client.ID, domain.RoleReviewer, ""), "?limit=3", all},
		{"advisor", h.newKeyFor(h.client.ID, domain.RoleAdvisor, advisor), "?limit=2", []string{all[1], all[3]}},
		{"another client", foreign, "?limit=2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := walk(t, h, c.key, "/v1/consents"+c.query); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	for _, bad := range []string{"?limit=0", "?limit=1001", "?limit=x", "?cursor=%21", "?investor_ref=" + strings.Repeat("a", 65)} {
		if r := h.as(h.key, "GET", "/v1/consents"+bad, ""); r.status != http.StatusBadRequest {
			t.Errorf("%s: status %d", bad, r.status)
		}
	}
}

// walk follows a list's cursors and returns the identifiers.
func walk(t *testing.T, h *home, key, path string) []string {
	t.Helper()
	var ids []string
	for next, pages := "", 0; pages < 20; pages++ {
		at := path
		if next != "" {
			at += "&cursor=" + next
		}
		r := h.as(key, "GET", at, "")
		data, isList := r.body["data"].([]any)
		if r.status != http.StatusOK || !isList {
			t.Fatalf("%s: %d %s", at, r.status, r.raw)
		}
		for _, row := range data {
			id, _ := row.(map[string]any)["id"].(string)
			ids = append(ids, id)
		}
		if next = r.text("next"); next == "" {
			return ids
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

func TestShowConsent(t *testing.T) {
	h := newHome(t)
	advisor := domain.AdvisorID(h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id"))
	id, _ := h.ask(asked)
	named, _ := h.ask(strings.Replace(asked, `"inv-1"`, `"inv-2","advisors":["`+string(advisor)+`"]`, 1))
	_, foreign := h.newClient("Other", Terms{})
	ada, reviewer := h.newKeyFor(h.client.ID, domain.RoleAdvisor, advisor), h.newKeyFor(h.client.ID, domain.RoleReviewer, "")
	for _, c := range []struct {
		name, key string
		id        domain.ConsentID
		want      int
	}{
		{"own", h.key, id, http.StatusOK},
		{"reviewer's", reviewer, id, http.StatusOK},
		{"advisor named", ada, named, http.StatusOK},
		{"advisor not named", ada, id, http.StatusNotFound},
		{"foreign", foreign, id, http.StatusNotFound},
		{"unknown", h.key, "con_00000000000000000000000000", http.StatusNotFound},
		{"malformed", h.key, "con_x", http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			denied := len(h.store.entries("consent.read"))
			r := h.as(c.key, "GET", "/v1/consents/"+string(c.id), "")
			if r.status != c.want {
				t.Fatalf("status %d: %s", r.status, r.raw)
			}
			if c.want == http.StatusOK && (r.text("id") != string(c.id) || r.body["link"] != nil) {
				t.Errorf("got %s", r.raw)
			}
			if recorded := len(h.store.entries("consent.read")) - denied; (c.want == http.StatusNotFound) != (recorded == 1) {
				t.Errorf("%d refusals recorded", recorded)
			}
		})
	}
	unseen := h.as(foreign, "GET", "/v1/consents/"+string(id), "")
	unknown := h.as(foreign, "GET", "/v1/consents/con_00000000000000000000000000", "")
	unnamed := regexp.MustCompile(`req_[0-9a-z]{26}`) // no two requests have the same name
	if unnamed.ReplaceAllString(unseen.raw, "") != unnamed.ReplaceAllString(unknown.raw, "") {
		t.Errorf("a foreign consent answers %s, an unknown one %s", unseen.raw, unknown.raw)
	}
}

func TestNarrowConsent(t *testing.T) {
	h := newHome(t)
	ada := h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Ada"}`).text("id")
	bob := h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Bob"}`).text("id")
	body := strings.Replace(asked, `"inv-1"`, `"inv-1","advisors":["`+ada+`","`+bob+`"]`, 1)
	cases := []struct {
		name, patch        string
		status             int
		products, advisors string // what remains
	}{
		{"a product", `{"products":["positions","accounts"]}`, 200, "accounts,positions", ada + "," + bob},
		{"an advisor", `{"advisors":["` + bob + `"]}`, 200, "accounts,cash,positions", bob},
		{"every advisor", `{"advisors":[]}`, 200, "accounts,cash,positions", ""},
		{"both", `{"products":["cash"],"advisors":[]}`, 200, "cash", ""},
		{"nothing taken away", `{"products":["accounts","cash","positions"]}`, 200, "accounts,cash,positions", ada + "," + bob},
		{"wider products", `{"products":["accounts","orders"]}`, 400, "accounts,cash,positions", ada + "," + bob},
		{"wider advisors", `{"advisors":["adv_00000000000000000000000000"]}`, 400, "accounts,cash,positions", ada + "," + bob},
		{"every product", `{"products":[]}`, 400, "accounts,cash,positions", ada + "," + bob},
		{"nothing said", `{}`, 400, "accounts,cash,positions", ada + "," + bob},
		{"another member", `{"expires_at":"2026-05-30T12:00:00Z"}`, 400, "accounts,cash,positions", ada + "," + bob},
	}
	for _, state := range []domain.ConsentState{domain.ConsentReceived, domain.ConsentValid} {
		for _, c := range cases {
			t.Run(c.name+" of a consent "+string(state), func(t *testing.T) {
				var id domain.ConsentID
				if state == domain.ConsentValid {
					id, _ = h.granted(body)
				} else {
					id, _ = h.ask(body)
				}
				before := len(h.store.entries("consent.narrowed"))
				r := h.as(h.key, "PATCH", "/v1/consents/"+string(id), c.patch)
				kept := h.consent(id)
				if r.status != c.status || join(kept.Products) != c.products || join(kept.Advisors) != c.advisors || kept.State != state {
					t.Errorf("status %d, products %v, advisors %v: %s", r.status, kept.Products, kept.Advisors, r.raw)
				}
				inTime := c.name != "nothing said" && c.name != "another member" // those never reach the consent
				if recorded := len(h.store.entries("consent.narrowed")) - before; inTime != (recorded == 1) {
					t.Errorf("%d entries", recorded)
				}
			})
		}
	}
}

func TestTerminateConsent(t *testing.T) {
	for _, c := range []struct {
		name    string
		granted bool
		erasure int
	}{{"undecided", false, 0}, {"granted", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			id, _ := h.ask(asked)
			if c.granted {
				id, _ = h.granted(asked)
			}
			notices := h.store.count("notice")
			h.call(http.StatusNoContent, "DELETE", "/v1/consents/"+string(id), "")
			consent, con := h.consent(id), h.connection(id)
			if consent.State != domain.ConsentTerminated || consent.EndedAt.IsZero() || con.State != domain.ConnectionRemoved || con.Reason != domain.ReasonConsentEnded {
				t.Errorf("consent %+v, connection %+v", consent, con)
			}
			h.call(http.StatusNoContent, "DELETE", "/v1/consents/"+string(id), "") // again: nothing changes
			if n := h.store.emitted(domain.TopicErasure); n != c.erasure {
				t.Errorf("%d erasures asked for, want %d", n, c.erasure)
			}
			if n := h.store.count("notice") - notices; n != 1 {
				t.Errorf("%d notices, want 1", n)
			}
			if e := h.wantEntry("consent.terminated", domain.OutcomeAllowed, ""); len(h.store.entries("consent.terminated")) != 2 || e.Data.ConsentID != id {
				t.Errorf("entries %+v", h.store.entries("consent.terminated"))
			}
		})
	}
}

// Every act of a client under a consent, tried on every consent that does not allow it.
func TestClientsActsNeedTheConsent(t *testing.T) {
	acts := []struct {
		name, method, path, body string
		allowed                  []domain.ConsentState
		late                     bool // allowed past the consent's time
	}{
		{"consent.narrowed", "PATCH", "", `{"products":["cash"]}`, []domain.ConsentState{"received", "valid"}, false},
		{"consent.terminated", "DELETE", "", "", []domain.ConsentState{"received", "valid", "terminated"}, true},
		{"link.created", "POST", "/links", `{"purpose":"consent"}`, []domain.ConsentState{"received"}, false},
		{"link.created", "POST", "/links", `{"purpose":"reconnect"}`, []domain.ConsentState{"valid"}, false},
		{"link.created", "POST", "/links", `{"purpose":"manage"}`, domain.AnyConsentState, true},
	}
	for _, act := range acts {
		for _, state := range domain.AnyConsentState {
			t.Run(act.method+act.path+act.body+" while "+string(state), func(t *testing.T) {
				h := newHome(t)
				id, _ := h.ask(asked)
				force(t, h, id, state)
				r := h.as(h.key, act.method, "/v1/consents/"+string(id)+act.path, act.body)
				wantAllowed(t, h, r, act.name, slices.Contains(act.allowed, state), "consent_"+string(state))
			})
		}
		t.Run(act.method+act.path+act.body+" past its time", func(t *testing.T) {
			h := newHome(t)
			id, _ := h.ask(asked)
			force(t, h, id, act.allowed[0])
			h.pass(defaultLife)
			r := h.as(h.key, act.method, "/v1/consents/"+string(id)+act.path, act.body)
			wantAllowed(t, h, r, act.name, act.late, "consent_expired")
		})
		t.Run(act.method+act.path+act.body+" by another client", func(t *testing.T) {
			h := newHome(t)
			id, _ := h.ask(asked)
			force(t, h, id, act.allowed[0])
			_, foreign := h.newClient("Other", Terms{})
			before := fmt.Sprint(*h.consent(id))
			r := h.as(foreign, act.method, "/v1/consents/"+string(id)+act.path, act.body)
			if r.status != http.StatusNotFound || r.text("code") != "not_found" || fmt.Sprint(*h.consent(id)) != before {
				t.Errorf("status %d: %s", r.status, r.raw)
			}
			h.wantEntry(act.name, domain.OutcomeDenied, "consent_not_yours")
			r = h.as(h.key, act.method, "/v1/consents/con_00000000000000000000000000"+act.path, act.body)
			if r.status != http.StatusNotFound {
				t.Errorf("unknown consent: status %d", r.status)
			}
			h.wantEntry(act.name, domain.OutcomeDenied, "consent_unknown")
		})
	}
}

// force brings a consent to a state past its law, to try what follows.
func force(t *testing.T, h *home, id domain.ConsentID, state domain.ConsentState) {
	t.Helper()
	c := h.consent(id)
	c.State = state
	e := operatorNote(h.Env, "test.forced", c.ClientID, c.Key())
	if err := h.store.Commit(context.Background(), func(tx domain.Tx) error { tx.Put(c); return tx.Record(e) }); err != nil {
		t.Fatal(err)
	}
}

func wantAllowed(t *testing.T, h *home, r reply, action string, allowed bool, code string) {
	t.Helper()
	if allowed {
		if r.status >= 300 {
			t.Errorf("status %d: %s", r.status, r.raw)
		}
		h.wantEntry(action, domain.OutcomeAllowed, "")
		return
	}
	if r.status != http.StatusForbidden || r.text("code") != code {
		t.Errorf("status %d %s, want 403 %s", r.status, r.raw, code)
	}
	h.wantEntry(action, domain.OutcomeDenied, code)
}
