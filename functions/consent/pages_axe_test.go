package consent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"sluis.internal/shared/domain"
)

// axeCore is the accessibility engine as npm has it, pinned by test/axe/package-lock.json.
func axeCore(t *testing.T) string {
	t.Helper()
	beside := filepath.Join("..", "..", "test", "axe")
	dir := beside
	if _, err := os.Stat(filepath.Join(beside, "node_modules")); err != nil {
		dir = t.TempDir()
		for _, name := range []string{"package.json", "package-lock.json"} {
			raw, err := os.ReadFile(filepath.Join(beside, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			if os.Getenv("SLUIS_FULL") != "" {
				t.Fatalf("npm ci: %v\n%s", err, out)
			}
			t.Skipf("axe-core cannot be had: %v", err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// play puts a scene on the stage: a home of its own, whose visit every request of the browser is of.
func (th *theatre) play(sc scene) (path string) {
	h, cookie := pageHome(th.t), ""
	path = sc.path
	if sc.set != nil {
		var other string
		if cookie, other = sc.set(h); other != "" {
			path = other
		}
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	th.home, th.cookie = h, cookie
	th.standIns()
	return path
}

// paint chooses light or dark.
func (th *theatre) paint(scheme string) {
	th.do("painting", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
		return err
	}))
}

// overflowing finds what is wider than the page, or than its own box.
const overflowing = `document.documentElement.scrollWidth > 360 ? "the page is " + document.documentElement.scrollWidth + " px wide"
	: [...document.querySelectorAll("main *, footer *")].filter((e) => e.checkVisibility() && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1
		&& getComputedStyle(e).overflowX === "visible").map((e) => e.outerHTML.slice(0, 120)).join("\n")`

const violations = `(async () => {
	if (!globalThis.axe) { (0, eval)(%s); }
	const found = await axe.run(document, { resultTypes: ["violations"] });
	return found.violations.map((v) => v.id + ": " + v.nodes.map((n) => n.html.slice(0, 160)).slice(0, 4).join(" | ")).join("\n");
})()`

// hold holds the present page to axe and to a phone of 360 px, in light and dark.
func (th *theatre) hold(name, axe string) {
	th.t.Helper()
	ask := func(expression string) string {
		said, err := chromedp.Run(th.ctx, chromedp.Evaluate[string](expression, func(p *runtime.EvaluateParams) {
			yes := true
			p.AwaitPromise = &yes
		}))
		if err != nil {
			th.t.Errorf("%s: %v", name, err)
		}
		return said
	}
	schemes := []string{"light"} // colours are the same in every language
	if strings.HasSuffix(name, " de") {
		schemes = []string{"dark", "light"}
	}
	for _, scheme := range schemes {
		th.paint(scheme)
		if said := ask(axe); said != "" {
			th.t.Errorf("%s, %s: %s", name, scheme, said)
		}
		if folder := os.Getenv("SLUIS_SHOTS"); folder != "" && (strings.HasSuffix(name, " de") || scheme == "light" && strings.HasSuffix(name, " en")) {
			picture, err := chromedp.Run(th.ctx, chromedp.FullScreenshot(100))
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, strings.ReplaceAll(name, " ", "-")+"-"+scheme+".png"), picture, 0o600)
			}
			if err != nil {
				th.t.Error(err)
			}
		}
	}
	if said := ask(overflowing); said != "" {
		th.t.Errorf("%s does not fit: %s", name, said)
	}
}

// TestPagesForEverybody holds every page in every language to axe-core with no violation, in light and dark, on a phone
// of 360 px without anything too wide.
func TestPagesForEverybody(t *testing.T) {
	th := newTheatre(t)
	source, err := json.Marshal(axeCore(t))
	if err != nil {
		t.Fatal(err)
	}
	axe := fmt.Sprintf(violations, source)
	th.do("arranging", chromedp.EmulateViewport(360, 740), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, cdppage.SetBypassCSP, cdppage.SetBypassCSPParams{Enabled: true}) // for axe itself
		return err
	}))
	th.paint("light")
	for _, sc := range scenes() {
		if sc.name == "sca" {
			continue
		}
		path := th.play(sc)
		th.Company, th.Practice = beacon, sc.name != "home"
		for _, lang := range domain.Languages {
			th.goTo(inLanguage(path, lang))
			th.do("unfolding", chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach((d) => { d.open = true })`))
			th.hold(sc.name+" "+lang, axe)
		}
	}
	th.play(scene{set: at0(domain.ConnectionBusy, "", domain.CredentialTrying)})
	for _, s := range th.confirmations() {
		th.set(s.state)
		for _, lang := range domain.Languages {
			th.goTo(inLanguage("/sca", lang))
			th.until(s.name, s.shown)
			th.hold("sca "+s.name+" "+lang, axe)
		}
	}
}

func inLanguage(path, lang string) string {
	if strings.Contains(path, "?") {
		return path + "&lang=" + lang
	}
	return path + "?lang=" + lang
}

// confirmation is one of the states that the page of the bank's question has.
type confirmation struct {
	name  string
	state map[string]any
	shown string // true once the page shows it
}

func (th *theatre) confirmations() []confirmation {
	running := func(more map[string]any) map[string]any {
		s := map[string]any{"id": "ses_1", "state": "running", "records": 0}
		for k, v := range more {
			s[k] = v
		}
		return map[string]any{"page": "wait", "connection_state": "connecting", "session": s}
	}
	const code, waiting = `!document.querySelector("#code").hidden`, `!document.querySelector("#wait").hidden`
	return []confirmation{
		{"connecting", running(nil), waiting},
		{"reading", running(map[string]any{"records": 1234, "cleared": true}), waiting + ` && document.querySelector("#records").textContent !== ""`},
		{"choice", th.challenge("", "", "method_selection", nil), `document.querySelectorAll("#methods button").length === 3`},
		{"message", th.challenge("code", "M_TAN", "challenge_issued", map[string]any{"destination": "+49-170-12XXXX", "digits": 6, "text": "TAN for login"}), code},
		{"picture", th.challenge("code", "P_TAN", "challenge_issued", map[string]any{"image_url": "/challenge/chal_1/image?v=1"}),
			code + ` && document.querySelector("#code-image").complete`},
		{"wrong", th.challenge("code", "M_TAN", "rejected", map[string]any{"digits": 6, "tries_left": 1}), code + ` && document.querySelector("#status").textContent !== ""`},
		{"too late", th.challenge("code", "M_TAN", "expired", map[string]any{"digits": 6}), code + ` && document.querySelector("#status").textContent !== "" && document.querySelector("#clock").textContent === ""`},
		{"app", th.challenge("decoupled", "P_TAN_PUSH", "awaiting_user", nil), `!document.querySelector("#decoupled").hidden`},
	}
}
