// Package serve is how functions meet HTTP: typed handlers for the client API and for investors' visits, strict
// reading of input, and the one table that turns errors into statuses. A function says what it takes and gives;
// authentication, limits, idempotency keys, security headers, problem+json and logging happen here, the same way
// for all.
package serve

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sluis.internal/shared/domain"
)

// MaxBody is the largest request body taken, in bytes.
const MaxBody = 64 << 10

// Door is what stands before every handler.
type Door struct {
	Store   domain.Store
	Env     domain.Env
	Limits  *Limits
	Salt    domain.Secret // keys the commitments to network addresses in the audit log
	Proxies int           // how many trusted proxies stand before us and append to X-Forwarded-For
	Log     *slog.Logger  // nil means slog.Default
	looks   looks
	routes  []Route // registered so far
}

// NewDoor makes the door of a deployed function, with the usual pace for each caller.
func NewDoor(store domain.Store, env domain.Env, salt domain.Secret, proxies int) *Door {
	return &Door{Store: store, Env: env, Limits: NewLimits(PerMinute), Salt: salt, Proxies: proxies}
}

// PerMinute is how many requests each caller may usually make in a minute.
const PerMinute = 600

// Call is one request, authenticated and bounded.
type Call struct {
	Principal domain.Principal // of an API key; zero for investors
	Visit     *domain.Visit    // of an investor; nil for API keys
	Origin    string           // commitment to the network address, for the audit entry
	Once      domain.Idempotent
	Request   *http.Request
	query     url.Values
	body      []byte
}

// Answer is what a handler gives back. Status 0 means 200, or 204 where Body is nil.
type Answer struct {
	Status   int
	Location string
	Body     any
	Tagged   bool // the body never changes: it has an ETag, and who has it already gets 304
}

// Endpoint handles one call.
type Endpoint func(ctx context.Context, c *Call) (Answer, error)

// API registers an endpoint of the client API for API keys of the given roles, with the query parameters that it takes.
func (d *Door) API(mux *http.ServeMux, pattern string, roles []domain.Role, fn Endpoint, takes ...Parameter) {
	d.takes(pattern, takes)
	mux.Handle(pattern, d.guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		principal, err := d.authenticate(w, r)
		if err != nil {
			return Answer{}, err
		}
		if err := d.may(r, principal, roles); err != nil {
			return Answer{}, err
		}
		c, err := d.call(w, r, takes)
		if err != nil {
			return Answer{}, err
		}
		c.Principal = principal
		return fn(r.Context(), c)
	}))
}

// KeyAPI is API for what changes keys: for a client's keys that may administer them, and for any key about itself.
func (d *Door) KeyAPI(mux *http.ServeMux, pattern string, fn Endpoint, takes ...Parameter) {
	d.API(mux, pattern, []domain.Role{domain.RoleClient}, func(ctx context.Context, c *Call) (Answer, error) {
		self := c.Request.Method == http.MethodDelete && c.Request.PathValue("key") == string(c.Principal.KeyID)
		if !c.Principal.Admin && !self {
			return Answer{}, d.Refuse(c, c.Request.Pattern, errKeyRight)
		}
		return fn(ctx, c)
	}, takes...)
}

var (
	errRole = &domain.Error{Kind: domain.Forbidden, Code: "role_forbidden", Message: "this key's role may not do this; use a key with another role"}

	errKeyRight = &domain.Error{Kind: domain.Forbidden, Code: "key_administration",
		Message: "this key may not administer keys; use one with admin, or ask your operator"}

	errReplaced = &domain.Error{Kind: domain.Forbidden, Code: "key_replaced",
		Message: "this key was rotated and only reads until it ends; use the new one"}
)

// may refuses what a key's role may not do, and what a key that was replaced may not do any more.
func (d *Door) may(r *http.Request, p domain.Principal, roles []domain.Role) error {
	refusal := errRole
	switch reads := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case !slices.Contains(roles, p.Role):
	case p.ReadOnly && !reads:
		refusal = errReplaced
	default:
		return nil
	}
	return d.Refuse(&Call{Principal: p, Request: r, Origin: d.Commitment(r)}, r.Pattern, refusal)
}

