package sandbox

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

var onceShape = regexp.MustCompile(`name="once" value="([^"]+)"`)

// once is the number of the first form of a page.
func once(t *testing.T, page string) string {
	t.Helper()
	found := onceShape.FindStringSubmatch(page)
	if found == nil {
		t.Fatal("the page has no form with a number of its own")
	}
	return found[1]
}

func TestHome(t *testing.T) {
	f := newFake(t)
	f.on("GET /v1/connections", 200, `{"data":[`+connectionAs(connID, "inv-1", "active", "",
		strings.Replace(usual, `"positions":{"state":"complete"`, `"positions":{"state":"failed","reason":"bank_unavailable"`, 1))+`,`+
		connectionAs(otherID, "inv-2", "pending", "", "{}")+`],"next":"more"}`)
	a := f.app(t)
	page := a.get("/", 200)
	has(t, page, "Polder Wealth", "inv-1", "Active", "1 product could not be read", "Sandbox bank", "inv-2", "Waiting for the investor",
		"no bank chosen yet", `href="/?cursor=more"`, "None received yet", "3 webhooks missing", `<body data-live>`)
	has(t, a.get("/?cursor=more", 200), "Newest")
	if len(f.called("GET /v1/connections?cursor=more&limit=20")) != 1 {
		t.Error("the cursor was not passed on")
	}
	for n, name := range []string{"consent.granted", "portfolio.updated"} {
		a.send204(webhook(t, "evt_"+name, notice(otherID, n+1, name), testSecret, time.Now()))
	}
	a.mux.ServeHTTP(httptest.NewRecorder(), webhook(t, "evt_x", notice(otherID, 3, "consent.revoked"), otherSecret, time.Now()))
	page = a.get("/", 200)
	has(t, page, "portfolio.updated", "consent.granted", "✓ verified", "12:00:00", "1 request to")
	hasNot(t, page, "consent.revoked", "None received yet")
	if strings.Index(page, "portfolio.updated") > strings.Index(page, "consent.granted") {
		t.Error("the newest webhook is not the first")
	}
}

// send204 delivers a webhook to the app.
func (a *testApp) send204(r *http.Request) {
	a.t.Helper()
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, r)
	if w.Code != http.StatusNoContent {
		a.t.Fatalf("webhook: status %d: %s", w.Code, w.Body)
	}
}

func TestAsk(t *testing.T) {
	f := newFake(t)
	f.on("POST /v1/consents", 201, consentJSON("received", linkURL))
	f.on("GET /v1/connections/"+connID, 200, connectionJSON("pending", "", "{}"))
	a := f.app(t)
	form := url.Values{"investor_ref": {"inv-1"}, "products": {"cash", "positions"}, "access": {"one_off"}, "language": {"fr"},
		"once": {once(t, a.get("/", 200))}}
	for range 2 { // a double click
		w := a.post("/consents", form, 303)
		if at := w.Header().Get("Location"); at != "/connections/"+connID+"?done=asked" {
			t.Fatalf("leads to %q", at)
		}
	}
	form.Set("language", "es") // back, and something changed
	a.post("/consents", form, 303)
	calls := f.called("POST /v1/consents")
	if len(calls) != 3 || calls[0].once == "" || calls[0].once != calls[1].once || calls[0].once == calls[2].once {
		t.Errorf("the same form must have one Idempotency-Key, a changed one another: %v", calls)
	}
	want := `{"access":"one_off","investor_ref":"inv-1","language":"fr","products":["cash","positions"],"purpose":{"code":"wealth_overview"},"return_url":"http://127.0.0.1:8090/returned?investor=inv-1"}`
	if calls[0].body != want {
		t.Errorf("sent %s\nwant %s", calls[0].body, want)
	}
	if err := against("openapi.yaml#/paths/~1v1~1consents/post/requestBody/content/application~1json/schema", calls[0].body); err != nil {
		t.Errorf("the request breaks openapi.yaml: %v", err)
	}
	page := a.get("/connections/"+connID+"?done=asked", 200)
	has(t, page, "Consent requested", `<a class="button" id="open-link" href="`+linkURL+`" target="_blank" rel="noopener noreferrer">`,
		`readonly value="`+linkURL+`"`, "New invitation")
	f.on("GET /v1/connections/"+connID, 200, connectionJSON("active", "", usual))
	hasNot(t, a.get("/connections/"+connID, 200), linkURL) // used up
}

