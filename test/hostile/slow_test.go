package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/serve"
	"sluis.internal/test/house"
)

// live is the world in a home that works, with the connections of a tester who has time.
type live struct {
	*bed
	stage *journey.Stage
	at    map[string]string
}

func goLive(t *testing.T) *live {
	t.Helper()
	b := rest(t)
	file := filepath.Join(b.dir, "live.db")
	if err := os.WriteFile(file, b.pristine[0], 0o600); err != nil {
		t.Fatal(err)
	}
	// The home of the world's own data: the visits of its investor are known here.
	s, err := journey.OpenStage(context.Background(), home.Settings{Data: filepath.Join(b.dir, "data"), Backend: "sqlite:" + file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &live{b, s, map[string]string{"api": strings.TrimPrefix(s.Home.APIURL(), "http://"), "pages": strings.TrimPrefix(s.Home.PagesURL(), "http://")}}
}

// weight is what a process has in hand.
type weight struct{ goroutines, files, heap int }

func weigh(t *testing.T) weight {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("this system does not tell of open files: %v", err)
	}
	return weight{runtime.NumGoroutine(), len(open), int(m.HeapAlloc)}
}

// Allowances for what the process does beside: the pool of the database, the queue, a garbage collection in between.
const (
	moreGoroutines = 20
	moreFiles      = 20
	moreHeap       = 32 << 20
)

// settles waits until the process is as light again as before.
func settles(t *testing.T, before weight) {
	t.Helper()
	var now weight
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now = weigh(t)
		if now.goroutines <= before.goroutines+moreGoroutines && now.files <= before.files+moreFiles && now.heap <= before.heap+moreHeap {
			return
		}
	}
	t.Errorf("it has grown from %+v to %+v", before, now)
}

// drip sends a request's first bytes and then one byte now and then, until the other side has enough of it. Whoever
// never has, is complained of.
func drip(at, begin, then string, enough time.Duration) error {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(enough)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, begin); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	}()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case err := <-ended:
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				return errors.New("it waits for ever")
			}
			return nil
		case <-tick.C:
			_, _ = c.Write([]byte{then[i%len(then)]}) // it may have ended just now
		}
	}
}

// How long a slow sender is borne with at most: three times the longest bound of a server, and for a body that drips four
// times what it has at first.
const (
	enough     = 90 * time.Second
	enoughBody = 20 * time.Second
)

// TestSlow: whoever sends a header or a body byte by byte, to whatever route, is left alone after a while; and so is
// whoever reads nothing of what is answered. Meanwhile others are served, and afterwards nothing of it is left.
func TestSlow(t *testing.T) {
	l := goLive(t)
	before := weigh(t)
	var drips sync.WaitGroup
	failed := make(chan string, 4*len(l.routes))
	for _, r := range l.routes {
		w := l.wire(r).without("Connection")
		head := w.String()[:len(w.String())-len(w.body)-4]
		for name, begin := range map[string]string{"a header": head + "\r\nX-A: ", "a request line": r.Method + " /"} {
			drips.Go(func() {
				if err := drip(l.at[r.host()], begin, "x", enough); err != nil {
					failed <- fmt.Sprintf("%s: %s byte by byte: %v", r, name, err)
				}
			})
		}
		if !hasBody(r) {
			continue
		}
		long := w.without("Content-Length").with("Content-Length: 3000")
		for name, begin := range map[string]string{"a body": long.String(), "chunks": w.chunked("").String()} {
			drips.Go(func() {
				if err := drip(l.at[r.host()], begin, "1\r\na\r\n", enoughBody); err != nil {
					failed <- fmt.Sprintf("%s: %s byte by byte: %v", r, name, err)
				}
			})
		}
	}
	for _, r := range l.those(func(r route) bool { return r.ID == "getClient" || r.Template == "/me" }) {
		all, err := converse(l.at[r.host()], l.wire(r).String(), false)
		if err != nil || len(all) != 1 || all[0].status != http.StatusOK {
			t.Errorf("%s is not served meanwhile: %v, %v", r, all, err)
		}
	}
	drips.Wait()
	close(failed)
	for f := range failed {
		t.Error(f)
	}
	http.DefaultClient.CloseIdleConnections()
	settles(t, before)
}

// TestFull opens more connections than a home takes, which say nothing, and more which asked something and stay. There
// are never more than it takes; others are served all the same; and afterwards nothing of it is left.
func TestFull(t *testing.T) {
	l := goLive(t)
	before := weigh(t)
	var all []net.Conn
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	open := func(host, say string) {
		c, err := net.Dial("tcp", l.at[host])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
	}
	for i := range serve.MaxConnections + 100 {
		open("api", "GET / HTTP/1.1\r\n")
		open("pages", []string{"", "GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"}[i%2])
	}
	// Of each pair one end is ours, and both ends are of this process.
	if now, most := weigh(t), before.files+len(all)+2*serve.MaxConnections+moreFiles; now.files > most {
		t.Errorf("%d files are open, and there should be %d at most", now.files, most)
	}
	for _, r := range l.those(func(r route) bool { return r.ID == "getClient" || r.Template == "/me" }) {
		got, err := converse(l.at[r.host()], l.wire(r).String(), false)
		if err != nil || len(got) != 1 || got[0].status != http.StatusOK {
			t.Errorf("%s is not served in a full house: %v, %v", r, got, err)
		}
	}
	for _, c := range all {
		_ = c.Close()
	}
	all = nil
	http.DefaultClient.CloseIdleConnections()
	settles(t, before)
}

