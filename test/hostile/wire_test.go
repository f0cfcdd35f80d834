package hostile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/serve"
	"sluis.internal/test/house"
)

// sockets serves the bed's two hosts as a home serves them, each at an address of its own.
func sockets(t testing.TB, b *bed) map[string]string {
	t.Helper()
	at := map[string]string{}
	for _, host := range []string{"api", "pages"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := serve.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.home.Handler(host).ServeHTTP(w, r) }))
		go func() { _ = serve.Serve(s, l) }() // until it is closed
		t.Cleanup(func() { _ = s.Close() })
		at[host] = l.Addr().String()
	}
	return at
}

// wire is a request byte by byte.
type wire struct {
	line    string
	headers []string
	body    string
}

func (w wire) String() string {
	return w.line + "\r\n" + strings.Join(w.headers, "\r\n") + "\r\n\r\n" + w.body
}

// with adds headers.
func (w wire) with(headers ...string) wire {
	w.headers = slices.Concat(w.headers, headers)
	return w
}

// without takes a header away.
func (w wire) without(name string) wire {
	w.headers = slices.DeleteFunc(slices.Clone(w.headers), func(h string) bool { return strings.HasPrefix(h, name+":") })
	return w
}

// path puts something else in the place of the path.
func (w wire) path(change func(string) string) wire {
	words := strings.Fields(w.line)
	w.line = words[0] + " " + change(words[1]) + " " + words[2]
	return w
}

// method puts another in the place of the method.
func (w wire) method(m string) wire {
	_, rest, _ := strings.Cut(w.line, " ")
	w.line = m + " " + rest
	return w
}

// sized states the body's length anew; none without a body.
func (w wire) sized() wire {
	if w = w.without("Content-Length"); w.body == "" {
		return w
	}
	return w.with("Content-Length: " + strconv.Itoa(len(w.body)))
}

// chunked sends the body in chunks.
func (w wire) chunked(body string) wire {
	w = w.without("Content-Length").with("Transfer-Encoding: chunked")
	w.body = body
	return w
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// good is a good request, after whose answer the connection ends.
func (b *bed) wire(r route) wire {
	w := wire{line: r.Method + " " + b.path(r) + " HTTP/1.1", headers: []string{"Host: localhost", "Connection: close"}, body: string(b.good(r))}
	headers := b.headers(r, w.body != "")
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		w = w.with(name + ": " + headers[name])
	}
	return w.sized()
}

// How a request is to be answered.
type verdict int

const (
	asGood  verdict = iota // as if nothing were odd about it: as the good request is
	ours                   // refused by us: a problem, or a page
	theirs                 // refused by net/http, before we see it
	refused                // by either
	any1                   // in any way that is no failure, or not at all
)

// shape is an odd form of a request.
type shape struct {
	name string
	want verdict
	only func(route) bool // of which routes; nil means all
	make func(w wire) wire
	half bool // the sender ends its side after it
}

func hasJSON(r route) bool { return r.Body != nil }
func hasBody(r route) bool { return r.Body != nil || hasForm(r) }
func hasForm(r route) bool { return r.page && r.Method == http.MethodPost }

// smuggled is what somebody hides in a request, so that it passes for the next one.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"

var shapes = slices.Concat(lineShapes, headerShapes, lengthShapes, bodyShapes)

