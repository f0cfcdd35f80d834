package comdirect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

const (
	tries       = 3                // of a request that may be repeated
	longestWait = 30 * time.Second // between two of them; a bank that wants more is left alone
	errorBytes  = 64 << 10         // read of a refusal's body
	answerBytes = 1 << 20          // of an answer that is no list
)

// visit is one step's conversation with the bank.
type visit struct {
	s  extraction.Session
	st state

	mu   sync.Mutex
	last int // number of the last request
}

// call is one request. A body is wiped once it has been sent.
type call struct {
	method string
	path   string
	query  url.Values
	form   bool // the body is a form, not JSON
	body   []byte
	bearer string
	once   string // x-once-authentication-info
	tan    string // x-once-authentication
}

// send makes one request. An answer other than 2xx is a *refusal, no answer a *extraction.Failure. The caller closes
// the body.
func (v *visit) send(ctx context.Context, c call) (*http.Response, error) {
	reached := &reach{}
	req, err := v.request(httptrace.WithClientTrace(ctx, reached.trace()), c)
	if err != nil {
		return nil, err
	}
	resp, err := v.s.HTTP.Do(req)
	if err != nil {
		return nil, unanswered(ctx, err, reached)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, v.refused(c, resp)
	}
	return resp, nil
}

func (v *visit) request(ctx context.Context, c call) (*http.Request, error) {
	base, err := url.Parse(v.s.Custodian.Endpoints["api"])
	if err != nil || base.Host == "" {
		return nil, errors.New("making a request: the custodian has no endpoint named api")
	}
	base.Path = strings.TrimSuffix(base.Path, "/") + c.path
	base.RawQuery = c.query.Encode()
	req, err := http.NewRequestWithContext(ctx, c.method, base.String(), nil)
	if err != nil {
		return nil, errors.New("making a request: its address is malformed")
	}
	if len(c.body) > 0 {
		req.Body, req.ContentLength = &wiping{b: c.body}, int64(len(c.body))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	if c.form {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	if strings.HasPrefix(c.path, "/api/") {
		req.Header.Set("x-http-request-info", fmt.Sprintf(`{"clientRequestId":{"sessionId":"%s","requestId":"%09d"}}`,
			v.st.Client, v.number()))
	}
	if c.once != "" {
		req.Header.Set("x-once-authentication-info", c.once)
	}
	if c.tan != "" {
		req.Header.Set("x-once-authentication", c.tan)
		// net/http keeps what was sent last in the connection's buffer. A connection that a code went over is not kept.
		req.Close = true
	}
	return req, nil
}

// number is a request's own within the visit: nine digits, the time of day to the millisecond (clause 1.2.2), moved
// on where two fall into one.
func (v *visit) number() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.s.Env.Now().Time
	n := now.Hour()*10000000 + now.Minute()*100000 + now.Second()*1000 + now.Nanosecond()/1000000
	if n <= v.last && v.last-n < 10000 {
		n = v.last + 1
	}
	v.last = n
	return n
}

// wiping is a request's body that is zeroed when the transport is done with it. net/http copies it through a buffer of its
// own that nobody zeroes: as the body comes in pieces, that holds no more than one at a time, and in the end the last.
type wiping struct {
	mu sync.Mutex
	b  []byte
	at int
}

// pieceBytes is at most half of what a form holds after the password (the grant's type, the client's identifier and
// secret), so that one whole piece of that comes after it.
const pieceBytes = 32

func (w *wiping) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at >= len(w.b) {
		return 0, io.EOF
	}
	n := copy(p, w.b[w.at:min(w.at+pieceBytes, len(w.b))])
	w.at += n
	return n, nil
}

func (w *wiping) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.b)
	w.at = len(w.b)
	return nil
}

// reach notes how far towards the bank a request came.
type reach struct{ began, connected atomic.Bool }

func (r *reach) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { r.began.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { r.connected.Store(true) },
	}
}

// unsent says that no byte of the request left: a connection was looked for and not had.
func (r *reach) unsent() bool { return r.began.Load() && !r.connected.Load() }

// unanswered makes a failure of err. The address is left out: it names accounts.
func unanswered(ctx context.Context, err error, r *reach) error {
	var f *extraction.Failure
	if errors.As(err, &f) {
		return f
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	for u := (*url.Error)(nil); errors.As(err, &u); {
		err = u.Err
	}
	return &extraction.Failure{Reason: domain.ReasonBankUnavailable, Retry: true, Unjudged: r.unsent(),
		Err: fmt.Errorf("asking the bank: %w", err)}
}

// refusal is an answer that is no success.
type refusal struct {
	what   string // the request, without identifiers
	status int
	code   string        // the bank's own, where it is harmless to show
	words  string        // all that the bank gives to tell refusals apart, in lower case; never shown
	after  time.Duration // Retry-After
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("asking the bank for %s: status %d", r.what, r.status)
	if r.code != "" {
		text += " " + r.code
	}
	return text
}

// says reports whether any of words occurs in what the bank said.
func (r *refusal) says(words ...string) bool {
	for _, w := range words {
		if strings.Contains(r.words, w) {
			return true
		}
	}
	return false
}

func (r *refusal) passing() bool {
	return r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout || r.status >= 500
}

// business is what a refusal may hold: the OAuth shape, and the BusinessMessage of clause 1.4 in body or header.
type business struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Code        string `json:"code"`
	Messages    []struct {
		Key string `json:"key"`
	} `json:"messages"`
}

// harmless is a code that can neither hold a name nor a number of somebody.
var harmless = domain.NewShape(`^[A-Za-z][A-Za-z_.-]{0,63}$`)

