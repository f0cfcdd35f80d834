package cloud

import (
	"context"
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"sluis.internal/functions/sluis/journey"
)

var (
	long = flag.Bool("long", false, "play every journey while processes die, and not a third of them")
	seed = flag.Uint64("seed", 1, "seed of what is random")
)

// restless are the functions that nobody waits for: their processes may die at any moment. One that dies in a login at the
// bank leaves a journey that only the investor can go on with, so extract is left alone here.
var restless = []string{"notify", "deliver", "erasure", "sweep"}

// TestKilled plays journeys while processes die and are started again, and while Pub/Sub brings a good part of all events
// twice. All come to their end, and each connection's webhooks are an unbroken sequence, the same under the same name.
func TestKilled(t *testing.T) {
	t.Logf("seed %d", *seed)
	r := open(t)
	r.tick()
	r.twice.Store(true)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int)
	go func() { done <- r.kills(ctx, rand.New(rand.NewPCG(*seed, 1))) }()
	all, err := journey.All()
	if err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(*seed, 2))
	all = slices.DeleteFunc(all, func(j journey.Journey) bool {
		return j.Name == "login-20000042" || !*long && chance.IntN(3) > 0 // that one is long by its size
	})
	t.Run("journeys", func(t *testing.T) { r.play(t, all) })
	stop()
	if n := <-done; n < 5 {
		t.Errorf("only %d processes died", n)
	}
	r.unbroken(t)
}

// kills ends processes at random and starts them again, and says how many.
func (r *region) kills(ctx context.Context, random *rand.Rand) (n int) {
	for {
		select {
		case <-ctx.Done():
			return n
		case <-time.After(time.Duration(200+random.IntN(1500)) * time.Millisecond):
		}
		d := r.function(restless[random.IntN(len(restless))])
		r.kill(d)
		r.start(d)
		n++
	}
}

// unbroken waits until every connection's webhooks are a sequence without a gap.
func (r *region) unbroken(t *testing.T) {
	t.Helper()
	var page struct {
		Data []struct{ ID string }
	}
	if err := r.Call(t.Context(), http.MethodGet, "/v1/connections?limit=1000", nil, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Data) == 0 {
		t.Error("there are no connections")
	}
	for _, c := range page.Data {
		var came []journey.Webhook
		for range 300 {
			came = r.Inbox.Webhooks(c.ID)
			slices.SortFunc(came, func(a, b journey.Webhook) int { return a.Sequence - b.Sequence })
			if whole(came) {
				break
			}
			time.Sleep(200 * time.Millisecond) // one is on its way
		}
		if !whole(came) {
			t.Errorf("%s: %+v", c.ID, came)
		}
	}
}

// whole says whether webhooks, in their order, are 1, 2, 3 and so on, each the same whenever it came.
func whole(all []journey.Webhook) bool {
	for i, w := range all {
		if w.Sequence != i+1 || w.Changed {
			return false
		}
	}
	return len(all) > 0
}
