package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
)

// grant is one line of the complete IAM list: who may do what on what.
type grant struct{ on, role, member, condition string }

func (g grant) String() string {
	if g.condition != "" {
		return fmt.Sprintf("%s: %s to %s if %s", g.on, g.role, g.member, g.condition)
	}
	return fmt.Sprintf("%s: %s to %s", g.on, g.role, g.member)
}

// extra are grants that do not come from pipeline.json: those of logs, sinks and builds. Each file that tests such appends its own.
var extra []func(*world) []grant

// nothing are resources of IAM that grant nothing.
var nothing = []string{"google_iam_deny_policy", "google_project_iam_custom_role", "google_project_iam_audit_config"}

// grants lists what the plan grants, wherever it stands.
func (w *world) grants() []grant {
	var all []grant
	for _, r := range w.resources {
		if !strings.Contains(r.kind, "_iam_") || slices.Contains(nothing, r.kind) {
			continue
		}
		on, condition := granting(r), r.text("condition", "expression")
		if raw := r.text("policy_data"); raw != "" {
			var policy struct {
				Bindings []struct {
					Role    string
					Members []string
				}
			}
			if err := json.Unmarshal([]byte(raw), &policy); err != nil {
				all = append(all, grant{on: on, role: err.Error()})
			}
			for _, b := range policy.Bindings {
				for _, m := range b.Members {
					all = append(all, grant{on, b.Role, m, condition})
				}
			}
			continue
		}
		members := texts(r.at("members"))
		if m := r.text("member"); m != "" {
			members = append(members, m)
		}
		if len(members) == 0 {
			members = []string{"(known after apply)"} // the writer of a sink
		}
		for _, m := range members {
			all = append(all, grant{on, r.text("role"), m, condition})
		}
	}
	return all
}

// granting names what a resource of IAM grants on.
func granting(r resource) string {
	for _, x := range [][2]string{{"crypto_key_id", "key"}, {"secret_id", "secret"}, {"topic", "topic"}, {"subscription", "subscription"}, {"service_account_id", "account"},
		{"repository", "repository"}, {"bucket", "bucket"}} {
		if v := r.text(x[0]); v != "" {
			return x[1] + " " + path.Base(v)
		}
	}
	if r.kind == "google_cloud_run_v2_service_iam_binding" {
		return "function " + r.text("name")
	}
	if strings.HasPrefix(r.kind, "google_project_iam_") && r.text("project") != "" {
		return "project " + r.text("project")
	}
	return r.address
}

func member(account string) string { return "serviceAccount:" + account }
func agent(number, service string) string {
	return member("service-" + number + "@" + service + ".iam.gserviceaccount.com")
}

const (
	runtimeNumber = "111111111111"
	auditNumber   = "333333333333"
)

// derived is the complete IAM list, from pipeline.json and custodians.json alone.
func (w *world) derived() []grant {
	var all []grant
	give := func(on, role string, members ...string) {
		for _, m := range members {
			all = append(all, grant{on: on, role: role, member: m})
		}
	}
	w.deployments(func(name string, f function) {
		me := member(account("fn-" + name))
		w.gates(f, func(key, role string) { give("key "+key, role, me) })
		for _, held := range f.Holds {
			if strings.HasPrefix(w.pipeline.Keys[held].Use, "HMAC") {
				give("secret held--"+held, "roles/secretmanager.secretAccessor", me)
			}
		}
		for _, secret := range w.contracts.Custodian(f.custodian).Secrets {
			give("secret "+strings.ReplaceAll(secret, "/", "--"), "roles/secretmanager.secretAccessor", me)
		}
		for topic := range w.pipeline.Topics {
			if slices.Contains(f.Emits, topic) || f.Schedule != "" {
				give("topic "+string(topic), "roles/pubsub.publisher", me)
			}
		}
		all = append(all, grant{"project example-sluis-run", "roles/datastore.user", me, `resource.name == "projects/example-sluis-run/databases/sluis"`})
		if public(f) {
			give("function "+name, "roles/run.invoker", "allUsers")
		}
		for _, caller := range w.callers(f) {
			give("function "+name, "roles/run.invoker", member(caller))
		}
		if f.Trigger != "" {
			give("subscription "+name, "roles/pubsub.subscriber", agent(runtimeNumber, "gcp-sa-pubsub"))
		}
	})
	for topic := range w.pipeline.Topics {
		give("topic "+string(topic)+"-dead", "roles/pubsub.publisher", agent(runtimeNumber, "gcp-sa-pubsub"))
	}
	for _, r := range w.of("google_secret_manager_secret") {
		give("secret "+r.text("secret_id"), "roles/secretmanager.secretVersionAdder", "group:sluis-secrets@example.com")
	}
	return append(all, w.platform()...)
}

