package serve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

func TestEveryKindHasItsStatus(t *testing.T) {
	want := map[domain.Kind]int{domain.Invalid: 400, domain.Unauthenticated: 401, domain.Forbidden: 403, domain.NotFound: 404,
		domain.Conflict: 409, domain.Gone: 410, domain.TooLarge: 413, domain.RateLimited: 429, domain.Unavailable: 503, domain.Internal: 500}
	if len(want) != len(domain.Kinds) {
		t.Fatalf("%d kinds here, %d in the law", len(want), len(domain.Kinds))
	}
	for _, kind := range domain.Kinds {
		b := newBed(t, 0)
		b.door.Public(b.mux, "GET /", fail(fmt.Errorf("trying something: %w",
			&domain.Error{Kind: kind, Code: "some_code", Field: "/a/b", Message: "do this", RetryAfter: 61 * time.Second, Err: errors.New("insides")})))
		w := b.ask("GET", "/", "")
		p := b.problem(w)
		if w.Code != want[kind] {
			t.Errorf("%s: got %d, want %d", kind, w.Code, want[kind])
		}
		if kind != domain.Internal && (p.Code != "some_code" || p.Field != "/a/b" || p.Detail != "do this") {
			t.Errorf("%s: told as %+v", kind, p)
		}
		if got := w.Header().Get("Retry-After"); got != "61" {
			t.Errorf("%s: Retry-After is %q", kind, got)
		}
		if (w.Header().Get("WWW-Authenticate") != "") != (kind == domain.Unauthenticated) {
			t.Errorf("%s: WWW-Authenticate is %q", kind, w.Header().Get("WWW-Authenticate"))
		}
	}
}

// TestProblemsTellNoInternals: what is for the log stays there, whatever it is wrapped in.
func TestProblemsTellNoInternals(t *testing.T) {
	insides := errors.New("SELECT secret FROM /var/lib/sluis at 10.0.0.7")
	conflict := &domain.Error{Kind: domain.Conflict, Code: "busy", Message: "wait", Err: insides}
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		logged bool
	}{
		"any error":               {insides, 500, "internal", true},
		"wrapped":                 {fmt.Errorf("reading secret: %w", insides), 500, "internal", true},
		"ours, internal":          {&domain.Error{Kind: domain.Internal, Code: "secret_code", Message: "secret words", Err: insides}, 500, "internal", true},
		"ours, of no known kind":  {&domain.Error{Kind: "secret", Code: "secret_code", Message: "secret words", Err: insides}, 500, "internal", false},
		"ours, of no kind":        {&domain.Error{Code: "secret_code", Message: "secret words", Err: insides}, 500, "internal", false},
		"cause of ours":           {conflict, 409, "busy", false},
		"around ours":             {fmt.Errorf("secret act: %w", conflict), 409, "busy", false},
		"joined behind ours":      {errors.Join(conflict, insides), 409, "busy", false},
		"joined before ours":      {errors.Join(insides, conflict), 409, "busy", false},
		"ours around ours":        {&domain.Error{Kind: domain.Gone, Code: "gone", Message: "over", Err: conflict}, 410, "gone", false},
		"cancelled by the caller": {context.Canceled, 500, "internal", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 0)
			b.door.Public(b.mux, "GET /", fail(c.err))
			w := b.ask("GET", "/", "")
			b.want(w, c.status, c.code)
			for _, word := range []string{"secret", "SELECT", "10.0.0.7"} {
				if strings.Contains(w.Body.String(), word) {
					t.Errorf("%q is shown: %s", word, w.Body)
				}
			}
			if got := strings.Contains(b.log.String(), `"msg":"request failed"`); got != c.logged {
				t.Errorf("logged: %t, want %t", got, c.logged)
			}
		})
	}
}

// bomb panics in a way that a careless handler would print.
type bomb struct{ secret string }

func (b bomb) Error() string { return b.secret }

func TestPanic(t *testing.T) {
	const secret = "hunter2-in-a-panic"
	var missing *domain.Client
	for name, fn := range map[string]serve.Endpoint{
		"value":       func(context.Context, *serve.Call) (serve.Answer, error) { panic(secret) },
		"error":       func(context.Context, *serve.Call) (serve.Answer, error) { panic(bomb{secret}) },
		"nil pointer": func(context.Context, *serve.Call) (serve.Answer, error) { return serve.Answer{Body: missing.Name}, nil },
		"out of range": func(context.Context, *serve.Call) (serve.Answer, error) {
			return serve.Answer{Body: []int{}[len(secret)]}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 0)
			b.door.Public(b.mux, "GET /panics/{token}", fn)
			w := b.ask("GET", "/panics/token-in-the-path", "")
			b.want(w, 500, "internal")
			log := b.log.String()
			if strings.Contains(w.Body.String()+log, secret) || strings.Contains(log, "token-in-the-path") {
				t.Errorf("the panic's value or the path is told: %s %s", w.Body, log)
			}
			if !strings.Contains(log, `"route":"GET /panics/{token}"`) || !strings.Contains(log, "serve_test.TestPanic") {
				t.Errorf("the log does not say where: %s", log)
			}
		})
	}
	t.Run("abort", func(t *testing.T) {
		b := newBed(t, 0)
		b.door.Public(b.mux, "GET /", func(context.Context, *serve.Call) (serve.Answer, error) { panic(http.ErrAbortHandler) })
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("got %v, want the server's own abort", v)
			}
			if strings.Contains(b.log.String(), "panicked") {
				t.Error("an abort is no panic")
			}
		}()
		b.ask("GET", "/", "")
	})
}

