package sandbox

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// screen is the app in a browser.
type screen struct {
	t   *testing.T
	ctx context.Context
	url string
	app *testApp

	early sync.Once
	first func() // done once, when a page has been drawn and asks for the stream, which is not there yet

	mu     sync.Mutex
	faults []string
}

// newScreen starts Chromium in front of the app. The page's console must stay empty: a breach of the content policy, a
// script that fails and a file that is missing all say so there.
func newScreen(t *testing.T, f *fakeAPI) *screen {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("SLUIS_FULL") != "" {
			t.Fatal("chromium is needed: ", err)
		}
		t.Skip("chromium is not installed")
	}
	s := &screen{t: t, app: f.app(t)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" && s.first != nil {
			s.early.Do(s.first)
		}
		s.app.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	s.ctx = ctx
	s.do("starting", chromedp.EmulateViewport(375, 812))
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			s.mu.Lock()
			s.faults = append(s.faults, fmt.Sprintf("%+v", m))
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *screen) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	s.t.Helper()
	if err := chromedp.Do(s.ctx, steps...); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

// await waits until an expression is true in the page.
func (s *screen) await(what, expression string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression)); err != nil {
		text, _ := chromedp.Run(s.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		s.t.Fatalf("waiting for %s: %v\n%s", what, err, text)
	}
}

func (s *screen) quiet() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		s.t.Errorf("the console says %s", f)
	}
}

// sprawl lists what is wider than the window, and on a phone what a finger would not hit.
const sprawl = `[
	...[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("svg, .hush, .skip"))
		.map(e => "too wide: " + e.tagName + "." + e.className),
	...[...document.querySelectorAll("button, .button, summary, nav a, .pager a, .people a, input.field, select")]
		.filter(e => innerWidth < 800 && e.offsetParent && e.getBoundingClientRect().height < 43).map(e => "too small: " + e.textContent.trim() + e.id),
].slice(0, 5).join("\n")`

// TestScreens opens every page on a phone and a desktop, in light and dark. With SLUIS_SCREENSHOTS set to a directory,
// it keeps the pictures there.
func TestScreens(t *testing.T) {
	f := rich(t)
	f.on("GET /v1/connections", 200, `{"data":[`+connectionJSON("active", "", usual)+`,`+
		connectionAs(otherID, strings.Repeat("a-long-reference-", 3), "paused", "sca_required", "{}")+`]}`)
	f.on("POST /v1/consents/"+consID+"/links", 201, `{"url":"`+linkURL+`","purpose":"manage","expires_at":"2026-11-25T12:00:00.000Z"}`)
	f.on("GET /v1/connections/"+connID+"/erasures", 200, `{"data":[`+certificateJSON(nil)+`],"keys":[]}`)
	path := "GET /v1/connections/" + connID + "/portfolio"
	f.on(path+"s", 200, `{"data":[`+versionJSON(newest, 2, usual, "")+`,`+versionJSON(older, 1, usual, "")+`]}`)
	for id, worth := range map[string]string{newest: "13853.30", older: "13210.00"} {
		f.on(path+"?version="+id, 200, versionJSON(id, 2, usual, `[{"account_id":"`+depot+`","currency":"EUR","computed":"`+worth+`","unvalued":0}]`))
	}
	s := newScreen(t, f)
	s.app.post("/connections/"+connID+"/manage", nil, http.StatusSeeOther)
	s.app.send204(webhook(t, "evt_1", notice(connID, 1, "consent.granted"), testSecret, time.Now()))
	s.app.send204(webhook(t, "evt_3", notice(connID, 3, "portfolio.updated"), testSecret, time.Now()))
	connection := "/connections/" + connID
	for name, at := range map[string]string{"home": "/", "connection": connection + "?done=manage", "portfolio": connection + "/portfolio",
		"transactions": connection + "/transactions", "returned": "/returned?investor=inv-1"} {
		for _, width := range []int64{320, 375, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				s.do("arranging", chromedp.EmulateViewport(width, 812), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
					_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
						Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
					return err
				}), chromedp.Navigate(s.url+at))
				bad, err := chromedp.Run(s.ctx, chromedp.Evaluate[string](sprawl))
				if err != nil || bad != "" {
					t.Errorf("%s at %d: %v %s", name, width, err, bad)
				}
				s.keep(fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
			}
		}
	}
	s.quiet()
}

