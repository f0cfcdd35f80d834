package bench

import (
	"context"
	"io"
	"maps"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
)

// TestCounted holds what an act costs in things that can be counted, whatever the machine: durable commits, requests to
// the bank, of which the yardstick makes the same, and connections to it, which stay open.
func TestCounted(t *testing.T) {
	b := bank.New(bank.Options{})
	server, err := bank.ServeTLS(b, "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		must(t, server.Close(ctx))
	})
	line := newLine(t, server.Address())
	h := openHouse(t, address{At: line.Addr().String(), CA: server.CertPEM()})
	connections := map[string]domain.ConnectionID{sameData: h.connect(t, sameData), changedData: h.connect(t, changedData)}
	made := line.made.Load()
	t.Run("commits", func(t *testing.T) { h.countCommits(t, connections) })
	for login, conn := range connections {
		t.Run("requests of login "+login, func(t *testing.T) { h.countRequests(t, b, login, conn) })
	}
	if n := line.made.Load() - made; n > int64(len(connections)) { // the yardsticks' own
		t.Errorf("%d more connections were made to the bank", n)
	}
	must(t, h.poster(t)()) // the inbox takes the yardstick's webhook for ours
}

func (h *house) countCommits(t *testing.T, connections map[string]domain.ConnectionID) {
	counted := func(p *page) act {
		return func() (cost, error) {
			before := h.commits.Load()
			err := p.get()
			return cost{commits: h.commits.Load() - before}, err
		}
	}
	for _, c := range []struct {
		name    string
		act     act
		commits int64
	}{
		// The login is marked; the way back in is kept; the version is stored; the session is closed.
		{"refresh", func() (cost, error) { return h.refresh(connections[sameData]) }, 4},
		{"changed", func() (cost, error) { return h.refresh(connections[changedData]) }, 4},
		{"delivery", h.deliver, 1},
		{"page", counted(h.consentPage(t)), 0},
		{"records", counted(h.recordsPage(connections[sameData])), 1},
	} {
		least := int64(math.MaxInt64)
		for range 3 { // on a machine that stands still a lease is renewed meanwhile
			h.settle(t)
			got, err := c.act()
			must(t, err)
			if least = min(least, got.commits); least == c.commits {
				break
			}
		}
		if least != c.commits {
			t.Errorf("%s: %d commits, want %d", c.name, least, c.commits)
		}
	}
}

// countRequests compares what a reading asks of the bank with what its yardstick asks.
func (h *house) countRequests(t *testing.T, b *bank.Bank, login string, conn domain.ConnectionID) {
	h.settle(t)
	from := len(b.Requests())
	_, err := h.refresh(conn)
	must(t, err)
	ours := tally(b.Requests()[from:])
	visit := newVisitor(h.bank, login)
	defer visit.http.CloseIdleConnections()
	from = len(b.Requests())
	must(t, visit.read(t.Context()))
	if bare := tally(b.Requests()[from:]); !maps.Equal(ours, bare) {
		t.Errorf("a reading asks\n%v, its yardstick\n%v", ours, bare)
	}
	if want := h.records(t, conn); login == sameData && visit.records != want {
		t.Errorf("the yardstick read %d records, the reading %d", visit.records, want)
	}
}

// line passes connections on, and counts them.
type line struct {
	net.Listener
	made atomic.Int64
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	near, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &line{Listener: near}
	t.Cleanup(func() { must(t, near.Close()) })
	go func() {
		for {
			from, err := near.Accept()
			if err != nil {
				return // it is closed
			}
			l.made.Add(1)
			go pass(from, to)
		}
	}()
	return l
}

// pass carries what either side says to the other, until one hangs up.
func pass(from net.Conn, to string) {
	defer from.Close()
	onwards, err := net.Dial("tcp", to)
	if err != nil {
		return // from is hung up on
	}
	defer onwards.Close()
	over := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, onwards}, {onwards, from}} {
		go func() {
			_, _ = io.Copy(way[1], way[0]) // its end is the end of the connection
			over <- struct{}{}
		}()
	}
	<-over
}

// tally counts requests by what they ask.
func tally(all []bank.Request) map[string]int {
	n := map[string]int{}
	for _, r := range all {
		n[r.Method+" "+r.Path]++
	}
	return n
}

// records is how many the newest version has.
func (h *house) records(t *testing.T, conn domain.ConnectionID) (n int) {
	t.Helper()
	c := &domain.Connection{ID: conn}
	must(t, h.home.Get(t.Context(), c))
	for status := range maps.Values(c.Products) {
		n += status.Count
	}
	return n
}
