package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/inventory.golden anew")

func TestFormat(t *testing.T) {
	rc := ready(t)
	if out, err := terraform("../../terraform", rc, "fmt", "-check", "-recursive", "-list=true"); err != nil {
		t.Errorf("run terraform fmt -recursive terraform: %s %v", out, err)
	}
}

func TestValid(t *testing.T) {
	rc := ready(t)
	dir := checkout(t)
	if _, err := terraform(dir, rc, "validate", "-no-color"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"minimal", "production"} {
		if _, err := terraform(example(t, dir, rc, name), rc, "validate", "-no-color"); err != nil {
			t.Error(err)
		}
	}
}

// TestOwnTests runs terraform/tests: every variable's validation, and what an apply without sources makes.
func TestOwnTests(t *testing.T) {
	rc := ready(t)
	out, err := terraform(checkout(t), rc, "test", "-no-color")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out[max(0, len(out)-200):])
}

// TestMinimal plans the example that has all created, projects included.
func TestMinimal(t *testing.T) {
	rc := ready(t)
	at := example(t, checkout(t), rc, "minimal")
	out, err := terraform(at, rc, "plan", "-no-color", "-input=false", "-refresh=false", "-lock=false")
	if err != nil {
		t.Fatal(err)
	}
	for _, project := range []string{"runtime", "inner", "keys", "audit"} {
		if !strings.Contains(string(out), `google_project.project["`+project+`"] will be created`) {
			t.Errorf("it creates no project %s", project)
		}
	}
	if strings.Contains(string(out), "google_cloudfunctions2_function.function") {
		t.Error("it makes functions before there are sources")
	}
}

// TestProduction holds the planned production example to every check.
func TestProduction(t *testing.T) {
	w := real(t)
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		t.Run(name, func(t *testing.T) {
			for _, complaint := range checks[name](w) {
				t.Error(complaint)
			}
		})
	}
}

// TestInventory keeps the counts of what is made, so that a review sees what a change adds.
func TestInventory(t *testing.T) {
	w := real(t)
	counts := map[string]int{}
	for _, r := range w.resources {
		counts[r.kind]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%4d resources of examples/production\n", len(w.resources))
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%4d %s\n", counts[kind], kind)
	}
	golden := filepath.Join("testdata", "inventory.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("another inventory (go test ./test/terraform -run Inventory -update writes it):\n%s\nwant:\n%s", b.String(), want)
	}
}
