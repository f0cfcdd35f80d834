package access

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"sluis.internal/functions/consent"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// visitor is an investor in Chromium, and a site of somebody else's that their browser shows, too. That site has two
// names: at localhost it is of the same site as our pages, so that the browser sends it the cookie along, and at
// 127.0.0.1 it is of another.
type visitor struct {
	*linked
	tab  context.Context
	evil *httptest.Server
}

// chromium starts a browser; without one the test is skipped, or fails where everything must be there.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil && os.Getenv("SLUIS_FULL") == "1" {
		t.Fatal("no chromium here, and SLUIS_FULL=1")
	}
	if err != nil {
		t.Skip("no chromium here")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return ctx
}

// visiting opens a link to manage in Chromium, as the investor of a portfolio that was read.
func visiting(t *testing.T) *visitor {
	t.Helper()
	tab := chromium(t)
	v := &visitor{linked: openLinked(t), tab: tab}
	v.evil = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if planted := r.URL.Query().Get("plant"); planted != "" {
			http.SetCookie(w, &http.Cookie{Name: cookieName, Value: planted, Path: "/", Secure: true})
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, "<!doctype html><title>elsewhere</title><p>elsewhere</p>", r.URL.Query().Get("body"))
	}))
	t.Cleanup(v.evil.Close)
	v.enter()
	return v
}

// enter opens a new link to manage.
func (v *visitor) enter() {
	v.Helper()
	path, _ := v.link(domain.LinkManage)
	v.visit(v.Pages + path)
	v.act("opening the link", chromedp.Click(chromedp.CSS("main form button")))
	v.act("waiting for the overview", chromedp.WaitVisible(chromedp.CSS("article[data-consent]")))
}

// elsewhere are the two names of the other site.
func (v *visitor) elsewhere() []string {
	return []string{v.evil.URL, strings.Replace(v.evil.URL, "127.0.0.1", "localhost", 1)}
}

func (v *visitor) visit(address string) {
	v.Helper()
	v.act("opening "+address, chromedp.Navigate(address))
}

func (v *visitor) act(what string, a chromedp.Action[chromedp.Void]) {
	v.Helper()
	ctx, done := context.WithTimeout(v.tab, time.Minute)
	defer done()
	if err := chromedp.Do(ctx, a); err != nil {
		v.Fatalf("%s: %v\n%s", what, err, v.text())
	}
}

// eval evaluates a script in the tab and awaits its promise, if it is one.
func eval[T any](v *visitor, script string) T {
	v.Helper()
	ctx, done := context.WithTimeout(v.tab, time.Minute)
	defer done()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		v.Fatalf("%.200s: %v", script, err)
	}
	return out
}

// until waits until an expression is true, over whatever pages come and go meanwhile.
func (v *visitor) until(expression string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		for {
			// Between two pages there is nothing to ask.
			if yes, err := chromedp.Evaluate[bool]("!!("+expression+")")(ctx, t); yes && err == nil {
				return chromedp.Void{}, nil
			}
			select {
			case <-ctx.Done():
				return chromedp.Void{}, ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (v *visitor) text() string {
	text, _ := chromedp.Run(v.tab, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	return text
}

// everything is what must not change: all of the client's documents, links and visits.
func (v *visitor) everything() map[string]string {
	v.Helper()
	var c struct{ ID domain.ClientID }
	v.ask(api(v.Token, "GET", "/v1/client", ""), &c)
	return v.quiet(&tenant{client: c.ID})
}

// TestForgeriesInChromium has another site send our pages' forms and requests from the investor's own browser.
func TestForgeriesInChromium(t *testing.T) {
	v := visiting(t)
	unopened, _ := v.link(domain.LinkConsent)
	before := v.everything()
	forms := map[string]string{"/consent/grant": "custodian=sandbox-comdirect", "/consent/deny": "", "/me/revoke": "consent_id=" + v.Consent(), "/leave": "", unopened: "",
		"/erase": "x=1", "/seal/again": "x=1", "/challenge/answer": "x=1"}
	for _, site := range v.elsewhere() {
		for path, body := range forms {
			name, value, _ := strings.Cut(body, "=")
			v.visit(site)
			eval[bool](v, fmt.Sprintf(`(() => { const f = document.createElement("form"); f.method = "post"; f.action = %q;
				const i = document.createElement("input"); i.name = %q; i.value = %q; if (i.name) f.append(i); document.body.append(f); f.submit(); return true })()`, v.Pages+path, name, value))
			v.act("waiting for the refusal of "+path, v.until(fmt.Sprintf(`location.href.startsWith(%q) && document.readyState === "complete"`, v.Pages)))
			status := eval[int](v, `performance.getEntriesByType("navigation")[0].responseStatus`)
			if status != http.StatusForbidden {
				t.Errorf("a form at %s sent to %s: %d, want 403", site, path, status)
			}
		}
		v.visit(site)
		for _, path := range []string{"/erase", "/seal/again", "/seal", "/challenge/answer", "/leave"} {
			for _, mode := range []string{"no-cors", "cors"} {
				eval[string](v, fmt.Sprintf(`fetch(%q, {method: "POST", mode: %q, credentials: "include", body: %q}).then(r => r.type, e => "error")`,
					v.Pages+path, mode, `{"consent_id": "`+v.Consent()+`", "scope": "all"}`))
			}
		}
		v.readFrom(site)
	}
	if changed := changes(before, v.everything()); len(changed) > 0 {
		t.Errorf("another site changed something:\n%s", strings.Join(changed, "\n"))
	}
	v.visit(v.Pages + "/me")
	if got := v.text(); !strings.Contains(got, v.Consent()) {
		t.Errorf("the investor's visit was disturbed: %s", got)
	}
}

// readFrom tries every way of reading our answers from another site.
func (v *visitor) readFrom(site string) {
	v.Helper()
	for _, path := range []string{"/me", "/challenge/state", "/seal/key", "/challenge/events"} {
		got := eval[string](v, fmt.Sprintf(`fetch(%q, {credentials: "include"}).then(r => r.text(), e => "refused")`, v.Pages+path))
		if got != "refused" {
			v.Errorf("%s reads %s: %.100s", site, path, got)
		}
		got = eval[string](v, fmt.Sprintf(`new Promise(done => { const s = document.createElement("script"); s.src = %q; s.onload = () => done("loaded"); s.onerror = () => done("refused"); document.body.append(s) })`, v.Pages+path))
		if path != "/challenge/events" && got != "refused" {
			v.Errorf("%s loads %s as a script", site, path)
		}
	}
	got := eval[string](v, fmt.Sprintf(`new Promise(done => { const s = new EventSource(%q, {withCredentials: true}); s.onmessage = s.onopen = () => { s.close(); done("open") }; s.onerror = () => { s.close(); done("refused") } })`, v.Pages+"/challenge/events"))
	if got != "refused" {
		v.Errorf("%s opens the stream of events", site)
	}
}

// TestFramesInChromium: no page of ours can be shown in a frame, of another site or of our own. Chromium says of each frame
// that it blocks why it does.
func TestFramesInChromium(t *testing.T) {
	v := visiting(t)
	unopened, _ := v.link(domain.LinkConsent)
	said := make(chan string, 1000)
	messages := chromedp.Console(v.tab)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			said <- m.Text
		}
	}()
	for _, site := range v.elsewhere() {
		for _, path := range []string{"/", "/me", "/connect", "/sca", "/done", unopened, "/challenge/state", "/nowhere", "/static/lock.svg", "/static/nothing", "/consent/grant"} {
			v.visit(site)
			eval[bool](v, fmt.Sprintf(`(() => { const f = document.createElement("iframe"); f.src = %q; document.body.append(f); return true })()`, v.Pages+path))
			v.blocked(said, site, path)
		}
	}
}

// blocked waits until Chromium says that it shows no frame.
func (v *visitor) blocked(said <-chan string, site, path string) {
	v.Helper()
	patience := time.After(10 * time.Second)
	for {
		select {
		case text := <-said:
			if strings.Contains(text, "frame-ancestors") || strings.Contains(text, "X-Frame-Options") {
				return
			}
		case <-patience:
			v.Fatalf("%s shows %s in a frame", site, path)
		}
	}
}

// TestCachesInChromium: once the investor has left, or withdrawn, neither the back button nor the cache shows what was
// there before.
func TestCachesInChromium(t *testing.T) {
	v := visiting(t)
	if !strings.Contains(v.text(), v.Consent()) {
		t.Fatalf("the overview does not show the consent: %s", v.text())
	}
	v.act("leaving", chromedp.Click(chromedp.CSS("footer form button")))
	v.act("waiting for the goodbye", chromedp.WaitVisible(chromedp.CSS(".note.good")))
	if kept := eval[string](v, `fetch("/me", {cache: "only-if-cached", mode: "same-origin"}).then(r => r.ok ? r.text() : "nothing", e => "nothing")`); kept != "nothing" {
		t.Errorf("the cache keeps the overview: %.200s", kept)
	}
	v.back("leaving", over)

	v.enter()
	v.act("asking to withdraw", chromedp.Click(chromedp.CSS(`article[data-consent] a[href*="withdraw="]`)))
	v.act("withdrawing", chromedp.Click(chromedp.CSS(withdraws)))
	v.act("waiting for the withdrawal", chromedp.WaitVisible(chromedp.CSS("article .mark.revoked, article .mark.revoked_by_investor")))
	v.visit(v.Pages + "/")
	v.back("withdrawing", `document.querySelector("article .mark.revoked, article .mark.revoked_by_investor") && !document.querySelector('article a[href*="withdraw="]')`)
	v.back("the question", `!document.querySelector('`+withdraws+`')`)
	v.visit(v.Pages + "/me")
	v.visit(v.Pages + "/")
	v.pass(domain.VisitLife)
	v.back("its time", over)
}

// withdraws is the button that withdraws a consent.
const withdraws = `form[action^="/me/revoke"] button.grim`

// over says that a page tells the investor that the visit is over, and nothing else.
const over = `document.body.innerText.includes("Your visit has ended") && !document.querySelector("article")`

// back presses the back button, and expects to see what is true now.
func (v *visitor) back(after, want string) {
	v.Helper()
	eval[bool](v, `history.back(), true`)
	ctx, done := context.WithTimeout(v.tab, 10*time.Second)
	defer done()
	if err := chromedp.Do(ctx, v.until(`location.pathname === "/me" && document.readyState === "complete" && document.body.checkVisibility() && !!(`+want+`)`)); err != nil {
		v.Errorf("after %s the back button shows:\n%s", after, v.text())
	}
}

// TestCookieInChromium: the browser takes both cookies with every bound that they have, shows them to no script, and a
// cookie that another site planted does not become the visit.
func TestCookieInChromium(t *testing.T) {
	v := visiting(t)
	if got := eval[string](v, `document.cookie`); got != "" {
		t.Errorf("a script sees the cookie")
	}
	bounds := map[string]network.CookieSameSite{cookieName: network.CookieSameSiteStrict, browserName: network.CookieSameSiteLax}
	kept := v.cookies()
	if len(kept) != len(bounds) {
		t.Errorf("the browser keeps %d cookies, want %d", len(kept), len(bounds))
	}
	for _, c := range kept {
		if !c.HTTPOnly || !c.Secure || c.SameSite != bounds[c.Name] || c.Path != "/" || strings.HasPrefix(c.Domain, ".") {
			t.Errorf("the browser keeps %s for %s%s, secure %v, http only %v, same site %v", c.Name, c.Domain, c.Path, c.Secure, c.HTTPOnly, c.SameSite)
		}
	}
	attackers := v.Cookie().Value
	v.visit(v.elsewhere()[1] + "/?plant=" + attackers)
	if v.cookies()[cookieName].Value != attackers {
		t.Fatalf("the other site could not plant a cookie: the test shows nothing")
	}
	v.enter()
	if v.cookies()[cookieName].Value == attackers {
		t.Errorf("the planted cookie became the visit")
	}
}

// cookies are those that the browser keeps for the pages, by name.
func (v *visitor) cookies() map[string]*network.Cookie {
	v.Helper()
	out := map[string]*network.Cookie{}
	v.act("reading cookies", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		got, err := cdp.Call(ctx, t, network.GetCookies, network.GetCookiesParams{URLs: []string{v.Pages}})
		for _, c := range got.Cookies {
			out[c.Name] = c
		}
		return err
	}))
	return out
}

