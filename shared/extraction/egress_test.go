package extraction

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluis.internal/shared/domain"
)

const canary = "s3cr3t-canary"

var testBank = domain.Custodian{ID: "testbank", Endpoints: map[string]string{
	"api": "https://api.bank.example/base", "odd": "https://api.bank.example:8443", "plain": "http://plain.bank.example"}}

var testRequests = []Request{
	{Method: "POST", Endpoint: "api", Path: "/oauth/token", Phase: PhaseLogin},
	{Method: "PATCH", Endpoint: "api", Path: "/sessions/{id}", Phase: PhaseLogin},
	{Method: "GET", Endpoint: "api", Path: "/sessions", Phase: PhaseLogin},
	{Method: "GET", Endpoint: "api", Path: "/accounts", Phase: PhaseRead},
	{Method: "GET", Endpoint: "api", Path: "/accounts/{id}/transactions", Phase: PhaseRead},
	{Method: "GET", Endpoint: "odd", Path: "/positions", Phase: PhaseRead},
	{Method: "POST", Endpoint: "api", Path: "/orders", Phase: PhaseRead}, // a declaration that must never count
	{Method: "DELETE", Endpoint: "api", Path: "/oauth/revoke", Phase: PhaseEnd},
}

// wire is a network that answers everything and counts what reached it.
type wire struct {
	mu      sync.Mutex
	reached []string
	body    func() io.ReadCloser
	length  int64
	status  int
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = append(w.reached, req.Method+" "+req.URL.String())
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req, ContentLength: w.length}
	if w.status != 0 {
		resp.StatusCode = w.status
	}
	if w.body != nil {
		resp.Body = w.body()
	}
	return resp, nil
}

type refusals struct{ seen []string }

func (r *refusals) note(_ context.Context, method, host, path string) {
	r.seen = append(r.seen, method+" "+host+" "+path)
}

func request(t *testing.T, method, address, body string) *http.Request {
	t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, b)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestGatePassesWhatIsDeclared(t *testing.T) {
	for _, c := range []struct {
		name, method, address, body string
		phase                       Phase
	}{
		{"login", "POST", "https://api.bank.example/base/oauth/token", "a=b", PhaseLogin},
		{"login patch", "PATCH", "https://api.bank.example/base/sessions/4711-aB_~.x", "{}", PhaseLogin},
		{"login get", "GET", "https://api.bank.example/base/sessions", "", PhaseLogin},
		{"empty method is GET", "", "https://api.bank.example/base/accounts", "", PhaseRead},
		{"written port", "GET", "https://api.bank.example:443/base/accounts", "", PhaseRead},
		{"other port", "GET", "https://api.bank.example:8443/positions", "", PhaseRead},
		{"query", "GET", "https://api.bank.example/base/accounts/A1/transactions?paging-first=500&x=%C3%A4", "", PhaseRead},
		{"revoke", "DELETE", "https://api.bank.example/base/oauth/revoke", "", PhaseEnd},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, r := &wire{}, &refusals{}
			g := Guard(testBank, testRequests, w, r.note)
			g.SetPhase(c.phase)
			req := request(t, c.method, c.address, c.body)
			req.Method = c.method
			resp, err := NewClient(g).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if len(w.reached) != 1 || len(r.seen) != 0 {
				t.Errorf("reached %v, refused %v; want one passing request", w.reached, r.seen)
			}
		})
	}
}

const accounts = "https://api.bank.example/base/accounts"

// trick is a request that must not pass in its phase.
type trick struct {
	name  string
	phase Phase
	make  func(*testing.T) *http.Request
}

func get(address string) func(*testing.T) *http.Request { return with("GET", address, "") }

func with(method, address, body string) func(*testing.T) *http.Request {
	return func(t *testing.T) *http.Request { return request(t, method, address, body) }
}

func header(key, value string) func(*testing.T) *http.Request {
	return bent(func(r *http.Request) { r.Header[key] = []string{value} })
}

