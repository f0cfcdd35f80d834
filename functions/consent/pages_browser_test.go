package consent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/go-jose/go-jose/v4"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/envelope"
)

// theatre is the pages in a browser, with stand-ins for the functions whose endpoints the scripts call. The stand-ins
// say what the contract has them say, and keep every body that the browser sends.
type theatre struct {
	*home
	ctx context.Context
	url string
	key *rsa.PrivateKey

	hands any // the key that GET /seal/key hands out

	mu     sync.Mutex
	state  map[string]any
	answer func(kind, code string) // changes the state
	bodies []string
	opened []map[string]any // what was sealed, opened again
	tamper string           // a static file that is served altered
	mute   bool             // no live events
	cookie string           // of a visit that every request is made to belong to
}

func newTheatre(t *testing.T) *theatre {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("SLUIS_FULL") != "" {
			t.Fatal("chromium is needed: ", err)
		}
		t.Skip("chromium is not installed")
	}
	th := &theatre{home: pageHome(t), key: innerKey(), hands: envelope.PublicJWK(&innerKey().PublicKey)}
	th.standIns()
	server := httptest.NewServer(http.HandlerFunc(th.serve))
	t.Cleanup(server.Close)
	th.url = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	// A browser of its own is closed with the context; its profile is a temporary folder.
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(375, 812)); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	th.ctx = ctx
	return th
}

// serve notes every body before anything else reads it.
func (th *theatre) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	th.mu.Lock()
	th.bodies = append(th.bodies, r.URL.String()+" "+string(body))
	tamper, mux := th.tamper, th.mux
	if th.cookie != "" {
		r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: th.cookie})
	}
	th.mu.Unlock()
	if tamper != "" && r.URL.Path == "/static/"+tamper {
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, `export async function seal() { document.title = "stolen"; return "x"; }`)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	mux.ServeHTTP(w, r)
}

func (th *theatre) standIns() {
	reply := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	th.mux.HandleFunc("GET /seal/key", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 200, map[string]any{"jwk": th.hands, "sub": "conn_1", "now": th.Env.Now().Unix()})
	})
	th.mux.HandleFunc("POST /seal", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ JWE string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		th.open(in.JWE)
		reply(w, 202, map[string]string{"session_id": "ses_1"})
	})
	th.mux.HandleFunc("GET /challenge/state", func(w http.ResponseWriter, r *http.Request) { reply(w, 200, th.now()) })
	th.mux.HandleFunc("GET /challenge/events", th.events)
	th.mux.HandleFunc("GET /challenge/chal_1/image", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		_ = png.Encode(w, mosaic())
	})
	th.mux.HandleFunc("POST /challenge/answer", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Kind       string `json:"kind"`
			SealedCode string `json:"sealed_code"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		code := ""
		if in.SealedCode != "" {
			code = th.open(in.SealedCode)
		}
		th.answer(in.Kind, code)
		reply(w, 200, th.now())
	})
	th.mux.HandleFunc("POST /erase", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			ConsentID domain.ConsentID    `json:"consent_id"`
			Scope     domain.ErasureScope `json:"scope"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		con := th.connection(in.ConsentID)
		con.PortfolioID, con.Products = "", nil
		th.put(con, &domain.Erasure{ID: "era_01jnexample", ClientID: th.client.ID, ConsentID: in.ConsentID, ConnectionID: con.ID,
			Scope: in.Scope, Cause: "request", ErasedAt: th.Env.Now()})
		reply(w, 200, map[string]any{"id": "era_01jnexample", "scope": in.Scope})
	})
}

