// Package hostile sends what only an enemy, or a broken program, would send, to every route there is, and holds the
// house to three things: it never fails on its own side, it says what is wrong and what to do about it, and nothing of
// what it refused stays behind.
//
// The routes and what they take come from the contracts: openapi.yaml describes the operations and their members, and
// pipeline.json lists the pages. So a route or a member that is new is attacked without a line being written here; what
// the tests cannot make up for it (an identifier of a new kind, a text of a new form), they ask for by failing.
//
//	bed_test.go     a home that stands still, with a world to attack; every test gets it as it was in the beginning
//	routes_test.go  the routes, and a good request for each, which the attacks are made from
//	answer_test.go  what no answer may be
//	body_test.go    JSON bodies: each as a whole, and each member of each
//	wire_test.go    requests byte by byte over real connections: lines, headers, lengths, codings
//	slow_test.go    those who send or read slowly, or are too many; and that nothing of them is left
//	fuzz_test.go    fuzz targets for bodies, forms, addresses, keys, webhooks' configuration, times and identifiers
//	gate_test.go    fuzz targets for both gates, with sealed input taken apart and put together wrongly
//	bank_test.go    a fuzz target for the connector: one of the bank's answers goes wrong
//
// The fuzz targets run their seeds with every go test. To look for more, for ten minutes each:
//
//	test/hostile/fuzz
//
// and for as long as you like, with those only whose names match: test/hostile/fuzz 2m 'FuzzBank|FuzzCode'. It finds every
// target of the module, those beside the code too. What it finds is written to testdata/fuzz beside the target, and is a
// seed of every later run.
//
// The flag -long sends every shape to every route and waits for the longest of a server's bounds, and -seed says which
// shapes are left out without it.
package hostile

import (
	"net/http"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if b := theBed.bed; b != nil {
		_ = b.leave() // the process ends, and its data with it
	}
	for _, dir := range temporary {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// temporary are directories that live as long as the process.
var temporary []string

func tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "hostile")
	temporary = append(temporary, dir)
	return dir, err
}

// TestGood: what the attacks begin with is taken, or refused for the world's state only. Otherwise they would show
// nothing.
func TestGood(t *testing.T) {
	b := rest(t)
	for _, r := range b.routes {
		if r.ID == "watchState" {
			continue
		}
		t.Run(r.String(), func(t *testing.T) {
			for _, good := range b.goods(r) {
				a := b.ask(r, b.request(r, good))
				if err := b.wrong(r, a); err != nil || a.status >= 400 {
					t.Errorf("%s: %s, %v", good, a, err)
				}
				if r.Method == http.MethodGet {
					continue
				}
				if err := b.anew(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
