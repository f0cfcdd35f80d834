package cloudbuild

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cloud is Cloud Build on this machine: buckets are folders, Go is real where a step stages, and all else notes how it was called.
type cloud struct {
	folder string
	smoke  string // how the smoke test ends
}

func newCloud(t *testing.T) *cloud { return &cloud{t.TempDir(), "0"} }

// run plays the steps of a configuration in a workspace, until one fails.
func (c *cloud) run(t *testing.T, name, workspace string, substitutions map[string]string) (failed string, out string) {
	t.Helper()
	b, err := parse([]byte(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	out = t.TempDir()
	all := map[string]string{}
	maps.Copy(all, b.Substitutions)
	maps.Copy(all, substitutions)
	stand, err := filepath.Abs("testdata/bin")
	if err != nil {
		t.Fatal(err)
	}
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(), "PATH="+stand+":"+os.Getenv("PATH"), "CLOUD="+c.folder, "GO="+real, "SMOKE="+c.smoke)
	for _, e := range b.Options.Env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "OUT":
			value = out
		case "GOMODCACHE", "GOCACHE": // this machine's own are quicker
			continue
		}
		for key, v := range all {
			value = strings.ReplaceAll(value, "${"+key+"}", v)
		}
		environment = append(environment, name+"="+value)
	}
	for _, s := range b.Steps {
		script := filepath.Join(t.TempDir(), s.Id)
		if err := os.WriteFile(script, []byte(s.Script), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), script)
		cmd.Dir, cmd.Env = workspace, environment
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Logf("%s: %v\n%s", s.Id, err, said)
			return s.Id, out
		}
	}
	return "", out
}

