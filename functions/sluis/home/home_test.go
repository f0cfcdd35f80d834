package home

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

// TestPipelineIsWired holds pipeline.json and this process together: every route of a public host reaches a function
// that registered just that route, and every topic has a handler.
func TestPipelineIsWired(t *testing.T) {
	p, err := ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	free := "127.0.0.1:0"
	h, err := Open(t.Context(), Settings{Data: t.TempDir(), API: free, Pages: free})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	for name := range p.Topics {
		if h.Handlers[name] == nil {
			t.Errorf("nobody handles %s", name)
		}
	}
	for _, host := range []string{"api", "pages"} {
		server := front(p, host, h.functions)
		for _, f := range p.Functions {
			for _, r := range f.Routes {
				if r.Host != host {
					continue
				}
				pattern := r.Method + " " + r.Path
				if got := patternAt(t, server, r); got != pattern {
					t.Errorf("%s: %s reaches %q", host, pattern, got)
				}
				own, _ := server.Handler(request(t, r))
				if got := patternAt(t, own.(*http.ServeMux), r); got != pattern {
					t.Errorf("%s does not register %s but %q", f.Name, pattern, got)
				}
			}
		}
	}
}

func patternAt(t *testing.T, mux *http.ServeMux, r Route) string {
	t.Helper()
	_, pattern := mux.Handler(request(t, r))
	return pattern
}

// request is one that fits the route's path.
func request(t *testing.T, r Route) *http.Request {
	t.Helper()
	path := strings.ReplaceAll(strings.NewReplacer("{$}", "", "{", "x", "}", "").Replace(r.Path), "//", "/")
	req, err := http.NewRequestWithContext(context.Background(), r.Method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
