package consent_test

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/domain"
	"sluis.internal/test/house"
)

// stories are journeys that between them come by every way of a visit to the bank: a code, a picture, an approval
// elsewhere, a change among the three, none of them, a reading without the investor because the client or the clock asks
// for it, one that meets SCA, and a return.
var stories = []string{"login-20000002", "login-20000001", "login-20000025", "choice", "refresh", scheduled, "refresh-meets-sca", "erase-data"}

// scheduled is the journey "refresh", but that the clock asks for the data.
const scheduled = "refresh-scheduled"

// journeys are all that there are, and the one that needs this test's clock.
func journeys(t *testing.T) []journey.Journey {
	t.Helper()
	all, err := journey.All()
	must(t, err)
	for _, j := range all {
		if j.Name == "refresh" {
			j.Name, j.Steps = scheduled, slices.Clone(j.Steps)
			j.Steps[slices.Index(j.Steps, "refresh")] = "clock"
			return append(all, j)
		}
	}
	t.Fatal("there is no journey refresh")
	return nil
}

// kind is what a moment is counted by.
type kind string

const (
	betweenSteps  kind = "step"    // before the nth step of the journey
	duringRequest kind = "request" // while the bank is being asked for the nth time
	atCommit      kind = "commit"  // when the nth commit has just happened, at the same time as what follows
)

// moment is when something is taken away.
type moment struct {
	kind kind
	n    int
}

// play is one journey in the midst of which something is taken away.
type play struct {
	*scene
	player  *journey.Player
	other   *journey.Player // the same investor at another browser, and the client: who takes away
	story   journey.Journey
	removal removal
	at      moment
	login   string

	mu       sync.Mutex
	counts   map[kind]int
	began    bool
	over     bool                // nothing is taken away any more
	due      bool                // the moment has come
	granted  map[kind]int        // the moments that had passed when the investor had decided
	gone     bool                // what was to be taken away is
	way      bool                // a request came since
	refused  error               // it could not be taken away at this moment
	might    bool                // although the consent's state would have allowed it
	log      map[string]document // the audit log by then
	told     int                 // webhooks by then
	asked    []string            // of the bank since, but to close and what was on its way
	finished chan struct{}
}

// TestMoments takes something away in the midst of stories. At full length that is everything at every moment of
// these stories, and one thing at each of some moments of every other journey; otherwise the latter, of these.
func TestMoments(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	told := 0
	for _, j := range journeys(t) {
		wanted := slices.Contains(stories, j.Name)
		if wanted {
			told++
		}
		if wanted || *house.Long && j.Name != "login-20000042" { // which has a great deal of data, and no other way to it
			t.Run(j.Name, func(t *testing.T) { t.Parallel(); tell(t, j, wanted && *house.Long) })
		}
	}
	if told != len(stories) {
		t.Errorf("of %q only %d are journeys", stories, told)
	}
}

// tell plays one story again and again: with everything at every moment, or with one thing at each of some, which
// follow from the seed.
func tell(t *testing.T, j journey.Journey, everything bool) {
	s := &stage{}
	s.open(t)
	whole := s.begin(j, removal{}, moment{})
	whole.run()
	if slices.Contains(stories, j.Name) && (whole.counts[duringRequest] == 0 || whole.counts[atCommit] < 10) {
		t.Fatalf("only %v", whole.counts)
	}
	name := fnv.New64a()
	name.Write([]byte(j.Name))
	random := rand.New(rand.NewPCG(*house.Seed, name.Sum64()))
	plays := 0
	for _, every := range []moment{{betweenSteps, 1}, {duringRequest, 3}, {atCommit, 4}} {
		if everything {
			every.n = 1
		}
		turn := random.IntN(len(removals))
		for n := 1 + turn%every.n; n <= whole.counts[every.kind]; n += every.n {
			at := moment{every.kind, n}
			chosen := whole.possible(at)
			if !everything {
				turn++
				chosen = []removal{chosen[turn%len(chosen)]}
			}
			for _, r := range chosen {
				plays++
				t.Run(fmt.Sprintf("%s at %s %d", r.name, at.kind, at.n), func(t *testing.T) {
					s.t = t
					s.begin(j, r, at).run()
				})
			}
		}
	}
	t.Logf("%d plays at %v", plays, whole.counts)
}

