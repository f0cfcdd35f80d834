package crash

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/test/house"
)

// Kinds of moment.
const (
	passes      = "time passes"      // milliseconds after the start
	starts      = "it starts"        // milliseconds after its process began
	bankHears   = "the bank hears"   // the n-th request, before it has done anything about it
	bankAnswers = "the bank answers" // the n-th request, before the answer has left
	clientAsks  = "a client asks"    // the n-th request, while it is on its way
	clientHears = "a client hears"   // the n-th answer, before anything is made of it
)

// moment is when the house is killed, and how long it stays dead by its clock.
type moment struct {
	at   string // one of the kinds above, or a point of sql.Options.Fault
	n    int
	dead time.Duration
}

// pick chooses a moment. The numbers are such that most come before a journey's end.
func pick(random *rand.Rand) moment {
	kinds := []struct {
		at   string
		most int
	}{{passes, 2500}, {starts, 400}, {bankHears, 25}, {bankAnswers, 25}, {clientAsks, 30}, {clientHears, 30},
		{"before-commit", 50}, {"after-commit", 50}, {"before-settle", 20}}
	k := kinds[random.IntN(len(kinds))]
	// Often at once, often long enough for every lease to be over.
	dead := []time.Duration{0, 6 * time.Second, 16 * time.Second, 70 * time.Second}
	return moment{at: k.at, n: 1 + random.IntN(k.most), dead: dead[random.IntN(len(dead))]}
}

// trap springs when something has come for the n-th time.
type trap struct {
	mu     sync.Mutex
	at     string
	left   int
	spring func()
}

func (t *trap) set(m moment, spring func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at, t.left, t.spring = m.at, m.n, spring
}

func (t *trap) pass(at string) {
	t.mu.Lock()
	if t.at == at {
		t.left--
	}
	sprung := t.at == at && t.left == 0
	spring := t.spring
	t.mu.Unlock()
	if sprung {
		spring()
	}
}

