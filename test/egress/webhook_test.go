package egress

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/webhook"
)

// inside is the one private address that the operator allows here, as the sample client's is. It allows nothing else.
var inside = netip.MustParseAddrPort("127.0.0.1:8090")

func message(url string) webhook.Message {
	secret := domain.NewSecret([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	return webhook.Message{ID: "evt_1", URL: url, Body: []byte(`{}`), Secrets: []domain.Secret{secret}}
}

// attempt sends once and says how that failed, and how many connections were begun for it.
func attempt(t *testing.T, s *webhook.Sender, url string) (failure string, connections int) {
	t.Helper()
	before := begun(t)
	r, err := s.Send(t.Context(), message(url))
	must(t, err)
	return r.Attempt.Failure, begun(t) - before
}

// TestTricks: each is refused when a client registers it, and again when it is to be called, without a connection.
func TestTricks(t *testing.T) {
	if len(tricks) < 200 {
		t.Fatalf("%d tricks", len(tricks))
	}
	for _, rules := range []webhook.Rules{{}, {Allow: []netip.AddrPort{inside}}} {
		s := webhook.NewSender(domain.Env{}, webhook.Options{Rules: rules})
		for name, url := range tricks {
			var e *domain.Error
			if err := rules.Validate(url); !errors.As(err, &e) || e.Kind != domain.Invalid || e.Field != "/url" {
				t.Errorf("registering %s: %v", name, err)
			}
			if failure, n := attempt(t, s, url); failure != webhook.FailureAddress || n != 0 {
				t.Errorf("calling %s: failed by %q after %d connections", name, failure, n)
			}
		}
	}
}

// TestTricksWork shows that the tricks are some: a client that guards nothing begins connections for many of them.
func TestTricksWork(t *testing.T) {
	needWorld(t)
	listenEverywhere(t)
	naive := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	worked := 0
	for _, url := range tricks {
		before := begun(t)
		if resp, err := naive.Get(url); err == nil {
			resp.Body.Close()
		}
		if begun(t) > before {
			worked++
		}
	}
	t.Logf("%d of %d tricks lead a client that guards nothing into a connection", worked, len(tricks))
	if worked < 80 {
		t.Errorf("only %d of %d tricks lead anywhere", worked, len(tricks))
	}
}

// TestNamesThatLeadInside: a name is judged by what it resolves to when it is called.
func TestNamesThatLeadInside(t *testing.T) {
	others()
	s := webhook.NewSender(domain.Env{}, webhook.Options{})
	check := func(name, host string) {
		t.Helper()
		for _, port := range []string{"", ":443", ":8443", ":10250"} {
			url := "https://" + host + port + "/hook"
			if err := (webhook.Rules{}).Validate(url); err != nil {
				t.Errorf("%s: a name cannot be known yet, and was refused: %v", name, err)
			}
			if failure, n := attempt(t, s, url); failure != webhook.FailureAddress || n != 0 {
				t.Errorf("calling %s at %s: failed by %q after %d connections", name, url, failure, n)
			}
		}
	}
	for name, a := range privateAnswers {
		dns.say("inside.example.com", a...)
		check(name, "inside.example.com")
	}
	for host, a := range wildcards {
		if a != nil {
			dns.say(strings.ToLower(strings.TrimSuffix(host, ".")), a...)
		}
		check(host, host)
	}
}

// TestRebinding: an address that changes between registration, look-up and connection, or comes among others, is judged
// where it is dialled. Only public ones are reached.
func TestRebinding(t *testing.T) {
	needWorld(t)
	others()
	public := []string{"8.8.8.8", "2606:4700:4700::1111"}
	for name, a := range map[string]answers{
		"public, then private":           {{"8.8.8.8"}, {"127.0.0.1"}},
		"public, then metadata":          {{"8.8.8.8"}, {"8.8.8.8"}, {"169.254.169.254"}},
		"back and forth":                 {{"8.8.8.8"}, {"10.0.0.1"}, {"8.8.8.8"}, {"10.0.0.1"}, {"8.8.8.8"}, {"::1"}},
		"private, then public":           {{"127.0.0.1"}, {"8.8.8.8"}},
		"mixed, public first":            {{"8.8.8.8", "10.0.0.1", "127.0.0.1"}},
		"mixed, private first":           {{"10.0.0.1", "127.0.0.1", "8.8.8.8"}},
		"mixed families":                 {{"8.8.8.8", "::1"}},
		"mixed families, the other way":  {{"127.0.0.1", "2606:4700:4700::1111"}},
		"an alias to private":            {{"8.8.8.8"}, {"CNAME inside.example.org"}},
		"an alias among addresses":       {{"8.8.8.8", "CNAME inside.example.org"}},
		"public IPv6 and mapped private": {{"2606:4700:4700::1111", "::ffff:127.0.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			trap := listenEverywhere(t)
			dns.say("rebind.example.com", a...)
			s := webhook.NewSender(domain.Env{}, webhook.Options{})
			begunAll := 0
			for range 8 {
				_, n := attempt(t, s, "https://rebind.example.com/hook")
				begunAll += n
			}
			seen := trap.await(t, begunAll)
			for _, address := range seen {
				host, _, err := net.SplitHostPort(address)
				must(t, err)
				if !slices.Contains(public, host) {
					t.Errorf("%s was reached", address)
				}
			}
			if len(seen) == 0 {
				t.Error("nothing was reached, so that the test shows nothing")
			}
		})
	}
}

// TestAllowedAddressAlone: what the operator allows is one address with one port, and nothing beside it.
func TestAllowedAddressAlone(t *testing.T) {
	asked := atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	at := netip.MustParseAddrPort(server.Listener.Addr().String())
	rules := webhook.Rules{Allow: []netip.AddrPort{at}}
	s := webhook.NewSender(domain.Env{}, webhook.Options{Rules: rules})
	dns.say("allowed.example.com", []string{"127.0.0.1"})
	port := fmt.Sprint(at.Port())
	if failure, _ := attempt(t, s, server.URL); failure != "" || asked.Load() != 1 {
		t.Fatalf("the allowed address: %q", failure)
	}
	for _, url := range []string{"http://127.0.0.2:" + port, "http://[::1]:" + port, "http://0.0.0.0:" + port, "http://localhost:" + port,
		"http://allowed.example.com:" + port, "http://127.1:" + port, "http://2130706433:" + port, "http://127.0.0.1:1" + port[1:],
		"http://[::ffff:127.0.0.2]:" + port, "http://127.0.0.1", "https://127.0.0.1", "http://u@127.0.0.1:" + port} {
		if failure, n := attempt(t, s, url); failure != webhook.FailureAddress || n != 0 {
			t.Errorf("%s: failed by %q after %d connections", url, failure, n)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("it was asked %d times", asked.Load())
	}
}

// TestEndpointThatPointsElsewhere: whatever an endpoint answers, nobody else is called.
func TestEndpointThatPointsElsewhere(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		var status int
		var say http.Header
		asked := atomic.Int64{} // for one delivery
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) > 1 {
				t.Errorf("it was asked again, for %s", r.URL)
				w.WriteHeader(http.StatusTeapot)
				return
			}
			maps.Copy(w.Header(), say)
			w.WriteHeader(status)
		}))
		server.EnableHTTP2 = h2
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		defer server.Close()
		at := netip.MustParseAddrPort(server.Listener.Addr().String())
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		s := webhook.NewSender(domain.Env{}, webhook.Options{Rules: webhook.Rules{Allow: []netip.AddrPort{at}}, RootCAs: roots})
		status = http.StatusOK
		asked.Store(0)
		if failure, _ := attempt(t, s, server.URL); failure != "" {
			t.Fatalf("an endpoint in order: %q", failure)
		}
		for _, status = range []int{200, 204, 300, 301, 302, 303, 304, 305, 307, 308, 401, 407, 421} {
			for _, where := range elsewhere {
				say = http.Header{"Location": {where}, "Refresh": {"0; url=" + where}, "Content-Location": {where},
					"Alt-Svc": {`h2="127.0.0.1:1"; ma=86400`}, "Www-Authenticate": {"Negotiate"}, "Proxy-Authenticate": {"Negotiate"}}
				asked.Store(0)
				failure, n := attempt(t, s, server.URL)
				if n > 1 || (failure == "") != (status < 300) {
					t.Errorf("%d to %s: failed by %q after %d connections", status, where, failure, n)
				}
			}
		}
	}
}

