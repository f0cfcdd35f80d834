package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend"
	"sluis.internal/shared/envelope"
	"sluis.internal/test/house"
)

var (
	only  = flag.String("only", "", "play this one journey")
	lanes = flag.Int("lanes", 3, "houses at once")
)

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(rotateVariable); ok {
		rotateForever(dir)
	}
	house.Main(m)
}

// TestKilled is SIGKILL at 200 moments, 2,000 at full length.
func TestKilled(t *testing.T) {
	kills := 200
	if *house.Long {
		kills = 2000
	}
	t.Logf("seed %d, %d kills", *house.Seed, kills)
	all, err := journey.All()
	must(t, err)
	if !*house.Long {
		all = slices.DeleteFunc(all, func(j journey.Journey) bool { return j.Name == Huge })
	}
	if *only != "" {
		all = slices.DeleteFunc(all, func(j journey.Journey) bool { return j.Name != *only })
	}
	p := &plan{random: rand.New(rand.NewPCG(*house.Seed, 1)), journeys: all, left: kills, pick: pick}
	orphans := 0
	for _, l := range work(t, p) {
		orphans += l.orphans
	}
	t.Logf("%d sessions were left to end by themselves at the bank", orphans)
	for _, j := range p.journeys {
		if p.hits[j.Name] == 0 && !t.Failed() {
			t.Errorf("no kill met %s", j.Name)
		}
	}
}

// work plays a plan on some houses at once. env is for their processes.
func work(t *testing.T, p *plan, env ...string) (houses []*lane) {
	t.Helper()
	p.hits, p.at = map[string]int{}, map[string]int{}
	keys := keysFor(t)
	var crew sync.WaitGroup
	for range *lanes {
		l := open(t, keys, env)
		houses = append(houses, l)
		crew.Go(func() {
			for run := p.next(); run != nil && !t.Failed(); run = p.next() {
				l.play(run)
				p.done(run)
			}
		})
	}
	crew.Wait()
	t.Logf("%d runs, by moment %v", p.runs, p.at)
	t.Logf("by journey %v", p.hits)
	return houses
}

// plan deals out journeys and moments to the lanes.
type plan struct {
	mu       sync.Mutex
	random   *rand.Rand
	journeys []journey.Journey
	pick     func(*rand.Rand) moment
	deck     [][]journey.Journey // groups yet to be played in this round
	left     int                 // kills
	runs     int
	hits     map[string]int // kills by journey that they met
	at       map[string]int // kills by kind of moment
}

// run is some journeys played at once on one house, and when that is killed meanwhile.
type run struct {
	number   int
	journeys []journey.Journey
	moments  []moment
	planned  int // kills
	random   *rand.Rand
	met      []met
}

// met is a moment that came, and the journeys that it struck.
type met struct {
	at     string
	struck []string
}

// next makes a run, or none once all kills are spent. Kills of a run that ends early come back by done.
func (p *plan) next() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left <= 0 {
		return nil
	}
	if len(p.deck) == 0 {
		p.deck = Deal(p.random, p.journeys, 6, p.runs == 0)
	}
	p.runs++
	r := &run{number: p.runs, journeys: p.deck[0], random: rand.New(rand.NewPCG(*house.Seed, uint64(p.runs)<<8))}
	p.deck = p.deck[1:]
	for range min(p.left, 4+r.random.IntN(6)) {
		r.moments = append(r.moments, p.pick(r.random))
	}
	r.planned = len(r.moments)
	p.left -= r.planned
	return r
}

func (p *plan) done(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += r.planned - len(r.met)
	for _, m := range r.met {
		p.at[m.at]++
		for _, name := range m.struck {
			p.hits[name]++
		}
	}
}

// lane is one house over many runs, and the time that has passed for it. Its bank keeps the machine's time, so that no
// session there ends by itself.
type lane struct {
	t      *testing.T
	house  *house.House
	ahead  *atomic.Int64 // of the machine's clock
	trap   *trap
	wire   *wire
	state  sync.Mutex
	kills  int           // so far
	nudged int           // the kills of which the leases have run out
	risen  time.Time     // when it was started last
	up     chan struct{} // closed while the house serves
	misses error         // the house did not come back

	settles bool // it has a disk of its own
	outages int  // power failures that took something from the disk
	orphans int  // sessions at the bank that nobody can close: see bankSessions
}

// keysFor makes local keys once for all lanes: an RSA key takes its time.
func keysFor(t *testing.T) string {
	dir := t.TempDir() + "/keys"
	keys, err := envelope.LocalKeys(dir)
	must(t, err)
	_, err = keys.InnerPublic()
	must(t, err)
	return dir
}

func open(t *testing.T, keys string, env []string) *lane {
	l := &lane{t: t, ahead: &atomic.Int64{}, trap: &trap{}, up: make(chan struct{})}
	close(l.up)
	options := house.Options{Keys: keys, Sweep: 2 * time.Second, Env: env}
	options.BankOptions = bank.Options{Slow: 150 * time.Millisecond, ChallengeLife: time.Hour, PushLife: time.Hour}
	l.house = house.Open(t, options)
	if l.settles = slices.Contains(env, diskVariable+"=1"); l.settles {
		must(t, l.house.Tell("settle")) // its client was added beside it
	}
	l.house.Inbox.AnyTime()
	l.wire = &wire{trap: l.trap}
	l.house.Transport = l.wire
	l.house.Bank.Hook(func(string, string, string) { l.trap.pass(bankHears) })
	l.house.Bank.HookAfter(func(string, string, string, int) { l.trap.pass(bankAnswers) })
	return l
}

