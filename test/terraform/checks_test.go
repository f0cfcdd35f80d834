package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluis.internal/shared/backend/gcp"
	"sluis.internal/shared/domain"
)

const region = "europe-west4"

// projects of examples/production, as their ids end. Keys lie in the second and the third: gate 1's and all others.
var (
	projects    = []string{"run", "inner", "keys", "audit"}
	keyProjects = []string{"inner", "keys"}
)

// checks hold a plan to a promise each, by name, and return what is wrong. The mutation test shows that each finds what it is for.
var checks = map[string]func(*world) []string{
	"region":           region_,
	"encrypted":        encrypted,
	"policies":         policies,
	"keys":             keys,
	"kept":             kept,
	"secrets":          secrets,
	"buckets":          buckets,
	"documents":        documents,
	"indexes":          indexes,
	"lives":            lives,
	"backups":          backups,
	"topics":           topics,
	"dead letters":     deadLetters,
	"pushes":           pushes,
	"clock":            clock,
	"functions":        functions,
	"entry points":     entryPoints,
	"environment":      environment,
	"egress":           egress,
	"front door":       frontDoor,
	"routes":           routes,
	"invitations":      invitations,
	"granted":          granted,
	"no primitive":     noPrimitive,
	"no public":        noPublic,
	"never both gates": neverBoth,
	"apart":            apart,
	"denied":           denied,
}

// complaints collects what is wrong.
type complaints []string

func (c *complaints) add(format string, args ...any) { *c = append(*c, fmt.Sprintf(format, args...)) }

// everywhere are the resources that Google has in no region, or that hold nothing of a place, and why they may be there.
var everywhere = map[string]string{
	"google_compute_network":           "networks are global; subnets are not",
	"google_dns_managed_zone":          "private names of Google's own addresses",
	"google_dns_record_set":            "private names of Google's own addresses",
	"google_firestore_backup_schedule": "backups lie where the database does",
	"google_firestore_field":           "in the database",
	"google_firestore_index":           "in the database",
	"google_iam_deny_policy":           "IAM is global",
	"google_kms_crypto_key":            "in its ring",
	"google_org_policy_policy":         "policies are global",
	"google_project_iam_custom_role":   "IAM is global",
	"google_project_service":           "says which APIs may be called",
	"google_pubsub_schema":             "names of fields",
	"google_pubsub_subscription":       "keeps messages where its topic may",
	"google_service_account":           "IAM is global",
}

// region_ finds what stands elsewhere, or could.
func region_(w *world) []string {
	var c complaints
	for _, r := range w.resources {
		at := ""
		for _, field := range []string{"location", "region", "location_id"} {
			if v := r.text(field); v != "" {
				at = v
			}
		}
		switch {
		case at == "":
			if _, fine := everywhere[r.kind]; !fine && !strings.Contains(r.kind, "_iam_") && !placed(r) {
				c.add("%s has no place, and is not on the list of those that need none", r.address)
			}
		case !strings.EqualFold(at, region):
			c.add("%s is in %s", r.address, at)
		}
	}
	return c
}

// placed says whether a resource says its place in another way, and in the region.
func placed(r resource) bool {
	switch r.kind {
	case "google_pubsub_topic":
		return slices.Equal(texts(r.at("message_storage_policy", "allowed_persistence_regions")), []string{region}) && r.at("message_storage_policy", "enforce_in_transit") == true
	case "google_secret_manager_secret":
		return r.text("replication", "user_managed", "replicas", "location") == region
	}
	return false
}

var keyName = regexp.MustCompile(`^projects/example-sluis-keys/locations/europe-west4/keyRings/stores/cryptoKeys/store-[a-z]+$`)

// unkeyed are resources that could have a key of ours and have none, and why.
var unkeyed = map[string]string{}

// encrypted finds what could be encrypted with a key of ours and is not. The provider's schema says what could.
func encrypted(w *world) []string {
	var c complaints
	for _, r := range w.resources {
		if !w.keyed[r.kind] || unkeyed[r.kind] != "" {
			continue
		}
		names := keyNames(r.values)
		if len(names) == 0 {
			c.add("%s has no key of ours", r.address)
		}
		for _, name := range names {
			if !keyName.MatchString(name) {
				c.add("%s is encrypted with %s", r.address, name)
			}
		}
	}
	return c
}

