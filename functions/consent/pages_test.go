package consent

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
	"sluis.internal/shared/serve"
)

// pageHome is a home whose pages are served, too.
func pageHome(t testing.TB) *home {
	h := newHome(t)
	h.Inner = func() ([]crypto.PublicKey, error) { return []crypto.PublicKey{&innerKey().PublicKey}, nil }
	h.Pages(h.mux)
	return h
}

// innerKey is the inner gate's key, in a test's hand.
var innerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		panic(err)
	}
	return key
})

// TestPagesNameTheKeys: the pages that seal, and no others, name every key of the inner gate by its thumbprint.
func TestPagesNameTheKeys(t *testing.T) {
	h := pageHome(t)
	second, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	all := func() ([]crypto.PublicKey, error) {
		return []crypto.PublicKey{&innerKey().PublicKey, &second.PublicKey}, nil
	}
	h.Inner = all
	want := ` data-keys="` + envelope.Thumbprint(&innerKey().PublicKey) + " " + envelope.Thumbprint(&second.PublicKey) + `"`
	undecidedCookie, _ := undecided(h)
	awaiting, _ := settled(h, "", "", "")
	busy, _ := settled(h, domain.ConnectionBusy, "", domain.CredentialTrying)
	read, _ := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
	for _, c := range []struct {
		cookie, path string
		names        bool
	}{{"", "/", false}, {undecidedCookie, "/consent", false}, {awaiting, "/connect", true}, {busy, "/sca", true}, {read, "/done", false}, {read, "/me", false}} {
		res := h.browse(c.cookie, "GET", c.path, nil)
		if text := bodyOf(t, res); res.StatusCode != http.StatusOK || strings.Contains(text, want) != c.names || strings.Contains(text, "data-keys") != c.names {
			t.Errorf("%s answers %d and names keys: %t, want %t", c.path, res.StatusCode, strings.Contains(text, "data-keys"), c.names)
		}
	}
	for name, inner := range map[string]envelope.Inner{
		"out of reach": func() ([]crypto.PublicKey, error) {
			return nil, &domain.Error{Kind: domain.Unavailable, Code: "keys_unavailable"}
		},
		"too small": func() ([]crypto.PublicKey, error) { return []crypto.PublicKey{&must2048().PublicKey}, nil },
	} {
		h.Inner = inner
		if res := h.browse(awaiting, "GET", "/connect", nil); res.StatusCode < 500 {
			t.Errorf("keys %s: a page that cannot seal is shown with %d", name, res.StatusCode)
		}
	}
}

func must2048() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// browse sends a request as a browser would from our own page, with the cookie of a visit if there is one.
func (h *home) browse(cookie, method, path string, form url.Values, headers ...string) *http.Response {
	h.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(form.Encode()))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "http://"+r.Host)
	}
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: cookie})
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if r.Header.Del(headers[i]); headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.mux.ServeHTTP(w, r)
	return w.Result()
}

// enter redeems a link of a purpose through the pages and gives the cookie.
func (h *home) enter(token string) string {
	h.t.Helper()
	res := h.browse("", "POST", "/i/"+token, nil)
	for _, c := range res.Cookies() {
		if res.StatusCode == http.StatusSeeOther && c.Name == "__Host-sluis" {
			return c.Value
		}
	}
	h.t.Fatalf("redeeming: status %d", res.StatusCode)
	return ""
}

var shownShape = regexp.MustCompile(`name="shown" value="([0-9a-f]{64})"`)

// form is what the form of a page sends to confirm what the page says, and more.
func (h *home) form(cookie, path string, more url.Values) url.Values {
	h.t.Helper()
	found := shownShape.FindStringSubmatch(bodyOf(h.t, h.browse(cookie, "GET", path, nil)))
	if found == nil {
		h.t.Fatalf("%s shows nothing to confirm", path)
	}
	out := maps.Clone(more)
	if out == nil {
		out = url.Values{}
	}
	out.Set("shown", found[1])
	return out
}

func (h *home) linkFor(id domain.ConsentID, purpose domain.LinkUse) string {
	h.t.Helper()
	return tokenOf(h.t, h.call(http.StatusCreated, "POST", "/v1/consents/"+string(id)+"/links", fmt.Sprintf(`{"purpose":%q}`, purpose)))
}