// TestBrokenStreams: what goes wrong before the first byte is a problem, and after it the connection is cut, so that
// half an answer never looks like a whole one.
func TestBrokenStreams(t *testing.T) {
	for name, c := range map[string]struct {
		fn  func(http.ResponseWriter, *http.Request, *domain.Visit) error
		cut bool
	}{
		"error at once": {func(http.ResponseWriter, *http.Request, *domain.Visit) error { return errors.New("secret") }, false},
		"panic at once": {func(http.ResponseWriter, *http.Request, *domain.Visit) error { panic("secret") }, false},
		"error midway": {func(w http.ResponseWriter, _ *http.Request, _ *domain.Visit) error {
			begin(w)
			return errors.New("secret")
		}, true},
		"panic midway": {func(w http.ResponseWriter, _ *http.Request, _ *domain.Visit) error { begin(w); panic("secret") }, true},
		"header and end": {func(w http.ResponseWriter, _ *http.Request, _ *domain.Visit) error {
			w.WriteHeader(200)
			return errors.New("secret")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 0)
			b.door.Stream(b.mux, "GET /", c.fn)
			server := httptest.NewUnstartedServer(nil)
			server.Config = serve.NewServer(b.mux)
			server.Start()
			defer server.Close()
			r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.AddCookie(&http.Cookie{Name: "__Host-sluis", Value: b.visit(time.Hour)})
			resp, err := server.Client().Do(r)
			if c.cut && err != nil {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if c.cut != (err != nil) {
				t.Errorf("read %q with %v", body, err)
			}
			if !c.cut && (resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "application/problem+json") {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
			if strings.Contains(string(body), "secret") || c.cut && strings.Contains(string(body), "internal") {
				t.Errorf("told: %q", body)
			}
		})
	}
}

func begin(w http.ResponseWriter) {
	_, _ = io.WriteString(w, "first words, ")
	_ = http.NewResponseController(w).Flush()
}

func TestSecurityHeaders(t *testing.T) {
	b := newBed(t, 0)
	b.door.Public(b.mux, "GET /good", give("x"))
	b.door.Public(b.mux, "GET /bad", fail(domain.ErrNotFound))
	b.door.Public(b.mux, "GET /panic", func(context.Context, *serve.Call) (serve.Answer, error) { panic("x") })
	b.door.API(b.mux, "GET /key", roles, give("x"))
	b.door.Investor(b.mux, "GET /visit", give("x"))
	b.door.Stream(b.mux, "GET /stream", func(w http.ResponseWriter, _ *http.Request, _ *domain.Visit) error {
		_, err := io.WriteString(w, "x")
		return err
	})
	cookie := "__Host-sluis=" + b.visit(time.Hour)
	for path, status := range map[string]int{"/good": 200, "/bad": 404, "/panic": 500, "/key": 401, "/visit": 200, "/stream": 200} {
		w := b.ask("GET", path, "", "Cookie", cookie)
		if w.Code != status {
			t.Errorf("%s: got %d, want %d", path, w.Code, status)
		}
		for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
}

func TestAnswers(t *testing.T) {
	type list struct {
		Data []string          `json:"data"`
		More map[string]string `json:"more"`
		Next string            `json:"next,omitempty"`
	}
	for name, c := range map[string]struct {
		answer serve.Answer
		status int
		body   string
	}{
		"nothing":            {serve.Answer{}, 204, ""},
		"something":          {serve.Answer{Body: "x"}, 200, `"x"`},
		"made":               {serve.Answer{Status: 201, Location: "/v1/x/1", Body: 1}, 201, `1`},
		"taken on":           {serve.Answer{Status: 202}, 202, ""},
		"empty list":         {serve.Answer{Body: list{}}, 200, `{"data":[],"more":{}}`},
		"order of a map":     {serve.Answer{Body: map[string]int{"b": 2, "a": 1}}, 200, `{"a":1,"b":2}`},
		"text that is none":  {serve.Answer{Body: "a\xffb"}, 200, "\"a\ufffdb\""},
		"markup in text":     {serve.Answer{Body: "</script>"}, 200, `"</script>"`},
		"secret by accident": {serve.Answer{Body: domain.NewSecret([]byte("pin"))}, 200, `"[redacted]"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, 0)
			b.door.Public(b.mux, "GET /", func(context.Context, *serve.Call) (serve.Answer, error) { return c.answer, nil })
			w := b.ask("GET", "/", "")
			if w.Code != c.status || w.Body.String() != c.body || w.Header().Get("Location") != c.answer.Location {
				t.Errorf("got %d %q at %q", w.Code, w.Body, w.Header().Get("Location"))
			}
			if want := map[bool]string{true: "application/json", false: ""}[c.body != ""]; w.Header().Get("Content-Type") != want {
				t.Errorf("Content-Type is %q", w.Header().Get("Content-Type"))
			}
		})
	}
	t.Run("what is no JSON", func(t *testing.T) {
		b := newBed(t, 0)
		b.door.Public(b.mux, "GET /", func(context.Context, *serve.Call) (serve.Answer, error) {
			return serve.Answer{Status: 201, Location: "/v1/x", Body: map[string]any{"a": 1, "b": make(chan int)}}, nil
		})
		w := b.ask("GET", "/", "")
		b.want(w, 500, "internal")
		if w.Header().Get("Location") != "" {
			t.Error("a failure has a Location")
		}
	})
}
