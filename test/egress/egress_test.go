// Package egress shows that nothing leaves the house but what may. Two doors lead out. A connector speaks to its
// custodian through the egress guard (shared/extraction), which passes just what the connector declared and, after
// login, only reads; and webhooks go to addresses that strangers chose (shared/webhook), which must be public.
//
// On Linux the tests play in a world of their own: a network namespace without a way out, in which every address there
// is, on every port, is this machine. A connection that should not have been tried cannot fail to be made there, so it
// is seen: by what listens on the ports that the tricks use, and by the kernel's own count of connections begun. The
// same tricks are tried without any guard, to show that the world would have caught them.
//
// Names are resolved by a DNS server of the test's own, and the environment names proxies that nobody must ask. Where no
// such world can be made, everything runs but the count of connections.
package egress

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
)

// full says that nothing may be left out.
var full = os.Getenv("SLUIS_FULL") != ""

// proxyAsked counts the connections to the proxy that the environment names, proxyTried those that a test made on purpose.
var proxyAsked, proxyTried atomic.Int64

func TestMain(m *testing.M) {
	if code, done := inWorld(); done {
		os.Exit(code)
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "preparing:", err)
		os.Exit(1)
	}
	code := m.Run()
	if n := proxyAsked.Load() - proxyTried.Load(); n != 0 {
		fmt.Fprintf(os.Stderr, "the proxy of the environment was asked %d times\n", n)
		code = max(code, 1)
	}
	os.Exit(code)
}

// prepare lays the traps that hold for the whole process: the resolver and the proxies.
func prepare() error {
	if err := resolveHere(); err != nil {
		return err
	}
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { // ends with the process
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			proxyAsked.Add(1)
			_ = c.Close() // it has served its purpose
		}
	}()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		if err := os.Setenv(name, "http://"+proxy.Addr().String()); err != nil {
			return err
		}
	}
	return os.Setenv("NO_PROXY", "")
}

// TestTheProxyTrapWorks asks as somebody would who heeds the environment.
func TestTheProxyTrapWorks(t *testing.T) {
	resp, err := http.Get("http://anywhere.example.com/")
	if err == nil {
		resp.Body.Close()
		t.Fatal("the proxy answered")
	}
	if proxyTried.Add(1); proxyAsked.Load() != proxyTried.Load() {
		t.Fatalf("the proxy was asked %d times", proxyAsked.Load())
	}
}

// needWorld skips a test that only a world of its own can show.
func needWorld(t *testing.T) {
	t.Helper()
	if !sealed && full {
		t.Fatal("no network namespace can be made here, and nothing may be left out")
	}
	if !sealed {
		t.Skip("no network namespace can be made here")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