// house is a stage with an endpoint that can be led astray.
type house struct {
	*journey.Stage
	endpoint domain.Endpoint
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{Stage: stage(t, nil)}
	var list struct {
		Data []struct {
			ID domain.EndpointID `json:"id"`
		} `json:"data"`
	}
	must(t, h.Call(t.Context(), http.MethodGet, "/v1/endpoints", nil, &list))
	h.endpoint.ID = list.Data[0].ID
	must(t, h.Home.Get(t.Context(), &h.endpoint))
	return h
}

// refused calls the API and wants its refusal of the address.
func (h *house) refused(t *testing.T, name, method, path, url string) {
	t.Helper()
	if raw, err := json.Marshal(url); err != nil || !strings.Contains(url, "\xff") && !json.Valid(raw) {
		t.Fatal(name)
	}
	err := h.Call(t.Context(), method, path, map[string]string{"url": url}, nil)
	var r *journey.Refusal
	if !errors.As(err, &r) || r.Status != http.StatusUnprocessableEntity && r.Status != http.StatusBadRequest || r.Code != "invalid_field" {
		t.Errorf("%s %s of %s: %v", method, path, name, err)
	}
}

// send has a test webhook sent to whatever the endpoint's address is now, and says how that failed.
func (h *house) send(t *testing.T) string {
	t.Helper()
	path := "/v1/endpoints/" + string(h.endpoint.ID)
	var made struct {
		ID domain.DeliveryID `json:"delivery_id"`
	}
	must(t, h.Call(t.Context(), http.MethodPost, path+"/test", struct{}{}, &made))
	ctx, done := context.WithTimeout(t.Context(), 30*time.Second)
	defer done()
	for {
		d := &domain.Delivery{ID: made.ID}
		if err := h.Home.Get(ctx, d); err == nil && len(d.Attempts) > 0 {
			return d.Attempts[0].Failure
		} else if err != nil && domain.KindOf(err) != domain.NotFound {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // another goroutine of a real process is waited for
	}
}

// TestTricksAtTheHouse: the same tricks at the API, which refuses them at registration and at a change; and, where an
// address stands in the store nonetheless (written by an older version, or under other rules), at the delivery.
func TestTricksAtTheHouse(t *testing.T) {
	h := newHouse(t)
	path := "/v1/endpoints/" + string(h.endpoint.ID)
	names := slices.Sorted(maps.Keys(tricks))
	for i, name := range names {
		h.refused(t, name, http.MethodPost, "/v1/endpoints", tricks[name])
		h.refused(t, name, http.MethodPatch, path, tricks[name])
		if i%4 != 0 && !full {
			continue
		}
		h.moved(t, tricks[name])
		if failure := h.send(t); failure != webhook.FailureAddress {
			t.Errorf("sending to %s: failed by %q", name, failure)
		}
	}
	var list struct {
		Data []json.RawMessage `json:"data"`
	}
	must(t, h.Call(t.Context(), http.MethodGet, "/v1/endpoints", nil, &list))
	if len(list.Data) != 1 {
		t.Errorf("%d endpoints are there", len(list.Data))
	}
}

// moved writes the endpoint's address into the store, past the API.
func (h *house) moved(t *testing.T, url string) {
	t.Helper()
	h.change(t, func(ep *domain.Endpoint) { ep.URL = url })
}

// verified lets the endpoint's address count as one that has answered.
func (h *house) verified(t *testing.T) {
	t.Helper()
	h.change(t, func(ep *domain.Endpoint) { ep.Unverified = false })
}

func (h *house) change(t *testing.T, fn func(*domain.Endpoint)) {
	t.Helper()
	must(t, h.Home.Commit(t.Context(), func(tx domain.Tx) error {
		ep := &domain.Endpoint{ID: h.endpoint.ID}
		if err := tx.Get(ep); err != nil {
			return err
		}
		fn(ep)
		actor := domain.Actor{Kind: domain.ActorOperator, ID: "test"}
		return errors.Join(tx.Put(ep), tx.Record(domain.Note(h.Home.Env, "test", "endpoint.moved", actor, ep.ClientID, ep.Key(), nil)))
	}))
}

// TestNameThatMovedInside: a name that was public at registration is private when it is called.
func TestNameThatMovedInside(t *testing.T) {
	h := newHouse(t)
	others()
	trap := listenEverywhere(t)
	for name, a := range privateAnswers {
		dns.say("moved.example.com", []string{"8.8.8.8"})
		must(t, h.Call(t.Context(), http.MethodPatch, "/v1/endpoints/"+string(h.endpoint.ID), map[string]string{"url": "https://moved.example.com/hook"}, nil))
		dns.say("moved.example.com", a...)
		h.verified(t)
		if failure := h.send(t); failure != webhook.FailureAddress {
			t.Errorf("%s: failed by %q", name, failure)
		}
	}
	if seen := trap.reached(); len(seen) > 0 {
		t.Errorf("%v were reached", seen)
	}
}