// open opens what the browser sealed, as only extraction can, and returns the payload.
func (th *theatre) open(sealed string) string {
	jwe, err := jose.ParseEncryptedCompact(sealed, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		th.t.Errorf("what was sealed is no JWE: %v", err)
		return ""
	}
	plain, err := jwe.Decrypt(th.key)
	if err != nil {
		th.t.Errorf("what was sealed does not open: %v", err)
		return ""
	}
	plain, _, _ = bytes.Cut(plain, []byte{0x80, 0}) // what fills the block: test/seal looks at that
	th.mu.Lock()
	defer th.mu.Unlock()
	th.opened = append(th.opened, map[string]any{"typ": jwe.Header.ExtraHeaders["typ"], "sub": jwe.Header.ExtraHeaders["sub"],
		"iat": jwe.Header.ExtraHeaders["iat"], "payload": string(plain)})
	return string(plain)
}

func (th *theatre) set(state map[string]any) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.state = state
}

func (th *theatre) now() map[string]any {
	th.mu.Lock()
	defer th.mu.Unlock()
	out := map[string]any{"now": th.Env.Now()}
	for k, v := range th.state {
		out[k] = v
	}
	return out
}

func (th *theatre) events(w http.ResponseWriter, r *http.Request) {
	th.mu.Lock()
	mute := th.mute
	th.mu.Unlock()
	if mute {
		http.Error(w, "", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	last := ""
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, _ := json.Marshal(th.now())
		if string(raw) != last {
			last = string(raw)
			fmt.Fprintf(w, "event: state\ndata: %s\n\n", raw)
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func mosaic() image.Image {
	m := image.NewRGBA(image.Rect(0, 0, 120, 120))
	colours := []color.RGBA{{200, 40, 40, 255}, {40, 90, 200, 255}, {40, 160, 70, 255}, {255, 255, 255, 255}}
	for y := range 120 {
		for x := range 120 {
			m.Set(x, y, colours[(x/6*7+y/6*13+x/6*y/6)%4])
		}
	}
	return m
}

func (th *theatre) challenge(flow, method, state string, more map[string]any) map[string]any {
	c := map[string]any{"id": "chal_1", "state": state, "flow": flow, "method": method, "tries_left": 2,
		"answer_by": th.Env.Now().Add(4 * time.Minute), "poll_seconds": 1, "methods": []domain.SCAMethod{
			{ID: "P_TAN", Flow: "code", Kind: "photo_tan"}, {ID: "M_TAN", Flow: "code", Kind: "sms"}, {ID: "P_TAN_PUSH", Flow: "decoupled", Kind: "app"}}}
	for k, v := range more {
		c[k] = v
	}
	return map[string]any{"page": "sca", "connection_state": "awaiting_sca", "challenge": c}
}

// do runs steps, each of which must come true within seconds.
func (th *theatre) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	th.t.Helper()
	ctx, stop := context.WithTimeout(th.ctx, 20*time.Second)
	defer stop()
	if err := chromedp.Do(ctx, steps...); err != nil {
		th.t.Fatalf("%s: %v", what, err)
	}
}

// until waits for a JavaScript expression to be true.
func (th *theatre) until(what, expression string) {
	th.t.Helper()
	ctx, stop := context.WithTimeout(th.ctx, 20*time.Second)
	defer stop()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression))
		if err == nil {
			return
		}
		if ctx.Err() == nil && (strings.Contains(err.Error(), "navigated") || strings.Contains(err.Error(), "context")) {
			continue // on to another page, where it may be true
		}
		page, _ := chromedp.Run(th.ctx, chromedp.Evaluate[string](`location.pathname + " " + document.body.innerText`))
		th.t.Fatalf("%s: %v; on %s", what, err, page)
	}
}

func (th *theatre) goTo(path string) { th.do("opening "+path, chromedp.Navigate(th.url+path)) }

// click presses what can be pressed: a button that needs the page's script waits for it.
func (th *theatre) click(css string) {
	th.t.Helper()
	th.until("being able to press "+css, fmt.Sprintf(`document.querySelector(%q)?.disabled !== true`, css))
	th.do("pressing "+css, chromedp.Click(chromedp.CSS(css)))
}

