package comdirect

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"sluis.internal/shared/domain"
)

// Options set up a Bank. The zero value of each field means its default.
type Options struct {
	Env          domain.Env
	ClientID     string // default DefaultClientID
	ClientSecret string // default DefaultClientSecret
	StateFile    string // where sessions, counters and changed PINs survive a restart; empty means nowhere
	Key          []byte // signs tokens; default: the state file's, or a fresh one

	Slow          time.Duration                                    // how long a slow answer takes; 3 s
	Sleep         func(ctx context.Context, d time.Duration) error // waits, or returns ctx's error
	RetryAfter    time.Duration                                    // of a 429, in whole seconds; 1 s
	PushPolls     int                                              // the question that finds a push approved; 2
	ChallengeLife time.Duration                                    // of a code; 5 min
	PushLife      time.Duration                                    // of a push; 60 s
	Heals         time.Duration                                    // when counters and locks are forgotten; 0 means never, as at the real bank

	// OnRequest is called before a request is served. Path is a template as in Request.Path. The bank holds no lock,
	// so that the hook may call it.
	OnRequest func(login, method, path string)

	// Front, in tests, is given the bank and stands before it: it sees requests and answers as they pass, and may change
	// them.
	Front func(bank http.Handler) http.Handler
	Log   *slog.Logger
}

// The client registered at the bank, unless Options say another.
const (
	DefaultClientID     = "sandbox-client"
	DefaultClientSecret = "sandbox-secret"
)

