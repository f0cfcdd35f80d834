package serve_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// from is the header by which a trusted proxy says who calls.
func from(address string) []string { return []string{"X-Forwarded-For", address} }

func TestPaceOfEachDoor(t *testing.T) {
	b := newBed(t, 3)
	b.door.Proxies = 1
	in := func(context.Context, *serve.Call) (serve.Answer, error) { return serve.Answer{}, nil }
	b.door.API(b.mux, "GET /key", roles, in)
	b.door.Investor(b.mux, "GET /visit", in)
	b.door.Public(b.mux, "GET /public", in)
	b.door.Stream(b.mux, "GET /stream", func(w http.ResponseWriter, _ *http.Request, _ *domain.Visit) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	client := b.client()
	_, one := b.key(client.ID, domain.RoleClient, "")
	_, two := b.key(client.ID, domain.RoleClient, "")
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	cookie := func() []string { return []string{"Cookie", "__Host-sluis=" + b.visit(time.Hour)} }
	for _, c := range []struct {
		name, path string
		same       []string // who has used it up
		other      []string // who has not
	}{
		{"keys", "/key", bearer(one), bearer(two)},
		{"visits", "/visit", cookie(), cookie()},
		{"streams", "/stream", cookie(), cookie()},
		{"addresses", "/public", from("192.0.2.1"), from("192.0.2.2")},
		{"networks", "/public", from("2001:db8::1"), from("2001:db8:1::1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := *b
			b.t = t
			for i := range 3 {
				w := b.ask("GET", c.path, "", c.same...)
				if w.Code != 204 || w.Header().Get("RateLimit") == "" {
					t.Fatalf("request %d: %d %s", i+1, w.Code, w.Body)
				}
			}
			w := b.ask("GET", c.path, "", c.same...)
			b.want(w, 429, "rate_limited")
			if w.Header().Get("Retry-After") != "20" || !strings.HasPrefix(w.Header().Get("RateLimit"), `"default";r=0;`) {
				t.Errorf("headers are %v", w.Header())
			}
			if w := b.ask("GET", c.path, "", c.other...); w.Code != 204 {
				t.Errorf("another caller: %d %s", w.Code, w.Body)
			}
		})
	}
	b.want(b.ask("GET", "/public", "", from("2001:db8::ffff:2")...), 429, "rate_limited") // the same /64
	b.now = b.now.Add(20 * time.Second)
	if w := b.ask("GET", "/key", "", bearer(one)...); w.Code != 204 {
		t.Errorf("after the wait: %d %s", w.Code, w.Body)
	}
}

// TestGuessing: who tries keys and visits that are not there is soon not even looked at, from that network; it costs
// nobody else anything, not even the owner of the key whose identifier was tried.
func TestGuessing(t *testing.T) {
	for _, kind := range []string{"unknown keys", "one key's identifier", "visits", "both"} {
		t.Run(kind, func(t *testing.T) {
			b := newBed(t, 3)
			b.door.Proxies = 1
			b.door.API(b.mux, "GET /key", roles, give("in"))
			b.door.Investor(b.mux, "GET /visit", give("in"))
			k, token := b.key(b.client().ID, domain.RoleClient, "")
			cookie := b.visit(time.Hour)
			guess := func(i int) []string {
				if kind == "visits" || kind == "both" && i%2 == 0 {
					return []string{"/visit", "Cookie", "__Host-sluis=" + domain.HashToken(string(rune('a'+i)))}
				}
				id := k.ID
				if kind != "one key's identifier" {
					id = domain.NewID[domain.KeyID](b.env)
				}
				return []string{"/key", "Authorization", "Bearer sluis_" + string(id) + "_" + domain.HashToken(string(rune('a'+i)))}
			}
			try := func(address string, what []string) int {
				return b.ask("GET", what[0], "", append(what[1:], from(address)...)...).Code
			}
			for i := range 3 {
				if got := try("192.0.2.66", guess(i)); got != 401 {
					t.Fatalf("guess %d: %d", i+1, got)
				}
			}
			right := []string{"/key", "Authorization", "Bearer " + token}
			for i := range 5 {
				if got := try("192.0.2.66", guess(i)); got != 429 {
					t.Errorf("guess %d: %d", i+4, got)
				}
			}
			if got := try("192.0.2.66", right); got != 429 {
				t.Errorf("the right one from there: %d", got)
			}
			if got := try("192.0.2.1", right); got != 200 {
				t.Errorf("the owner from elsewhere: %d", got)
			}
			if got := try("192.0.2.1", []string{"/visit", "Cookie", "__Host-sluis=" + cookie}); got != 200 {
				t.Errorf("an investor from elsewhere: %d", got)
			}
			b.now = b.now.Add(20 * time.Second)
			if got := try("192.0.2.66", right); got != 200 {
				t.Errorf("the right one from there, later: %d", got)
			}
		})
	}
}

// TestNoGuessWithoutALook: requests that present nothing, or nothing of the right shape, are refused for nothing.
func TestNoGuessWithoutALook(t *testing.T) {
	b := newBed(t, 3)
	b.door.API(b.mux, "GET /key", roles, give("in"))
	b.door.Investor(b.mux, "GET /visit", give("in"))
	_, token := b.key(b.client().ID, domain.RoleClient, "")
	for range 10 {
		b.want(b.ask("GET", "/key", ""), 401, "key_invalid")
		b.want(b.ask("GET", "/key", "", "Authorization", "Bearer x"), 401, "key_invalid")
		b.want(b.ask("GET", "/visit", ""), 401, "visit_ended")
		b.want(b.ask("GET", "/visit", "", "Cookie", "__Host-sluis=x"), 401, "visit_ended")
	}
	if w := b.ask("GET", "/key", "", "Authorization", "Bearer "+token); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestPagesTake: pages that write their own answers count by the same measure.
func TestPagesTake(t *testing.T) {
	b := newBed(t, 2)
	b.mux.HandleFunc("GET /page", func(w http.ResponseWriter, r *http.Request) {
		if err := b.door.Take(w, r); err != nil {
			serve.WriteProblem(w, err)
		}
	})
	for _, want := range []int{200, 200, 429} {
		if w := b.ask("GET", "/page", ""); w.Code != want {
			t.Errorf("got %d, want %d", w.Code, want)
		}
	}
}

// TestServerHasBounds: no phase of a request may last for ever.
func TestServerHasBounds(t *testing.T) {
	s := serve.NewServer(http.NotFoundHandler())
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= time.Minute || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.ErrorLog == nil {
		t.Errorf("without bounds: %+v", s)
	}
}

// TestLost: where a page was looked for, a page answers; a wrong method is told as everywhere.
func TestLost(t *testing.T) {
	b := newBed(t, 0)
	inner := http.NewServeMux()
	b.door.Public(inner, "GET /page", give("page"))
	b.mux.Handle("/", b.door.Known(inner, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("lost"))
	})))
	if w := b.ask("GET", "/pages", ""); w.Code != 404 || w.Body.String() != "lost" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	b.want(b.ask("POST", "/page", ""), 405, "method_not_allowed")
}

