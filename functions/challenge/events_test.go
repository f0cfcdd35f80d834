package challenge_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/shared/domain"
)

// page is a browser that follows the events: what it got, and when.
type page struct {
	t      *testing.T
	mu     sync.Mutex
	header http.Header
	status int
	text   strings.Builder
	read   int       // how much of text after has counted
	until  time.Time // the deadline of the write under way
	broken error     // what the next write returns
	leave  context.CancelFunc
	ended  time.Time // zero while it is open
}

func (p *page) Header() http.Header { return p.header }

func (p *page) WriteHeader(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return 0, p.broken
	}
	if p.header.Get("Content-Type") == "text/event-stream" && time.Until(p.until) != 30*time.Second {
		p.t.Errorf("a write that may last until %s", p.until)
	}
	return p.text.Write(b)
}

func (p *page) SetWriteDeadline(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = at
	return nil
}

func (p *page) FlushError() error { return nil }

// open opens the page; it stays open until leave, or until the server ends it.
func (h *house) openPage() *page {
	ctx, leave := context.WithCancel(context.WithoutCancel(h.t.Context()))
	p := &page{t: h.t, header: http.Header{}, leave: leave}
	r := h.request(ctx, "GET", "/challenge/events", "")
	go func() {
		h.mux.ServeHTTP(p, r)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = time.Now()
	}()
	return p
}

// after lets that time pass and says how many states and heartbeats came since it was last asked.
func (p *page) after(d time.Duration) (states, beats int) {
	p.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	came := p.text.String()[p.read:]
	p.read += len(came)
	return strings.Count(came, "event: state\ndata: {"), strings.Count(came, ": still here\n\n")
}

// last is the newest state that came.
func (p *page) last() (s challenge.State) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.text.String()
	_, line, ok := strings.Cut(text[max(strings.LastIndex(text, "event: state\n"), 0):], "data: ")
	line, _, _ = strings.Cut(line, "\n")
	if err := json.Unmarshal([]byte(line), &s); err != nil || !ok {
		p.t.Fatalf("no state in %q: %v", text, err)
	}
	return s
}

// open says whether the stream is open yet.
func (p *page) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended.IsZero()
}

// inBubble runs fn by a clock that stands still while anybody works.
func inBubble(t *testing.T, fn func(*testing.T, *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, bubble(t)) })
}

func TestEventsTellChangesOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		p := h.openPage()
		defer p.leave()
		if states, beats := p.after(time.Second); states != 1 || beats != 0 {
			t.Fatalf("at first %d states, %d heartbeats", states, beats)
		}
		if p.header.Get("Content-Type") != "text/event-stream" || p.header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers are %v", p.header)
		}
		want := h.state()
		got := p.last()
		got.Now = want.Now
		if a, b := text(t, got), text(t, want); a != b {
			t.Errorf("the event says %s\nthe state is   %s", a, b)
		}
		if states, beats := p.after(60 * time.Second); states != 0 || beats != 4 {
			t.Errorf("a quiet minute: %d states, %d heartbeats", states, beats)
		}
		for records := range 3 {
			h.session.Records = 1000 * (records + 1)
			h.put(h.session)
			if states, _ := p.after(time.Second); states != 1 || p.last().Session.Records != h.session.Records {
				t.Errorf("%d records: %d states", h.session.Records, states)
			}
		}
		h.challenge.UpdatedAt = domain.At(time.Now()) // a poll that came to nothing
		h.put(h.challenge)
		if states, _ := p.after(time.Second); states != 0 {
			t.Error("a poll that came to nothing is told")
		}
		h.conn.State = domain.ConnectionActive
		h.put(h.conn)
		if states, _ := p.after(time.Second); states != 1 || p.last().Page != "done" {
			t.Errorf("%d states at the end", states)
		}
	})
}

func text(t *testing.T, s challenge.State) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEventsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(*house, *page)
		after time.Duration // since the page was opened
	}{
		"with the visit's time":   {func(h *house, p *page) { p.after(10 * time.Minute) }, 2 * time.Minute},
		"when the investor left":  {func(h *house, p *page) { p.after(30 * time.Second); h.drop(h.here()) }, 31 * time.Second},
		"when the page is closed": {func(h *house, p *page) { p.after(30 * time.Second); p.leave() }, 30 * time.Second},
		"when it can read no more": {func(h *house, p *page) {
			p.after(29750 * time.Millisecond)
			h.store.fail("session", errors.New("disk at /srv/sluis"))
		}, 30 * time.Second},
		"when nobody takes what it writes": {func(h *house, p *page) {
			p.after(29750 * time.Millisecond)
			p.mu.Lock()
			p.broken = errors.New("i/o timeout")
			p.mu.Unlock()
			h.session.Records = 77
			h.put(h.session)
		}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				h.cookie = h.visit(func(v *domain.Visit) { v.ExpiresAt = h.env.Now().Add(2 * time.Minute) })
				begun := time.Now()
				p := h.openPage()
				defer p.leave()
				p.after(0)
				c.do(h, p)
				p.after(time.Minute)
				if p.open() {
					t.Fatal("it goes on")
				}
				if got := p.ended.Sub(begun); got < c.after-time.Second || got > c.after+time.Second {
					t.Errorf("ended after %s, want %s", got, c.after)
				}
				if strings.Contains(p.text.String(), "/srv/") || strings.Contains(p.text.String(), "about:blank") {
					t.Errorf("told: %s", p.text.String())
				}
			})
		})
	}
	t.Run("after ten minutes, and the page comes again", func(t *testing.T) {
		inBubble(t, func(t *testing.T, h *house) {
			p := h.openPage()
			defer p.leave()
			p.after(10*time.Minute - time.Second)
			if !p.open() {
				t.Fatal("it ended before its time")
			}
			p.after(2 * time.Second)
			if p.open() {
				t.Fatal("it goes on")
			}
			again := h.openPage()
			defer again.leave()
			if states, _ := again.after(time.Second); states != 1 {
				t.Errorf("%d states at first", states)
			}
		})
	})
}

