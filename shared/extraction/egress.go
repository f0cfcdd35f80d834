package extraction

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"code.dny.dev/ssrf"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/observe"
)

// Limits of the egress guard. An answer is counted after decompression.
const (
	MaxRequestBody  = 64 << 10
	MaxResponseBody = 64 << 20
	maxPathBytes    = 2 << 10
	maxQueryBytes   = 4 << 10
	maxHeaderBytes  = 32 << 10 // of a request's headers; a signature with its certificate takes some
	maxHeaderLines  = 64
)

// Gate is the egress guard: the only way from a connector to the network. It lets a request pass if the connector
// declared it for the present phase, and refuses everything else with a *Failure whose Reason is
// domain.ReasonEgressRefused. In PhaseRead it passes nothing but GET without a body, whatever was declared. A Gate
// serves one step of one session; it is safe for concurrent use.
type Gate struct {
	MaxRequest  int64 // bytes of a request's body; set before first use
	MaxResponse int64 // bytes of an answer's body; set before first use

	base     http.RoundTripper
	permit   func(ctx context.Context, counts domain.BankCount) error // asked before every request but those that close; nil permits
	rules    []rule
	hosts    []string
	onRefuse func(ctx context.Context, method, host, path string)

	mu    sync.Mutex
	phase Phase
}

// rule is one compiled Request.
type rule struct {
	phase    Phase
	method   string
	host     string // with its port
	segments []string
	template string
	counts   domain.BankCount
}

// Guard makes the gate for one custodian. It begins in PhaseLogin; a declaration that Request.Check refuses matches
// nothing. onRefuse is told of every refusal and may be nil: method, host and path are those of the attempt as far as
// they were declared, and redacted where not, for anything could have been written into them.
func Guard(custodian domain.Custodian, declared []Request, base http.RoundTripper,
	onRefuse func(ctx context.Context, method, host, path string)) *Gate {
	g := &Gate{MaxRequest: MaxRequestBody, MaxResponse: MaxResponseBody, base: base, onRefuse: onRefuse, phase: PhaseLogin}
	for _, d := range declared {
		r, err := compile(custodian, d)
		if err != nil {
			continue
		}
		g.rules = append(g.rules, r)
		g.hosts = append(g.hosts, r.host)
	}
	return g
}

// Check says whether the guard could ever let r pass for this custodian.
func (r Request) Check(custodian domain.Custodian) error {
	_, err := compile(custodian, r)
	return err
}

// phases in their order; a gate only moves forward.
var phases = []Phase{PhaseLogin, PhaseRead, PhaseEnd}

// SetPhase moves the gate forward. A gate that is asked to move back, or to an unknown phase, refuses everything from
// then on: whoever asks does not know where the session stands.
func (g *Gate) SetPhase(p Phase) {
	g.mu.Lock()
	defer g.mu.Unlock()
	to := slices.Index(phases, p)
	if to < 0 || to < slices.Index(phases, g.phase) || g.phase == "" {
		g.phase = ""
		return
	}
	g.phase = p
}

// Phase is where the gate stands; it is empty once the gate is shut for good.
func (g *Gate) Phase() Phase {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.phase
}

var (
	plainSegment  = domain.NewShape(`^[A-Za-z0-9._~-]+$`)
	namedSegment  = domain.NewShape(`^\{[a-z][a-z_]*\}$`)
	knownMethods  = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	errUndeclared = errors.New("no such request is declared for this phase")
)

