package cloudbuild

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/cloudbuild/apiv1/v2/cloudbuildpb"
)

// house is all that a rule looks at.
type house struct {
	file     file
	build    *cloudbuildpb.Build
	triggers string // terraform/build.tf
}

var rules = []struct {
	name  string
	check func(house) []string
}{
	{"images", images}, {"options", options}, {"ends", ends}, {"steps", steps}, {"scripts", scripts}, {"secrets", secrets},
	{"environment", environment}, {"tools", tools}, {"create-only", createOnly}, {"apply", apply}, {"trigger", trigger}, {"approval", approval},
}

// allowed are the images that steps may run in, each with a version that does not move.
var allowed = regexp.MustCompile(`^(docker\.io/library/golang:\d+\.\d+\.\d+-bookworm|docker\.io/hashicorp/terraform:\d+\.\d+\.\d+|` +
	`gcr\.io/google\.com/cloudsdktool/google-cloud-cli:\d+\.\d+\.\d+-slim)(@sha256:[0-9a-f]{64})?$`)

func images(h house) (wrong []string) {
	for _, s := range h.build.Steps {
		if !allowed.MatchString(s.Name) {
			wrong = append(wrong, s.Id+" runs in "+s.Name)
		}
	}
	return wrong
}

// options: provenance or no build, and no log outside the log bucket.
func options(h house) (wrong []string) {
	o := h.build.Options
	if o.GetRequestedVerifyOption() != cloudbuildpb.BuildOptions_VERIFIED || !slices.Contains(o.GetSourceProvenanceHash(), cloudbuildpb.Hash_SHA256) {
		wrong = append(wrong, "it has no provenance")
	}
	if o.GetLogging() != cloudbuildpb.BuildOptions_CLOUD_LOGGING_ONLY || h.build.LogsBucket != "" {
		wrong = append(wrong, "its logs go elsewhere")
	}
	if o.GetMachineType() == cloudbuildpb.BuildOptions_UNSPECIFIED {
		wrong = append(wrong, "it runs on any machine")
	}
	if h.build.ServiceAccount != "" {
		wrong = append(wrong, "it chooses its own identity; the trigger does")
	}
	return wrong
}

// ends: nothing runs for ever. Tests and the plan stop their build early; an apply must have all the time that its step has.
func ends(h house) (wrong []string) {
	whole := h.build.Timeout.AsDuration()
	if whole <= 0 || whole > 3*time.Hour {
		wrong = append(wrong, fmt.Sprintf("the build may take %s", whole))
	}
	for _, s := range h.build.Steps {
		if one := s.Timeout.AsDuration(); one <= 0 || one > whole {
			wrong = append(wrong, fmt.Sprintf("%s may take %s, and the build %s", s.Id, one, whole))
		}
	}
	return wrong
}

// steps: all are there, one after the other, and none may fail.
func steps(h house) (wrong []string) {
	var ids []string
	for _, s := range h.build.Steps {
		ids = append(ids, s.Id)
		if len(s.WaitFor) > 0 || s.AllowFailure || len(s.AllowExitCodes) > 0 {
			wrong = append(wrong, s.Id+" does not wait, or may fail")
		}
	}
	if !slices.Equal(ids, h.file.steps) {
		wrong = append(wrong, fmt.Sprintf("its steps are %v, want %v", ids, h.file.steps))
	}
	return wrong
}

// scripts: each step is a script that stops at the first failure and at a variable that is not set.
func scripts(h house) (wrong []string) {
	for _, s := range h.build.Steps {
		if !strings.HasPrefix(s.Script, "#!/bin/sh\nset -eu\n") || len(s.Args) > 0 || s.Entrypoint != "" {
			wrong = append(wrong, s.Id+" is no script that stops at a failure")
		}
	}
	return wrong
}

var (
	secretName  = regexp.MustCompile(`(?i)secret|token|passw|credential|private|(^|_)(api_?)?key$`)
	secretValue = regexp.MustCompile(`sluis_key_|-----BEGIN|AIza[0-9A-Za-z_-]{20}|ya29\.|gh[opsu]_[0-9A-Za-z]{20}|[0-9A-Za-z+/]{40}`)
)

// secrets: none is in the file, and none is asked for, since no step needs one: identities are Cloud Build's own.
func secrets(h house) (wrong []string) {
	if h.build.AvailableSecrets != nil || len(h.build.Secrets) > 0 || len(h.build.Options.GetSecretEnv()) > 0 {
		wrong = append(wrong, "it asks for secrets")
	}
	named := map[string]string{}
	for name, value := range h.build.Substitutions {
		named[name] = value
	}
	for _, e := range h.build.Options.GetEnv() {
		name, value, _ := strings.Cut(e, "=")
		named[name] = value
	}
	for _, s := range h.build.Steps {
		named[s.Id] = s.Script
		if len(s.SecretEnv) > 0 || len(s.Env) > 0 {
			wrong = append(wrong, s.Id+" has an environment of its own")
		}
	}
	for name, text := range named {
		if secretName.MatchString(name) || secretValue.MatchString(text) {
			wrong = append(wrong, name+" looks like a secret, or holds one")
		}
	}
	return wrong
}

