// Package browser walks the whole journey in Chromium, as a person does: from the sample client's page through consent,
// credentials and SCA to the charts, on a desktop and on a phone. It watches what a person cannot see: the console, the
// content policy, and every byte that leaves the pages.
//
// With SLUIS_SHOTS=DIR it keeps a screenshot of every page there.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const (
	pin     = "123456" // of every login of the sandbox bank
	patient = time.Minute
)

// chromium finds the browser; without one the test is skipped, or fails where everything must be there.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("SLUIS_FULL") == "1" {
		t.Fatal("no chromium here, and SLUIS_FULL=1")
	}
	t.Skip("no chromium here")
	return ""
}

// sluis starts the program as a user does, and returns the sample client's address.
func sluis(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "sluis")
	if out, err := exec.Command("go", "build", "-o", binary, "sluis.internal/functions/sluis").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	free := "127.0.0.1:0"
	data := filepath.Join(dir, "data")
	cmd := exec.Command(binary, "--data", data, "serve", "--api", free, "--pages", free, "--bank", free, "--sample", free)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("sluis ended with %v", err)
		}
		founded := "sluis: there was no installation in " + data + "; a new one is founded there.\n"
		if said := complaints.String(); said != founded {
			t.Errorf("sluis logged:\n%s\nwant this alone:\n%s", said, founded)
		}
	})
	lines := bufio.NewScanner(out)
	address := regexp.MustCompile(`Sample client\s+(http://\S+)`)
	sample := ""
	for lines.Scan() {
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			sample = m[1]
		}
		if strings.HasPrefix(lines.Text(), "Ready") {
			return sample
		}
	}
	t.Fatalf("sluis did not start: %s", complaints.String())
	return ""
}

// screen is a size of window.
type screen struct {
	name          string
	width, height int64
	mobile        bool
}

var screens = []screen{{"desktop", 1280, 900, false}, {"phone", 375, 812, true}}

// browser starts a Chromium of its own.
func browser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.Flag("no-sandbox", true),
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

// watcher notes what the pages of one journey say and send.
type watcher struct {
	mu         sync.Mutex
	complaints []string
	sent       []string // method, address and body of every request
}

// watch attaches the watcher to a tab: to its console, where breaches of the content policy show too, and to every
// request with its body.
func (w *watcher) watch(ctx context.Context) error {
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			w.mu.Lock()
			w.complaints = append(w.complaints, fmt.Sprintf("%v %s", m.Type, m.Text))
			w.mu.Unlock()
		}
	}()
	return chromedp.Do(ctx, chromedp.Func(func(_ context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{}); err != nil {
			return err
		}
		requests := cdp.Events(ctx, t, network.RequestWillBeSent)
		go func() {
			for e, err := range requests {
				if err != nil {
					return
				}
				line := e.Request.Method + " " + e.Request.URL
				for _, part := range e.Request.PostDataEntries {
					line += " " + string(part.Bytes)
				}
				w.mu.Lock()
				w.sent = append(w.sent, line)
				w.mu.Unlock()
			}
		}()
		return nil
	}))
}

// check fails the test for complaints of the browser, and for secrets that left a page unsealed.
func (w *watcher) check(t *testing.T, secrets ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.complaints {
		t.Errorf("the browser complains: %s", c)
	}
	sealed := 0
	for _, line := range w.sent {
		for _, s := range secrets {
			if s != "" && strings.Contains(line, s) {
				t.Errorf("a secret left the page unsealed: %.80s", line)
			}
		}
		if strings.HasSuffix(strings.Fields(line)[1], "/seal") && strings.Contains(line, `{"jwe":"eyJ`) {
			sealed++
		}
	}
	if sealed != 1 {
		t.Errorf("%d sealed credentials were seen on their way, want 1: the watcher sees too little", sealed)
	}
}

// person walks through one journey in a tab, and takes pictures.
type person struct {
	t      *testing.T
	ctx    context.Context
	shots  string
	prefix string
	n      int
	w      *watcher
}

// newPerson opens a tab of one size.
func newPerson(t *testing.T, parent context.Context, s screen, name string) *person {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	p := &person{t: t, ctx: ctx, shots: os.Getenv("SLUIS_SHOTS"), prefix: s.name + "-" + name, w: &watcher{}}
	size := chromedp.EmulateViewport(s.width, s.height)
	if s.mobile {
		size = chromedp.EmulateViewport(s.width, s.height, chromedp.EmulateMobile)
	}
	if err := chromedp.Do(ctx, size); err != nil {
		t.Fatal(err)
	}
	if err := p.w.watch(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// act runs an action and gives its value, or fails the test with what the person was doing and what the page says.
func act[T any](p *person, what string, a chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patient)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		page, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		p.t.Fatalf("%s: %v\n%s\n%v", what, err, page, p.w.complaints)
	}
	return v
}

func (p *person) goTo(address string) {
	p.t.Helper()
	act(p, "opening "+address, chromedp.Navigate(address))
}

func (p *person) await(what, selector string) {
	p.t.Helper()
	act(p, "waiting for "+what, chromedp.WaitVisible(chromedp.CSS(selector)))
}