// keyNames finds every key's name below a value.
func keyNames(v any) []string {
	var all []string
	switch v := v.(type) {
	case map[string]any:
		for _, field := range slices.Sorted(maps.Keys(v)) {
			if s, ok := v[field].(string); ok && strings.Contains(field, "kms_key") {
				all = append(all, s)
			} else {
				all = append(all, keyNames(v[field])...)
			}
		}
	case []any:
		for _, x := range v {
			all = append(all, keyNames(x)...)
		}
	}
	return all
}

// policies wants each of the organisation's policies on each project.
func policies(w *world) []string {
	want := map[string][]string{ // nil: enforced
		"gcp.resourceLocations":                           {"in:europe-west4-locations"},
		"iam.disableServiceAccountKeyCreation":            nil,
		"iam.disableServiceAccountKeyUpload":              nil,
		"iam.automaticIamGrantsForDefaultServiceAccounts": nil,
		"storage.uniformBucketLevelAccess":                nil,
		"storage.publicAccessPrevention":                  nil,
		"compute.skipDefaultNetworkCreation":              nil,
		"run.allowedIngress":                              {"internal", "internal-and-cloud-load-balancing"},
		"run.allowedVPCEgress":                            {"all-traffic"},
		"gcp.restrictCmekCryptoKeyProjects":               {"projects/example-sluis-keys"},
	}
	var c complaints
	for _, project := range projects {
		for name, values := range want {
			parent := "projects/example-sluis-" + project
			i := slices.IndexFunc(w.resources, func(r resource) bool {
				return r.kind == "google_org_policy_policy" && r.text("name") == parent+"/policies/"+name && r.text("parent") == parent
			})
			if i < 0 {
				c.add("%s has no policy %s", parent, name)
				continue
			}
			r := w.resources[i]
			if got := texts(r.at("spec", "rules", "values", "allowed_values")); !slices.Equal(got, values) {
				c.add("%s allows %v", r.address, got)
			}
			if values == nil && r.text("spec", "rules", "enforce") != "TRUE" {
				c.add("%s is not enforced", r.address)
			}
		}
	}
	return c
}

// ringOf is where a key of pipeline.json lies, by its use; empty if it is none of Cloud KMS.
func ringOf(use string) string {
	at := map[string]string{"RSA-4096 decrypt": "inner/inner", "AES-256 encrypt/decrypt": "keys/gates", "Ed25519 sign": "keys/signing"}[use]
	if at == "" {
		return ""
	}
	return fullRing(at)
}

// fullRing is the name of PROJECT/RING.
func fullRing(at string) string {
	project, ring, _ := strings.Cut(at, "/")
	return "projects/example-sluis-" + project + "/locations/europe-west4/keyRings/" + ring
}

