package serve

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

var noon = domain.At(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))

func TestLimitsByTheClock(t *testing.T) {
	l := NewLimits(60)
	now := noon
	take := func(who string) (*httptest.ResponseRecorder, error) {
		w := httptest.NewRecorder()
		return w, l.take(w, who, now)
	}
	for i := range 60 {
		w, err := take("a")
		if err != nil {
			t.Fatalf("request %d: %v", i+1, err)
		}
		if got, want := w.Header().Get("RateLimit"), fmt.Sprintf(`"default";r=%d;t=%d`, 59-i, i+1); got != want {
			t.Errorf("request %d: RateLimit is %s, want %s", i+1, got, want)
		}
		if got := w.Header().Get("RateLimit-Policy"); got != `"default";q=60;w=60` {
			t.Errorf("RateLimit-Policy is %s", got)
		}
	}
	w, err := take("a")
	if domain.KindOf(err) != domain.RateLimited || w.Header().Get("RateLimit") != `"default";r=0;t=60` {
		t.Errorf("one too many: %v %v", err, w.Header())
	}
	answer := httptest.NewRecorder()
	if WriteProblem(answer, err) != http.StatusTooManyRequests || answer.Header().Get("Retry-After") != "1" {
		t.Errorf("answered %d, Retry-After %q", answer.Code, answer.Header().Get("Retry-After"))
	}
	if _, err := take("b"); err != nil {
		t.Errorf("another caller: %v", err)
	}
	now = now.Add(999 * time.Millisecond)
	if _, err := take("a"); err == nil {
		t.Error("let in before its time")
	}
	now = now.Add(time.Millisecond)
	if _, err := take("a"); err != nil {
		t.Errorf("not let in when Retry-After said: %v", err)
	}
	now = noon // a clock that goes back gives nothing for free and locks nobody out for ever
	if _, err := take("a"); err == nil {
		t.Error("let in by a clock that went back")
	}
	now = noon.Add(time.Hour)
	for i := range 60 {
		if _, err := take("a"); err != nil {
			t.Fatalf("an hour later, request %d: %v", i+1, err)
		}
	}
	if _, err := take("a"); err == nil {
		t.Error("an idle hour gives more than a minute's worth")
	}
}

func TestRetryAfterIsLongEnough(t *testing.T) {
	for _, perMinute := range []int{1, 7, 59, 60, 61, 600, 1 << 40} {
		l, now := NewLimits(perMinute), noon
		if perMinute < 1000 {
			for range perMinute {
				if err := l.take(httptest.NewRecorder(), "a", now); err != nil {
					t.Fatal(err)
				}
			}
			err := l.take(httptest.NewRecorder(), "a", now)
			w := httptest.NewRecorder()
			WriteProblem(w, err)
			wait, perr := time.ParseDuration(w.Header().Get("Retry-After") + "s")
			if perr != nil {
				t.Fatalf("%d a minute: %v", perMinute, err)
			}
			if err := l.take(httptest.NewRecorder(), "a", now.Add(wait)); err != nil {
				t.Errorf("%d a minute: waited %s as told, and was refused", perMinute, wait)
			}
			continue
		}
		if err := l.take(httptest.NewRecorder(), "a", now); err != nil {
			t.Errorf("%d a minute: %v", perMinute, err)
		}
	}
}

