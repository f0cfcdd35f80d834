package egress

import (
	"crypto/x509"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/extraction"
)

// privateAnswers are what a name may resolve to that is no custodian: named, for the failure's sake.
var privateAnswers = map[string]answers{
	"loopback":              {{"127.0.0.1"}},
	"all of loopback":       {{"127.8.9.10"}},
	"IPv6 loopback":         {{"::1"}},
	"this network":          {{"0.0.0.0"}},
	"IPv6 unspecified":      {{"::"}},
	"private 10":            {{"10.0.0.1"}},
	"private 172":           {{"172.31.255.254"}},
	"private 192":           {{"192.168.1.1"}},
	"shared":                {{"100.64.0.1"}},
	"metadata":              {{"169.254.169.254"}},
	"metadata of tasks":     {{"169.254.170.2"}},
	"metadata over IPv6":    {{"fd00:ec2::254"}},
	"Google's over IPv6":    {{"fd20:ce::254"}},
	"Alibaba's":             {{"100.100.100.200"}},
	"Oracle's":              {{"192.0.0.192"}},
	"Azure's":               {{"168.63.129.16"}},
	"unique local":          {{"fd12:3456::1"}},
	"site-local":            {{"fec0::1"}},
	"IPv4 compatible":       {{"::7f00:1"}},
	"IPv4 mapped":           {{"::ffff:10.0.0.1"}},
	"IPv4 translated":       {{"::ffff:0:7f00:1"}},
	"NAT64":                 {{"64:ff9b::7f00:1"}},
	"NAT64, local":          {{"64:ff9b:1::7f00:1"}},
	"6to4":                  {{"2002:7f00:1::1"}},
	"Teredo":                {{"2001:0:7f00:1::1"}},
	"ORCHID":                {{"2001:20::1"}},
	"documentation":         {{"203.0.113.1"}},
	"IPv6 documentation":    {{"2001:db8::1"}},
	"IPv6 documentation, 2": {{"3fff::1"}},
	"segment routing":       {{"5f00::1"}},
	"discard":               {{"100::1"}},
	"benchmarking":          {{"198.18.0.1"}},
	"protocol assignments":  {{"192.0.0.8"}},
	"reserved":              {{"240.0.0.1"}},
	"several":               {{"10.0.0.1", "127.0.0.1", "::1"}},
	"an alias of localhost": {{"CNAME inside.example.org"}},
	"an alias's alias":      {{"CNAME hop.example.org"}},
}

// others are the names that privateAnswers lead to.
func others() {
	dns.say("inside.example.org", []string{"127.0.0.1", "::1"})
	dns.say("hop.example.org", []string{"CNAME inside.example.org"})
}

// TestCustodianInsideTheHouse: whatever the DNS says a custodian's host is, no private address is dialled for it; but
// for the sandbox bank on this machine, which is found without a name.
func TestCustodianInsideTheHouse(t *testing.T) {
	others()
	for _, c := range custodians(t) {
		declared := connectors[c.Protocol].Requests()
		read := declared[slices.IndexFunc(declared, func(d extraction.Request) bool { return d.Phase == extraction.PhaseRead })]
		for name, address := range privateAnswers {
			base, err := url.Parse(c.Endpoints[read.Endpoint])
			must(t, err)
			dns.say(base.Hostname(), address...)
			network := extraction.Transport(extraction.TransportOptions{})
			before := begun(t)
			g := extraction.Guard(c, declared, network, nil)
			g.SetPhase(extraction.PhaseRead)
			resp, err := extraction.NewClient(g).Do(plain(t.Context(), c, read))
			if err == nil {
				resp.Body.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "prohibited") {
				t.Errorf("%s at %s: %v; want the address prohibited", c.ID, name, err)
			}
			if n := begun(t) - before; n != 0 {
				t.Errorf("%s at %s: %d connections were begun", c.ID, name, n)
			}
			network.CloseIdleConnections()
		}
	}
}

// TestTheWorldWouldCatchIt dials the same names without a guard.
func TestTheWorldWouldCatchIt(t *testing.T) {
	needWorld(t)
	others()
	trap := listenEverywhere(t)
	for name, address := range privateAnswers {
		dns.say("caught.example.com", address...)
		before := begun(t)
		c, err := net.Dial("tcp", "caught.example.com:443")
		if err == nil {
			c.Close()
		}
		if begun(t) == before {
			t.Errorf("%s: a connection to it is not counted: %v", name, err)
		}
	}
	if len(trap.reached()) < len(privateAnswers)/2 {
		t.Error("the trap catches little")
	}
}

// unruly is a bank that answers its one declared request in a bad way, and a client that reaches it through the guard.
type unruly struct {
	custodian domain.Custodian
	declared  []extraction.Request
	network   *http.Transport
	asked     atomic.Int64
}

func newUnruly(t *testing.T, h2 bool, answer http.HandlerFunc) *unruly {
	t.Helper()
	u := &unruly{custodian: domain.Custodian{ID: "unruly", Endpoints: map[string]string{"api": "https://example.com"}},
		declared: []extraction.Request{{Method: "GET", Endpoint: "api", Path: "/read", Phase: extraction.PhaseRead},
			{Method: "POST", Endpoint: "api", Path: "/token", Phase: extraction.PhaseLogin}}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.asked.Add(1)
		answer(w, r)
	}))
	server.EnableHTTP2 = h2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	u.network = extraction.Transport(extraction.TransportOptions{RootCAs: roots,
		DialTo: map[string]string{"example.com": server.Listener.Addr().String()}})
	t.Cleanup(u.network.CloseIdleConnections)
	return u
}