func (v *visit) refused(c call, resp *http.Response) *refusal {
	r := &refusal{what: template(c.path), status: resp.StatusCode, after: v.retryAfter(resp.Header.Get("Retry-After"))}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, errorBytes))
	for _, b := range [][]byte{body, []byte(resp.Header.Get("x-http-response-info"))} {
		var said business
		if json.Unmarshal(b, &said) != nil {
			continue
		}
		words := []string{r.words, said.Error, said.Description, said.Code}
		for _, m := range said.Messages {
			words = append(words, m.Key)
		}
		r.words = strings.ToLower(strings.Join(words, "\n"))
		for _, code := range []string{said.Error, said.Code} {
			if r.code == "" && harmless.MatchString(code) {
				r.code = code
			}
		}
	}
	return r
}

// literals are the segments of declared paths; any other is an identifier.
var literals = domain.NewShape(`^(api|oauth|token|revoke|session|sessions|clients|user|v[0-9]|validate|authentications|` +
	`banking|accounts|balances|brokerage|depots|positions|transactions|orders)$`)

// template is a path without the identifiers in it.
func template(path string) string {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	for i, s := range segments {
		if !literals.MatchString(s) {
			segments[i] = "{id}"
		}
	}
	return "/" + strings.Join(segments, "/")
}

func (v *visit) retryAfter(header string) time.Duration {
	if n, err := strconv.Atoi(strings.TrimSpace(header)); err == nil && n >= 0 {
		return time.Duration(min(n, 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(v.s.Env.Now().Time), 0), 24*time.Hour)
	}
	return 0
}

// failed makes of any error the *extraction.Failure that the engine acts upon.
func failed(err error) error {
	var r *refusal
	var f *extraction.Failure
	if errors.As(err, &f) || !errors.As(err, &r) {
		return err
	}
	f = &extraction.Failure{Reason: domain.ReasonBankAnswer, Err: r}
	switch {
	case r.status == http.StatusTooManyRequests:
		f.Reason, f.Retry, f.RetryAfter = domain.ReasonRateLimited, true, r.after
	case r.passing():
		f.Reason, f.Retry, f.RetryAfter = domain.ReasonBankUnavailable, true, r.after
	case r.status == http.StatusUnauthorized:
		// The token ended before its time; a step that resumes asks for another.
		f.Reason, f.Retry = domain.ReasonBankUnavailable, true
	case locked(r):
		f.Reason = domain.ReasonAccountLocked
	case demands(r):
		f.Reason = domain.ReasonActionRequired
	}
	return f
}

// demands says that the bank wants something done on its own page first: conditions accepted, a PIN changed. Its
// specification lists no codes, so these are words that such codes are made of.
func demands(r *refusal) bool {
	return r.status == http.StatusForbidden ||
		r.says("action", "terms", "agb", "zustimm", "bedingung", "bestaetig", "change", "aender", "änder")
}

func locked(r *refusal) bool {
	return r.status == http.StatusLocked || r.says("locked", "gesperrt", "sperr")
}

// again says how long to wait before a request that came to err is repeated; false means never.
func again(err error, try int) (time.Duration, bool) {
	wait := time.Second << try
	var r *refusal
	if errors.As(err, &r) {
		return max(wait, r.after), r.passing() && r.after <= longestWait
	}
	var f *extraction.Failure
	if errors.As(err, &f) {
		return max(wait, f.RetryAfter), f.Retry && f.RetryAfter <= longestWait
	}
	return 0, false
}

// patient calls do until it succeeds, fails for good, or has failed passingly as often as is decent.
func patient(ctx context.Context, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		wait, repeat := again(err, try)
		if err == nil || !repeat || try == tries-1 || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return unanswered(ctx, ctx.Err(), &reach{})
	}
}

// fetch makes a request that may be repeated and decodes its answer into out; header is the answer's.
func (v *visit) fetch(ctx context.Context, c call, out any) (header http.Header, err error) {
	body := c.body
	err = patient(ctx, func() error {
		c.body = bytes.Clone(body) // each sending wipes its own
		resp, err := v.send(ctx, c)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		header = resp.Header
		return decode(ctx, resp.Body, out)
	})
	clear(body)
	return header, err
}

// decode reads a small answer.
func decode(ctx context.Context, body io.Reader, out any) error {
	b, err := io.ReadAll(io.LimitReader(body, answerBytes+1))
	if err != nil {
		return unanswered(ctx, err, &reach{})
	}
	defer clear(b)
	if out == nil {
		return nil
	}
	if len(b) > answerBytes {
		return misunderstood(errors.New("it is too long"))
	}
	if err := json.Unmarshal(b, out); err != nil {
		return misunderstood(err)
	}
	return nil
}

// misunderstood is a failure that no repetition mends. What the bank wrote is left out: it may be personal.
func misunderstood(err error) *extraction.Failure {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var syntactic *jsontext.SyntacticError
	var semantic *jsonv2.SemanticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	case errors.As(err, &syntactic):
		err = fmt.Errorf("no JSON at byte %d", syntactic.ByteOffset)
	case errors.As(err, &semantic):
		err = fmt.Errorf("field %s is of the wrong kind", semantic.JSONPointer)
	case errors.As(err, &syntax):
		err = fmt.Errorf("no JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		err = fmt.Errorf("field %s is of the wrong kind", kind.Field)
	}
	return &extraction.Failure{Reason: domain.ReasonBankAnswer, Err: fmt.Errorf("understanding the bank's answer: %w", err)}
}

// plainID is an identifier that can stand in a path. A bank's answer is never put into an address otherwise.
var plainID = domain.NewShape(`^[A-Za-z0-9_-]{1,64}$`)
