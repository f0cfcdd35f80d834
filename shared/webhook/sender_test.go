package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
)

var signing = domain.NewSecret([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))

func message(url string) Message {
	return Message{ID: "evt_1", URL: url, Body: []byte(`{"a":1}`), Secrets: []domain.Secret{signing}}
}

// receiver is a client's server on loopback, with a certificate of its own, and a Sender that may reach it.
func receiver(t *testing.T, h http.HandlerFunc, change func(*httptest.Server)) (*httptest.Server, *Sender) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	if change != nil {
		change(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	address := netip.MustParseAddrPort(server.Listener.Addr().String())
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	s := NewSender(domain.Env{}, Options{Rules: Rules{Allow: []netip.AddrPort{address}}, RootCAs: roots})
	t.Cleanup(s.client.CloseIdleConnections)
	return server, s
}

func send(t *testing.T, s *Sender, url string) Result {
	t.Helper()
	r, err := s.Send(t.Context(), message(url))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSendDelivers(t *testing.T) {
	var got *http.Request
	var body []byte
	server, s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		got, body = r, must(io.ReadAll(r.Body))
		w.WriteHeader(http.StatusAccepted)
	}, nil)
	r := send(t, s, server.URL+"/hook?a=b")
	if !r.Delivered() || r.Attempt.Status != 202 || r.Attempt.Failure != "" || r.Attempt.At.IsZero() {
		t.Fatalf("attempt: %+v", r.Attempt)
	}
	if got.Method != "POST" || got.URL.String() != "/hook?a=b" || got.Header.Get("Content-Type") != "application/json" || string(body) != `{"a":1}` {
		t.Errorf("the endpoint received %s %s, body %s", got.Method, got.URL, body)
	}
	if got.ProtoMajor != 2 {
		t.Errorf("protocol %s, want HTTP/2 with an endpoint that speaks it", got.Proto)
	}
	want := must(Sign("evt_1", r.Attempt.At, body, signing))
	if got.Header.Get(HeaderID) != "evt_1" || got.Header.Get(HeaderTimestamp) != Timestamp(r.Attempt.At) || got.Header.Get(HeaderSignature) != want {
		t.Errorf("headers: %v, want signature %s", got.Header, want)
	}
	if got.Header.Get("Accept-Encoding") != "" {
		t.Error("the answer may come compressed")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSendAnswers(t *testing.T) {
	when := time.Now().Add(2 * time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		status    int
		after     string
		delivered bool
		gone      bool
		wait      time.Duration // to the nearest minute
	}{
		"200":                    {status: 200, delivered: true},
		"204":                    {status: 204, delivered: true},
		"299":                    {status: 299, delivered: true},
		"400":                    {status: 400},
		"410":                    {status: 410, gone: true},
		"429 with seconds":       {status: 429, after: "120", wait: 2 * time.Minute},
		"503 with a date":        {status: 503, after: when, wait: 2 * time.Hour},
		"503 with a past date":   {status: 503, after: "Mon, 01 Jan 2024 00:00:00 GMT"},
		"503 with nonsense":      {status: 503, after: "soon"},
		"503 with less than 0":   {status: 503, after: "-5"},
		"503 with too much":      {status: 503, after: "4000000000", wait: 24 * time.Hour},
		"503 with far too much":  {status: 503, after: "99999999999999999999"},
		"200 with a Retry-After": {status: 200, after: "60", delivered: true},
	} {
		t.Run(name, func(t *testing.T) {
			server, s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				w.WriteHeader(c.status)
			}, nil)
			r := send(t, s, server.URL)
			if r.Delivered() != c.delivered || r.Gone() != c.gone || r.Attempt.Status != c.status {
				t.Errorf("result: %+v", r)
			}
			if (r.Attempt.Failure == FailureStatus) == c.delivered {
				t.Errorf("failure: %q", r.Attempt.Failure)
			}
			if r.RetryAfter.Round(time.Minute) != c.wait {
				t.Errorf("wait: %v, want %v", r.RetryAfter, c.wait)
			}
		})
	}
}