// Refuse records that somebody we know was refused before an act under a consent could begin, and returns the refusal.
// subject is what they named.
func (d *Door) Refuse(c *Call, subject string, refusal *domain.Error) error {
	actor, client, details := c.Principal.Actor(), c.Principal.ClientID, map[string]string{"route": c.Request.Pattern}
	if c.Visit != nil {
		actor, client = c.Visit.Actor(), c.Visit.ClientID
	} else {
		details["role"] = string(c.Principal.Role)
	}
	entry := domain.Note(d.Env, "serve", "request.refused", actor, client, subject, details)
	entry.Data.Outcome, entry.Data.Reason, entry.Data.Origin = domain.OutcomeDenied, refusal.Code, c.Origin
	if c.Visit != nil {
		entry.Data.ConsentID, entry.Data.ConnectionID = c.Visit.ConsentID, c.Visit.ConnectionID
	}
	if err := d.Store.Commit(c.Request.Context(), func(tx domain.Tx) error { return tx.Record(entry) }); err != nil {
		return fmt.Errorf("recording refusal: %w", err)
	}
	return refusal
}

// Investor registers an endpoint for a visiting investor's browser scripts.
func (d *Door) Investor(mux *http.ServeMux, pattern string, fn Endpoint, takes ...Parameter) {
	d.takes(pattern, takes)
	mux.Handle(pattern, d.guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		visit, err := d.Visiting(r)
		if err != nil {
			return Answer{}, err
		}
		if err := d.Limits.take(w, "visit:"+visit.Hash, d.Env.Now()); err != nil {
			return Answer{}, err
		}
		c, err := d.call(w, r, takes)
		if err != nil {
			return Answer{}, err
		}
		c.Visit = visit
		return fn(r.Context(), c)
	}))
}

// Public registers an endpoint that anyone may call, limited by network address.
func (d *Door) Public(mux *http.ServeMux, pattern string, fn Endpoint, takes ...Parameter) {
	d.takes(pattern, takes)
	mux.Handle(pattern, d.guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		if err := d.Limits.take(w, "address:"+d.Network(r), d.Env.Now()); err != nil {
			return Answer{}, err
		}
		c, err := d.call(w, r, takes)
		if err != nil {
			return Answer{}, err
		}
		return fn(r.Context(), c)
	}))
}

// Stream registers a handler for a visiting investor's browser that writes its own answer: a picture, an event
// stream. An error that it returns before it has written anything is answered as a problem.
func (d *Door) Stream(mux *http.ServeMux, pattern string, fn func(http.ResponseWriter, *http.Request, *domain.Visit) error, takes ...Parameter) {
	d.takes(pattern, takes)
	mux.Handle(pattern, d.guarded(func(w http.ResponseWriter, r *http.Request) (Answer, error) {
		visit, err := d.Visiting(r)
		if err != nil {
			return Answer{}, err
		}
		if err := d.Limits.take(w, "visit:"+visit.Hash, d.Env.Now()); err != nil {
			return Answer{}, err
		}
		if _, err := query(r, takes); err != nil {
			return Answer{}, err
		}
		return Answer{Status: answered}, fn(w, r, visit)
	}))
}

// answered is the status of an Answer that a handler has written by itself.
const answered = -1

// guarded runs fn, writes its answer or problem, and logs the route (never the path, which may hold a token). Of an
// answer that breaks off nothing is mended: the connection is cut, so that it cannot pass for a whole one.
func (d *Door) guarded(fn func(http.ResponseWriter, *http.Request) (Answer, error)) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, out, status := time.Now(), &sender{ResponseWriter: w}, 0
		secure(w.Header())
		r = identify(w, r, d.Env)
		d.show(w, r)
		defer func() {
			v := recover()
			if v != nil && v != http.ErrAbortHandler {
				d.logger().ErrorContext(r.Context(), "handler panicked", "route", r.Pattern, "at", panicSite())
				if !out.sent {
					status, v = WriteProblem(out, &domain.Error{Kind: domain.Internal, Code: "internal"}), nil
				}
			}
			d.logger().DebugContext(r.Context(), "request", "route", r.Pattern, "status", status, "ms", time.Since(start).Milliseconds())
			if v != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		var a Answer
		err := crossOrigin.Check(r)
		if err != nil {
			err = &domain.Error{Kind: domain.Forbidden, Code: "cross_origin", Message: "this may only be called from our own pages"}
		} else {
			a, err = fn(out, r)
		}
		if status = a.Status; err == nil && status != answered {
			status, err = a.write(out, r)
		}
		if err != nil {
			status = d.fail(out, r, err)
		}
	})
}

// secure sets the headers of every answer that is no page: it is not kept, not guessed at, not framed, not read by other
// sites, and tells nobody where the caller was, as an address may hold a link's token.
func secure(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
}