// put changes documents behind the function's back, as other functions would.
func (h *home) put(docs ...domain.Document) {
	h.t.Helper()
	err := h.store.Commit(context.Background(), func(tx domain.Tx) error {
		if err := putAll(tx, docs...); err != nil {
			return err
		}
		return tx.Record(domain.Note(h.Env, "test", "arranged", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "test", nil))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func bodyOf(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wellFormed reads the page as XML, which the templates are strict enough for: each element closed where it must be,
// each attribute quoted, no identifier twice, each label and description pointing at something.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	ids, wanted, headings := map[string]bool{}, map[string]string{}, 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("page is not well-formed: %v", err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if e.Name.Local == "h1" {
			headings++
		}
		for _, a := range e.Attr {
			switch a.Name.Local {
			case "id":
				if ids[a.Value] {
					t.Errorf("the id %s stands twice", a.Value)
				}
				ids[a.Value] = true
			case "for", "aria-labelledby", "aria-describedby", "aria-controls":
				for _, id := range strings.Fields(a.Value) {
					wanted[id] = e.Name.Local
				}
			case "style":
				t.Errorf("inline style on %s", e.Name.Local)
			}
			if strings.HasPrefix(a.Name.Local, "on") {
				t.Errorf("inline handler on %s", e.Name.Local)
			}
		}
		checkElement(t, e)
	}
	for id, of := range wanted {
		if !ids[id] {
			t.Errorf("%s points at %s, which is not there", of, id)
		}
	}
	if headings != 1 {
		t.Errorf("%d h1, want one", headings)
	}
}

func attr(e xml.StartElement, name string) (string, bool) {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

func checkElement(t *testing.T, e xml.StartElement) {
	t.Helper()
	_, integrity := attr(e, "integrity")
	rel, _ := attr(e, "rel")
	if (e.Name.Local == "script" || rel == "stylesheet") && !integrity {
		t.Errorf("%s without integrity", e.Name.Local)
	}
	if src, ok := attr(e, "src"); e.Name.Local == "script" && (!ok || !strings.HasPrefix(src, "/static/")) {
		t.Errorf("script from %q", src)
	}
	if _, ok := attr(e, "alt"); e.Name.Local == "img" && !ok {
		t.Error("img without alt")
	}
	if _, ok := attr(e, "type"); e.Name.Local == "button" && !ok {
		if v, _ := attr(e, "value"); v != "yes" && v != "no" {
			t.Error("button without type")
		}
	}
}

// scenes are pages as they look in every state that shows something else.
type scene struct {
	name   string
	path   string
	status int
	want   string // a key of the words that must stand on it
	set    func(h *home) (cookie, path string)
}

func scenes() []scene { return append(openScenes(), visitScenes()...) }

func openScenes() []scene {
	return []scene{
		{name: "home", path: "/", status: 200, want: "home.lead"},
		{name: "left", path: "/?left=1", status: 200, want: "home.left"},
		{name: "unknown link", path: "/i/" + strings.Repeat("x", 43), status: 410, want: "error.link_used"},
		{name: "misshapen link", path: "/i/short", status: 404, want: "error.not_found"},
		{name: "no visit", path: "/consent", status: 401, want: "error.visit_ended"},
		{name: "link to decide", status: 200, want: "link.button.consent", set: func(h *home) (string, string) {
			_, token := h.ask(rich)
			return "", "/i/" + token
		}},
		{name: "link to reconnect", status: 200, want: "link.button.reconnect", set: func(h *home) (string, string) {
			id, _ := h.granted(rich)
			return "", "/i/" + h.linkFor(id, domain.LinkReconnect)
		}},
		{name: "link to manage", status: 200, want: "link.button.manage", set: func(h *home) (string, string) {
			id, _ := h.granted(rich)
			return "", "/i/" + h.linkFor(id, domain.LinkManage)
		}},
	}
}

func visitScenes() []scene {
	return []scene{
		{name: "consent", path: "/consent", status: 200, want: "consent.allow", set: undecided},
		{name: "consent without bank", path: "/consent", status: 200, want: "consent.deny", set: func(h *home) (string, string) {
			cookie, _ := undecided(h)
			h.Service.Custodians = nil
			return cookie, ""
		}},
		{name: "consent among many", path: "/consent", status: 200, want: "consent.where.search", set: func(h *home) (string, string) {
			cookie, _ := undecided(h)
			for i := range 9 {
				more := h.Custodians[0]
				more.ID, more.Name = domain.CustodianID(fmt.Sprintf("bank-%d", i)), fmt.Sprintf("Bank %d", i)
				h.Service.Custodians = append(h.Service.Custodians, more)
			}
			return cookie, ""
		}},
		{name: "connect", path: "/connect", status: 200, want: "connect.submit", set: at0("", "", "")},
		{name: "connect after a refusal", path: "/connect", status: 200, want: "reason.credentials_refused",
			set: at0(domain.ConnectionAwaiting, domain.ReasonCredentialsRefused, domain.CredentialRefused)},
		{name: "connect again", path: "/connect", status: 200, want: "connect.again.unconfirmed",
			set: at0(domain.ConnectionPaused, domain.ReasonInterrupted, domain.CredentialUnconfirmed)},
		{name: "sca", path: "/sca", status: 200, want: "sca.code.submit", set: at0(domain.ConnectionBusy, "", domain.CredentialTrying)},
		{name: "done", path: "/done", status: 200, want: "done.read.title", set: complete},
		{name: "done in part", path: "/done", status: 200, want: "done.partly.again", set: at0(domain.ConnectionActive, "", domain.CredentialAccepted)},
		{name: "done in part, once", path: "/done", status: 200, want: "done.partly.once", set: func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
			c := h.consent(id)
			c.Access = domain.AccessOnce
			h.put(c)
			return cookie, ""
		}},
		{name: "stopped", path: "/done", status: 200, want: "reason.sca_cancelled.do",
			set: at0(domain.ConnectionPaused, domain.ReasonSCACancelled, domain.CredentialAccepted)},
		{name: "paused", path: "/done", status: 200, want: "reason.sca_required.do",
			set: at0(domain.ConnectionPaused, domain.ReasonSCARequired, domain.CredentialAccepted)},
		{name: "denied", path: "/done", status: 200, want: "done.denied.title", set: func(h *home) (string, string) {
			cookie, _ := undecided(h)
			h.browse(cookie, "POST", "/consent/deny", nil)
			return cookie, ""
		}},
		{name: "expired", path: "/done", status: 200, want: "done.expired.title", set: func(h *home) (string, string) {
			_, token := h.ask(strings.Replace(rich, `"products"`, `"expires_at":"2026-03-01T12:05:00Z","products"`, 1))
			cookie := h.enter(token)
			h.pass(10 * time.Minute)
			return cookie, ""
		}},
		{name: "ended", path: "/done", status: 200, want: "done.ended.title", set: func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
			h.browse(cookie, "POST", "/me/revoke", url.Values{"consent_id": {string(id)}})
			return cookie, ""
		}},
		{name: "overview", path: "/me", status: 200, want: "me.withdraw", set: func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
			h.ask(rich)
			con := h.connection(id)
			h.put(&domain.Erasure{ID: domain.NewID[domain.ErasureID](h.Env), ClientID: h.client.ID, ConsentID: id, ConnectionID: con.ID,
				Scope: domain.EraseData, Cause: "request", Erased: map[string]int{"part": 3}, ErasedAt: h.Env.Now()})
			return cookie, ""
		}},
		{name: "withdrawing", path: "/me", status: 200, want: "withdraw.confirm", set: func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
			return cookie, "/me?withdraw=" + string(id)
		}},
		{name: "overview after withdrawal", path: "/me", status: 200, want: "consentstate.revoked", set: func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionPaused, domain.ReasonAccountLocked, domain.CredentialAccepted)
			h.browse(cookie, "POST", "/me/revoke", url.Values{"consent_id": {string(id)}})
			return cookie, ""
		}},
	}
}

const rich = `{"investor_ref":"inv-1","purpose":{"code":"investment_advice","text":"Yearly review <b>with</b> {client}"},` +
	`"products":["accounts","cash","positions","transactions","orders","liabilities"],"access":"recurring"}`

// undecided is a visit to a consent that waits for its decision.
func undecided(h *home) (cookie, path string) {
	_, token := h.ask(rich)
	return h.enter(token), ""
}