func TestAskRefused(t *testing.T) {
	f := newFake(t)
	f.on("POST /v1/consents", 400, strings.Replace(problemJSON(400, "invalid_field", "want 1 to 64 letters"), `"code"`, `"field":"/investor_ref","code"`, 1))
	a := f.app(t)
	w := a.post("/consents", url.Values{"investor_ref": {`"><script>alert(1)</script>`}, "products": {"cash"}, "access": {"one_off"}, "language": {"pt"}}, 400)
	strict(t, w)
	has(t, w.Body.String(), "want 1 to 64 letters", "400 invalid_field", `aria-invalid="true"`, `value="cash" checked`, `value="one_off" checked`,
		`value="pt" selected`, `&lt;script&gt;`)
	hasNot(t, w.Body.String(), `value="positions" checked`)
}

// TestLinkElsewhere: what does not lead to the investor pages is not given to an investor.
func TestLinkElsewhere(t *testing.T) {
	for _, bad := range []string{"http://localhost:8081.evil.example/i/x", "https://localhost:8081/i/x", "javascript:alert(1)", "http://evil.example/i/x"} {
		f := newFake(t)
		f.on("POST /v1/consents/"+consID+"/links", 201, `{"url":"`+bad+`","purpose":"manage","expires_at":"2026-11-25T12:00:00.000Z"}`)
		f.on("GET /v1/connections/"+connID, 200, connectionJSON("active", "", usual))
		a := f.app(t)
		a.post("/connections/"+connID+"/manage", url.Values{"once": {"n"}}, 303)
		page := a.get("/connections/"+connID, 200)
		has(t, page, "does not lead to the investor pages")
		hasNot(t, page, bad)
	}
}