// fail answers with a problem, if nothing was answered before.
func (d *Door) fail(out *sender, r *http.Request, err error) int {
	if domain.KindOf(err) == domain.Internal {
		d.logger().ErrorContext(r.Context(), "request failed", "route", r.Pattern, "error", err)
	}
	if out.sent {
		panic(http.ErrAbortHandler)
	}
	return WriteProblem(out, err)
}

// sender remembers whether an answer has begun.
type sender struct {
	http.ResponseWriter
	sent bool
}

func (s *sender) WriteHeader(status int) {
	s.sent = true
	s.ResponseWriter.WriteHeader(status)
}

func (s *sender) Write(b []byte) (int, error) {
	s.sent = true
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach what can flush and set deadlines.
func (s *sender) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// panicSite is where the panic began: function and line, never the value, which may hold a secret.
func panicSite() string {
	pc := make([]uintptr, 16)
	frames := runtime.CallersFrames(pc[:runtime.Callers(4, pc)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") || !more {
			return f.Function + ":" + strconv.Itoa(f.Line)
		}
	}
}

// write sends the answer to r and returns its status. It fails before anything is sent, or not at all.
func (a Answer) write(w http.ResponseWriter, r *http.Request) (int, error) {
	var body []byte
	if a.Body != nil {
		var err error
		if body, err = Marshal(a.Body); err != nil {
			return 0, fmt.Errorf("writing answer: %w", err)
		}
	}
	if a.Location != "" {
		w.Header().Set("Location", a.Location)
	}
	if a.Status == 0 {
		a.Status = http.StatusOK
		if a.Body == nil {
			a.Status = http.StatusNoContent
		}
	}
	if a.Tagged && tagged(w, r, body) {
		a.Status, body = http.StatusNotModified, nil
	}
	send(w, a.Status, "application/json", body)
	return a.Status, nil
}

// tagged sets the ETag of a body, and reports whether the caller has that body already (RFC 9110, sections 8.8.3, 13.1.2).
func tagged(w http.ResponseWriter, r *http.Request, body []byte) bool {
	sum := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	w.Header().Set("ETag", tag)
	for _, has := range strings.Split(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
		if has = strings.TrimSpace(has); has == "*" || strings.TrimPrefix(has, "W/") == tag {
			return true
		}
	}
	return false
}

// send writes an answer; a nil body means none.
func send(w http.ResponseWriter, status int, mediaType string, body []byte) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone if this fails
}

// Marshal is how every answer becomes JSON: nil slices are empty lists, the order is always the same, and bytes that
// are no UTF-8 (an echo of the caller's own input) are replaced.
func Marshal(v any) ([]byte, error) {
	return jsonv2.Marshal(v, jsonv2.Deterministic(true), jsontext.AllowInvalidUTF8(true))
}

var errKey = &domain.Error{Kind: domain.Unauthenticated, Code: "key_invalid",
	Message: "send a valid API key as Authorization: Bearer sluis_key_…"}

// authenticate finds the key of an Authorization: Bearer header (RFC 6750, section 2.1; the scheme's case is free).
// Unknown, wrong, revoked and expired keys look alike; that somebody came with one that is over is recorded.
func (d *Door) authenticate(w http.ResponseWriter, r *http.Request) (domain.Principal, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	id, secret, ok := domain.SplitAPIKey(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return domain.Principal{}, errKey
	}
	key := &domain.APIKey{ID: id}
	err := d.lookUp(r, func() error {
		if err := d.Store.Get(r.Context(), key); err != nil && domain.KindOf(err) != domain.NotFound {
			return err
		}
		if !key.Opens(secret, d.Env.Now()) {
			return errKey
		}
		return nil
	})
	p := domain.Principal{Role: key.Role, ClientID: key.ClientID, AdvisorID: key.AdvisorID, KeyID: key.ID,
		Admin: key.Administers(), ReadOnly: key.Replaced()}
	if errors.Is(err, errKey) && key.Matches(secret) {
		err = d.Refuse(&Call{Principal: p, Request: r, Origin: d.Commitment(r)}, r.Pattern, errKey)
	}
	if err != nil {
		return domain.Principal{}, err
	}
	// Only the key's holder uses up its pace, not everybody who knows its identifier.
	if err := d.Limits.take(w, "key:"+string(id), d.Env.Now()); err != nil {
		return domain.Principal{}, err
	}
	return p, d.active(r, key, p)
}

