package egress

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"sluis.internal/functions/extract/comdirect"
	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// connectors are those of each protocol in custodians.json.
var connectors = map[string]extraction.Connector{"comdirect": comdirect.Connector{}}

func custodians(t *testing.T) []domain.Custodian {
	t.Helper()
	raw, err := schemas.FS.ReadFile("custodians.json")
	must(t, err)
	var all []domain.Custodian
	must(t, json.Unmarshal(raw, &all))
	for _, c := range all {
		if connectors[c.Protocol] == nil {
			t.Fatalf("%s: no connector for protocol %q is under test", c.ID, c.Protocol)
		}
	}
	return all
}

// network counts what a gate lets through to it.
type network struct{ passed atomic.Int64 }

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.passed.Add(1)
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

var phases = []extraction.Phase{extraction.PhaseLogin, extraction.PhaseRead, extraction.PhaseEnd}

var named = regexp.MustCompile(`\{[^}]*\}`)

// example stands for a name in a declared path.
const example = "A1b2"

// plain is a request as the connector declares it.
func plain(ctx context.Context, c domain.Custodian, d extraction.Request) *http.Request {
	address := strings.TrimSuffix(c.Endpoints[d.Endpoint], "/") + named.ReplaceAllString(d.Path, example)
	var body *strings.Reader
	if d.Method != http.MethodGet && d.Method != http.MethodDelete {
		body = strings.NewReader("{}")
	}
	var r *http.Request
	var err error
	if body == nil {
		r, err = http.NewRequestWithContext(ctx, d.Method, address, nil)
	} else {
		r, err = http.NewRequestWithContext(ctx, d.Method, address, body)
	}
	if err != nil {
		panic(err)
	}
	return r
}

// methods of RFC 9110, WebDAV and others, and ways to write them that somebody could take for another.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND",
	"PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE", "LINK", "UNLINK", "PRI", "M-SEARCH",
	"get", "Get", "post", "Post", "pOST", "delete", "GET ", " GET", "GET\t", "POST\x00", "GET\r\nPOST", "GET / HTTP/1.1\r\n", "ＧＥＴ",
	"GЕT", "*", "-", "0", "GETPOST", "X-POST"}

// TestEveryMethodInEveryPhase tries all methods on all declared addresses. What is declared passes, and nothing else.
func TestEveryMethodInEveryPhase(t *testing.T) {
	for _, c := range custodians(t) {
		declared := connectors[c.Protocol].Requests()
		for _, phase := range phases {
			for _, d := range declared {
				for _, method := range methods {
					want := slices.ContainsFunc(declared, func(o extraction.Request) bool {
						return o.Phase == phase && o.Method == method && o.Endpoint == d.Endpoint && o.Path == d.Path
					})
					r := plain(t.Context(), c, d)
					if method != d.Method {
						r.Body, r.ContentLength = nil, 0
					}
					r.Method = method
					if why := passes(c, declared, phase, r); (why == "") != want {
						t.Errorf("%s, %s: %q %s: %s; declared is %v", c.ID, phase, method, d.Path, why, want)
					}
				}
			}
		}
	}
}

// passes sends r through a fresh gate; it says what refused it, or "".
func passes(c domain.Custodian, declared []extraction.Request, phase extraction.Phase, r *http.Request) string {
	beyond, told := &network{}, 0
	g := extraction.Guard(c, declared, beyond, func(context.Context, string, string, string) { told++ })
	g.SetPhase(phase)
	resp, err := g.RoundTrip(r)
	if err == nil {
		resp.Body.Close()
		if told != 0 || beyond.passed.Load() != 1 {
			return "it passed and was told of as refused"
		}
		return ""
	}
	var f *extraction.Failure
	switch {
	case !errors.As(err, &f) || f.Reason != domain.ReasonEgressRefused || f.Retry:
		return "not a refusal for good: " + err.Error()
	case told != 1:
		return "the refusal was not told"
	case beyond.passed.Load() != 0:
		return "it was refused and passed"
	}
	return "refused"
}

// TestEveryBend bends every declared request in every way we know. None may pass in any phase.
func TestEveryBend(t *testing.T) {
	if len(bends) < 130 {
		t.Fatalf("%d bends", len(bends))
	}
	tried := 0
	for _, c := range custodians(t) {
		declared := connectors[c.Protocol].Requests()
		for _, d := range declared {
			if why := passes(c, declared, d.Phase, plain(t.Context(), c, d)); why != "" {
				t.Errorf("%s: %s %s as declared: %s", c.ID, d.Method, d.Path, why)
			}
			for name, bend := range bends {
				for _, phase := range phases {
					r := plain(t.Context(), c, d)
					bend(r)
					tried++
					if why := passes(c, declared, phase, r); why != "refused" {
						t.Errorf("%s, %s: %s %s with %s: %q", c.ID, phase, d.Method, d.Path, name, why)
					}
				}
			}
		}
	}
	t.Logf("%d bent requests, %d bends", tried, len(bends))
}

// TestDeclarationsThatWrite: a connector that declares writing for its reading has declared nothing.
func TestDeclarationsThatWrite(t *testing.T) {
	for _, c := range custodians(t) {
		for _, method := range methods[1:] {
			d := extraction.Request{Method: method, Endpoint: "api", Path: "/orders", Phase: extraction.PhaseRead}
			if d.Check(c) == nil {
				t.Errorf("%s: %q may be declared for reading", c.ID, method)
			}
			r := plain(t.Context(), c, extraction.Request{Method: "GET", Endpoint: "api", Path: "/orders"})
			r.Method = method
			if why := passes(c, []extraction.Request{d}, extraction.PhaseRead, r); why != "refused" {
				t.Errorf("%s: %q of a declaration that must not count: %q", c.ID, method, why)
			}
		}
	}
}

// refusals counts what a gate tells.
type refusals struct{ n atomic.Int64 }

func (r *refusals) note(context.Context, string, string, string) { r.n.Add(1) }