// complete is a visit after a reading that lacked nothing.
func complete(h *home) (cookie, path string) {
	cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
	con := h.connection(id)
	con.Products[domain.ProductLiabilities] = domain.ProductStatus{State: domain.ProductEmpty}
	h.put(con)
	return cookie, ""
}

func at0(state domain.ConnectionState, why domain.Reason, held domain.CredentialState) func(*home) (string, string) {
	return func(h *home) (string, string) {
		cookie, _ := settled(h, state, why, held)
		return cookie, ""
	}
}

// settled is a visit to a consent that was granted, with its connection and credential in the given states.
func settled(h *home, state domain.ConnectionState, why domain.Reason, held domain.CredentialState) (string, domain.ConsentID) {
	id, token := h.ask(rich)
	cookie := h.enter(token)
	res := h.browse(cookie, "POST", "/consent/grant", h.form(cookie, "/consent", url.Values{"custodian": {string(h.Custodians[0].ID)}}))
	if res.StatusCode != http.StatusSeeOther {
		h.t.Fatalf("granting: status %d", res.StatusCode)
	}
	con := h.connection(id)
	if state == "" {
		return cookie, id
	}
	con.State, con.Reason = state, why
	if state == domain.ConnectionActive || state == domain.ConnectionPaused {
		con.PortfolioID, con.LastRefreshedAt, con.NextRefreshAt = domain.NewID[domain.PortfolioID](h.Env), h.Env.Now(), h.Env.Now().Add(24*time.Hour)
		con.Products = map[domain.Product]domain.ProductStatus{
			domain.ProductAccounts:     {State: domain.ProductComplete, Count: 1},
			domain.ProductCash:         {State: domain.ProductComplete, Count: 4},
			domain.ProductPositions:    {State: domain.ProductComplete, Count: 12},
			domain.ProductTransactions: {State: domain.ProductComplete, Count: 12345},
			domain.ProductOrders:       {State: domain.ProductEmpty},
			domain.ProductLiabilities:  {State: domain.ProductFailed, Reason: domain.ReasonBankUnavailable},
		}
	}
	docs := []domain.Document{con}
	if held != "" {
		docs = append(docs, &domain.Credential{ID: domain.NewID[domain.CredentialID](h.Env), ConnectionID: con.ID, ConsentID: id,
			ClientID: h.client.ID, Custodian: con.Custodian, State: held, Generation: 1})
		con.Generation = 1
	}
	h.put(docs...)
	return cookie, id
}

func TestEveryPageInEveryLanguage(t *testing.T) {
	for _, sc := range scenes() {
		for _, lang := range domain.Languages {
			t.Run(sc.name+" "+lang, func(t *testing.T) {
				h := pageHome(t)
				cookie, path := "", sc.path
				if sc.set != nil {
					var other string
					if cookie, other = sc.set(h); other != "" {
						path = other
					}
				}
				join := "?"
				if strings.Contains(path, "?") {
					join = "&"
				}
				res := h.browse(cookie, "GET", path+join+"lang="+lang, nil)
				page := bodyOf(t, res)
				if res.StatusCode != sc.status {
					t.Fatalf("status %d, want %d: %s", res.StatusCode, sc.status, res.Header.Get("Location"))
				}
				text := theSite().words[lang].text[sc.want]
				if text == "" || !strings.Contains(strings.ReplaceAll(page, "&#39;", "'"), strings.Split(text, "{")[0]) {
					t.Errorf("the page does not say %q", text)
				}
				if !strings.Contains(page, `<html lang="`+lang+`">`) || res.Header.Get("Content-Language") != lang {
					t.Error("the page does not say its language")
				}
				if left := regexp.MustCompile(`>[^<]*\{[a-z]+\}[^<]*<`).FindString(page); left != "" && !strings.Contains(left, "Yearly review") {
					t.Errorf("a placeholder is left: %s", left)
				}
				if strings.Contains(page, "<b>with</b>") {
					t.Error("the client's words are not escaped")
				}
				wellFormed(t, page)
			})
		}
	}
}

