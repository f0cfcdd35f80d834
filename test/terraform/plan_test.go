package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	tfjson "github.com/hashicorp/terraform-json"

	"sluis.internal/functions/sluis/home"
	"sluis.internal/schemas"
	"sluis.internal/shared/domain"
)

// world is what the checks look at: a plan of examples/production, Terraform's files, and the contracts that all of it must follow.
type world struct {
	plan      *tfjson.Plan
	resources []resource        // that the plan makes
	files     map[string]string // of terraform/, by name
	variables map[string]any    // that the plan was made with
	pipeline  home.Pipeline
	contracts domain.Contracts
	keyed     map[string]bool // types of resources that the provider lets encrypt with a key of ours
}

// resource is one that the plan makes: its values, as far as they are known before it is applied.
type resource struct {
	address, kind, name, key string // key is its for_each's
	values                   map[string]any
}

// at finds a value: at("push_config", "oidc_token", "audience") looks through the single blocks on the way. Nil if there is none.
func (r resource) at(path ...string) any { return within(r.values, path...) }

func within(v any, path ...string) any {
	for _, p := range path {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

// text is a value that is text; empty if there is none.
func (r resource) text(path ...string) string { return text(r.at(path...)) }

func text(v any) string {
	s, _ := v.(string)
	return s
}

// texts is a list of text, sorted.
func texts(v any) []string {
	list, _ := v.([]any)
	var all []string
	for _, x := range list {
		all = append(all, text(x))
	}
	slices.Sort(all)
	return all
}

// of lists the resources of a kind, such as google_pubsub_topic, with one of the names, if any are given.
func (w *world) of(kind string, names ...string) []resource {
	var all []resource
	for _, r := range w.resources {
		if r.kind == kind && (len(names) == 0 || slices.Contains(names, r.name)) {
			all = append(all, r)
		}
	}
	return all
}

// terraform runs it in dir, with the provider that main.go built.
func terraform(dir, rc string, args ...string) ([]byte, error) {
	cmd := exec.Command("terraform", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+rc, "GOOGLE_OAUTH_ACCESS_TOKEN=fake", "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "TF_CLI_ARGS=", "GOOGLE_PROJECT=", "GOOGLE_REGION=")
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("terraform %s: %w\n%s%s", args[0], err, out.String(), failed.String())
	}
	return out.Bytes(), nil
}

// ready says where Terraform's configuration file is. Without Terraform, or where the provider cannot be fetched, the test skips, or
// fails where SLUIS_FULL=1.
func ready(t testing.TB) string {
	t.Helper()
	rc, err := provided()
	if err != nil && os.Getenv("SLUIS_FULL") == "1" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	return rc
}

var provided = sync.OnceValues(func() (string, error) {
	if _, err := exec.LookPath("terraform"); err != nil {
		return "", fmt.Errorf("Terraform is not installed: %w", err)
	}
	if os.Getenv("SLUIS_FULL") == "1" {
		return build("provider")
	}
	// Building takes many minutes: `go run ./test/terraform` does it, and no test by surprise.
	dir, err := place("provider")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "terraform.rc"))
	}
	if err != nil {
		return "", fmt.Errorf("the provider is not built; go run ./test/terraform does it: %w", err)
	}
	return filepath.Join(dir, "terraform.rc"), nil
})

