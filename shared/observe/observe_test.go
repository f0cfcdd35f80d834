package observe_test

import (
	"context"
	"encoding/hex"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
	"sluis.internal/shared/observe/observetest"
)

var catalogue = []domain.Custodian{{ID: "bank", Methods: []domain.SCAMethod{{ID: "M_TAN", Kind: "sms"}, {ID: "ODD", Kind: "Anna's own"}}}}

func open(t *testing.T, every time.Duration) (*observe.Exporter, *observetest.Receiver) {
	t.Helper()
	r := observetest.NewReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	x, err := observe.Open(t.Context(), observe.Options{Function: "seal", Project: "p", Region: "europe-west4", Custodians: catalogue, Every: every})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x, r
}

func flush(t *testing.T, x *observe.Exporter) {
	t.Helper()
	if !x.Flush(t.Context()) {
		t.Fatal("not exported")
	}
}

// TestNothingIsExportedUnasked: without an endpoint there is no exporter, and nothing that needs one.
func TestNothingIsExportedUnasked(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	x, err := observe.Open(t.Context(), observe.Options{})
	if x != nil || err != nil {
		t.Fatalf("%v, %v", x, err)
	}
	ctx, span := observe.Begin(t.Context(), observe.Inside, "a")
	if ctx != t.Context() || span != nil {
		t.Error("a span was begun")
	}
	span.Name("b")
	span.Status(500)
	span.End(nil)
	observe.Committed(ctx, []*domain.Entry{{Type: "sluis.portfolio.stored"}})
	x.Ended()
	x.AtTermination()
	if err := x.Close(); err != nil || !x.Flush(ctx) {
		t.Error(err)
	}
}

// TestStrangeWords: what an entry says beyond our lists does not come out, and neither does an error's text.
func TestStrangeWords(t *testing.T) {
	x, r := open(t, time.Hour)
	entry := func(action string, outcome domain.Outcome, reason string, details map[string]string) *domain.Entry {
		return &domain.Entry{Type: "sluis." + action, Data: domain.EntryData{Custodian: "Anna Bank", Outcome: outcome, Reason: reason, Details: details}}
	}
	anna := map[string]string{"cause": "Anna", "reason": "Anna Muster", "method": "Anna's phone"}
	observe.Committed(t.Context(), []*domain.Entry{entry("portfolio.stored", domain.OutcomeAllowed, "", anna), entry("session.failed", domain.OutcomeAllowed, "", anna),
		entry("sca.verified", domain.OutcomeAllowed, "", anna), entry("Anna.acts", domain.OutcomeDenied, "Anna", anna)})
	odd := entry("sca.verified", domain.OutcomeAllowed, "", map[string]string{"method": "ODD"})
	odd.Data.Custodian = "bank"
	observe.Committed(t.Context(), []*domain.Entry{odd})
	observe.DeadLetter(t.Context(), "Anna")
	observe.AskedKMS(t.Context(), "Anna", "Anna", "Anna")
	ctx, span := observe.Begin(t.Context(), observe.Inside, "a", observe.Custodian("Anna"), observe.Topic("Anna"), observe.Answer("Anna"), observe.Key("Anna"))
	_, child := observe.Within(ctx, observe.Inside, "b")
	child.End(&domain.Error{Kind: domain.Unavailable, Code: "Anna Muster", Message: "Anna", Err: context.Canceled})
	span.End(&domain.Error{Kind: domain.Invalid, Code: "fits_here", Field: "/anna", Message: "Anna"})
	flush(t, x)
	for _, raw := range r.Raw() {
		if strings.Contains(strings.ToLower(string(raw)), "anna") {
			t.Errorf("it came out: %q", raw)
		}
	}
	if r.Count("sluis.refreshes", "custodian", "other", "cause", "other", "reason", "other") != 1 || r.Count("sluis.sca", "method", "other") != 3 ||
		r.Count("sluis.consent.denials", "code", "other") != 1 || r.Count("sluis.kms.calls", "key", "other", "method", "other", "code", "other") != 1 ||
		r.Count("sluis.dead_letters", "topic", "other") != 1 || len(r.Spans()) != 2 {
		t.Errorf("%v\n%v", r.Points(), r.Spans())
	}
}