// TestUnread asks for more and more and reads nothing. The server's patience with who does not read is the one of its
// phases that is too long to wait for each time: in the shortened form it is a tenth.
func TestUnread(t *testing.T) {
	b := rest(t)
	before := weigh(t)
	patience := 2 * time.Minute
	var both sync.WaitGroup
	for _, host := range []string{"api", "pages"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := serve.NewServer(b.home.Handler(host))
		if s.WriteTimeout <= 0 || s.WriteTimeout > patience {
			t.Errorf("it writes for %v", s.WriteTimeout)
		}
		if !*house.Long {
			s.WriteTimeout, s.ReadTimeout = s.WriteTimeout/10, s.ReadTimeout/10
		}
		go func() { _ = serve.Serve(s, l) }() // until it is closed
		defer s.Close()
		r := b.those(func(r route) bool { return r.host() == host && (r.ID == "listDeliveries" || r.Template == "/me") })[0]
		both.Go(func() { stuffed(t, l.Addr().String(), b.wire(r).without("Connection").String()) })
	}
	both.Wait()
	settles(t, before)
}

// stuffed sends requests until nobody takes any more of them, and waits until the other side ends the connection.
func stuffed(t *testing.T, at, raw string) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if err := errors.Join(c.(*net.TCPConn).SetReadBuffer(4<<10), c.SetDeadline(time.Now().Add(10*time.Minute))); err != nil {
		t.Error(err)
		return
	}
	sent := 0
	for err == nil {
		var n int
		n, err = io.WriteString(c, raw)
		sent += n
	}
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("after %d bytes it waits for ever", sent)
	}
}

// TestAnswersStayOpen: the one answer that has no end of its own ends with who reads it, and there are only so many.
func TestAnswersStayOpen(t *testing.T) {
	l := goLive(t)
	before := weigh(t)
	r := l.those(func(r route) bool { return r.ID == "watchState" })[0]
	var all []net.Conn
	statuses := map[string]int{}
	for range 12 {
		c, err := net.Dial("tcp", l.at[r.host()])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, l.wire(r).String()); err != nil {
			t.Fatal(err)
		}
		status := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c, status); err != nil {
			t.Fatal(err)
		}
		statuses[string(status[9:])]++
	}
	if statuses["200"] == 0 || statuses["429"] == 0 || len(statuses) != 2 {
		t.Errorf("of twelve streams of one visit it answers %v", statuses)
	}
	for _, c := range all {
		_ = c.Close()
	}
	settles(t, before)
}

// TestThousandStreams: a thousand pages of one investor that want to follow what happens cost somebody else nothing. What
// a request of theirs takes meanwhile is told, as it depends on the machine; what is held is counted.
func TestThousandStreams(t *testing.T) {
	l := goLive(t)
	before := weigh(t)
	quiet := l.others(t)
	r := l.those(func(r route) bool { return r.ID == "watchState" })[0]
	var all []net.Conn
	statuses := map[string]int{}
	for i := range 1000 {
		c, err := net.Dial("tcp", l.at[r.host()])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		cookie := l.cookies[[]string{"pending", "asked", "read"}[i%3]]
		raw := strings.ReplaceAll(l.wire(r).without("Connection").String(), l.cookies[r.visit()], cookie)
		status := make([]byte, len("HTTP/1.1 200"))
		_, err = io.WriteString(c, raw)
		if err = errors.Join(err, c.SetDeadline(time.Now().Add(patience))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, status); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		statuses[string(status[9:])]++
	}
	if statuses["200"] != 18 || statuses["429"] != 982 {
		t.Errorf("of a thousand streams of three visits it answers %v", statuses)
	}
	held := weigh(t)
	if held.heap > before.heap+moreHeap {
		t.Errorf("the heap has grown from %d to %d bytes", before.heap, held.heap)
	}
	loud := l.others(t)
	t.Logf("others wait %s instead of %s (%.1f times); heap %+d kB, goroutines %+d", loud, quiet, float64(loud)/float64(quiet),
		(held.heap-before.heap)/1024, held.goroutines-before.goroutines)
	for _, c := range all {
		_ = c.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	settles(t, before)
}

// others is what a request of somebody else takes: the middle of a hundred.
func (l *live) others(t *testing.T) time.Duration {
	t.Helper()
	var took []time.Duration
	for _, r := range l.those(func(r route) bool { return r.ID == "getClient" || r.Template == "/me" }) {
		for range 50 {
			begun := time.Now()
			all, err := converse(l.at[r.host()], l.wire(r).String(), false)
			if err != nil || len(all) != 1 || all[0].status != http.StatusOK {
				t.Fatalf("%s is not served: %v, %v", r, all, err)
			}
			took = append(took, time.Since(begun))
		}
	}
	slices.Sort(took)
	return took[len(took)/2]
}
