package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Callers are the service accounts that may call a function which nobody else may: Pub/Sub's push, the scheduler, another
// function. The platform refuses others too; this holds if somebody opens the platform's door by mistake.
//
// A caller shows an ID token (OpenID Connect Core 1.0, section 2) that the issuer signed for this very audience, as
// https://docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions describes.
type Callers struct {
	issuer, audience string
	emails           []string

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // nil until the issuer was asked for its keys
}

// NewCallers trusts tokens of issuer (an https address, or one on this machine) for audience that are about one of the
// e-mail addresses.
func NewCallers(issuer, audience string, emails []string) *Callers {
	return &Callers{issuer: issuer, audience: audience, emails: emails}
}

const issuerTime = 10 * time.Second

var errCaller = &domain.Error{Kind: domain.Unauthenticated, Code: "caller_unknown", Message: "this is for our own functions only"}

// check refuses a request without a good token. What is wrong with it is for the log.
func (c *Callers) check(r *http.Request) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || c.audience == "" {
		return errCaller
	}
	v, err := c.verify(r.Context())
	if err != nil {
		return err
	}
	id, err := v.Verify(r.Context(), token)
	if err != nil {
		slog.WarnContext(r.Context(), "caller refused", "error", err)
		return errCaller
	}
	var about struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	if err := id.Claims(&about); err != nil || !about.Verified || about.Email == "" || !slices.Contains(c.emails, about.Email) {
		slog.WarnContext(r.Context(), "caller refused", "error", "the token is about somebody else")
		return errCaller
	}
	return nil
}

// verify asks the issuer where its keys are, once; which keys it has, the library asks again when they change.
func (c *Callers) verify(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verifier != nil {
		return c.verifier, nil
	}
	ctx = oidc.ClientContext(context.WithoutCancel(ctx), &http.Client{Timeout: issuerTime})
	p, err := oidc.NewProvider(ctx, c.issuer)
	if err != nil {
		return nil, &domain.Error{Kind: domain.Unavailable, Code: "issuer_unavailable", Message: "try again", RetryAfter: time.Second, Err: err}
	}
	c.verifier = p.Verifier(&oidc.Config{ClientID: c.audience, SupportedSigningAlgs: []string{oidc.RS256}})
	return c.verifier, nil
}

// Face is what a function shows to HTTP.
type Face = http.Handler

// Host is where a function runs that only some may call: it knows whom, and has events handled.
type Host interface {
	Callers() (issuer, audience string, emails []string)
	Deliver(ctx context.Context, e domain.Event, handle domain.Handler) error
}

// Push takes events as Pub/Sub pushes them, and has the host deliver each to handle. It answers 204 where that was noted,
// whatever the handler said; any other answer has Pub/Sub bring the event again. What is no event of ours is dropped
// and logged, as it would come again for ever.
func Push(h Host, handle domain.Handler) Face {
	return NewCallers(h.Callers()).only(func(ctx context.Context, c *Call) error {
		var push struct {
			Message struct {
				Data       []byte            `json:"data"`
				Attributes map[string]string `json:"attributes"`
			} `json:"message"`
		}
		var e domain.Event
		if err := json.Unmarshal(c.body, &push); err != nil {
			return domain.Invalidf("", "send what Pub/Sub pushes")
		}
		if err := json.Unmarshal(push.Message.Data, &e); err != nil || e.ID == "" {
			slog.ErrorContext(ctx, "what was pushed is no event")
			return nil
		}
		// The push is a part of the act that emitted the event, and so is what comes of it.
		ctx = observe.In(ctx, push.Message.Attributes["traceparent"])
		return h.Deliver(context.WithoutCancel(ctx), e, handle) // Pub/Sub may not wait as long as a bank takes
	})
}

// Told takes a call of another function of ours, with what it says as JSON.
func Told[Q any](h Host, handle func(context.Context, Q) error) Face {
	callers := NewCallers(h.Callers())
	return callers.known(observed(callers.taken(func(ctx context.Context, c *Call) error {
		var q Q
		if err := c.Decode(&q); err != nil {
			return err
		}
		return handle(ctx, q)
	})))
}

// only lets nobody else through to fn, which answers 204 or a problem.
func (c *Callers) only(fn func(context.Context, *Call) error) Face { return c.known(c.taken(fn)) }

