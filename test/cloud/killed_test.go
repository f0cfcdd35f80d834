package cloud

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bank "sluis.internal/functions/sandbox/comdirect"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/backend/gcp/gcptest"
	"sluis.internal/test/crash"
	"sluis.internal/test/house"
)

// TestKilled plays journeys while the processes of all functions die, at once or in the middle of a request, and are
// started again, and while Pub/Sub is unruly. People and programs go on as test/crash's do; what they meet must be
// explained by a death. When all have come to the end of their journeys, the books are compared.
func TestKilled(t *testing.T) {
	deaths := 60
	if *house.Long {
		deaths = 600
	}
	t.Logf("seed %d", *house.Seed)
	u := newUnruly(*house.Seed)
	r := open(t, options{unruly: u, bank: bank.Options{ChallengeLife: time.Hour, PushLife: time.Hour}})
	r.tick()
	r.bank.Hook(func(_, _, path string) {
		r.called("bank")
		if path == "/oauth/token" {
			r.called("bank's login")
		}
	})
	w := newWeather(r, deaths)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stormy := make(chan struct{})
	go func() { defer close(stormy); w.storm(ctx) }()
	tended := make(chan error, 1)
	go func() { tended <- r.tend(ctx, w) }()
	for i, group := range groups(t) {
		r.walk(t, w, i, group)
	}
	stop()
	<-stormy
	if err := <-tended; err != nil {
		t.Error("the client could not tend its endpoint:", err)
	}
	u.settled(t)
	t.Logf("deaths: %v", w.fallen)
	for name := range r.functions {
		if w.fallen[name] == 0 {
			t.Errorf("%s never died", name)
		}
	}
	if n := r.Inbox.Refused(); n > 0 {
		t.Errorf("%d webhooks could not be verified", n)
	}
}

// groups are the journeys to be played, some at once: all at full length, or else one group, in which something is erased,
// for some functions do nothing else, and passwords are refused.
func groups(t *testing.T) [][]journey.Journey {
	t.Helper()
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(j journey.Journey) bool { return j.Name == crash.Huge })
	random := rand.New(rand.NewPCG(*house.Seed, 2))
	dealt := crash.Deal(random, all, 12, *house.Long)
	if *house.Long {
		return dealt
	}
	needed := func(j journey.Journey) bool {
		return strings.HasPrefix(j.Name, "erase-") || j.Name == "wrong-pin" || slices.Contains(j.Steps, "connect credentials_refused")
	}
	var chosen []journey.Journey
	taken := map[string]bool{}
	for _, only := range []bool{true, false} {
		for _, j := range slices.Concat(dealt...) {
			if login := crash.LoginOf(j); needed(j) == only && (login == "" || !taken[login]) && len(chosen) < 20 {
				chosen, taken[login] = append(chosen, j), true
			}
		}
	}
	return [][]journey.Journey{chosen}
}

// walk has a group of journeys walked to their end, and compares the books.
func (r *region) walk(t *testing.T, w *weather, round int, group []journey.Journey) {
	t.Helper()
	since := time.Now()
	ctx, done := context.WithTimeout(t.Context(), 20*time.Minute)
	defer done()
	var crew sync.WaitGroup
	walkers := make([]*crash.Walker, len(group))
	for i, j := range group {
		if login := crash.LoginOf(j); login != "" {
			r.bank.Reset(login)
		}
		walkers[i] = crash.NewWalker(w, &r.Place, r.bank, j, j.Name+"."+random(3), rand.New(rand.NewPCG(*house.Seed, uint64(round)<<8+uint64(i)+10)))
		walkers[i].Patience = patience
		crew.Go(func() { _ = walkers[i].Walk(ctx) }) // its Failure is looked at below
	}
	crew.Wait()
	for _, walker := range walkers {
		if walker.Failure != nil {
			t.Errorf("%s: %v", walker.Journey.Name, walker.Failure)
		}
	}
	if t.Failed() {
		r.explain(t)
		return
	}
	w.calm()
	defer w.again()
	r.drain(t)
	wrong, open, err := crash.Compare(t.Context(), r.store, since, walkers)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range wrong {
		t.Error(what)
	}
	t.Logf("%d journeys in %s; %d sessions were left to end by themselves at the bank", len(group), time.Since(since).Round(time.Second), open)
}

// patience is for one step. Firestore keeps a dead transaction's locks for a minute, and its client asks for them at growing
// intervals; the dead's leases run for another minute, and nobody changes Google's clocks.
const patience = 8 * time.Minute