// TestOpenersInChromium: a site that opened our page keeps no hold on it.
func TestOpenersInChromium(t *testing.T) {
	v := visiting(t)
	gesture := true
	held := func(site, address string) bool {
		t.Helper()
		v.visit(site)
		ctx, done := context.WithTimeout(v.tab, time.Minute)
		defer done()
		// A window that is cut off looks closed to its opener, soon after it has begun to load.
		script := fmt.Sprintf(`new Promise(done => { const w = window.open(%q); if (!w) return done("blocked"); let n = 0;
			const look = setInterval(() => { if (w.closed || ++n > 40) { clearInterval(look); done(w.closed ? "cut" : "held"); w.close() } }, 100) })`, address)
		got, err := chromedp.Run(ctx, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise, func(p *runtime.EvaluateParams) { p.UserGesture = &gesture }))
		must(t, err)
		if got == "blocked" {
			t.Fatal("no window was opened: the test shows nothing")
		}
		return got == "held"
	}
	for _, site := range v.elsewhere() {
		if !held(site, site+"/?body=mine") {
			t.Fatal("a site loses its own window: the test shows nothing")
		}
		for _, path := range []string{"/me", "/nowhere"} {
			if held(site, v.Pages+path) {
				t.Errorf("%s holds on to %s, which it opened", site, path)
			}
		}
	}
}

