// Package cloudbuild holds cloudbuild.yaml and terraform/release.yaml to Cloud Build's own schema and to the rules of this house,
// and plays their steps on this machine, with stand-ins for gcloud and Terraform.
package cloudbuild

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
)

const root = "../.."

// file is one of the two build configurations.
type file struct {
	name    string
	trigger string   // the resource of terraform/build.tf that runs it
	steps   []string // in this order
}

var files = []file{
	{"cloudbuild.yaml", "plan", []string{"vet", "arrows", "race", "stage", "upload", "plan", "keep", "ask"}},
	{"terraform/release.yaml", "release", []string{"fetch", "apply", "smoke", "note"}},
}

// parse reads a configuration as Cloud Build does, and refuses what its schema does not know.
func parse(raw []byte) (*cloudbuildpb.Build, error) {
	var tree any
	if err := yaml.Unmarshal(raw, &tree); err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	b := &cloudbuildpb.Build{}
	return b, protojson.Unmarshal(asJSON, b)
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestBuilds(t *testing.T) {
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			b, err := parse([]byte(read(t, f.name)))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				for _, w := range r.check(house{f, b, read(t, "terraform/build.tf")}) {
					t.Errorf("%s: %s", r.name, w)
				}
			}
		})
	}
}

// TestStrict: a name that Cloud Build does not know is refused, however deep.
func TestStrict(t *testing.T) {
	good := read(t, "cloudbuild.yaml")
	for name, change := range map[string][2]string{
		"at the top":       {"timeout: 7200s\n", "timeout: 7200s\ntimeOut: 1s\n"},
		"in a step":        {"    timeout: 900s\n", "    timeOut: 900s\n"},
		"in the options":   {"  machineType:", "  machine:"},
		"a value":          {"E2_HIGHCPU_8", "E2_HUGE"},
		"a time":           {"timeout: 7200s", "timeout: two hours"},
		"a key said twice": {"timeout: 7200s\n", "timeout: 7200s\ntimeout: 7200s\n"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%s: %q is taken", name, change[1])
		}
	}
}

// planted are mistakes, each of which one rule must find.
var planted = []struct {
	name, file string
	old, new   string
	rule       string
}{
	{"an image of any version", "cloudbuild.yaml", "golang:1.26.8-bookworm", "golang:latest", "images"},
	{"a stranger's image", "terraform/release.yaml", "docker.io/hashicorp/terraform:1.11.4", "docker.io/somebody/terraform:1.11.4", "images"},
	{"no provenance", "cloudbuild.yaml", "requestedVerifyOption: VERIFIED", "requestedVerifyOption: NOT_VERIFIED", "options"},
	{"logs in a bucket of nobody's", "terraform/release.yaml", "logging: CLOUD_LOGGING_ONLY", "logging: GCS_ONLY", "options"},
	{"a step without an end", "cloudbuild.yaml", "    timeout: 900s\n", "", "ends"},
	{"a build without an end", "cloudbuild.yaml", "timeout: 7200s\noptions", "options", "ends"},
	{"steps that outlast the build", "terraform/release.yaml", "timeout: 5400s", "timeout: 9000s", "ends"},
	{"no race tests", "cloudbuild.yaml", "- id: race", "- id: tests", "steps"},
	{"the smoke test before the release", "terraform/release.yaml", "- id: smoke", "- id: apply2", "steps"},
	{"two at once", "cloudbuild.yaml", "  - id: plan", "  - waitFor: [vet]\n    id: plan", "steps"},
	{"a failure that passes", "cloudbuild.yaml", "  - id: race", "  - allowFailure: true\n    id: race", "steps"},
	{"a script that goes on after a failure", "cloudbuild.yaml", "set -eu\n", "", "scripts"},
	{"a secret in a substitution", "cloudbuild.yaml", `  _PLANS: ""  `, `  _API_TOKEN: "x"` + "\n" + `  _PLANS: ""`, "secrets"},
	{"a secret in an environment", "cloudbuild.yaml", "    - OUT=/out\n", "    - OUT=/out\n    - TF_VAR_password=hunter2hunter2\n", "secrets"},
	{"a secret in a script", "terraform/release.yaml", "test -n \"$PLAN\"", "export X=sluis_key_0123456789abcdef", "secrets"},
	{"a substitution in a script", "cloudbuild.yaml", `cd "$ROOT"`, `cd "${_ROOT}"`, "environment"},
	{"a variable that nobody sets", "cloudbuild.yaml", "    - PLANS=${_PLANS}\n", "", "environment"},
	{"a substitution that nobody declares", "cloudbuild.yaml", "${_PLANNED}", "${_RELEASE}", "environment"},
	{"a tool that is not there", "cloudbuild.yaml", "./test/stage -zip", "./test/packer -zip", "tools"},
	{"an upload that overwrites", "cloudbuild.yaml", `gcloud storage cp --no-clobber "$OUT"/zips`, `gcloud storage cp "$OUT"/zips`, "create-only"},
	{"a removal", "cloudbuild.yaml", "gcloud pubsub topics", "gcloud storage rm gs://x\n      gcloud pubsub topics", "create-only"},
	{"an apply without approval", "cloudbuild.yaml", "terraform show -no-color", "terraform apply -auto-approve\n      terraform show -no-color", "apply"},
	{"an apply of something else", "terraform/release.yaml", `-lock-timeout=300s "$OUT/plan.tfplan"`, "-auto-approve", "apply"},
	{"providers of any kind", "cloudbuild.yaml", " -lockfile=readonly", "", "apply"},
	{"a substitution that the trigger does not give", "cloudbuild.yaml", `  _STATE: ""  `, `  _EXTRA: ""` + "\n" + `  _STATE: ""`, "trigger"},
	{"a release without approval", "terraform/build.tf", "approval_required = true", "approval_required = false", "approval"},
	{"a release as the one who plans", "terraform/build.tf", `google_service_account.build["release"].id`, `google_service_account.build["plan"].id`, "approval"},
}

// TestPlanted: each mistake is found, by its rule.
func TestPlanted(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			good := read(t, p.file)
			bad := strings.Replace(good, p.old, p.new, 1)
			if bad == good {
				t.Fatal("nothing was changed")
			}
			texts := map[string]string{"cloudbuild.yaml": "", "terraform/release.yaml": "", "terraform/build.tf": ""}
			for name := range texts {
				texts[name] = read(t, name)
			}
			texts[p.file] = bad
			var found []string
			for _, f := range files {
				b, err := parse([]byte(texts[f.name]))
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rules {
					if len(r.check(house{f, b, texts["terraform/build.tf"]})) > 0 {
						found = append(found, r.name)
					}
				}
			}
			if !slices.Contains(found, p.rule) {
				t.Errorf("found by %v, want %s", found, p.rule)
			}
		})
	}
}