// wire is the way of clients' and investors' requests to the house. It looks at every answer that tells of a failure on
// our side.
type wire struct {
	trap    *trap
	mu      sync.Mutex
	unclean []error
	failed  int // answers that told of a failure on our side
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.trap.pass(clientAsks)
	resp, err := http.DefaultTransport.RoundTrip(r)
	w.trap.pass(clientHears)
	if err != nil || resp.StatusCode < 500 {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close() // it is read
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed++
	if err := clean(r.URL.Path, resp.Header.Get("Content-Type"), body); err != nil {
		w.unclean = append(w.unclean, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// wrong lists what was wrong with answers since it was asked last.
func (w *wire) wrong() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wrong := w.unclean
	w.unclean = nil
	return wrong
}

// patience is how long a moment is waited for that may never come: journeys wait too.
const patience = 4 * time.Second

// keep kills the house at the run's moments and starts it again, until all walkers are home.
func (l *lane) keep(r *run, walkers []*Walker, all <-chan struct{}) {
	for i, m := range r.moments {
		if m.at == broken || m.at == full {
			met, err := l.trouble(r, m, walkers, all)
			if l.misses = err; !met {
				return
			}
			continue
		}
		if m.at == starts {
			m = moment{at: passes, n: 50 + r.random.IntN(500), dead: m.dead}
			if i > 0 {
				m.n = 1
			}
		}
		if !l.await(m, all) {
			l.misses = l.defuse(r, m, walkers)
			return
		}
		l.fell(r, m.at, walkers)
		if r.moments[i].at == starts {
			l.stumble(r, r.moments[i], walkers)
		}
		if l.misses = errors.Join(l.blackout(), l.rise(m.dead)); l.misses != nil {
			return
		}
	}
}

// await sets the trap and waits until the house is dead. It returns false if everybody was home first.
func (l *lane) await(m moment, all <-chan struct{}) bool {
	sprung := make(chan struct{})
	defer close(sprung)
	wait := patience
	switch m.at {
	case passes:
		wait = time.Duration(m.n) * time.Millisecond
	case clientAsks:
		// The request goes on while the house dies.
		l.trap.set(m, func() { go l.house.Kill() })
	case bankHears, bankAnswers, clientHears:
		l.trap.set(m, l.house.Kill)
	case power:
		_ = l.house.Tell("power " + strconv.Itoa(m.n)) // it may be dead before it has answered
	default:
		_ = l.house.Tell("fuse " + m.at + " " + strconv.Itoa(m.n)) // it may be dead before it has answered
	}
	defer l.trap.set(moment{}, nil)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-l.house.Ended():
	case <-timer.C:
	case <-all:
		return false
	}
	l.house.Kill()
	return true
}

// defuse makes the house safe once everybody is home, and starts it again if that came too late.
func (l *lane) defuse(r *run, m moment, walkers []*Walker) error {
	calm := "fuse out 0"
	if m.at == power {
		calm = "power 0"
	}
	if l.house.Tell(calm) == nil {
		return nil
	}
	l.house.Kill()
	l.fell(r, m.at, walkers)
	return errors.Join(l.blackout(), l.rise(m.dead))
}

// fell notes a death.
func (l *lane) fell(r *run, at string, walkers []*Walker) {
	l.note(r, at, walkers)
	l.state.Lock()
	defer l.state.Unlock()
	select {
	case <-l.up:
		l.up = make(chan struct{})
	default: // it had not come back since the last death
	}
}

// note notes a moment, and whom it met.
func (l *lane) note(r *run, at string, walkers []*Walker) {
	hit := met{at: at}
	for _, w := range walkers {
		if !w.home.Load() {
			hit.struck = append(hit.struck, w.Journey.Name)
		}
	}
	r.met = append(r.met, hit)
	l.state.Lock()
	defer l.state.Unlock()
	l.kills++
}

// stumble starts the house and kills it while it starts.
func (l *lane) stumble(r *run, m moment, walkers []*Walker) {
	if l.house.Start(fuseVariable+"="+strconv.Itoa(m.n)) == nil {
		<-l.house.Ended()
	}
	l.house.Kill()
	l.fell(r, m.at, walkers)
}

// rise starts the house after it was dead for a while.
func (l *lane) rise(dead time.Duration) error {
	l.ahead.Add(int64(dead))
	if err := errors.Join(l.house.Later(dead), l.house.Start()); err != nil {
		return err
	}
	l.state.Lock()
	defer l.state.Unlock()
	l.risen = time.Now()
	close(l.up)
	return nil
}

// Stands implements World.
func (l *lane) Stands() (kills int, up <-chan struct{}) {
	l.state.Lock()
	defer l.state.Unlock()
	return l.kills, l.up
}

// fuseVariable is for how many milliseconds a process has to live.
const fuseVariable = "SLUIS_TEST_FUSE"

// fuse burns in the house's process and kills it at a point of sql.Options.Fault.
var fuse struct {
	mu   sync.Mutex
	at   string
	left atomic.Int64
}

func init() {
	house.Commands["fuse"] = func(arg string) error {
		at, n, _ := strings.Cut(arg, " ")
		left, err := strconv.ParseInt(n, 10, 64)
		fuse.mu.Lock()
		defer fuse.mu.Unlock()
		fuse.at = at
		fuse.left.Store(left)
		return err
	}
	house.Setup = func(s *home.Settings) {
		if os.Getenv(diskVariable) != "" {
			install(s)
		}
		s.Fault = func(point string) error {
			fuse.mu.Lock()
			at := fuse.at
			fuse.mu.Unlock()
			if at == point && fuse.left.Add(-1) == 0 {
				die()
			}
			return nil
		}
		if ms, err := strconv.Atoi(os.Getenv(fuseVariable)); err == nil {
			time.AfterFunc(time.Duration(ms)*time.Millisecond, die)
		}
	}
}

// die is SIGKILL by one's own hand: nothing is tidied up.
func die() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill()
	}
	select {}
}
