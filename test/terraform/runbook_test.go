package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sluis.internal/functions/sluis/home"
)

var (
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	linked  = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	aside   = regexp.MustCompile(`[^a-z0-9 -]`)
)

// slugs are the anchors of a page's headings, as GitHub makes them.
func slugs(page string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		all[strings.ReplaceAll(aside.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// broken are the links of a page that lead nowhere.
func broken(dir, page string) (wrong []string) {
	for _, m := range linked.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		target := page
		if m[1] != "" {
			path := filepath.Join(dir, m[1])
			raw, err := os.ReadFile(path)
			if _, there := os.Stat(path); there != nil || err != nil && m[2] != "" {
				wrong = append(wrong, m[0])
				continue
			}
			target = string(raw)
		}
		if m[2] != "" && !slugs(target)[m[2]] {
			wrong = append(wrong, m[0])
		}
	}
	return wrong
}

// TestRunbookNamesKeys: what the runbook has a shell export are the keys, where Terraform makes them.
func TestRunbookNamesKeys(t *testing.T) {
	raw, err := os.ReadFile("../../terraform/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(raw), "\nThe commands below want these:\n\n```sh\n")
	exports, _, _ := strings.Cut(after, "\n```\n")
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", exports+"\nenv")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, exports)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "SLUIS_KEY_") {
			got[name] = value
		}
	}
	pipeline, err := home.ReadPipeline()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for name, k := range pipeline.Keys {
		if ring := ringOf(k.Use); ring != "" {
			want["SLUIS_KEY_"+strings.ToUpper(name)] = ring + "/cryptoKeys/" + name
		}
	}
	if len(want) < 7 || !maps.Equal(got, want) {
		t.Errorf("the runbook exports %v, want %v", got, want)
	}
}

// TestRunbook: every link of the runbook leads somewhere, and what does not is seen.
func TestRunbook(t *testing.T) {
	raw, err := os.ReadFile("../../terraform/README.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	if n := len(linked.FindAllString(fenced.ReplaceAllString(page, ""), -1)); n < 30 {
		t.Errorf("%d links: the test looks at the wrong thing", n)
	}
	for _, w := range broken("../../terraform", page) {
		t.Errorf("it leads nowhere: %s", w)
	}
	for _, planted := range []string{"[x](#no-such-place)", "[x](no-such.tf)", "[x](../README.md#no-such-place)"} {
		if wrong := broken("../../terraform", page+"\n"+planted+"\n"); len(wrong) != 1 {
			t.Errorf("%s is not seen: %v", planted, wrong)
		}
	}
}
