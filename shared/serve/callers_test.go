package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.opentelemetry.io/otel/trace"

	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

const (
	audience = "https://notify.example"
	pushing  = "push@p.iam.gserviceaccount.com"
)

// traced is the trace that every event here was emitted in.
const traced = "4bf92f3577b34da6a3ce929d0e0e4736"

// host is where a function runs, and what was delivered there.
type host struct {
	issuer  string
	got     []domain.Event
	trace   string // that the last one was delivered in
	unnoted error  // what Deliver returns
}

func (h *host) Callers() (string, string, []string) { return h.issuer, audience, []string{pushing} }

func (h *host) Deliver(ctx context.Context, e domain.Event, handle domain.Handler) error {
	h.got, h.trace = append(h.got, e), trace.SpanContextFromContext(ctx).TraceID().String()
	_ = handle(ctx, e)
	return h.unnoted
}

// pushed is a push as Pub/Sub makes it.
func pushed(t *testing.T, e domain.Event) string {
	t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"subscription": "projects/p/subscriptions/s",
		"message": map[string]any{"data": data, "messageId": "1", "publishTime": "2026-11-22T10:00:00Z", "attributes": map[string]string{"event": string(e.ID), "traceparent": "00-" + traced + "-00f067aa0ba902b7-01"}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func post(t *testing.T, face http.Handler, token, body string) (int, string) {
	t.Helper()
	q := httptest.NewRequest(http.MethodPost, "/projects/p/topics/t", strings.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	face.ServeHTTP(w, q)
	var p serve.Problem
	_ = json.Unmarshal(w.Body.Bytes(), &p)
	return w.Code, p.Code
}

// TestCallers: only who shows the issuer's token for this audience, about the right account, gets through.
func TestCallers(t *testing.T) {
	issuer, other := gcptest.NewIssuer(t), gcptest.NewIssuer(t)
	h := &host{issuer: issuer.URL}
	face := serve.Push(h, func(context.Context, domain.Event) error { return nil })
	body := pushed(t, domain.Event{ID: "evt_1", Topic: "notice-raised", Subject: "ntc_1"})
	claims := map[string]any{"iss": issuer.URL, "aud": audience, "email": pushing, "email_verified": true, "exp": time.Now().Add(time.Hour).Unix()}
	hmac := gcptest.Sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte("0123456789abcdef0123456789abcdef")}, claims)
	parts := strings.Split(issuer.Token(t, pushing, audience, nil), ".")
	for name, token := range map[string]string{
		"none":               "",
		"no token":           "x",
		"another issuer's":   other.Token(t, pushing, audience, nil),
		"another's, says so": other.Token(t, pushing, audience, map[string]any{"iss": issuer.URL}),
		"another audience":   issuer.Token(t, pushing, "https://deliver.example", nil),
		"no audience":        issuer.Token(t, pushing, audience, map[string]any{"aud": nil}),
		"another account":    issuer.Token(t, "intruder@p.iam.gserviceaccount.com", audience, nil),
		"no account":         issuer.Token(t, "", audience, nil),
		"unverified":         issuer.Token(t, pushing, audience, map[string]any{"email_verified": false}),
		"over":               issuer.Token(t, pushing, audience, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
		"endless":            issuer.Token(t, pushing, audience, map[string]any{"exp": nil}),
		"HMAC":               hmac,
		"unsigned":           "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"altered":            parts[0] + "." + parts[1] + "A." + parts[2],
		"cut":                parts[0] + "." + parts[1],
	} {
		if status, code := post(t, face, token, body); status != http.StatusUnauthorized || code != "caller_unknown" {
			t.Errorf("%s: %d %s", name, status, code)
		}
	}
	if len(h.got) > 0 {
		t.Fatalf("strangers had %d events handled", len(h.got))
	}
	for range 2 {
		if status, code := post(t, face, issuer.Token(t, pushing, audience, nil), body); status != http.StatusNoContent {
			t.Errorf("%d %s", status, code)
		}
		issuer.Rotate(t) // the next token's key was not there when the keys were read
	}
	if len(h.got) != 2 || h.got[0].Subject != "ntc_1" {
		t.Errorf("delivered %v", h.got)
	}
}

// TestIssuerAway: while it is not known who calls, nobody gets through, and everybody is to come again.
func TestIssuerAway(t *testing.T) {
	issuer := gcptest.NewIssuer(t)
	h := &host{issuer: "http://127.0.0.1:1"}
	face := serve.Push(h, func(context.Context, domain.Event) error { return nil })
	if status, code := post(t, face, issuer.Token(t, pushing, audience, nil), "{}"); status != http.StatusServiceUnavailable || len(h.got) > 0 {
		t.Errorf("%d %s, %d delivered", status, code, len(h.got))
	}
}

// TestPush: what is no event is dropped, what cannot be noted comes again, and a handler's failure is the host's.
func TestPush(t *testing.T) {
	issuer := gcptest.NewIssuer(t)
	h := &host{issuer: issuer.URL}
	face := serve.Push(h, func(context.Context, domain.Event) error { return errors.New("failed") })
	token := issuer.Token(t, pushing, audience, nil)
	event := pushed(t, domain.Event{ID: "evt_1"})
	for _, c := range []struct {
		name, body string
		unnoted    error
		status     int
		delivered  int
	}{
		{"an event", event, nil, 204, 1},
		{"one that cannot be noted", event, &domain.Error{Kind: domain.Unavailable, Code: "busy"}, 503, 1},
		{"no event", `{"message":{"data":"e30="}}`, nil, 204, 0},
		{"no JSON inside", `{"message":{"data":"eA=="}}`, nil, 204, 0},
		{"nothing", ``, nil, 400, 0},
		{"too much", `{"message":{"data":"` + strings.Repeat("A", serve.MaxBody) + `"}}`, nil, 413, 0},
	} {
		h.got, h.unnoted = nil, c.unnoted
		if status, code := post(t, face, token, c.body); status != c.status || len(h.got) != c.delivered {
			t.Errorf("%s: %d %s, %d delivered", c.name, status, code, len(h.got))
		}
		if c.delivered > 0 && h.trace != traced {
			t.Errorf("%s: delivered in the trace %s", c.name, h.trace)
		}
	}
}

// bearer shows a token with every request.
type bearer string

func (b bearer) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(q)
}

// TestTell: what one function refuses the other learns as the same error, and nothing of our insides.
func TestTell(t *testing.T) {
	issuer := gcptest.NewIssuer(t)
	var refusal error
	var got domain.AnswerRequest
	server := httptest.NewServer(serve.Told(&host{issuer: issuer.URL}, func(_ context.Context, r domain.AnswerRequest) error {
		got = r
		return refusal
	}))
	defer server.Close()
	client := &http.Client{Transport: bearer(issuer.Token(t, pushing, audience, nil))}
	sent := domain.AnswerRequest{SessionID: "ses_1", ChallengeID: "chal_1", Kind: domain.AnswerCode, SealedCode: "a.b.c.d.e"}
	for _, want := range []error{
		nil,
		&domain.Error{Kind: domain.Gone, Code: "challenge_over", Message: "this question of the bank is over"},
		&domain.Error{Kind: domain.RateLimited, Code: "slow", Message: "wait", RetryAfter: 7 * time.Second},
		&domain.Error{Kind: domain.Invalid, Code: "jwe_typ", Field: "/sealed_code", Message: "seal it again"},
	} {
		refusal = want
		err := serve.Tell(t.Context(), client, server.URL+"/answer", sent)
		if fmt.Sprintf("%#v", err) != fmt.Sprintf("%#v", want) && !same(err, want) || got != sent {
			t.Errorf("%v came back as %v; %+v", want, err, got)
		}
	}
	refusal = errors.New("secret insides")
	if err := serve.Tell(t.Context(), client, server.URL+"/answer", sent); domain.KindOf(err) != domain.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("insides come back as %v", err)
	}
	server.Close()
	if err := serve.Tell(t.Context(), client, server.URL+"/answer", sent); domain.KindOf(err) != domain.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); _, _ = io.WriteString(w, "<html>") }))
	defer plain.Close()
	if err := serve.Tell(t.Context(), client, plain.URL, sent); domain.KindOf(err) != domain.Unavailable {
		t.Errorf("somebody else answers: %v", err)
	}
}