func compile(custodian domain.Custodian, d Request) (rule, error) {
	base, err := url.Parse(custodian.Endpoints[d.Endpoint])
	switch {
	case custodian.Endpoints[d.Endpoint] == "":
		return rule{}, fmt.Errorf("declaring %s %s: the custodian has no endpoint %q", d.Method, d.Path, d.Endpoint)
	case err != nil || base.Scheme != "https" || base.Host == "" || !plainHost(base) || base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return rule{}, fmt.Errorf("declaring %s %s: endpoint %q is no plain https address", d.Method, d.Path, d.Endpoint)
	case !slices.Contains(knownMethods, d.Method):
		return rule{}, fmt.Errorf("declaring %s: method %q is not one of %v", d.Path, d.Method, knownMethods)
	case !slices.Contains(phases, d.Phase):
		return rule{}, fmt.Errorf("declaring %s %s: no phase %q", d.Method, d.Path, d.Phase)
	case d.Phase == PhaseRead && d.Method != http.MethodGet:
		return rule{}, fmt.Errorf("declaring %s %s: reading is done with GET only", d.Method, d.Path)
	}
	full := strings.Trim(base.Path, "/") + "/" + strings.Trim(d.Path, "/")
	segments := strings.Split(strings.Trim(full, "/"), "/")
	for _, s := range segments {
		if !namedSegment.MatchString(s) && !plain(s) {
			return rule{}, fmt.Errorf("declaring %s %s: %q is neither a plain segment nor a {name}", d.Method, d.Path, s)
		}
	}
	return rule{phase: d.Phase, method: d.Method, host: hostPort(base), segments: segments,
		template: "/" + strings.Join(segments, "/"), counts: d.Counts}, nil
}

func plain(segment string) bool {
	return plainSegment.MatchString(segment) && strings.Trim(segment, ".") != ""
}

// plainHost says whether the host is a name, and a port if there is a colon.
func plainHost(u *url.URL) bool {
	return u.Host == u.Hostname() || u.Port() != "" && u.Host == u.Hostname()+":"+u.Port()
}

// hostPort is the address with its port written out. Case is kept: an address that is written otherwise is another.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return u.Hostname() + ":" + port
}

func (r rule) matches(segments []string) bool {
	if len(segments) != len(r.segments) {
		return false
	}
	for i, want := range r.segments {
		if want != segments[i] && !namedSegment.MatchString(want) {
			return false
		}
	}
	return true
}