// active says whether those that the key acts for still may.
func (d *Door) active(r *http.Request, key *domain.APIKey, p domain.Principal) error {
	refuse := func(refusal *domain.Error) error {
		return d.Refuse(&Call{Principal: p, Request: r, Origin: d.Commitment(r)}, r.Pattern, refusal)
	}
	client := &domain.Client{ID: key.ClientID}
	if err := d.Store.Get(r.Context(), client); err != nil && domain.KindOf(err) != domain.NotFound {
		return err
	}
	if client.State != domain.ClientActive {
		return refuse(&domain.Error{Kind: domain.Forbidden, Code: "client_suspended", Message: "this account is not active; ask your operator"})
	}
	if key.Role != domain.RoleAdvisor {
		return nil
	}
	a := &domain.Advisor{ID: key.AdvisorID}
	if err := d.Store.Get(r.Context(), a); err != nil && domain.KindOf(err) != domain.NotFound {
		return err
	}
	if a.State != domain.AdvisorActive || a.ClientID != key.ClientID {
		return refuse(&domain.Error{Kind: domain.Forbidden, Code: "advisor_removed", Message: "this advisor was removed; ask for a key of an advisor who is active"})
	}
	return nil
}

// call reads the query, the body and the headers that every handler may need.
func (d *Door) call(w http.ResponseWriter, r *http.Request, takes []Parameter) (*Call, error) {
	if err := unambiguous(r); err != nil {
		return nil, err
	}
	sent, err := query(r, takes)
	if err != nil {
		return nil, err
	}
	c := &Call{Request: r, Origin: d.Commitment(r), query: sent}
	if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
		body, err := readBody(w, r)
		if err != nil {
			return nil, err
		}
		c.body = body
	}
	key := r.Header.Get("Idempotency-Key")
	if sent := r.Header.Values("Idempotency-Key"); len(key) > 128 || len(sent) > 0 && strings.TrimSpace(key) == "" {
		return nil, domain.Invalidf("Idempotency-Key", "want 1 to 128 characters, and not spaces alone; leave the header out to have no key")
	}
	if key != "" {
		c.Once = domain.Idempotent{Key: key, Request: slices.Concat([]byte(r.Method+" "+r.URL.Path+"\n"), c.body)}
	}
	return c, nil
}

// Media checks that a body, if there is one, is of the wanted type, in UTF-8 and not compressed: nobody between the sender
// and us may have read another text than we do.
func Media(r *http.Request, want string) error {
	if r.ContentLength == 0 {
		return nil
	}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	if err != nil || media != want || charset != "" && charset != "utf-8" {
		return &domain.Error{Kind: domain.Invalid, Code: "content_type", Field: "Content-Type", Message: "send " + want + " in UTF-8"}
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return &domain.Error{Kind: domain.Invalid, Code: "content_encoding", Field: "Content-Encoding", Message: "send the body as it is, without compression"}
	}
	return nil
}

// onceOnly are headers of which two would let us and whoever stands before us read different requests.
var onceOnly = []string{"Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key"}

// unambiguous refuses what could be read in two ways: a header that stands twice.
func unambiguous(r *http.Request) error {
	for _, name := range onceOnly {
		if len(r.Header.Values(name)) > 1 {
			return domain.Invalidf(name, "send this header once")
		}
	}
	return nil
}

// List is a page of a list as the API gives it. Next, where there is one, is the cursor of the page after.
type List[T any] struct {
	Data []T    `json:"data"`
	Next string `json:"next,omitempty"`
}

// Connection finds the connection of the path parameter connection, if it is the caller's client's. What is another
// client's does not exist for this one; asking for it is recorded, and so is asking for what nobody has.
func (d *Door) Connection(ctx context.Context, c *Call) (*domain.Connection, error) {
	id, err := PathID(c, "connection", domain.ParseID[domain.ConnectionID])
	if err != nil {
		return nil, err
	}
	conn := &domain.Connection{ID: id}
	if err := d.Store.Get(ctx, conn); err != nil && domain.KindOf(err) != domain.NotFound {
		return nil, err
	}
	if conn.ClientID != c.Principal.ClientID {
		return nil, d.Refuse(c, string(id), domain.ErrNotFound)
	}
	return conn, nil
}

// PathID reads a path parameter as an identifier.
func PathID[T interface {
	~string
}](c *Call, name string, parse func(string) (T, error)) (T, error) {
	id, err := parse(c.Request.PathValue(name))
	if err != nil {
		return "", domain.Invalidf(name, "%s", messageOf(err))
	}
	return id, nil
}

func messageOf(err error) string {
	var e *domain.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "this is not an identifier"
}
