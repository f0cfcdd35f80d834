package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/shared/domain"
	"sluis.internal/shared/serve"
)

// wires is a listener whose connections are pipes: what goes over them happens by the clock of a synctest bubble.
type wires struct {
	offered chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *wires) Accept() (net.Conn, error) {
	select {
	case c := <-l.offered:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *wires) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *wires) Addr() net.Addr { return &net.TCPAddr{} }

// slowly sends a request whose body comes in pieces, one after each pause, and says how long it took until an answer or the
// end, and what was answered: 0 for nothing.
func slowly(t *testing.T, h http.Handler, length int, piece string, pause time.Duration) (status int, took time.Duration) {
	t.Helper()
	l := &wires{offered: make(chan net.Conn), closed: make(chan struct{})}
	server := serve.NewServer(h)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	ours, theirs := net.Pipe()
	l.offered <- theirs
	begun := time.Now()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		fmt.Fprintf(ours, "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", length)
		for sent := 0; sent < length; sent += len(piece) {
			time.Sleep(pause)
			if _, err := io.WriteString(ours, piece[:min(len(piece), length-sent)]); err != nil {
				return
			}
		}
	}()
	if a, err := http.ReadResponse(bufio.NewReader(ours), nil); err == nil {
		status = a.StatusCode
	}
	took = time.Since(begun)
	_ = ours.Close()
	if err := errors.Join(server.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	<-ended
	<-gone
	return status, took
}

// TestSlowBodies: a body has five seconds, and then a second more for each kilobyte that came. Who keeps that pace may take
// longer than any fixed bound; who does not is refused, whether somebody reads the body or not.
func TestSlowBodies(t *testing.T) {
	for name, c := range map[string]struct {
		length int
		piece  string
		pause  time.Duration
		unread bool
		status int
		from   time.Duration
		to     time.Duration
	}{
		"nothing comes":                 {1000, " ", time.Minute, false, 400, 5 * time.Second, 6 * time.Second},
		"a byte each second":            {1000, " ", time.Second, false, 400, 5 * time.Second, 6 * time.Second},
		"half a kilobyte each second":   {60000, strings.Repeat(" ", 500), time.Second, false, 400, 9 * time.Second, 12 * time.Second},
		"just fast enough":              {60000, strings.Repeat(" ", 1000), time.Second, false, 204, 60 * time.Second, 61 * time.Second},
		"late, but all at once":         {60000, strings.Repeat(" ", 60000), 4 * time.Second, false, 204, 4 * time.Second, 5 * time.Second},
		"nobody reads it, and it drips": {1000, " ", time.Second, true, 403, 0, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, 0)
				b.door.Public(b.mux, "POST /", func(context.Context, *serve.Call) (serve.Answer, error) { return serve.Answer{}, nil })
				var h http.Handler = b.mux
				if c.unread {
					h = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						serve.WriteProblem(w, &domain.Error{Kind: domain.Forbidden, Code: "no"})
					})
				}
				status, took := slowly(t, h, c.length, c.piece, c.pause)
				if status != c.status || took < c.from || took > c.to {
					t.Errorf("got %d after %s", status, took)
				}
			})
		})
	}
}

// TestSlowHandlers: the bound is on the body alone. A handler that takes its time after it is not cut off.
func TestSlowHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 0)
		b.door.Public(b.mux, "POST /", func(ctx context.Context, _ *serve.Call) (serve.Answer, error) {
			select {
			case <-time.After(time.Minute):
				return serve.Answer{}, nil
			case <-ctx.Done():
				return serve.Answer{}, ctx.Err()
			}
		})
		if status, took := slowly(t, b.mux, 1, " ", time.Second); status != 204 || took != 61*time.Second {
			t.Errorf("got %d after %s", status, took)
		}
	})
}
