package serve

import (
	"net"
	"net/http"
	"slices"
	"sync"
)

// MaxConnections is how many connections one listener has open at once. More wait outside, where they cost nothing.
const MaxConnections = 1000

// Serve serves at l, with a bounded number of connections.
func Serve(s *http.Server, l net.Listener) error {
	g := &guests{Listener: l, most: MaxConnections}
	g.left = sync.NewCond(&g.mu)
	s.ConnState = g.noticed
	return s.Serve(g)
}

// guests are the connections of one listener. When the house is full, the next one in has that connection closed which
// has been doing nothing for longest, as HTTP allows at any time (RFC 9112, section 9.5); if all are busy, it waits
// until one leaves, which the bounds of a server see to.
type guests struct {
	net.Listener
	most int

	mu   sync.Mutex
	left *sync.Cond // somebody did, or could
	open int
	idle []net.Conn // longest first
}

// Accept implements net.Listener.
func (g *guests) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.open >= g.most {
		if len(g.idle) == 0 {
			g.left.Wait()
			continue
		}
		longest := g.idle[0]
		g.mu.Unlock()
		_ = longest.Close() // it takes itself off the lists
		g.mu.Lock()
	}
	g.open++
	return &guest{Conn: conn, of: g}, nil
}

// noticed is the server's ConnState.
func (g *guests) noticed(c net.Conn, state http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle = slices.DeleteFunc(g.idle, func(other net.Conn) bool { return other == c })
	if state == http.StateIdle {
		g.idle = append(g.idle, c)
		g.left.Signal()
	}
}

// guest is one connection.
type guest struct {
	net.Conn
	of   *guests
	once sync.Once
}

// Close implements net.Conn.
func (c *guest) Close() error {
	c.once.Do(func() {
		c.of.noticed(c, http.StateClosed)
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.of.open--
		c.of.left.Signal()
	})
	return c.Conn.Close()
}

// CloseWrite lets net/http end its side first, so that who sends too much can still read why that is refused.
func (c *guest) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