// keep saves a picture where somebody wants it.
func (s *screen) keep(name string) {
	s.t.Helper()
	dir := os.Getenv("SLUIS_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(s.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		s.t.Fatalf("taking a picture: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), picture, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// TestLive: a webhook changes what the page shows without a reload, and leaves alone what the reader does.
func TestLive(t *testing.T) {
	f := newFake(t)
	f.on("GET /v1/connections", 200, `{"data":[`+connectionJSON("pending", "", "{}")+`]}`)
	s := newScreen(t, f)
	s.do("opening", chromedp.Navigate(s.url+"/"), chromedp.SendKeys(chromedp.CSS("#ref"), "half-typed"))
	s.await("the stream", `performance.getEntriesByName(location.origin + "/events").length >= 0 && document.readyState === "complete"`)
	f.on("GET /v1/connections", 200, `{"data":[`+connectionJSON("active", "", usual)+`]}`)
	s.until(func(n int) { // the stream opens a moment after the page
		s.app.send204(webhook(t, fmt.Sprint("evt_", n), notice(connID, n+1, "portfolio.updated"), testSecret, time.Now()))
	}, `document.querySelector("#webhooks").innerText.includes("portfolio.updated") && document.querySelector("#connections").innerText.includes("Active")`)
	s.await("what was typed", `document.querySelector("#ref").value === "half-typed"`)
	s.await("the announcement", `document.querySelector("#live").innerText.includes("Received portfolio.updated for inv-1")`)

	s.do("opening", chromedp.Navigate(s.url+"/connections/"+connID), chromedp.Click(chromedp.CSS("#s-remove")), chromedp.Focus(chromedp.CSS("#act-remove")))
	f.on("GET /v1/connections/"+connID, 200, connectionJSON("paused", "sca_required", usual))
	s.until(func(n int) {
		s.app.send204(webhook(t, fmt.Sprint("evt_p", n), notice(connID, n+1, "connection.paused"), testSecret, time.Now()))
	}, `document.querySelector("#head").innerText.includes("Paused")`)
	s.await("what was open", `document.querySelector("#remove").open && document.activeElement.id === "act-remove"`)
	s.quiet()
}

// TestBetween: a webhook that comes when the page is drawn and does not listen yet is shown too.
func TestBetween(t *testing.T) {
	s := newScreen(t, newFake(t))
	s.first = func() {
		s.app.send204(webhook(t, "evt_1", notice(connID, 1, "erasure.completed"), testSecret, time.Now()))
	}
	s.do("opening", chromedp.Navigate(s.url+"/connections/"+connID))
	s.await("what came between", `document.querySelector("#webhooks").innerText.includes("erasure.completed")`)
	s.quiet()
}

// until delivers something again and again until an expression is true in the page.
func (s *screen) until(deliver func(n int), expression string) {
	s.t.Helper()
	for n := range 40 {
		deliver(n)
		ctx, cancel := context.WithTimeout(s.ctx, 500*time.Millisecond)
		_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression))
		cancel()
		if err == nil {
			return
		}
	}
	text, _ := chromedp.Run(s.ctx, chromedp.Evaluate[string](`document.body.innerText`))
	s.t.Fatalf("the page did not change:\n%s", text)
}

// TestMore: the next page of transactions comes below the first.
func TestMore(t *testing.T) {
	f := rich(t)
	path := "GET /v1/connections/" + connID + "/portfolio/transactions"
	f.on(path, 200, recordsJSON("complete", "tx2", transactionJSON("First", "")))
	f.on(path+"?cursor=tx2&limit=50", 200, recordsJSON("complete", "tx3", transactionJSON("Second", "")))
	f.on(path+"?cursor=tx3&limit=50", 200, recordsJSON("complete", "", transactionJSON("Third", "")))
	s := newScreen(t, f)
	s.do("opening", chromedp.Navigate(s.url+"/connections/"+connID+"/transactions"), chromedp.Click(chromedp.CSS("#more-link")))
	s.await("the second page", `document.querySelectorAll("#moves > tbody").length === 2 && document.querySelector("#more-link").ariaBusy === "false"`)
	s.do("more", chromedp.Click(chromedp.CSS("#more-link")))
	s.await("the last page", `document.querySelectorAll("#moves > tbody").length === 3 && !document.querySelector("#more-link")`)
	s.await("all three, in order", `/First[^]*Second[^]*Third/.test(document.querySelector("#moves").innerText)`)
	s.quiet()
}