// possible are the removals that can be tried at a moment: before the investor has decided others than after.
func (p *play) possible(at moment) (out []removal) {
	state := domain.ConsentValid
	if p.granted == nil || at.n <= p.granted[at.kind] {
		state = domain.ConsentReceived
	}
	for _, r := range removals {
		if slices.Contains(r.from(), state) {
			out = append(out, r)
		}
	}
	return out
}

// stage is a scene whose bank and store tell of every moment.
type stage struct {
	*scene
	now atomic.Pointer[play]
}

func (s *stage) open(t *testing.T) {
	set := home.Settings{Fault: func(point string) error {
		if p := s.now.Load(); p != nil && point == "after-commit" {
			p.reach(atCommit)
		}
		return nil
	}}
	set.BankOptions.OnRequest = func(_, method, path string) {
		if p := s.now.Load(); p != nil {
			p.ask(method, path)
		}
	}
	set.BankOptions.Slow = time.Millisecond
	s.scene = open(t, set)
}

// begin sets the scene for a play.
func (s *stage) begin(j journey.Journey, r removal, m moment) *play {
	p := &play{scene: s.scene, player: s.player(), story: j, removal: r, at: m, counts: map[kind]int{}, finished: make(chan struct{})}
	for _, words := range j.Steps {
		if login, ok := strings.CutPrefix(words, "login "); ok {
			p.login, _, _ = strings.Cut(login, " ")
			s.Home.Bank.Unlock(p.login)
			s.Home.Bank.EndSessions(p.login) // of the play before, which may have left an open question
		}
	}
	s.now.Store(p)
	s.t.Cleanup(func() {
		s.now.Store(nil)
		p.mu.Lock()
		p.over = true
		due := p.due
		p.mu.Unlock()
		if due {
			<-p.finished
		}
	})
	return p
}

// reach counts a moment of a kind, and takes away what is to be taken away when the time has come. At a commit the
// store is still in somebody's hands, so that what is taken away there is taken away beside what goes on.
func (p *play) reach(k kind) {
	p.mu.Lock()
	if !p.began || p.over {
		p.mu.Unlock()
		return
	}
	p.counts[k]++
	due := p.removal.do != nil && p.at == moment{k, p.counts[k]}
	p.due = p.due || due
	p.mu.Unlock()
	switch {
	case due && k == atCommit:
		go p.takeAway()
	case due:
		p.takeAway()
	}
}

// ask notes a request to the bank. What is asked while the moment lasts began before it.
func (p *play) ask(method, path string) {
	p.mu.Lock()
	// Where the bank is not being asked at the very moment, a request may be on its way.
	if p.gone && !strings.HasSuffix(path, "/revoke") && (p.at.kind == duringRequest || p.way) {
		p.asked = append(p.asked, method+" "+path)
	}
	p.way = p.way || p.gone
	p.mu.Unlock()
	p.reach(duringRequest)
}

// takeAway does the removal, and looks how things stand.
func (p *play) takeAway() {
	defer close(p.finished)
	from := p.removal.from()
	might := slices.Contains(from, p.consentNow().State)
	err := p.removal.do(p)
	might = might && slices.Contains(from, p.consentNow().State)
	log := p.entries()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.might = might
	p.gone, p.refused, p.log, p.told = err == nil, err, log, len(p.Inbox.Webhooks(p.player.Connection()))
}

// run plays the journey, and looks at what is left.
func (p *play) run() {
	p.t.Helper()
	p.play(p.player, p.asks())
	p.other = p.player.Elsewhere()
	p.rest()
	p.mu.Lock()
	p.began = true
	p.mu.Unlock()
	p.settle(p.lead(p.story.Steps[1:]))
}