// objects are what lies in the buckets, by name.
func (c *cloud) objects(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(c.folder), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(name, "/") {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(c.folder, name))
		all[name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// note reads what a stand-in noted, and forgets it.
func (c *cloud) note(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.folder, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(c.folder, name))
	return string(raw)
}

func substitutions(commit, build string) map[string]string {
	return map[string]string{"_SOURCES": "sources", "_PLANS": "plans", "_STATE": "state", "_PLANNED": "projects/p/topics/planned", "COMMIT_SHA": commit, "BUILD_ID": build}
}

// TestPlayed plays a commit's way to its release, a failed release, and the way back.
func TestPlayed(t *testing.T) {
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	c := newCloud(t)
	if failed, _ := c.run(t, "cloudbuild.yaml", repository, substitutions("c1", "b1")); failed != "" {
		t.Fatalf("%s failed", failed)
	}
	calls := c.note(t, "calls")
	for _, want := range []string{"go vet ./...", "go test -count=1 ./test/arrows/...", "go test -race", "terraform plan -input=false -lock=false"} {
		if !strings.Contains(calls, want) {
			t.Errorf("it did not call %s", want)
		}
	}
	if strings.Contains(calls, "terraform apply") {
		t.Error("it applied")
	}
	planned(t, c, "b1")
	first := c.objects(t)

	// The same commit once more: nothing that is there changes, and the plan is another.
	if failed, _ := c.run(t, "cloudbuild.yaml", repository, substitutions("c1", "b2")); failed != "" {
		t.Fatalf("%s failed the second time", failed)
	}
	planned(t, c, "b2")
	second := c.objects(t)
	for name, raw := range first {
		if second[name] != raw {
			t.Errorf("%s was changed", name)
		}
	}
	if _, zips := count(second, "sources/functions/"); zips != 8 {
		t.Errorf("%d zips: %v", zips, slices.Sorted(maps.Keys(second)))
	}
	c.note(t, "calls")
	released(t, c, "b2", "c1", second)
	wayBack(t, c, repository, second)
}

// planned says whether a plan was kept and rung for.
func planned(t *testing.T, c *cloud, build string) {
	t.Helper()
	if said := c.note(t, "messages"); strings.TrimSpace(said) != "pubsub topics publish projects/p/topics/planned --message=planned --attribute=plan="+build {
		t.Errorf("it rang %q", said)
	}
	kept, _ := count(c.objects(t), "plans/plans/"+build+"/")
	if want := []string{"commit", "manifest.json", "plan.tfplan", "plan.txt", "source.tgz"}; !slices.Equal(kept, want) {
		t.Errorf("kept are %v, want %v", kept, want)
	}
}

// released applies a plan from an empty workspace, first with a smoke test that fails.
func released(t *testing.T, c *cloud, build, commit string, objects map[string]string) {
	t.Helper()
	all := map[string]string{"_PLANS": "plans", "_STATE": "state", "_API": "api.example.com", "_PAGES": "pages.example.com", "_PLAN": build}
	c.smoke = "1"
	if failed, _ := c.run(t, "terraform/release.yaml", t.TempDir(), all); failed != "smoke" {
		t.Errorf("it failed at %q, want smoke", failed)
	}
	if notes, _ := count(c.objects(t), "plans/releases/"); len(notes) > 0 {
		t.Errorf("a release that failed is noted: %v", notes)
	}
	c.smoke = "0"
	if failed, _ := c.run(t, "terraform/release.yaml", t.TempDir(), all); failed != "" {
		t.Errorf("%s failed", failed)
	}
	if applied := c.note(t, "applied"); applied != objects["plans/plans/"+build+"/plan.tfplan"] || applied == "" {
		t.Errorf("applied was %q", applied)
	}
	calls := c.note(t, "calls")
	for _, want := range []string{"terraform init -input=false -lockfile=readonly -backend-config=bucket=state in production", "/plan.tfplan in production",
		"go run ./test/smoke -api https://api.example.com -pages https://pages.example.com -mutual=false"} {
		if !strings.Contains(calls, want) {
			t.Errorf("it did not call %s:\n%s", want, calls)
		}
	}
	notes, _ := count(c.objects(t), "plans/releases/")
	if len(notes) != 1 || !strings.HasSuffix(notes[0], "-"+commit+".json") {
		t.Errorf("noted are %v", notes)
	}
	for _, wrong := range []string{"", "b9"} { // a message that names no plan, or one that is not there
		all["_PLAN"] = wrong
		if failed, _ := c.run(t, "terraform/release.yaml", t.TempDir(), all); failed != "fetch" {
			t.Errorf("a release of plan %q failed at %q, want fetch", wrong, failed)
		}
	}
	c.note(t, "calls")
}

// wayBack plans an earlier manifest: nothing is tested or staged, and what is planned is what the manifest says.
func wayBack(t *testing.T, c *cloud, repository string, objects map[string]string) {
	t.Helper()
	all := substitutions("c2", "b3")
	all["_MANIFEST"] = "c1.json"
	if failed, _ := c.run(t, "cloudbuild.yaml", repository, all); failed != "" {
		t.Fatalf("%s failed on the way back", failed)
	}
	if calls := c.note(t, "calls"); strings.Contains(calls, "go ") || !strings.Contains(calls, "terraform plan") {
		t.Errorf("it called\n%s", calls)
	}
	planned(t, c, "b3")
	now := c.objects(t)
	if got, want := now["plans/plans/b3/plan.tfplan"], "planned\n"+objects["sources/manifests/c1.json"]; got != want {
		t.Errorf("planned was %q, want %q", got, want)
	}
	if _, had := now["sources/manifests/c2.json"]; had {
		t.Error("the way back made a manifest")
	}
	all["_MANIFEST"] = "c9.json"
	if failed, _ := c.run(t, "cloudbuild.yaml", repository, all); failed != "upload" {
		t.Errorf("a manifest that is not there failed at %q, want upload", failed)
	}
}

// count lists the objects below a prefix.
func count(objects map[string]string, prefix string) (names []string, n int) {
	for name := range objects {
		if below, ok := strings.CutPrefix(name, prefix); ok {
			names = append(names, below)
		}
	}
	slices.Sort(names)
	return names, len(names)
}

// TestNothingIsOverwritten: the stand-in refuses what Cloud Storage would, so that a step that forgets --no-clobber fails here, too.
func TestNothingIsOverwritten(t *testing.T) {
	c := newCloud(t)
	from := filepath.Join(t.TempDir(), "f")
	for i, want := range []bool{true, false, true} {
		if err := os.WriteFile(from, fmt.Append(nil, i), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"storage", "cp", from, "gs://b/f"}
		if i == 2 {
			args = []string{"storage", "cp", "--no-clobber", from, "gs://b/f"}
		}
		cmd := exec.CommandContext(t.Context(), "testdata/bin/gcloud", args...)
		cmd.Env = append(os.Environ(), "CLOUD="+c.folder)
		if err := cmd.Run(); (err == nil) != want {
			t.Errorf("copy %d: %v", i, err)
		}
	}
	if got := c.objects(t)["b/f"]; got != "0" {
		t.Errorf("it holds %q", got)
	}
}
