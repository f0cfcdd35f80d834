// Package journeys plays the demo as a user does and holds everything that passed between the parts, as it really was,
// against the contracts: every API answer, webhook, event and audit entry.
package journeys

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sluis.internal/schemas"
	"sluis.internal/test/contract"
)

// exchange is a line of demo --exchanges.
type exchange struct {
	Kind   string          `json:"kind"`
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

func TestExchangesKeepTheContracts(t *testing.T) {
	dir := t.TempDir()
	binary, data, file := filepath.Join(dir, "sluis"), filepath.Join(dir, "data"), filepath.Join(dir, "exchanges")
	run(t, "go", "build", "-o", binary, "sluis.internal/functions/sluis")
	// The logins that make the demo long repeat what the others show.
	for _, only := range []string{"login-2000000", "login-2000001", "login-2000002", "login-20000037", "login-2000004",
		"choice", "denied", "erase", "gives-up", "narrow", "once", "refresh", "revoked", "terminated", "wrong-pin"} {
		if only == "login-2000004" && testing.Short() {
			continue
		}
		run(t, binary, "--data", data, "demo", "--exchanges", file, "--only", only)
		checkExchanges(t, file)
	}
	checker := newChecker(t)
	entries := run(t, binary, "--data", data, "audit")
	seen := map[string]int{}
	for line := range bytes.Lines(entries) {
		if err := checker.Entry(line); err != nil {
			t.Errorf("audit entry %s: %v", line, err)
		}
		var e struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		seen[e.Type]++
	}
	for _, must := range []string{"sluis.credential.sealed", "sluis.session.started", "sluis.sca.verified", "sluis.portfolio.stored",
		"sluis.portfolio.read", "sluis.webhook.sent", "sluis.session.closed"} {
		if seen[must] == 0 {
			t.Errorf("no %s among the audit entries: %v", must, seen)
		}
	}
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out, complaints.Bytes())
	}
	return out
}

func newChecker(t *testing.T) *contract.Checker {
	t.Helper()
	c, err := contract.New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkExchanges validates one file. Every problem is shown once for each route.
func checkExchanges(t *testing.T, file string) {
	t.Helper()
	checker, templates := newChecker(t), routes(t)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 256<<20)
	count := map[string]int{}
	for lines.Scan() {
		var x exchange
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			t.Fatal(err)
		}
		count[x.Kind]++
		switch x.Kind {
		case "webhook":
			err = checker.Webhook(x.Body)
		case "event":
			err = checker.Event(x.Body)
		default:
			err = checker.Answer(x.Method, templates(x.Method, x.Path), x.Status, x.Body)
		}
		if err != nil {
			t.Errorf("%s %s %s %d: %v\n%.400s", x.Kind, x.Method, x.Path, x.Status, err, x.Body)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if count["answer"] == 0 || count["webhook"] == 0 || count["event"] == 0 {
		t.Errorf("the demo wrote %v: something is not recorded", count)
	}
}

// routes finds the template of a path as pipeline.json has it, by the multiplexer that serves it.
func routes(t *testing.T) func(method, path string) string {
	t.Helper()
	raw, err := schemas.FS.ReadFile("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	var pipeline struct {
		Functions []struct {
			Routes []struct{ Method, Path string } `json:"routes"`
		} `json:"functions"`
	}
	if err := json.Unmarshal(raw, &pipeline); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for _, f := range pipeline.Functions {
		for _, r := range f.Routes {
			mux.HandleFunc(r.Method+" "+r.Path, func(http.ResponseWriter, *http.Request) {})
		}
	}
	return func(method, path string) string {
		req, err := http.NewRequest(method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, pattern := mux.Handler(req)
		_, template, _ := strings.Cut(pattern, " ")
		return template
	}
}
