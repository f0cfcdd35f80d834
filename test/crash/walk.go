// Package crash kills the house and looks whether anything is lost, doubled or left behind.
//
// An instance runs in a process of its own (test/house), and journeys are played at it, several at once. SIGKILL ends it
// at seeded moments: after some milliseconds, while it starts, when the bank has heard a request or is about to answer,
// when a client sends or has its answer, and at a commit of its store. It is started again on the same data, sooner or
// later by its clock, and people and programs go on as they do (walk.go): who had no answer asks again with the same
// Idempotency-Key, who lost the cookie asks for a new link, who sees that something broke off begins it anew. Once all
// have come to the end of their journeys, the books are compared (verdict.go): what the store holds, what the audit
// log says, what the bank saw and what reached the client's inbox must tell one story.
//
// What a journey may show that it does not show otherwise is only what a kill explains: a walker who meets anything else
// fails the test.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sluis.internal/functions/challenge"
	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
)

// World is what walkers know of what goes on behind the pages.
type World interface {
	// Stands says how often something was killed, and what is closed once everything serves again.
	Stands() (kills int, up <-chan struct{})
	// Nudge has time pass, where a test can: somebody waits, perhaps for the leases of the dead to run out.
	Nudge()
}

// Walker plays one journey to its end, as people and programs do when what they use breaks off now and then.
type Walker struct {
	Journey  journey.Journey
	Failure  error         // that it did not come to its end
	Patience time.Duration // how long one step may take, restarts and all; 4 minutes

	world  World
	place  *journey.Place
	bank   *bank.Bank
	player *journey.Player
	random *rand.Rand
	home   atomic.Bool

	first   int              // kills of the house when the walk began
	turns   int              // how often something was begun anew
	session domain.SessionID // the newest when something was begun
	sent    bool             // the request that begins something, in this step
	again   bool             // begin by "again" what began with "login"
	rekeyed bool             // the Idempotency-Key is another request's by now
}

// move takes the step at i and says which is next.
type move func(w *Walker, ctx context.Context, i int, repeated bool) (next int, err error)

// moves says for each word of a journey how it is taken when the house may die. A word without a row is done, and done
// again.
var moves = map[string]move{
	"open": (*Walker).enter, "link": (*Walker).enter,
	"grant": (*Walker).decide, "deny": (*Walker).decide, "revoke": (*Walker).decide,
	"login": (*Walker).begin, "again": (*Walker).begin, "refresh": (*Walker).begin,
	"challenge": (*Walker).wait, "done": (*Walker).wait, "ended": (*Walker).wait, "paused": (*Walker).wait, "connect": (*Walker).wait,
	"code": (*Walker).answer, "method": (*Walker).answer, "renew": (*Walker).answer, "cancel": (*Walker).answer,
	"image": (*Walker).picture, "approve": (*Walker).approve, "version": (*Walker).version,
	"webhooks": (*Walker).webhooks, "refusals": (*Walker).pass,
}

// NewWalker begins a journey at a place; name is its investor's reference there.
func NewWalker(world World, place *journey.Place, b *bank.Bank, j journey.Journey, name string, random *rand.Rand) *Walker {
	return &Walker{Journey: j, world: world, place: place, bank: b, player: place.Player(name), random: random, Patience: 4 * time.Minute}
}

// Walk goes the whole way.
func (w *Walker) Walk(ctx context.Context) error {
	defer w.home.Store(true)
	w.Failure = w.walk(ctx)
	return w.Failure
}

func (w *Walker) walk(ctx context.Context) error {
	w.first, _ = w.world.Stands()
	for i := 0; i < len(w.Journey.Steps); {
		limited, done := context.WithTimeout(ctx, w.Patience)
		next, err := w.step(limited, i)
		done()
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, w.Journey.Steps[i], err)
		}
		i = next
	}
	return nil
}

func (w *Walker) words(i int) []string { return strings.Fields(w.Journey.Steps[i]) }

// step takes one step, again and again if the house dies meanwhile.
func (w *Walker) step(ctx context.Context, i int) (next int, err error) {
	do := moves[w.words(i)[0]]
	if do == nil {
		do = (*Walker).simply
	}
	for repeated := false; ; repeated = true {
		kills, up := w.world.Stands()
		select {
		case <-up:
		case <-ctx.Done():
			return 0, errors.New("the house does not come back")
		}
		next, err := do(w, ctx, i, repeated)
		if err == nil || journey.IsRefusal(err) || errors.Is(err, errStrange) {
			return next, err
		}
		if !w.killed(ctx, kills) {
			return 0, fmt.Errorf("and nothing killed the house: %w", err)
		}
	}
}

