package consent

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// opens says whether a token still opens the API.
func (h *home) opens(token string) bool {
	status := h.as(token, "GET", "/v1/consents", "").status
	if status != http.StatusOK && status != http.StatusUnauthorized && status != http.StatusForbidden {
		h.t.Errorf("status %d", status)
	}
	return status == http.StatusOK
}

func TestKeysAreShownOnce(t *testing.T) {
	h := newHome(t)
	r := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer","label":"Audit 2026"}`)
	token := r.text("token")
	if id, _, ok := domain.SplitAPIKey(token); !ok || string(id) != r.text("id") || r.text("role") != "reviewer" || r.text("label") != "Audit 2026" || r.text("state") != "active" {
		t.Errorf("got %s", r.raw)
	}
	if !h.opens(token) {
		t.Error("the new key opens nothing")
	}
	all := h.call(http.StatusOK, "GET", "/v1/keys", "")
	if rows, _ := all.body["data"].([]any); len(rows) != 2 || strings.Contains(all.raw, "hash") || strings.Contains(all.raw, "token") {
		t.Errorf("list %s", all.raw)
	}
	secret := token[len(token)-43:]
	for kind, docs := range h.store.docs {
		for _, doc := range docs {
			if strings.Contains(string(doc.body), secret) {
				t.Errorf("the secret is kept in a %s", kind)
			}
		}
	}
	if e := h.wantEntry("key.created", domain.OutcomeAllowed, ""); e.ClientID != h.client.ID {
		t.Errorf("entry %+v", e)
	}
}

func TestCreateKeyRefusesWhatIsWrong(t *testing.T) {
	h := newHome(t)
	other, _ := h.newClient("Other", Terms{})
	foreign := string(addAdvisor(t, h, other.ID))
	before := h.store.count("api_key")
	for _, c := range []struct{ name, body, field string }{
		{"no role", `{}`, "/role"},
		{"unknown role", `{"role":"operator"}`, "/role"},
		{"advisor without one", `{"role":"advisor"}`, "/advisor_id"},
		{"advisor malformed", `{"role":"advisor","advisor_id":"Ada"}`, "/advisor_id"},
		{"advisor unknown", `{"role":"advisor","advisor_id":"adv_00000000000000000000000000"}`, "/advisor_id"},
		{"advisor foreign", `{"role":"advisor","advisor_id":"` + foreign + `"}`, "/advisor_id"},
		{"client with advisor", `{"role":"client","advisor_id":"` + foreign + `"}`, "/advisor_id"},
		{"long label", `{"role":"client","label":"` + strings.Repeat("l", 81) + `"}`, "/label"},
		{"label on two lines", `{"role":"client","label":"a\nb"}`, "/label"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := h.as(h.key, "POST", "/v1/keys", c.body); r.status != http.StatusBadRequest || r.text("field") != c.field {
				t.Errorf("%d %s", r.status, r.raw)
			}
		})
	}
	if h.store.count("api_key") != before {
		t.Error("keys were made")
	}
	h.wantEntry("key.created", domain.OutcomeDenied, "invalid_field")
}

func TestRotateKey(t *testing.T) {
	for _, c := range []struct {
		name, body string
		overlap    time.Duration
	}{
		{"by default", ``, 24 * time.Hour},
		{"for an hour", `{"overlap_hours":1}`, time.Hour},
		{"for a week", `{"overlap_hours":168}`, 168 * time.Hour},
		{"at once", `{"overlap_hours":0}`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			made := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer","label":"Audit"}`)
			old := made.text("token")
			r := h.call(http.StatusCreated, "POST", "/v1/keys/"+made.text("id")+"/rotate", c.body)
			if r.text("id") == made.text("id") || r.text("role") != "reviewer" || r.text("label") != "Audit" || !h.opens(r.text("token")) {
				t.Errorf("new key %s", r.raw)
			}
			if h.opens(old) != (c.overlap > 0) {
				t.Errorf("right after: the old key opens %v", h.opens(old))
			}
			if c.overlap > 0 {
				h.pass(c.overlap - time.Millisecond)
				if !h.opens(old) {
					t.Error("the old key ended early")
				}
				h.pass(time.Millisecond)
			}
			if h.opens(old) || !h.opens(r.text("token")) {
				t.Error("after the overlap the wrong key opens")
			}
			kept := &domain.APIKey{ID: domain.KeyID(made.text("id"))}
			if err := h.store.Get(context.Background(), kept); err != nil || (kept.State == domain.KeyRevoked) != (c.overlap == 0) {
				t.Errorf("old key %s, %v", kept.State, err)
			}
			again := h.as(h.key, "POST", "/v1/keys/"+made.text("id")+"/rotate", c.body)
			if again.status != http.StatusConflict || again.text("code") != "key_over" {
				t.Errorf("rotated again: %d %s", again.status, again.raw)
			}
			if e := h.wantEntry("key.rotated", domain.OutcomeDenied, "key_over"); e.Data.Details["replaces"] != made.text("id") {
				t.Errorf("entry %+v", e)
			}
		})
	}
	h := newHome(t)
	own, _, _ := domain.SplitAPIKey(h.key)
	for _, bad := range []string{`{"overlap_hours":-1}`, `{"overlap_hours":169}`, `{"overlap_hours":"1"}`, `{"overlap_hours":1.5}`} {
		if r := h.as(h.key, "POST", "/v1/keys/"+string(own)+"/rotate", bad); r.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, r.status, r.raw)
		}
	}
}

