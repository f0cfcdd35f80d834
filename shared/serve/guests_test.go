package serve

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// full starts a server that takes three connections at once, and answers when told.
func full(t *testing.T) (dial func() net.Conn, answer chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answer = make(chan struct{})
	s := NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-answer }))
	g := &guests{Listener: l, most: 3}
	g.left = sync.NewCond(&g.mu)
	s.ConnState = g.noticed
	go func() { _ = s.Serve(g) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	return func() net.Conn {
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

// TestGuestsGiveWay: who has been idle for longest goes when the house is full, and nobody before.
func TestGuestsGiveWay(t *testing.T) {
	dial, answer := full(t)
	close(answer)
	first, second, third := dial(), net.Conn(nil), net.Conn(nil)
	answered200(t, first)
	second = dial()
	answered200(t, second)
	third = dial()
	answered200(t, third)
	answered200(t, dial())
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the first is still there: %v", err)
	}
	for _, c := range []net.Conn{second, third} {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Error(err)
		}
		answered200(t, c)
	}
}

// TestGuestsWait: nobody who is busy is sent away; the next one waits until one of them has gone.
func TestGuestsWait(t *testing.T) {
	dial, answer := full(t)
	busy := []net.Conn{dial(), dial(), dial()}
	next := dial()
	for range busy {
		answer <- struct{}{}
	}
	for _, c := range busy {
		answered200(t, c)
	}
	answer <- struct{}{}
	answered200(t, next)
}
