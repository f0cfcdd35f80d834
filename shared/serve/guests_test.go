package serve

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// counted knows how many have come to the door.
type counted struct {
	net.Listener
	came atomic.Int32
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.came.Add(1)
	return conn, err
}

// full starts a server that takes three connections at once, and answers when told.
func full(t *testing.T) (g *guests, dial func() net.Conn, answer chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answer = make(chan struct{})
	s := NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-answer }))
	g = &guests{Listener: &counted{Listener: l}, most: 3}
	g.left = sync.NewCond(&g.mu)
	s.ConnState = g.noticed
	go func() { _ = s.Serve(g) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	return g, func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}, answer
}

func answered200(t *testing.T, c net.Conn) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
}

// rest waits until so many do nothing.
func rest(g *guests, n int) {
	for idle := -1; idle != n; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		idle = len(g.idle)
		g.mu.Unlock()
	}
}

// TestGuestsGiveWay: who has been idle for longest goes when the house is full, and nobody before.
func TestGuestsGiveWay(t *testing.T) {
	g, dial, answer := full(t)
	close(answer)
	var all []net.Conn
	for i := range 3 {
		all = append(all, dial())
		answered200(t, all[i])
		rest(g, i+1)
	}
	answered200(t, dial())
	if _, err := all[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the first is still there: %v", err)
	}
	for _, c := range all[1:] {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Error(err)
		}
		answered200(t, c)
	}
}

// TestGuestsWait: nobody who is busy is sent away; the next one waits until one of them has gone.
func TestGuestsWait(t *testing.T) {
	g, dial, answer := full(t)
	all := []net.Conn{dial(), dial(), dial(), dial()}
	for g.Listener.(*counted).came.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
	for range all {
		answer <- struct{}{}
	}
	for _, c := range all {
		answered200(t, c)
	}
}
