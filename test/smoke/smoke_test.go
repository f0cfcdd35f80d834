package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
)

// open opens a home, until the test ends.
func open(t *testing.T) *home.Home {
	t.Helper()
	h, err := home.Open(t.Context(), home.Settings{Data: t.TempDir(), API: "127.0.0.1:0", Pages: "127.0.0.1:0", Sweep: time.Hour, PerMinute: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	h.Begin(t.Context())
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// before puts a front before each of a home's hosts, which may change what passes.
func before(t *testing.T, h *home.Home, change func(*http.Response)) Site {
	t.Helper()
	front := func(base string) string {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = u.Host },
			ModifyResponse: func(a *http.Response) error { change(a); return nil }}
		s := httptest.NewServer(p)
		t.Cleanup(s.Close)
		return s.URL
	}
	return Site{API: front(h.APIURL()), Pages: front(h.PagesURL())}
}

// TestSmoke: an installation that is well passes, and every public route was asked for.
func TestSmoke(t *testing.T) {
	asked, err := before(t, open(t), func(*http.Response) {}).Smoke(t.Context())
	if err != nil {
		t.Error(err)
	}
	p, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	public := 2 // what is not there
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			if r.Host != "internal" {
				public++
			}
		}
	}
	if asked != public || public < 50 {
		t.Errorf("%d were asked for, want %d", asked, public)
	}
}

// TestSmokeSees: what a release can break is seen, and named by its route.
func TestSmokeSees(t *testing.T) {
	h := open(t)
	on := func(method, path string, change func(*http.Response)) func(*http.Response) {
		return func(a *http.Response) {
			if a.Request.Method == method && a.Request.URL.Path == path {
				change(a)
			}
		}
	}
	status := func(n int) func(*http.Response) { return func(a *http.Response) { a.StatusCode = n } }
	for name, c := range map[string]struct {
		change func(*http.Response)
		want   string
	}{
		"a function that does not start": {on("POST", "/seal", status(503)), "pages: POST /seal: it answers 503"},
		"a route that went nowhere":      {on("GET", "/v1/connections", status(404)), "api: GET /v1/connections: it answers 404, want 401"},
		"an API without a door":          {on("GET", "/v1/consents", status(200)), "api: GET /v1/consents: it answers 200, want 401"},
		"a page without a door":          {on("GET", "/me", status(200)), "pages: GET /me: it answers 200, want 401"},
		"an armour that hits everybody":  {on("POST", "/consent/grant", status(403)), "pages: POST /consent/grant: it answers 403"},
		"a load balancer's own page": {on("GET", "/v1/client", func(a *http.Response) {
			a.Header.Set("Content-Type", "text/html")
			a.Header.Del("Content-Length")
			a.Body, a.ContentLength = io.NopCloser(bytes.NewReader(nil)), 0
		}), "api: GET /v1/client: it refuses with text/html"},
		"a page without a policy": {on("GET", "/", func(a *http.Response) { a.Header.Del("Content-Security-Policy") }), "pages: GET /{$}: it has no Content-Security-Policy"},
		"a sniffable answer":      {on("GET", "/seal/key", func(a *http.Response) { a.Header.Del("X-Content-Type-Options") }), "pages: GET /seal/key: it may be sniffed"},
		"something at nowhere":    {on("GET", "/nowhere", status(200)), "api: GET /nowhere: it answers 200, want 404"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := before(t, h, c.change).Smoke(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestDoors: an API that asks for certificates must refuse those who have none, and no host may take TLS 1.1.
func TestDoors(t *testing.T) {
	serve := func(c *tls.Config) *httptest.Server {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = c
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused handshakes
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	open, shut := serve(&tls.Config{MinVersion: tls.VersionTLS12}), serve(&tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert})
	old := serve(&tls.Config{MinVersion: tls.VersionTLS10}) // a fault to be seen
	site := func(s *httptest.Server) Site { return Site{API: s.URL, Transport: s.Client().Transport} }
	if err := site(shut).shut(t.Context()); err != nil {
		t.Error(err)
	}
	if err := site(open).shut(t.Context()); err == nil || !strings.Contains(err.Error(), "it answers 404 to somebody without a certificate") {
		t.Errorf("an open API: %v", err)
	}
	if err := site(open).old(t.Context(), open.URL); err != nil {
		t.Error(err)
	}
	if err := site(old).old(t.Context(), old.URL); err == nil || !strings.Contains(err.Error(), "takes TLS 1.1") {
		t.Errorf("old TLS: %v", err)
	}
	if err := (Site{}).old(t.Context(), "https://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "want a refusal by TLS") {
		t.Errorf("nobody there: %v", err)
	}
}
