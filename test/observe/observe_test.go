// Package observe plays journeys in a home that exports, and holds what an OTLP endpoint got of them against what happened:
// one trace for one act, right counts, and no word in it that is not from our own lists.
package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/extract/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe/observetest"
)

// stage is a home that exports to a receiver.
func stage(t *testing.T, set home.Settings) (*journey.Stage, *observetest.Receiver) {
	t.Helper()
	r := observetest.NewReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	set.Data = filepath.Join(t.TempDir(), "data")
	s, err := journey.OpenStage(context.Background(), set, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func play(t *testing.T, s *journey.Stage, name string, steps ...string) *journey.Player {
	t.Helper()
	p := s.Player(name)
	for _, words := range steps {
		if err := p.Play(t.Context(), words); err != nil {
			t.Fatalf("%s: %s: %v", name, words, err)
		}
	}
	return p
}

// story plays one of the demo's journeys.
func story(t *testing.T, s *journey.Stage, name string) *journey.Player {
	t.Helper()
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(j journey.Journey) bool { return j.Name == name })
	if i < 0 {
		t.Fatalf("no story %s", name)
	}
	return play(t, s, name, all[i].Steps...)
}

// must ends what was opened.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCounts: after journeys whose ends are known, the counts are theirs.
func TestCounts(t *testing.T) {
	var came atomic.Int64
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || strings.Contains(string(body), "endpoint.test") {
			return // its address is verified
		}
		if came.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(late.Close)
	s, r := stage(t, home.Settings{Webhooks: []netip.AddrPort{netip.MustParseAddrPort(late.Listener.Addr().String())}})
	must(t, s.Call(t.Context(), http.MethodPost, "/v1/endpoints", map[string]any{"url": late.URL + "/secret-path?secret=query", "types": []string{"consent.rejected"}}, nil))

	story(t, s, "wrong-pin")         // credentials refused; then a right SMS code
	story(t, s, "login-20000022")    // a wrong SMS code, then the right one
	story(t, s, "refresh-meets-sca") // a requested reading meets SCA; and two attended ones
	story(t, s, "gives-up")          // the investor stops at the bank's question
	story(t, s, "denied")            // no consent: one webhook, tried twice at the second endpoint; a read is refused
	story(t, s, "refresh")           // without SCA, and once more
	for end := time.Now().Add(time.Minute); came.Load() < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the failed webhook was not tried again")
		}
	}
	time.Sleep(100 * time.Millisecond) // until that is written down
	must(t, s.Close())

	bank := "sandbox-comdirect"
	for _, c := range []struct {
		name   string
		labels []string
		want   int64
	}{
		{"sluis.refreshes", []string{"cause", "first", "outcome", "failed", "reason", "credentials_refused"}, 1},
		{"sluis.refreshes", []string{"cause", "first", "outcome", "complete", "reason", "none"}, 4},
		{"sluis.refreshes", []string{"cause", "requested", "outcome", "complete"}, 1},
		{"sluis.refreshes", []string{"cause", "requested", "outcome", "failed", "reason", "sca_required"}, 1},
		{"sluis.refreshes", []string{"cause", "reconnect", "outcome", "complete"}, 1},
		{"sluis.refreshes", []string{"outcome", "failed", "reason", "sca_cancelled"}, 1},
		{"sluis.refreshes", []string{"custodian", bank}, 9},
		{"sluis.refreshes", nil, 9},
		{"sluis.sca", []string{"method", "sms", "outcome", "verified"}, 4},
		{"sluis.sca", []string{"method", "sms", "outcome", "rejected"}, 2},
		{"sluis.sca", []string{"outcome", "required"}, 1},
		{"sluis.sca", []string{"custodian", bank}, 7},
		{"sluis.sca", nil, 7},
		{"sluis.consent.denials", []string{"code", "consent_rejected"}, 1},
		{"sluis.consent.denials", nil, 1},
		{"sluis.dead_letters", nil, 0},
	} {
		if got := r.Count(c.name, c.labels...); got != c.want {
			t.Errorf("%s %v: %d, want %d", c.name, c.labels, got, c.want)
		}
	}
	if ages, deliveries := r.Count("sluis.delivery.age"), r.Count("sluis.delivery.latency"); ages != deliveries+1 || deliveries < 15 {
		t.Errorf("%d attempts and %d deliveries; want one attempt more", ages, deliveries)
	}
	for _, p := range r.Points() {
		if p.Name == "sluis.delivery.latency" && p.Sum < 4 {
			t.Errorf("all deliveries took %g s, though one waited for its second try", p.Sum)
		}
	}
	ours(t, r)
}

