package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mutation is a mistake that somebody could make, and the check that must find it. Either text of a file of terraform/ is replaced and
// all of it planned again, or the plan's resources are changed, which is quicker and says the same of the check.
type mutation struct {
	name, check     string
	file, old, text string // in a file of terraform/
	bend            func(*world)
	says            string // a word that the complaint must have, if any: others may be planned together with this one
}

// mutations is the table. Files that test more append to it.
var mutations = []mutation{
	// Planned again: Terraform itself must take the mistake, and only the check finds it.
	{name: "a custodian's secrets for every function", check: "granted", file: "secrets.tf", old: "f.name if f.custodian == id]", text: "f.name]", says: "too much: secret comdirect--"},
	{name: "seal may open the outer gate", check: "never both gates", file: "keys.tf", old: "if contains(f.open, key)]", text: "if contains(f.open, key) || (key == \"outer\" && f.name == \"seal\")]", says: "fn-seal"},
	{name: "both gates in one project", check: "keys", file: "keys.tf", old: "rings = { inner = \"inner\",", text: "rings = { inner = \"keys\",", says: "google_kms_key_ring.ring[\"inner\"] is keys/inner"},
	{name: "a key ring in us-central1", check: "region", file: "keys.tf", old: "location = var.region", text: "location = \"us-central1\"", says: "google_kms_key_ring"},
	{name: "paths before methods", check: "routes", file: "front.tf", old: "%02d %s 0 %s", text: "%02d %s 2 %s", says: "DELETE /v1/connections/{connection}"},
	{name: "every function behind the load balancer", check: "functions", file: "functions.tf", old: "each.value.public ? \"ALLOW_INTERNAL_AND_GCLB\" : \"ALLOW_INTERNAL_ONLY\"", text: "\"ALLOW_INTERNAL_AND_GCLB\"", says: "ALLOW_INTERNAL_AND_GCLB"},
	{name: "a message for one custodian goes to all", check: "pushes", file: "flow.tf", old: "each.value.custodian == \"\" ? null : \"attributes.custodian = \\\"${each.value.custodian}\\\"\"", text: "null", says: "attributes.custodian"},

	// In the files only.
	{name: "keys can be destroyed", check: "kept", bend: inFile("keys.tf", "prevent_destroy = true", "prevent_destroy = false")},
	{name: "the database can be destroyed", check: "kept", bend: inFile("store.tf", "prevent_destroy = true", "prevent_destroy = false")},

	// In the plan.
	{name: "functions in us-central1", check: "region", bend: set("google_cloudfunctions2_function", "us-central1", "location")},
	{name: "secrets in all the world", check: "region", bend: set("google_secret_manager_secret", nil, "replication", "user_managed")},
	{name: "messages stored anywhere", check: "region", bend: set("google_pubsub_topic", nil, "message_storage_policy")},
	{name: "the database without our key", check: "encrypted", bend: set("google_firestore_database", nil, "cmek_config")},
	{name: "a topic without our key", check: "encrypted", bend: set("google_pubsub_topic", nil, "kms_key_name")},
	{name: "a bucket with a key of another project", check: "encrypted", bend: set("google_storage_bucket", "projects/p/locations/europe-west4/keyRings/stores/cryptoKeys/store-x", "encryption", "default_kms_key_name")},
	{name: "keys of service accounts allowed", check: "policies", bend: policy("iam.disableServiceAccountKeyCreation", "FALSE")},
	{name: "buckets may be public", check: "policies", bend: policy("storage.publicAccessPrevention", "FALSE")},
	{name: "the inner project's resources anywhere", check: "policies", bend: drop("google_org_policy_policy", "name", "example-sluis-inner/policies/gcp.resourceLocations"), says: "example-sluis-inner"},
	{name: "resources anywhere", check: "policies", bend: drop("google_org_policy_policy", "name", "gcp.resourceLocations")},
	{name: "the inner key in software", check: "keys", bend: one("google_kms_crypto_key", "name", "inner", "SOFTWARE", "version_template", "protection_level")},
	{name: "gate 1 and gate 2 in one ring", check: "keys", bend: one("google_kms_crypto_key", "name", "outer", "projects/example-sluis-inner/locations/europe-west4/keyRings/inner", "key_ring")},
	{name: "gate 1's key beside gate 2's", check: "keys", bend: one("google_kms_crypto_key", "name", "inner", "projects/example-sluis-keys/locations/europe-west4/keyRings/inner", "key_ring")},
	{name: "another ring beside gate 1's", check: "keys", bend: add("google_kms_key_ring", map[string]any{"project": "example-sluis-inner", "name": "gates"})},
	{name: "another key beside gate 1's", check: "keys", bend: add("google_kms_crypto_key", map[string]any{"key_ring": "projects/example-sluis-inner/locations/europe-west4/keyRings/inner", "name": "spare"})},
	{name: "keys beside what they close", check: "keys", bend: set("google_kms_key_ring", "example-sluis-run", "project")},
	{name: "a key that does not rotate", check: "keys", bend: one("google_kms_crypto_key", "name", "outer", nil, "rotation_period")},
	{name: "no place for a custodian's secret", check: "secrets", bend: drop("google_secret_manager_secret", "secret_id", "client_id")},
	{name: "a secret's value in the state", check: "secrets", bend: add("google_secret_manager_secret_version", map[string]any{})},
	{name: "a public bucket", check: "no public", bend: add("google_storage_bucket_iam_member", map[string]any{"bucket": "b", "role": "roles/storage.objectViewer", "member": "allUsers"})},
	{name: "a bucket that could be public", check: "buckets", bend: set("google_storage_bucket", "inherited", "public_access_prevention")},
	{name: "sources that can be replaced", check: "buckets", bend: set("google_storage_bucket", nil, "retention_policy")},
	{name: "no point-in-time recovery", check: "documents", bend: set("google_firestore_database", "POINT_IN_TIME_RECOVERY_DISABLED", "point_in_time_recovery_enablement")},
	{name: "a missing index", check: "indexes", bend: drop("google_firestore_index", "collection", "notice")},
	{name: "an index the wrong way round", check: "indexes", bend: flip},
	{name: "a link that lives for ever", check: "lives", bend: drop("google_firestore_field", "collection", "link")},
	{name: "the audit log's lives end", check: "lives", bend: add("google_firestore_field", map[string]any{"collection": "audit_entry", "field": "End", "ttl_config": []any{map[string]any{}}, "database": "sluis"})},
	{name: "backups beyond the certificate", check: "backups", bend: set("google_firestore_backup_schedule", "1209600s", "retention")},
	{name: "a topic that takes anything", check: "topics", bend: set("google_pubsub_topic", nil, "schema_settings")},
	{name: "no dead letters", check: "dead letters", bend: one("google_pubsub_subscription", "name", "deliver", nil, "dead_letter_policy")},
	{name: "dead letters that nobody keeps", check: "dead letters", bend: drop("google_pubsub_subscription", "name", "delivery-due-dead")},
	{name: "dead letters that expire", check: "dead letters", bend: set("google_pubsub_subscription", "2678400s", "expiration_policy", "ttl")},
	{name: "pushes without a token", check: "pushes", bend: set("google_pubsub_subscription", nil, "push_config", "oidc_token")},
	{name: "a token for another function", check: "pushes", bend: one("google_pubsub_subscription", "name", "deliver", address("notify"), "push_config", "oidc_token", "audience")},
	{name: "a clock that nobody hears", check: "clock", bend: set("google_cloud_scheduler_job", address("erase")+"/", "http_target", "uri")},
	{name: "one identity for two functions", check: "functions", bend: one("google_cloudfunctions2_function", "name", "seal", account("fn-extract-comdirect"), "service_config", "service_account_email")},
	{name: "a way out past the network", check: "functions", bend: set("google_cloudfunctions2_function", "VPC_EGRESS_PRIVATE_RANGES_ONLY", "service_config", "direct_vpc_egress")},
	{name: "an entry point that is not registered", check: "entry points", bend: one("google_cloudfunctions2_function", "name", "notify", "Notifier", "build_config", "entry_point")},
	{name: "seal is told where the portfolio key is", check: "environment", bend: one("google_cloudfunctions2_function", "name", "seal", "k", "service_config", "environment_variables", "SLUIS_KEY_PORTFOLIO")},
	{name: "seal looks for the inner key beside the outer one", check: "environment", bend: one("google_cloudfunctions2_function", "name", "seal", "projects/example-sluis-keys/locations/europe-west4/keyRings/inner/cryptoKeys/inner",
		"service_config", "environment_variables", "SLUIS_KEY_INNER"), says: "seal: SLUIS_KEY_INNER"},
	{name: "a setting that nobody reads", check: "environment", bend: one("google_cloudfunctions2_function", "name", "seal", "1", "service_config", "environment_variables", "SLUIS_DEBUG")},
	{name: "anybody may call answer", check: "environment", bend: one("google_cloudfunctions2_function", "name", "answer-comdirect", "", "service_config", "environment_variables", "SLUIS_CALLERS")},
	{name: "the world is open", check: "egress", bend: drop("google_compute_region_network_firewall_policy_rule", "rule_name", "rest")},
	{name: "private addresses for webhooks", check: "egress", bend: drop("google_compute_region_network_firewall_policy_rule", "rule_name", "never"), says: "webhooks"},
	{name: "a bank's name for a private address", check: "egress", bend: one("google_compute_region_network_firewall_policy_rule", "rule_name", "never", 5000.0, "priority"), says: "bank-comdirect"},
	{name: "another host for a custodian", check: "egress", bend: one("google_compute_region_network_firewall_policy_rule", "rule_name", "bank-comdirect-hosts", []any{"accounts.google.com", "api.comdirect.de", "evil.example"}, "match", "dest_fqdns")},
	{name: "NAT for everybody", check: "egress", bend: set("google_compute_router_nat", "ALL_SUBNETWORKS_ALL_IP_RANGES", "source_subnetwork_ip_ranges_to_nat")},
	{name: "plain HTTP", check: "front door", bend: set("google_compute_forwarding_rule", "80", "port_range")},
	{name: "old TLS", check: "front door", bend: set("google_compute_region_ssl_policy", "TLS_1_0", "min_tls_version")},
	{name: "a function without Cloud Armor", check: "front door", bend: one("google_compute_region_backend_service", "name", "pages-seal", nil, "security_policy")},
	{name: "clients without certificates", check: "front door", bend: set("google_network_security_server_tls_policy", "ALLOW_INVALID_OR_MISSING_CLIENT_CERT", "mtls_policy", "client_validation_mode")},
	{name: "a route to the wrong function", check: "routes", bend: rule(func(r map[string]any) {
		r["service"] = strings.Replace(text(r["service"]), "api-erase", "api-portfolio", 1)
	})},
	{name: "a path that shadows others", check: "routes", bend: rule(func(r map[string]any) {
		if m := r["match_rules"].([]any)[0].(map[string]any); m["path_template_match"] == "/v1/connections/*/portfolio" {
			m["path_template_match"] = "/v1/connections/*/*"
		}
	})},
	{name: "unknown paths reach a function", check: "routes", bend: set("google_compute_region_url_map", nil, "path_matcher", "default_route_action")},
	{name: "invitations in the log", check: "invitations", bend: set("google_logging_project_sink", "NOT (log_id(\"cloudaudit.googleapis.com/activity\"))", "filter")},
	{name: "an owner", check: "no primitive", bend: add("google_project_iam_member", map[string]any{"project": "example-sluis-run", "role": "roles/owner", "member": "user:anna@example.com"})},
	{name: "an editor", check: "granted", bend: add("google_project_iam_member", map[string]any{"project": "example-sluis-run", "role": "roles/editor", "member": "user:anna@example.com"})},
	{name: "anybody may call extract", check: "no public", bend: one("google_cloud_run_v2_service_iam_binding", "name", "extract-comdirect", []any{"allUsers"}, "members")},
	{name: "sweep may not publish what is due", check: "granted", bend: one("google_pubsub_topic_iam_binding", "topic", "delivery-due", []any{member(account("fn-deliver"))}, "members")},
	{name: "an administrator uses keys", check: "apart", bend: key("portfolio", "roles/cloudkms.cryptoKeyDecrypter", "group:sluis-keys@example.com")},
	{name: "inner's administrators administer the outer gate's project too", check: "apart", bend: administer("keys", "group:sluis-inner@example.com"), says: "administers both gates"},
	{name: "nobody administers the inner gate's key", check: "granted", bend: drop("google_project_iam_binding", "project", "example-sluis-inner"), says: "missing: project example-sluis-inner: roles/cloudkms.admin"},
	{name: "the inner key's public half by a role of the other project", check: "granted", bend: key("inner", "projects/example-sluis-keys/roles/sluisPublicHalf", member(account("fn-seal"))), says: "too much: key inner"},
	{name: "answer opens the outer gate", check: "never both gates", bend: key("outer", "roles/cloudkms.cryptoKeyDecrypter", member(account("fn-answer-comdirect")))},
	{name: "all keys at once", check: "apart", bend: add("google_project_iam_member", map[string]any{"project": "example-sluis-keys", "role": "roles/cloudkms.cryptoKeyDecrypter", "member": member(account("fn-portfolio"))})},
	{name: "the inner key for whoever is given its project", check: "apart", bend: add("google_project_iam_member", map[string]any{"project": "example-sluis-inner", "role": "roles/cloudkms.cryptoKeyDecrypter", "member": member(account("fn-extract-comdirect"))})},
	{name: "owners may use the inner key", check: "denied", bend: drop("google_iam_deny_policy", "parent", "example-sluis-inner"), says: "in inner nobody is denied"},
	{name: "an exception at gate 1 for who opens portfolios", check: "denied", bend: one("google_iam_deny_policy", "parent", "cloudresourcemanager.googleapis.com%2Fprojects%2Fexample-sluis-inner",
		[]any{"principal://iam.googleapis.com/projects/-/serviceAccounts/" + account("fn-portfolio")}, "rules", "deny_rule", "exception_principals"), says: "keys[\"inner\"] excepts"},
	{name: "an exception for an owner", check: "denied", bend: one("google_iam_deny_policy", "name", "sluis-secrets", []any{"principal://goog/subject/anna@example.com"}, "rules", "deny_rule", "exception_principals")},
	{name: "owners may use keys", check: "denied", bend: drop("google_iam_deny_policy", "name", "sluis-keys")},
}