// keys wants each key of pipeline.json in its form, in a ring and a project that fit it, and those that rotate to do so.
func keys(w *world) []string {
	type form struct{ ring, purpose, algorithm, level string }
	forms := map[string]form{
		"RSA-4096 decrypt":        {"", "ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_4096_SHA256", "HSM"},
		"AES-256 encrypt/decrypt": {"", "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "HSM"},
		"Ed25519 sign":            {"", "ASYMMETRIC_SIGN", "EC_SIGN_ED25519", "SOFTWARE"},
	}
	for use, f := range forms {
		f.ring = ringOf(use)
		forms[use] = f
	}
	want := map[string]form{"checkpoint": forms["Ed25519 sign"]}
	for name, k := range w.pipeline.Keys {
		if f, ok := forms[k.Use]; ok {
			want[name] = f
		} else if k.Use != "HMAC-SHA-256" {
			want[name] = form{} // which nothing is
		}
	}
	var c complaints
	for _, r := range w.of("google_kms_crypto_key") {
		name := r.text("name")
		f, ok := want[name]
		if !ok && strings.HasPrefix(name, "store-") {
			f = form{fullRing("keys/stores"), "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "HSM"}
		}
		delete(want, name)
		got := form{r.text("key_ring"), r.text("purpose"), r.text("version_template", "algorithm"), r.text("version_template", "protection_level")}
		if got != f {
			c.add("%s is %v, want %v", r.address, got, f)
		}
		if rotates := r.text("rotation_period"); (f.purpose == "ENCRYPT_DECRYPT") != (rotates == "7776000s") {
			c.add("%s rotates after %q", r.address, rotates)
		}
		if r.text("destroy_scheduled_duration") != "2592000s" {
			c.add("%s is destroyed after %s", r.address, r.text("destroy_scheduled_duration"))
		}
	}
	for name := range want {
		c.add("there is no key %s", name)
	}
	return append(c, rings(w)...)
}

// rings wants gate 1's ring in its own project, and there nothing else.
func rings(w *world) (c complaints) {
	want := map[string]bool{"inner/inner": true, "keys/gates": true, "keys/signing": true, "keys/stores": true}
	for _, r := range w.of("google_kms_key_ring") {
		at := strings.TrimPrefix(r.text("project"), "example-sluis-") + "/" + r.text("name")
		if !want[at] {
			c.add("%s is %s", r.address, at)
		}
		delete(want, at)
	}
	for at := range want {
		c.add("there is no ring %s", at)
	}
	return c
}

// irreplaceable is what no apply may destroy.
var irreplaceable = []string{"google_kms_crypto_key", "google_kms_key_ring", "google_firestore_database", "google_secret_manager_secret",
	"google_storage_bucket", "google_compute_address"}

var block = regexp.MustCompile(`(?ms)^resource "(\w+)" "(\w+)" \{\n(.*?)^\}`)

// kept reads it from the files, as a plan does not show it.
func kept(w *world) []string {
	var c complaints
	found := map[string]bool{}
	for _, file := range slices.Sorted(maps.Keys(w.files)) {
		for _, b := range block.FindAllStringSubmatch(w.files[file], -1) {
			found[b[1]] = true
			if slices.Contains(irreplaceable, b[1]) && !regexp.MustCompile(`(?m)^ +prevent_destroy = true`).MatchString(b[3]) {
				c.add("%s: %s.%s can be destroyed", file, b[1], b[2])
			}
		}
	}
	for _, kind := range irreplaceable {
		if !found[kind] {
			c.add("no file has a %s", kind)
		}
	}
	for _, r := range w.of("google_firestore_database") {
		if r.text("delete_protection_state") != "DELETE_PROTECTION_ENABLED" {
			c.add("%s has no delete protection", r.address)
		}
	}
	for _, r := range w.of("google_secret_manager_secret") {
		if r.at("deletion_protection") != true {
			c.add("%s has no deletion protection", r.address)
		}
	}
	return c
}

// deployed are the custodians that have functions.
func (w *world) deployed() []domain.Custodian {
	return slices.DeleteFunc(slices.Clone(w.contracts.Custodians), func(x domain.Custodian) bool { return x.Sandbox })
}

// secrets wants a place for each secret, and no value in Terraform's hands.
func secrets(w *world) []string {
	want := map[string]bool{}
	for name, k := range w.pipeline.Keys {
		if strings.HasPrefix(k.Use, "HMAC") {
			want["held--"+name] = true
		}
	}
	for _, x := range w.deployed() {
		for _, name := range x.Secrets {
			want[strings.ReplaceAll(name, "/", "--")] = true
		}
	}
	var c complaints
	for _, r := range w.of("google_secret_manager_secret") {
		if !want[r.text("secret_id")] {
			c.add("%s is nobody's secret", r.address)
		}
		delete(want, r.text("secret_id"))
	}
	for name := range want {
		c.add("there is no secret %s", name)
	}
	for _, r := range w.resources {
		if strings.HasPrefix(r.kind, "google_secret_manager_secret_version") || r.kind == "google_service_account_key" {
			c.add("%s would be in Terraform's state", r.address)
		}
	}
	return c
}

func buckets(w *world) []string {
	var c complaints
	for _, r := range w.of("google_storage_bucket") {
		if r.at("uniform_bucket_level_access") != true || r.text("public_access_prevention") != "enforced" {
			c.add("%s could be made public", r.address)
		}
		if r.text("retention_policy", "retention_period") == "" {
			c.add("%s lets objects be changed", r.address)
		}
		if r.at("force_destroy") == true {
			c.add("%s goes with all that is in it", r.address)
		}
	}
	return c
}

// documents wants one database, as the functions are told.
func documents(w *world) []string {
	var c complaints
	all := w.of("google_firestore_database")
	if len(all) != 1 {
		return []string{fmt.Sprintf("there are %d databases", len(all))}
	}
	r := all[0]
	for field, want := range map[string]string{"name": "sluis", "type": "FIRESTORE_NATIVE", "point_in_time_recovery_enablement": "POINT_IN_TIME_RECOVERY_ENABLED", "project": "example-sluis-run"} {
		if got := r.text(field); got != want {
			c.add("%s: %s is %s, want %s", r.address, field, got, want)
		}
	}
	for _, kind := range []string{"google_firestore_index", "google_firestore_field", "google_firestore_backup_schedule"} {
		for _, x := range w.of(kind) {
			if x.text("database") != "sluis" {
				c.add("%s is of another database", x.address)
			}
		}
	}
	return c
}

// indexes wants the composite index of each entry of indexes.json, as shared/backend/gcp's own test says which one a query needs: the
// fields that must be equal, in any order, then those that order.
func indexes(w *world) []string {
	directions := map[string]string{"asc": "ASCENDING", "desc": "DESCENDING"}
	want, ranges := map[string]string{}, map[string]bool{}
	for _, ix := range w.contracts.Indexes {
		var order []string
		if ix.Range != "" {
			ranges[ix.Range] = true
			order = append(order, ix.Range+" "+directions[ix.Order])
		}
		order = append(order, "Key "+directions[ix.Order])
		if len(ix.Equal)+len(order) > 1 {
			want[fmt.Sprint(ix.Of, slices.Sorted(slices.Values(ix.Equal)), order)] = ix.Name
		}
	}
	var c complaints
	for _, r := range w.of("google_firestore_index") {
		made := madeIndex(r, ranges)
		if want[made] == "" {
			c.add("%s is of no query, or there twice: %s", r.address, made)
		}
		delete(want, made)
	}
	for made, name := range want {
		c.add("the query %s has no index: %s", name, made)
	}
	return c
}

func madeIndex(r resource, ranges map[string]bool) string {
	fields, _ := r.at("fields").([]any)
	var equal, order []string
	// What comes before the range and the key must be equal: an ascending field is as good as any.
	tail := 1
	if len(fields) > 1 && ranges[text(within(fields[len(fields)-2], "field_path"))] {
		tail = 2
	}
	for i, f := range fields {
		path, direction := text(within(f, "field_path")), text(within(f, "order"))
		if i < len(fields)-tail {
			equal = append(equal, path)
			continue
		}
		order = append(order, path+" "+direction)
	}
	slices.Sort(equal)
	return fmt.Sprint(r.text("collection"), equal, order)
}

// lives wants Firestore to end the lives that retention.json ends by themselves, and no others.
func lives(w *world) []string {
	want := map[string]bool{}
	for kind := range w.contracts.Ends() {
		want[string(kind)] = true
	}
	var c complaints
	for _, r := range w.of("google_firestore_field") {
		if ends, _ := r.at("ttl_config").([]any); len(ends) == 0 {
			continue
		}
		if !want[r.text("collection")] || r.text("field") != "End" {
			c.add("%s ends the life of %s by %s", r.address, r.text("collection"), r.text("field"))
		}
		delete(want, r.text("collection"))
	}
	for kind := range want {
		c.add("nothing ends the life of %s", kind)
	}
	return c
}

// backups wants copies of the database to be gone when certificates of erasure say so.
func backups(w *world) []string {
	var c complaints
	if face, err := os.ReadFile("../../functions/erase/function.go"); err != nil || !strings.Contains(string(face), "gcp.Backups") {
		c.add("deployed functions sign certificates that know of no backups: %v", err)
	}
	all := w.of("google_firestore_backup_schedule")
	if len(all) != 1 {
		c.add("there are %d schedules of backups", len(all))
	}
	for _, r := range all {
		kept, err := time.ParseDuration(r.text("retention"))
		if err != nil || kept <= 0 || kept > gcp.Backups {
			c.add("%s keeps backups for %s, and certificates say %s", r.address, r.text("retention"), gcp.Backups)
		}
	}
	return c
}

func topics(w *world) []string {
	var c complaints
	for name := range w.pipeline.Topics {
		i := slices.IndexFunc(w.resources, func(r resource) bool { return r.kind == "google_pubsub_topic" && r.text("name") == string(name) })
		if i < 0 {
			c.add("there is no topic %s", name)
			continue
		}
		if r := w.resources[i]; r.text("schema_settings", "schema") != "projects/example-sluis-run/schemas/event" || r.text("schema_settings", "encoding") != "JSON" {
			c.add("%s takes anything", r.address)
		}
	}
	return c
}

// deadLetters wants every message that cannot be delivered to wait somewhere for a person.
func deadLetters(w *world) []string {
	var c complaints
	waiting := map[string]bool{}
	for _, r := range w.of("google_pubsub_subscription") {
		if r.text("push_config", "push_endpoint") == "" {
			waiting["projects/example-sluis-run/topics/"+r.text("topic")] = true
		}
		if never, ok := r.at("expiration_policy", "ttl").(string); !ok || never != "" {
			c.add("%s expires", r.address)
		}
	}
	for name := range w.pipeline.Topics {
		if dead := fmt.Sprintf("projects/example-sluis-run/topics/%s-dead", name); !waiting[dead] {
			c.add("nothing keeps what dies on %s", name)
		}
	}
	for _, r := range w.of("google_pubsub_subscription") {
		if r.text("push_config", "push_endpoint") == "" {
			continue
		}
		if to, want := r.text("dead_letter_policy", "dead_letter_topic"), "projects/example-sluis-run/topics/"+r.text("topic")+"-dead"; to != want || !waiting[to] {
			c.add("%s has its dead letters in %q, want %s", r.address, to, want)
		}
	}
	return c
}

// deployments are the functions of pipeline.json, by the names that they are deployed under, and whose they are.
func (w *world) deployments(see func(name string, f function)) {
	for _, f := range w.pipeline.Functions {
		folder := f.Source
		if folder == "" {
			folder = f.Name
		}
		if f.Per != "custodian" {
			see(f.Name, function{f, "", folder})
			continue
		}
		for _, x := range w.deployed() {
			see(f.Name+"-"+string(x.ID), function{f, x.ID, folder + "/" + x.Protocol})
		}
	}
}

func address(name string) string { return "https://" + name + "-111111111111.europe-west4.run.app" }
func account(name string) string { return name + "@example-sluis-run.iam.gserviceaccount.com" }

// pushes wants each function with a trigger to be pushed to, as test/cloud's own Pub/Sub does it.
func pushes(w *world) []string {
	got := map[string]resource{}
	for _, r := range w.of("google_pubsub_subscription") {
		if r.text("push_config", "push_endpoint") != "" {
			got[r.text("name")] = r
		}
	}
	var c complaints
	w.deployments(func(name string, f function) {
		if f.Trigger == "" {
			return
		}
		r := got[name]
		delete(got, name)
		filter := ""
		if w.pipeline.Topics[f.Trigger].Filter == "custodian" {
			filter = fmt.Sprintf("attributes.custodian = %q", f.custodian)
		}
		for _, x := range [][2]string{
			{r.text("topic"), string(f.Trigger)}, {r.text("filter"), filter},
			{r.text("push_config", "push_endpoint"), address(name) + "/projects/example-sluis-run/topics/" + string(f.Trigger)},
			{r.text("push_config", "oidc_token", "audience"), address(name)},
			{r.text("push_config", "oidc_token", "service_account_email"), account("sluis-push")},
			{r.text("retry_policy", "minimum_backoff"), "10s"}, {r.text("retry_policy", "maximum_backoff"), "600s"},
		} {
			if x[0] != x[1] {
				c.add("the subscription of %s says %q, want %q", name, x[0], x[1])
			}
		}
	})
	for name := range got {
		c.add("nobody wants the subscription %s", name)
	}
	return c
}

func clock(w *world) []string {
	got := map[string]resource{}
	for _, r := range w.of("google_cloud_scheduler_job") {
		got[r.text("name")] = r
	}
	var c complaints
	w.deployments(func(name string, f function) {
		if f.Schedule == "" {
			return
		}
		r := got[name]
		delete(got, name)
		for _, x := range [][2]string{
			{r.text("schedule"), f.Schedule}, {r.text("http_target", "uri"), address(name) + "/"}, {r.text("http_target", "http_method"), "POST"}, {r.text("http_target", "body"), "e30="},
			{r.text("http_target", "oidc_token", "audience"), address(name)}, {r.text("http_target", "oidc_token", "service_account_email"), account("sluis-clock")},
		} {
			if x[0] != x[1] {
				c.add("the clock of %s says %q, want %q", name, x[0], x[1])
			}
		}
	})
	for name := range got {
		c.add("the clock calls %s, which has no schedule", name)
	}
	return c
}

// public says whether the load balancer leads to the function.
func public(f function) bool {
	return slices.ContainsFunc(f.Routes, func(r route) bool { return r.Host != "internal" })
}

// functions wants each deployment with its own identity, its own source, no door but the load balancer's, and no way out but the
// network's.
func functions(w *world) []string {
	got := map[string]resource{}
	for _, r := range w.of("google_cloudfunctions2_function") {
		got[r.text("name")] = r
	}
	sums, _ := w.variables["sources"].(map[string]string)
	var c complaints
	w.deployments(func(name string, f function) {
		r, ok := got[name]
		if !ok {
			c.add("%s is not deployed", name)
			return
		}
		delete(got, name)
		ingress := "ALLOW_INTERNAL_ONLY"
		if public(f) {
			ingress = "ALLOW_INTERNAL_AND_GCLB"
		}
		folder := strings.ReplaceAll(f.folder, "/", "-")
		for _, x := range [][2]string{
			{r.text("build_config", "entry_point"), f.EntryPoint}, {r.text("build_config", "runtime"), "go126"},
			{r.text("build_config", "source", "storage_source", "bucket"), "example-sluis-run-sources"},
			{r.text("build_config", "source", "storage_source", "object"), "functions/" + folder + "-" + sums[folder] + ".zip"},
			{r.text("build_config", "service_account"), "projects/example-sluis-run/serviceAccounts/" + account("sluis-builder")},
			{r.text("service_config", "ingress_settings"), ingress}, {r.text("service_config", "direct_vpc_egress"), "VPC_EGRESS_ALL_TRAFFIC"},
			{r.text("service_config", "service_account_email"), account("fn-" + name)},
			{r.text("service_config", "direct_vpc_network_interface", "subnetwork"), "projects/example-sluis-run/regions/europe-west4/subnetworks/" + subnet(f)},
		} {
			if x[0] != x[1] {
				c.add("%s says %q, want %q", name, x[0], x[1])
			}
		}
		if events, _ := r.at("event_trigger").([]any); len(events) > 0 {
			c.add("%s has a trigger of its own beside its subscription", name)
		}
	})
	for name := range got {
		c.add("%s is deployed, and pipeline.json does not know it", name)
	}
	return c
}

// entryPoints reads from each function's source what it registers: a FUNCTION_TARGET that is not there starts nothing.
func entryPoints(w *world) []string {
	var c complaints
	got := map[string]string{}
	for _, r := range w.of("google_cloudfunctions2_function") {
		got[r.text("name")] = r.text("build_config", "entry_point")
	}
	w.deployments(func(name string, f function) {
		registered, err := registered(filepath.Join("../../functions", f.folder, "function.go"))
		if err != nil {
			c.add("%s: %v", name, err)
		}
		if !slices.Contains(registered, got[name]) {
			c.add("%s starts at %q, and its source registers %v", name, got[name], registered)
		}
	})
	return c
}

// registered lists the names of functions.HTTP(NAME, ...) in a file.
func registered(file string) ([]string, error) {
	syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	ast.Inspect(syntax, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "HTTP" && len(call.Args) == 2 {
			if name, ok := call.Args[0].(*ast.BasicLit); ok {
				unquoted, _ := strconv.Unquote(name.Value)
				names = append(names, unquoted)
			}
		}
		return true
	})
	return names, nil
}

var setting = regexp.MustCompile(`gcp\.Setting\("(\w+)"\)`)

// environment wants each function told what pipeline.json gives it, and no more; and every name to be one that gcp.Cloud reads.
func environment(w *world) []string {
	doc, err := os.ReadFile("../../shared/backend/gcp/cloud.go")
	if err != nil {
		return []string{err.Error()}
	}
	got := map[string]map[string]any{}
	for _, r := range w.of("google_cloudfunctions2_function") {
		got[r.text("name")], _ = r.at("service_config", "environment_variables").(map[string]any)
	}
	var c complaints
	w.deployments(func(name string, f function) {
		env, want := got[name], w.wanted(name, f)
		for _, variable := range slices.Sorted(maps.Keys(want)) {
			if text(env[variable]) != want[variable] {
				c.add("%s: %s is %q, want %q", name, variable, env[variable], want[variable])
			}
		}
		for variable := range env {
			if _, ok := want[variable]; !ok {
				c.add("%s is told %s, and does not need it", name, variable)
			}
			if documented := regexp.MustCompile(`(?m)^//.*\b` + strings.Replace(variable, "SLUIS_KEY_"+strings.TrimPrefix(variable, "SLUIS_KEY_"), "SLUIS_KEY_NAME", 1) + `\b`); !documented.Match(doc) {
				c.add("%s is told %s, which gcp.Cloud does not read", name, variable)
			}
		}
		source, err := os.ReadFile(filepath.Join("../../functions", f.folder, "function.go"))
		if err != nil {
			c.add("%v", err)
		}
		for _, s := range setting.FindAllSubmatch(source, -1) {
			if text(env[string(s[1])]) == "" {
				c.add("%s asks for %s, and is not told", name, s[1])
			}
		}
	})
	return c
}

// wanted is a function's environment by pipeline.json.
func (w *world) wanted(name string, f function) map[string]string {
	env := map[string]string{"GOOGLE_CLOUD_PROJECT": "example-sluis-run", "SLUIS_REGION": region, "SLUIS_DATABASE": "sluis", "SLUIS_LOG_LEVEL": "info",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "https://telemetry.googleapis.com", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
	var held []string
	for _, key := range slices.Concat(f.Close, f.Open, f.Shows, f.Holds) {
		ring := ringOf(w.pipeline.Keys[key].Use)
		if ring == "" {
			held = append(held, key)
			continue
		}
		env["SLUIS_KEY_"+strings.ToUpper(key)] = ring + "/cryptoKeys/" + key
	}
	if len(held) > 0 {
		env["SLUIS_HOLDS"] = strings.Join(held, ",")
	}
	if f.custodian != "" {
		env["SLUIS_CUSTODIAN"] = string(f.custodian)
	}
	if len(f.Calls) > 0 {
		env["SLUIS_ANSWER_URL"] = address(f.Calls[0] + "-{custodian}")
	}
	if callers := w.callers(f); len(callers) > 0 {
		env["SLUIS_AUDIENCE"], env["SLUIS_CALLERS"] = address(name), strings.Join(callers, ",")
	}
	if f.Name == "consent" {
		var ids []string
		for _, x := range w.deployed() {
			ids = append(ids, string(x.ID))
		}
		slices.Sort(ids)
		env["SLUIS_CUSTODIANS"], env["SLUIS_PAGES_URL"] = strings.Join(ids, ","), "https://connect.example.com"
		for name, value := range map[string]string{"NAME": "Example Data B.V.", "AUTHORITY": "De Nederlandsche Bank", "LICENCE": "R123456",
			"PRIVACY": "https://example.com/privacy", "CONTACT": "help@example.com"} {
			env["SLUIS_OPERATOR_"+name] = value
		}
	}
	return env
}

// callers are the accounts that call a function which is not public.
func (w *world) callers(f function) []string {
	var all []string
	if f.Trigger != "" {
		all = append(all, account("sluis-push"))
	}
	if f.Schedule != "" {
		all = append(all, account("sluis-clock"))
	}
	for _, g := range w.pipeline.Functions {
		if slices.Contains(g.Calls, f.Name) {
			all = append(all, account("fn-"+g.Name))
		}
	}
	return all
}