func TestNoLimits(t *testing.T) {
	for _, perMinute := range []int{0, -1} {
		l := NewLimits(perMinute)
		w := httptest.NewRecorder()
		for range 2000 {
			l.count("a", noon)
			if err := l.take(w, "a", noon); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.spent("a", noon); err != nil || len(w.Header()) != 0 {
			t.Errorf("%d a minute: %v, headers %v", perMinute, err, w.Header())
		}
	}
}

// TestLimitsForgetFew: a crowd must neither fill the memory nor free those who have used up their pace.
func TestLimitsForgetFew(t *testing.T) {
	l := NewLimits(1)
	const greedy = 1000
	for i := range greedy {
		l.count(fmt.Sprint("greedy", i), noon)
	}
	for i := range maxCallers - greedy + 1 {
		l.count(fmt.Sprint("crowd", i), noon)
	}
	if len(l.callers) > maxCallers {
		t.Errorf("%d callers are remembered", len(l.callers))
	}
	still := 0
	for i := range greedy {
		if l.spent(fmt.Sprint("greedy", i), noon) != nil {
			still++
		}
	}
	if still < greedy*7/10 {
		t.Errorf("a crowd freed %d of %d", greedy-still, greedy)
	}
	for i := range 3 * maxCallers {
		l.count(fmt.Sprint("more", i), noon)
		if len(l.callers) > maxCallers {
			t.Fatalf("%d callers are remembered", len(l.callers))
		}
	}
	l.count("later", noon.Add(time.Minute+time.Millisecond))
	for range maxCallers {
		l.count(fmt.Sprint("later", len(l.callers)), noon.Add(2*time.Minute))
	}
	for who := range l.callers {
		if strings.HasPrefix(who, "more") {
			t.Fatal("those of old are not forgotten first")
		}
	}
}

func TestSpentCountsNothing(t *testing.T) {
	l := NewLimits(2)
	for range 10 {
		if err := l.spent("a", noon); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.callers) != 0 {
		t.Error("looking makes a caller")
	}
	l.count("a", noon)
	if err := l.spent("a", noon); err != nil {
		t.Errorf("one is left: %v", err)
	}
	l.count("a", noon)
	if err := l.spent("a", noon); domain.KindOf(err) != domain.RateLimited {
		t.Errorf("none is left: %v", err)
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		name, remote string
		forwarded    []string
		proxies      int
		want         string
	}{
		{"direct", "192.0.2.1:1234", nil, 0, "192.0.2.1"},
		{"direct, IPv6", "[2001:db8::1]:1234", nil, 0, "2001:db8::1"},
		{"direct, IPv6 in another spelling", "[2001:0DB8:0:0::1]:1", nil, 0, "2001:db8::1"},
		{"direct, IPv4 in IPv6", "[::ffff:192.0.2.1]:1", nil, 0, "192.0.2.1"},
		{"direct, with a zone", "[fe80::1%eth0]:1", nil, 0, "fe80::1"},
		{"no port", "192.0.2.1", nil, 0, "192.0.2.1"},
		{"no address", "pipe", nil, 0, "pipe"},
		{"no proxy is trusted", "192.0.2.1:1", []string{"203.0.113.9"}, 0, "192.0.2.1"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.9"}, 1, "203.0.113.9"},
		{"one proxy, forged before it", "10.0.0.1:1", []string{"1.1.1.1, 2.2.2.2,203.0.113.9"}, 1, "203.0.113.9"},
		{"one proxy, forged in a line of its own", "10.0.0.1:1", []string{"1.1.1.1", "203.0.113.9"}, 1, "203.0.113.9"},
		{"two proxies", "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9, 10.0.0.2"}, 2, "203.0.113.9"},
		{"two proxies, two lines", "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9", "10.0.0.2"}, 2, "203.0.113.9"},
		{"fewer hops than proxies", "10.0.0.1:1", []string{"203.0.113.9"}, 2, "10.0.0.1"},
		{"no header", "10.0.0.1:1", nil, 1, "10.0.0.1"},
		{"empty header", "10.0.0.1:1", []string{""}, 1, "10.0.0.1"},
		{"empty last hop", "10.0.0.1:1", []string{"203.0.113.9,"}, 1, "10.0.0.1"},
		{"proxy adds the port", "10.0.0.1:1", []string{"203.0.113.9:4711"}, 1, "203.0.113.9"},
		{"proxy adds the port, IPv6", "10.0.0.1:1", []string{"[2001:db8::1]:4711"}, 1, "2001:db8::1"},
		{"rubbish", "10.0.0.1:1", []string{"unknown"}, 1, "10.0.0.1"},
		{"long rubbish", "10.0.0.1:1", []string{strings.Repeat("9", 9000)}, 1, "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr, r.Header["X-Forwarded-For"] = c.remote, c.forwarded
			if got := (&Door{Proxies: c.proxies}).address(r); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestNetworks(t *testing.T) {
	d := &Door{}
	of := func(remote string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		return d.Network(r)
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"[2001:db8::1]:1", "[2001:db8::ffff:1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:1", true},
		{"[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false},
	} {
		if (of(c.a) == of(c.b)) != c.same {
			t.Errorf("%s counts as %s, %s as %s", c.a, of(c.a), c.b, of(c.b))
		}
	}
}

func TestCommitment(t *testing.T) {
	at := func(salt, remote string) string {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		return (&Door{Salt: domain.NewSecret([]byte(salt))}).Commitment(r)
	}
	a := at("salt", "192.0.2.1:1")
	if a != at("salt", "192.0.2.1:2") {
		t.Error("the port matters")
	}
	if a == at("salt", "192.0.2.2:1") || a == at("pepper", "192.0.2.1:1") {
		t.Error("address and salt do not matter")
	}
	if len(a) != 22 || strings.Contains(a, "192") {
		t.Errorf("the commitment is %q", a)
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("192.0.2.1:1", "203.0.113.9, 1.1.1.1", 1)
	f.Add("[fe80::1%eth0]:1", "[::1]:2,", 2)
	f.Add("", ",,,", 3)
	f.Fuzz(func(t *testing.T, remote, forwarded string, proxies int) {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Forwarded-For", forwarded)
		d := &Door{Proxies: max(proxies, 0) % 5}
		a := d.address(r)
		if _, ok := parseAddress(a); !ok && a != remote {
			t.Errorf("%q and %q give %q", remote, forwarded, a)
		}
		d.Network(r)
	})
}