// TestLibrariesSayNothing: what a library finds in a context lets it tell of nothing, and passes the trace on.
func TestLibrariesSayNothing(t *testing.T) {
	x, r := open(t, time.Hour)
	ctx, span := observe.Begin(t.Context(), observe.Inside, "ours")
	found := trace.SpanFromContext(ctx)
	inner, theirs := found.TracerProvider().Tracer("library").Start(ctx, "theirs", trace.WithAttributes(attribute.String("url.full", "https://anna")))
	theirs.End()
	found.SetName("anna")
	found.SetAttributes(attribute.String("url.full", "https://anna"))
	found.AddEvent("anna")
	found.RecordError(errors.New("anna"))
	found.SetStatus(codes.Error, "anna")
	found.AddLink(trace.Link{SpanContext: found.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("a", "anna")}})
	_, child := observe.Begin(inner, observe.Inside, "child")
	child.End(nil)
	span.End(nil)
	flush(t, x)
	s := r.Spans()
	if len(s) != 2 || s[0].Name != "child" || s[1].Name != "ours" || s[0].Parent != s[1].ID || strings.Contains(string(r.Raw()[0]), "anna") {
		t.Errorf("%v", s)
	}
}

// TestFlush: what was told is there after a Flush, with who tells it; and counts add up.
func TestFlush(t *testing.T) {
	x, r := open(t, time.Hour)
	observe.DeadLetter(t.Context(), domain.TopicNotice)
	flush(t, x)
	observe.DeadLetter(t.Context(), domain.TopicNotice)
	observe.Tried(t.Context(), 90*time.Second)
	flush(t, x)
	if got := r.Count("sluis.dead_letters", "topic", "notice-raised"); got != 2 {
		t.Errorf("%d dead letters", got)
	}
	for _, p := range r.Points() {
		if p.Service != "seal" || p.Name == "sluis.delivery.age" && p.Sum != 90 {
			t.Errorf("%+v", p)
		}
	}
}

// TestEnded: the end of a request exports what is due, and waits for it a bounded time and not each time.
func TestEnded(t *testing.T) {
	x, r := open(t, time.Hour)
	observe.DeadLetter(t.Context(), domain.TopicNotice)
	x.Ended()
	if r.Count("sluis.dead_letters") != 1 {
		t.Error("what was due was not exported within the request")
	}
	observe.DeadLetter(t.Context(), domain.TopicNotice)
	x.Ended()
	if r.Count("sluis.dead_letters") != 1 {
		t.Error("exported though nothing was due")
	}
	for name, be := range map[string]func(*observetest.Receiver){"hangs": func(r *observetest.Receiver) { r.Hold(true) },
		"refuses": func(r *observetest.Receiver) { r.Refuse(http.StatusServiceUnavailable) }} {
		t.Run(name, func(t *testing.T) {
			x, r := open(t, time.Millisecond)
			be(r)
			observe.DeadLetter(t.Context(), domain.TopicNotice)
			time.Sleep(2 * time.Millisecond)
			var slowest time.Duration
			begun := time.Now()
			for range 100 {
				before := time.Now()
				x.Ended()
				slowest = max(slowest, time.Since(before))
			}
			if all := time.Since(begun); slowest > 500*time.Millisecond || all > time.Second {
				t.Errorf("100 requests waited %s in all, one of them %s", all, slowest)
			}
		})
	}
}

// TestPatience: after an export that failed, the next ones are left out.
func TestPatience(t *testing.T) {
	const every = 100 * time.Millisecond
	x, r := open(t, every)
	r.Refuse(http.StatusServiceUnavailable)
	observe.DeadLetter(t.Context(), domain.TopicNotice)
	x.Ended()
	first := r.Asked()
	time.Sleep(3 * every)
	x.Ended()
	if first == 0 || r.Asked() != first {
		t.Errorf("asked %d times, and then %d times", first, r.Asked()-first)
	}
}

const foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestSampling: the environment says which traces are kept; what a function of ours decided goes before that, and what
// anybody else wishes does not.
func TestSampling(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0")
	x, r := open(t, time.Hour)
	_, span := observe.Begin(t.Context(), observe.Inside, "ours")
	span.End(nil)
	_, span = observe.Answering(t.Context(), "theirs", foreign)
	span.End(nil)
	_, span = observe.Begin(observe.In(t.Context(), foreign), observe.Inside, "another function's")
	span.End(nil)
	flush(t, x)
	if s := r.Spans(); len(s) != 1 || s[0].Name != "another function's" {
		t.Errorf("kept %v", s)
	}
}

