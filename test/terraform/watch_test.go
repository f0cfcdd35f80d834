package main

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What watches, and what builds: terraform/watch.tf, alerts.tf and build.tf.
func init() {
	maps.Copy(checks, map[string]func(*world) []string{
		"data access": dataAccess, "audit kept": auditKept, "sinks": sinks, "alerts": alerts, "strangers": strangers, "counted": counted, "budgets": budgets,
		"dashboard": dashboard, "builds": builds, "builders": builders, "alike": alike,
	})
	maps.Copy(everywhere, map[string]string{
		"google_billing_budget":                  "billing is global",
		"google_logging_metric":                  "counts, kept by Cloud Monitoring",
		"google_logging_project_sink":            "says where logs go; the sinks' check wants that to be here",
		"google_monitoring_alert_policy":         "Cloud Monitoring is global, and has numbers only",
		"google_monitoring_dashboard":            "Cloud Monitoring is global, and has numbers only",
		"google_monitoring_monitored_project":    "Cloud Monitoring is global, and has numbers only",
		"google_monitoring_notification_channel": "Cloud Monitoring is global, and has numbers only",
		"google_monitoring_uptime_check_config":  "asks from all over the world, as a stranger",
	})
	unkeyed["google_cloudbuild_trigger"] = "says what is run; its key would be for secrets, and it has none"
	extra = append(extra, watchGrants, buildGrants)
	mutations = append(mutations, watchMutations...)
}

const (
	runProject   = "project example-sluis-run"
	innerProject = "project example-sluis-inner"
	keysProject  = "project example-sluis-keys"
	auditProject = "project example-sluis-audit"
	unknown      = "(known after apply)" // the writers of sinks, whom Google names
)

// watchGrants: sinks write into the audit project, and functions tell their metrics.
func watchGrants(w *world) []grant {
	all := []grant{{"bucket example-sluis-audit-archive", "roles/storage.objectCreator", unknown, ""}}
	for _, b := range []string{"audit", "operations"} {
		all = append(all, grant{auditProject, "roles/logging.bucketWriter", unknown, `resource.name.endsWith("locations/europe-west4/buckets/sluis-` + b + `")`})
	}
	w.deployments(func(name string, _ function) {
		for _, role := range []string{"roles/telemetry.metricsWriter", "roles/telemetry.tracesWriter"} {
			all = append(all, grant{runProject, role, member(account("fn-" + name)), ""})
		}
	})
	return all
}

func builder(name string) string {
	return member("sluis-" + name + "@example-sluis-audit.iam.gserviceaccount.com")
}

// buildGrants are all that the two building identities may do, and those who approve.
func buildGrants(w *world) []grant {
	all := []grant{
		{auditProject, "roles/cloudbuild.builds.approver", "group:sluis-releases@example.com", ""},
		{"key store-audit", "roles/cloudkms.cryptoKeyEncrypterDecrypter", agent(auditNumber, "gcp-sa-pubsub"), ""},
		{"topic sluis-planned", "roles/pubsub.publisher", builder("plan"), ""},
		{"bucket example-sluis-run-sources", "projects/example-sluis-run/roles/sluisAdds", builder("plan"), ""},
		{"bucket example-sluis-audit-plans", "projects/example-sluis-audit/roles/sluisAdds", builder("plan"), ""},
		{"bucket example-sluis-audit-plans", "projects/example-sluis-audit/roles/sluisAdds", builder("release"), ""},
		{"bucket example-sluis-state", "roles/storage.objectViewer", builder("plan"), ""},
		{"bucket example-sluis-state", "roles/storage.objectUser", builder("release"), ""},
	}
	for who, on := range map[string]map[string]string{
		"plan": {
			runProject: "artifactregistry.reader certificatemanager.viewer cloudfunctions.viewer cloudscheduler.viewer compute.viewer dns.reader iam.securityReviewer monitoring.viewer pubsub.viewer run.viewer " +
				"serviceusage.serviceUsageViewer",
			innerProject: "iam.securityReviewer monitoring.viewer serviceusage.serviceUsageViewer",
			keysProject:  "iam.securityReviewer monitoring.viewer serviceusage.serviceUsageViewer",
			auditProject: "cloudbuild.builds.viewer iam.securityReviewer logging.logWriter monitoring.viewer pubsub.viewer serviceusage.serviceUsageViewer",
		},
		"release": {
			runProject: "artifactregistry.admin certificatemanager.owner cloudfunctions.admin cloudscheduler.admin compute.loadBalancerAdmin compute.networkAdmin compute.securityAdmin iam.roleAdmin " +
				"iam.securityReviewer iam.serviceAccountAdmin logging.configWriter monitoring.editor pubsub.admin resourcemanager.projectIamAdmin run.admin serviceusage.serviceUsageAdmin",
			innerProject: "iam.roleAdmin iam.securityReviewer logging.configWriter monitoring.editor resourcemanager.projectIamAdmin serviceusage.serviceUsageAdmin",
			keysProject:  "iam.roleAdmin iam.securityReviewer logging.configWriter monitoring.editor resourcemanager.projectIamAdmin serviceusage.serviceUsageAdmin",
			auditProject: "cloudbuild.builds.editor iam.roleAdmin iam.securityReviewer iam.serviceAccountAdmin logging.configWriter logging.logWriter monitoring.editor pubsub.admin " +
				"resourcemanager.projectIamAdmin serviceusage.serviceUsageAdmin",
		},
	} {
		for project, roles := range on {
			for role := range strings.FieldsSeq(roles) {
				all = append(all, grant{project, "roles/" + role, builder(who), ""})
			}
			all = append(all, grant{project, "projects/" + strings.TrimPrefix(project, "project ") + "/roles/sluis" + strings.ToUpper(who[:1]) + who[1:], builder(who), ""})
		}
	}
	accounts := []string{account("sluis-push"), account("sluis-clock"), account("sluis-builder")}
	w.deployments(func(name string, _ function) { accounts = append(accounts, account("fn-"+name)) })
	for _, a := range accounts {
		all = append(all, grant{"account " + a, "roles/iam.serviceAccountUser", builder("release"), ""})
	}
	return all
}

