package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/shared/envelope"
	"sluis.internal/test/house"

	"sluis.internal/functions/consent"
)

// TestFirstStart kills a house again and again while it starts for the first time: while it makes keys, tables and
// indexes. In the end it has one of each and serves.
func TestFirstStart(t *testing.T) {
	random := rand.New(rand.NewPCG(*house.Seed, 3))
	kills := 15
	if *house.Long {
		kills = 150
	}
	t.Logf("seed %d, %d kills", *house.Seed, kills)
	h := house.Open(t, house.Options{Keys: keysFor(t)})
	for begun := 0; begun < kills; {
		h.Kill()
		must(t, os.RemoveAll(h.Data))
		for range min(kills-begun, 1+random.IntN(5)) { // on the same data
			begun++
			if h.Start(fmt.Sprintf("%s=%d", fuseVariable, 3+random.IntN(120))) == nil {
				<-h.Ended()
			}
			h.Kill()
		}
	}
	must(t, h.Start())
	h.WithStore(t, func(b *home.Backend) { must(t, h.Join(t.Context(), b, b.Env, consent.Terms{})) })
	p := h.Player("first")
	for _, line := range []string{"ask", "open", "grant", "login 20000005", "done", "read positions complete",
		"webhooks consent.granted connection.active portfolio.updated"} {
		if err := p.Play(t.Context(), line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	for name, n := range unbroken(t, home.KeysIn(h.Data)) {
		if n != 1 {
			t.Errorf("%d keys %s", n, name)
		}
	}
	must(t, h.Stop())
}

// keyFiles lists the numbers of each key's files.
func keyFiles(t *testing.T, dir string) map[string][]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	numbers := map[string][]string{}
	for _, e := range entries {
		name, number, ok := strings.Cut(strings.TrimSuffix(e.Name(), ".key"), "-")
		if !ok || strings.HasPrefix(e.Name(), ".") {
			continue // a draft that a death has left
		}
		numbers[name] = append(numbers[name], number)
	}
	return numbers
}

// unbroken counts the files of each key, which must be numbered without a gap. While files are made that cannot be seen:
// of two new ones a listing may show the second alone.
func unbroken(t *testing.T, dir string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for name, numbers := range keyFiles(t, dir) {
		for i, number := range numbers {
			if number != fmt.Sprintf("%04d", i+1) {
				t.Errorf("%s-%s.key after %d others", name, number, i)
			}
		}
		count[name] = len(numbers)
	}
	return count
}

// rotateVariable has a process rotate the keys of a directory until it is killed.
const rotateVariable = "SLUIS_TEST_ROTATE"

func rotateForever(dir string) {
	for {
		for _, name := range envelope.KeyNames {
			if err := envelope.Rotate(dir, string(name)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
}

// TestRotation kills a process that rotates keys. Whatever was sealed before still opens, and the keys can be read.
func TestRotation(t *testing.T) {
	random := rand.New(rand.NewPCG(*house.Seed, 4))
	kills := 25
	if *house.Long {
		kills = 250
	}
	t.Logf("seed %d, %d kills", *house.Seed, kills)
	dir := keysFor(t)
	label := []byte("label")
	sealed := map[envelope.KeyName][][]byte{}
	rotated := 0
	for range kills {
		keys, err := envelope.LocalKeys(dir)
		must(t, err)
		for _, name := range envelope.KeyNames {
			for i, s := range sealed[name] {
				if plain, err := keys.Decrypter(name).Decrypt(s, label); err != nil || !bytes.Equal(plain, []byte(name)) {
					t.Fatalf("what was sealed under %s before death %d does not open: %v", name, i+1, err)
				}
			}
			s, err := keys.Encrypter(name).Encrypt([]byte(name), label)
			must(t, err)
			sealed[name] = append(sealed[name], s)
		}
		rotated = unbroken(t, dir)[string(envelope.KeyOuter)]
		p := exec.Command(os.Args[0])
		p.Env = append(os.Environ(), rotateVariable+"="+dir)
		var complaint bytes.Buffer
		p.Stderr = &complaint
		must(t, p.Start())
		for deadline := time.Now().Add(time.Minute); len(keyFiles(t, dir)[string(envelope.KeyOuter)]) == rotated && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // a process of its own: until it has begun
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		must(t, p.Process.Kill())
		_ = p.Wait() // "signal: killed"
		if complaint.Len() > 0 {
			t.Fatal(complaint.String())
		}
	}
	if rotated < kills/2 {
		t.Fatalf("only %d rotations", rotated)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".draft-*"))
	must(t, err)
	t.Logf("%d rotations, %d drafts left, which the next start after an hour removes", rotated, len(left))
}