func TestPagesCarryTheirHeaders(t *testing.T) {
	h := pageHome(t)
	cookie, _ := undecided(h)
	for _, path := range []string{"/", "/consent", "/i/short"} {
		res := h.browse(cookie, "GET", path, nil)
		for name, want := range map[string]string{
			"Content-Security-Policy": contentPolicy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": permissionsPolicy, "Strict-Transport-Security": "",
			"Content-Type": "text/html; charset=utf-8",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
	for _, never := range []string{"unsafe", "data:", "http:", "*"} {
		if strings.Contains(contentPolicy, never) {
			t.Errorf("the content policy allows %s", never)
		}
	}
	h.PagesURL = "https://pages.example"
	if h.browse("", "GET", "/", nil).Header.Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS over https")
	}
}

func TestVisitCookie(t *testing.T) {
	h := pageHome(t)
	_, token := h.ask(rich)
	res := h.browse("", "POST", "/i/"+token, nil)
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/consent" || len(res.Cookies()) != 2 {
		t.Fatalf("status %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	known, c := res.Cookies()[0], res.Cookies()[1]
	if known.Name != "__Host-sluis-browser" || !known.Secure || !known.HttpOnly || known.SameSite != http.SameSiteLaxMode || known.Path != "/" || known.Domain != "" {
		t.Errorf("cookie %+v", known)
	}
	if c.Name != "__Host-sluis" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %+v", c)
	}
	if again := h.browse("", "POST", "/i/"+token, nil); again.StatusCode != http.StatusGone || slices.ContainsFunc(again.Cookies(), func(c *http.Cookie) bool { return c.Name == "__Host-sluis" }) {
		t.Errorf("second time: status %d", again.StatusCode)
	}
	res = h.browse(c.Value, "POST", "/leave", nil)
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/?left=1" || res.Cookies()[0].MaxAge >= 0 {
		t.Errorf("leaving: status %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	if res := h.browse(c.Value, "GET", "/consent", nil); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("after leaving: status %d", res.StatusCode)
	}
	if res := h.browse(c.Value, "POST", "/leave", nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("leaving twice: status %d", res.StatusCode)
	}
}

func TestLookingAtALinkUsesNothingUp(t *testing.T) {
	h := pageHome(t)
	_, token := h.ask(rich)
	for _, method := range []string{"GET", "HEAD", "GET"} {
		if res := h.browse("", method, "/i/"+token, nil, "Sec-Fetch-Site", "cross-site", "Purpose", "prefetch"); res.StatusCode != 200 || len(res.Cookies()) != 1 || res.Cookies()[0].Name != "__Host-sluis-browser" {
			t.Fatalf("%s: status %d", method, res.StatusCode)
		}
	}
	h.enter(token)
}

// TestOldBrowsersPass: one without Fetch Metadata (iOS up to 16.3) shows by its Origin that a form is ours.
func TestOldBrowsersPass(t *testing.T) {
	h := pageHome(t)
	id, token := h.ask(rich)
	old := []string{"Sec-Fetch-Site", "", "Origin", "http://example.com"}
	res := h.browse("", "POST", "/i/"+token, nil, old...)
	if res.StatusCode != http.StatusSeeOther || len(res.Cookies()) != 1 {
		t.Fatalf("the first button: status %d", res.StatusCode)
	}
	if res := h.browse(res.Cookies()[0].Value, "POST", "/consent/deny", nil, old...); res.StatusCode != http.StatusSeeOther || h.consent(id).State != domain.ConsentRejected {
		t.Errorf("the second one: status %d", res.StatusCode)
	}
}

// TestNothingIsPressedInVain: what needs a script cannot be pressed before the script is there, and the page says so when
// it is late. The script's last line is what sets it free.
func TestNothingIsPressedInVain(t *testing.T) {
	for _, name := range []string{"connect", "sca"} {
		page, err := pageFiles.ReadFile("templates/" + name + ".html")
		if err != nil {
			t.Fatal(err)
		}
		text := string(page)
		if n := strings.Count(text, `type="button"`); n == 0 || strings.Count(text, `<button type="button" disabled="disabled" data-script=""`) != n {
			t.Errorf("%s: of %d buttons that need the script not all wait for it", name, n)
		}
		if !strings.Contains(text, `id="late"`) {
			t.Errorf("%s does not say that its script is late", name)
		}
		script, err := pageFiles.ReadFile("static/" + name + ".js")
		if err != nil {
			t.Fatal(err)
		}
		before, after, found := strings.Cut(string(script), "\nready();\n")
		if !found || strings.Contains(before, "\nready();") || strings.Contains(after, "addEventListener") {
			t.Errorf("%s.js sets the page free before it listens", name)
		}
	}
	css, err := pageFiles.ReadFile("static/page.css")
	if err != nil || !strings.Contains(string(css), ".late { visibility: hidden; animation: late 0s 4s forwards }") {
		t.Errorf("the hint does not come by itself: %v", err)
	}
}

func TestForgedFormsAreRefused(t *testing.T) {
	for _, forged := range []struct {
		name    string
		headers []string
	}{
		{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
		{"another site without referrer", []string{"Sec-Fetch-Site", "cross-site", "Origin", "null"}},
		{"another host of the same site", []string{"Sec-Fetch-Site", "same-site", "Origin", "null"}},
		{"an old browser on another site", []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}},
		{"an old browser by another scheme", []string{"Sec-Fetch-Site", "", "Origin", "ftp://example.com"}},
		{"an old browser at another port", []string{"Sec-Fetch-Site", "", "Origin", "http://example.com:81"}},
		{"an old browser that hides the site", []string{"Sec-Fetch-Site", "", "Origin", "null"}},
	} {
		t.Run(forged.name, func(t *testing.T) {
			h := pageHome(t)
			id, token := h.ask(rich)
			words := "error.cross_origin"
			if strings.Contains(forged.name, "hides") {
				words = "error.origin_hidden"
			}
			if res := h.browse("", "POST", "/i/"+token, nil, forged.headers...); res.StatusCode != http.StatusForbidden {
				t.Errorf("redeeming: status %d", res.StatusCode)
			}
			cookie := h.enter(token)
			for path, form := range map[string]url.Values{
				"/consent/grant": {"custodian": {string(h.Custodians[0].ID)}}, "/consent/deny": nil,
				"/me/revoke": {"consent_id": {string(id)}}, "/leave": nil,
			} {
				res := h.browse(cookie, "POST", path, form, forged.headers...)
				if page := bodyOf(t, res); res.StatusCode != http.StatusForbidden || !strings.Contains(page, theSite().words["en"].text[words]) {
					t.Errorf("%s: status %d", path, res.StatusCode)
				}
			}
			if h.consent(id).State != domain.ConsentReceived {
				t.Error("a forged form was carried out")
			}
		})
	}
}

func TestDeciding(t *testing.T) {
	bank := func(h *home) url.Values { return url.Values{"custodian": {string(h.Custodians[1].ID)}} }
	for _, c := range []struct {
		name, path string
		form       func(*home) url.Values
		status     int
		to         string
		state      domain.ConsentState
	}{
		{"allow", "/consent/grant", bank, 303, "/connect", domain.ConsentValid},
		{"deny", "/consent/deny", bank, 303, "/done", domain.ConsentRejected},
		{"allow without a bank", "/consent/grant", func(*home) url.Values { return nil }, 400, "", domain.ConsentReceived},
		{"allow an unknown bank", "/consent/grant", func(*home) url.Values { return url.Values{"custodian": {"elsewhere"}} }, 400, "", domain.ConsentReceived},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := pageHome(t)
			id, token := h.ask(rich)
			cookie := h.enter(token)
			form := h.form(cookie, "/consent", c.form(h))
			for range 2 { // a form sent twice is one decision
				res := h.browse(cookie, "POST", c.path, form)
				if res.StatusCode != c.status || res.Header.Get("Location") != c.to {
					t.Fatalf("status %d to %q", res.StatusCode, res.Header.Get("Location"))
				}
				if page := bodyOf(t, res); c.status == 400 && !strings.Contains(page, theSite().words["en"].text["consent.where.missing"]) {
					t.Error("the page does not say what is missing")
				}
			}
			if got := h.consent(id).State; got != c.state {
				t.Errorf("consent is %s, want %s", got, c.state)
			}
		})
	}
}