// dataAccess wants every read and write of keys, documents and secrets to be logged, whoever does it.
func dataAccess(w *world) []string {
	want := map[string]bool{"inner cloudkms": true, "keys cloudkms": true, "run datastore": true, "run firestore": true, "run secretmanager": true, "run iamcredentials": true, "audit storage": true, "audit logging": true}
	var c complaints
	for _, r := range w.of("google_project_iam_audit_config") {
		var types []string
		configs, _ := r.at("audit_log_config").([]any)
		for _, x := range configs {
			types = append(types, text(within(x, "log_type")))
			if len(texts(within(x, "exempted_members"))) > 0 {
				c.add("%s exempts somebody", r.address)
			}
		}
		slices.Sort(types)
		if !slices.Equal(types, []string{"ADMIN_READ", "DATA_READ", "DATA_WRITE"}) {
			c.add("%s logs %v", r.address, types)
			continue
		}
		delete(want, strings.TrimPrefix(r.text("project"), "example-sluis-")+" "+strings.TrimSuffix(r.text("service"), ".googleapis.com"))
	}
	for what := range want {
		c.add("access is not logged: %s", what)
	}
	return c
}

// auditKept wants what happened to be kept, locked, in the audit project.
func auditKept(w *world) []string {
	var c complaints
	found := 0
	for _, r := range w.of("google_logging_project_bucket_config") {
		days, _ := r.at("retention_days").(float64)
		if r.text("project") != "example-sluis-audit" {
			c.add("%s is in project %s", r.address, r.text("project"))
		}
		if r.text("bucket_id") != "sluis-audit" {
			continue
		}
		found++
		if r.at("locked") != true || days < 365 {
			c.add("%s can be shortened, or is: %v days", r.address, days)
		}
	}
	for _, r := range w.of("google_storage_bucket", "audit") {
		found++
		if r.at("retention_policy", "is_locked") != true || len(r.text("retention_policy", "retention_period")) < len("100000000") {
			c.add("%s is not locked for years", r.address)
		}
		if r.text("project") != "example-sluis-audit" {
			c.add("%s is in project %s", r.address, r.text("project"))
		}
	}
	if found != 2 {
		c.add("%d of the two places of audit logs are there", found)
	}
	return c
}