// see waits for an element, and takes a picture once it is there.
func (p *person) see(what, selector string) {
	p.t.Helper()
	p.await(what, selector)
	p.n++
	if p.shots == "" {
		return
	}
	picture := act(p, "taking a picture", chromedp.FullScreenshot(100))
	name := filepath.Join(p.shots, fmt.Sprintf("%s-%02d-%s.png", p.prefix, p.n, what))
	if err := os.WriteFile(name, picture, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) click(selector string) {
	p.t.Helper()
	p.await(selector, selector)
	act(p, "waiting until "+selector+" can be pressed", chromedp.Poll[bool](fmt.Sprintf("document.querySelector(%q)?.disabled !== true", selector)))
	act(p, "clicking "+selector, chromedp.Click(chromedp.CSS(selector)))
}

func (p *person) write(selector, text string) {
	p.t.Helper()
	p.await(selector, selector)
	act(p, "writing into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (p *person) value(selector string) string {
	p.t.Helper()
	return act(p, "reading "+selector, chromedp.Value(chromedp.CSS(selector)))
}

// awaitText waits until an element contains a text, over whatever pages come and go meanwhile.
func (p *person) awaitText(selector, text string) {
	p.t.Helper()
	act(p, "waiting for "+text, chromedp.Poll[bool](fmt.Sprintf("document.querySelector(%q)?.textContent.includes(%q)", selector, text)))
}

// method is how a login of the sandbox bank passes SCA.
type method struct {
	name, login, stage, code string
}

var methods = []method{
	{"phototan", "20000001", "#code-image", "222222"},
	{"sms", "20000002", "#code-destination", "111111"},
	{"push", "20000003", "#decoupled", ""},
}

// TestJourney goes from the sample client to the charts, by each TAN method, on each screen.
func TestJourney(t *testing.T) {
	parent := browser(t)
	sample := sluis(t)
	for _, s := range screens {
		for _, m := range methods {
			t.Run(s.name+"/"+m.name, func(t *testing.T) {
				p := newPerson(t, parent, s, m.name)
				connection := p.invite(sample, s.name+"-"+m.name)
				p.consent()
				p.login(m)
				p.sca(m)
				p.see("done", ".acts.wide")
				p.charts(connection)
				p.w.check(t, pin, m.code)
			})
		}
	}
}

// invite asks for a consent at the sample client and follows the link. It returns the connection's page.
func (p *person) invite(sample, reference string) string {
	p.t.Helper()
	p.goTo(sample)
	p.see("sample-home", "#new-h")
	p.write("#ref", reference)
	p.click("form[action='/consents'] button[type=submit]")
	p.see("sample-invited", "#open-link")
	at := act(p, "reading the address", chromedp.Location())
	p.goTo(p.value("#link"))
	return at
}

// consent reads what is asked and allows it.
func (p *person) consent() {
	p.t.Helper()
	p.see("link", "main form button")
	p.click("main form button")
	p.see("consent", "input[name=custodian]")
	p.click("input[name=custodian][value=sandbox-comdirect]")
	p.click(".equal button:not([formaction])")
}

func (p *person) login(m method) {
	p.t.Helper()
	p.see("connect", "#login")
	p.write("[data-field=username]", m.login)
	p.write("[data-field=password]", pin)
	p.click("#submit")
}

func (p *person) sca(m method) {
	p.t.Helper()
	p.see("sca", m.stage)
	if m.code == "" {
		return
	}
	p.write("#tan", m.code)
	p.click("#confirm")
}

// charts goes back to the sample client and looks at what came.
func (p *person) charts(connection string) {
	p.t.Helper()
	p.goTo(connection)
	p.see("sample-connection", "#products a.button")
	for _, notice := range []string{"consent.granted", "connection.active", "portfolio.updated"} {
		p.awaitText("#webhooks", notice)
	}
	p.click("#products a.button")
	p.see("sample-portfolio", "svg")
}

// TestWithdraw follows the investor's own link, looks at what they allowed, and withdraws it.
func TestWithdraw(t *testing.T) {
	parent := browser(t)
	sample := sluis(t)
	for _, s := range screens {
		t.Run(s.name, func(t *testing.T) {
			p := newPerson(t, parent, s, "withdraw")
			connection := p.invite(sample, s.name+"-withdraw")
			p.consent()
			p.login(method{login: "20000005"})
			p.await("the end", ".acts.wide")
			p.goTo(connection)
			p.click("#act-manage")
			p.see("sample-manage", "#open-link")
			p.goTo(p.value("#link"))
			p.click("main form button")
			p.see("me", "article[data-consent]")
			p.click("article[data-consent] a[href^='/me?withdraw=']")
			p.see("me-withdraw", "main form button.grim")
			p.click("main form button.grim")
			p.see("me-withdrawn", "article .mark.revoked_by_investor, article .mark.revoked")
			p.goTo(connection)
			p.see("sample-erased", "#certificates .certificate .badge.good")
			p.w.check(t, pin)
		})
	}
}