// TestDeadLetter: an event that is given up is counted once, then and not before.
func TestDeadLetter(t *testing.T) {
	var ahead atomic.Int64
	s, r := stage(t, home.Settings{Env: domain.Env{Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}})
	must(t, s.Home.Commit(t.Context(), func(tx domain.Tx) error {
		return errors.Join(tx.Emit(domain.Event{Topic: domain.TopicDelivery, Subject: "nothing"}),
			tx.Record(domain.Note(s.Home.Env, "test", "a.done", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "a", nil)))
	}))
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		letters, err := s.Home.DeadLetters(t.Context(), 10)
		must(t, err)
		if len(letters) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it was never given up")
		}
		ahead.Add(int64(2 * time.Minute))
	}
	time.Sleep(100 * time.Millisecond)
	must(t, s.Close())
	if got, all := r.Count("sluis.dead_letters", "topic", "delivery-due"), r.Count("sluis.dead_letters"); got != 1 || all != 1 {
		t.Errorf("%d dead letters of the topic and %d in all; want 1", got, all)
	}
	ours(t, r)
}

// TestOneTrace: what a client's request leads to is one trace, over all functions: the request, what it commits, the event,
// the calls to the bank, the notices and the webhooks, each below what caused it.
func TestOneTrace(t *testing.T) {
	s, r := stage(t, home.Settings{})
	story(t, s, "refresh")
	story(t, s, "login-20000002")
	must(t, s.Close())

	chain := func(root string, path ...string) {
		t.Helper()
		spans := r.Spans()
		for _, first := range spans {
			if first.Name == root && first.Parent == "" && reaches(spans, first, path) {
				return
			}
		}
		t.Errorf("no %s leads to %v; there are\n%s", root, path, tell(spans))
	}
	refresh, handle := "POST /v1/connections/{connection}/refresh", func(t domain.Topic) string { return "handle " + string(t) }
	chain(refresh, "commit", handle(domain.TopicSession), "commit")
	chain(refresh, "commit", handle(domain.TopicSession), "POST /oauth/token")
	chain(refresh, "commit", handle(domain.TopicSession), "GET /api/banking/clients/user/v2/accounts/balances")
	chain(refresh, "commit", handle(domain.TopicSession), "GET /api/brokerage/v3/depots/{depot}/positions")
	chain(refresh, "commit", handle(domain.TopicSession), "commit", handle(domain.TopicNotice), "commit", handle(domain.TopicDelivery), "POST webhook")
	chain(refresh, "commit", handle(domain.TopicSession), "commit", handle(domain.TopicNotice), "commit", handle(domain.TopicDelivery), "commit")
	chain("POST /seal", "commit", handle(domain.TopicSession), "POST /oauth/token")
	chain("POST /challenge/answer", "call answer", "PATCH /api/session/clients/user/v1/sessions/{session}")
	chain("POST /challenge/answer", "call answer", "commit", handle(domain.TopicSession), "GET /api/brokerage/clients/user/v3/depots")
	chain("POST /consent/grant", "commit", handle(domain.TopicNotice))
	ids := map[string]bool{}
	for _, span := range r.Spans() {
		ids[span.ID] = true
	}
	for _, span := range r.Spans() {
		if span.Parent != "" && !ids[span.Parent] {
			t.Errorf("%s has a parent that was not told of", span.Name)
		}
	}
	ours(t, r)
}

// reaches says whether spans lead from one down a path of names.
func reaches(spans []observetest.Span, from observetest.Span, path []string) bool {
	if len(path) == 0 {
		return true
	}
	return slices.ContainsFunc(spans, func(s observetest.Span) bool {
		return s.Trace == from.Trace && s.Parent == from.ID && s.Name == path[0] && reaches(spans, s, path[1:])
	})
}

func tell(spans []observetest.Span) string {
	var b strings.Builder
	for _, s := range spans {
		fmt.Fprintf(&b, "%x %x < %x %s %v\n", s.Trace[:3], s.ID[:3], s.Parent, s.Name, s.Attributes)
	}
	return b.String()
}