// put sets a value on the way through single blocks.
func put(v any, to any, path ...string) bool {
	if list, ok := v.([]any); ok && len(list) > 0 {
		v = list[0]
	}
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	if len(path) > 1 {
		return put(m[path[0]], to, path[1:]...)
	}
	m[path[0]] = to
	return true
}

// set gives every resource of a kind a value.
func set(kind string, to any, path ...string) func(*world) {
	return func(w *world) {
		for _, r := range w.of(kind) {
			put(r.values, to, path...)
		}
	}
}

// one gives one resource of a kind a value.
func one(kind, field, name string, to any, path ...string) func(*world) {
	return func(w *world) {
		for _, r := range w.of(kind) {
			if r.text(field) == name && !put(r.values, to, path...) {
				panic("nothing to bend in " + r.address)
			}
		}
	}
}

// drop leaves out the resources of a kind whose field holds a word.
func drop(kind, field, word string) func(*world) {
	return func(w *world) {
		w.resources = slices.DeleteFunc(w.resources, func(r resource) bool { return r.kind == kind && strings.Contains(r.text(field), word) })
	}
}

func add(kind string, values map[string]any) func(*world) {
	return func(w *world) {
		w.resources = append(w.resources, resource{address: kind + ".planted", kind: kind, name: "planted", values: values})
	}
}

