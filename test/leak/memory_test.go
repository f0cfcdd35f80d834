package leak

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"sluis.internal/functions/sluis/journey"
)

// TestMemory looks at the memory of the house's process after each such journey.
//
// Go overwrites nothing that it frees, and its strings cannot be overwritten at all. So there are two questions. What can
// the program still get at, once it has thrown away what it no longer needs? For that the runtime is told to overwrite
// what it frees; codes, passwords and user names must be gone at once then, and of the bank's tokens at most those may be
// left that stand in the buffers of the connections kept open (extraction.Transport keeps two). And what lies about in
// memory that is free? Codes and tokens do, until that memory is used again: net/http wants headers as strings. Passwords
// and user names pass through byte slices alone, which are wiped; but the runtime copies stacks and crypto/tls its
// buffers, so that now and then one is found nevertheless, of the nine that are typed here. Strings would leave them all.
func TestMemory(t *testing.T) {
	for _, look := range []struct {
		name, debug string
		allowed     map[Class]int // of secrets; others are not looked at
	}{
		{"reachable", "GODEBUG=clobberfree=1", map[Class]int{Code: 0, Password: 0, Username: 0, Token: 2 * keptOpen}},
		{"lying about", "GODEBUG=", map[Class]int{Password: 3, Username: 3}},
	} {
		t.Run(look.name, func(t *testing.T) {
			s := openScene(t, nil, look.debug)
			s.marks = ""
			for _, name := range slices.Sorted(maps.Keys(Unfinished)) {
				s.play(t, []journey.Journey{BreakingOff(name)}, func(string, *journey.Player) {})
				left := s.remembers(t, look.name == "reachable")
				for class, most := range look.allowed {
					if left[class] > most {
						t.Errorf("after %q the process holds %d canaries of class %s, want at most %d", name, left[class], class, most)
					}
				}
				t.Logf("after %q: %d codes, %d tokens", name, left[Code], left[Token])
			}
		})
	}
}

// keptOpen is how many connections to a bank are kept open. Of a token its signature counts too.
const keptOpen = 2

// remembers counts the canaries in the house's memory, after it has thrown away what it does not need or before.
func (s *scene) remembers(t *testing.T, collected bool) map[Class]int {
	t.Helper()
	if collected {
		if err := s.Tell("collect"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Signal(syscall.SIGCONT) }()
	seen, bytes := map[string]Canary{}, 0
	err := Memory(s.PID())(func(_ string, data []byte) {
		bytes += len(data)
		for _, f := range s.search.Plain(data) {
			seen[f.Canary.Text] = f.Canary
		}
	})
	if err != nil {
		unavailable(t, fmt.Sprint("the memory of another process cannot be read here: ", err))
	}
	if bytes < 1<<20 {
		t.Fatalf("only %d bytes of memory were read", bytes)
	}
	left := map[Class]int{}
	for _, c := range seen {
		left[c.Class]++
	}
	return left
}

// unavailable skips a test that this machine does not allow, but not where everything must be tested.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SLUIS_FULL") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestMemoryIsRead: what a process holds is found in its memory.
func TestMemoryIsRead(t *testing.T) {
	s := openScene(t, nil)
	text := s.nest.Lay(Code, "told", "", 30)
	if err := s.Tell("remember " + text); err != nil {
		t.Fatal(err)
	}
	if left := s.remembers(t, true); left[Code] != 1 {
		t.Errorf("memory holds a code, and %v was found in it", left)
	}
	if data, err := os.ReadFile(s.Log); err != nil || strings.Contains(string(data), text) {
		t.Error("the log tells it", err)
	}
}