// RoundTrip implements http.RoundTripper.
func (g *Gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.judge(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		if g.onRefuse != nil {
			g.onRefuse(req.Context(), g.shownMethod(req), g.shownHost(req), g.shownPath(req))
		}
		return nil, &Failure{Reason: domain.ReasonEgressRefused, Err: fmt.Errorf("passing the egress guard: %w", err)}
	}
	if err := g.permitted(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	resp, err := g.traced(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols || resp.ContentLength > g.MaxResponse {
		resp.Body.Close()
		return nil, tooLarge(g.MaxResponse)
	}
	resp.Body = &limited{ReadCloser: resp.Body, left: g.MaxResponse, limit: g.MaxResponse}
	return resp, nil
}

// traced sends req, and tells of it what was declared, never what it asks for.
func (g *Gate) traced(req *http.Request) (*http.Response, error) {
	template := g.shownMethod(req) + " " + g.shownPath(req)
	ctx, span := observe.Begin(req.Context(), observe.Asked, template, observe.Route(template), observe.Host(g.shownHost(req)))
	resp, err := g.base.RoundTrip(req.WithContext(ctx))
	if err == nil {
		span.Status(resp.StatusCode)
	} else {
		span.Status(0)
	}
	span.End(nil)
	return resp, err
}

// judge gives the reason why req may not pass, or nil.
func (g *Gate) judge(req *http.Request) error {
	if err := plainAddress(req); err != nil {
		return err
	}
	if err := plainHeader(req); err != nil {
		return err
	}
	phase := g.Phase()
	if phase == PhaseRead && method(req) != http.MethodGet {
		return errors.New("only GET is let through while reading")
	}
	if err := g.plainBody(req, phase); err != nil {
		return err
	}
	if g.declared(req, phase) == nil {
		return errUndeclared
	}
	return nil
}

// declared is what the connector declared of req for the phase; nil if it did not.
func (g *Gate) declared(req *http.Request, phase Phase) *rule {
	segments := strings.Split(req.URL.Path[1:], "/")
	i := slices.IndexFunc(g.rules, func(r rule) bool {
		return r.phase == phase && r.method == method(req) && r.host == hostPort(req.URL) && r.matches(segments)
	})
	if i < 0 {
		return nil
	}
	return &g.rules[i]
}

// permitted asks whether the work may go on at all, and whether the access bears what the bank may count. Closing the
// session at the bank always may be done.
func (g *Gate) permitted(req *http.Request) error {
	if g.permit == nil || g.declared(req, PhaseEnd) != nil {
		return nil
	}
	var counts domain.BankCount
	if r := g.declared(req, g.Phase()); r != nil && req.Context().Value(uncounted{}) == nil {
		counts = r.counts
	}
	return g.permit(req.Context(), counts)
}

type uncounted struct{}

// Uncounted is for a request of a kind that is declared to count at the bank, but that itself shows it neither password
// nor code: where one address takes both. Without it, every request of that kind counts.
func Uncounted(ctx context.Context) context.Context {
	return context.WithValue(ctx, uncounted{}, true)
}

// method is what would go over the wire: net/http sends GET for an empty one.
func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// plainAddress refuses every way to write an address that two readers could understand differently.
func plainAddress(req *http.Request) error {
	u := req.URL
	switch {
	case u == nil || u.Scheme != "https":
		return errors.New("the scheme is not https")
	case u.Opaque != "" || u.User != nil || u.Fragment != "" || u.RawFragment != "":
		return errors.New("the address is opaque or has user information or a fragment")
	case req.Host != "" && req.Host != u.Host:
		return errors.New("the Host header is overridden")
	case !plainHost(u):
		return errors.New("the host has brackets or an empty port")
	case u.RawPath != "" || len(u.Path) > maxPathBytes || !strings.HasPrefix(u.Path, "/"):
		return errors.New("the path is encoded, relative or too long")
	case len(u.RawQuery) > maxQueryBytes:
		return errors.New("the query is too long")
	case !printable(u.RawQuery, '!', '~') || strings.Contains(u.RawQuery, "#"):
		return errors.New("the query would end the request line or begin another part of it")
	}
	for _, s := range strings.Split(u.Path[1:], "/") {
		if !plain(s) {
			return errors.New("a path segment is empty, made of dots or needs encoding")
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("the query is malformed")
	}
	for key := range query {
		if overrides(key) {
			return errors.New("the query overrides the method")
		}
	}
	return nil
}

// overrides says whether a header or query parameter of that name makes a server see another method or path than the
// one that was judged.
func overrides(name string) bool {
	name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	return strings.Contains(name, "method") || strings.Contains(name, "original-ur") || strings.Contains(name, "rewrite-ur")
}

// refusedHeaders would move a request elsewhere, smuggle another one in, or carry a session of their own.
var refusedHeaders = []string{"host", "cookie", "cookie2", "connection", "upgrade", "transfer-encoding", "te", "trailer",
	"content-length", "expect", "forwarded", "via", "keep-alive", "http2-settings"}

// headerName is a field name of RFC 9110, section 5.1, as far as we need it.
var headerName = domain.NewShape(`^[A-Za-z0-9_-]+$`)

// printable says whether text is ASCII from lowest to highest, and thus without what ends a line.
func printable(text string, lowest, highest byte) bool {
	for i := range len(text) {
		if text[i] < lowest || text[i] > highest {
			return false
		}
	}
	return true
}

func plainHeader(req *http.Request) error {
	size, lines := 0, 0
	for key, values := range req.Header {
		if !headerName.MatchString(key) {
			return errors.New("a header's name could be read as more than a name")
		}
		for _, value := range values {
			if !printable(value, ' ', '~') {
				return errors.New("a header's value could end its line")
			}
			size, lines = size+len(key)+len(value), lines+1
		}
	}
	if size > maxHeaderBytes || lines > maxHeaderLines {
		return errors.New("the headers are too many or too long")
	}
	for key := range req.Header {
		name := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
		if overrides(name) || slices.Contains(refusedHeaders, name) ||
			strings.HasPrefix(name, "proxy-") || strings.HasPrefix(name, "x-forwarded") {
			return errors.New("a header could turn the request into another one")
		}
	}
	if len(req.TransferEncoding) > 0 || len(req.Trailer) > 0 {
		return errors.New("transfer encodings and trailers are not let through")
	}
	return nil
}

func (g *Gate) plainBody(req *http.Request, phase Phase) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	if phase == PhaseRead || method(req) == http.MethodGet {
		return errors.New("a reading request has no body")
	}
	// net/http sends exactly ContentLength bytes, so a stated length is a limit; an unstated one is none.
	if req.ContentLength <= 0 || req.ContentLength > g.MaxRequest {
		return errors.New("the body's length is unknown or over the limit")
	}
	return nil
}

const redactedPart = "{redacted}"

func (g *Gate) shownMethod(req *http.Request) string {
	if m := method(req); slices.Contains(knownMethods, m) || m == http.MethodHead {
		return m
	}
	return "other"
}

func (g *Gate) shownHost(req *http.Request) string {
	if req.URL != nil && slices.Contains(g.hosts, hostPort(req.URL)) {
		return req.URL.Hostname()
	}
	return "undeclared"
}

// shownPath is the template that the path matches in any phase, or only those of its segments that some declaration
// names in that place.
func (g *Gate) shownPath(req *http.Request) string {
	if req.URL == nil || len(req.URL.Path) > maxPathBytes {
		return redactedPart
	}
	segments := strings.Split(strings.TrimPrefix(req.URL.Path, "/"), "/")
	known := map[string]bool{}
	for _, r := range g.rules {
		if r.matches(segments) {
			return r.template
		}
		for _, s := range r.segments {
			known[s] = true
		}
	}
	for i, s := range segments {
		if !known[s] {
			segments[i] = redactedPart
		}
	}
	return "/" + strings.Join(segments, "/")
}

// limited ends an answer that is longer than allowed with an error instead of an end.
type limited struct {
	io.ReadCloser
	left, limit int64
}

func (l *limited) Read(p []byte) (int, error) {
	// One byte more than is left tells an answer of just the allowed length from a longer one.
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if int64(n) > l.left {
		n = int(l.left)
		l.left = 0
		return n, tooLarge(l.limit)
	}
	l.left -= int64(n)
	return n, err
}

func tooLarge(limit int64) *Failure {
	return &Failure{Reason: domain.ReasonBankAnswer,
		Err: fmt.Errorf("reading the bank's answer: it changes protocol or is longer than %d bytes", limit)}
}

// Timeouts of a request to a bank.
const (
	dialTimeout    = 10 * time.Second
	tlsTimeout     = 10 * time.Second
	headerTimeout  = 30 * time.Second
	requestTimeout = 5 * time.Minute // the whole of it, body included
)

// NewClient makes the client that a connector is given: everything goes through the gate, no redirect is followed
// (it is returned as the answer), and no cookie is kept.
func NewClient(g *Gate) *http.Client {
	return &http.Client{Transport: g, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// TransportOptions say what differs from the plain internet. The zero value is right for real banks.
type TransportOptions struct {
	RootCAs *x509.CertPool    // nil means the system's
	DialTo  map[string]string // from a host name to the host:port dialled instead: the sandbox bank on this machine
}

// platform is where Azure answers the machines it runs: metadata and more, at what looks like a public address.
var platform = netip.MustParsePrefix("168.63.129.16/32")

// Transport makes the network side of a Gate: TLS 1.2 or newer, no proxy from the environment, and no private,
// loopback or metadata address (judged after name resolution), except for hosts in DialTo. One serves a process.
func Transport(o TransportOptions) *http.Transport {
	guarded := &net.Dialer{Timeout: dialTimeout, Control: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(platform)).Safe}
	open := &net.Dialer{Timeout: dialTimeout}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, err := net.SplitHostPort(address); err == nil {
			if instead := o.DialTo[host]; instead != "" {
				return open.DialContext(ctx, network, instead)
			}
		}
		return guarded.DialContext(ctx, network, address)
	}
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 1 << 20,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
	}
}