func TestRotatedWithIdempotencyKey(t *testing.T) {
	h := newHome(t)
	made := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer"}`)
	path := "/v1/keys/" + made.text("id") + "/rotate"
	first := h.call(http.StatusCreated, "POST", path, ``, "Idempotency-Key", "r")
	again := h.call(http.StatusCreated, "POST", path, ``, "Idempotency-Key", "r")
	if again.text("id") != first.text("id") || first.text("token") == "" || again.text("token") != "" {
		t.Errorf("first %s, again %s", first.raw, again.raw)
	}
}

func TestRevokeKey(t *testing.T) {
	h := newHome(t)
	made := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client"}`)
	path := "/v1/keys/" + made.text("id")
	for range 2 {
		h.call(http.StatusNoContent, "DELETE", path, "")
	}
	if h.opens(made.text("token")) {
		t.Error("a revoked key opens")
	}
	if r := h.as(h.key, "POST", path+"/rotate", ""); r.status != http.StatusConflict {
		t.Errorf("rotating a revoked key: %d %s", r.status, r.raw)
	}
	_, foreign := h.newClient("Other", Terms{})
	own, _, _ := domain.SplitAPIKey(h.key)
	for _, act := range [][2]string{{"DELETE", ""}, {"POST", "/rotate"}} {
		if r := h.as(foreign, act[0], "/v1/keys/"+string(own)+act[1], ""); r.status != http.StatusNotFound {
			t.Errorf("%s of a foreign key: %d %s", act[0], r.status, r.raw)
		}
	}
	h.wantEntry("key.revoked", domain.OutcomeDenied, "not_found")
	h.wantEntry("key.rotated", domain.OutcomeDenied, "not_found")
	if !h.opens(h.key) {
		t.Error("a foreign client ended our key")
	}
	if r := h.as(h.key, "DELETE", "/v1/keys/key_00000000000000000000000000", ""); r.status != http.StatusNotFound {
		t.Errorf("unknown key: %d", r.status)
	}
}

func TestAdvisors(t *testing.T) {
	h := newHome(t)
	id := h.call(http.StatusCreated, "POST", "/v1/advisors", `{"name":"Zoë Müller"}`).text("id")
	key := h.newKeyFor(h.client.ID, domain.RoleAdvisor, domain.AdvisorID(id))
	if !h.opens(key) {
		t.Error("an advisor's key opens nothing")
	}
	keyID, _, _ := domain.SplitAPIKey(key)
	for range 2 {
		h.call(http.StatusNoContent, "DELETE", "/v1/advisors/"+id, "")
	}
	if h.opens(key) {
		t.Error("a removed advisor's key opens")
	}
	if r := h.as(h.key, "POST", "/v1/keys/"+string(keyID)+"/rotate", ""); r.status != http.StatusBadRequest {
		t.Errorf("rotating a removed advisor's key: %d %s", r.status, r.raw)
	}
	list := h.call(http.StatusOK, "GET", "/v1/advisors", "")
	if rows, _ := list.body["data"].([]any); len(rows) != 1 || !strings.Contains(list.raw, `"removed"`) {
		t.Errorf("list %s", list.raw)
	}
	_, foreign := h.newClient("Other", Terms{})
	for _, target := range []string{id, "adv_00000000000000000000000000"} {
		if r := h.as(foreign, "DELETE", "/v1/advisors/"+target, ""); r.status != http.StatusNotFound {
			t.Errorf("foreign: %d %s", r.status, r.raw)
		}
	}
	h.wantEntry("advisor.removed", domain.OutcomeDenied, "not_found")
	for _, bad := range []string{``, `{"name":""}`, `{"name":" Ada"}`, `{"name":"Ada "}`, `{"name":"A\u0000"}`, `{"name":"\u202eadA"}`, `{"name":"` + strings.Repeat("n", 101) + `"}`} {
		if r := h.as(h.key, "POST", "/v1/advisors", bad); r.status != http.StatusBadRequest || r.text("field") != "/name" {
			t.Errorf("%q: %d %s", bad, r.status, r.raw)
		}
	}
}