// explain tells what is known of journeys that came to no good end.
func (r *region) explain(t *testing.T) {
	t.Helper()
	t.Logf("it is %s", time.Now().UTC().Format(time.TimeOnly))
	gcptest.Stored(t.Context(), t, r.project, func(d gcptest.Document) {
		switch state := string(d.Fields["state"]); {
		case d.Collection == "outbox":
			t.Logf("outbox: %s", d.Fields)
		case !slices.Contains([]string{"complete", "failed", "cancelled", "verified", "rejected", "expired"}, state):
			t.Logf("%s: %s", d.Collection, d.Fields["Body"])
		}
	}, "outbox", "session", "challenge")
}

// tend is a client's program that changes its endpoint again and again, and asks once more where it had no answer.
func (r *region) tend(ctx context.Context, w *weather) error {
	for ctx.Err() == nil {
		var endpoints struct {
			Data []struct{ ID, URL, State string }
		}
		err := r.Call(ctx, http.MethodGet, "/v1/endpoints", nil, &endpoints)
		if err == nil {
			one := endpoints.Data[0]
			err = r.Call(ctx, http.MethodPatch, "/v1/endpoints/"+one.ID, map[string]string{"url": one.URL}, nil)
		}
		if journey.IsRefusal(err) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// drain waits until every event was handled but those that are to come much later, such as one that looks after a
// challenge long answered. None may have become a dead letter.
func (r *region) drain(t *testing.T) {
	t.Helper()
	var left []string
	soon, _ := json.Marshal(time.Now().Add(2 * time.Minute).UTC()) // a time is JSON
	for deadline := time.Now().Add(150 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		left = nil
		gcptest.Stored(t.Context(), t, r.project, func(d gcptest.Document) {
			if due := d.Fields["due"]; string(d.Fields["attempt"]) != "0" || due == nil || string(due) < string(soon) {
				left = append(left, string(d.Fields["topic"])+" "+string(d.Fields["reason"]))
			}
		}, "outbox")
		if len(left) == 0 && r.unruly.still() { // of two at once the second may still be at work
			return
		}
	}
	t.Errorf("the outbox is not empty, or pushes are under way: %v", left)
}

// weather ends processes and starts them again. It is the World of those who walk in it.
type weather struct {
	region *region
	random *rand.Rand
	left   int // deaths to come
	fallen map[string]int

	mu    sync.Mutex
	count int
	up    chan struct{} // closed while everything serves
	still sync.Mutex    // held while nothing may die
}

func newWeather(r *region, deaths int) *weather {
	w := &weather{region: r, random: rand.New(rand.NewPCG(*house.Seed, 1)), left: deaths, fallen: map[string]int{}, up: make(chan struct{})}
	close(w.up)
	return w
}

// Stands implements crash.World.
func (w *weather) Stands() (kills int, up <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count, w.up
}

// Nudge implements crash.World: nobody changes Google's clocks.
func (w *weather) Nudge() {}

func (w *weather) calm()  { w.still.Lock() }
func (w *weather) again() { w.still.Unlock() }

// storm strikes every function in turn, in another order each time, until all deaths are died.
func (w *weather) storm(ctx context.Context) {
	var names []string
	for ; w.left > 0 && ctx.Err() == nil; w.left-- {
		if len(names) == 0 {
			for _, f := range w.region.pipeline.Functions {
				names = append(names, f.Name)
			}
			w.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		}
		d := w.region.function(names[0])
		names = names[1:]
		pause, within := time.Duration(50+w.random.IntN(400))*time.Millisecond, time.Duration(w.random.IntN(100))*time.Millisecond
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if what := w.moment(d); what != "" {
			select {
			case <-ctx.Done():
				return
			case <-w.region.asked(what):
				time.Sleep(within)
			case <-time.After(time.Second):
			}
		}
		w.strike(d)
	}
}

// moment is in the middle of what a function dies, if that comes soon: of a request to it, or of one that it makes to the
// bank. At any time if it is empty.
func (w *weather) moment(d *function) string {
	moments := []string{"", d.Name, d.Name, d.Name}
	if d.Per == "custodian" {
		moments = []string{d.Name, "bank", "bank's login", "bank's login"}
	}
	return moments[w.random.IntN(len(moments))]
}

func (w *weather) strike(d *function) {
	w.still.Lock()
	defer w.still.Unlock()
	w.mu.Lock()
	w.count++
	w.fallen[d.Name]++
	w.up = make(chan struct{})
	w.mu.Unlock()
	w.region.kill(d)
	w.region.start(d)
	if conn, err := patient.DialContext(context.Background(), "tcp", d.at); err == nil {
		_ = conn.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.up)
}