func TestSendFollowsNoRedirect(t *testing.T) {
	var second atomic.Int32
	server, s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/second" {
			second.Add(1)
			return
		}
		status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		http.Redirect(w, r, "/second", status)
	}, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := send(t, s, server.URL+"/"+strconv.Itoa(status))
		if r.Delivered() || r.Attempt.Status != status {
			t.Errorf("%d: %+v", status, r.Attempt)
		}
	}
	if second.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestSendTakesNoProxy(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("HTTP_PROXY", proxy.URL)
	if s := NewSender(domain.Env{}, Options{}); s.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("the sender looks for a proxy")
	}
	server, s := receiver(t, func(http.ResponseWriter, *http.Request) {}, nil)
	if r := send(t, s, server.URL); !r.Delivered() || asked.Load() != 0 {
		t.Errorf("%+v, and the proxy was asked %d times", r.Attempt, asked.Load())
	}
}

func TestSendStopsReading(t *testing.T) {
	var sent atomic.Int64
	done := make(chan struct{})
	server, s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(done)
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for range 1 << 10 { // 64 MiB
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}, nil)
	r := send(t, s, server.URL)
	<-done
	if !r.Delivered() || sent.Load() >= 64<<20 {
		t.Errorf("%+v after %d bytes", r.Attempt, sent.Load())
	}
}

// An endpoint that drops a kept connection as the next webhook comes has not failed; one that drops a new one has.
func TestSendOnAKeptConnection(t *testing.T) {
	came := 0
	dropped := 2
	server, s := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if came++; came != dropped {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Close()
	}, func(server *httptest.Server) { server.EnableHTTP2 = false })
	send(t, s, server.URL)
	if r := send(t, s, server.URL); !r.Delivered() || came != 3 {
		t.Errorf("%+v after %d requests, want 3", r, came)
	}
	s.client.CloseIdleConnections()
	dropped = 4
	if r := send(t, s, server.URL); r.Attempt.Failure != FailureConnection || came != 4 {
		t.Errorf("%+v after %d requests, want 4", r, came)
	}
}

func TestSendClassifiesFailures(t *testing.T) {
	server, good := receiver(t, func(http.ResponseWriter, *http.Request) {}, nil)
	address := netip.MustParseAddrPort(server.Listener.Addr().String())
	old, oldSender := receiver(t, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) {
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	})
	closed := must(net.Listen("tcp", "127.0.0.1:0"))
	closedAt := netip.MustParseAddrPort(closed.Addr().String())
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	plainAt := netip.MustParseAddrPort(plain.Listener.Addr().String())
	breaks, breaksSender := receiver(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil)
	allow := func(a ...netip.AddrPort) *Sender {
		return NewSender(domain.Env{}, Options{Rules: Rules{Allow: a}})
	}
	named := allow()
	named.dialer.Resolver = resolving(netip.MustParseAddr("127.0.0.1"))
	for name, c := range map[string]struct {
		sender *Sender
		url    string
		want   string
	}{
		"all is well":                     {good, server.URL, ""},
		"certificate of nobody":           {allow(address), server.URL, FailureTLS},
		"TLS 1.1":                         {oldSender, old.URL, FailureTLS},
		"plain http on the port":          {allow(plainAt), "https://" + plainAt.String(), FailureTLS},
		"nobody listens":                  {allow(closedAt), "https://" + closedAt.String(), FailureConnection},
		"breaks off":                      {breaksSender, breaks.URL, FailureConnection},
		"loopback is not allowed":         {allow(), server.URL, FailureAddress},
		"http is not allowed":             {allow(), plain.URL, FailureAddress},
		"name that resolves to loopback":  {named, "https://rebind.example.com:8443/", FailureAddress},
		"name that resolves to nothing":   {named, "https://nothing.example.com:8443/", FailureConnection},
		"what Validate would not let by":  {allow(), "https://user@example.com/", FailureAddress},
		"http where the operator says so": {allow(plainAt), plain.URL, FailureStatus},
	} {
		t.Run(name, func(t *testing.T) {
			if r := send(t, c.sender, c.url); r.Attempt.Failure != c.want {
				t.Errorf("failure is %q, want %q", r.Attempt.Failure, c.want)
			}
		})
	}
}