// TestUnknownRoutes: what no pattern fits is told like every other failure.
func TestUnknownRoutes(t *testing.T) {
	b := newBed(t, 0)
	own := http.NewServeMux()
	b.door.Public(own, "GET /v1/things/{id}", give("thing"))
	b.door.Public(own, "POST /v1/things/{id}", give("thing"))
	inner := http.NewServeMux()
	inner.Handle("GET /v1/things/{id}", own)
	inner.Handle("POST /v1/things/{id}", own)
	b.mux.Handle("/", b.door.Known(inner, nil))
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/v1/things/1", 200, "", ""},
		{"HEAD", "/v1/things/1", 200, "", ""},
		{"GET", "/", 404, "not_found", ""},
		{"GET", "/v1/thing", 404, "not_found", ""},
		{"GET", "/v1/things/1/", 404, "not_found", ""},
		{"GET", "/%2e%2e/etc/passwd", 404, "not_found", ""},
		{"POST", "/nothing", 404, "not_found", ""},
		{"DELETE", "/v1/things/1", 405, "method_not_allowed", "GET, HEAD, POST"},
		{"BREW", "/v1/things/1", 405, "method_not_allowed", "GET, HEAD, POST"},
	} {
		w := b.ask(c.method, c.path, "")
		if c.code == "" {
			if w.Code != c.status {
				t.Errorf("%s %s: got %d %s", c.method, c.path, w.Code, w.Body)
			}
			continue
		}
		b.want(w, c.status, c.code)
		if w.Header().Get("Allow") != c.allow || w.Header().Get("Content-Security-Policy") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers are %v", c.method, c.path, w.Header())
		}
	}
}