func TestEveryoneIsSentWhereTheyBelong(t *testing.T) {
	pages := []string{"/consent", "/connect", "/sca", "/done"}
	for _, c := range []struct {
		name string
		set  func(*home) (string, string)
		to   []string // of each page; "" is the page itself
	}{
		{"undecided", undecided, []string{"", "/consent", "/consent", "/consent"}},
		{"granted", at0("", "", ""), []string{"/connect", "", "", "/connect"}},
		{"busy", at0(domain.ConnectionBusy, "", domain.CredentialTrying), []string{"/sca", "/sca", "", "/sca"}},
		{"at the bank's question", at0(domain.ConnectionSCA, "", domain.CredentialTrying), []string{"/sca", "/sca", "", "/sca"}},
		{"read", complete, []string{"/done", "/done", "", ""}},
		{"read in part", at0(domain.ConnectionActive, "", domain.CredentialAccepted), []string{"/done", "", "", ""}},
		{"paused", at0(domain.ConnectionPaused, domain.ReasonSCAExpired, domain.CredentialAccepted), []string{"/done", "", "", ""}},
		{"refused", at0(domain.ConnectionAwaiting, domain.ReasonCredentialsRefused, domain.CredentialRefused), []string{"/connect", "", "", ""}},
		{"denied", func(h *home) (string, string) {
			cookie, _ := undecided(h)
			h.browse(cookie, "POST", "/consent/deny", nil)
			return cookie, ""
		}, []string{"/done", "/done", "/done", ""}},
		{"to manage only", func(h *home) (string, string) {
			id, _ := h.ask(rich)
			return h.enter(h.linkFor(id, domain.LinkManage)), ""
		}, []string{"/me", "/me", "/me", "/me"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := pageHome(t)
			cookie, _ := c.set(h)
			for i, path := range pages {
				res := h.browse(cookie, "GET", path, nil)
				if res.Header.Get("Location") != c.to[i] || (c.to[i] == "") != (res.StatusCode == 200) {
					t.Errorf("%s: status %d to %q, want %q", path, res.StatusCode, res.Header.Get("Location"), c.to[i])
				}
			}
		})
	}
}

// TestTheBarSaysHowFarOneCame: what failed, was stopped, or came in part is not shown as done.
func TestTheBarSaysHowFarOneCame(t *testing.T) {
	at := func(why domain.Reason) func(*home) (string, string) {
		return at0(domain.ConnectionPaused, why, domain.CredentialAccepted)
	}
	for _, c := range []struct {
		name string
		set  func(*home) (string, string)
		want string
	}{
		{"complete", complete, "past past past past"},
		{"in part", at0(domain.ConnectionActive, "", domain.CredentialAccepted), "past past past partly"},
		{"refused", at(domain.ReasonCredentialsRefused), "past failed  "},
		{"no in the bank's app", at(domain.ReasonSCARejected), "past past failed "},
		{"too late", at(domain.ReasonSCAExpired), "past past failed "},
		{"stopped", at(domain.ReasonSCACancelled), "past past stopped "},
		{"bank down", at(domain.ReasonBankUnavailable), "past past past failed"},
		{"data erased", at(domain.ReasonDataErased), "past past past stopped"},
		{"denied", func(h *home) (string, string) {
			cookie, _ := undecided(h)
			h.browse(cookie, "POST", "/consent/deny", nil)
			return cookie, ""
		}, "stopped   "},
		{"withdrawn", func(h *home) (string, string) {
			cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
			h.browse(cookie, "POST", "/me/revoke", url.Values{"consent_id": {string(id)}})
			return cookie, ""
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := pageHome(t)
			cookie, _ := c.set(h)
			page := bodyOf(t, h.browse(cookie, "GET", "/done?lang=en", nil))
			bar, _, _ := strings.Cut(page, "</ol>")
			_, bar, found := strings.Cut(bar, `<ol class="steps"`)
			var got []string
			for _, m := range regexp.MustCompile(`<li(?: class="([a-z]+)")?`).FindAllStringSubmatch(bar, -1) {
				got = append(got, m[1])
			}
			if strings.Join(got, " ") != c.want || found != (c.want != "") {
				t.Errorf("the bar says %q, want %q", got, c.want)
			}
		})
	}
}

// TestWithdrawingAsksOnce: the overview leads to a question, and only its yes withdraws. No script is needed.
func TestWithdrawingAsksOnce(t *testing.T) {
	h := pageHome(t)
	cookie, id := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
	if page := bodyOf(t, h.browse(cookie, "GET", "/me", nil)); strings.Contains(page, "/me/revoke") || !strings.Contains(page, "/me?withdraw="+string(id)) {
		t.Error("the overview withdraws without asking")
	}
	page := bodyOf(t, h.browse(cookie, "GET", "/me?withdraw="+string(id), nil))
	if !strings.Contains(page, `action="/me/revoke"`) || !strings.Contains(page, `value="`+string(id)+`"`) || !strings.Contains(page, `href="/me"`) {
		t.Errorf("the question has no yes or no: %s", page)
	}
	if got := h.consent(id).State; got != domain.ConsentValid {
		t.Fatalf("asking made the consent %s", got)
	}
	h.browse(cookie, "POST", "/me/revoke", url.Values{"consent_id": {string(id)}})
	if got := h.consent(id).State; got != domain.ConsentRevoked {
		t.Errorf("the consent is %s", got)
	}
	for _, gone := range []string{string(id), "con_06eajh8a03h8x3zr43fvd20ahm", "%22%3E"} {
		if res := h.browse(cookie, "GET", "/me?withdraw="+gone, nil); res.Header.Get("Location") != "/me" {
			t.Errorf("%s: status %d", gone, res.StatusCode)
		}
	}
}

// TestTimesCanBeReadByMachines: each time on a page has its moment beside its words, so that a script can localise it.
func TestTimesCanBeReadByMachines(t *testing.T) {
	h := pageHome(t)
	cookie, _ := complete(h)
	for _, path := range []string{"/me", "/done"} {
		page := bodyOf(t, h.browse(cookie, "GET", path, nil))
		all, marked := strings.Count(page, " UTC"), len(regexp.MustCompile(`<time datetime="2026-\d\d-\d\dT\d\d:\d\d:\d\dZ">[^<]+ UTC</time>`).FindAllString(page, -1))
		if all == 0 || all != marked || !strings.Contains(page, "/static/times.js") {
			t.Errorf("%s: %d of %d times are marked", path, marked, all)
		}
	}
}