// without leaves out one resource, by its address.
func without(address string) func(*world) {
	return func(w *world) {
		before := len(w.resources)
		if w.resources = slices.DeleteFunc(w.resources, func(r resource) bool { return r.address == address }); len(w.resources) != before-1 {
			panic("there is no " + address)
		}
	}
}

// administer adds an administrator of a project's keys.
func administer(project, who string) func(*world) {
	return func(w *world) {
		for _, r := range w.of("google_project_iam_binding", "key_administrators") {
			if r.key == project {
				r.values["members"] = append(r.values["members"].([]any), who)
			}
		}
	}
}

func inFile(file, old, text string) func(*world) {
	return func(w *world) { w.files[file] = strings.Replace(w.files[file], old, text, 1) }
}

func policy(name, enforce string) func(*world) {
	return func(w *world) {
		for _, r := range w.of("google_org_policy_policy") {
			if strings.HasSuffix(r.text("name"), name) {
				put(r.values, enforce, "spec", "rules", "enforce")
			}
		}
	}
}

// key adds a member to a key's policy.
func key(name, role, who string) func(*world) {
	return func(w *world) {
		for _, r := range w.of("google_kms_crypto_key_iam_policy") {
			if r.key != name {
				continue
			}
			var p map[string]any
			if err := json.Unmarshal([]byte(r.text("policy_data")), &p); err != nil {
				panic(err)
			}
			p["bindings"] = append(p["bindings"].([]any), map[string]any{"role": role, "members": []any{who}})
			raw, _ := json.Marshal(p)
			r.values["policy_data"] = string(raw)
		}
	}
}