func TestOperator(t *testing.T) {
	ctx := context.Background()
	h := newHome(t)
	second, token := h.newClient("Second", Terms{Regions: []string{"local", "europe-west4"},
		ReturnOrigins: []string{"https://app.example:8443", "http://localhost:8090", "http://127.0.0.1:8090", "http://[::1]:1"}})
	clients, err := ListClients(ctx, h.store)
	if err != nil || len(clients) != 2 {
		t.Fatalf("%+v, %v", clients, err)
	}
	for range 3 {
		h.newKeyFor(second.ID, domain.RoleReviewer, "")
	}
	keys, err := ListKeys(ctx, h.store, second.ID)
	if err != nil || len(keys) != 4 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	id, _, _ := domain.SplitAPIKey(token)
	for range 2 {
		if err := RevokeKey(ctx, h.store, h.Env, id); err != nil {
			t.Fatal(err)
		}
	}
	if h.opens(token) {
		t.Error("a revoked key opens")
	}
	e := h.wantEntry("key.revoked", domain.OutcomeAllowed, "")
	if e.Data.Actor.Kind != domain.ActorOperator || e.ClientID != second.ID || e.Source != "/functions/sluis" {
		t.Errorf("entry %+v", e)
	}
	h.wantEntry("client.created", domain.OutcomeAllowed, "")
	wantCode(t, RevokeKey(ctx, h.store, h.Env, "key_00000000000000000000000000"), domain.NotFound, "not_found")
	_, _, err = IssueKey(ctx, h.store, h.Env, "cli_00000000000000000000000000", domain.RoleClient, "", "")
	wantCode(t, err, domain.NotFound, "not_found")
	_, _, err = IssueKey(ctx, h.store, h.Env, second.ID, "root", "", "")
	wantCode(t, err, domain.Invalid, "invalid_field")
	h.wantEntry("key.created", domain.OutcomeDenied, "not_found")
}

func TestAddClientRefusesWhatIsWrong(t *testing.T) {
	h := newHome(t)
	saving := func(p domain.Product, s domain.Saving) Terms {
		return Terms{Saving: map[domain.Product]domain.Saving{p: s}}
	}
	cases := []struct {
		name, client string
		terms        Terms
	}{
		{"no name", "", Terms{}},
		{"name on two lines", "a\nb", Terms{}},
		{"unknown product", "A", saving("cards", domain.Saving{Scope: domain.SaveNone})},
		{"unknown scope", "A", saving("cash", domain.Saving{Scope: "all"})},
		{"history without days", "A", saving("cash", domain.Saving{Scope: domain.SaveHistory})},
		{"days without history", "A", saving("cash", domain.Saving{Scope: domain.SaveLatest, Days: 1})},
		{"odd region", "A", Terms{Regions: []string{"Europe"}}},
		{"empty region", "A", Terms{Regions: []string{""}}},
		{"origin with a path", "A", Terms{ReturnOrigins: []string{"https://app.example/"}}},
		{"origin with a name", "A", Terms{ReturnOrigins: []string{"https://me@app.example"}}},
		{"origin without TLS", "A", Terms{ReturnOrigins: []string{"http://app.example"}}},
		{"origin in capitals", "A", Terms{ReturnOrigins: []string{"https://App.example"}}},
		{"origin of a script", "A", Terms{ReturnOrigins: []string{"javascript:alert(1)"}}},
		{"origin without host", "A", Terms{ReturnOrigins: []string{"https://"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := AddClient(context.Background(), h.store, h.Env, c.client, c.terms)
			wantCode(t, err, domain.Invalid, "invalid_field")
		})
	}
	if h.store.count("client") != 1 {
		t.Error("clients were added")
	}
}