func bent(bend func(*http.Request)) func(*testing.T) *http.Request {
	return func(t *testing.T) *http.Request {
		req := request(t, "GET", accounts, "")
		bend(req)
		return req
	}
}

// methodTricks write, or leave the declared hosts.
var methodTricks = []trick{
	{"POST while reading", PhaseRead, with("POST", accounts, "x")},
	{"POST that is declared for reading", PhaseRead, with("POST", "https://api.bank.example/base/orders", "x")},
	{"POST that is declared for login, while reading", PhaseRead, with("POST", "https://api.bank.example/base/oauth/token", "x")},
	{"PUT while reading", PhaseRead, with("PUT", accounts, "x")},
	{"PATCH while reading", PhaseRead, with("PATCH", "https://api.bank.example/base/sessions/1", "x")},
	{"DELETE while reading", PhaseRead, with("DELETE", accounts, "")},
	{"revoke while reading", PhaseRead, with("DELETE", "https://api.bank.example/base/oauth/revoke", "")},
	{"HEAD while reading", PhaseRead, with("HEAD", accounts, "")},
	{"OPTIONS while reading", PhaseRead, with("OPTIONS", accounts, "")},
	{"TRACE while reading", PhaseRead, with("TRACE", accounts, "")},
	{"CONNECT while reading", PhaseRead, with("CONNECT", accounts, "")},
	{"lower-case get", PhaseRead, with("get", accounts, "")},
	{"lower-case post", PhaseRead, with("post", accounts, "x")},
	{"method with a space", PhaseRead, bent(func(r *http.Request) { r.Method = "GET /x" })},
	{"GET with a body", PhaseRead, with("GET", accounts, "x")},
	{"reading during login", PhaseLogin, get(accounts)},
	{"logging in at the end", PhaseEnd, with("POST", "https://api.bank.example/base/oauth/token", "x")},
	{"revoking during login", PhaseLogin, with("DELETE", "https://api.bank.example/base/oauth/revoke", "")},
	{"plain http", PhaseRead, get("http://api.bank.example/base/accounts")},
	{"upper-case scheme", PhaseRead, bent(func(r *http.Request) { r.URL.Scheme = "HTTPS" })},
	{"other host", PhaseRead, get("https://evil.example/base/accounts")},
	{"host as suffix", PhaseRead, get("https://api.bank.example.evil.example/base/accounts")},
	{"trailing dot", PhaseRead, get("https://api.bank.example./base/accounts")},
	{"upper-case host", PhaseRead, get("https://API.bank.example/base/accounts")},
	{"other port", PhaseRead, get("https://api.bank.example:444/base/accounts")},
	{"port of another endpoint", PhaseRead, get("https://api.bank.example:8443/base/accounts")},
	{"user information", PhaseRead, get("https://u:p@api.bank.example/base/accounts")},
	{"host in user information", PhaseRead, get("https://api.bank.example@evil.example/base/accounts")},
	{"fragment", PhaseRead, get(accounts + "#x")},
	{"opaque", PhaseRead, bent(func(r *http.Request) { r.URL.Opaque = "//evil.example/orders" })},
	{"Host overridden", PhaseRead, bent(func(r *http.Request) { r.Host = "evil.example" })},
}