// sinks wants each project's audit logs in both places, and no log outside the region.
func sinks(w *world) []string {
	logs := "logging.googleapis.com/projects/example-sluis-audit/locations/europe-west4/buckets/sluis-"
	want := map[string]bool{}
	for _, project := range projects {
		for _, to := range []string{logs + "audit", "storage.googleapis.com/example-sluis-audit-archive", logs + "operations"} {
			want["example-sluis-"+project+" "+to] = true
		}
	}
	var c complaints
	for _, r := range w.of("google_logging_project_sink") {
		filter, to := r.text("filter"), r.text("destination")
		audit := strings.Contains(filter, "cloudaudit.googleapis.com/activity") && strings.Contains(filter, "cloudaudit.googleapis.com/data_access")
		switch operations := strings.HasSuffix(to, "operations"); {
		case r.at("disabled") == true || r.at("exclusions") != nil && len(r.at("exclusions").([]any)) > 0:
			c.add("%s leaves something out", r.address)
		case r.at("unique_writer_identity") != true:
			c.add("%s writes as everybody's account", r.address)
		case operations && (r.text("name") != "_Default" || !strings.HasPrefix(filter, "NOT (")), !operations && strings.HasPrefix(filter, "NOT"), !audit:
			c.add("%s takes %s", r.address, filter)
		default:
			delete(want, r.text("project")+" "+to)
		}
	}
	for what := range want {
		c.add("no sink: %s", what)
	}
	return c
}

var anchor = regexp.MustCompile(`terraform/README\.md, #([a-z-]+)$`)

// onLogs are the alerts on what audit logs say, by the projects whose logs each looks at: it stands in every one of them.
var onLogs = map[string][]string{
	"key-used-by-person": keyProjects, "key-used-by-stranger": keyProjects, "key-changed": keyProjects, "access-changed": projects, "watch-changed": projects,
	"secret-read-by-stranger": {"run"}, "data-read-by-stranger": {"run"}, "function-impersonated": {"run"},
}

// alerts wants each with text that helps whoever it wakes, a place in the runbook, and somebody to tell.
func alerts(w *world) []string {
	raw, err := os.ReadFile("../../terraform/README.md")
	if err != nil {
		return []string{err.Error()}
	}
	want := map[string]bool{}
	for name := range strings.FieldsSeq("dead-letters webhook-age consent-denials consent-expiry refresh-failures egress-refused kms-quota certificate-expiry clock-stopped errors front-down") {
		want[name+" in audit"] = true
	}
	for name, where := range onLogs {
		for _, project := range where {
			want[name+" in "+project] = true
		}
	}
	var c complaints
	for _, r := range w.of("google_monitoring_alert_policy") {
		content := r.text("documentation", "content")
		m := anchor.FindStringSubmatch(content)
		if len(content) < 200 || m == nil {
			c.add("%s does not say what to do: %q", r.address, content)
			continue
		}
		if !strings.Contains(string(raw), "\n### "+m[1]+"\n") {
			c.add("%s points to a heading that the runbook does not have: %s", r.address, m[1])
		}
		if channels, known := r.values["notification_channels"]; r.at("enabled") == false || known && channels == nil {
			c.add("%s tells nobody", r.address)
		}
		if r.text("severity") == "" {
			c.add("%s has no severity", r.address)
		}
		delete(want, m[1]+" in "+strings.TrimPrefix(r.text("project"), "example-sluis-"))
	}
	for name := range want {
		c.add("there is no alert %s", name)
	}
	for _, h := range regexp.MustCompile(`(?m)^### ([a-z]+-[a-z-]+|errors)$`).FindAllStringSubmatch(string(raw), -1) {
		if !slices.ContainsFunc(w.of("google_monitoring_alert_policy"), func(r resource) bool { return strings.HasSuffix(r.text("documentation", "content"), "#"+h[1]) }) {
			c.add("the runbook has a heading for no alert: %s", h[1])
		}
	}
	return c
}

var clause = regexp.MustCompile(`/cryptoKeys/([a-z-]+)\(/\|\$\)" AND NOT protoPayload\.authenticationInfo\.principalEmail=~"([^"]+)"`)

