package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestReadmeShowsTheFlow holds README's drawing and pipeline.json together.
func TestReadmeShowsTheFlow(t *testing.T) {
	p, err := read[pipeline]("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	var drawing bytes.Buffer
	if err := draw(&drawing, p); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```mermaid\n"+drawing.String()+"```") {
		t.Errorf("README does not show the flow as it is; put this there:\n%s", drawing.String())
	}
}

// TestPipelineIsWired holds pipeline.json and this process together: every route of a public host reaches a function
// that registered just that route, and every topic has a handler.
func TestPipelineIsWired(t *testing.T) {
	p, err := read[pipeline]("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	s := testStage(t)
	for name := range p.Topics {
		if s.home.handlers[name] == nil {
			t.Errorf("nobody handles %s", name)
		}
	}
	for _, host := range []string{"api", "pages"} {
		server := front(p, host, s.home.functions)
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

func patternAt(t *testing.T, mux *http.ServeMux, r route) string {
	t.Helper()
	_, pattern := mux.Handler(request(t, r))
	return pattern
}

// request is one that fits the route's path.
func request(t *testing.T, r route) *http.Request {
	t.Helper()
	path := strings.ReplaceAll(strings.NewReplacer("{$}", "", "{", "x", "}", "").Replace(r.Path), "//", "/")
	req, err := http.NewRequestWithContext(context.Background(), r.Method, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
