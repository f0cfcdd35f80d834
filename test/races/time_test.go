package races

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/functions/sweep"
	"sluis.internal/shared/domain"
)

// jump sets every clock of the town so far from the machine's.
func (v *town) jump(d time.Duration) {
	v.t.Helper()
	must(v.t, v.shift(d))
	v.ahead.Store(int64(d))
}

// twoSweeps: everything that is due is done once, though every instance has a clock.
func twoSweeps(t *testing.T, v *town) {
	defer v.jump(0)
	var all []*journey.Player
	for range v.times(3) {
		all = append(all, v.connected("due"))
	}
	never := v.player("never-decided", "ask")
	refreshing := v.lateSweep("connections_due", 25*time.Hour)
	v.jump(25 * time.Hour)
	for _, p := range all {
		v.await("the scheduled refresh", func() bool { return v.look(p).connection.Versions >= 2 })
		if l := v.settled(p); l.connection.Versions != 2 {
			t.Errorf("%d versions after one day", l.connection.Versions)
		}
	}
	refreshing()
	for _, p := range all {
		if l := v.settled(p); l.connection.Versions != 2 {
			t.Errorf("%d versions, one of them by a late sweep", l.connection.Versions)
		}
	}
	expiring := v.lateSweep("consents_by_state", domain.MaxConsent+time.Hour)
	v.jump(domain.MaxConsent + time.Hour)
	for _, p := range append(all, never) {
		v.await("the end", func() bool { return v.look(p).consent.State == domain.ConsentExpired })
		if l := v.settled(p); l.connection.Versions > 2 {
			t.Errorf("%d versions at the end", l.connection.Versions)
		}
	}
	expiring()
	v.drain(domain.MaxConsent + time.Hour)
	v.checkAll()
	v.forget()
}

// late is a store whose answers to one query come late: what they list may be over.
type late struct {
	domain.Store
	index   string
	once    sync.Once
	listed  chan struct{}
	release chan struct{}
}

// lateSweep is one more instance's clock, that much ahead, which has listed what is due when this returns, and does it
// when it is told to.
func (v *town) lateSweep(index string, ahead time.Duration) (act func()) {
	v.t.Helper()
	l := &late{Store: v.store, index: index, listed: make(chan struct{}), release: make(chan struct{})}
	s := &sweep.Service{Store: l, Env: domain.Env{Region: v.store.Env.Region, Clock: func() time.Time { return time.Now().Add(ahead) }},
		Every: time.Minute, Pace: time.Millisecond}
	done := make(chan error, 1)
	go func() { _, err := s.Sweep(v.t.Context()); done <- err }()
	select {
	case <-l.listed:
	case err := <-done:
		v.t.Fatalf("nothing was due: %v", err)
	}
	return func() { v.t.Helper(); close(l.release); must(v.t, <-done) }
}

func (l *late) List(ctx context.Context, q domain.Query) (domain.Page, error) {
	page, err := l.Store.List(ctx, q)
	if q.Index == l.index && len(page.Documents) > 0 {
		l.once.Do(func() { close(l.listed); <-l.release })
	}
	return page, err
}

// drain lets time pass until no event waits.
func (v *town) drain(from time.Duration) {
	v.t.Helper()
	for i := range 20 {
		v.await("an empty queue", func() bool { return v.waiting() == 0 })
		lines, err := v.store.Pending(v.t.Context())
		must(v.t, err)
		if len(lines) == 0 {
			return
		}
		v.jump(from + time.Duration(i+1)*10*time.Minute)
	}
	lines, err := v.store.Pending(v.t.Context())
	v.t.Errorf("events wait for ever: %v, %v", lines, err)
}

// forget has the checks to come pass over this scenario's journeys.
func (v *town) forget() { v.played = nil }

// steps of a journey whose every step the clock jumps before.
var daily = []string{"ask", "open", "grant", "login " + coded, "challenge code", "code 111111", "done", "refresh", "paused", "link reconnect", "again"}

// clockJumps lets every clock jump an hour ahead or back before each step of a journey, and come right after it or stay.
// Whoever is turned away (a visit that is over, a question that has passed) comes back as people do, and has it once.
func clockJumps(t *testing.T, v *town) {
	defer v.jump(0)
	for i := range daily {
		for _, d := range []time.Duration{time.Hour, -time.Hour} {
			if len(v.places) > 1 && (i+v.turn)%4 != 0 {
				continue
			}
			v.bank.Unlock(coded) // questions that nobody answers lock it
			p := v.player("jump", daily[:i]...)
			if p.Connection() != "" {
				v.unhurried(p)
			}
			v.jump(d)
			p = v.elsewhere(p)
			ctx, done := context.WithTimeout(t.Context(), time.Second)
			err := p.Play(ctx, daily[i])
			done()
			if !errors.Is(err, context.DeadlineExceeded) { // what it waits for comes later
				v.fits(daily[i], d, err)
			}
			if i == 0 {
				v.played = append(v.played, p)
			}
			if v.dice.IntN(2) == 0 {
				v.jump(0)
			}
			v.goOn(p)
			v.timePasses(func() bool {
				return v.look(p).quiet() && v.waiting() == 0 && len(v.undelivered()) == 0
			})
			v.jump(0)
		}
	}
}

