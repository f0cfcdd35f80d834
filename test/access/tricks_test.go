package access

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/domain"
)

// bend makes other spellings of a path, with which routers and what stands before them have disagreed elsewhere.
func bend(path string) []string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	slash := strings.LastIndex(path, "/")
	return []string{
		"/" + path, "//evil.example" + path, "/." + path, "/x/.." + path, "/%2e" + path, "/x/%2e%2e" + path, "/x%2f.." + path,
		path + "/", path + "//", path + "/.", path + "/..", path + "%2f", path + "%00", path + "%20", path + ";x=y", path + "?", path + "%3f",
		"/" + first + "//" + rest, "/" + first + "/./" + rest, "/" + first + "%2F" + rest, "/" + first + `\` + rest, "/" + first + "%5c" + rest,
		path[:slash] + "/%2e%2e/" + path[slash+1:], path[:slash] + "/..;/" + path[slash+1:],
		strings.ToUpper(path), "/" + strings.ToUpper(first) + "/" + rest, strings.ReplaceAll(path, "e", "%65"), strings.ReplaceAll(path, "/", "%2f"),
		path + "#x", path + ".json", path + "%0d%0aX-Injected:%20yes",
	}
}

// same says whether two spellings are one address: letters may be written in per cent, and a query may be empty. RFC 3986,
// section 6.2.2.2.
func same(bent, path string) bool {
	return strings.TrimSuffix(strings.ReplaceAll(bent, "%65", "e"), "?") == path
}

// overrides are headers by which some frameworks take another method or path than the request line has.
var overrides = map[string]string{"X-HTTP-Method-Override": "", "X-HTTP-Method": "", "X-Method-Override": "", "X-Original-URL": "path",
	"X-Rewrite-URL": "path", "X-Forwarded-Prefix": "path", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}

// raw sends a request line as it is, which Go's own client would clean up first.
func (w *world) raw(r request) *http.Response {
	w.Helper()
	base := map[string]string{"api": w.API, "pages": w.Pages}[r.host]
	at, err := url.Parse(base)
	must(w, err)
	c, err := net.Dial("tcp", at.Host)
	must(w, err)
	defer c.Close()
	r.header.Set("Host", at.Host)
	r.header.Set("Connection", "close")
	if r.body != "" {
		r.header.Set("Content-Type", "application/json")
		r.header.Set("Content-Length", fmt.Sprint(len(r.body)))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\n", r.method, r.path)
	must(w, r.header.Write(&text))
	_, err = io.WriteString(c, text.String()+"\r\n"+r.body)
	must(w, err)
	a, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: r.method})
	if err != nil {
		w.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	return a
}

// TestPathTricks sends every route in other spellings and with other methods. Without a key none may be answered but
// what everybody may see; with one, nothing may be done; no redirect may lead away.
func TestPathTricks(t *testing.T) {
	m := newMatrix(t)
	before := m.quiet(m.a, m.b)
	from, known := m.Home.Env.Now(), len(m.entries(m.Home.Env.Now()))
	for _, r := range m.routes() {
		for _, path := range bend(r.path) {
			bent := r
			bent.path = path
			m.trick(bent)
			if r.method == "GET" || r.host == "internal" || same(path, r.path) {
				continue // what somebody with the key may do is no trick, and what is internal has no key
			}
			withKey := bent
			withKey.header = m.known(r)
			m.look(withKey, m.raw(withKey))
		}
		for _, method := range []string{"HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "POST", "GET", "CONNECT", "PROPFIND", "get", "POST "} {
			other := r
			other.method = method
			m.trick(other)
		}
		m.overridden(r)
	}
	if changed := changes(before, m.quiet(m.a, m.b)); len(changed) > 0 {
		t.Errorf("tricks changed something:\n%s", strings.Join(changed, "\n"))
	}
	for _, e := range m.entries(from)[known:] {
		if e.Data.Outcome == "allowed" && !m.reads(e) {
			t.Errorf("a trick was an act: %s %s", e.Type, e.Subject)
		}
	}
}

// reads says whether an entry is that somebody who may read has read: the client by its key, or the investor.
func (m *matrix) reads(e domain.Entry) bool {
	key, _, _ := domain.SplitAPIKey(m.a.keys["client"])
	may := e.Data.Actor.Key == key || e.Data.Actor.Kind == domain.ActorInvestor
	return may && e.ClientID == m.a.client && slices.ContainsFunc([]string{".read", ".listed", ".looked"}, func(s string) bool { return strings.HasSuffix(e.Type, s) })
}

// routes are every route of pipeline.json, with a's identifiers.
func (m *matrix) routes() []request {
	m.Helper()
	p, err := home.ReadPipeline()
	must(m, err)
	names := []string{"{$}", "", "{file}", "page.css", "{token}", strings.Repeat("A", 43), "{product}", "positions"}
	for param, kind := range map[string]string{"consent": "con", "connection": "conn", "advisor": "adv", "key": "key", "endpoint": "ep", "delivery": "dlv", "challenge": "chal"} {
		names = append(names, "{"+param+"}", m.a.ids[kind])
	}
	var all []request
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			path := strings.NewReplacer(names...).Replace(r.Path)
			if strings.Contains(path, "{") {
				m.Errorf("%s has a parameter that the test does not know", r.Path)
			}
			all = append(all, request{r.Host, r.Method, path, "", http.Header{}})
		}
	}
	return all
}

// known are the headers of somebody who may: the client's key, or the investor's cookie.
func (m *matrix) known(r request) http.Header {
	if r.host == "api" {
		return api(m.a.keys["client"], "", "", "").header
	}
	return page(m.a.visits["own"], "", "", "").header
}

// free are the pages that answer everybody.
func free(r request) bool {
	return r.host == "pages" && (r.path == "/" || strings.HasPrefix(r.path, "/static/") || strings.HasPrefix(r.path, "/i/") || r.path == "/leave")
}

// trick sends a bent request at every host without a key or visit.
func (m *matrix) trick(r request) {
	m.Helper()
	for _, host := range []string{"api", "pages"} {
		bent := r
		bent.host, bent.header = host, http.Header{}
		a := m.raw(bent)
		m.look(bent, a)
		if a.StatusCode/100 == 2 && !harmless(bent) {
			m.Errorf("%s %s at %s without a key: %d", r.method, r.path, host, a.StatusCode)
		}
		if host != r.host && a.StatusCode/100 == 2 && !harmless(bent) {
			m.Errorf("%s %s is served at %s, too", r.method, r.path, host)
		}
	}
}

// harmless says whether a bent request is just another way to a page that everybody may see.
func harmless(r request) bool {
	u, err := url.ParseRequestURI(r.path)
	return err == nil && r.host == "pages" && (r.method == "GET" || r.method == "HEAD") && free(request{host: "pages", path: "/" + strings.TrimLeft(u.Path, "/")})
}

// look checks what holds of every answer: no failure of ours, and no redirect but to a path of our own.
func (m *matrix) look(r request, a *http.Response) {
	m.Helper()
	if a.StatusCode >= 500 && a.StatusCode != http.StatusNotImplemented {
		m.Errorf("%s %s: %d", r.method, r.path, a.StatusCode)
	}
	if a.Header.Get("X-Injected") != "" {
		m.Errorf("%s %s: a header was injected", r.method, r.path)
	}
	to := a.Header.Get("Location")
	if to == "" {
		return
	}
	if u, err := url.Parse(to); err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
		m.Errorf("%s %s leads to %s", r.method, r.path, to)
	}
}

// overridden sends harmless methods with headers that ask for others, by somebody who may.
func (m *matrix) overridden(r request) {
	m.Helper()
	for name, value := range overrides {
		switch value {
		case "":
			value = r.method
		case "path":
			value = r.path
		}
		harmless := request{r.host, "GET", "/v1/client", "", m.known(r)}
		if r.host == "pages" {
			harmless.path = "/"
		}
		if slices.Contains([]string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"}, name) {
			harmless.path = r.path + "?_method=" + r.method
		}
		if r.host == "internal" {
			continue
		}
		harmless.header.Set(name, value)
		a := m.raw(harmless)
		m.look(harmless, a)
		if r.method != "GET" && strings.Contains(harmless.path, "_method") && a.StatusCode/100 == 2 && !m.readable(r) {
			m.Errorf("%s: %s was obeyed: %d", harmless.path, name, a.StatusCode)
		}
	}
}

// readable says whether the route's path can be read with GET, too.
func (m *matrix) readable(r request) bool {
	return slices.ContainsFunc(m.routes(), func(o request) bool { return o.method == "GET" && o.path == r.path && o.host == r.host })
}

// referrers says who may learn where the visitor was: of a page only our own pages, so that browsers say truly where its
// forms come from; of everything else of the pages' host nobody, or they alone.
func referrers(a *http.Response) []string {
	if a.StatusCode/100 != 3 && strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
		return []string{"same-origin"}
	}
	return []string{"same-origin", "no-referrer"}
}

// TestHeaders: every answer forbids to be framed, guessed at, kept, and read by other sites; every page says besides who
// may learn where the visitor was.
func TestHeaders(t *testing.T) {
	m := newMatrix(t)
	want := map[string]string{"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		"Cross-Origin-Resource-Policy": "same-origin"}
	pages := map[string]string{"X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin"}
	check := func(r request) {
		t.Helper()
		a := m.raw(r)
		if got := a.Header.Get("Referrer-Policy"); r.host == "pages" && !slices.Contains(referrers(a), got) {
			t.Errorf("%s %s %d: Referrer-Policy is %q, want one of %q", r.method, r.path, a.StatusCode, got, referrers(a))
		}
		for name, value := range want {
			static := name == "Cache-Control" && strings.HasPrefix(r.path, "/static/page.css")
			if got := strings.Join(a.Header.Values(name), ", "); !strings.Contains(got, value) && !static {
				t.Errorf("%s %s %d: %s is %q, want %q", r.method, r.path, a.StatusCode, name, got, value)
			}
		}
		for name, value := range pages {
			if got := a.Header.Get(name); r.host == "pages" && got != value {
				t.Errorf("%s %s %d: %s is %q, want %q", r.method, r.path, a.StatusCode, name, got, value)
			}
		}
		for _, name := range []string{"Server", "X-Powered-By", "Access-Control-Allow-Origin"} {
			if got := a.Header.Get(name); got != "" {
				t.Errorf("%s %s: %s is %q", r.method, r.path, name, got)
			}
		}
		if policy := a.Header.Get("Content-Security-Policy"); strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
			t.Errorf("%s %s: the policy is %q", r.method, r.path, policy)
		}
	}
	for _, r := range m.routes() {
		if r.host == "internal" || strings.HasSuffix(r.path, "/events") {
			continue
		}
		for _, method := range []string{r.method, "HEAD", "OPTIONS", "PUT"} {
			for _, header := range []http.Header{{}, m.known(r)} {
				if method != "HEAD" && method != "GET" && len(header) > 0 && method == r.method {
					continue // it would be done
				}
				for _, path := range []string{r.path, "/" + r.path, r.path + "/", "/x/.." + r.path, r.path + "x"} {
					check(request{r.host, method, path, "", header.Clone()})
				}
			}
		}
	}
}
