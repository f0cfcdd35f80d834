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

// TestReplacedKeyOnlyReads: during its overlap the old key of a rotation reads; it writes nothing and administers no keys,
// so that whoever stole it cannot go on with it, nor hold on to it.
func TestReplacedKeyOnlyReads(t *testing.T) {
	h := newHome(t)
	old := h.key
	own, _, _ := domain.SplitAPIKey(old)
	fresh := h.call(http.StatusCreated, "POST", "/v1/keys/"+string(own)+"/rotate", "")
	if fresh.text("line") != string(own) || fresh.body["admin"] != true {
		t.Errorf("the new key: %s", fresh.raw)
	}
	for _, path := range []string{"/v1/consents", "/v1/keys", "/v1/client"} {
		if r := h.as(old, "GET", path, ""); r.status != http.StatusOK {
			t.Errorf("reading %s: %d %s", path, r.status, r.raw)
		}
	}
	for _, write := range [][3]string{{"POST", "/v1/consents", `{}`}, {"POST", "/v1/advisors", `{"name":"Ada"}`}, {"POST", "/v1/keys", `{"role":"client"}`},
		{"POST", "/v1/keys/" + fresh.text("id") + "/rotate", ``}, {"DELETE", "/v1/keys/" + fresh.text("id"), ``}, {"DELETE", "/v1/keys/" + string(own) + "?line=true", ``}} {
		if r := h.as(old, write[0], write[1], write[2]); r.status != http.StatusForbidden || r.text("code") != "key_replaced" {
			t.Errorf("%s %s: %d %s", write[0], write[1], r.status, r.raw)
		}
	}
	h.wantEntry("request.refused", domain.OutcomeDenied, "key_replaced")
	if r := h.as(fresh.text("token"), "POST", "/v1/advisors", `{"name":"Ada"}`); r.status != http.StatusCreated {
		t.Errorf("the new key writes: %d %s", r.status, r.raw)
	}
}

// TestLine: whoever rotated a key again and again, its whole line ends at once; from any of its keys, by a client's key
// that may, or by the operator; and no other key does.
func TestLine(t *testing.T) {
	for _, from := range []int{0, 1, 2} {
		for _, operator := range []bool{false, true} {
			h := newHome(t)
			made := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client"}`)
			ids, tokens := []string{made.text("id")}, []string{made.text("token")}
			for range 2 {
				made = h.call(http.StatusCreated, "POST", "/v1/keys/"+made.text("id")+"/rotate", "")
				ids, tokens = append(ids, made.text("id")), append(tokens, made.text("token"))
			}
			if made.text("line") != ids[0] {
				t.Errorf("line %s", made.raw)
			}
			other := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client"}`).text("token")
			for range 2 {
				if operator {
					if err := RevokeKey(context.Background(), h.store, h.Env, domain.KeyID(ids[from]), true); err != nil {
						t.Fatal(err)
					}
				} else {
					h.call(http.StatusNoContent, "DELETE", "/v1/keys/"+ids[from]+"?line=true", "")
				}
			}
			for i, token := range tokens {
				if h.opens(token) {
					t.Errorf("from %d: key %d of the line opens", from, i)
				}
			}
			if !h.opens(other) || !h.opens(h.key) {
				t.Error("a key of another line ended")
			}
			if e := h.wantEntry("key.revoked", domain.OutcomeAllowed, ""); e.Data.Details["line"] != ids[0] {
				t.Errorf("entry %+v", e.Data.Details)
			}
		}
	}
	h := newHome(t)
	own, _, _ := domain.SplitAPIKey(h.key)
	if r := h.as(h.key, "DELETE", "/v1/keys/"+string(own)+"?line=yes", ""); r.status != http.StatusBadRequest || r.text("field") != "line" {
		t.Errorf("%d %s", r.status, r.raw)
	}
}

// TestKeyAdministration: only a key that has the right makes, rotates and revokes keys; a key without it ends itself and
// nothing else. A client's first key has it, and one made by the API where that was asked for.
func TestKeyAdministration(t *testing.T) {
	h := newHome(t)
	plain := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client"}`)
	admin := h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client","admin":true}`)
	if plain.body["admin"] != false || admin.body["admin"] != true {
		t.Errorf("%s, %s", plain.raw, admin.raw)
	}
	for _, act := range [][3]string{{"POST", "/v1/keys", `{"role":"client"}`}, {"POST", "/v1/keys/" + admin.text("id") + "/rotate", ""},
		{"POST", "/v1/keys/" + plain.text("id") + "/rotate", ""}, {"DELETE", "/v1/keys/" + admin.text("id"), ""}, {"DELETE", "/v1/keys/" + plain.text("id") + "?line=true", ""}} {
		if r := h.as(plain.text("token"), act[0], act[1], act[2]); r.status != http.StatusForbidden || r.text("code") != "key_administration" {
			t.Errorf("%s %s: %d %s", act[0], act[1], r.status, r.raw)
		}
	}
	h.wantEntry("request.refused", domain.OutcomeDenied, "key_administration")
	if r := h.as(plain.text("token"), "GET", "/v1/keys", ""); r.status != http.StatusOK {
		t.Errorf("reading them: %d", r.status)
	}
	if r := h.as(plain.text("token"), "DELETE", "/v1/keys/"+plain.text("id"), ""); r.status != http.StatusNoContent || h.opens(plain.text("token")) {
		t.Errorf("ending itself: %d %s", r.status, r.raw)
	}
	if r := h.as(admin.text("token"), "POST", "/v1/keys", `{"role":"reviewer"}`); r.status != http.StatusCreated {
		t.Errorf("one that was given the right: %d %s", r.status, r.raw)
	}
	if r := h.as(h.key, "POST", "/v1/keys", `{"role":"reviewer","admin":true}`); r.status != http.StatusBadRequest || r.text("field") != "/admin" {
		t.Errorf("a reviewer who administers: %d %s", r.status, r.raw)
	}
	second, _, err := IssueKey(context.Background(), h.store, h.Env, h.client.ID, KeyTerms{Role: domain.RoleClient})
	if err != nil || second.Administers() {
		t.Errorf("the operator's second key: %+v, %v", second, err)
	}
}