var lineShapes = []shape{
	{"HTTP/1.0", asGood, nil, func(w wire) wire { w.line = strings.Replace(w.line, "/1.1", "/1.0", 1); return w }, false},
	{"HTTP/1.0 without a host", asGood, nil, func(w wire) wire { w.line = strings.Replace(w.line, "/1.1", "/1.0", 1); return w.without("Host") }, false},
	{"HTTP/1.1 without a host", theirs, nil, func(w wire) wire { return w.without("Host") }, false},
	{"two hosts", theirs, nil, func(w wire) wire { return w.with("Host: evil.example") }, false},
	{"a foreign host", asGood, nil, func(w wire) wire { return w.without("Host").with("Host: evil.example") }, false},
	{"HTTP/0.9", theirs, nil, func(w wire) wire { w.line = strings.TrimSuffix(w.line, " HTTP/1.1"); return w }, true},
	{"HTTP/2.0", theirs, nil, func(w wire) wire { w.line = strings.Replace(w.line, "/1.1", "/2.0", 1); return w }, false},
	{"HTTP/9.9", theirs, nil, func(w wire) wire { w.line = strings.Replace(w.line, "/1.1", "/9.9", 1); return w }, false},
	{"no version", theirs, nil, func(w wire) wire { w.line = strings.Replace(w.line, "/1.1", "", 1); return w }, false},
	{"an unknown method", ours, nil, func(w wire) wire { return w.method("BREW") }, false},
	{"a method in small letters", ours, nil, func(w wire) wire { return w.method(strings.ToLower(strings.Fields(w.line)[0])) }, false},
	{"TRACE", ours, nil, func(w wire) wire { return w.method("TRACE") }, false},
	{"CONNECT", refused, nil, func(w wire) wire { return w.method("CONNECT").path(func(string) string { return "evil.example:443" }) }, false},
	{"a method of ten thousand letters", refused, nil, func(w wire) wire { return w.method(strings.Repeat("G", 10_000)) }, false},
	{"OPTIONS for all", any1, nil, func(w wire) wire { return w.method("OPTIONS").path(func(string) string { return "*" }) }, false},
	{"HTTP/2 by prior knowledge", refused, nil, func(wire) wire { return wire{line: "PRI * HTTP/2.0", body: "SM\r\n\r\n"} }, true},
	{"an absolute address", asGood, nil, func(w wire) wire { return w.path(func(p string) string { return "http://evil.example" + p }) }, false},
	{"two slashes", any1, nil, func(w wire) wire { return w.path(func(p string) string { return "//evil.example/.." + p }) }, false},
	{"a backslash", any1, nil, func(w wire) wire { return w.path(func(p string) string { return `/\evil.example` + p }) }, false},
	{"dots", any1, nil, func(w wire) wire { return w.path(func(p string) string { return "/x/../.." + p }) }, false},
	{"escaped dots", ours, nil, func(w wire) wire { return w.path(func(p string) string { return p + "/%2e%2e/%2e%2e/etc/passwd" }) }, false},
	{"an escaped NUL", ours, nil, func(w wire) wire { return w.path(func(p string) string { return p + "/%00" }) }, false},
	{"a bad escape", theirs, nil, func(w wire) wire { return w.path(func(p string) string { return p + "%zz" }) }, false},
	{"a bare NUL", refused, nil, func(w wire) wire { return w.path(func(p string) string { return p + "\x00" }) }, false},
	{"no ASCII", refused, nil, func(w wire) wire { return w.path(func(p string) string { return p + "/é\xff" }) }, false},
	{"an address of 30 kB", refused, nil, func(w wire) wire {
		return w.path(func(p string) string { return p + "?a=" + strings.Repeat("x", 30_000) })
	}, false},
	{"many parameters", asGood, nil, func(w wire) wire { return w.path(func(p string) string { return p + "?" + parameters(1000) }) }, false},
	{"a broken query", ours, func(r route) bool { return !r.page && r.ID != "getImage" && !r.Investor }, func(w wire) wire { return w.path(func(p string) string { return p + "?a=%zz" }) }, false},
}

func parameters(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("a%d=1", i)
	}
	return strings.Join(out, "&")
}

func many(n int, format string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(format, i)
	}
	return out
}

