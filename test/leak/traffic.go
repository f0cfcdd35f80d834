package leak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"sluis.internal/functions/sluis/home"
)

// Traffic stands before the house and keeps all that passes: what players ask, and what they are answered.
type Traffic struct {
	nest   *Nest
	routes map[string]*http.ServeMux // by host: finds a route's template

	mu   sync.Mutex
	seen []*Exchange
}

// Exchange is one request and its answer.
type Exchange struct {
	Host, Route string // as in pipeline.json; Route is empty for an address that is not there
	Address     string // as asked: path and query
	Asked       http.Header
	Status      int
	Answered    http.Header
	body        *tape
}

// Body is what was answered so far.
func (x *Exchange) Body() []byte { return x.body.bytes() }

// NewTraffic keeps what passes, and lays what the house hands out in n.
func NewTraffic(t testing.TB, n *Nest) *Traffic {
	t.Helper()
	p, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	tr := &Traffic{nest: n, routes: map[string]*http.ServeMux{"api": http.NewServeMux(), "pages": http.NewServeMux()}}
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			if mux := tr.routes[r.Host]; mux != nil {
				mux.Handle(r.Method+" "+r.Path, http.NotFoundHandler())
			}
		}
	}
	return tr
}

// Before stands before one host, api or pages, and says where it listens.
func (tr *Traffic) Before(t testing.TB, host, address string) string {
	t.Helper()
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", target.Host, target.Host
		},
		ModifyResponse: func(resp *http.Response) error { return tr.keep(host, resp) },
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
		FlushInterval:  -1,
		ErrorLog:       log.New(io.Discard, "", 0), // a house that dies breaks answers off
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tr.overhear(r)
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Seen is all that has passed.
func (tr *Traffic) Seen() []*Exchange {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]*Exchange(nil), tr.seen...)
}

func (tr *Traffic) keep(host string, resp *http.Response) error {
	asked := resp.Request
	_, pattern := tr.routes[host].Handler(asked)
	x := &Exchange{Host: host, Route: pattern, Address: asked.URL.RequestURI(), Asked: asked.Header.Clone(), Status: resp.StatusCode,
		Answered: resp.Header.Clone(), body: &tape{}}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "application/json" {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		tr.learnBody(pattern, body)
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	for _, c := range resp.Cookies() {
		tr.nest.Learn(Canary{Cookie, pattern, c.Value})
	}
	resp.Body = &taped{resp.Body, x.body}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.seen = append(tr.seen, x)
	return nil
}

// overhear learns what a browser has sealed.
func (tr *Traffic) overhear(r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var said struct {
		JWE        string `json:"jwe"`
		SealedCode string `json:"sealed_code"`
	}
	if err != nil || json.Unmarshal(body, &said) != nil {
		return // the house will meet the same
	}
	for class, jwe := range map[Class]string{Inner: said.JWE, Answer: said.SealedCode} {
		if parts := strings.Split(jwe, "."); len(parts) == 5 { // the sealed key, and what is sealed: https://www.rfc-editor.org/rfc/rfc7516#section-3
			tr.nest.Learn(Canary{class, "key in it", parts[1][:min(48, len(parts[1]))]})
			tr.nest.Learn(Canary{class, "content of it", parts[3][:min(48, len(parts[3]))]})
		}
	}
}

var linkShape = regexp.MustCompile(`/i/([A-Za-z0-9_-]{16,})$`)

// learnBody learns the secrets that an answer hands out once.
func (tr *Traffic) learnBody(pattern string, body []byte) {
	var answer struct {
		URL    string `json:"url"`
		Secret string `json:"secret"`
		Token  string `json:"token"`
		Link   struct {
			URL string `json:"url"`
		} `json:"link"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	for _, address := range []string{answer.URL, answer.Link.URL} {
		if m := linkShape.FindStringSubmatch(address); m != nil {
			tr.nest.Learn(Canary{Link, pattern, m[1]})
		}
	}
	if answer.Secret != "" {
		tr.nest.Learn(Canary{Signing, pattern, strings.TrimPrefix(answer.Secret, "whsec_")})
	}
	if at := strings.LastIndex(answer.Token, "_"); strings.HasPrefix(answer.Token, "sluis_") && at > 0 {
		tr.nest.Learn(SecretOf(pattern, answer.Token))
	}
}

// SecretOf is the canary of an API key's token: "sluis_" and the key's identifier, which stands in it too, are no secret.
func SecretOf(name, token string) Canary {
	return Canary{APIKey, name, token[max(0, len(token)-43):]}
}

// tape remembers what passes.
type tape struct {
	mu  sync.Mutex
	all []byte
}

func (t *tape) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.all)
}

type taped struct {
	io.ReadCloser
	tape *tape
}

func (t *taped) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.tape.mu.Lock()
	defer t.tape.mu.Unlock()
	t.tape.all = append(t.tape.all, p[:n]...)
	return n, err
}

// addressOf is an address that a template matches.
func addressOf(template string) *url.URL {
	return &url.URL{Path: strings.NewReplacer("{", "", "}", "").Replace(template)}
}
