package cloud

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// unruly is Pub/Sub as it may be on a bad day, and as its guarantee allows (at least once, in no order): some pushes come
// twice at the same time, some are held back until later ones have passed, some come again seconds after they were
// acknowledged, and of some the acknowledgement is lost.
type unruly struct {
	mu       sync.Mutex
	random   *rand.Rand
	count    map[string]int
	passed   int // pushes carried out so far
	underway int // those that are, or still will be
}

// What happens to pushes, and of a hundred to how many.
const (
	twice    = "twice at once"
	again    = "again later"
	lost     = "acknowledgement lost"
	held     = "held back"
	overtook = "overtaken" // of those held back: others passed meanwhile
)

var moods = []struct {
	what string
	of   int
}{{twice, 20}, {again, 12}, {lost, 12}, {held, 16}}

func newUnruly(seed uint64) *unruly {
	return &unruly{random: rand.New(rand.NewPCG(seed, 3)), count: map[string]int{}}
}

// draw says what happens to the next push, and how long that takes where it takes time.
func (u *unruly) draw() (what string, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.random.IntN(100)
	wait = time.Duration(300+u.random.IntN(2500)) * time.Millisecond
	for _, m := range moods {
		if n -= m.of; n < 0 {
			u.count[m.what]++
			return m.what, wait
		}
	}
	return "", 0
}

// carry carries a push out, and says what was answered.
func (u *unruly) carry(push http.Handler, q *http.Request, body []byte) *httptest.ResponseRecorder {
	copied := q.Clone(context.WithoutCancel(q.Context()))
	copied.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	push.ServeHTTP(answer, copied)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.passed++
	return answer
}

// before stands between Pub/Sub and a function.
func (u *unruly) before(push http.Handler) http.Handler {
	if u == nil {
		return push
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer u.begin()()
		what, wait := u.draw()
		switch what {
		case twice:
			u.beside(func() { u.carry(push, q, body) })
		case held:
			u.hold(wait)
		}
		answer := u.carry(push, q, body)
		switch {
		case what == again && answer.Code < 300:
			u.beside(func() {
				time.Sleep(2 * wait)
				u.carry(push, q, body)
			})
		case what == lost:
			answer.Code = http.StatusGatewayTimeout
		}
		w.WriteHeader(answer.Code)
	})
}

// hold waits, and notes whether others passed meanwhile.
func (u *unruly) hold(wait time.Duration) {
	passed := func() int {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.passed
	}
	before := passed()
	time.Sleep(wait)
	if passed() > before {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.count[overtook]++
	}
}

// begin notes a push that is under way until what it gives back is called.
func (u *unruly) begin() (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.underway++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.underway--
	}
}

// beside carries a push out beside others.
func (u *unruly) beside(carry func()) {
	end := u.begin()
	go func() {
		defer end()
		carry()
	}()
}

// still says whether no push is under way.
func (u *unruly) still() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.underway == 0
}

// settled makes sure that everything has happened.
func (u *unruly) settled(t *testing.T) {
	t.Helper()
	t.Logf("of %d pushes: %v", u.passed, u.count)
	for _, what := range []string{twice, again, lost, held, overtook} {
		if u.count[what] < 3 {
			t.Errorf("pushes %s: only %d", what, u.count[what])
		}
	}
}