// TestNobodyListens: an endpoint that hangs, and one that refuses, are no hindrance.
func TestNobodyListens(t *testing.T) {
	for name, be := range map[string]func(*observetest.Receiver){
		"hangs":   func(r *observetest.Receiver) { r.Hold(true) },
		"refuses": func(r *observetest.Receiver) { r.Refuse(http.StatusServiceUnavailable) },
	} {
		t.Run(name, func(t *testing.T) {
			s, r := stage(t, home.Settings{})
			be(r)
			story(t, s, "refresh")
			begun := time.Now()
			must(t, s.Close())
			if took := time.Since(begun); took > 15*time.Second {
				t.Errorf("ending took %s", took)
			}
			if len(r.Spans()) > 0 {
				t.Error("the receiver took something in")
			}
		})
	}
}

// ours holds every word that came against our own lists.
func ours(t *testing.T, r *observetest.Receiver) {
	t.Helper()
	words, err := lists()
	must(t, err)
	wrong := map[string]bool{}
	for _, s := range r.Spans() {
		if !slices.Contains(words["span"], s.Name) {
			wrong["a span named "+s.Name] = true
		}
		for key, value := range s.Attributes {
			if allowed, known := words["span "+key]; !known || !slices.Contains(allowed, value) && key != "http.response.status_code" {
				wrong["a span with "+key+"="+value] = true
			}
		}
	}
	for _, p := range r.Points() {
		for key, value := range p.Labels {
			if !slices.Contains(words[p.Name+" "+key], value) {
				wrong[p.Name+" with "+key+"="+value] = true
			}
		}
	}
	for w := range wrong {
		t.Errorf("there is %s, which is on no list", w)
	}
	if len(r.Spans()) < 10 || len(r.Points()) == 0 {
		t.Errorf("%d spans and %d points: nothing was looked at", len(r.Spans()), len(r.Points()))
	}
}

// lists are all words that may stand in spans and labels, as the contracts and the connector declare them.
func lists() (map[string][]string, error) {
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		return nil, err
	}
	p, err := home.ReadPipeline()
	if err != nil {
		return nil, err
	}
	custodians := []string{"none"}
	var methods []string
	for _, c := range contracts.Custodians {
		custodians = append(custodians, string(c.ID))
		for _, m := range c.Methods {
			methods = append(methods, m.Kind)
		}
	}
	words := map[string][]string{"span": {"commit", "POST webhook", "call answer", "schedule refresh", "GET", "POST"},
		"span custodian": custodians, "span server.address": {"bank.sandbox.invalid"}, "span http.response.status_code": nil,
		"span kind":                 {"code", "poll", "select", "renew", "cancel"},
		"sluis.refreshes custodian": custodians, "sluis.refreshes cause": {"first", "reconnect", "requested", "scheduled"},
		"sluis.refreshes outcome": {"complete", "failed", "cancelled"}, "sluis.refreshes reason": {"none", "credentials_refused", "sca_required", "sca_cancelled"},
		"sluis.sca custodian": custodians, "sluis.sca method": append(methods, "none"), "sluis.sca outcome": {"verified", "rejected", "required"},
		"sluis.consent.denials code": {"consent_rejected"}}
	if words["span code"], err = codes(); err != nil {
		return nil, err
	}
	for topic := range p.Topics {
		words["span topic"] = append(words["span topic"], string(topic))
		words["span"] = append(words["span"], "handle "+string(topic))
	}
	words["sluis.dead_letters topic"] = words["span topic"]
	for _, f := range p.Functions {
		for _, r := range f.Routes {
			words["span"] = append(words["span"], r.Method+" "+r.Path)
		}
	}
	for _, q := range (comdirect.Connector{}).Requests() {
		template := q.Method + " /" + strings.Trim(q.Path, "/")
		words["span"], words["span http.route"] = append(words["span"], template), append(words["span http.route"], template)
	}
	return words, nil
}

var codeShape = regexp.MustCompile(`(?:Code: |refusal\()"([a-z_]+)"`)

// codes are those of errors that our source names, and of reasons.
func codes() ([]string, error) {
	all := []string{"internal"}
	for _, s := range domain.AnyConsentState {
		all = append(all, "consent_"+string(s))
	}
	for _, dir := range []string{"../../shared", "../../functions"} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range codeShape.FindAllSubmatch(text, -1) {
				all = append(all, string(m[1]))
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}