// pathTricks leave the declared paths, or hide another request in one that looks declared.
var pathTricks = []trick{
	{"undeclared path", PhaseRead, get("https://api.bank.example/base/orders")},
	{"base path left out", PhaseRead, get("https://api.bank.example/accounts")},
	{"longer path", PhaseRead, get(accounts + "/A1/transactions/cancel")},
	{"shorter path", PhaseRead, get(accounts + "/A1")},
	{"trailing slash", PhaseRead, get(accounts + "/")},
	{"empty segment", PhaseRead, get("https://api.bank.example/base//accounts")},
	{"empty id", PhaseRead, get(accounts + "//transactions")},
	{"dot segment", PhaseRead, get("https://api.bank.example/base/./accounts")},
	{"dot-dot segment", PhaseRead, get("https://api.bank.example/base/x/../accounts")},
	{"dot-dot as id", PhaseRead, get(accounts + "/../transactions")},
	{"encoded slash in id", PhaseRead, get(accounts + "/A1%2Forders/transactions")},
	{"encoded dots", PhaseRead, get(accounts + "/%2e%2e/transactions")},
	{"encoded letter", PhaseRead, get("https://api.bank.example/base/%61ccounts")},
	{"backslash in id", PhaseRead, get(accounts + `/A1\orders/transactions`)},
	{"matrix parameter", PhaseRead, get(accounts + "/A1;x=1/transactions")},
	{"space in id", PhaseRead, get(accounts + "/A%201/transactions")},
	{"newline in id", PhaseRead, get(accounts + "/A%0A1/transactions")},
	{"non-ASCII id", PhaseRead, get(accounts + "/ä/transactions")},
	{"template name as id", PhaseRead, get(accounts + "/{id}/transactions")},
	{"upper-case path", PhaseRead, get("https://api.bank.example/base/ACCOUNTS")},
	{"raw path differs from path", PhaseRead, bent(func(r *http.Request) { r.URL.RawPath = "/base/orders" })},
	{"relative path", PhaseRead, bent(func(r *http.Request) { r.URL.Path = "base/accounts" })},
	{"no path", PhaseRead, get("https://api.bank.example")},
	{"endless path", PhaseRead, get(accounts + "/" + strings.Repeat("a", 3000) + "/transactions")},
	{"endless query", PhaseRead, get(accounts + "?x=" + strings.Repeat("a", 5000))},
	{"malformed query", PhaseRead, get(accounts + "?a=1;_method=POST")},
	{"method override in query", PhaseRead, get(accounts + "?_method=DELETE")},
	{"method override in query, encoded", PhaseRead, get(accounts + "?%5Fmethod=DELETE")},
	{"method override header name in query", PhaseRead, get(accounts + "?X-HTTP-Method-Override=PUT")},
	{"method override header", PhaseRead, header("X-HTTP-Method-Override", "POST")},
	{"method override header, canonical", PhaseRead, header("X-Http-Method-Override", "POST")},
	{"method override header, lower case", PhaseRead, header("x-http-method-override", "POST")},
	{"method override header, underscores", PhaseRead, header("X_HTTP_Method_Override", "POST")},
	{"method override header, short", PhaseRead, header("X-Method-Override", "POST")},
	{"method header", PhaseRead, header("X-HTTP-Method", "POST")},
	{"original URL header", PhaseRead, header("X-Original-URL", "/orders")},
	{"rewrite URL header", PhaseRead, header("X-Rewrite-Url", "/orders")},
	{"forwarded host", PhaseRead, header("X-Forwarded-Host", "evil.example")},
	{"forwarded", PhaseRead, header("Forwarded", "host=evil.example")},
	{"host header", PhaseRead, header("Host", "evil.example")},
	{"cookie", PhaseRead, header("Cookie", "a=b")},
	{"upgrade", PhaseRead, header("Upgrade", "websocket")},
	{"connection", PhaseRead, header("Connection", "upgrade")},
	{"chunked by header", PhaseRead, header("Transfer-Encoding", "chunked")},
	{"length by header", PhaseRead, header("Content-Length", "7")},
	{"proxy authorisation", PhaseRead, header("Proxy-Authorization", "Basic x")},
	{"line break in a header", PhaseRead, header("X-A", "b\r\nX-HTTP-Method-Override: POST")},
	{"line break in a header's name", PhaseRead, header("X-A: b\r\nX-B", "c")},
	{"pseudo-header", PhaseRead, header(":path", "/orders")},
	{"huge header", PhaseRead, header("X-A", strings.Repeat("b", maxHeaderBytes))},
	{"many headers", PhaseRead, bent(func(r *http.Request) { r.Header["X-A"] = make([]string, maxHeaderLines+1) })},
	{"line break in the query", PhaseRead, bent(func(r *http.Request) { r.URL.RawQuery = "a=b HTTP/1.1\r\nX: y" })},
	{"space in the query", PhaseRead, bent(func(r *http.Request) { r.URL.RawQuery = "a=b HTTP/1.0" })},
	{"host in brackets", PhaseRead, bent(func(r *http.Request) { r.URL.Host = "[" + r.URL.Host + "]" })},
	{"empty port", PhaseRead, bent(func(r *http.Request) { r.URL.Host += ":" })},
	{"transfer encoding", PhaseRead, bent(func(r *http.Request) { r.TransferEncoding = []string{"chunked"} })},
	{"trailer", PhaseRead, bent(func(r *http.Request) { r.Trailer = http.Header{"X": nil} })},
	{"body of unknown length", PhaseLogin, func(t *testing.T) *http.Request {
		req := request(t, "POST", "https://api.bank.example/base/oauth/token", "")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader("x")), -1
		return req
	}},
	{"body over the limit", PhaseLogin, with("POST", "https://api.bank.example/base/oauth/token", strings.Repeat("x", MaxRequestBody+1))},
}