func (o Options) withDefaults() Options {
	if o.ClientID == "" {
		o.ClientID, o.ClientSecret = DefaultClientID, DefaultClientSecret
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.OnRequest == nil {
		o.OnRequest = func(string, string, string) {}
	}
	if o.Front == nil {
		o.Front = func(bank http.Handler) http.Handler { return bank }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	orElse(&o.Slow, defaultSlow)
	orElse(&o.RetryAfter, defaultRetryAfter)
	orElse(&o.PushPolls, 2)
	orElse(&o.ChallengeLife, 5*time.Minute)
	orElse(&o.PushLife, time.Minute)
	return o
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Bank plays the bank. It is safe for concurrent use. Use New to make one.
type Bank struct {
	opts  Options
	mux   *http.ServeMux
	front http.Handler // before mux

	mu       sync.Mutex // guards what follows
	hook     func(login, method, path string)
	answered func(login, method, path string, status int)
	memory   memory
	seen     map[string]int // requests by session and kind
	failures []*failure
	log      []Request
}

// New makes a bank. It takes up what the state file holds; a file that cannot be read is reported and begun anew.
func New(o Options) *Bank {
	b := &Bank{opts: o.withDefaults(), mux: http.NewServeMux(), seen: map[string]int{}}
	b.memory, b.hook = b.recall(), b.opts.OnRequest
	b.answered = func(string, string, string, int) {}
	for _, rt := range routes {
		b.mux.Handle(rt.method+" "+rt.path, b.handle(rt))
	}
	b.mux.Handle("/", b.handle(route{path: "/", kind: kindTrade, phase: phaseNone, serve: (*Bank).unknown}))
	b.control()
	b.front = b.opts.Front(b.mux)
	return b
}

// ServeHTTP answers a request of the API.
func (b *Bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	b.front.ServeHTTP(w, r)
}

// maxBody bounds what a client may send: a form or a session object.
const maxBody = 16 << 10

// phase is what a token must have reached for a route.
type phase int

const (
	phaseNone  phase = iota // no token
	phaseLogin              // the password grant's will do
	phaseData               // only the secondary flow's
)

// route is one kind of request the bank knows.
type route struct {
	method string
	path   string
	kind   kind
	phase  phase
	serve  func(*Bank, http.ResponseWriter, *http.Request, caller)
}

var routes = []route{
	{"POST", "/oauth/token", kindToken, phaseNone, (*Bank).token},
	{"DELETE", "/oauth/revoke", kindRevoke, phaseLogin, (*Bank).revoke},
	{"GET", "/api/session/clients/{user}/v1/sessions", kindSession, phaseLogin, (*Bank).sessions},
	{"POST", "/api/session/clients/{user}/v1/sessions/{session}/validate", kindSession, phaseLogin, (*Bank).validate},
	{"PATCH", "/api/session/clients/{user}/v1/sessions/{session}", kindSession, phaseLogin, (*Bank).activate},
	{"GET", "/api/session/v1/authentications/{authentication}", kindSession, phaseLogin, (*Bank).authentication},
	{"GET", "/api/banking/clients/{user}/v2/accounts/balances", kindBalances, phaseData, (*Bank).balances},
	{"GET", "/api/banking/v2/accounts/{accountId}/balances", kindBalances, phaseData, (*Bank).balance},
	{"GET", "/api/banking/v1/accounts/{accountId}/transactions", kindTransactions, phaseData, (*Bank).transactions},
	{"GET", "/api/brokerage/clients/{user}/v3/depots", kindDepots, phaseData, (*Bank).depots},
	{"GET", "/api/brokerage/v3/depots/{depotId}/positions", kindPositions, phaseData, (*Bank).positions},
	{"GET", "/api/brokerage/v3/depots/{depotId}/positions/{positionId}", kindPositions, phaseData, (*Bank).position},
	{"GET", "/api/brokerage/v3/depots/{depotId}/transactions", kindDepotTransactions, phaseData, (*Bank).depotTransactions},
	{"GET", "/api/brokerage/depots/{depotId}/v3/orders", kindOrders, phaseData, (*Bank).orders},
	{"GET", "/api/brokerage/v3/orders/{orderId}", kindOrders, phaseData, (*Bank).order},
	{"GET", "/api/brokerage/v1/instruments/{instrumentId}", kindInstruments, phaseData, (*Bank).instrument},
	{"POST", "/api/brokerage/v3/orders", kindTrade, phaseData, (*Bank).trade},
	{"POST", "/api/brokerage/v3/orders/validation", kindTrade, phaseData, (*Bank).trade},
	{"PATCH", "/api/brokerage/v3/orders/{orderId}", kindTrade, phaseData, (*Bank).trade},
	{"DELETE", "/api/brokerage/v3/orders/{orderId}", kindTrade, phaseData, (*Bank).trade},
}

// caller is who makes a request, as far as its token or login form says.
type caller struct {
	login    *Login // nil if unknown
	password bool   // this is a login with number and PIN
	session  string // identifier of the bank session
	grant    grant
	visit    int // the session's number among the login's, from 1
}

// fault is what the table plays for this kind of request; of the token endpoint's grants, only for the password grant.
func (c caller) fault(k kind) fault {
	if c.login == nil || k == kindToken && !c.password {
		return faultNone
	}
	return c.login.faults[k]
}

func (c caller) number() string {
	if c.login == nil {
		return ""
	}
	return c.login.Number
}

// handle serves one route: it names the caller, lets tests look on or interfere, checks what every request must bring,
// plays the login's faults, and notes how it went.
func (b *Bank) handle(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := &recorder{ResponseWriter: w}
		c := b.identify(rt, r)
		before, after := b.watched()
		defer func() {
			b.note(c.number(), r.Method, rt.path, out.status)
			after(c.number(), r.Method, rt.path, out.status)
		}()
		before(c.number(), r.Method, rt.path)
		b.attempt(c)
		if status := b.failing(c.number(), rt.path); status != 0 {
			b.fail(out, status)
			return
		}
		if rt.phase != phaseNone && !b.admit(out, r, rt, &c) {
			return
		}
		if f := c.fault(rt.kind); f != faultNone && !b.spoil(out, r, f, rt.kind, b.count(rt, c)) {
			return
		}
		rt.serve(b, out, r, c)
	}
}

// identify names the caller without trusting it yet. A number that is not in the table is nobody's: what people type
// into the wrong field must not reach the request log.
func (b *Bank) identify(rt route, r *http.Request) caller {
	if rt.kind == kindToken {
		return b.identifyForm(r)
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g, ok := b.open(bearer)
	if !ok {
		return caller{}
	}
	return caller{login: find(g.Login), session: g.Session, grant: g}
}

// admit checks the token and the headers that every request but a login must have.
func (b *Bank) admit(w http.ResponseWriter, r *http.Request, rt route, c *caller) bool {
	s, alive := b.alive(c.session)
	switch {
	case c.login == nil || !alive || c.grant.Use != useAccess || !b.opts.Env.Now().Before(c.grant.Expires):
		refuseToken(w, http.StatusUnauthorized, "invalid_token", "the token is unknown or expired")
		return false
	case rt.phase == phaseData && !c.grant.Full:
		refuseToken(w, http.StatusForbidden, "insufficient_scope", "this needs a token of the secondary flow")
		return false
	case rt.kind != kindRevoke && !knownRequestInfo(r.Header.Get("x-http-request-info")):
		refuse(w, http.StatusBadRequest, CodeObject, "x-http-request-info", "Header x-http-request-info fehlt oder ist falsch.")
		return false
	case r.PathValue("user") != "" && r.PathValue("user") != "user" && r.PathValue("user") != clientID(c.login.Number):
		w.WriteHeader(http.StatusNotFound)
		return false
	}
	c.visit = s.Visit
	return true
}

// knownRequestInfo checks the client request id of chapter 1.2.2.
func knownRequestInfo(header string) bool {
	var info struct {
		ClientRequestID struct {
			SessionID string `json:"sessionId"`
			RequestID string `json:"requestId"`
		} `json:"clientRequestId"`
	}
	if json.Unmarshal([]byte(header), &info) != nil {
		return false
	}
	id := info.ClientRequestID
	return id.SessionID != "" && len(id.SessionID) <= 32 && len(id.RequestID) == 9 &&
		strings.Trim(id.RequestID, "0123456789") == ""
}

// Hook replaces Options.OnRequest.
func (b *Bank) Hook(f func(login, method, path string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hook = f
}

// HookAfter has f called once the bank has decided on an answer, which may not have left it yet. Status is as in
// Request.Status. The bank holds no lock.
func (b *Bank) HookAfter(f func(login, method, path string, status int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = f
}

func (b *Bank) watched() (before func(login, method, path string), after func(login, method, path string, status int)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hook, b.answered
}

// attempt counts a login, whatever becomes of it.
func (b *Bank) attempt(c caller) {
	if c.login == nil || !c.password {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.person(c.login.Number).Attempts++
	b.save()
}

// count numbers requests of a kind from 1: within their session, or logins within their number.
func (b *Bank) count(rt route, c caller) int {
	key := c.session + " " + rt.path
	if rt.kind == kindToken {
		key = c.login.Number + " " + rt.path
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen[key]++
	return b.seen[key]
}

// unknown answers what the bank does not have.
func (b *Bank) unknown(w http.ResponseWriter, _ *http.Request, _ caller) {
	w.WriteHeader(http.StatusNotFound)
}

// trade refuses orders: this bank is for reading.
func (b *Bank) trade(w http.ResponseWriter, _ *http.Request, _ caller) {
	refuse(w, http.StatusUnprocessableEntity, CodeObject, "order.refused", "Orders werden hier nicht angenommen.")
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the writer below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}