// TestKeysEnd: a key lives for a year, or as long as was asked for, and says so.
func TestKeysEnd(t *testing.T) {
	const day = 24 * time.Hour
	for body, life := range map[string]time.Duration{`{"role":"reviewer"}`: 365 * day, `{"role":"reviewer","days":1}`: day, `{"role":"reviewer","days":730}`: 730 * day} {
		h := newHome(t)
		r := h.call(http.StatusCreated, "POST", "/v1/keys", body)
		if want := h.Env.Now().Add(life).String(); r.text("expires_at") != want {
			t.Errorf("%s: %s, want %s", body, r.raw, want)
		}
		h.pass(life - time.Millisecond)
		if !h.opens(r.text("token")) {
			t.Errorf("%s: it ended early", body)
		}
		if h.pass(time.Millisecond); h.opens(r.text("token")) {
			t.Errorf("%s: it goes on", body)
		}
	}
	h := newHome(t)
	for _, days := range []string{"0", "-1", "731", "1.5", `"1"`} {
		if r := h.as(h.key, "POST", "/v1/keys", `{"role":"reviewer","days":`+days+`}`); r.status != http.StatusBadRequest || r.text("field") != "/days" {
			t.Errorf("%s: %d %s", days, r.status, r.raw)
		}
	}
}

// TestKeysAreBounded: a client with as many keys as it may have gets no more, and can still rotate the ones it has, within
// a bound of its own; keys that are over do not count.
func TestKeysAreBounded(t *testing.T) {
	h := newHome(t)
	var last reply
	for range maxKeys - 1 {
		last = h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer"}`)
	}
	full := func(path, body string) {
		t.Helper()
		if r := h.as(h.key, "POST", path, body); r.status != http.StatusConflict || r.text("code") != "key_limit" {
			t.Fatalf("%s: %d %s", path, r.status, r.raw)
		}
	}
	full("/v1/keys", `{"role":"reviewer"}`)
	h.wantEntry("key.created", domain.OutcomeDenied, "key_limit")
	if _, _, err := IssueKey(context.Background(), h.store, h.Env, h.client.ID, KeyTerms{Role: domain.RoleReviewer}); domain.CodeOf(err) != "key_limit" {
		t.Errorf("the operator's: %v", err)
	}
	for range maxReplaced {
		last = h.call(http.StatusCreated, "POST", "/v1/keys/"+last.text("id")+"/rotate", "")
	}
	full("/v1/keys/"+last.text("id")+"/rotate", "")
	h.call(http.StatusNoContent, "DELETE", "/v1/keys/"+last.text("id"), "")
	h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"reviewer"}`)
	full("/v1/keys", `{"role":"reviewer"}`)
}

// TestKeysOfBefore: keys of before there were lines and ends open as they did, without an end; a client's may administer
// keys; one whose rotation was under way only reads. A rotation gives them a line and an end.
func TestKeysOfBefore(t *testing.T) {
	h := newHome(t)
	own, _, _ := domain.SplitAPIKey(h.key)
	change := func(fn func(*domain.APIKey)) {
		k := &domain.APIKey{ID: own}
		if err := h.store.Get(context.Background(), k); err != nil {
			t.Fatal(err)
		}
		fn(k)
		h.put(k)
	}
	change(func(k *domain.APIKey) {
		k.Line, k.Admin, k.ExpiresAt, k.WarnAt = "", false, domain.Time{}, domain.Time{}
	})
	h.pass(3 * domain.KeyLife)
	h.call(http.StatusCreated, "POST", "/v1/keys", `{"role":"client"}`)
	before := h.Env.Now()
	fresh := h.call(http.StatusCreated, "POST", "/v1/keys/"+string(own)+"/rotate", "")
	if fresh.text("line") != string(own) || fresh.body["admin"] != true || fresh.text("expires_at") != before.Add(domain.KeyLife).String() {
		t.Errorf("rotated: %s", fresh.raw)
	}
	if r := h.as(h.key, "POST", "/v1/advisors", `{"name":"Ada"}`); r.text("code") != "key_replaced" {
		t.Errorf("the old one: %d %s", r.status, r.raw)
	}
	change(func(k *domain.APIKey) { k.Line, k.ReplacedBy = "", "" }) // its rotation was of before
	if r := h.as(h.key, "POST", "/v1/advisors", `{"name":"Ada"}`); r.text("code") != "key_replaced" || !h.opens(h.key) {
		t.Errorf("in a rotation of before: %d %s", r.status, r.raw)
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
		if err := RevokeKey(ctx, h.store, h.Env, id, false); err != nil {
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
	wantCode(t, RevokeKey(ctx, h.store, h.Env, "key_00000000000000000000000000", false), domain.NotFound, "not_found")
	_, _, err = IssueKey(ctx, h.store, h.Env, "cli_00000000000000000000000000", KeyTerms{Role: domain.RoleClient})
	wantCode(t, err, domain.NotFound, "not_found")
	_, _, err = IssueKey(ctx, h.store, h.Env, second.ID, KeyTerms{Role: "root"})
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
