// Package races shows that things done at once are done once. In every race two or more people, clients or processes do
// at the same moment what can only be done by one, or what cannot both be done: the one forced into every place of the
// other where the bank is asked something (by a hook in the sandbox bank that holds a request until the rival is
// through), or both let loose together. Afterwards the house must look as after a quiet run ([town.check]).
//
// The races are run in three kinds of town: one instance in this process; two instances in this process on the same
// data; and two processes on the same data. Bank and webhook inbox are outside, as in the world.
//
// What is random comes from -seed. With -long everything is tried in every town, and random races are run for longer.
package races

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/functions/sluis/journey"
	"sluis.internal/shared/envelope"
	"sluis.internal/test/house"
)

// TestMain lets all towns live at the same time, however few processors there are: they wait more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	house.Main(m)
}

// scenario is a race: it is given a town and runs its cases there, one after the other.
type scenario struct {
	name string
	run  func(*testing.T, *town)
}

var scenarios = []scenario{
	{"two refreshes", twoRefreshes},
	{"refresh against the end of the consent", refreshAgainstEnd},
	{"refresh against erasure", refreshAgainstErasure},
	{"refresh against narrowing", refreshAgainstNarrowing},
	{"first reading against the end of the consent", firstAgainstEnd},
	{"two answers", twoAnswers},
	{"answer against the end of the consent", answerAgainstEnd},
	{"two sealings", twoSealings},
	{"two uses of a link", twoUsesOfALink},
	{"two grants, grant and denial", decisions},
	{"reading against erasure", readingAgainstErasure},
	{"replay against retry", replayAgainstRetry},
	{"two sweeps", twoSweeps},
	{"keys are rotated", rotations},
	{"the clock jumps", clockJumps},
	{"everything at once", everythingAtOnce},
}

// TestRaces runs every scenario in every kind of town.
func TestRaces(t *testing.T) {
	t.Logf("seed %d", *house.Seed)
	keys := newKeys(t)
	for _, kind := range []struct {
		name string
		open func(*testing.T, string) *town
	}{{"one instance", oneInstance}, {"two instances", twoInstances}, {"two processes", twoProcesses}} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			v := kind.open(t, keys)
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					v.t, v.dice = t, rand.New(rand.NewPCG(*house.Seed, uint64(len(s.name))))
					s.run(t, v)
					v.checkAll()
				})
			}
		})
	}
}

// together lets all do at once and returns what came of each.
func together(acts ...func() error) []error {
	errs := make([]error, len(acts))
	var ready, done sync.WaitGroup
	ready.Add(len(acts))
	for i, act := range acts {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			errs[i] = act()
		})
	}
	done.Wait()
	return errs
}

// wins counts those without an error. The others must have been refused for one of the reasons.
func wins(t *testing.T, errs []error, reasons ...string) int {
	t.Helper()
	n := 0
	for _, err := range errs {
		if err == nil {
			n++
		} else if code := refusal(err); !slices.Contains(reasons, code) {
			t.Errorf("refused by %q (%v), want one of %q", code, err, reasons)
		}
	}
	return n
}

// player begins a journey at one of the town's instances, and plays steps of it at others by turns.
func (v *town) player(name string, steps ...string) *journey.Player {
	v.t.Helper()
	v.journeys++
	p := v.places[0].Player(fmt.Sprintf("%s-%d", name, v.journeys))
	for _, words := range steps {
		p = v.play(p, words)
		if words == "ask" {
			v.played = append(v.played, p)
		}
	}
	return p
}

// play does one step at the next instance.
func (v *town) play(p *journey.Player, words string) *journey.Player {
	v.t.Helper()
	p = v.elsewhere(p)
	ctx, done := context.WithTimeout(v.t.Context(), patience)
	defer done()
	if err := p.Play(ctx, words); err != nil {
		v.t.Fatalf("%s: %v", words, err)
	}
	return p
}

// elsewhere is the same journey at another instance, if there is one.
func (v *town) elsewhere(p *journey.Player) *journey.Player {
	v.turn++
	return p.At(v.places[v.turn%len(v.places)])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newKeys makes local keys for all towns: an RSA-4096 key takes seconds.
func newKeys(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	made, err := envelope.LocalKeys(dir)
	must(t, err)
	_, err = made.InnerPublic()
	must(t, err)
	return dir
}

// data is a data directory with a copy of the keys in it.
func data(t *testing.T, keys string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	house.CopyKeys(t, keys, home.KeysIn(dir))
	return dir
}