// known lets nobody else through to h, and has h go on with the caller's trace.
func (c *Callers) known(h http.Handler) Face {
	return (&Door{}).guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		if r.Method != http.MethodPost {
			return Answer{}, domain.Invalidf("", "send a POST")
		}
		if err := c.check(r); err != nil {
			return Answer{}, err
		}
		h.ServeHTTP(w, r.WithContext(observe.In(r.Context(), r.Header.Get("traceparent"))))
		return Answer{Status: answered}, nil
	})
}

// taken has fn take the body of a caller who is known.
func (c *Callers) taken(fn func(context.Context, *Call) error) http.Handler {
	return (&Door{}).guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		body, err := readBody(w, r)
		if err != nil {
			return Answer{}, err
		}
		return Answer{}, fn(r.Context(), &Call{Request: r, body: body})
	})
}

// Tell calls another function of ours, and turns a problem that it answers with back into the error that it was. What
// it does not answer may have happened or not.
func Tell(ctx context.Context, client *http.Client, address string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if at := observe.Traceparent(ctx); at != "" {
		q.Header.Set("traceparent", at)
	}
	a, err := client.Do(q)
	if err != nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "function_unavailable", Message: "something on our side does not answer; try again", Err: err}
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusNoContent {
		return nil
	}
	var p Problem
	if err := json.NewDecoder(io.LimitReader(a.Body, MaxBody)).Decode(&p); err != nil {
		return &domain.Error{Kind: domain.Unavailable, Code: "function_unavailable", Message: "something on our side does not answer; try again",
			Err: fmt.Errorf("answered with %d and no problem", a.StatusCode)}
	}
	return p.err(a.Header)
}

// err is the error that a problem was made of, as far as it tells.
func (p Problem) err(h http.Header) error {
	e := &domain.Error{Kind: domain.Internal, Code: p.Code, Message: p.Detail, Field: p.Field}
	if len(p.Errors) > 1 || len(p.Errors) == 1 && p.Errors[0].Code != p.Code {
		e.Faults = p.Errors
	}
	for kind, status := range statuses {
		if status == p.Status {
			e.Kind = kind
		}
	}
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

// Lazy opens a function's home and wires its face to it at its first request, and again at the next if that failed: a
// function that starts does nothing but listen.
func Lazy[C any](open func(context.Context) (C, error), wire func(C) (Face, error)) func(http.ResponseWriter, *http.Request) {
	var mu sync.Mutex
	var home *C
	var face Face
	get := func(ctx context.Context) (Face, error) {
		mu.Lock()
		defer mu.Unlock()
		if face != nil {
			return face, nil
		}
		if home == nil {
			c, err := open(context.WithoutCancel(ctx))
			if err != nil {
				return nil, err
			}
			home = &c
		}
		opened, err := wire(*home)
		if err == nil {
			face = overTLS(true, paced(unchained(opened)))
		}
		return face, err
	}
	opening := sync.OnceFunc(collectLater)
	return func(w http.ResponseWriter, r *http.Request) {
		opening()
		h, err := get(r.Context())
		if err != nil {
			slog.ErrorContext(r.Context(), "the function does not open", "error", err)
			secure(w.Header())
			w.Header().Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
			identify(w, r, domain.Env{})
			NewLimits(PerMinute).show(w, "", domain.Env{}.Now())
			WriteProblem(w, &domain.Error{Kind: domain.Unavailable, Code: "starting", Message: "try again", RetryAfter: time.Second})
			return
		}
		out := &noted{ResponseWriter: w}
		h.ServeHTTP(out, r)
		if o, ok := any(*home).(interface{ Ended() }); ok { // told of the end of each request, while there is a processor
			out.send()
			o.Ended()
		}
	}
}

// collectLater lets a function that opens do so without collecting garbage, as nearly all that is made then is there to stay:
// for a second, what is in use may grow to five times itself.
func collectLater() {
	const generous = 400
	usual := debug.SetGCPercent(generous)
	if usual < 0 || usual > generous { // the operator's choice is more generous
		debug.SetGCPercent(usual)
		return
	}
	time.AfterFunc(time.Second, func() { debug.SetGCPercent(usual) })
}

// Mux is a function's own face: its routes, and problems for everything else.
func (d *Door) Mux(register ...func(*http.ServeMux)) Face {
	mux := http.NewServeMux()
	for _, r := range register {
		r(mux)
	}
	return d.Known(mux, nil)
}
