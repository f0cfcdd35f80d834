package leak

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/test/house"
)

// A house that is told "panic 3 WORD" panics with that word in every third transaction that is about to commit, and
// with 0 no more.
func init() {
	var every, seen atomic.Int64
	var word atomic.Value
	house.Commands["panic"] = func(arg string) error {
		var n int64
		var text string
		if _, err := fmt.Sscan(arg, &n, &text); err != nil {
			return err
		}
		word.Store(text)
		every.Store(n)
		return nil
	}
	house.Setup = func(s *home.Settings) {
		s.Fault = func(point string) error {
			if n := every.Load(); n > 0 && point == "before-commit" && seen.Add(1)%n == 0 {
				panic(word.Load().(string))
			}
			return nil
		}
	}
}

// TestPanicsTellNothing has transactions panic in the middle of journeys, with a secret thrown: nobody is told it, nor
// anything else.
func TestPanicsTellNothing(t *testing.T) {
	s := openScene(t, nil)
	strides := []int{2, 3, 5}
	if *house.Long {
		strides = []int{2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17}
	}
	for _, every := range strides {
		thrown := s.nest.Lay(Code, "thrown", "", 24)
		for _, name := range []string{"read", "wrong code", "read again"} {
			s.breakDown(t, name, fmt.Sprintf("panic %d %s", every, thrown))
		}
	}
	log, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{`"handler panicked"`, `"a handler panicked"`} {
		if !strings.Contains(string(log), said) {
			t.Errorf("the log never says %q: nothing panicked", said)
		}
	}
	places := append(slices.Concat(s.traffic.Answers(), s.kept(t, "data directory")), Place{"log", nil, Text("all", log)})
	tour, err := s.search.Visit(places...)
	Report(t, tour, err)
}

// patience bounds a step of a journey that may never come to its end.
const patience = 3 * time.Second

// breakDown plays a journey until it fails, while transactions panic from its third step on.
func (s *scene) breakDown(t *testing.T, name, words string) {
	t.Helper()
	j := s.witness.Disguise(BreakingOff(name), s.marks)
	p := s.place.Player(j.Name)
	for i, step := range j.Steps {
		if i == 3 {
			if err := s.Tell(words); err != nil {
				t.Fatal(err)
			}
		}
		ctx, done := context.WithTimeout(t.Context(), patience)
		err := p.Play(ctx, step)
		done()
		if err != nil {
			break
		}
	}
	if err := s.Tell("panic 0 nothing"); err != nil {
		t.Fatal(err)
	}
}

// TestDumpsTellNothing ends the process in the moment in which the bank looks at a password, and at a code, and has it
// say all it knows of its goroutines.
func TestDumpsTellNothing(t *testing.T) {
	for name, moment := range map[string]string{"password": "/oauth/token", "code": "/api/session/clients/{user}/v1/sessions/{session}"} {
		t.Run(name, func(t *testing.T) {
			s := openScene(t, nil, "GOTRACEBACK=system")
			arrived, release := make(chan struct{}), make(chan struct{})
			var once atomic.Bool
			s.Bank.Hook(func(_, _, path string) {
				if path == moment && once.CompareAndSwap(false, true) {
					close(arrived)
					<-release
				}
			})
			s.dumpAt(t, arrived, release)
			log, err := os.ReadFile(s.Log)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(log), "SIGQUIT") || !strings.Contains(string(log), "comdirect.(*visit).send") {
				t.Error("the dump does not show the request under way")
			}
			tour, err := s.search.Visit(append(s.kept(t, "data directory"), Place{"dump", nil, Text("stderr", log)},
				Place{"temporary files", nil, Files(s.tmp)})...)
			Report(t, tour, err)
		})
	}
}

// dumpAt plays a journey, has the process dump its goroutines in the moment, and waits for its end.
func (s *scene) dumpAt(t *testing.T, moment <-chan struct{}, release chan<- struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	played := make(chan struct{})
	j := s.witness.Disguise(BreakingOff("read"), s.marks)
	p := s.place.Player(j.Name)
	go func() {
		defer close(played)
		for _, step := range j.Steps {
			if p.Play(ctx, step) != nil {
				return
			}
		}
	}()
	select {
	case <-moment:
	case <-time.After(time.Minute):
		t.Error("the bank never heard of it")
	}
	if err := s.Signal(syscall.SIGQUIT); err != nil {
		t.Error(err)
	}
	select {
	case <-s.Ended():
	case <-time.After(time.Minute):
		t.Error("the process does not end")
	}
	cancel()
	close(release)
	<-played
}

// TestNoCore: the program as it is installed leaves no image of its memory on the disk, even if everybody asks for one.
func TestNoCore(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "sluis")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "sluis.internal/functions/sluis").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -c unlimited 2>/dev/null; exec "$0" "$@"`, binary, "--data", filepath.Join(dir, "data"),
		"serve", "--api=127.0.0.1:0", "--pages=127.0.0.1:0", "--bank=127.0.0.1:0", "--sample=127.0.0.1:0")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOTRACEBACK=crash")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.HasPrefix(lines.Text(), "Ready"); {
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the process may leave a core: %v\n%s", err, limits)
	}
	_ = cmd.Process.Signal(syscall.SIGABRT)
	_ = cmd.Wait() // it died of the signal
	left, err := filepath.Glob(filepath.Join(dir, "*core*"))
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v (%v)", left, err)
	}
}