// here is the visit of the house's cookie.
func (h *house) here() *domain.Visit { return &domain.Visit{Hash: domain.HashToken(h.cookie)} }

func TestEventsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		var pages []*page
		for range 6 {
			p := h.openPage()
			defer p.leave()
			pages = append(pages, p)
		}
		pages[5].after(time.Second)
		w := h.ask("GET", "/challenge/events", "")
		h.refused(w, 429, "too_many_streams")
		if w.Header().Get("Retry-After") == "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/problem+json") {
			t.Errorf("headers are %v", w.Header())
		}
		other := *h
		other.cookie = h.visit(func(*domain.Visit) {})
		theirs := other.openPage()
		defer theirs.leave()
		if states, _ := theirs.after(time.Second); states != 1 {
			t.Error("another visit pays for this one")
		}
		pages[0].leave()
		pages[0].after(time.Second)
		seventh := h.openPage()
		defer seventh.leave()
		if states, _ := seventh.after(time.Second); states != 1 {
			t.Error("a closed page's place is not given away")
		}
	})
}

// decoupled makes the question one that is approved elsewhere, and the bank one that says "not yet", as extraction
// does: the challenge was looked at, and nothing else changed.
func (h *house) decoupled(every int, lasts time.Duration) {
	h.challenge.State, h.challenge.Flow, h.challenge.PollSeconds = domain.SCAAwaiting, domain.FlowDecoupled, every
	h.challenge.AnswerBy = h.env.Now().Add(lasts)
	h.put(h.challenge)
	h.bank.answer = func(r domain.AnswerRequest) error {
		h.change(func(tx domain.Tx) error {
			c := &domain.Challenge{ID: r.ChallengeID}
			if err := tx.Get(c); err != nil {
				return err
			}
			c.UpdatedAt = h.env.Now()
			return tx.Put(c)
		})
		return nil
	}
}

func TestEventsAskTheBankAtItsInterval(t *testing.T) {
	for name, c := range map[string]struct {
		every, pages int
		want         time.Duration // between two questions
	}{
		"every 5 s":               {5, 1, 5 * time.Second},
		"every 2 s":               {2, 1, 2 * time.Second},
		"no interval given":       {0, 1, time.Second},
		"the page is open thrice": {5, 3, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				h.decoupled(c.every, time.Minute)
				var p *page
				for range c.pages {
					p = h.openPage()
					defer p.leave()
				}
				states, _ := p.after(59 * time.Second)
				if states != 1 {
					t.Errorf("%d states while nothing happens", states)
				}
				h.bank.mu.Lock()
				at := h.bank.at
				h.bank.mu.Unlock()
				if most := int(time.Minute / c.want); len(at) < most/2 || len(at) > most {
					t.Errorf("asked %d times in a minute", len(at))
				}
				for i := 1; i < len(at); i++ {
					if got := at[i].Sub(at[i-1]); got < c.want || got > c.want+time.Second {
						t.Errorf("question %d came %s after the one before", i+1, got)
					}
				}
				for _, r := range h.bank.requests() {
					if r != (domain.AnswerRequest{SessionID: h.session.ID, ChallengeID: h.challenge.ID, Kind: domain.AnswerPoll}) {
						t.Errorf("asked %+v", r)
					}
				}
				p.after(5 * time.Minute) // nobody answered in time
				if late := len(h.bank.requests()) - len(at); late > 1 {
					t.Errorf("asked %d times after the time to answer", late)
				}
			})
		})
	}
}

func TestEventsAskNothingElse(t *testing.T) {
	for _, state := range []domain.SCAState{domain.SCARequired, domain.SCASelection, domain.SCAIssued, domain.SCARejected, domain.SCAExpired, domain.SCAVerified} {
		inBubble(t, func(t *testing.T, h *house) {
			h.decoupled(1, time.Minute)
			h.challenge.State = state
			h.put(h.challenge)
			p := h.openPage()
			defer p.leave()
			p.after(30 * time.Second)
			if got := h.bank.requests(); len(got) != 0 {
				t.Errorf("%s: asked %v", state, got)
			}
		})
	}
	t.Run("page closed", func(t *testing.T) {
		inBubble(t, func(t *testing.T, h *house) {
			h.decoupled(1, time.Hour)
			p := h.openPage()
			p.after(10 * time.Second)
			p.leave()
			p.after(0)
			before := len(h.bank.requests())
			p.after(time.Minute)
			if after := len(h.bank.requests()); before == 0 || after != before {
				t.Errorf("asked %d times while open, %d more after", before, after-before)
			}
		})
	})
}

// TestEventsOutliveTheBanksFailures: what the bank says is the session's business; the stream only shows it.
func TestEventsOutliveTheBanksFailures(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		h.decoupled(2, time.Minute)
		h.bank.says(func(domain.AnswerRequest) error {
			return &domain.Error{Kind: domain.Conflict, Code: "answer_in_progress", Message: "wait"}
		})
		p := h.openPage()
		defer p.leave()
		p.after(20 * time.Second)
		if n := len(h.bank.requests()); n < 5 || n > 11 {
			t.Errorf("asked %d times", n)
		}
		h.bank.says(func(domain.AnswerRequest) error {
			h.conn.State = domain.ConnectionBusy
			h.put(h.conn)
			return nil
		})
		if states, _ := p.after(5 * time.Second); states != 1 || p.last().Page != "wait" || !p.open() {
			t.Errorf("%d states after the approval", states)
		}
	})
}