// TestGateRefuses holds every way to write that we can think of, and every way to leave the declared addresses.
func TestGateRefuses(t *testing.T) {
	for _, c := range slices.Concat(methodTricks, pathTricks) {
		t.Run(c.name, func(t *testing.T) {
			w, r := &wire{}, &refusals{}
			g := Guard(testBank, testRequests, w, r.note)
			g.SetPhase(c.phase)
			_, err := g.RoundTrip(c.make(t))
			var f *Failure
			if !errors.As(err, &f) || f.Reason != domain.ReasonEgressRefused || f.Retry {
				t.Fatalf("error %v; want a refusal for good", err)
			}
			if len(w.reached) != 0 {
				t.Errorf("it reached the network: %v", w.reached)
			}
			if len(r.seen) != 1 {
				t.Errorf("refusals told: %v; want one", r.seen)
			}
		})
	}
}

func TestGateTellsNoSecrets(t *testing.T) {
	for _, c := range []struct{ name, method, address, want string }{
		{"declared path, wrong method", "POST", "https://api.bank.example/base/accounts/" + canary + "/transactions?q=" + canary,
			"POST api.bank.example /base/accounts/{id}/transactions"},
		{"undeclared path", "GET", "https://api.bank.example/base/" + canary + "/transactions",
			"GET api.bank.example /base/{redacted}/transactions"},
		{"undeclared host", "GET", "https://" + canary + ".evil.example/accounts", "GET undeclared /accounts"},
		{"user information", "GET", "https://u:" + canary + "@api.bank.example/base/accounts", "GET api.bank.example /base/accounts"},
		{"method", "X" + canary, "https://api.bank.example/base/accounts", "other api.bank.example /base/accounts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &refusals{}
			g := Guard(testBank, testRequests, &wire{}, r.note)
			g.SetPhase(PhaseRead)
			_, err := g.RoundTrip(request(t, c.method, c.address, canary))
			if err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("error %v; want one without the canary", err)
			}
			if len(r.seen) != 1 || r.seen[0] != c.want {
				t.Errorf("told %q; want %q", r.seen, c.want)
			}
		})
	}
}

func TestGateMovesForwardOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		ask  []Phase
		want Phase
	}{
		{"begins at login", nil, PhaseLogin},
		{"in order", []Phase{PhaseRead, PhaseEnd}, PhaseEnd},
		{"begins at the end", []Phase{PhaseEnd}, PhaseEnd},
		{"stays", []Phase{PhaseRead, PhaseRead}, PhaseRead},
		{"back to login", []Phase{PhaseRead, PhaseLogin}, ""},
		{"back to reading", []Phase{PhaseEnd, PhaseRead}, ""},
		{"shut for good", []Phase{PhaseRead, PhaseLogin, PhaseRead}, ""},
		{"unknown", []Phase{"write"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &wire{}
			g := Guard(testBank, testRequests, w, nil)
			for _, p := range c.ask {
				g.SetPhase(p)
			}
			if g.Phase() != c.want {
				t.Errorf("phase %q; want %q", g.Phase(), c.want)
			}
			if c.want != "" {
				return
			}
			for _, address := range []string{"https://api.bank.example/base/sessions", "https://api.bank.example/base/accounts"} {
				if _, err := g.RoundTrip(request(t, "GET", address, "")); err == nil {
					t.Errorf("a shut gate let GET %s pass", address)
				}
			}
		})
	}
}

// TestGateReadsOnly holds even if a writing rule came past Request.Check.
func TestGateReadsOnly(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "HEAD"} {
		w := &wire{}
		g := Guard(testBank, testRequests, w, nil)
		g.rules = append(g.rules, rule{PhaseRead, method, "api.bank.example:443", []string{"base", "orders"}, "/base/orders", ""})
		g.SetPhase(PhaseRead)
		if _, err := g.RoundTrip(request(t, method, "https://api.bank.example/base/orders", "")); err == nil || len(w.reached) > 0 {
			t.Errorf("%s passed while reading", method)
		}
	}
}

func TestRequestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		ok   bool
	}{
		{"good", Request{"GET", "api", "/a/{id}/b", PhaseRead, ""}, true},
		{"unknown endpoint", Request{"GET", "other", "/a", PhaseRead, ""}, false},
		{"endpoint without TLS", Request{"GET", "plain", "/a", PhaseRead, ""}, false},
		{"writing while reading", Request{"POST", "api", "/a", PhaseRead, ""}, false},
		{"HEAD while reading", Request{"HEAD", "api", "/a", PhaseRead, ""}, false},
		{"no phase", Request{"GET", "api", "/a", "", ""}, false},
		{"no method", Request{"", "api", "/a", PhaseRead, ""}, false},
		{"half a name", Request{"GET", "api", "/a/x{id}", PhaseRead, ""}, false},
		{"wildcard", Request{"GET", "api", "/a/*", PhaseRead, ""}, false},
		{"dots", Request{"GET", "api", "/a/../b", PhaseRead, ""}, false},
		{"query", Request{"GET", "api", "/a?b=c", PhaseRead, ""}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.r.Check(testBank); (err == nil) != c.ok {
				t.Errorf("Check: %v; want ok %v", err, c.ok)
			}
			g := Guard(testBank, []Request{c.r}, &wire{}, nil)
			if len(g.rules) > 0 != c.ok {
				t.Errorf("%d rules; want a bad declaration to match nothing", len(g.rules))
			}
		})
	}
}

func TestGateLimitsAnswers(t *testing.T) {
	body := func(n int) func() io.ReadCloser {
		return func() io.ReadCloser { return io.NopCloser(bytes.NewReader(make([]byte, n))) }
	}
	for _, c := range []struct {
		name  string
		wire  *wire
		wants int
		fails bool
	}{
		{"under", &wire{body: body(999), length: -1}, 999, false},
		{"exactly", &wire{body: body(1000), length: -1}, 1000, false},
		{"one over", &wire{body: body(1001), length: -1}, 1000, true},
		{"far over", &wire{body: body(1 << 20), length: -1}, 1000, true},
		{"stated over", &wire{body: body(0), length: 1001}, 0, true},
		{"another protocol", &wire{body: body(0), status: http.StatusSwitchingProtocols}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := Guard(testBank, testRequests, c.wire, nil)
			g.MaxResponse = 1000
			g.SetPhase(PhaseRead)
			resp, err := g.RoundTrip(request(t, "GET", "https://api.bank.example/base/accounts", ""))
			got := []byte(nil)
			if err == nil {
				got, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if (err != nil) != c.fails || len(got) != c.wants {
				t.Errorf("%d bytes and error %v; want %d, failing %v", len(got), err, c.wants, c.fails)
			}
			var f *Failure
			if c.fails && (!errors.As(err, &f) || f.Reason != domain.ReasonBankAnswer) {
				t.Errorf("error %v; want bank_answer", err)
			}
		})
	}
}

