package egress

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// trap listens on every port that the tricks use, at every address, and notes who was reached.
type trap struct {
	mu   sync.Mutex
	seen []string // addresses as they were dialled
}

// ports are those that a trick may lead to.
var ports = []string{"22", "25", "53", "80", "88", "443", "444", "1024", "2375", "3128", "5432", "6379", "8080", "8443", "9200", "10250", "32526"}

// listenEverywhere lays the trap, where there is a world for it.
func listenEverywhere(t *testing.T) *trap {
	t.Helper()
	w := &trap{}
	if !sealed {
		return w
	}
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+port)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go w.take(l) // ends with its listener
	}
	return w
}

func (w *trap) take(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.seen = append(w.seen, c.LocalAddr().String())
		w.mu.Unlock()
		_ = c.Close() // whoever comes here was to get nothing
	}
}

// reached tells who was reached, and forgets it.
func (w *trap) reached() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.seen)
	w.seen = nil
	return out
}

// await waits until n connections have arrived, and tells who was reached.
func (w *trap) await(t *testing.T, n int) []string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		there := len(w.seen)
		w.mu.Unlock()
		if there >= n {
			break
		}
	}
	return w.reached()
}
