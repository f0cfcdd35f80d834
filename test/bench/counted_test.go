package bench

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/shared/domain"
)

// TestCounted holds what an act costs in things that can be counted, whatever the machine: requests to the bank, of
// which the yardstick makes the same, and durable commits. It also sees that the yardstick does its work.
func TestCounted(t *testing.T) {
	b := bank.New(bank.Options{})
	server, err := bank.ServeTLS(b, "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		must(t, server.Close(ctx))
	})
	h := openHouse(t, address{At: server.Address(), CA: server.CertPEM()})
	connections := map[string]domain.ConnectionID{sameData: h.connect(t, sameData), changedData: h.connect(t, changedData)}
	records, consent := h.recordsPage(connections[sameData]), h.consentPage(t)
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
		{"refresh", func() (cost, error) { return h.refresh(connections[sameData]) }, 4},
		{"changed", func() (cost, error) { return h.refresh(connections[changedData]) }, 4},
		{"delivery", h.deliver, 1},
		{"page", counted(consent), 0},
		{"records", counted(records), 1},
	} {
		h.settle(t)
		got, err := c.act()
		if err != nil || got.commits != c.commits {
			t.Errorf("%s: %d commits (%v), want %d", c.name, got.commits, err, c.commits)
		}
	}
	for login, conn := range connections {
		h.settle(t)
		from := len(b.Requests())
		_, err := h.refresh(conn)
		ours := tally(b.Requests()[from:])
		visit := newVisitor(h.bank, login)
		from = len(b.Requests())
		if err := errors.Join(err, visit.read(t.Context())); err != nil {
			t.Fatal(err)
		}
		if bare := tally(b.Requests()[from:]); !maps.Equal(ours, bare) {
			t.Errorf("login %s: a reading asks\n%v, its yardstick\n%v", login, ours, bare)
		}
		if login == sameData && visit.records != h.records(t, conn) {
			t.Errorf("the yardstick read %d records, the reading %d", visit.records, h.records(t, conn))
		}
	}
	must(t, h.poster(t)())
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