// killed says whether the house was killed since it had been killed so often; the news may take a moment.
func (w *Walker) killed(ctx context.Context, before int) bool {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		if kills, _ := w.world.Stands(); kills > before {
			return true
		}
		time.Sleep(20 * time.Millisecond) // the house is a process of its own
	}
	return false
}

// errStrange is what a walker meets that no kill explains.
var errStrange = errors.New("it is not so")

func strange(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errStrange, fmt.Sprintf(format, args...))
}

// play does what a step says. A repeated one is the same request, with the same Idempotency-Key.
func (w *Walker) play(ctx context.Context, line string, repeated bool) error {
	if repeated {
		return w.player.Replay(ctx, line)
	}
	return w.player.Play(ctx, line)
}

func (w *Walker) simply(ctx context.Context, i int, repeated bool) (int, error) {
	return i + 1, w.play(ctx, w.Journey.Steps[i], repeated)
}

// pass leaves a step to the judge.
func (w *Walker) pass(_ context.Context, i int, _ bool) (int, error) { return i + 1, nil }

// enter follows a link. One that is used up, by a request whose answer was lost, is replaced by a new one.
func (w *Walker) enter(ctx context.Context, i int, repeated bool) (int, error) {
	err := w.play(ctx, w.Journey.Steps[i], repeated)
	if repeated && status(err) == http.StatusGone {
		err = w.reenter(ctx)
	}
	return i + 1, err
}

// reenter has the client make a new link, of the kind that the consent's state allows, and follows it.
func (w *Walker) reenter(ctx context.Context) error {
	var consent struct {
		State domain.ConsentState `json:"state"`
	}
	if err := w.place.Call(ctx, http.MethodGet, "/v1/consents/"+w.player.Consent(), nil, &consent); err != nil {
		return err
	}
	purpose := domain.LinkManage
	switch consent.State {
	case domain.ConsentReceived:
		purpose = domain.LinkConsent
	case domain.ConsentValid:
		purpose = domain.LinkReconnect
	}
	for _, line := range w.Journey.Steps { // who came to manage comes to manage
		if line == "link manage" && consent.State != domain.ConsentReceived && w.session != "" {
			purpose = domain.LinkManage
		}
	}
	w.rekeyed = true
	return w.player.Play(ctx, "link "+string(purpose))
}

// visiting does something that needs the cookie, and gets a new one if it is lost.
func (w *Walker) visiting(ctx context.Context, do func() error) error {
	err := do()
	if status(err) != http.StatusUnauthorized {
		return err
	}
	if err := w.reenter(ctx); err != nil {
		return err
	}
	return do()
}

func status(err error) int {
	var r *journey.Refusal
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}

// decisions are the states that a decision leads to.
var decisions = map[string]domain.ConsentState{"grant": domain.ConsentValid, "deny": domain.ConsentRejected, "revoke": domain.ConsentRevoked}

// decide grants, denies or revokes. What was decided already, and only the answer lost, need not be decided again.
func (w *Walker) decide(ctx context.Context, i int, repeated bool) (int, error) {
	line := w.Journey.Steps[i]
	err := w.visiting(ctx, func() error { return w.play(ctx, line, true) })
	if !repeated || !journey.IsRefusal(err) {
		return i + 1, err
	}
	var consent struct {
		State domain.ConsentState `json:"state"`
	}
	if failed := w.place.Call(ctx, http.MethodGet, "/v1/consents/"+w.player.Consent(), nil, &consent); failed != nil {
		return 0, failed
	}
	if consent.State == decisions[line] {
		return i + 1, nil
	}
	return 0, err
}

// look sees the investor's page.
func (w *Walker) look(ctx context.Context) (state *challenge.State, err error) {
	err = w.visiting(ctx, func() error { state, err = w.player.Look(ctx); return err })
	return state, err
}

func newest(s *challenge.State) domain.SessionID {
	if s.Session == nil {
		return ""
	}
	return s.Session.ID
}