func (l *lane) now() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) }

// later lets time pass for the house.
func (l *lane) later(d time.Duration) {
	l.ahead.Add(int64(d))
	_ = l.house.Later(d) // a house that is dead at this moment will know when it starts
}

// leases is longer than any lease of the house's.
const leases = 70 * time.Second

// Nudge implements World: it lets the leases of a dead process run out, once for each death and not at once.
func (l *lane) Nudge() {
	l.state.Lock()
	due := l.nudged < l.kills && time.Since(l.risen) > 2*time.Second
	select {
	case <-l.up:
	default:
		due = false
	}
	if due {
		l.nudged = l.kills
	}
	l.state.Unlock()
	if due {
		l.later(leases)
	}
}

// play plays a run to its end and judges it.
func (l *lane) play(r *run) {
	ctx, done := context.WithTimeout(l.t.Context(), 10*time.Minute)
	defer done()
	since := l.now()
	l.state.Lock()
	l.nudged = l.kills // the run before has waited for what its dead had left
	l.state.Unlock()
	for _, j := range r.journeys {
		if login := LoginOf(j); login != "" {
			l.house.Bank.Reset(login)
		}
	}
	var crew sync.WaitGroup
	walkers := make([]*Walker, len(r.journeys))
	for i, j := range r.journeys {
		w := NewWalker(l, &l.house.Place, l.house.Bank, j, fmt.Sprintf("%s.%d", j.Name, r.number), rand.New(rand.NewPCG(*house.Seed, uint64(r.number)<<8+uint64(i)+1)))
		walkers[i] = w
		crew.Go(func() { _ = w.Walk(ctx) }) // its Failure is looked at below
	}
	all := make(chan struct{})
	go func() { crew.Wait(); close(all) }()
	l.keep(r, walkers, all)
	<-all
	failed := l.misses != nil
	if failed {
		l.t.Errorf("run %d: %v", r.number, l.misses)
	}
	for _, err := range l.wire.wrong() {
		l.t.Errorf("run %d: %v", r.number, err)
	}
	for _, w := range walkers {
		if w.Failure != nil {
			failed = true
			l.t.Errorf("run %d, %s: %v", r.number, w.Journey.Name, w.Failure)
		}
	}
	if failed {
		l.t.Logf("run %d: met %v", r.number, r.met)
		l.explain(ctx, r)
		return
	}
	l.judge(ctx, r, walkers, since)
	if l.t.Failed() {
		l.t.Logf("run %d: met %v", r.number, r.met)
	}
}

// explain tells what is known of a run that came to no good end.
func (l *lane) explain(ctx context.Context, r *run) {
	b := l.store(ctx)
	defer l.leave(b)
	pending, err := b.Pending(ctx)
	letters, failed := b.DeadLetters(ctx, 10)
	l.t.Logf("run %d: pending %v, dead letters %v, %v", r.number, pending, letters, errors.Join(err, failed))
	log, err := os.ReadFile(l.house.Log)
	must(l.t, err)
	var said []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, "failed") {
			said = append(said, strings.TrimSpace(line))
		}
	}
	l.t.Logf("run %d: the house said last:\n%s", r.number, strings.Join(said[max(0, len(said)-8):], "\n"))
}

// judge waits until nothing is left to be done, and compares the books.
func (l *lane) judge(ctx context.Context, r *run, walkers []*Walker, since time.Time) {
	b := l.store(ctx)
	defer l.leave(b)
	if err := l.drain(ctx, b); err != nil {
		l.t.Errorf("run %d: %v", r.number, err)
		return
	}
	if n := l.house.Inbox.Refused(); n > 0 {
		l.t.Errorf("run %d: %d webhooks could not be verified", r.number, n)
	}
	wrong, open, err := Compare(ctx, b, since, walkers)
	must(l.t, err)
	l.orphans += open
	for _, what := range wrong {
		l.t.Errorf("run %d, %s", r.number, what)
	}
}

// drain waits until no event is left. What a dead process has claimed comes when its lease runs out, and what was put
// off when it is time.
func (l *lane) drain(ctx context.Context, b *home.Backend) error {
	l.later(leases)
	var pending []backend.Backlog
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; {
		var err error
		if pending, err = b.Pending(ctx); err != nil {
			return err
		}
		if len(pending) == 0 {
			return nil
		}
		if !slices.ContainsFunc(pending, func(p backend.Backlog) bool { return p.State != "delayed" }) {
			l.later(30 * time.Second)
		}
		time.Sleep(50 * time.Millisecond)
	}
	letters, err := b.DeadLetters(ctx, 10)
	return fmt.Errorf("the queue is not empty: %v, dead letters %v, %v", pending, letters, err)
}

// store opens the data beside the house, by the lane's clock.
func (l *lane) store(ctx context.Context) *home.Backend {
	set := home.Settings{Data: l.house.Data}
	set.Env.Clock = l.now
	b, err := home.OpenBackend(ctx, set)
	must(l.t, err)
	return b
}

// leave closes the data, which syncs it, and says so to the disk of a house that has one of its own.
func (l *lane) leave(b *home.Backend) {
	must(l.t, b.Close())
	if l.settles {
		_ = l.house.Tell("settle") // a house that is dead holds nothing for loose
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