func same(a, b error) bool {
	var x, y *domain.Error
	return errors.As(a, &x) && errors.As(b, &y) && reflect.DeepEqual(x, y)
}

// TestLazy: a home that does not open is tried again, one that opened is kept.
func TestLazy(t *testing.T) {
	opened, wired := 0, 0
	face := serve.Lazy(func(context.Context) (int, error) {
		if opened++; opened == 1 {
			return 0, errors.New("secret insides")
		}
		return opened, nil
	}, func(int) (serve.Face, error) {
		if wired++; wired == 1 {
			return nil, errors.New("not yet")
		}
		return (&serve.Door{}).Mux(), nil
	})
	var said []int
	for range 4 {
		w := httptest.NewRecorder()
		face(w, httptest.NewRequest(http.MethodGet, "/", nil))
		said = append(said, w.Code)
		if strings.Contains(w.Body.String(), "secret") {
			t.Error("it shows its insides")
		}
	}
	if fmt.Sprint(said) != "[503 503 404 404]" || opened != 2 || wired != 2 {
		t.Errorf("%v, opened %d times, wired %d times", said, opened, wired)
	}
}

// TestTracesOfCallers: a function of ours goes on with its trace here; anybody else's traceparent changes nothing.
func TestTracesOfCallers(t *testing.T) {
	issuer := gcptest.NewIssuer(t)
	h := &host{issuer: issuer.URL}
	seen := ""
	note := func(ctx context.Context) { seen = trace.SpanContextFromContext(ctx).TraceID().String() }
	told := serve.Told(h, func(ctx context.Context, _ struct{}) error { note(ctx); return nil })
	open := (&serve.Door{}).Mux(func(mux *http.ServeMux) {
		mux.HandleFunc("POST /", func(_ http.ResponseWriter, r *http.Request) { note(r.Context()) })
	})
	for _, c := range []struct {
		name string
		face http.Handler
		goes bool
	}{{"a function of ours", told, true}, {"anybody", open, false}} {
		lazy := serve.Lazy(func(context.Context) (int, error) { return 0, nil }, func(int) (serve.Face, error) { return c.face, nil })
		q := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set("Authorization", "Bearer "+issuer.Token(t, pushing, audience, nil))
		q.Header.Set("traceparent", "00-"+traced+"-00f067aa0ba902b7-01")
		seen = ""
		lazy(httptest.NewRecorder(), q)
		if seen == "" || (seen == traced) != c.goes {
			t.Errorf("%s: the trace is %q", c.name, seen)
		}
	}
}