// returnTricks are addresses that have led elsewhere where they were checked carelessly.
func returnTricks(origin string) []string {
	host := strings.TrimPrefix(origin, "https://")
	return []string{
		"//evil.example", `\\evil.example`, `/\evil.example`, "https://evil.example", "https:evil.example", "https:/evil.example", "https:///evil.example",
		origin + ".evil.example", origin + "@evil.example", origin + ":@evil.example", origin + `\@evil.example`, origin + `\.evil.example`, origin + "%2eevil.example",
		origin + "%40evil.example", origin + ":443@evil.example", origin + ":8443", origin + "%00.evil.example", origin + "\u3002evil.example", origin + "\uff0eevil.example",
		"https://evil.example/" + host, "https://evil.example?" + origin, "https://evil.example#" + origin, "https://evil.example\\" + host, "https://user@" + host, "https://user:pass@" + host,
		"javascript:alert(1)//" + host, "javascript://" + host + "/%0aalert(1)", "data:text/html,x", "http://" + host, "ftp://" + host, "blob:" + origin, "view-source:" + origin,
		" " + origin, "\t" + origin, origin + "\n.evil.example", "ht\ntps://" + host, origin + "\r\nLocation: https://evil.example", "https://[::1]", "https://127.1", "https://" + host + ".",
		"https://" + strings.ToUpper(host) + ".evil.example", "https://xn--" + host, origin + "/../..//evil.example\x00",
	}
}

// TestReturnAddresses: a client cannot have investors sent anywhere but to its declared origins. What passes, of tricks
// and of seeded mutations of them, Chromium must understand the same way.
func TestReturnAddresses(t *testing.T) {
	const origin = "https://app.example.com"
	w := open(t)
	c, err := consent.AddClient(t.Context(), w.Home, w.Home.Env, "Returning", consent.Terms{ReturnOrigins: []string{origin}})
	must(t, err)
	_, token, err := consent.IssueKey(t.Context(), w.Home, w.Home.Env, c.ID, consent.KeyTerms{Role: domain.RoleClient})
	must(t, err)
	for _, address := range returnTricks(origin) {
		body, err := json.Marshal(map[string]any{"investor_ref": "inv-9", "purpose": map[string]string{"code": "tax"}, "products": []string{"cash"}, "return_url": address})
		must(t, err)
		if a := w.send(api(string(token.Reveal()), "POST", "/v1/consents", string(body))); a.Code != 400 {
			t.Errorf("the return address %q: %d, want 400", address, a.Code)
		}
	}
	n := 20_000
	if *house.Long {
		n = 1_000_000
	}
	t.Logf("seed %d, %d mutations", *house.Seed, n)
	passed := mutations(origin, n)
	if len(passed) < 50 {
		t.Fatalf("only %d mutations passed", len(passed))
	}
	ctx := chromium(t)
	raw, err := json.Marshal(passed)
	must(t, err)
	wrong, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](fmt.Sprintf(`%s.filter(a => { try { return new URL(a, "http://localhost").origin !== %q } catch { return true } })`, raw, origin)))
	must(t, err)
	for _, address := range wrong {
		t.Errorf("%q passes for %s, and Chromium goes elsewhere", address, origin)
	}
}

// mutations are those of n mutated addresses that the domain lets pass.
func mutations(origin string, n int) (passed []string) {
	r := rand.New(rand.NewPCG(*house.Seed, 1))
	seeds := append(returnTricks(origin), origin, origin+"/done", origin+"/a?b=c#d", strings.Replace(origin, "https", "HTTPS", 1))
	const alphabet = "/\\@:?#%.;&=+ \t\n\r\x00aA0[]e\u3002\uff0f"
	letters := []rune(alphabet)
	for range n {
		text := []rune(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(4) {
			at, c := r.IntN(len(text)+1), letters[r.IntN(len(letters))]
			switch r.IntN(3) {
			case 0:
				text = slices.Insert(text, at, c)
			case 1:
				text = append(text[:min(at, len(text))], []rune(origin)[r.IntN(len(origin)):]...)
			default:
				if at < len(text) {
					text[at] = c
				}
			}
		}
		c := domain.Consent{ReturnURL: string(text)}
		if c.ReturnURL != "" && c.ValidateReturn([]string{origin}) == nil {
			passed = append(passed, c.ReturnURL)
		}
	}
	slices.Sort(passed)
	return slices.Compact(passed)
}