// strangers wants the alert about keys to be silent for those who are granted the use of each, and for nobody else; in the project that
// each lies in, as another's alerts do not see its log.
func strangers(w *world) []string {
	var c complaints
	patterns := map[string]*regexp.Regexp{} // by project/key
	for _, r := range w.of("google_monitoring_alert_policy", "logs") {
		if !strings.HasPrefix(r.key, "key-used-by-stranger/") {
			continue
		}
		for _, m := range clause.FindAllStringSubmatch(r.text("conditions", "condition_matched_log", "filter"), -1) {
			patterns[r.text("project")+"/"+m[1]] = regexp.MustCompile(m[2])
		}
	}
	users := map[string]map[string]bool{} // who may open or sign with a key
	everybody := map[string]bool{"anna@example.com": true}
	for _, g := range w.grants() {
		key, ok := strings.CutPrefix(g.on, "key ")
		who := strings.TrimPrefix(g.member, "serviceAccount:")
		everybody[who] = true
		if ok && slices.Contains([]string{"roles/cloudkms.cryptoKeyDecrypter", "roles/cloudkms.cryptoKeyEncrypterDecrypter", "roles/cloudkms.signer"}, g.role) {
			if users[key] == nil {
				users[key] = map[string]bool{}
			}
			users[key][who] = true
		}
	}
	for _, r := range w.of("google_kms_crypto_key") {
		key := r.text("name")
		pattern := patterns[strings.Split(r.text("key_ring"), "/")[1]+"/"+key]
		if pattern == nil {
			c.add("nobody watches %s", key)
			continue
		}
		for who := range everybody {
			if silent := pattern.MatchString(who); silent != users[key][who] {
				c.add("%s uses %s: the alert is silent: %t", who, key, silent)
			}
		}
	}
	return c
}

// counts are what functions count, by shared/observe, with their labels.
var counts = map[string]string{
	"sluis.refreshes": "custodian cause outcome reason", "sluis.sca": "custodian method outcome", "sluis.delivery.latency": "", "sluis.delivery.age": "",
	"sluis.consent.denials": "code", "sluis.dead_letters": "topic", "sluis.kms.calls": "key method code",
}

var (
	asked   = regexp.MustCompile(`\{"(sluis\.[a-z_.]+)"([^}]*)\}`)
	labelIn = regexp.MustCompile(`,\s*([a-z_]+)\s*[=!]`)
	groups  = regexp.MustCompile(`by \(([a-z_, ]+)\) \((?:increase|rate)\(\{"(sluis\.[a-z_.]+)"`)
)

// counted wants every expression to ask for what is counted, by labels that it has.
func counted(w *world) []string {
	var c complaints
	check := func(where, query string) {
		if strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
			c.add("%s: its brackets do not match: %s", where, query)
		}
		for _, m := range asked.FindAllStringSubmatch(query, -1) {
			labels, ok := counts[strings.TrimSuffix(m[1], "_bucket")]
			if !ok {
				c.add("%s asks for %s, which nobody counts", where, m[1])
			}
			for _, l := range labelIn.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(strings.Fields(labels), l[1]) {
					c.add("%s asks for %s by %s", where, m[1], l[1])
				}
			}
		}
		for _, m := range groups.FindAllStringSubmatch(query, -1) {
			for by := range strings.FieldsSeq(strings.ReplaceAll(m[1], ",", " ")) {
				if by != "le" && !slices.Contains(strings.Fields(counts[m[2]]), by) {
					c.add("%s groups %s by %s", where, m[2], by)
				}
			}
		}
	}
	queries := 0
	for _, r := range w.of("google_monitoring_alert_policy", "metrics") {
		conditions, _ := r.at("conditions").([]any)
		for _, x := range conditions {
			queries++
			check(r.address, text(within(x, "condition_prometheus_query_language", "query")))
		}
	}
	for _, q := range charts(w) {
		check("the dashboard", q)
	}
	if queries < 15 {
		c.add("%d expressions in all", queries)
	}
	return c
}