// checkout copies terraform/ and schemas/, as Terraform writes beside what it reads.
func checkout(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, folder := range []string{"terraform", "schemas"} {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Name() == ".terraform":
				return fs.SkipDir
			}
			to := filepath.Join(root, strings.TrimPrefix(path, "../.."))
			if d.IsDir() {
				return os.MkdirAll(to, 0o755)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, raw, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(root, "terraform")
}

var backend = regexp.MustCompile(`\n *backend "gcs" \{\}[^\n]*\n`)

// example prepares an example in a checkout: its module, and no state in a bucket.
func example(t testing.TB, dir, rc, name string) string {
	t.Helper()
	at := filepath.Join(dir, "examples", name)
	raw, err := os.ReadFile(filepath.Join(at, "main.tf"))
	if err == nil {
		err = os.WriteFile(filepath.Join(at, "main.tf"), backend.ReplaceAll(raw, []byte("\n")), 0o644)
	}
	if err == nil {
		_, err = terraform(at, rc, "get")
	}
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// given are the variables of examples/production. The authority's certificate is no more than a form.
func given() map[string]any {
	sources := map[string]string{}
	for i, folder := range []string{"challenge", "consent", "deliver", "erase", "extract-comdirect", "portfolio", "seal", "sweep"} {
		sources[folder] = strings.Repeat(fmt.Sprintf("%02x", i), 32)
	}
	return map[string]any{"sources": sources, "client_authorities": []string{"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"}}
}

// plan plans examples/production of a checkout and returns the plan as JSON.
func plan(t testing.TB, dir, rc string) ([]byte, error) {
	t.Helper()
	at := example(t, dir, rc, "production")
	raw, err := json.Marshal(given())
	if err == nil {
		err = os.WriteFile(filepath.Join(at, "test.auto.tfvars.json"), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := terraform(at, rc, "plan", "-no-color", "-input=false", "-refresh=false", "-lock=false", "-out=plan"); err != nil {
		return nil, err
	}
	return terraform(at, rc, "show", "-json", "plan")
}

// files reads Terraform's files of a checkout.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = string(raw)
	}
	return all
}

var (
	once    sync.Once
	planned []byte
	texted  map[string]string
	keyed   map[string]bool
)

// real is the world as it is in this checkout.
func real(t testing.TB) *world {
	t.Helper()
	rc := ready(t)
	once.Do(func() {
		dir := checkout(t)
		raw, err := plan(t, dir, rc)
		if err != nil {
			t.Fatal(err)
		}
		schema, err := terraform(dir, rc, "providers", "schema", "-json")
		if err != nil {
			t.Fatal(err)
		}
		planned, texted, keyed = raw, files(t, dir), keyable(t, schema)
	})
	if planned == nil {
		t.Fatal("the plan failed, as another test says")
	}
	return see(t, planned, texted)
}

// see makes a world of a plan.
func see(t testing.TB, raw []byte, files map[string]string) *world {
	t.Helper()
	w := &world{plan: &tfjson.Plan{}, files: files, variables: given(), keyed: keyed}
	var err error
	if w.pipeline, err = home.ReadPipeline(); err == nil {
		w.contracts, err = domain.ReadContracts(schemas.FS)
	}
	if err == nil {
		err = json.Unmarshal(raw, w.plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range w.plan.ResourceChanges {
		values, ok := c.Change.After.(map[string]any)
		if !ok || c.Mode != tfjson.ManagedResourceMode {
			t.Fatalf("%s is not made but %v", c.Address, c.Change.Actions)
		}
		key, _ := c.Index.(string)
		w.resources = append(w.resources, resource{address: strings.TrimPrefix(c.Address, "module.sluis."), kind: c.Type, name: c.Name, key: key, values: values})
	}
	return w
}

// keyable reads from the provider's own schema which resources can be encrypted with a key of ours.
func keyable(t testing.TB, raw []byte) map[string]bool {
	t.Helper()
	var all tfjson.ProviderSchemas
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	can := map[string]bool{}
	for _, p := range all.Schemas {
		for kind, s := range p.ResourceSchemas {
			can[kind] = takesKey(s.Block)
		}
	}
	return can
}

func takesKey(b *tfjson.SchemaBlock) bool {
	for name, a := range b.Attributes {
		if strings.Contains(name, "kms_key") && (a.Optional || a.Required) {
			return true
		}
	}
	for _, nested := range b.NestedBlocks {
		if takesKey(nested.Block) {
			return true
		}
	}
	return false
}