// begin has the bank visited. Somebody whose answer was lost looks first whether a visit is under way.
func (w *Walker) begin(ctx context.Context, i int, repeated bool) (int, error) {
	line := w.Journey.Steps[i]
	if w.again {
		line = "again"
	}
	w.sent = w.sent && repeated
	state, err := w.look(ctx)
	if err != nil {
		return i, err
	}
	same := w.sent && line == "refresh" && !w.rekeyed // the one word here that has a key
	switch {
	case !w.sent:
		w.session, w.rekeyed = newest(state), false
	case newest(state) != w.session && !same:
		w.again = false
		return i + 1, nil
	}
	w.sent = true
	err = w.visiting(ctx, func() error { return w.play(ctx, line, same) })
	if err == nil {
		w.again = false
	}
	return i + 1, err
}

// wait waits for the investor's page to be as the step says. If it comes to rest otherwise, something broke off.
func (w *Walker) wait(ctx context.Context, i int, _ bool) (int, error) {
	line := w.Journey.Steps[i]
	wanted := journey.Awaited(line)
	var last challenge.State
	moved := w.patiently(ctx)
	defer moved()
	err := w.visiting(ctx, func() error {
		return w.player.Watch(ctx, func(s *challenge.State) bool {
			last = *s
			return wanted(s) || rests(line, s)
		})
	})
	if err != nil || wanted(&last) {
		return i + 1, err
	}
	return w.turn(i, &last)
}

// patiently has time pass while somebody waits, so that the leases run out which a dead process has left.
func (w *Walker) patiently(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.world.Nudge()
			case <-ctx.Done():
				return
			}
		}
	}()
	return cancel
}

// rests says whether the page waits for somebody, and will not become what the step waits for by itself.
func rests(line string, s *challenge.State) bool {
	switch {
	case s.Page == "ended":
		return true
	case !journey.Busy(s):
		return s.Page == "paused" || s.Page == "connect" || s.Page == "done"
	}
	return asks(s) && s.Challenge.Flow == domain.FlowCode
}

// asks says whether the bank waits for an answer.
func asks(s *challenge.State) bool {
	return s.Challenge != nil && s.Session != nil && s.Session.State == domain.SessionSuspended
}

// turn goes back to where a journey can go on from what the page shows: to the answer that was lost, or to the
// beginning of the visit that broke off. Each needs a kill that explains it.
func (w *Walker) turn(i int, s *challenge.State) (int, error) {
	kills, _ := w.world.Stands()
	reason := s.Reason
	if w.turns++; w.turns > 2*(kills-w.first) {
		return 0, strange("the page is %s %s (%d kills, %d turns)", s.Page, reason, kills-w.first, w.turns)
	}
	back := func(words ...string) int {
		for j := i; j >= 0; j-- {
			if slices.Contains(words, w.words(j)[0]) {
				return j
			}
		}
		return -1
	}
	begun := back("login", "again", "refresh")
	switch answered := back("code", "method", "renew", "cancel"); {
	case begun < 0 || s.Page == "ended":
		return 0, strange("the page is %s %s", s.Page, reason)
	case asks(s) && answered > begun:
		return answered, nil
	case asks(s):
		return 0, strange("the bank asks by %s %s", s.Challenge.Flow, s.Challenge.State)
	case s.Page == "done" && reason == "":
		return w.forward(i)
	}
	if reason == domain.ReasonAccountLocked {
		w.bank.Unlock(LoginOf(w.Journey)) // the investor has called the bank
	}
	w.again = w.words(begun)[0] == "login" && s.CanRetry && w.random.IntN(2) == 0
	return begun, nil
}

// forward goes on where the visit that is done already would have led.
func (w *Walker) forward(i int) (int, error) {
	for j := i; j < len(w.Journey.Steps); j++ {
		switch w.words(j)[0] {
		case "done":
			return j, nil
		case "login", "again", "refresh":
			return 0, strange("the page is done")
		}
	}
	return 0, strange("the page is done")
}