// charts are the dashboard's expressions.
func charts(w *world) (queries []string) {
	for _, r := range w.of("google_monitoring_dashboard") {
		var d struct {
			MosaicLayout struct {
				Tiles []struct {
					Widget struct {
						XYChart struct {
							DataSets []struct {
								TimeSeriesQuery struct{ PrometheusQuery string }
							}
						}
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(r.text("dashboard_json")), &d); err != nil {
			return nil
		}
		for _, tile := range d.MosaicLayout.Tiles {
			for _, s := range tile.Widget.XYChart.DataSets {
				queries = append(queries, s.TimeSeriesQuery.PrometheusQuery)
			}
		}
	}
	return queries
}

func dashboard(w *world) []string {
	var c complaints
	all := strings.Join(charts(w), "\n")
	for name := range counts {
		if !strings.Contains(all, name) {
			c.add("the dashboard does not show %s", name)
		}
	}
	return c
}

// budgets wants one for each project, that tells somebody before the money is gone.
func budgets(w *world) []string {
	want := map[string]bool{"projects/111111111111": true, "projects/222222222222": true, "projects/333333333333": true, "projects/444444444444": true}
	var c complaints
	for _, r := range w.of("google_billing_budget") {
		rules, _ := r.at("threshold_rules").([]any)
		forecast := slices.ContainsFunc(rules, func(x any) bool { return text(within(x, "spend_basis")) == "FORECASTED_SPEND" })
		if len(rules) < 2 || !forecast || r.text("amount", "specified_amount", "units") == "" {
			c.add("%s tells too late, or never", r.address)
		}
		for _, p := range texts(r.at("budget_filter", "projects")) {
			delete(want, p)
		}
	}
	for p := range want {
		c.add("%s has no budget", p)
	}
	return c
}

// alike wants the project of gate 1's key to have what that of all other keys has: what is switched on, allowed, logged, counted and watched,
// and what those who build may do. What differs has checks of its own: the keys, who uses and who administers them, and the money.
func alike(w *world) []string {
	differ := []string{"google_kms_key_ring", "google_kms_crypto_key", "google_kms_crypto_key_iam_policy", "google_iam_deny_policy", "google_billing_budget", "google_project_iam_binding"}
	has := map[string]map[string]string{"inner": {}, "keys": {}} // by project and thing, the address
	for _, r := range w.resources {
		parts := strings.Split(r.key, "/")
		for project, things := range has {
			if i := slices.Index(parts, project); i >= 0 && !slices.Contains(differ, r.kind) {
				parts[i] = "PROJECT"
				things[r.kind+" "+strings.Join(parts, "/")+" "+unnamed(r, "example-sluis-"+project)] = r.address
			}
		}
	}
	var c complaints
	for project, other := range map[string]string{"inner": "keys", "keys": "inner"} {
		if len(has[project]) < 40 {
			c.add("%d things in project %s: that cannot be all", len(has[project]), project)
		}
		for thing, address := range has[project] {
			if has[other][thing] == "" {
				c.add("project %s has nothing like %s", other, address)
			}
		}
	}
	return c
}

// unnamed are a resource's values without its project's name.
func unnamed(r resource, project string) string {
	values := maps.Clone(r.values)
	for field, v := range values {
		if s, ok := v.(string); ok {
			values[field] = strings.ReplaceAll(s, project, "PROJECT")
		}
	}
	raw, err := json.Marshal(values)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// builds wants a release to wait for approval, and each trigger to have an identity of its own.
func builds(w *world) []string {
	var c complaints
	seen := map[string]string{}
	for _, r := range w.of("google_cloudbuild_trigger") {
		name, who := r.text("name"), path.Base(r.text("service_account"))
		seen[name] = who
		if r.text("project") != "example-sluis-audit" {
			c.add("%s is in project %s", r.address, r.text("project"))
		}
		if who != "." && who != name+"@example-sluis-audit.iam.gserviceaccount.com" {
			c.add("%s runs as %s", r.address, who)
		}
		if approved := r.at("approval_config", "approval_required") == true; approved != (name == "sluis-release") {
			c.add("%s waits for approval: %t", r.address, approved)
		}
		if name == "sluis-release" && (r.text("filename") != "" || r.at("repository_event_config") != nil && len(r.at("repository_event_config").([]any)) > 0) {
			c.add("%s: a commit says how it is released", r.address)
		}
		given, _ := r.at("substitutions").(map[string]any)
		for key := range given {
			if regexp.MustCompile(`(?i)secret|token|passw`).MatchString(key) {
				c.add("%s: %s looks like a secret", r.address, key)
			}
		}
	}
	if len(seen) != 2 {
		c.add("the triggers are %v", seen)
	}
	return c
}

// builders wants who plans to change nothing, and who releases to open nothing.
func builders(w *world) []string {
	var c complaints
	looking := regexp.MustCompile(`([.](viewer|reader|securityReviewer|serviceUsageViewer|builds[.]viewer|logWriter|objectViewer|publisher)|/sluis(Plan|Adds))$`)
	for _, g := range w.grants() {
		if g.member == builder("plan") && !looking.MatchString(g.role) {
			c.add("who plans may change something: %s", g)
		}
	}
	opening := regexp.MustCompile(`useTo|versions[.]access|datastore[.]entities|getSensitive|objects[.](delete|update)|actAs|getAccessToken|signBlob|implicitDelegation|cryptoKeyVersions[.]destroy|logEntries`)
	changing := regexp.MustCompile(`[.](create|update|delete|set\w*|use|bind\w*)$`)
	for _, r := range w.of("google_project_iam_custom_role", "build", "adds") {
		for _, p := range texts(r.at("permissions")) {
			if opening.MatchString(p) || strings.HasPrefix(r.key, "plan/") && changing.MatchString(p) {
				c.add("%s has %s", r.address, p)
			}
		}
	}
	return c
}

// reword changes a word in a text of every resource of a kind that has it.
func reword(kind, old, new string, path ...string) func(*world) {
	return func(w *world) {
		found := false
		for _, r := range w.of(kind) {
			if has := r.text(path...); strings.Contains(has, old) {
				found = put(r.values, strings.ReplaceAll(has, old, new), path...)
			}
		}
		if !found {
			panic("nothing to reword in " + kind)
		}
	}
}

// allow adds a permission to a role of ours.
func allow(key, permission string) func(*world) {
	return func(w *world) {
		for _, r := range w.of("google_project_iam_custom_role", "build", "adds") {
			if r.key == key {
				r.values["permissions"] = append(r.values["permissions"].([]any), permission)
			}
		}
	}
}

// watchMutations are mistakes in what watches and builds.
var watchMutations = []mutation{
	{name: "access to keys is not logged", check: "data access", bend: drop("google_project_iam_audit_config", "service", "cloudkms")},
	{name: "access to the inner gate's key is not logged", check: "data access", bend: drop("google_project_iam_audit_config", "project", "example-sluis-inner"), says: "inner cloudkms"},
	{name: "access to documents is not logged", check: "data access", bend: drop("google_project_iam_audit_config", "service", "firestore")},
	{name: "reads of secrets are not logged", check: "data access", bend: func(w *world) {
		for _, r := range w.of("google_project_iam_audit_config") {
			configs, _ := r.at("audit_log_config").([]any)
			r.values["audit_log_config"] = slices.DeleteFunc(slices.Clone(configs), func(x any) bool { return text(within(x, "log_type")) == "DATA_READ" })
		}
	}},
	{name: "an unlocked log bucket", check: "audit kept", bend: set("google_logging_project_bucket_config", false, "locked")},
	{name: "a log bucket that forgets in a month", check: "audit kept", bend: set("google_logging_project_bucket_config", float64(30), "retention_days")},
	{name: "logs without our key", check: "encrypted", bend: set("google_logging_project_bucket_config", nil, "cmek_settings")},
	{name: "logs in all the world", check: "region", bend: set("google_logging_project_bucket_config", "global", "location")},
	{name: "an archive without retention", check: "audit kept", bend: one("google_storage_bucket", "name", "example-sluis-audit-archive", nil, "retention_policy")},
	{name: "an archive whose retention can be lifted", check: "audit kept", bend: one("google_storage_bucket", "name", "example-sluis-audit-archive", false, "retention_policy", "is_locked")},
	{name: "a sink that writes as everybody's account", check: "sinks", bend: set("google_logging_project_sink", false, "unique_writer_identity")},
	{name: "the keys project sends no audit logs", check: "sinks", bend: drop("google_logging_project_sink", "project", "example-sluis-keys")},
	{name: "the inner project sends no audit logs", check: "sinks", bend: drop("google_logging_project_sink", "project", "example-sluis-inner")},
	{name: "a sink that leaves data access out", check: "sinks", bend: reword("google_logging_project_sink", "data_access", "system_event", "filter")},
	{name: "other logs stay anywhere", check: "sinks", bend: reword("google_logging_project_sink", "_Default", "sluis-operations", "name")},
	{name: "an alert without a word of what to do", check: "alerts", bend: set("google_monitoring_alert_policy", nil, "documentation")},
	{name: "an alert that points nowhere", check: "alerts", bend: reword("google_monitoring_alert_policy", "#dead-letters", "#dead-letters-alert", "documentation", "content")},
	{name: "alerts that tell nobody", check: "alerts", bend: func(w *world) {
		for _, r := range w.of("google_monitoring_alert_policy", "metrics") {
			r.values["notification_channels"] = nil
		}
	}},
	{name: "no alert on dead letters", check: "alerts", bend: drop("google_monitoring_alert_policy", "display_name", "Events were given up")},
	{name: "no alert on changes of the inner gate's key", check: "alerts", bend: without(`google_monitoring_alert_policy.logs["key-changed/inner"]`), says: "key-changed in inner"},
	{name: "rights in the inner project change unseen", check: "alerts", bend: without(`google_monitoring_alert_policy.logs["access-changed/inner"]`), says: "access-changed in inner"},
	{name: "nobody looks at who opens the inner gate", check: "strangers", bend: drop("google_monitoring_alert_policy", "project", "example-sluis-inner"), says: "nobody watches inner"},
	{name: "the inner gate's openers in the other project's alert only", check: "strangers", bend: one("google_monitoring_alert_policy", "project", "example-sluis-inner", "cryptoKeys/other", "conditions", "condition_matched_log", "filter"), says: "nobody watches inner"},
	{name: "uses of the inner gate's key are not counted", check: "alike", bend: drop("google_logging_metric", "project", "example-sluis-inner"), says: "inner"},
	{name: "the inner project's alerts tell nobody", check: "alike", bend: drop("google_monitoring_notification_channel", "project", "example-sluis-inner"), says: "inner"},
	{name: "the inner project's metrics are looked at by nobody", check: "alike", bend: drop("google_monitoring_monitored_project", "name", "example-sluis-inner"), says: "inner"},
	{name: "no Cloud KMS in the inner project", check: "alike", bend: without(`google_project_service.service["inner/cloudkms"]`), says: "inner"},
	{name: "the inner project's resources may lie anywhere", check: "alike", bend: one("google_org_policy_policy", "name", "projects/example-sluis-inner/policies/gcp.resourceLocations", []any{"in:us-locations"}, "spec", "rules", "values", "allowed_values"), says: "inner"},
	{name: "consent may open and no alert says so", check: "strangers", bend: reword("google_monitoring_alert_policy", "(nobody|", "(nobody|fn-consent@.*|", "conditions", "condition_matched_log", "filter")},
	{name: "an alert at every reading", check: "strangers", bend: reword("google_monitoring_alert_policy", "fn-portfolio@", "fn-seal@", "conditions", "condition_matched_log", "filter")},
	{name: "an alert on what nobody counts", check: "counted", file: "alerts.tf", old: `sluis.dead_letters`, text: `sluis.dead.letters`},
	{name: "an alert by a label that is not there", check: "counted", bend: reword("google_monitoring_alert_policy", "sum by (code)", "sum by (subject)", "conditions", "condition_prometheus_query_language", "query")},
	{name: "a dashboard without refusals", check: "dashboard", bend: func(w *world) {
		for _, r := range w.of("google_monitoring_dashboard") {
			r.values["dashboard_json"] = strings.ReplaceAll(r.text("dashboard_json"), "sluis.consent.denials", "x")
		}
	}},
	{name: "no budget for keys", check: "budgets", bend: drop("google_billing_budget", "display_name", "keys")},
	{name: "no budget for the inner project", check: "budgets", bend: drop("google_billing_budget", "display_name", "inner")},
	{name: "a budget that tells nobody before its end", check: "budgets", bend: set("google_billing_budget", nil, "threshold_rules")},
	{name: "a release without approval", check: "builds", bend: set("google_cloudbuild_trigger", nil, "approval_config")},
	{name: "a release from a commit's own steps", check: "builds", bend: set("google_cloudbuild_trigger", "release.yaml", "filename")},
	{name: "who plans may change functions", check: "builders", file: "build.tf", old: "roles/cloudfunctions.viewer", text: "roles/cloudfunctions.developer"},
	{name: "who plans may act as who releases", check: "granted", bend: add("google_service_account_iam_member", map[string]any{"service_account_id": "projects/p/serviceAccounts/sluis-release@example-sluis-audit.iam.gserviceaccount.com",
		"role": "roles/iam.serviceAccountUser", "member": builder("plan")})},
	{name: "who plans cannot look at the inner project", check: "granted", bend: drop("google_project_iam_member", "project", "example-sluis-inner"), says: "project example-sluis-inner: roles/iam.securityReviewer"},
	{name: "who releases may use the inner gate's key", check: "builders", bend: allow("release/inner", "cloudkms.cryptoKeyVersions.useToDecrypt"), says: "release/inner"},
	{name: "who releases may read secrets", check: "builders", bend: allow("release/runtime", "secretmanager.versions.access")},
	{name: "who plans may replace zips", check: "builders", bend: allow("runtime", "storage.objects.delete")},
}