func TestSendShowsItsCertificate(t *testing.T) {
	server, s := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			w.WriteHeader(http.StatusForbidden)
		}
	}, func(s *httptest.Server) { s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert} })
	if r := send(t, s, server.URL); r.Delivered() {
		t.Error("an endpoint that wants a certificate took a request without one")
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	own := server.TLS.Certificates[0]
	mutual := NewSender(domain.Env{}, Options{Rules: s.rules, RootCAs: roots, Certificate: &own})
	defer mutual.client.CloseIdleConnections()
	if r := send(t, mutual, server.URL); !r.Delivered() {
		t.Errorf("with a certificate: %+v", r.Attempt)
	}
}

// A pipe stands for the network, so that the clock of the bubble can run out.
func TestSendGivesUpInTime(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		url    string
		want   string
		within time.Duration
	}{
		"silent endpoint":     {"", "http://127.0.0.1:8090/", FailureTimeout, wholeTimeout},
		"answer half way":     {"HTTP/1.1 200 OK\r\nContent-Le", "http://127.0.0.1:8090/", FailureTimeout, wholeTimeout},
		"silent handshake":    {"", "https://127.0.0.1:8090/", FailureTimeout, connectTimeout},
		"body without an end": {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", "http://127.0.0.1:8090/", "", wholeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSender(domain.Env{}, Options{Rules: sandbox})
				s.client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
					here, there := net.Pipe()
					go func() {
						_, _ = there.Read(make([]byte, 4096)) // the request
						_, _ = io.WriteString(there, c.answer)
						_, _ = io.Copy(io.Discard, there)
					}()
					return here, nil
				}
				start := time.Now()
				r := send(t, s, c.url)
				if r.Attempt.Failure != c.want || time.Since(start) != c.within {
					t.Errorf("failure %q after %v, want %q after %v", r.Attempt.Failure, time.Since(start), c.want, c.within)
				}
				s.client.CloseIdleConnections()
				synctest.Wait()
			})
		})
	}
}

func TestSendWhenStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server, s := receiver(t, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }, nil)
	if _, err := s.Send(ctx, message(server.URL)); !errors.Is(err, context.Canceled) {
		t.Errorf("a stopped process blames the endpoint: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	slow, s := receiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil)
	if r, err := s.Send(ctx, message(slow.URL)); err != nil || r.Attempt.Failure != FailureTimeout {
		t.Errorf("an endpoint slower than the caller's patience: %+v, %v", r, err)
	}
}

func TestSendWithABadSecretSendsNothing(t *testing.T) {
	var calls atomic.Int32
	server, s := receiver(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) }, nil)
	m := message(server.URL)
	m.Secrets = []domain.Secret{domain.NewSecret([]byte("whsec_short"))}
	if _, err := s.Send(t.Context(), m); !errors.Is(err, ErrSecret) || calls.Load() != 0 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

// FuzzRetryAfter: whatever an endpoint writes, the wait is within bounds; and what is a number of seconds is that.
func FuzzRetryAfter(f *testing.F) {
	now := domain.At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	for _, text := range []string{"", "0", "120", " 120 ", "-1", "+5", "1e3", "99999999999999999999", "4294967296", "9223372036854775807", "NaN", "0x10",
		"Sun, 01 Mar 2026 12:05:00 GMT", "Sunday, 01-Mar-26 12:05:00 GMT", "Sun Mar  1 12:05:00 2026", "Fri, 31 Dec 9999 23:59:59 GMT",
		"Mon, 01 Jan 0001 00:00:00 GMT", "120, 5", "120\x00", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		wait := retryAfter(text, now)
		if wait < 0 || wait > MaxRetryAfter {
			t.Errorf("%q: %v", text, wait)
		}
		if n, err := strconv.Atoi(text); err == nil && n >= 0 && n < 1000 && text[0] != '+' && wait != time.Duration(n)*time.Second {
			t.Errorf("%q: %v", text, wait)
		}
		if next, ok := Delay(domain.Env{}, 1, wait); !ok || next < wait || next > MaxRetryAfter {
			t.Errorf("%q: the next try is after %v", text, next)
		}
	})
}
