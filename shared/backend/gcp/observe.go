package gcp

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"

	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"

	"sluis.internal/shared/observe"
)

// observe begins to export what the function does, where the environment says to. If it cannot, the function works all
// the same.
func (c *Cloud) observe(ctx context.Context, project string) {
	var err error
	c.telemetry, err = observe.Open(ctx, observe.Options{Function: cmp.Or(os.Getenv("K_SERVICE"), os.Getenv("FUNCTION_TARGET")),
		Project: project, Region: c.Env.Region, Custodians: c.Contracts.Custodians, Client: &http.Client{Transport: &identified{}}})
	if err != nil {
		slog.ErrorContext(ctx, "telemetry is not exported", "error", err)
	}
	c.telemetry.AtTermination()
}

// Ended has what is due exported at the end of a request: see [observe.Exporter.Ended].
func (c *Cloud) Ended() { c.telemetry.Ended() }

// identified shows Google, and nobody else, an access token of the function's service account. Where that comes from is
// found out at the first request.
type identified struct {
	mu     sync.Mutex
	google http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (i *identified) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Scheme != "https" || !strings.HasSuffix(q.URL.Hostname(), ".googleapis.com") {
		return http.DefaultTransport.RoundTrip(q)
	}
	t, err := i.transport()
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(q)
}

func (i *identified) transport() (http.RoundTripper, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.google != nil {
		return i.google, nil
	}
	t, err := htransport.NewTransport(context.Background(), http.DefaultTransport, option.WithTelemetryDisabled(),
		option.WithScopes("https://www.googleapis.com/auth/trace.append", "https://www.googleapis.com/auth/monitoring.write"))
	if err == nil {
		i.google = t
	}
	return t, err
}