// TestClientOnTheWire speaks to a real TLS server through every layer.
func TestClientOnTheWire(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	var hits []string
	bank := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits = append(hits, r.Method+" "+r.URL.Path)
		if len(r.Cookies()) > 0 {
			t.Errorf("cookies came back: %v", r.Cookies())
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		http.Redirect(w, r, "/base/accounts/A1/transactions", http.StatusFound)
	}))
	defer bank.Close()
	roots := bank.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	at, _ := url.Parse(bank.URL)
	custodian := domain.Custodian{Endpoints: map[string]string{"api": "https://example.com/base"}}
	client := func(o TransportOptions) *http.Client {
		g := Guard(custodian, testRequests, Transport(o), nil)
		g.SetPhase(PhaseRead)
		return NewClient(g)
	}
	reach := client(TransportOptions{RootCAs: roots, DialTo: map[string]string{"example.com": at.Host}})
	for range 2 {
		resp, err := reach.Do(request(t, "GET", "https://example.com/base/accounts", ""))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusFound {
			t.Errorf("status %d; want the redirect itself", resp.StatusCode)
		}
	}
	if len(hits) != 2 || hits[1] != "GET /base/accounts" {
		t.Errorf("hits %v; want no redirect followed", hits)
	}
	if _, err := client(TransportOptions{DialTo: map[string]string{"example.com": at.Host}}).
		Do(request(t, "GET", "https://example.com/base/accounts", "")); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
	custodian.Endpoints["api"] = bank.URL + "/base"
	if _, err := client(TransportOptions{RootCAs: roots}).
		Do(request(t, "GET", bank.URL+"/base/accounts", "")); err == nil || !strings.Contains(err.Error(), "prohibited") {
		t.Errorf("dialling a loopback address: %v; want it prohibited", err)
	}
}

// Before every request the gate asks whether the work may go on at all; only what closes the session always may.
func TestNothingPassesWithoutPermission(t *testing.T) {
	stopped := errors.New("stopped")
	w, asked := &wire{}, 0
	requests := append(slices.Clone(testRequests), Request{Method: "DELETE", Endpoint: "api", Path: "/oauth/revoke", Phase: PhaseLogin})
	g := Guard(testBank, requests, w, nil)
	g.permit = func(context.Context, domain.BankCount) error { asked++; return stopped }
	for _, step := range []struct {
		phase          Phase
		method, path   string
		passes, permit bool
	}{
		{PhaseLogin, "POST", "/oauth/token", false, true},
		{PhaseLogin, "DELETE", "/oauth/revoke", true, false},
		{PhaseRead, "GET", "/accounts", false, true},
		{PhaseRead, "GET", "/undeclared", false, false},
		{PhaseEnd, "DELETE", "/oauth/revoke", true, false},
	} {
		g.SetPhase(step.phase)
		before := asked
		_, err := g.RoundTrip(request(t, step.method, "https://api.bank.example/base"+step.path, ""))
		if (err == nil) != step.passes || (asked > before) != step.permit || errors.Is(err, stopped) != step.permit {
			t.Errorf("%s %s while %s: %v, asked %v", step.method, step.path, step.phase, err, asked > before)
		}
	}
	if len(w.reached) != 2 {
		t.Errorf("%q passed", w.reached)
	}
}