func TestLanguageIsKept(t *testing.T) {
	h := pageHome(t)
	_, token := h.ask(strings.Replace(rich, `"access"`, `"language":"pt","access"`, 1))
	if page := bodyOf(t, h.browse("", "GET", "/i/"+token, nil)); !strings.Contains(page, `<html lang="pt">`) {
		t.Error("the link does not speak the consent's language")
	}
	res := h.browse("", "POST", "/i/"+token+"?lang=fr", nil)
	if res.Header.Get("Location") != "/consent?lang=fr" {
		t.Errorf("on to %q", res.Header.Get("Location"))
	}
	cookie := res.Cookies()[1].Value
	page := bodyOf(t, h.browse(cookie, "GET", "/consent?lang=fr", nil))
	for _, want := range []string{`<html lang="fr">`, `action="/consent/grant?lang=fr"`, `formaction="/consent/deny?lang=fr"`, `href="/me?lang=fr"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if page := bodyOf(t, h.browse(cookie, "GET", "/consent", nil, "Accept-Language", "es")); !strings.Contains(page, `<html lang="pt">`) {
		t.Error("without a choice the consent's language counts")
	}
	for given, want := range map[string]string{"es-MX,es;q=0.9": "es", "pt-BR": "pt", "de-AT": "de", "nl-BE": "nl", "it, fr;q=0.5": "fr", "xx": "en", "": "en", ";;;q=": "en"} {
		if page := bodyOf(t, h.browse("", "GET", "/", nil, "Accept-Language", given)); !strings.Contains(page, `<html lang="`+want+`">`) {
			t.Errorf("a browser that wishes %q does not get %s", given, want)
		}
	}
	if page := bodyOf(t, h.browse("", "GET", "/?lang=%22%3E%3Cscript%3E", nil)); strings.Contains(page, "<script>") || strings.Contains(page, "lang=%22") {
		t.Error("a language that is none of ours is repeated")
	}
}

func TestLoginFormCannotSubmitAnything(t *testing.T) {
	h := pageHome(t)
	cookie, _ := settled(h, "", "", "")
	d := xml.NewDecoder(strings.NewReader(bodyOf(t, h.browse(cookie, "GET", "/connect", nil))))
	inside, inputs, complete := false, 0, []string{}
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		if e, ok := token.(xml.EndElement); ok && e.Name.Local == "form" {
			inside = false
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if id, _ := attr(e, "id"); e.Name.Local == "form" && id == "login" {
			inside = true
			for _, never := range []string{"action", "method"} {
				if _, has := attr(e, never); has {
					t.Errorf("the login form has %s", never)
				}
			}
		}
		if !inside {
			continue
		}
		if _, named := attr(e, "name"); named {
			t.Errorf("%s in the login form has a name", e.Name.Local)
		}
		if kind, _ := attr(e, "type"); e.Name.Local == "button" && kind != "button" {
			t.Errorf("a %s button in the login form", kind)
		}
		if e.Name.Local == "input" {
			inputs++
			c, _ := attr(e, "autocomplete")
			complete = append(complete, c)
		}
	}
	if inputs != 2 || !slices.Equal(complete, []string{"username", "current-password"}) {
		t.Errorf("%d inputs that complete %q", inputs, complete)
	}
}

func TestReturnIsALinkToADeclaredOrigin(t *testing.T) {
	h := pageHome(t)
	_, token := h.ask(strings.Replace(rich, `"access"`, `"return_url":"https://app.example/back?x=1","access"`, 1))
	cookie := h.enter(token)
	h.browse(cookie, "POST", "/consent/deny", nil)
	res := h.browse(cookie, "GET", "/done", nil)
	if page := bodyOf(t, res); res.StatusCode != 200 || !strings.Contains(page, `href="https://app.example/back?x=1" rel="noreferrer"`) {
		t.Errorf("status %d, and no link back", res.StatusCode)
	}
}

func TestRevokingNeedsAnIdentifierOfOnesOwn(t *testing.T) {
	h := pageHome(t)
	cookie, mine := settled(h, domain.ConnectionActive, "", domain.CredentialAccepted)
	foreign, _ := h.granted(strings.Replace(rich, "inv-1", "inv-2", 1))
	for id, want := range map[string]int{"": 400, "con_1": 400, string(foreign): 404, string(mine): 303} {
		if res := h.browse(cookie, "POST", "/me/revoke", url.Values{"consent_id": {id}}); res.StatusCode != want {
			t.Errorf("%q: status %d, want %d", id, res.StatusCode, want)
		}
	}
	if h.consent(foreign).State != domain.ConsentValid || h.consent(mine).State != domain.ConsentRevoked {
		t.Error("the wrong consent was withdrawn")
	}
}

func TestErrorsShowNothingOfOurInsides(t *testing.T) {
	h := pageHome(t)
	cookie, _ := undecided(h)
	h.store.breakAt("before", 9)
	res := h.browse(cookie, "POST", "/consent/deny", nil)
	if page := bodyOf(t, res); res.StatusCode != 500 || strings.Contains(page, errBroken.Error()) || !strings.Contains(page, theSite().words["en"].text["error.internal"]) {
		t.Errorf("status %d: %s", res.StatusCode, page)
	}
	h.store.fault = nil
	if res := h.browse(cookie, "POST", "/consent/deny", url.Values{"x": {strings.Repeat("x", maxForm)}}); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large form: status %d", res.StatusCode)
	}
	if res := h.browse(cookie, "POST", "/consent/deny", nil, "Content-Type", "application/x-www-form-urlencoded; ="); res.StatusCode != http.StatusBadRequest {
		t.Errorf("a misshapen form: status %d", res.StatusCode)
	}
	h.Pages(http.NewServeMux())
	panicking := h.page(func(*sheet) (string, error) { panic("secret") })
	w := httptest.NewRecorder()
	panicking.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("a panic: status %d", w.Code)
	}
}

func TestPagesAreLimited(t *testing.T) {
	h := pageHome(t)
	h.Door.Limits = serve.NewLimits(3)
	for range 3 {
		if res := h.browse("", "GET", "/", nil); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	for _, method := range []string{"GET", "POST"} {
		res := h.browse("", method, "/i/"+strings.Repeat("x", 43), nil)
		if page := bodyOf(t, res); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" || !strings.Contains(page, theSite().words["en"].text["error.rate_limited"]) {
			t.Errorf("%s: status %d", method, res.StatusCode)
		}
	}
}

func TestStaticFiles(t *testing.T) {
	h := pageHome(t)
	for name, a := range theSite().assets {
		res := h.browse("", "GET", a.URL, nil)
		if res.StatusCode != 200 || res.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" ||
			res.Header.Get("Content-Type") != mediaTypes[filepath.Ext(name)] || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: status %d, %v", name, res.StatusCode, res.Header)
		}
		if bodyOf(t, res) != string(a.content) {
			t.Errorf("%s: another content", name)
		}
		if res := h.browse("", "GET", "/static/"+name+"?v=old", nil); res.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: an old address may be kept", name)
		}
		if res := h.browse("", "GET", a.URL, nil, "If-None-Match", res.Header.Get("ETag")); res.StatusCode != http.StatusNotModified {
			t.Errorf("%s: status %d for a copy that is still good", name, res.StatusCode)
		}
		if strings.HasSuffix(name, ".js") && regexp.MustCompile(`from "\./`).Match(a.content) {
			t.Errorf("%s imports an address without a version", name)
		}
	}
	for _, path := range []string{"/static/none.js", "/static/..%2fpages.go", "/static/en.json"} {
		if res := h.browse("", "GET", path, nil); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d", path, res.StatusCode)
		}
	}
	if size := len(theSite().assets["page.css"].content); size > 12<<10 {
		t.Errorf("the style sheet has %d bytes, want at most 12 KiB", size)
	}
}