// publicHalf is the role of reading a key's public half, in the project that the key lies in.
func (w *world) publicHalf(key string) string {
	project, _, _ := strings.Cut(ringOf(w.pipeline.Keys[key].Use), "/locations/")
	return project + "/roles/sluisPublicHalf"
}

// gates are the roles on keys that a function has, as test/cloud gives them to its own.
func (w *world) gates(f function, give func(key, role string)) {
	for _, key := range f.Close {
		give(key, "roles/cloudkms.cryptoKeyEncrypter")
	}
	for _, key := range f.Open {
		give(key, "roles/cloudkms.cryptoKeyDecrypter")
		if strings.HasPrefix(w.pipeline.Keys[key].Use, "RSA") {
			give(key, w.publicHalf(key))
		}
	}
	for _, key := range f.Shows {
		give(key, w.publicHalf(key))
	}
	for _, key := range f.Holds {
		if strings.HasPrefix(w.pipeline.Keys[key].Use, "Ed25519") {
			give(key, "roles/cloudkms.signer")
			give(key, w.publicHalf(key))
		}
	}
}

// platform is what Google's own agents and the people need.
func (w *world) platform() []grant {
	both, builder := "roles/cloudkms.cryptoKeyEncrypterDecrypter", member(account("sluis-builder"))
	all := []grant{
		{"key store-firestore", both, agent(runtimeNumber, "gcp-sa-firestore"), ""},
		{"key store-pubsub", both, agent(runtimeNumber, "gcp-sa-pubsub"), ""},
		{"key store-secrets", both, agent(runtimeNumber, "gcp-sa-secretmanager"), ""},
		{"key store-logs", both, agent(auditNumber, "gcp-sa-logging"), ""},
		{"key store-audit", both, agent(auditNumber, "gs-project-accounts"), ""},
		{"account " + account("sluis-push"), "roles/iam.serviceAccountOpenIdTokenCreator", agent(runtimeNumber, "gcp-sa-pubsub"), ""},
		{"account " + account("sluis-clock"), "roles/iam.serviceAccountOpenIdTokenCreator", agent(runtimeNumber, "gcp-sa-cloudscheduler"), ""},
		{"project example-sluis-run", "roles/logging.logWriter", builder, ""},
		{"project example-sluis-run", "roles/storage.objectViewer", builder, `resource.name.startsWith("projects/_/buckets/gcf-v2-sources-111111111111-europe-west4")`},
		{"repository functions", "roles/artifactregistry.writer", builder, ""},
		{"bucket example-sluis-run-sources", "roles/storage.objectViewer", builder, ""},
		{innerProject, "roles/cloudkms.admin", "group:sluis-inner@example.com", ""},
		{keysProject, "roles/cloudkms.admin", "group:sluis-keys@example.com", ""},
	}
	for _, a := range []string{"gcf-admin-robot", "serverless-robot-prod", "gcp-sa-artifactregistry", "gs-project-accounts"} {
		all = append(all, grant{"key store-functions", both, agent(runtimeNumber, a), ""})
	}
	for _, more := range extra {
		all = append(all, more(w)...)
	}
	return all
}

// granted compares the two lists.
func granted(w *world) []string {
	var c complaints
	want, got := map[grant]bool{}, map[grant]bool{}
	for _, g := range w.derived() {
		want[g] = true
	}
	for _, g := range w.grants() {
		got[g] = true
	}
	for g := range got {
		if !want[g] {
			c.add("too much: %s", g)
		}
	}
	for g := range want {
		if !got[g] {
			c.add("missing: %s", g)
		}
	}
	slices.Sort(c)
	return c
}

func noPrimitive(w *world) []string {
	var c complaints
	for _, g := range w.grants() {
		if slices.Contains([]string{"roles/owner", "roles/editor", "roles/viewer", "roles/browser"}, g.role) {
			c.add("a primitive role: %s", g)
		}
	}
	return c
}

// noPublic lets everybody in at the front door only: functions with public routes, which hear the load balancer alone.
func noPublic(w *world) []string {
	doors := map[string]bool{}
	w.deployments(func(name string, f function) { doors["function "+name] = public(f) })
	var c complaints
	for _, g := range w.grants() {
		if strings.HasPrefix(g.member, "all") && (!doors[g.on] || g.role != "roles/run.invoker") {
			c.add("everybody: %s", g)
		}
	}
	return c
}