// lead plays steps until something is taken away, and gives back those that were not done by then.
func (p *play) lead(steps []string) []string {
	p.t.Helper()
	for i, words := range steps {
		p.reach(betweenSteps)
		if p.isDue() {
			<-p.finished // what is under way goes on beside it; nothing new is begun meanwhile
		}
		if p.isGone() {
			return steps[i:]
		}
		done, err := p.advance(words)
		if err != nil && !p.isDue() {
			p.t.Fatalf("%s: %v", words, err)
		}
		if !done {
			return steps[i:]
		}
		if words == "grant" {
			p.mu.Lock()
			p.granted = maps.Clone(p.counts)
			p.mu.Unlock()
		}
	}
	return nil
}

// advance does one step, and says whether it was done: one that waits is broken off when something is taken away.
func (p *play) advance(words string) (done bool, err error) {
	arrived := p.awaited(words)
	if arrived == nil {
		return true, p.does(words)
	}
	err = p.until(func() (bool, error) {
		done, err = arrived()
		return done || !p.pending(), err
	})
	return done, err
}

// does takes a step that does not wait.
func (p *play) does(words string) error {
	if words == "clock" {
		return p.round()
	}
	return p.player.Play(p.t.Context(), words)
}

// round has the clock come round when the next reading of the connection is due.
func (p *play) round() error {
	due(p.scene, p.player)
	return clock(p.t.Context(), &visitor{scene: p.scene})
}

// awaited is what a step waits for; nil if it does something.
func (p *play) awaited(words string) func() (bool, error) {
	word, more, _ := strings.Cut(words, " ")
	switch wanted := journey.Awaited(words); {
	case wanted != nil:
		return func() (bool, error) { return p.arrived(p.player, wanted) }
	case word == "webhooks":
		return func() (bool, error) {
			return slices.Equal(p.Inbox.Of(p.player.Connection()), strings.Fields(more)), nil
		}
	case word == "version":
		return func() (bool, error) { return fmt.Sprint(p.connectionNow().Versions) == more, nil }
	}
	return nil
}

// asks is the first step: the consent ends soon, so that the clock need not be set far for it to end.
func (p *play) asks() string {
	_, more, _ := strings.Cut(p.story.Steps[0], " ")
	return p.scene.ask(" expires_at=" + p.Home.Env.Now().Add(soon).String() + " " + more)
}

// soon is how long consents last here: less than a session at the bank, whose end by time would hide that nobody closed it.
const soon = 4 * time.Minute

func (p *play) isGone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// isDue says whether the moment has come.
func (p *play) isDue() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due
}

// pending says whether nothing was tried to be taken away so far.
func (p *play) pending() bool {
	select {
	case <-p.finished:
		return false
	default:
		return true
	}
}

// settle waits for the end of everything, and checks it.
func (p *play) settle(rest []string) {
	p.t.Helper()
	if p.removal.do == nil {
		p.rest()
		return
	}
	p.rest()
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	if p.pending() && !p.due {
		p.t.Log("the moment did not come: the journey took another turn")
		return
	}
	<-p.finished
	if p.refused != nil {
		if p.might || !journey.IsRefusal(p.refused) {
			p.t.Fatalf("taking away: %v", p.refused)
		}
		p.t.Logf("refused at this moment, as it should be: %v", p.refused)
		return
	}
	p.rest()
	p.removal.check(p, rest)
}

// consentNow and connectionNow are how they stand.
func (p *play) consentNow() *domain.Consent {
	c := &domain.Consent{ID: domain.ConsentID(p.player.Consent())}
	must(p.t, p.Home.Get(p.t.Context(), c))
	return c
}

func (p *play) connectionNow() *domain.Connection {
	c := &domain.Connection{ID: domain.ConnectionID(p.player.Connection())}
	must(p.t, p.Home.Get(p.t.Context(), c))
	return c
}
