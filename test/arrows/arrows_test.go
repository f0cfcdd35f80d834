package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"sluis.internal/functions/challenge"
	"sluis.internal/functions/consent"
	"sluis.internal/functions/deliver"
	"sluis.internal/functions/erase"
	"sluis.internal/functions/portfolio"
	"sluis.internal/functions/seal"
)

const root = "../.."

// muxes lets every function register its routes. No port is needed for that.
func muxes() map[string]*http.ServeMux {
	ask := &consent.Service{}
	out := map[string]*http.ServeMux{}
	for name, register := range map[string]func(*http.ServeMux){
		"consent": func(m *http.ServeMux) { ask.Routes(m); ask.Pages(m) },
		"seal":    (&seal.Service{}).Routes, "challenge": (&challenge.Service{}).Routes, "endpoints": (&deliver.Service{}).Routes,
		"portfolio": (&portfolio.Service{}).Routes, "erase": (&erase.Service{}).Routes,
	} {
		out[name] = http.NewServeMux()
		register(out[name])
	}
	return out
}

func TestTheHouse(t *testing.T) {
	h, err := read(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	h.muxes = muxes()
	if len(h.packages) < 20 || len(h.pipeline.Functions) < 10 || len(h.custodians) < 2 {
		t.Fatalf("%d packages, %d functions, %d custodians: the test looks at the wrong thing", len(h.packages), len(h.pipeline.Functions), len(h.custodians))
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			wrong := r.check(h)
			slices.Sort(wrong)
			for _, w := range wrong {
				t.Error(w)
			}
		})
	}
}

// TestTheGoCommandSeesTheSame: the packages and imports that the rules look at are those of go list, and the files
// that it leaves out here for their build constraints besides.
func TestTheGoCommandSeesTheSame(t *testing.T) {
	h, err := read(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for d := json.NewDecoder(bytes.NewReader(raw)); ; listed++ {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(h.packages, func(f *folder) bool { return module+"/"+f.path == p.ImportPath })
		if i < 0 {
			t.Errorf("%s was not read", p.ImportPath)
			continue
		}
		for _, want := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if !slices.ContainsFunc(h.packages[i].files, func(f *file) bool { _, ok := f.imports[want]; return ok }) {
				t.Errorf("%s imports %s, which was not seen", p.ImportPath, want)
			}
		}
	}
	if listed != len(h.packages) {
		t.Errorf("go list knows %d packages, and %d were read", listed, len(h.packages))
	}
}

// TestCIRunsThisUncached: the go command would answer from its cache, as it does not know which files are read.
func TestCIRunsThisUncached(t *testing.T) {
	script, err := os.ReadFile(root + "/.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(script), "go test -count=1 ./test/arrows") {
		t.Error(".ci/run does not run go test -count=1 ./test/arrows")
	}
}