// rule changes the rules of the API's URL map.
func rule(change func(map[string]any)) func(*world) {
	return func(w *world) {
		for _, r := range w.rules("api") {
			change(r.(map[string]any))
		}
	}
}

func flip(w *world) {
	for _, r := range w.of("google_firestore_index") {
		if r.key == "consents_by_client" {
			fields := r.at("fields").([]any)
			put(fields[len(fields)-1], "ASCENDING", "order")
		}
	}
}

// TestMutations plants each mistake and wants its check to find something that it does not find without.
func TestMutations(t *testing.T) {
	rc := ready(t)
	clean := real(t)
	for _, m := range mutations {
		if m.bend != nil {
			t.Run(m.name, func(t *testing.T) {
				w := see(t, planned, maps.Clone(texted))
				m.bend(w)
				m.found(t, clean, w)
			})
		}
	}
	for _, batch := range batches(mutations) {
		w := again(t, rc, batch)
		for _, m := range batch {
			t.Run(m.name, func(t *testing.T) { m.found(t, clean, w) })
		}
	}
}

// found wants the mutation's check to find it.
func (m mutation) found(t *testing.T, clean, w *world) {
	t.Helper()
	check := checks[m.check]
	if check == nil {
		t.Fatalf("there is no check %q", m.check)
	}
	before := check(clean)
	complaints := slices.DeleteFunc(check(w), func(c string) bool { return slices.Contains(before, c) || !strings.Contains(c, m.says) })
	if len(complaints) == 0 {
		t.Fatalf("%q finds nothing", m.check)
	}
	t.Log(complaints[0])
}

// batches puts mutations of files together that are planned together, as planning takes long: never two for the same check.
func batches(all []mutation) [][]mutation {
	var out [][]mutation
	for _, m := range all {
		if m.bend != nil {
			continue
		}
		i := slices.IndexFunc(out, func(b []mutation) bool {
			return !slices.ContainsFunc(b, func(x mutation) bool { return x.check == m.check })
		})
		if i < 0 {
			out, i = append(out, nil), len(out)
		}
		out[i] = append(out[i], m)
	}
	return out
}

// again plans with mistakes in files.
func again(t *testing.T, rc string, batch []mutation) *world {
	t.Helper()
	dir := checkout(t)
	for _, m := range batch {
		raw, err := os.ReadFile(filepath.Join(dir, m.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), m.old) {
			t.Fatalf("%s has no %q", m.file, m.old)
		}
		if err := os.WriteFile(filepath.Join(dir, m.file), []byte(strings.ReplaceAll(string(raw), m.old, m.text)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mutant, err := plan(t, dir, rc)
	if err != nil {
		t.Fatal(err)
	}
	return see(t, mutant, files(t, dir))
}
