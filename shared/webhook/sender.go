package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Bounds of one attempt.
const (
	connectTimeout = 5 * time.Second
	wholeTimeout   = 20 * time.Second
	maxAnswer      = 4 << 10  // of the body; it is thrown away
	maxHeaders     = 16 << 10 // of the answer
)

// How an attempt failed, as domain.Attempt keeps it.
const (
	FailureTimeout    = "timeout"         // no answer in time
	FailureAddress    = "refused_address" // it may not be called: private, reserved, a forbidden port
	FailureTLS        = "tls"             // no handshake: certificate, version
	FailureConnection = "connection"      // no such host, refused, broken off
	FailureStatus     = "status"          // an answer other than 2xx
)

// Options is how a Sender reaches the world.
type Options struct {
	Rules       Rules
	Certificate *tls.Certificate // shown to endpoints that ask for one (mTLS); nil shows none
	RootCAs     *x509.CertPool   // whom to trust; nil means the system's
}

// Sender posts webhooks to addresses that strangers chose. It is safe for concurrent use.
type Sender struct {
	env    domain.Env
	rules  Rules
	dialer *net.Dialer
	client *http.Client
}

// NewSender makes a Sender. It takes no proxy from the environment: a proxy would resolve names in our stead.
func NewSender(e domain.Env, o Options) *Sender {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs}
	if o.Certificate != nil {
		config.Certificates = []tls.Certificate{*o.Certificate}
	}
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second, Control: o.Rules.control}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: connectTimeout, MaxResponseHeaderBytes: maxHeaders, DisableCompression: true,
		MaxIdleConns: 100, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 16, IdleConnTimeout: 90 * time.Second}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client := &http.Client{Transport: transport, CheckRedirect: refuse, Timeout: wholeTimeout}
	return &Sender{env: e, rules: o.Rules, dialer: dialer, client: client}
}

// Message is one webhook to send. Several secrets sign during a rotation.
type Message struct {
	ID      domain.NoticeID
	URL     string
	Body    []byte
	Secrets []domain.Secret
}

// Result is how one attempt went.
type Result struct {
	Attempt    domain.Attempt
	RetryAfter time.Duration // what the endpoint asked for; 0 if nothing
}

// Delivered says whether the endpoint took it.
func (r Result) Delivered() bool { return r.Attempt.Failure == "" }

// Gone says whether the endpoint wants no webhooks any more. Standard Webhooks: 410 disables it.
func (r Result) Gone() bool { return r.Attempt.Status == http.StatusGone }

// Busy says whether the endpoint asked everybody to wait.
func (r Result) Busy() bool {
	return r.RetryAfter > 0 && (r.Attempt.Status == http.StatusTooManyRequests || r.Attempt.Status == http.StatusServiceUnavailable)
}

// Send makes one attempt, within 20 seconds. However it goes is in the Result; an error means that nothing can be said
// of the endpoint, because a secret is unusable or ctx was cancelled. Where a kept connection turns out to be closed, the
// same request goes out again on another one: so within one attempt an endpoint may have it twice.
func (s *Sender) Send(ctx context.Context, m Message) (r Result, err error) {
	ctx, span := observe.Begin(ctx, observe.Asked, "POST webhook")
	defer func() { span.Status(r.Attempt.Status); span.End(err) }()
	start := s.env.Now()
	signature, err := Sign(m.ID, start, m.Body, m.Secrets...)
	if err != nil {
		return Result{}, err
	}
	r = Result{Attempt: domain.Attempt{At: start}}
	if s.rules.Validate(m.URL) != nil { // the operator's rules may have changed since the client gave the address
		r.Attempt.Failure = FailureAddress
		return r, nil
	}
	var handshake atomic.Bool
	response, err := s.post(ctx, m, start, signature, &handshake)
	r.Attempt.Duration = s.env.Now().Sub(start).Milliseconds()
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return Result{}, fmt.Errorf("sending webhook: %w", context.Canceled)
		}
		r.Attempt.Failure = classify(err, handshake.Load())
		return r, nil
	}
	r.Attempt.Status = response.StatusCode
	if response.StatusCode < 200 || response.StatusCode > 299 {
		r.Attempt.Failure = FailureStatus
		r.RetryAfter = retryAfter(response.Header.Get("Retry-After"), s.env.Now())
	}
	return r, nil
}

// post sends the request and throws the answer's body away. handshake is set if TLS failed.
func (s *Sender) post(ctx context.Context, m Message, at domain.Time, signature string, handshake *atomic.Bool) (*http.Response, error) {
	trace := &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
		if err != nil {
			handshake.Store(true)
		}
	}}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		return nil, ErrRefusedAddress
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "Sluis-Webhooks/1")
	request.Header.Set(HeaderID, string(m.ID))
	request.Header.Set(HeaderTimestamp, Timestamp(at))
	request.Header.Set(HeaderSignature, signature)
	request.Header["Idempotency-Key"] = nil // not sent, but net/http sends again what met a kept connection as it was closed
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	// The status is the answer. A body that never ends, or breaks off, changes nothing of it.
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer)
	_ = response.Body.Close()
	return response, nil
}

// classify names a failure without an answer. The error itself is dropped: it holds the address, which may hold a token.
func classify(err error, handshake bool) string {
	var timeout net.Error
	switch {
	case errors.Is(err, ErrRefusedAddress):
		return FailureAddress
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return FailureTimeout
	case handshake:
		return FailureTLS
	}
	return FailureConnection
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds, or a date. Nonsense counts as nothing.
func retryAfter(text string, now domain.Time) time.Duration {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, MaxRetryAfter)
	}
	if when, err := http.ParseTime(text); err == nil && when.After(now.Time) {
		return min(when.Sub(now.Time), MaxRetryAfter)
	}
	return 0
}