func (th *theatre) text(css, value string) {
	th.do("typing into "+css, chromedp.SendKeys(chromedp.CSS(css), value))
}

// shots takes pictures in light and dark, on a phone and a desktop, if SLUIS_SHOTS names a folder for them.
func (th *theatre) shots(name string) {
	th.t.Helper()
	folder := os.Getenv("SLUIS_SHOTS")
	if folder == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		for device, size := range map[string][2]int64{"phone": {375, 812}, "desktop": {1280, 900}} {
			th.do("arranging", chromedp.EmulateViewport(size[0], size[1]), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
				_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
					Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
				return err
			}))
			picture, err := chromedp.Run(th.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				th.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, name+"-"+device+"-"+scheme+".png"), picture, 0o600); err != nil {
				th.t.Fatal(err)
			}
		}
	}
	th.do("arranging", chromedp.EmulateViewport(375, 812))
}

// fits makes sure that nothing is wider than the narrowest phone, and that what is pressed is large enough
// (WCAG 2.2, 2.5.8 asks for 24 px; these pages keep to 40).
func (th *theatre) fits(page string) {
	th.t.Helper()
	th.do("narrowing", chromedp.EmulateViewport(320, 640))
	wide, err := chromedp.Run(th.ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth`))
	if err != nil || wide > 320 {
		th.t.Errorf("%s is %d px wide on a phone of 320: %v", page, wide, err)
	}
	small, err := chromedp.Run(th.ctx, chromedp.Evaluate[string](`[...document.querySelectorAll("button, .button, summary, .tongues a, .pick, input.field")]
		.filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 40).map((e) => e.outerHTML).join("\n")`))
	if err != nil || small != "" {
		th.t.Errorf("%s: too small to press: %s %v", page, small, err)
	}
	th.do("widening", chromedp.EmulateViewport(375, 812))
}

// listen notes what the browser complains about: errors of scripts, breaches of the content policy, failed loads.
func (th *theatre) listen() func() []string {
	var mu sync.Mutex
	var said []string
	go func(messages func(func(chromedp.ConsoleMessage, error) bool)) {
		for m, err := range messages {
			if err != nil {
				return
			}
			mu.Lock()
			said = append(said, fmt.Sprintf("%v %s", m.Type, m.Text))
			mu.Unlock()
		}
	}(chromedp.Console(th.ctx))
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), said...)
	}
}

const (
	accessNumber = "12345678"
	password     = "correct-horse"
	goodCode     = "246810"
)

func TestInvestorsWayInABrowser(t *testing.T) {
	th := newTheatre(t)
	complaints := th.listen()
	id, token := th.ask(strings.Replace(rich, `"access"`, `"return_url":"https://app.example/back","access"`, 1))
	th.goTo("/")
	th.shots("home")
	th.fits("home")
	th.goTo("/i/" + token)
	th.shots("link")
	th.fits("link")
	th.click("main button")
	th.until("reading the request", `location.pathname === "/consent"`)
	th.shots("consent")
	for _, lang := range domain.Languages {
		th.goTo("/consent?lang=" + lang)
		th.fits("consent in " + lang)
	}
	th.goTo("/consent")
	th.click(".pick:last-of-type")
	th.click(".equal button:first-child")
	th.until("granting", `location.pathname === "/connect"`)
	th.logIn()
	th.confirm()
	con := th.connection(id)
	con.State = domain.ConnectionActive
	con.Products = map[domain.Product]domain.ProductStatus{domain.ProductAccounts: {State: domain.ProductComplete, Count: 1},
		domain.ProductPositions: {State: domain.ProductComplete, Count: 12}, domain.ProductTransactions: {State: domain.ProductComplete, Count: 2345},
		domain.ProductCash: {State: domain.ProductComplete, Count: 3}, domain.ProductOrders: {State: domain.ProductEmpty},
		domain.ProductLiabilities: {State: domain.ProductFailed, Reason: domain.ReasonBankUnavailable}}
	con.PortfolioID, con.LastRefreshedAt, con.NextRefreshAt = "pf_1", th.Env.Now(), th.Env.Now().Add(24*time.Hour)
	th.put(con, &domain.Credential{ID: "cred_1", ConnectionID: con.ID, ConsentID: id, ClientID: th.client.ID, State: domain.CredentialAccepted})
	th.set(map[string]any{"page": "done", "connection_state": "active"})
	th.until("done", `location.pathname === "/done"`)
	th.shots("done")
	th.fits("done")
	th.overview()
	th.sealedOnly()
	if said := complaints(); len(said) > 0 {
		t.Errorf("the browser complained: %q", said)
	}
}

// granted leads the browser to the login form of a consent that was granted.
func (th *theatre) granted() domain.ConsentID {
	th.t.Helper()
	id, token := th.ask(rich)
	th.goTo("/i/" + token)
	th.click("main button")
	th.until("reading the request", `location.pathname === "/consent"`)
	th.click(".pick:last-of-type")
	th.click(".equal button:first-child")
	th.until("granting", `location.pathname === "/connect"`)
	return id
}

func (th *theatre) logIn() {
	th.t.Helper()
	th.shots("connect")
	th.fits("connect")
	th.until("scripts", `document.querySelector("#submit")?.disabled === false && document.querySelector("#late") === null`)
	th.until("the keyboard in the first field", `document.activeElement.id === "f-username"`)
	th.click("#submit")
	th.until("being told what is missing", `document.activeElement.id === "f-username" && document.querySelector("#f-username-fault").textContent !== ""`)
	th.text("#f-username", "12ab")
	th.text("#f-password", password)
	th.click("#submit")
	th.until("being told of letters", `document.querySelector("#f-username-fault").textContent.includes("digits")`)
	th.shots("connect-fault")
	th.until("emptying", `(document.querySelector("#f-username").value = "") === ""`)
	th.text("#f-username", accessNumber)
	th.set(map[string]any{"page": "wait", "connection_state": "connecting", "session": map[string]any{"id": "ses_1", "state": "running", "records": 0}})
	th.text("#f-username", "\r")
	th.until("following the session", `location.pathname === "/sca" && document.querySelector("#records").hidden`)
	th.shots("sca-wait")
}

func (th *theatre) confirm() {
	th.t.Helper()
	th.answer = func(kind, code string) {
		switch {
		case kind == "code" && code == goodCode:
			th.set(map[string]any{"page": "wait", "connection_state": "connecting", "session": map[string]any{"id": "ses_1", "state": "running", "records": 0, "cleared": true}})
		case kind == "code":
			th.set(th.challenge("code", "P_TAN", "rejected", map[string]any{"image_url": "/challenge/chal_1/image?v=1", "digits": 6, "tries_left": 2}))
		case kind == "select":
			th.set(th.challenge("decoupled", "P_TAN_PUSH", "awaiting_user", nil))
		}
	}
	th.set(th.challenge("code", "P_TAN", "challenge_issued", map[string]any{"image_url": "/challenge/chal_1/image?v=1", "digits": 6}))
	th.until("seeing the picture", `!document.querySelector("#code").hidden && document.querySelector("#code-image").complete && document.querySelector("#code-image").naturalWidth === 120`)
	th.until("the keyboard in the field", `document.activeElement.id === "tan" && document.activeElement.inputMode === "numeric"`)
	th.shots("sca-image")
	th.fits("sca-image")
	th.text("#tan", "111111")
	th.click("#confirm")
	th.until("a wrong code", `document.querySelector("#status").textContent.includes("2 more tries") && document.activeElement.id === "tan"`)
	th.shots("sca-wrong")
	th.click("#other summary")
	th.click("#others li:last-child button")
	th.until("approving elsewhere", `!document.querySelector("#decoupled").hidden && document.querySelector("#code").hidden`)
	th.shots("sca-push")
	th.set(th.challenge("", "", "method_selection", nil))
	th.until("choosing", `!document.querySelector("#select").hidden && document.querySelectorAll("#methods button").length === 3`)
	th.shots("sca-select")
	th.set(th.challenge("code", "M_TAN", "challenge_issued", map[string]any{"destination": "+49-170-12XXXX", "digits": 6, "text": "TAN for login"}))
	th.until("a message", `document.querySelector("#code-destination").textContent.includes("+49-170-12XXXX")`)
	th.until("the countdown", `/^[34]:\d\d left$/.test(document.querySelector("#clock").textContent)`)
	th.shots("sca-sms")
	th.text("#tan", "246 810\r")
	th.until("reading", `!document.querySelector("#wait").hidden && !document.querySelector("#wait").textContent.includes("may") &&
		document.querySelector("#wait-title").textContent.startsWith("Reading") && document.querySelector(".steps .now").textContent.startsWith("Read:")`)
	th.set(map[string]any{"page": "wait", "connection_state": "connecting", "session": map[string]any{"id": "ses_1", "state": "running", "records": 1234, "cleared": true}})
	th.until("counting", `document.querySelector("#records").textContent === "1,234 records read so far"`)
	th.shots("sca-reading")
}

func (th *theatre) overview() {
	th.t.Helper()
	th.goTo("/me")
	th.shots("me")
	th.fits("me")
	th.do("unfolding", chromedp.Click(chromedp.CSS("details:last-of-type summary")))
	th.click(`[data-erase="data"]`)
	th.until("being asked once more", `document.querySelector("dialog").open`)
	th.shots("me-confirm")
	th.click(`dialog button[value="yes"]`)
	th.until("the certificate", `document.querySelector("[data-result]").textContent.includes("era_01jnexample") && document.querySelector("a[download]").href.startsWith("blob:") &&
		document.querySelector(".items").textContent.includes("era_01jnexample") && !document.querySelector('[data-erase="data"]')`)
	th.shots("me-erased")
}

// TestTimesInTheReadersZone: a time is shown by the reader's clock, with UTC beside it, also where that is another day.
func TestTimesInTheReadersZone(t *testing.T) {
	th := newTheatre(t)
	id, token := th.ask(strings.Replace(rich, `"products"`, `"expires_at":"2026-05-01T22:30:00Z","products"`, 1))
	for zone, want := range map[string]string{
		"Europe/Amsterdam": "2 mei 2026 om 00:30 CEST (1 mei om 22:30 UTC)", "America/New_York": "1 mei 2026 om 18:30 EDT (22:30 UTC)",
		"Africa/Abidjan": "1 mei 2026 om 22:30 UTC",
	} {
		th.do("moving to "+zone, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: zone})
			return err
		}))
		if th.consent(id).State == domain.ConsentReceived && token != "" {
			th.goTo("/i/" + token)
			th.click("main button")
			th.until("reading the request", `location.pathname === "/consent"`)
			token = ""
		}
		th.goTo("/consent?lang=nl")
		th.until("times", `document.querySelector("time") !== null && document.readyState === "complete"`)
		said, err := chromedp.Run(th.ctx, chromedp.Evaluate[string](`document.querySelector('time[datetime="2026-05-01T22:30:00Z"]').textContent`))
		if err != nil || said != want {
			t.Errorf("%s: %q, want %q (%v)", zone, said, want, err)
		}
	}
}

// sealedOnly makes sure that password and code left the browser, but only sealed.
func (th *theatre) sealedOnly() {
	th.t.Helper()
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, body := range th.bodies {
		for _, secret := range []string{password, accessNumber, goodCode, url.QueryEscape(password), base64.RawURLEncoding.EncodeToString([]byte(password))[:12]} {
			if strings.Contains(body, secret) {
				th.t.Errorf("%q left the page unsealed: %s", secret, body)
			}
		}
	}
	want := []map[string]any{
		{"typ": "sluis-credential+jwe", "sub": "conn_1", "payload": `{"username":"` + accessNumber + `","password":"` + password + `"}`},
		{"typ": "sluis-code+jwe", "sub": "chal_1", "payload": "111111"},
		{"typ": "sluis-code+jwe", "sub": "chal_1", "payload": goodCode},
	}
	if len(th.opened) != len(want) {
		th.t.Fatalf("sealed %d times, want %d", len(th.opened), len(want))
	}
	for i, got := range th.opened {
		if fmt.Sprint(got["iat"]) != fmt.Sprint(float64(start.Unix())) {
			th.t.Errorf("sealed at %v, want the server's time %d", got["iat"], start.Unix())
		}
		for k, v := range want[i] {
			if fmt.Sprint(got[k]) != fmt.Sprint(v) {
				th.t.Errorf("sealed %d: %s is %v, want %v", i, k, got[k], v)
			}
		}
	}
}

// TestAlteredScriptDoesNotRun serves another seal.js than the page's digest says: the module that imports it must not
// run either, so nothing that is typed goes anywhere; the page says that it does not work, and cannot be pressed.
func TestAlteredScriptDoesNotRun(t *testing.T) {
	th := newTheatre(t)
	complaints := th.listen()
	th.tamper = "seal.js"
	th.granted()
	th.text("#f-username", accessNumber)
	th.text("#f-password", password)
	th.until("being told that the page does not work", `getComputedStyle(document.querySelector("#late")).visibility === "visible" && document.querySelector("#submit").disabled`)
	th.text("#f-password", "\r")
	title, err := chromedp.Run(th.ctx, chromedp.Evaluate[string](`location.pathname + location.search + " " + document.title`))
	if err != nil || !strings.HasPrefix(title, "/connect Log in") {
		t.Errorf("now at %q: %v", title, err)
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, body := range th.bodies {
		if strings.HasPrefix(body, "/seal") || strings.Contains(body, password) || strings.Contains(body, accessNumber) {
			t.Errorf("sent %s", body)
		}
	}
	if said := complaints(); len(said) == 0 || !strings.Contains(strings.Join(said, " "), "integrity") {
		t.Errorf("the browser did not object: %q", said)
	}
}

// TestForeignKeyGetsNothing: a sealing function that answers a key of its own, under the name of ours, is sent not one
// byte; the page says what happened.
func TestForeignKeyGetsNothing(t *testing.T) {
	th := newTheatre(t)
	other, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	stolen := envelope.PublicJWK(&other.PublicKey)
	stolen.Kid = envelope.Thumbprint(&th.key.PublicKey)
	th.hands = stolen
	th.granted()
	th.text("#f-username", accessNumber)
	th.text("#f-password", password)
	th.click("#submit")
	th.until("being told", `document.querySelector("#status").textContent.includes("is not ours")`)
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, body := range th.bodies {
		if strings.HasPrefix(body, "/seal ") || strings.Contains(body, password) || strings.Contains(body, accessNumber) {
			t.Errorf("sent %s", body)
		}
	}
}

// TestWithoutLiveEvents has the event stream fail: the page must go on by asking.
func TestWithoutLiveEvents(t *testing.T) {
	th := newTheatre(t)
	var polls atomic.Int32
	th.answer = func(kind, _ string) {
		if kind == "poll" && polls.Add(1) > 1 {
			th.set(map[string]any{"page": "wait", "connection_state": "connecting", "session": map[string]any{"id": "ses_1", "state": "running", "records": 1}})
		}
	}
	th.mute = true
	th.set(th.challenge("decoupled", "P_TAN_PUSH", "awaiting_user", nil))
	th.granted()
	th.goTo("/sca")
	th.until("approved", `document.querySelector("#records").textContent === "1 record read so far"`)
	if polls.Load() < 2 {
		t.Errorf("the bank was asked %d times", polls.Load())
	}
}