var headerShapes = []shape{
	{"many headers", asGood, nil, func(w wire) wire { return w.with(many(800, "X-A%d: 1")...) }, false},
	{"too many headers", theirs, nil, func(w wire) wire { return w.with(many(8000, "X-A%d: 1")...) }, false},
	{"a header of 30 kB", theirs, nil, func(w wire) wire { return w.with("X-A: " + strings.Repeat("x", 30_000)) }, false},
	{"many cookies", any1, nil, func(w wire) wire { return w.with("Cookie: " + strings.Join(many(900, "a%d=b"), "; ")) }, false},
	{"cookies of 30 kB", theirs, nil, func(w wire) wire { return w.with("Cookie: a=" + strings.Repeat("x", 30_000)) }, false},
	{"a space before the colon", theirs, nil, func(w wire) wire { return w.with("X-A : 1") }, false},
	{"a header without a colon", theirs, nil, func(w wire) wire { return w.with("X-A") }, false},
	{"a header without a name", theirs, nil, func(w wire) wire { return w.with(": 1") }, false},
	{"a NUL in a header", theirs, nil, func(w wire) wire { return w.with("X-A: a\x00b") }, false},
	{"no UTF-8 in a header", asGood, nil, func(w wire) wire { return w.with("X-A: \xff\xfe") }, false},
	{"a folded header", any1, nil, func(w wire) wire { return w.with("X-A: 1\r\n 2") }, false},
	{"a method override", asGood, nil, func(w wire) wire { return w.with("X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE") }, false},
	{"an address override", asGood, nil, func(w wire) wire {
		return w.with("X-Original-URL: /v1/keys", "X-Rewrite-URL: /v1/keys", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example")
	}, false},
	{"a forwarding chain of rubbish", asGood, nil, func(w wire) wire { return w.with("X-Forwarded-For: , ,x\",999.1.1.1", "X-Forwarded-For: ::1%eth0") }, false},
	{"an upgrade to h2c", asGood, nil, func(w wire) wire { return w.with("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA") }, false},
	{"an upgrade to websocket", asGood, nil, func(w wire) wire {
		return w.with("Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13")
	}, false},
	{"compressed answers wanted", asGood, nil, func(w wire) wire { return w.with("Accept-Encoding: gzip, br") }, false},
	{"a part wanted", asGood, nil, func(w wire) wire { return w.with("Range: bytes=0-0,2-3", "If-Match: *", "If-Unmodified-Since: x") }, false},
	{"languages without end", asGood, nil, func(w wire) wire { return w.with("Accept-Language: " + strings.Repeat("a-b-c-d;q=0.1,", 700)) }, false},
	{"an unknown expectation", theirs, nil, func(w wire) wire { return w.with("Expect: miracles") }, false},
	{"an expectation", asGood, hasBody, func(w wire) wire { return w.with("Expect: 100-continue") }, false},
	{"two authorizations", ours, func(r route) bool { return !r.Investor }, func(w wire) wire { return w.with("Authorization: Bearer x") }, false},
	{"two idempotency keys", ours, hasJSON, func(w wire) wire { return w.with("Idempotency-Key: a", "Idempotency-Key: b") }, false},
	{"an idempotency key too long", ours, hasJSON, func(w wire) wire { return w.with("Idempotency-Key: " + strings.Repeat("k", 129)) }, false},
	{"another origin", ours, hasForm, func(w wire) wire {
		return w.without("Sec-Fetch-Site").with("Sec-Fetch-Site: cross-site", "Origin: https://evil.example")
	}, false},
}

var lengthShapes = []shape{
	{"a length and chunks", any1, nil, func(w wire) wire {
		return w.without("Content-Length").with("Content-Length: "+strconv.Itoa(5+len(smuggled)), "Transfer-Encoding: chunked").closing("0\r\n\r\n" + smuggled)
	}, false},
	{"chunks and a length", any1, nil, func(w wire) wire { return w.chunked("0\r\n\r\n" + smuggled).with("Content-Length: 5").closing("") }, false},
	{"chunks twice", theirs, nil, func(w wire) wire { return w.chunked("0\r\n\r\n" + smuggled).with("Transfer-Encoding: chunked") }, false},
	{"chunks by another name", theirs, nil, func(w wire) wire {
		return w.chunked("0\r\n\r\n"+smuggled).without("Transfer-Encoding").with("Transfer-Encoding: xchunked", "Content-Length: 5")
	}, false},
	{"chunks, then as they are", theirs, nil, func(w wire) wire {
		return w.chunked("0\r\n\r\n" + smuggled).without("Transfer-Encoding").with("Transfer-Encoding: chunked, identity")
	}, false},
	{"chunks after a tab", any1, nil, func(w wire) wire {
		return w.chunked("0\r\n\r\n" + smuggled).without("Transfer-Encoding").with("Transfer-Encoding:\tchunked").closing("")
	}, false},
	{"chunks in a folded header", any1, nil, func(w wire) wire {
		return w.chunked("0\r\n\r\n"+smuggled).without("Transfer-Encoding").with("Transfer-Encoding:\r\n chunked", "Content-Length: 5").closing("")
	}, false},
	{"two lengths", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 0", "Content-Length: 40") }, false},
	{"a length twice", any1, nil, func(w wire) wire {
		w.body += "   "
		return w.without("Content-Length").with("Content-Length: 3", "Content-Length: 3")
	}, false},
	{"a list of lengths", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 3, 40") }, true},
	{"a length with a sign", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: +3") }, true},
	{"a negative length", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: -1") }, true},
	{"a hexadecimal length", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 0x3") }, true},
	{"a length of 2^64", theirs, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 18446744073709551616") }, true},
	{"a length of 2^62", any1, nil, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 4611686018427387904") }, true},
	{"a length too long", ours, hasBody, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 5000") }, true},
	{"a length too short", ours, hasJSON, func(w wire) wire { return w.without("Content-Length").with("Content-Length: 1") }, false},
	{"chunks without end", ours, hasBody, func(w wire) wire { return w.chunked(chunk("{")) }, true},
	{"a chunk of a negative size", ours, hasBody, func(w wire) wire { return w.chunked("-1\r\n{}\r\n0\r\n\r\n") }, true},
	{"a chunk of a huge size", ours, hasBody, func(w wire) wire { return w.chunked("FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n") }, true},
	{"a chunk longer than it says", ours, hasBody, func(w wire) wire { return w.chunked("1\r\n{}\r\n0\r\n\r\n") }, true},
	{"a chunk with a prefix", ours, hasBody, func(w wire) wire { return w.chunked("0x2\r\n{}\r\n0\r\n\r\n") }, true},
	{"chunks with long extensions", ours, hasBody, func(w wire) wire { return w.chunked("2;" + strings.Repeat("a", 8000) + "\r\n{}\r\n0\r\n\r\n") }, true},
	{"good chunks", asGood, hasBody, func(w wire) wire { return w.chunked(chunk(w.body) + "0\r\n\r\n") }, false},
	{"chunks of one byte", asGood, hasBody, func(w wire) wire { return w.chunked(bytewise(w.body) + "0\r\n\r\n") }, false},
	{"a trailer", any1, hasBody, func(w wire) wire {
		return w.chunked(chunk(w.body) + "0\r\nAuthorization: Bearer x\r\nContent-Length: 5\r\n\r\n").with("Trailer: Authorization")
	}, false},
}

// closing leaves it to the server to end the connection; a body of its own where one is given.
func (w wire) closing(body string) wire {
	if w = w.without("Connection"); body != "" {
		w.body = body
	}
	return w
}

func bytewise(text string) string {
	var out strings.Builder
	for i := range len(text) {
		out.WriteString(chunk(text[i : i+1]))
	}
	return out.String()
}

// bodyShapes are about the body's type, coding and size; what it says is for TestBodies.
var bodyShapes = []shape{
	{"no type", ours, hasBody, func(w wire) wire { return w.without("Content-Type") }, false},
	{"another type", ours, hasBody, func(w wire) wire { return w.without("Content-Type").with("Content-Type: text/plain") }, false},
	{"multipart", ours, hasBody, func(w wire) wire {
		return w.without("Content-Type").with("Content-Type: multipart/form-data; boundary=x")
	}, false},
	{"JSON of another kind", ours, hasBody, func(w wire) wire { return w.without("Content-Type").with("Content-Type: application/merge-patch+json") }, false},
	{"two types", ours, hasJSON, func(w wire) wire { return w.with("Content-Type: text/plain") }, false},
	{"Latin-1", ours, hasBody, func(w wire) wire { return w.charset("iso-8859-1") }, false},
	{"UTF-16", ours, hasBody, func(w wire) wire { return w.charset("utf-16") }, false},
	{"UTF-7", ours, hasBody, func(w wire) wire { return w.charset("utf-7") }, false},
	{"UTF-8", asGood, hasBody, func(w wire) wire { return w.charset("UTF-8") }, false},
	{"gzip", ours, hasBody, func(w wire) wire { return w.coded("gzip", zipped(w.body)) }, false},
	{"gzip in name only", ours, hasBody, func(w wire) wire { return w.coded("gzip", w.body) }, false},
	{"a bomb", ours, hasBody, func(w wire) wire { return w.coded("gzip", zipped(strings.Repeat(" ", 10<<20))) }, false},
	{"an unknown coding", ours, hasBody, func(w wire) wire { return w.coded("rot13", w.body) }, false},
	{"no coding", asGood, hasBody, func(w wire) wire { return w.coded("identity", w.body) }, false},
	{"too large", ours, hasBody, func(w wire) wire { return w.coded("identity", w.body+strings.Repeat(" ", 70<<10)) }, false},
	{"far too large", ours, hasBody, func(w wire) wire { return w.coded("identity", strings.Repeat("a", 2<<20)) }, false},
	{"too large in chunks", ours, hasBody, func(w wire) wire {
		return w.chunked(strings.Repeat(chunk(strings.Repeat("a", 1<<10)), 100) + "0\r\n\r\n")
	}, false},
	{"a body where none is read", any1, func(r route) bool { return !hasBody(r) }, func(w wire) wire { w.body = strings.Repeat("a", 1<<20); return w.sized() }, false},
}

func (w wire) charset(name string) wire {
	for i, h := range w.headers {
		if strings.HasPrefix(h, "Content-Type:") {
			w.headers = slices.Clone(w.headers)
			w.headers[i] += "; charset=" + name
		}
	}
	return w
}

func (w wire) coded(name, body string) wire {
	w.body = body
	return w.sized().with("Content-Encoding: " + name)
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, text)
	if err := errors.Join(err, z.Close()); err != nil {
		panic(err)
	}
	return b.String()
}

// patience is how long an answer may take, and the end of the connection after it.
const patience = 20 * time.Second

// converse sends bytes and reads answers until the connection ends. Answers to methods that we know have a body.
func converse(at, raw string, half bool) (all []answer, err error) {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	go func() {
		_, err := io.WriteString(c, raw) // whoever refuses early reads no further
		if half && err == nil {
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}()
	in := bufio.NewReader(c)
	for {
		if _, err := in.Peek(1); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				return all, errors.New("the connection stays open")
			}
			return all, nil // ended, or cut because we sent what nobody reads
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return all, fmt.Errorf("the answer is no answer: %w", err)
		}
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		all = append(all, answer{resp.StatusCode, resp.Header, body})
		if err != nil && len(all) > 1 {
			return all, err
		}
	}
}

// protocol are the statuses by which net/http refuses what it cannot read.
var protocol = []int{http.StatusBadRequest, http.StatusExpectationFailed, http.StatusRequestHeaderFieldsTooLarge,
	http.StatusNotImplemented, http.StatusHTTPVersionNotSupported}

// theirRefusal says whether an answer is net/http's: short, plain, and the last.
func theirRefusal(a answer) bool {
	media := a.header.Get("Content-Type")
	return slices.Contains(protocol, a.status) && (strings.HasPrefix(media, "text/plain") || media == "" && len(a.body) == 0) && len(a.body) < 200
}

// judge says what is wrong with what came of a shape.
func (b *bed) judge(r route, s shape, all []answer, good int) error {
	if len(all) > 1 {
		return fmt.Errorf("%d answers, the second is %s", len(all), all[1])
	}
	if len(all) == 0 {
		if s.want == any1 || s.want == refused {
			return nil
		}
		return errors.New("no answer")
	}
	a := all[0]
	own := b.wrongAnywhere(r, a)
	if a.status == http.StatusMethodNotAllowed && a.problem().Code == "method_not_allowed" || a.status >= 300 && a.status < 400 && wrongRedirect(a) == nil {
		own = nil
	}
	net := theirRefusal(a)
	switch {
	case bytes.Contains(a.body, []byte("evil.example")) || strings.Contains(a.header.Get("Location"), "evil.example") && wrongRedirect(a) != nil:
		return errors.New("it repeats a foreign host")
	case s.want == asGood && a.status != good:
		return fmt.Errorf("a good request gets %d", good)
	case s.want == ours && (a.status < 400 || own != nil):
		return fmt.Errorf("it is not refused by us: %w", own)
	case s.want == theirs && !net:
		return errors.New("it is not refused")
	case s.want == refused && (a.status < 400 || own != nil && !net):
		return fmt.Errorf("it is not refused: %w", own)
	case own != nil && !net && a.header.Get("Allow") == "" && !(s.want == any1 && a.status == http.StatusOK && len(a.body) == 0):
		return own
	}
	return nil
}

// TestWire sends every route every shape of a request over a connection of its own. There is one answer, and then the
// connection ends: nothing that was hidden in a request is answered as another. Of the shapes that are taken, each
// route that writes gets only some, by the seed, unless there is time for all: the world has to be put back after each.
func TestWire(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	chance := rand.New(rand.NewPCG(*house.Seed, 0))
	b := rest(t)
	at := sockets(t, b)
	for _, r := range b.routes {
		if r.ID == "watchState" {
			continue // its answer has no end; TestSlow looks after it
		}
		t.Run(r.String(), func(t *testing.T) {
			again(t, b)
			plain, err := converse(at[r.host()], b.wire(r).String(), false)
			if err != nil || len(plain) != 1 || plain[0].status >= 400 {
				t.Fatalf("a good request: %v, %v", plain, err)
			}
			changed := true
			for _, s := range shapes {
				writes := r.Method != http.MethodGet
				if s.only != nil && !s.only(r) || writes && s.want == asGood && !*house.Long && chance.IntN(8) > 0 {
					continue
				}
				if changed {
					again(t, b)
				}
				all, err := converse(at[r.host()], s.make(b.wire(r)).String(), s.half)
				changed = writes && (len(all) == 0 || all[0].status < 400)
				if err == nil {
					err = b.judge(r, s, all, plain[0].status)
				}
				if err != nil {
					t.Errorf("%s: %v; %.300v", s.name, err, all)
				}
			}
		})
	}
}

// TestPipelined: requests that come all at once are answered one after the other.
func TestPipelined(t *testing.T) {
	b := rest(t)
	at := sockets(t, b)
	for _, r := range b.those(func(r route) bool { return r.Method == http.MethodGet && r.ID != "watchState" }) {
		w := b.wire(r)
		raw := strings.Repeat(w.without("Connection").String(), 9) + w.String()
		all, err := converse(at[r.host()], raw, false)
		if err != nil || len(all) != 10 {
			t.Errorf("%s: %d answers, %v", r, len(all), err)
			continue
		}
		for _, a := range all {
			if a.status != all[0].status || b.wrong(r, a) != nil {
				t.Errorf("%s: %s", r, a)
			}
		}
	}
}