// neverBoth wants nobody who closes a gate over credentials to be able to open it, nor the other way round.
func neverBoth(w *world) []string {
	closes, opens := map[grant]bool{}, map[grant]bool{}
	for _, g := range w.grants() {
		key, who := g.on, g.member
		switch g.role {
		case "roles/cloudkms.cryptoKeyEncrypter":
			closes[grant{on: key, member: who}] = true
		case "roles/cloudkms.cryptoKeyDecrypter":
			opens[grant{on: key, member: who}] = true
		case "roles/cloudkms.cryptoKeyEncrypterDecrypter":
			closes[grant{on: key, member: who}], opens[grant{on: key, member: who}] = true, true
		}
	}
	var c complaints
	for _, key := range []string{"key outer", "key inner"} {
		for g := range closes {
			if g.on == key && opens[g] {
				c.add("%s closes and opens %s", g.member, key)
			}
		}
	}
	// Who opens both gates is a custodian's function that extracts, and no other.
	for g := range opens {
		if g.on == "key outer" && !strings.HasPrefix(g.member, "serviceAccount:fn-extract-") {
			c.add("%s opens the outer gate", g.member)
		}
	}
	return c
}

// apart wants nobody to administer keys and use them, nor the keys of both gates, to bring secrets and read them, nor a role on keys or
// secrets that holds both, or that reaches a whole project.
func apart(w *world) []string {
	administer, use, gate := map[string]bool{}, map[string]bool{}, map[string]string{}
	var c complaints
	for _, g := range w.grants() {
		service, role, _ := strings.Cut(strings.TrimPrefix(g.role, "roles/"), ".")
		if service != "cloudkms" && service != "secretmanager" {
			continue
		}
		switch role {
		case "admin", "secretVersionAdder", "secretVersionManager":
			administer[g.member] = true
			if service == "cloudkms" {
				if at := gate[g.member]; at != "" && at != g.on {
					c.add("%s administers both gates: %s and %s", g.member, at, g.on)
				}
				gate[g.member] = g.on
			}
		default:
			use[g.member] = true
			if strings.HasPrefix(g.on, "project ") {
				c.add("on all keys or secrets at once: %s", g)
			}
		}
	}
	for _, who := range slices.Sorted(maps.Keys(administer)) {
		if use[who] {
			c.add("%s administers and uses", who)
		}
	}
	return c
}

// denial is what a deny policy keeps everybody from, but those who are granted one of the roles there.
type denial struct{ project, permission string }

// denials are all that must be denied: the use of keys in both their projects, and the reading of secrets.
func denials() map[denial][]string {
	both := "roles/cloudkms.cryptoKeyEncrypterDecrypter"
	all := map[denial][]string{{"run", "secretmanager.googleapis.com/versions.access"}: {"roles/secretmanager.secretAccessor"}}
	for _, project := range keyProjects {
		all[denial{project, "cloudkms.googleapis.com/cryptoKeyVersions.useToDecrypt"}] = []string{"roles/cloudkms.cryptoKeyDecrypter", both}
		all[denial{project, "cloudkms.googleapis.com/cryptoKeyVersions.useToEncrypt"}] = []string{"roles/cloudkms.cryptoKeyEncrypter", both}
		all[denial{project, "cloudkms.googleapis.com/cryptoKeyVersions.useToSign"}] = []string{"roles/cloudkms.signer"}
	}
	return all
}

// excepted are those who are granted one of the roles on a key or a secret of a project, as deny policies name them.
func (w *world) excepted(project string, roles []string) []string {
	in := map[string]string{}
	for _, r := range w.of("google_kms_crypto_key") {
		in["key "+r.text("name")] = r.text("key_ring")
	}
	for _, r := range w.of("google_secret_manager_secret") {
		in["secret "+r.text("secret_id")] = "projects/" + r.text("project") + "/"
	}
	all := map[string]bool{}
	for _, g := range w.grants() {
		if slices.Contains(roles, g.role) && strings.HasPrefix(in[g.on], "projects/example-sluis-"+project+"/") {
			all["principal://iam.googleapis.com/projects/-/serviceAccounts/"+strings.TrimPrefix(g.member, "serviceAccount:")] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// denied wants the deny policies of each project to except just those who are granted the same thing there.
func denied(w *world) []string {
	want := denials()
	var c complaints
	for _, r := range w.of("google_iam_deny_policy") {
		parent, err := url.QueryUnescape(r.text("parent"))
		project, ok := strings.CutPrefix(parent, "cloudresourcemanager.googleapis.com/projects/example-sluis-")
		if err != nil || !ok {
			c.add("%s stands at %s", r.address, r.text("parent"))
		}
		rules, _ := r.at("rules").([]any)
		for _, rule := range rules {
			for _, permission := range texts(within(rule, "deny_rule", "denied_permissions")) {
				what := denial{project, permission}
				if got, want := texts(within(rule, "deny_rule", "exception_principals")), w.excepted(project, want[what]); !slices.Equal(got, want) {
					c.add("%s excepts %v from %s, want %v", r.address, got, permission, want)
				}
				if !slices.Equal(texts(within(rule, "deny_rule", "denied_principals")), []string{"principalSet://goog/public:all"}) {
					c.add("%s denies %s to some only", r.address, permission)
				}
				delete(want, what)
			}
		}
	}
	for what := range want {
		c.add("in %s nobody is denied %s", what.project, what.permission)
	}
	return c
}