func TestConnectionStates(t *testing.T) {
	tests := []struct {
		state, reason string
		has, hasNot   []string
	}{
		{"pending", "", []string{"Waiting for the investor", "/invite", "/remove"}, []string{"/refresh", "/reconnect", "remove-data"}},
		{"awaiting_credentials", "credentials_refused", []string{"Waiting for the login", "Credentials refused.", "reconnect link", "/reconnect"}, nil},
		{"connecting", "", []string{"Reading", `data-poll="2"`}, nil},
		{"awaiting_sca", "", []string{"Waiting for confirmation at the bank"}, nil},
		{"active", "", []string{"Active", "/refresh", "/reconnect", "/manage", "remove-credentials", "remove-data", "/remove", "Show the portfolio"}, []string{"data-poll"}},
		{"paused", "sca_required", []string{"Paused", "Sca required.", "wants the investor to confirm"}, nil},
		{"paused", "some_new_reason", []string{"Some new reason."}, nil},
		{"removed", "consent_ended", []string{"Removed", "this connection has ended"}, []string{"/refresh", "End it for good"}},
		{"some_new_state", "", []string{"Some new state"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.state+" "+tt.reason, func(t *testing.T) {
			f := newFake(t)
			f.on("GET /v1/connections/"+connID, 200, connectionJSON(tt.state, tt.reason, usual))
			f.beyond = strings.Contains(tt.state+tt.reason, "some_new")
			page := f.app(t).get("/connections/"+connID, 200)
			has(t, page, tt.has...)
			hasNot(t, page, tt.hasNot...)
		})
	}
}

// TestCompleteness: an empty product, a failed one and one that is not consented to look different.
func TestCompleteness(t *testing.T) {
	f := newFake(t)
	f.on("GET /v1/connections/"+connID, 200, connectionJSON("active", "", `{"accounts":{"state":"complete","count":1,"saved":true},
		"cash":{"state":"empty","count":0,"saved":true},"positions":{"state":"failed","reason":"bank_answer","count":0,"saved":false},
		"transactions":{"state":"complete","count":1200,"saved":false},"orders":{"state":"not_consented","count":0,"saved":false}}`))
	page := f.app(t).get("/connections/"+connID, 200)
	has(t, page, `<li class="complete">`, "1 record<", `<li class="empty">`, "The bank has none.", `<span class="badge empty">Empty</span>`,
		`<li class="failed">`, "could not understand", "bank_answer", `<span class="badge bad">Failed</span>`,
		"1 200 records, counted but not kept", `<li class="not_consented">`, "The investor does not allow this", `<span class="badge over">Not consented</span>`,
		"The investor was not asked for this")
}

func TestActs(t *testing.T) {
	link := `{"url":"` + linkURL + `","purpose":"%s","expires_at":"2026-11-25T12:00:00.000Z"}`
	tests := []struct {
		act, call, body string
		status          int
		answer          string
		shows           string
	}{
		{"refresh", "POST /v1/connections/" + connID + "/refresh", `{}`, 202, `{"session_id":"ses_06h077t6p8qexjcvz6ads09wvw","state":"queued"}`, "Refresh requested"},
		{"reconnect", "POST /v1/consents/" + consID + "/links", `{"purpose":"reconnect"}`, 201, fmt.Sprintf(link, "reconnect"), "link to log in again"},
		{"manage", "POST /v1/consents/" + consID + "/links", `{"purpose":"manage"}`, 201, fmt.Sprintf(link, "manage"), "link to their overview"},
		{"invite", "POST /v1/consents/" + consID + "/links", `{"purpose":"consent"}`, 201, fmt.Sprintf(link, "consent"), "new invitation"},
		{"remove-credentials", "DELETE /v1/connections/" + connID + "/credentials", ``, 200, certificateJSON(nil), "The login was erased"},
		{"remove-data", "DELETE /v1/connections/" + connID + "/data", ``, 200, certificateJSON(nil), "The data was erased"},
		{"remove", "DELETE /v1/connections/" + connID, ``, 200, certificateJSON(nil), "everything was erased"},
	}
	for _, tt := range tests {
		t.Run(tt.act, func(t *testing.T) {
			f := newFake(t)
			f.on(tt.call, tt.status, tt.answer)
			a := f.app(t)
			w := a.post("/connections/"+connID+"/"+tt.act, url.Values{"once": {"nonce"}}, 303)
			calls := f.called(tt.call + "?")
			if len(calls) != 1 || calls[0].body != tt.body {
				t.Fatalf("calls %v", calls)
			}
			if posts := strings.HasPrefix(tt.call, "POST"); posts != (calls[0].once != "") {
				t.Errorf("Idempotency-Key is %q", calls[0].once)
			}
			has(t, a.get(w.Header().Get("Location"), 200), tt.shows)
		})
	}
}

func TestActRefused(t *testing.T) {
	f := newFake(t)
	f.then("POST /v1/connections/"+connID+"/refresh", 429, problemJSON(429, "refreshed_just_now", "this connection was read just now"),
		http.Header{"Retry-After": {"42"}})
	a := f.app(t)
	w := a.post("/connections/"+connID+"/refresh", nil, 429)
	strict(t, w)
	has(t, w.Body.String(), "this connection was read just now", "429 refreshed_just_now", "Try again in 42 s", `href="/connections/`+connID+`"`)
	if n := len(f.called("POST")); n != 1 {
		t.Errorf("a refusal was sent %d times", n)
	}
	a.post("/connections/"+connID+"/delete-everything", nil, 404)
}

// TestReplay closes a gap: Sluis sends again what it told this endpoint.
func TestReplay(t *testing.T) {
	f := newFake(t)
	endpoint := `{"id":"ep_06h074kezjm8dqe5nzr1cf6w%02d","url":"%s","types":[],"state":"%s","verified":true,"failures":0,"created_at":"2026-11-22T12:00:00.000Z","updated_at":"2026-11-22T12:00:00.000Z"}`
	f.on("GET /v1/endpoints", 200, `{"data":[`+fmt.Sprintf(endpoint, 1, "https://elsewhere.example/webhooks", "enabled")+`,`+
		fmt.Sprintf(endpoint, 2, own+"/webhooks", "disabled")+`,`+fmt.Sprintf(endpoint, 3, own+"/webhooks", "enabled")+`]}`)
	f.on("POST /v1/replays", 202, `{"replayed":3}`)
	a := f.app(t)
	a.send204(webhook(t, "evt_3", notice(connID, 3, "portfolio.updated"), testSecret, time.Now()))
	has(t, a.get("/connections/"+connID, 200), "its webhook has not arrived", "Send the missing webhooks again")
	a.post("/connections/"+connID+"/replay", url.Values{"once": {"n"}}, 303)
	calls := f.called("POST /v1/replays")
	if len(calls) != 1 || calls[0].once == "" || calls[0].body != `{"endpoint_id":"ep_06h074kezjm8dqe5nzr1cf6w03","from":"2026-11-22T12:00:01Z","to":"2026-11-22T12:00:00Z"}` {
		t.Fatalf("calls %v", calls)
	}
	for n := 1; n <= 3; n++ {
		a.send204(webhook(t, fmt.Sprintf("evt_%d", n), notice(connID, n, "portfolio.updated"), testSecret, time.Now()))
	}
	page := a.get("/connections/"+connID, 200)
	hasNot(t, page, "its webhook has not arrived", "Send the missing webhooks again")
	has(t, page, "received 2 times")
	f.on("GET /v1/endpoints", 200, `{"data":[]}`)
	has(t, a.post("/connections/"+connID+"/replay", nil, 409).Body.String(), "no_endpoint")
}

// certificateJSON is a certificate of erasure, signed as Sluis signs: Ed25519 over the canonical JSON without signature.
func certificateJSON(key ed25519.PrivateKey) string {
	members := map[string]any{"id": "era_06h077tyg3f9tn06brqxx50344", "client_id": "cli_06h071a0msp6ygmqywrayzny4r", "consent_id": consID,
		"connection_id": connID, "scope": "data", "cause": "client_request", "actor": map[string]any{"kind": "client", "id": "cli_06h071a0msp6ygmqywrayzny4r"},
		"erased": map[string]int{"part": 3, "data_key": 1}, "erased_at": "2026-11-22T12:00:00.000Z", "backups_until": "2026-12-22T12:00:00.000Z", "key_id": "k1"}
	signature := bytes.Repeat([]byte{1}, ed25519.SignatureSize)
	if key != nil {
		text, _ := json.Marshal(members) // sorted names, and here nothing that HTML would escape
		signature = ed25519.Sign(key, text)
	}
	members["signature"] = base64.StdEncoding.EncodeToString(signature)
	text, _ := json.Marshal(members)
	return string(text)
}

func TestCertificates(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := certificateJSON(key)
	jwk := func(k ed25519.PublicKey, kid string) string {
		return `{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(k) + `","kid":"` + kid + `","alg":"EdDSA","use":"sig"}`
	}
	tests := []struct {
		name, certificate, key string
		fits                   bool
	}{
		{"good", good, jwk(public, "k1"), true},
		{"members in another order", strings.Replace(good, `"scope":"data"`, `"scope" : "data"`, 1), jwk(public, "k1"), true},
		{"another count", strings.Replace(good, `"part":3`, `"part":4`, 1), jwk(public, "k1"), false},
		{"another scope", strings.Replace(good, `"scope":"data"`, `"scope":"all"`, 1), jwk(public, "k1"), false},
		{"another key", good, jwk(other, "k1"), false},
		{"an unknown key", good, jwk(public, "k2"), false},
		{"not signed by anybody", certificateJSON(nil), jwk(public, "k1"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.on("GET /v1/connections/"+connID+"/erasures", 200, `{"data":[`+tt.certificate+`],"keys":[`+tt.key+`]}`)
			page := f.app(t).get("/connections/"+connID, 200)
			has(t, page, "was erased", "1 × data key", "client request", "until 22 Dec 2026, 12:00 UTC")
			if fits := strings.Contains(page, "✓ signature valid"); fits != tt.fits {
				t.Errorf("the signature fits: %v, want %v", fits, tt.fits)
			}
		})
	}
}

// TestDoor: who comes from another site, or by another name, gets nothing and does nothing.
func TestDoor(t *testing.T) {
	f := newFake(t)
	a := f.app(t)
	cross := httptest.NewRequest("POST", own+"/connections/"+connID+"/remove", nil)
	cross.Header.Set("Sec-Fetch-Site", "cross-site")
	has(t, a.send(cross, 403), "another site")
	rebound := httptest.NewRequest("GET", "http://evil.example:8090/", nil)
	has(t, a.send(rebound, 403), "another site")
	if n := len(f.called("DELETE")) + len(f.called("GET /v1/connections")); n != 0 {
		t.Errorf("%d calls were made", n)
	}
	for _, host := range []string{"localhost:8090", "[::1]:8090", "127.0.0.1"} {
		r := httptest.NewRequest("GET", "http://"+host+"/", nil)
		a.send(r, 200)
	}
	for _, path := range []string{"/nothing", "/connections/conn_1", "/connections/..%2f..%2fclient", "/connections/" + connID + "/portfolio?version=../../client",
		"/connections/" + otherID} {
		a.get(path, 404)
	}
	has(t, a.get("/returned?investor=inv-1", 200), "Thank you", "inv-1")
	hasNot(t, a.get("/returned?investor="+strings.Repeat("x", 65), 200), "xxx")
}

func TestUnreachable(t *testing.T) {
	f := newFake(t)
	a := f.app(t)
	f.server.Close()
	has(t, a.get("/", 502), "Sluis does not answer", "Is it running?")
}

// TestRepeated: a call is sent again where no answer came, with the same key, and not where the API refused.
func TestRepeated(t *testing.T) {
	f := newFake(t)
	path := "POST /v1/connections/" + connID + "/refresh"
	f.then(path, 503, problemJSON(503, "unavailable", "try again"), nil)
	f.then(path, 502, `<html>a proxy</html>`, nil)
	f.then(path, 202, `{"session_id":"ses_06h077t6p8qexjcvz6ads09wvw","state":"queued"}`, nil)
	a := f.app(t)
	a.post("/connections/"+connID+"/refresh", url.Values{"once": {"n"}}, 303)
	calls := f.called(path)
	if len(calls) != 3 || calls[0].once == "" || calls[0].once != calls[1].once || calls[1].once != calls[2].once {
		t.Errorf("calls %v", calls)
	}
	f.on(path, 503, problemJSON(503, "unavailable", "try again"))
	has(t, a.post("/connections/"+connID+"/refresh", nil, 503).Body.String(), "Something failed", "503 unavailable")
	if n := len(f.called(path)); n != 6 {
		t.Errorf("%d calls, want three more", n)
	}
}

// TestRetryAfter: who is told when to come back does not come back at once.
func TestRetryAfter(t *testing.T) {
	f := newFake(t)
	f.on("GET /v1/connections", 503)
	f.then("GET /v1/connections", 503, problemJSON(503, "unavailable", "try again"), http.Header{"Retry-After": {"30"}})
	has(t, f.app(t).get("/", 503), "Try again in 30 s")
	if n := len(f.called("GET /v1/connections")); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// TestCanonical: RFC 8785 escapes nothing for HTML, as Go's encoder does unless it is told not to.
func TestCanonical(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signature := base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(`{"cause":"a<b>&c","erased":{"data_key":1,"part":12345678901234567}}`)))
	if !signedBy(public, []byte(`{"signature":"`+signature+`", "erased":{"part":12345678901234567,"data_key":1}, "cause":"a<b>&c"}`)) {
		t.Error("a good signature does not fit")
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"signature":5}`, `{"signature":"%"}`, `{"signature":""}`} {
		if signedBy(public, []byte(bad)) {
			t.Errorf("a signature fits %q", bad)
		}
	}
}

func TestAssets(t *testing.T) {
	a := newFake(t).app(t)
	page := a.get("/returned", 200)
	links := regexp.MustCompile(`(?:href|src)="(/static/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(links) != 4 {
		t.Fatalf("%d static files, want 4 links", len(links))
	}
	if strings.Count(page, `integrity="sha384-`) != 2 {
		t.Error("the sheet and the script are not guarded by their digests")
	}
	for _, l := range links {
		w := httptest.NewRecorder()
		a.mux.ServeHTTP(w, httptest.NewRequest("GET", own+strings.ReplaceAll(l[1], "&#43;", "+"), nil))
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: status %d, %s", l[1], w.Code, w.Header().Get("Cache-Control"))
		}
	}
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, httptest.NewRequest("GET", own+"/static/sandbox.go", nil))
	if w.Code != 404 {
		t.Errorf("status %d for what is no static file", w.Code)
	}
}