// answer answers the bank's question. Who had no answer to that looks whether the question still stands.
func (w *Walker) answer(ctx context.Context, i int, repeated bool) (int, error) {
	moved := w.patiently(ctx)
	defer moved()
	if repeated {
		if s, err := w.look(ctx); err != nil || !journey.Busy(s) || s.Challenge == nil || s.Challenge.State == domain.SCARejected {
			return i + 1, err // what comes next tells what has become of it
		}
	}
	for {
		err := w.visiting(ctx, func() error { return w.player.Play(ctx, w.Journey.Steps[i]) })
		switch {
		case err == nil:
			return i + 1, nil
		case codeOf(err) == "answer_in_progress": // the one that was lost: its lease runs out
			time.Sleep(200 * time.Millisecond)
		case journey.IsRefusal(err) && w.turns < 2*w.kills():
			return i + 1, nil // likewise
		default:
			return i, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// kills is how often the house was killed since the walk began.
func (w *Walker) kills() int {
	kills, _ := w.world.Stands()
	return kills - w.first
}

func codeOf(err error) string {
	var r *journey.Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// picture looks at the image. There is none if the answer before it was lost.
func (w *Walker) picture(ctx context.Context, i int, _ bool) (int, error) {
	err := w.visiting(ctx, func() error { return w.player.Play(ctx, w.Journey.Steps[i]) })
	if err == nil || w.kills() == 0 {
		return i + 1, err
	}
	s, failed := w.look(ctx)
	if failed != nil {
		return 0, failed
	}
	if s.Challenge != nil && s.Challenge.ImageURL != "" {
		return i, nil
	}
	return w.turn(i, s)
}

// approve approves in the bank's app. There is nothing to approve if the visit broke off.
func (w *Walker) approve(ctx context.Context, i int, _ bool) (int, error) {
	if err := w.player.Play(ctx, w.Journey.Steps[i]); err != nil && w.kills() == 0 {
		return 0, strange("%v", err)
	}
	return i + 1, nil
}

// version waits for a version of the portfolio.
func (w *Walker) version(ctx context.Context, i int, _ bool) (int, error) {
	moved := w.patiently(ctx)
	defer moved()
	for ctx.Err() == nil {
		s, err := w.look(ctx)
		if err != nil {
			return 0, err
		}
		var p struct {
			Number int `json:"number"`
		}
		if err := w.place.Call(ctx, http.MethodGet, "/v1/connections/"+w.player.Connection()+"/portfolio", nil, &p); err != nil {
			return 0, err
		}
		if fmt.Sprint(p.Number) == w.words(i)[1] {
			return i + 1, nil
		}
		if rests("", s) && newest(s) != "" && s.Page != "done" {
			return w.turn(i, s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0, strange("no such version came")
}

// webhooks waits until the connection's webhooks hold those of the step, in their order and up to the last, without a
// gap: between them may stand what tells of visits that broke off.
func (w *Walker) webhooks(ctx context.Context, i int, _ bool) (int, error) {
	moved := w.patiently(ctx)
	defer moved()
	want := w.words(i)[1:]
	var got []string
	for ctx.Err() == nil {
		got = w.place.Inbox.Of(w.player.Connection())
		rest := want
		for _, name := range got {
			if len(rest) > 0 && rest[0] == name {
				rest = rest[1:]
			}
		}
		if len(rest) == 0 && !slices.Contains(got, "-") {
			return i + 1, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return 0, strange("webhooks %v", got)
}

// Huge is the login whose portfolio takes longest: it is killed at full length only.
const Huge = "login-20000042"

// slow are the journeys at a bank that fails so often that most of their time is waiting. They are played once, together.
var slow = []string{"login-20000032", "login-20000034", "login-20000038"}

// Deal shuffles the journeys into groups of at most size in which no login comes twice: a bank counts by login. The slow
// ones are a group of their own, at the beginning or not at all.
func Deal(random *rand.Rand, journeys []journey.Journey, size int, withSlow bool) [][]journey.Journey {
	var groups [][]journey.Journey
	var taken []map[string]bool
	shuffled := slices.Clone(journeys)
	random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	waits := func(j journey.Journey) bool { return slices.Contains(slow, j.Name) || j.Name == Huge }
	if at := slices.IndexFunc(shuffled, waits); at >= 0 && withSlow {
		var group []journey.Journey
		for _, j := range shuffled {
			if waits(j) {
				group = append(group, j)
			}
		}
		groups, taken = append(groups, group), append(taken, map[string]bool{"": true})
	}
	for _, j := range slices.DeleteFunc(shuffled, waits) {
		login := LoginOf(j)
		at := 0
		for at < len(groups) && (len(groups[at]) >= size || taken[at][""] || login != "" && taken[at][login]) {
			at++
		}
		if at == len(groups) {
			groups, taken = append(groups, nil), append(taken, map[string]bool{})
		}
		groups[at], taken[at][login] = append(groups[at], j), login != ""
	}
	return groups
}

// LoginOf is the number of the login that a journey uses, or "".
func LoginOf(j journey.Journey) string {
	for _, line := range j.Steps {
		if words := strings.Fields(line); words[0] == "login" {
			return words[1]
		}
	}
	return ""
}