// TestForeignTrace: a caller's traceparent begins a trace of ours, which links to theirs. It does not become the caller's
// trace, nor that of what we emit; and one that is none is not repeated.
func TestForeignTrace(t *testing.T) {
	x, r := open(t, time.Hour)
	ctx, span := observe.Answering(t.Context(), "linked", foreign)
	if strings.Contains(observe.Traceparent(ctx), "0af7651916cd43dd8448eb211c80319c") {
		t.Error("what we emit goes on with their trace")
	}
	_, child := observe.Answering(ctx, "child", foreign)
	child.End(nil)
	span.End(nil)
	_, span = observe.Answering(t.Context(), "alone", "00-anna")
	span.End(nil)
	own := observe.In(t.Context(), foreign)
	_, span = observe.Answering(own, "continued", "")
	span.End(nil)
	flush(t, x)
	theirs, _ := hex.DecodeString("0af7651916cd43dd8448eb211c80319c")
	for _, s := range r.Spans() {
		continues, links := s.Trace == string(theirs), slices.Equal(s.Links, []string{string(theirs)})
		if continues != (s.Name == "continued") || links != (s.Name == "linked") || len(s.Links) > 1 {
			t.Errorf("%s: in their trace: %t, links: %x", s.Name, continues, s.Links)
		}
	}
}

// TestListsAreComplete: every word that the domain has for a label is on the label's list, or counts would hide it.
func TestListsAreComplete(t *testing.T) {
	kinds := map[string]string{"Reason": "reason", "Cause": "cause", "Topic": "topic", "AnswerKind": "kind"}
	found := 0
	each(t, "../domain", func(_ string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			name, ok := spec.Type.(*ast.Ident)
			if !ok || kinds[name.Name] == "" {
				return true
			}
			for _, v := range spec.Values {
				if lit, ok := v.(*ast.BasicLit); ok {
					found++
					text, _ := strconv.Unquote(lit.Value)
					if !slices.Contains(observe.Closed[kinds[name.Name]], text) {
						t.Errorf("%s %q is on no list", name.Name, text)
					}
				}
			}
			return true
		})
	})
	if found < 25 {
		t.Errorf("%d words: the test looks at the wrong thing", found)
	}
	for _, s := range domain.AnyConsentState {
		if !slices.Contains(observe.Closed["denial"], "consent_"+string(s)) {
			t.Errorf("consent_%s is no denial", s)
		}
	}
	contracts, err := domain.ReadContracts(schemas.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contracts.Custodians {
		for _, m := range c.Methods {
			if !slices.Contains(observe.Closed["scaMethod"], m.Kind) {
				t.Errorf("%s: %s is no SCA method", c.ID, m.Kind)
			}
		}
	}
}

var forbidden = regexp.MustCompile(`Forbidden, Code: "([a-z_]+)"|return (?:c, )?refusal\("([a-z_]+)"`)

// beforeAnyConsent are refusals that no consent has to do with: of a door, of a client's keys, and of a place for data.
var beforeAnyConsent = []string{"role_forbidden", "advisor_removed", "cross_origin", "origin_hidden", "key_administration",
	"key_replaced", "unsafe_directory"}

// TestDenialsAreListed: every code with which the source refuses an act. "consent_" goes on with a state: see above.
func TestDenialsAreListed(t *testing.T) {
	found := 0
	for _, dir := range []string{"..", "../../functions"} {
		each(t, dir, func(path string, _ *ast.File) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range forbidden.FindAllStringSubmatch(string(text), -1) {
				code := m[1] + m[2]
				found++
				if code != "consent_" && !slices.Contains(observe.Closed["denial"], code) && !slices.Contains(beforeAnyConsent, code) {
					t.Errorf("%s: %s is no denial", path, code)
				}
			}
		})
	}
	if found < 12 {
		t.Errorf("%d refusals: the test looks at the wrong thing", found)
	}
}

// each reads the Go files below a directory, without tests.
func each(t *testing.T, dir string, do func(path string, f *ast.File)) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			do(path, f)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
