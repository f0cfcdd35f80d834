// Command smoke asks a running installation what a stranger may ask, and says whether every public route of
// schemas/pipeline.json is there and keeps its door shut. It holds no key and leaves nothing behind; the pipeline runs it
// after each release (terraform/release.yaml).
//
//	go run ./test/smoke -api https://api.example.com -pages https://connect.example.com
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"sluis.internal/schemas"
)

func main() {
	var s Site
	flag.StringVar(&s.API, "api", "", "where clients call")
	flag.StringVar(&s.Pages, "pages", "", "where investors come")
	flag.BoolVar(&s.Mutual, "mutual", false, "whether the API asks for a client's certificate")
	flag.Parse()
	if s.API == "" || s.Pages == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/smoke -api https://HOST -pages https://HOST [-mutual]")
		os.Exit(2)
	}
	ctx, done := context.WithTimeout(context.Background(), 10*time.Minute)
	defer done()
	asked, err := s.Smoke(ctx)
	fmt.Printf("%d asked\n", asked)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Site is a running installation, as strangers see it.
type Site struct {
	API, Pages string
	Mutual     bool              // the API answers nobody without a certificate
	Transport  http.RoundTripper // nil means the usual one
}

// Route is a route of pipeline.json.
type Route struct{ Host, Method, Path string }

func (r Route) String() string { return r.Host + ": " + r.Method + " " + r.Path }

// routes are all public routes of pipeline.json, and one on each host that is not there.
func routes() ([]Route, error) {
	raw, err := fs.ReadFile(schemas.FS, "pipeline.json")
	if err != nil {
		return nil, err
	}
	var p struct{ Functions []struct{ Routes []Route } }
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("reading pipeline.json: %w", err)
	}
	all := []Route{{"api", "GET", "/nowhere"}, {"pages", "GET", "/nowhere"}}
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			if r.Host == "api" || r.Host == "pages" {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// Smoke asks for everything and joins what is wrong.
func (s Site) Smoke(ctx context.Context) (asked int, wrong error) {
	all, err := routes()
	if err != nil {
		return 0, err
	}
	for _, r := range all {
		if s.Mutual && r.Host == "api" {
			continue
		}
		asked++
		if err := s.route(ctx, r); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %w", r, err))
		}
	}
	if s.Mutual {
		asked++
		wrong = errors.Join(wrong, s.shut(ctx))
	}
	for _, base := range []string{s.API, s.Pages} {
		if strings.HasPrefix(base, "https:") {
			asked++
			wrong = errors.Join(wrong, s.old(ctx, base))
		}
	}
	return asked, wrong
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// route asks for one route without a key or a visit.
func (s Site) route(ctx context.Context, r Route) error {
	path := parameter.ReplaceAllString(strings.TrimSuffix(r.Path, "{$}"), "x")
	if r.Path == "/static/{file}" {
		path = "/static/page.css" // the one thing beside "/" that strangers do get
	}
	a, body, err := s.ask(ctx, r.Method, map[string]string{"api": s.API, "pages": s.Pages}[r.Host]+path)
	if err != nil {
		return err
	}
	if want := expected(r); a.StatusCode != want && want != 0 {
		return fmt.Errorf("it answers %d, want %d", a.StatusCode, want)
	}
	kind := a.Header.Get("Content-Type")
	switch {
	case a.StatusCode < 200 || a.StatusCode >= 500 || a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("it answers %d", a.StatusCode)
	case r.Path == "/nowhere": // the load balancer may answer this itself
	case r.Host == "api" && (kind != "application/problem+json" || !json.Valid(body)):
		return fmt.Errorf("it refuses with %s, want application/problem+json", kind)
	case a.Header.Get("Content-Security-Policy") == "":
		return errors.New("it has no Content-Security-Policy")
	case a.Header.Get("X-Content-Type-Options") != "nosniff":
		return errors.New("it may be sniffed")
	}
	return nil
}

// expected is the status that a stranger must get; 0 where some refusal will do.
func expected(r Route) int {
	switch {
	case r.Path == "/nowhere":
		return http.StatusNotFound
	case r.Host == "api":
		return http.StatusUnauthorized
	case r.Path == "/{$}", r.Path == "/static/{file}":
		return http.StatusOK
	case strings.HasPrefix(r.Path, "/i/"), r.Method != http.MethodGet:
		return 0
	}
	return http.StatusUnauthorized
}

// ask tries twice: a function that begins may be late once.
func (s Site) ask(ctx context.Context, method, address string) (a *http.Response, body []byte, err error) {
	client := &http.Client{Transport: s.Transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 2 {
		var q *http.Request
		if q, err = http.NewRequestWithContext(ctx, method, address, strings.NewReader("{}")); err != nil {
			return nil, nil, err
		}
		q.Header.Set("Content-Type", "application/json")
		if a, err = client.Do(q); err == nil {
			body, err = io.ReadAll(io.LimitReader(a.Body, 1<<20))
			_ = a.Body.Close()
		}
		if err == nil && a.StatusCode < 500 {
			break
		}
	}
	return a, body, err
}

// shut holds an API that asks for certificates to that.
func (s Site) shut(ctx context.Context) error {
	a, _, err := s.ask(ctx, http.MethodGet, s.API+"/v1/client")
	if err == nil {
		return fmt.Errorf("api: it answers %d to somebody without a certificate", a.StatusCode)
	}
	if !strings.Contains(err.Error(), "tls: ") {
		return fmt.Errorf("api: want a refusal by TLS: %w", err)
	}
	return nil
}

// old offers TLS 1.1, which must be refused.
func (s Site) old(ctx context.Context, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	// The handshake alone is looked at, and must fail.
	d := &tls.Dialer{Config: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}}
	c, err := d.DialContext(ctx, "tcp", u.Hostname()+":"+cmp.Or(u.Port(), "443"))
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%s takes TLS 1.1", base)
	}
	if !strings.Contains(err.Error(), "tls: ") {
		return fmt.Errorf("%s: want a refusal by TLS: %w", base, err)
	}
	return nil
}