// gate is a fresh guard in that phase, and a count of what it refused.
func (u *unruly) gate(phase extraction.Phase) (*extraction.Gate, *refusals) {
	r := &refusals{}
	g := extraction.Guard(u.custodian, u.declared, u.network, r.note)
	g.SetPhase(phase)
	return g, r
}

// elsewhere are places that a redirect may name.
var elsewhere = []string{"https://evil.example/x", "http://example.com/read", "https://example.com:444/read", "https://127.0.0.1/",
	"https://169.254.169.254/latest/meta-data", "//evil.example/x", "/orders", "https://user@example.com/read", "file:///etc/passwd",
	"gopher://127.0.0.1:6379/_x", "https://example.com./read", "https://EXAMPLE.com/read", "https://example.com/read#x", "\\\\evil.example\\x",
	"javascript:alert(1)", "https://[::1]/", "https://2130706433/", "https://example.com@evil.example/read"}

// TestBankThatRedirects: a redirect is an answer and leads nowhere; whoever follows it by hand meets the guard again.
func TestBankThatRedirects(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		u := newUnruly(t, h2, func(w http.ResponseWriter, r *http.Request) {
			status, _ := strconv.Atoi(r.Header.Get("X-Status"))
			w.Header().Set("Location", elsewhere[must1(strconv.Atoi(r.Header.Get("X-Where")))])
			w.WriteHeader(status)
		})
		for _, status := range []int{300, 301, 302, 303, 305, 307, 308} {
			for i, where := range elsewhere {
				for _, d := range u.declared {
					u.redirected(t, d, status, i, where)
				}
			}
		}
	}
}

func must1[T any](v T, _ error) T { return v }

func (u *unruly) redirected(t *testing.T, d extraction.Request, status, i int, where string) {
	t.Helper()
	ask := func(follow bool) (*http.Response, *refusals, error) {
		g, r := u.gate(d.Phase)
		client := extraction.NewClient(g)
		if follow {
			client.CheckRedirect = nil
		}
		q := plain(t.Context(), u.custodian, d)
		q.Header.Set("X-Status", strconv.Itoa(status))
		q.Header.Set("X-Where", strconv.Itoa(i))
		resp, err := client.Do(q)
		if err == nil {
			resp.Body.Close()
		}
		return resp, r, err
	}
	before := u.asked.Load()
	if resp, r, err := ask(false); err != nil || resp.StatusCode != status || r.n.Load() != 0 || u.asked.Load() != before+1 {
		t.Errorf("%s, %d to %s: %v, %d refused; want the redirect itself", d.Method, status, where, err, r.n.Load())
	}
	before = u.asked.Load()
	resp, r, err := ask(true)
	follows := status != 300 && status != 305
	var f *extraction.Failure
	if follows && (err == nil || r.n.Load() > 0 && (!errors.As(err, &f) || f.Reason != domain.ReasonEgressRefused)) {
		t.Errorf("%s, %d to %s, followed by hand: %v %v", d.Method, status, where, resp, err)
	}
	if u.asked.Load() != before+1 {
		t.Errorf("%s, %d to %s: it was followed", d.Method, status, where)
	}
}

// TestBankThatPointsElsewhere: alternative services, preloads, other authentication and protocols lead nowhere.
func TestBankThatPointsElsewhere(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer other.Close()
	var reached atomic.Int64
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	at := other.Addr().String()
	_, port, _ := net.SplitHostPort(at)
	pointers := map[string]http.Header{
		"alternative service": {"Alt-Svc": {`h2="` + at + `"; ma=86400; persist=1, h3=":` + port + `"`}},
		"refresh":             {"Refresh": {"0; url=https://" + at + "/"}},
		"preload":             {"Link": {"<https://" + at + "/>; rel=preload", "<https://" + at + "/>; rel=preconnect"}},
		"content elsewhere":   {"Content-Location": {"https://" + at + "/"}},
		"authentication":      {"Www-Authenticate": {`Negotiate`, `Digest realm="x"`}},
		"a cookie":            {"Set-Cookie": {"a=b; Domain=example.com"}},
		"client hints":        {"Accept-Ch": {"Sec-CH-UA"}, "Nel": {`{"report_to":"x"}`}, "Report-To": {`{"endpoints":[{"url":"https://` + at + `"}]}`}},
	}
	for _, h2 := range []bool{false, true} {
		var say http.Header
		u := newUnruly(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" || r.Host != "example.com" {
				t.Errorf("it asked again with %v at %s", r.Header, r.Host)
			}
			maps.Copy(w.Header(), say)
		})
		for name, say2 := range pointers {
			say = say2
			g, r := u.gate(extraction.PhaseRead)
			for range 2 {
				resp, err := extraction.NewClient(g).Do(plain(t.Context(), u.custodian, u.declared[0]))
				if err != nil || r.n.Load() != 0 {
					t.Fatalf("%s: %v", name, err)
				}
				resp.Body.Close()
			}
		}
	}
	if reached.Load() != 0 {
		t.Errorf("%d connections elsewhere", reached.Load())
	}
}

// TestBankThatChangesProtocol: an answer of 101 gives nobody a raw connection.
func TestBankThatChangesProtocol(t *testing.T) {
	u := newUnruly(t, false, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			t.Error("something was written after the change of protocol")
		}
	})
	g, _ := u.gate(extraction.PhaseRead)
	resp, err := g.RoundTrip(plain(t.Context(), u.custodian, u.declared[0]))
	var f *extraction.Failure
	if !errors.As(err, &f) || f.Reason != domain.ReasonBankAnswer {
		t.Errorf("%v, %v; want the answer refused", resp, err)
	}
}