var (
	substitution = regexp.MustCompile(`\$\{?(_[A-Z][A-Z0-9_]*|[A-Z]+_ID|COMMIT_SHA)\}?`)
	variable     = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?`)
	builtIn      = []string{"COMMIT_SHA", "BUILD_ID", "PROJECT_ID"}
)

// environment: Cloud Build expands substitutions in the environment only, so that no value becomes part of a script's text; each
// is declared, and each variable that a script uses is set.
func environment(h house) (wrong []string) {
	set := []string{"PATH", "HOME"}
	used := map[string]bool{}
	for _, e := range h.build.Options.GetEnv() {
		name, value, _ := strings.Cut(e, "=")
		set = append(set, name)
		for _, m := range substitution.FindAllStringSubmatch(value, -1) {
			used[m[1]] = true
			if _, declared := h.build.Substitutions[m[1]]; !declared && !slices.Contains(builtIn, m[1]) {
				wrong = append(wrong, m[1]+" is not declared")
			}
		}
	}
	for name := range h.build.Substitutions {
		if !used[name] {
			wrong = append(wrong, name+" is not used")
		}
	}
	for _, s := range h.build.Steps {
		for _, m := range variable.FindAllStringSubmatch(s.Script, -1) {
			if !slices.Contains(set, m[1]) {
				wrong = append(wrong, s.Id+" uses "+m[1]+", which nobody sets")
			}
		}
	}
	return wrong
}

var path = regexp.MustCompile(`(?m)(?:^|\s)\./([a-z/]+)`)

// tools: what scripts run of ours is there.
func tools(h house) (wrong []string) {
	for _, s := range h.build.Steps {
		for _, m := range path.FindAllStringSubmatch(s.Script, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				wrong = append(wrong, s.Id+" runs "+m[1]+", which is not there")
			}
		}
	}
	if folder := h.build.Substitutions["_ROOT"]; folder != "" {
		if _, err := os.Stat(filepath.Join(root, folder, "main.tf")); err != nil {
			wrong = append(wrong, "Terraform runs in "+folder+", which is not there")
		}
	}
	return wrong
}

// createOnly: what lies in a bucket stays as it is.
func createOnly(h house) (wrong []string) {
	for _, s := range h.build.Steps {
		for line := range strings.Lines(s.Script) {
			words := strings.Fields(line)
			if len(words) < 3 || words[0] != "gcloud" {
				continue
			}
			what := strings.Join(words[:3], " ")
			up := strings.HasPrefix(strings.Trim(words[len(words)-1], `"`), "gs://") || strings.Contains(line, `"gs://$PLANS/releases/`)
			switch {
			case what == "gcloud storage cp" && up && words[3] != "--no-clobber":
				wrong = append(wrong, s.Id+" may overwrite: "+strings.TrimSpace(line))
			case what != "gcloud storage cp" && what != "gcloud pubsub topics":
				wrong = append(wrong, s.Id+" does more than copy and ring: "+strings.TrimSpace(line))
			}
		}
	}
	return wrong
}

// apply: only a release applies, and only the saved plan; providers are those of the lock file.
func apply(h house) (wrong []string) {
	for _, s := range h.build.Steps {
		for line := range strings.Lines(s.Script) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "terraform init") && !strings.Contains(line, " -lockfile=readonly "):
				wrong = append(wrong, s.Id+" takes any provider")
			case strings.HasPrefix(line, "terraform apply") && (h.file.trigger != "release" || !strings.HasSuffix(line, ` "$OUT/plan.tfplan"`)):
				wrong = append(wrong, s.Id+" applies what was not approved")
			case strings.HasPrefix(line, "terraform destroy"), strings.Contains(line, "-auto-approve"), strings.Contains(line, "-target"):
				wrong = append(wrong, s.Id+" goes around the plan")
			}
		}
	}
	return wrong
}

// block is a trigger's text in build.tf.
func (h house) block(name string) string {
	_, after, _ := strings.Cut(h.triggers, `resource "google_cloudbuild_trigger" "`+name+`" {`)
	text, _, _ := strings.Cut(after, "\n}\n")
	return text
}

var given = regexp.MustCompile(`(?m)^\s+(_[A-Z_]+)\s+=`)

// trigger: it gives every substitution that the file declares without a value, and no other.
func trigger(h house) (wrong []string) {
	var gives []string
	for _, m := range given.FindAllStringSubmatch(h.block(h.file.trigger), -1) {
		gives = append(gives, m[1])
		if _, ok := h.build.Substitutions[m[1]]; !ok {
			wrong = append(wrong, "the trigger gives "+m[1]+", which the file does not know")
		}
	}
	for name, value := range h.build.Substitutions {
		if value == "" && name != "_MANIFEST" && !slices.Contains(gives, name) {
			wrong = append(wrong, "the trigger does not give "+name)
		}
	}
	return wrong
}

// approval: a release waits for it, is its own identity, and takes its steps from what was applied, not from a commit.
func approval(h house) (wrong []string) {
	text := strings.Join(strings.Fields(h.block("release")), " ")
	for _, want := range []string{"approval_config { approval_required = true }", `service_account = google_service_account.build["release"].id`,
		"for_each = local.release.steps", "script = step.value.script", "requested_verify_option = local.release.options.requestedVerifyOption"} {
		if !strings.Contains(text, want) {
			wrong = append(wrong, "the trigger lacks: "+want)
		}
	}
	if strings.Contains(text, "filename") || strings.Contains(text, "repository_event_config") {
		wrong = append(wrong, "a commit says how it is released")
	}
	if !strings.Contains(h.block("plan"), `google_service_account.build["plan"].id`) {
		wrong = append(wrong, "who plans is somebody else")
	}
	return wrong
}
