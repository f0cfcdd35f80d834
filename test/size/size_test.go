// Package size shows that the house carries weight.
//
//	huge_test.go   one very large portfolio, compared record by record with the bank's
//	flood_test.go  many connections due at once: fair, bounded, finishing
//	soak_test.go   everything together for long, with a clock that runs fast: nothing grows but what must
//
// The house runs in a process of its own, so that its memory, goroutines and open files are its own. With the race
// detector on, the process is built once more without it: what the detector needs is not what the house needs.
package size

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluis.internal/test/house"
)

// raced says whether this binary has the race detector in it.
var raced bool

func TestMain(m *testing.M) {
	house.Commands["figures"], house.Setup = writeFigures, allow
	house.Main(m)
}

// figures are what the house's process says of itself.
type figures struct {
	Heap       uint64 `json:"heap"` // live, after a collection
	Goroutines int    `json:"goroutines"`
}

// writeFigures is told by the test; the file is where it reads the answer.
func writeFigures(file string) error {
	runtime.GC()
	debug.FreeOSMemory() // so that what is resident is what is needed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	raw, err := json.Marshal(figures{Heap: m.HeapAlloc, Goroutines: runtime.NumGoroutine()})
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o600)
}

// ask has the house write its figures down and reads them.
func ask(t testing.TB, h *house.House) (f figures) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "figures")
	must(t, h.Tell("figures "+file))
	raw, err := os.ReadFile(file)
	must(t, err)
	must(t, json.Unmarshal(raw, &f))
	return f
}

// open starts a house whose process has no race detector in it.
func open(t testing.TB, o house.Options) *house.House {
	t.Helper()
	if raced {
		o.Program = plain(t)
	}
	return house.Open(t, o)
}

// plain builds this very test without the race detector.
func plain(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "size.test")
	if out, err := exec.Command("go", "test", "-c", "-race=false", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the house without the race detector: %v: %s", err, out)
	}
	return path
}

// status reads a line of the process's status, in KiB: VmHWM is the most memory it ever had, VmRSS what it has.
func status(t testing.TB, h *house.House, name string) uint64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("a process's memory and files are read from /proc")
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.PID()))
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			must(t, err)
			return n
		}
	}
	t.Fatalf("the process's status has no %s", name)
	return 0
}

// files is how many files and connections the process has open.
func files(t testing.TB, h *house.House) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.PID()))
	must(t, err)
	return len(all)
}

// get asks the client API.
func get(t testing.TB, h *house.House, path string, out any) {
	t.Helper()
	must(t, h.Call(t.Context(), http.MethodGet, path, nil, out))
}

// play does steps of a journey.
func play(t testing.TB, h *house.House, name string, steps ...string) {
	t.Helper()
	p := h.Player(name)
	for _, words := range steps {
		ctx, done := context.WithTimeout(t.Context(), 10*time.Minute)
		err := p.Play(ctx, words)
		done()
		if err != nil {
			t.Fatalf("%s: %s: %v", name, words, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