// TestColoursCanBeRead holds every pair of text and ground to a contrast of 4.5 (WCAG 2.2, 1.4.3), in light and dark.
func TestColoursCanBeRead(t *testing.T) {
	sheet := string(theSite().assets["page.css"].content)
	light, dark, found := strings.Cut(sheet, "@media (prefers-color-scheme: dark)")
	if !found {
		t.Fatal("there are no colours for the dark")
	}
	dark, _, _ = strings.Cut(dark, "*, ::before")
	for name, text := range map[string]string{"light": light, "dark": dark} {
		colours := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{3,6});`).FindAllStringSubmatch(text, -1) {
			colours[m[1]] = luminance(t, m[2])
		}
		for _, pair := range []string{"ink ground", "ink card", "ink wash", "soft ground", "soft card", "soft wash", "deep ground", "deep card",
			"deep wash", "on-deep deep", "on-deep deeper", "bad bad-wash", "bad card", "card bad", "good good-wash", "good card", "good wash",
			"warn warn-wash", "warn card", "warn wash"} {
			over, under, _ := strings.Cut(pair, " ")
			a, b := colours[over], colours[under]
			if len(colours) < 15 || (max(a, b)+0.05)/(min(a, b)+0.05) < 4.5 {
				t.Errorf("%s: %s has a contrast of %.2f", name, pair, (max(a, b)+0.05)/(min(a, b)+0.05))
			}
		}
	}
}

// luminance is the relative luminance of a colour in sRGB (WCAG 2.2).
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

// constants lists the values of the domain's string constants of a type, so that a new one without words is found.
func constants(t *testing.T, typ string) []string {
	t.Helper()
	files, err := filepath.Glob("../../shared/domain/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("finding the domain: %v", err)
	}
	var values []string
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			name, isName := spec.Type.(*ast.Ident)
			literal, isLiteral := spec.Values[0].(*ast.BasicLit)
			if isName && isLiteral && name.Name == typ {
				value, _ := strconv.Unquote(literal.Value)
				values = append(values, value)
			}
			return true
		})
	}
	if len(values) == 0 {
		t.Fatalf("found no %s", typ)
	}
	return values
}

var methodKinds = []string{"sms", "call", "email", "push_code", "totp", "chip_card", "coordinate_card", "photo_tan", "qr", "flicker", "app", "redirect", "other"}

// usedKeys are all keys that templates, scripts and handlers use, exact ones and those of families.
func usedKeys(t *testing.T) map[string]bool {
	t.Helper()
	used := map[string]bool{"language": true, "time.full": true, "time.months": true, "list.and": true}
	exact := []*regexp.Regexp{regexp.MustCompile(`\b(?:T|Rich|Line) "([a-z0-9_.]+)"`), regexp.MustCompile(`\bword\("([a-z0-9_.]+)"`),
		regexp.MustCompile(`\b(?:T|Rich|Line)\("([a-z0-9_.]*[a-z0-9_])"`), regexp.MustCompile(`text\["([a-z0-9_.]+)"\]`)}
	plural := regexp.MustCompile(`(?:word\("([a-z.]+)", \{ count|N\("([a-z.]+)",)`)
	either := regexp.MustCompile(`word\([a-z]+ \? "([a-z.]+)" : "([a-z.]+)"`)
	var sources []string
	for _, pattern := range []string{"templates/*.html", "static/*.js", "pages*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, found...)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range exact {
			for _, m := range pattern.FindAllStringSubmatch(string(raw), -1) {
				used[m[1]] = true
			}
		}
		for _, m := range either.FindAllStringSubmatch(string(raw), -1) {
			used[m[1]], used[m[2]] = true, true
		}
		for _, m := range plural.FindAllStringSubmatch(string(raw), -1) {
			key := m[1] + m[2]
			delete(used, key)
			used[key+".one"], used[key+".other"] = true, true
		}
	}
	used["sca.wrong"] = true // said without a number where the bank gives none
	for _, family := range families(t) {
		for _, member := range family.members {
			for _, suffix := range family.suffixes {
				used[family.name+"."+member+suffix] = true
			}
		}
	}
	return used
}

// family is a set of keys that are put together from a name and a value of a closed set.
type family struct {
	name     string
	members  []string
	suffixes []string
}

func families(t *testing.T) []family {
	t.Helper()
	bare, both := []string{""}, []string{"", ".do"}
	problems := regexp.MustCompile(`problem\.([a-z]+)`)
	var problemNames []string
	for key := range theSite().words["en"].text {
		if m := problems.FindStringSubmatch(key); m != nil {
			problemNames = append(problemNames, m[1])
		}
	}
	script, err := os.ReadFile("static/page.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range problemNames {
		if !strings.Contains(string(script), `"`+name+`"`) && !strings.Contains(string(script), "problem."+name) {
			t.Errorf("no failure is explained by problem.%s", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?:\d+|[a-z_]+): "([a-z]+)"`).FindAllStringSubmatch(string(script), -1) {
		if m[1] != "error" { // fetch's way with redirects
			problemNames = append(problemNames, m[1])
		}
	}
	var kinds []string
	for _, k := range domain.Kinds {
		kinds = append(kinds, string(k))
	}
	purposes := constants(t, "LinkUse")
	return []family{
		{"product", constants(t, "Product"), []string{"", ".text"}},
		{"productstate", append(constants(t, "ProductState"), "waiting"), bare},
		{"purpose", domain.PurposeCodes, bare},
		{"access", constants(t, "Access"), bare},
		{"saving", []string{"none", "latest"}, bare},
		{"region", []string{"local", "europe-west4"}, bare},
		{"reason", append(constants(t, "Reason"), "other"), both},
		{"method", methodKinds, both},
		{"consentstate", constants(t, "ConsentState"), bare},
		{"connectionstate", constants(t, "ConnectionState"), bare},
		{"credentialstate", append(constants(t, "CredentialState"), "none"), bare},
		{"scope", constants(t, "ErasureScope"), bare},
		{"me.erase", constants(t, "ErasureScope"), []string{"", ".text"}},
		{"link.title", purposes, bare}, {"link.text", purposes, bare}, {"link.button", purposes, bare},
		{"step", []string{"1", "2", "3", "4", "now", "past", "partly", "failed", "stopped"}, bare},
		{"done", []string{"read", "partly", "denied", "expired", "ended"}, []string{".title"}},
		{"problem", problemNames, bare},
		{"error", append(kinds, "link_used", "visit_ended", "cross_origin", "origin_hidden", "consent_expired", "client_suspended", "custodian_unavailable", "visit_purpose"), both},
	}
}

func TestEveryLanguageSaysEverything(t *testing.T) {
	used := usedKeys(t)
	marks := regexp.MustCompile(`\{[a-z]+\}`)
	english := theSite().words["en"].text
	for _, lang := range domain.Languages {
		text := theSite().words[lang].text
		for key := range used {
			if strings.TrimSpace(text[key]) == "" {
				t.Errorf("%s lacks %s", lang, key)
			}
		}
		for key, value := range text {
			if !used[key] {
				t.Errorf("%s has %s, which nothing uses", lang, key)
			}
			got, want := marks.FindAllString(value, -1), marks.FindAllString(english[key], -1)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s has the placeholders %v, want %v", lang, key, got, want)
			}
			if lang != "en" && value == english[key] && len(value) > 25 && strings.Contains(value, " ") && !strings.HasPrefix(key, "region.") {
				t.Errorf("%s: %s is not translated", lang, key)
			}
		}
		if n := len(strings.Fields(text["time.months"])); n != 12 {
			t.Errorf("%s has %d months", lang, n)
		}
	}
}

// TestTextsAreSetAsTheirLanguageSetsThem: an apostrophe is ’, and French keeps signs of two parts with their word.
func TestTextsAreSetAsTheirLanguageSetsThem(t *testing.T) {
	loose := regexp.MustCompile(`« | [:;?!»]|\pL[:;?!]( |$)`)
	for _, lang := range domain.Languages {
		texts := maps.Clone(theSite().words[lang].text)
		for _, c := range catalogue(t) {
			for _, f := range c.Credentials {
				texts["label of "+string(c.ID)+" "+f.Name] = f.Label[lang]
			}
		}
		for key, text := range texts {
			if text == "" {
				t.Errorf("%s lacks the %s", lang, key)
			}
			if strings.ContainsAny(text, `'"`) {
				t.Errorf("%s: %s has the typewriter's signs: %s", lang, key, text)
			}
			if lang == "fr" && loose.MatchString(text) {
				t.Errorf("fr: %s lets a sign begin a line: %q", key, text)
			}
		}
	}
}

// TestScriptsAreGivenTheirWords makes sure that a page's script finds each word that it says.
func TestScriptsAreGivenTheirWords(t *testing.T) {
	word := regexp.MustCompile(`\b(?:word|term)\("([a-z0-9_.]+)"`)
	for page, files := range pageScripts {
		raw, err := theSite().words["en"].some(scriptWords[page])
		if err != nil {
			t.Fatal(err)
		}
		var given map[string]string
		if err := json.Unmarshal([]byte(raw), &given); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, m := range word.FindAllStringSubmatch(string(theSite().assets[file].content), -1) {
				if given[m[1]] == "" && given[m[1]+".other"] == "" {
					t.Errorf("%s on %s lacks %s", file, page, m[1])
				}
			}
		}
	}
}

func TestWordsInSentences(t *testing.T) {
	moment := domain.At(time.Date(2026, 5, 1, 9, 5, 0, 0, time.FixedZone("", 7200)))
	for lang, want := range map[string][]string{
		"en": {"1 May 2026 at 07:05 UTC", "a, b and c", "0 records", "1 record", "12,345 records", "Germany"},
		"de": {"1. Mai 2026 um 07:05 UTC", "a, b und c", "0 Einträge", "1 Eintrag", "12.345 Einträge", "Deutschland"},
		"nl": {"1 mei 2026 om 07:05 UTC", "a, b en c", "0 items", "1 item", "12.345 items", "Duitsland"},
		"es": {"1 de mayo de 2026 a las 07:05 UTC", "a, b y c", "0 registros", "1 registro", "12.345 registros", "Alemania"},
		"fr": {"1er mai 2026 à 07:05 UTC", "a, b et c", "0 élément", "1 élément", "12\u00a0345 éléments", "Allemagne"},
		"pt": {"1 de maio de 2026 às 07:05 UTC", "a, b e c", "0 registo", "1 registo", "12.345 registos", "Alemanha"},
	} {
		v := theSite().words[lang]
		got := []string{v.moment(moment), v.And([]string{"a", "b", "c"})}
		for _, n := range []int{0, 1, 12345} {
			text, err := v.N("count", n)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, text)
		}
		got = append(got, (&sheet{words: v}).country("DE"))
		if !slices.Equal(got, want) {
			t.Errorf("%s says %q, want %q", lang, got, want)
		}
	}
	v := theSite().words["en"]
	rich, err := v.Rich("consent.title", "client", `<i>{client}</i>`)
	if err != nil || string(rich) != "<strong><bdi>&lt;i&gt;{client}&lt;/i&gt;</bdi></strong> asks to read your investments" {
		t.Errorf("%s, %v", rich, err)
	}
	if v.Term("reason", "never_heard_of") != v.text["reason.other"] || v.Term("region", "mars-1") != "mars-1" {
		t.Error("an unknown member has no word")
	}
	if _, err := v.T("no.such.key"); err == nil {
		t.Error("a missing key is no error")
	}
}
