package cloud

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/observe/observetest"
)

// terminate ends every function as the platform does, which gives it the time to tell what it has not told yet.
func (r *region) terminate() {
	r.t.Helper()
	for _, f := range r.pipeline.Functions {
		d := r.function(f.Name)
		if err := d.process.Process.Signal(syscall.SIGTERM); err != nil {
			r.t.Fatal(err)
		}
		if err := d.process.Wait(); err == nil || err.Error() != "signal: terminated" {
			r.t.Errorf("%s ended with %v", f.Name, err)
		}
	}
}

// TestTold: what a request leads to is one trace through the processes of all functions, and each of them counted its part.
func TestTold(t *testing.T) {
	r := open(t, options{})
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	r.tick()
	t.Run("journeys", func(t *testing.T) {
		r.play(t, slices.DeleteFunc(all, func(j journey.Journey) bool {
			return !slices.Contains([]string{"refresh", "login-20000022", "wrong-pin", "erase-data"}, j.Name)
		}))
	})
	r.terminate()
	r.leads(t, "Portfolio POST /v1/connections/{connection}/refresh", "Portfolio commit", "Extract handle session-requested", "Extract kms Decrypt")
	r.leads(t, "Portfolio POST /v1/connections/{connection}/refresh", "Portfolio commit", "Extract handle session-requested", "Extract kms AsymmetricDecrypt")
	r.leads(t, "Portfolio POST /v1/connections/{connection}/refresh", "Portfolio commit", "Extract handle session-requested", "Extract GET /api/brokerage/v3/depots/{depot}/positions")
	r.leads(t, "Portfolio POST /v1/connections/{connection}/refresh", "Portfolio commit", "Extract handle session-requested", "Extract commit",
		"Notify handle notice-raised", "Notify commit", "Deliver handle delivery-due", "Deliver POST webhook")
	r.leads(t, "Seal POST /seal", "Seal commit", "Extract handle session-requested", "Extract POST /oauth/token")
	r.leads(t, "Challenge POST /challenge/answer", "Challenge call answer", "Answer POST", "Answer kms AsymmetricDecrypt")
	r.leads(t, "Challenge POST /challenge/answer", "Challenge call answer", "Answer POST", "Answer commit", "Extract handle session-requested", "Extract commit")
	r.leads(t, "Erase DELETE /v1/connections/{connection}/data", "Erase kms AsymmetricSign")
	for _, s := range r.told.Spans() {
		for key := range s.Attributes {
			if !slices.Contains([]string{"custodian", "topic", "kind", "key", "method", "code", "http.route", "server.address", "http.response.status_code"}, key) {
				t.Errorf("%s %s says its %s, which is no label of ours", s.Service, s.Name, key)
			}
		}
	}
	for _, c := range []struct {
		name   string
		labels []string
		want   int64
	}{
		{"sluis.refreshes", []string{"outcome", "complete"}, 6},
		{"sluis.refreshes", []string{"outcome", "failed", "reason", "credentials_refused"}, 1},
		{"sluis.sca", []string{"outcome", "verified"}, 2},
		{"sluis.sca", []string{"outcome", "rejected"}, 1},
		{"sluis.dead_letters", nil, 0},
		{"sluis.kms.calls", []string{"key", "inner", "method", "AsymmetricDecrypt", "code", "PermissionDenied"}, 0},
		{"sluis.kms.calls", []string{"key", "certificate", "method", "AsymmetricSign", "code", "OK"}, 1},
	} {
		if got := r.told.Count(c.name, c.labels...); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.name, c.labels, got, c.want)
		}
	}
	if r.told.Count("sluis.kms.calls", "key", "outer", "method", "Encrypt") == 0 || r.told.Count("sluis.delivery.latency") == 0 {
		t.Errorf("something is not counted: %v", r.told.Points())
	}
}

// leads looks for a trace that begins with the first and goes down the path, each "Function name of the span".
func (r *region) leads(t *testing.T, path ...string) {
	t.Helper()
	spans := r.told.Spans()
	below := map[string][]observetest.Span{}
	for _, s := range spans {
		below[s.Trace+s.Parent] = append(below[s.Trace+s.Parent], s)
	}
	var down func(from observetest.Span, path []string) bool
	down = func(from observetest.Span, path []string) bool {
		return len(path) == 0 || slices.ContainsFunc(below[from.Trace+from.ID], func(s observetest.Span) bool {
			return s.Service+" "+s.Name == path[0] && down(s, path[1:])
		})
	}
	for _, s := range spans {
		if s.Parent == "" && s.Service+" "+s.Name == path[0] && down(s, path[1:]) {
			return
		}
	}
	var b strings.Builder
	for _, s := range spans {
		fmt.Fprintf(&b, "%x %x < %x %s %s\n", s.Trace[:3], s.ID[:3], s.Parent, s.Service, s.Name)
	}
	t.Errorf("there is no %v among\n%s", path, b.String())
}
