package gcp_test

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
	"sluis.internal/shared/observe/observetest"
)

// telling exports to a receiver; after done all is there.
func telling(t *testing.T) (r *observetest.Receiver, done func()) {
	t.Helper()
	r = observetest.NewReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	x, err := observe.Open(t.Context(), observe.Options{Function: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return r, func() {
		t.Helper()
		if !x.Flush(t.Context()) {
			t.Fatal("not exported")
		}
	}
}

// TestKMSIsTold: each call is counted by its key, its method and what came of it, and stands below the act it was made for,
// also if nobody waits for that any more.
func TestKMSIsTold(t *testing.T) {
	r, done := telling(t)
	v := gcptest.NewVault(t)
	names := map[string]string{"outer": ring + "outer", "inner": ring + "inner", "certificate": ring + "certificate"}
	v.AddSymmetric(t, names["outer"])
	v.AddSigner(t, names["certificate"])
	v.Grant(sealing, gcptest.Encrypter, names["outer"])
	v.Grant(sealing, append(gcptest.Signer, gcptest.Public...), names["certificate"])
	k, err := gcp.OpenKMS(t.Context(), domain.Env{}, func(name string) string { return names[name] }, v.As(sealing)...)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx, span := observe.Begin(t.Context(), observe.Inside, "an act")
	over, cancel := context.WithCancel(ctx)
	cancel()
	sealed, err := domain.In(over, gcp.Closing(k, "outer")).Encrypt([]byte("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := domain.In(ctx, gcp.Opening(k, "outer")).Decrypt(sealed, nil); err == nil {
		t.Error("whoever seals opens")
	}
	signers, err := gcp.Signers(k, "certificate")()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := domain.In(ctx, signers[0]).Sign(nil, []byte("a"), crypto.Hash(0)); err != nil {
		t.Fatal(err)
	}
	span.End(nil)
	done()
	for _, c := range [][]string{{"key", "outer", "method", "Encrypt", "code", "OK"}, {"key", "outer", "method", "Decrypt", "code", "PermissionDenied"},
		{"key", "certificate", "method", "AsymmetricSign", "code", "OK"}, {"key", "certificate", "method", "GetPublicKey", "code", "OK"},
		{"key", "certificate", "method", "ListCryptoKeyVersions", "code", "OK"}} {
		if n := r.Count("sluis.kms.calls", c...); n != 1 {
			t.Errorf("%v: %d", c, n)
		}
	}
	if n := r.Count("sluis.kms.calls"); n != 5 {
		t.Errorf("%d calls", n)
	}
	below := 0
	for _, s := range r.Spans() {
		if s.Name != "an act" && strings.HasPrefix(s.Name, "kms ") && s.Parent != "" {
			below++
		}
	}
	if below != 3 || len(r.Spans()) != 4 { // that the public half was read, is nobody's act
		t.Errorf("%v", r.Spans())
	}
}

// TestCommitsAreCounted: what a transaction tells of counts once it has committed: once where others came in its way, not
// where it failed, and also where its caller never heard of it.
func TestCommitsAreCounted(t *testing.T) {
	gcptest.Emulators(t)
	r, done := telling(t)
	var fault string
	b, err := gcp.New(t.Context(), gcp.Options{Project: "p-counted", Kinds: []domain.DocumentKind{"session"},
		Fault: func(point string) error {
			if point == fault {
				return errors.New("played")
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var mu sync.Mutex
	tries := 0
	act := func() error {
		return b.Commit(t.Context(), func(tx domain.Tx) error {
			s := &domain.Session{ID: "ses_a"}
			if err := tx.Get(s); err != nil && domain.KindOf(err) != domain.NotFound {
				return err
			}
			mu.Lock()
			tries++
			mu.Unlock()
			s.Attempts++
			return errors.Join(tx.Put(s), tx.Record(domain.Note(domain.Env{}, "extract", "portfolio.stored", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "a", nil)))
		})
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := act(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, fault = range []string{"before-commit", "after-commit"} {
		if err := act(); err == nil {
			t.Errorf("%s: no error", fault)
		}
	}
	fault = ""
	done()
	s := &domain.Session{ID: "ses_a"}
	if err := b.Get(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tries, %d commits", tries, s.Attempts)
	if n := r.Count("sluis.refreshes", "outcome", "complete"); n != int64(s.Attempts) || n != 5 {
		t.Errorf("%d counted, %d committed, want 5", n, s.Attempts)
	}
}

// TestDeadLettersAreCounted: once each.
func TestDeadLettersAreCounted(t *testing.T) {
	gcptest.Emulators(t)
	gcptest.Topics(t, "p-dead", domain.TopicErasure)
	r, done := telling(t)
	b, err := gcp.New(t.Context(), gcp.Options{Project: "p-dead", MaxAttempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Commit(t.Context(), func(tx domain.Tx) error {
		return errors.Join(tx.Emit(domain.Event{Topic: domain.TopicErasure, Subject: "a"}),
			tx.Record(domain.Note(domain.Env{}, "test", "a.done", domain.Actor{Kind: domain.ActorSystem, ID: "test"}, "", "a", nil)))
	}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	go func() {
		for ctx.Err() == nil {
			if dead, err := b.DeadLetters(ctx, 1); err == nil && len(dead) > 0 {
				stop()
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	if err := b.Run(ctx, map[domain.Topic]domain.Handler{domain.TopicErasure: func(context.Context, domain.Event) error { return errors.New("no") }}); err != nil {
		t.Fatal(err)
	}
	done()
	if n := r.Count("sluis.dead_letters", "topic", "erasure-requested"); n != 1 || r.Count("sluis.dead_letters") != 1 {
		t.Errorf("%d: %v", n, r.Points())
	}
}

// TestTokenIsForGoogle: the function's access token goes to Google's endpoint over TLS, and to no other.
func TestTokenIsForGoogle(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		if strings.HasSuffix(q.URL.Path, "/token") {
			_, _ = w.Write([]byte(`{"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}`))
			return
		}
		http.NotFound(w, q)
	}))
	t.Cleanup(metadata.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())
	usual := http.DefaultTransport
	defer func() { http.DefaultTransport = usual }()
	var shown string
	http.DefaultTransport = roundTrip(func(q *http.Request) (*http.Response, error) {
		shown = q.Header.Get("Authorization")
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: q, Header: http.Header{}}, nil
	})
	for address, want := range map[string]string{"https://telemetry.googleapis.com/v1/traces": "Bearer token",
		"http://telemetry.googleapis.com/v1/traces": "", "https://collector.example/v1/traces": "", "https://evilgoogleapis.com/": "", "http://127.0.0.1:4318/": ""} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		shown = ""
		if _, err := gcp.Identified().RoundTrip(q); err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		if shown != want {
			t.Errorf("%s is shown %q, want %q", address, shown, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }
