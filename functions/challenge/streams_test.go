package challenge_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"sluis.internal/shared/domain"
)

// looks is how often the store was asked, by anybody, since it was last asked for.
func (h *house) looks() int {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	n := h.store.asked
	h.store.asked = 0
	return n
}

// guest is the house as another visit sees it, from an address of its own.
func (h *house) guest(address string) *house {
	other := *h
	other.cookie, other.address = h.visit(func(*domain.Visit) {}), address
	return &other
}

// TestStreamsShareTheirLooks: however many pages of however many visits follow a connection, it is looked at once for
// all of them, and what it shows is opened once.
func TestStreamsShareTheirLooks(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		alone := h.openPage()
		defer alone.leave()
		alone.after(time.Second)
		h.looks()
		alone.after(20 * time.Second)
		one := h.looks()
		var all []*page
		for i := range 10 {
			g := h.guest(fmt.Sprintf("192.0.2.%d", i+1))
			for range 6 {
				p := g.openPage()
				defer p.leave()
				all = append(all, p)
			}
		}
		alone.after(time.Second)
		h.looks()
		alone.after(20 * time.Second)
		if many := h.looks(); many > one+one/10 {
			t.Errorf("one stream costs %d looks, and sixty-one cost %d", one, many)
		}
		h.session.Records = 4711
		h.put(h.session)
		alone.after(time.Second)
		for i, p := range all {
			if got := p.last(); got.Session.Records != 4711 {
				t.Fatalf("stream %d was told %+v", i, got)
			}
		}
		if h.opened.Load() != 1 {
			t.Errorf("the same display was opened %d times", h.opened.Load())
		}
	})
}

// TestStreamsOfOneEndAlone: a visit that is over ends its own streams and nobody else's.
func TestStreamsOfOneEndAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		mine, theirs := h.openPage(), h.guest("192.0.2.7").openPage()
		defer mine.leave()
		defer theirs.leave()
		mine.after(10 * time.Second)
		h.drop(h.here())
		mine.after(time.Second)
		if mine.open() || !theirs.open() {
			t.Fatalf("after one left, their stream is open: %t, and the other one: %t", mine.open(), theirs.open())
		}
		h.conn.State = domain.ConnectionActive
		h.put(h.conn)
		if states, _ := theirs.after(time.Second); states != 2 {
			t.Errorf("the other one was told %d states in all", states)
		}
	})
}

// TestNobodyLooksForNobody: when the last page is closed, nothing goes on.
func TestNobodyLooksForNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		for range 3 {
			p := h.openPage()
			p.after(5 * time.Second)
			p.leave()
			p.after(time.Second)
			h.looks()
			if p.after(10 * time.Second); h.looks() != 0 {
				t.Fatal("it still looks")
			}
		}
	})
}

// TestStreamsAreShared: an address, a client and this process have so many streams at once, whoever opens them; who
// comes from elsewhere, or is another client's investor, still gets in.
func TestStreamsAreShared(t *testing.T) {
	for name, c := range map[string]struct {
		most    int
		address func(i int) string
		other   string // who gets in all the same
	}{
		"of an address":  {60, func(int) string { return "192.0.2.1" }, "192.0.2.2"},
		"of a network":   {60, func(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) }, "2001:db8:1::1"},
		"of a client":    {200, func(i int) string { return fmt.Sprintf("192.0.2.%d", i/6+1) }, ""},
		"of the process": {500, func(i int) string { return fmt.Sprintf("192.0.2.%d", i/6+1) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				g := h
				var last *page
				for i := range c.most {
					if i%6 == 0 {
						if name == "of the process" && i%60 == 0 {
							h = h.stranger()
						}
						g = h.guest(c.address(i))
					}
					g.address = c.address(i)
					last = g.openPage()
					defer last.leave()
				}
				if states, _ := last.after(time.Second); states != 1 {
					t.Fatalf("stream %d was told %d states", c.most, states)
				}
				more := h.guest(c.address(c.most))
				more.refused(more.ask("GET", "/challenge/events", ""), http.StatusTooManyRequests, "too_many_streams")
				if w := more.ask("GET", "/challenge/state", ""); w.Code != http.StatusOK {
					t.Errorf("without a stream there is no state either: %d %s", w.Code, w.Body)
				}
				other := h.guest(c.other)
				if c.other == "" {
					other = h.stranger()
				}
				if name == "of the process" {
					other.refused(other.ask("GET", "/challenge/events", ""), http.StatusTooManyRequests, "too_many_streams")
					return
				}
				theirs := other.openPage()
				defer theirs.leave()
				if states, _ := theirs.after(time.Second); states != 1 {
					t.Error("others pay for it")
				}
				last.leave()
				last.after(time.Second)
				again := more.openPage()
				defer again.leave()
				if states, _ := again.after(time.Second); states != 1 {
					t.Error("a closed stream's place is not given away")
				}
			})
		})
	}
}

// thrower is a key whose keeper panics, with what it was given.
type thrower struct{}

func (thrower) Decrypt(closed, _ []byte) ([]byte, error) { panic(string(closed)) }

// TestWatchThatPanics: a panic in the look that streams share ends them with a problem that tells nothing, and not the
// process.
func TestWatchThatPanics(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		h.service.Display = thrower{}
		h.refused(h.ask("GET", "/challenge/events", ""), http.StatusInternalServerError, "internal")
	})
}