// fits says whether a step may have come to err after a jump. An hour ahead a visit is over, and nothing but visits; what
// was good stays good an hour before.
func (v *town) fits(words string, d time.Duration, err error) {
	v.t.Helper()
	first, _, _ := strings.Cut(words, " ")
	visiting := !slices.Contains([]string{"ask", "open", "refresh", "link"}, first)
	switch {
	case d > 0 && visiting:
		if code := refusal(err); code != "401" && code != "visit_ended" { // of a page, or of what it calls
			v.t.Errorf("%v before %q: %v, and the visit is over", d, words, err)
		}
	case err != nil:
		v.t.Errorf("%v before %q: %v", d, words, err)
	}
}

// unhurried waits until nothing is under way but what waits for a person.
func (v *town) unhurried(p *journey.Player) {
	v.t.Helper()
	v.await("rest", func() bool {
		l := v.look(p)
		return !slices.ContainsFunc(l.sessions, func(s domain.Session) bool {
			return s.State == domain.SessionQueued || s.State == domain.SessionRunning
		})
	})
}

// goOn does what a patient person does until there is a portfolio: looks at the page, and does what it asks. If nothing
// moves for a while, time passes.
func (v *town) goOn(p *journey.Player) {
	v.t.Helper()
	if p.Cookie() == nil {
		v.invited(p)
	}
	ahead := time.Duration(v.ahead.Load())
	for range 40 {
		if v.t.Failed() {
			return
		}
		state, err := p.Look(v.t.Context())
		var r *journey.Refusal
		switch {
		case errors.As(err, &r):
			v.invited(p)
			continue
		case err != nil:
			v.t.Fatal(err)
		}
		if state.Page == "done" && !journey.Busy(state) {
			return
		}
		if !v.obliged(p, state) {
			ahead += 10 * time.Minute
			v.jump(ahead)
		}
	}
	v.t.Errorf("it comes to no end: %s", v.look(p))
}

// timePasses waits until done says so, and lets time pass if nothing moves: what was asked for while the clock ran ahead
// waits until it is that late.
func (v *town) timePasses(done func() bool) {
	v.t.Helper()
	ahead := time.Duration(v.ahead.Load())
	for range 12 {
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(poll) {
			if done() {
				return
			}
		}
		ahead += 10 * time.Minute
		v.jump(ahead)
	}
	v.await("quiet", done)
}

// invited gives a new link to somebody whose visit is over.
func (v *town) invited(p *journey.Player) {
	v.t.Helper()
	purpose := "reconnect"
	if v.look(p).consent.State == domain.ConsentReceived {
		purpose = "consent"
	}
	if err := v.do(p, "link "+purpose)(); err != nil {
		v.t.Fatalf("a new link for %s: %v", purpose, err)
	}
}

// obliged does what the page asks, and says whether that moved anything.
func (v *town) obliged(p *journey.Player, state *challenge.State) bool {
	var errs error
	v.bank.Unlock(coded)
	switch state.Page {
	case "consent":
		errs = v.do(p, "grant")()
	case "connect", "paused":
		errs = v.do(p, "login "+coded)()
	case "sca":
		if state.Challenge != nil && (state.Challenge.State == domain.SCAExpired || !state.Challenge.AnswerBy.After(state.Now)) {
			errs = v.do(p, "login "+coded)()
		} else if state.Challenge != nil {
			errs = v.do(p, "code 111111")()
		}
	}
	if errs != nil && !journey.IsRefusal(errs) {
		v.t.Errorf("at page %s: %v", state.Page, errs)
	}
	ctx, done := context.WithTimeout(v.t.Context(), time.Second)
	defer done()
	return p.Watch(ctx, func(s *challenge.State) bool {
		switch {
		case s.Page == "done":
			return !journey.Busy(s)
		case s.Page == "sca" && s.Challenge != nil:
			return state.Challenge == nil || s.Challenge.ID != state.Challenge.ID
		}
		return s.Page != state.Page && s.Page != "wait"
	}) == nil
}
