package main

import (
	"cmp"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
)

// subnet is where a function's way out begins.
func subnet(f function) string {
	switch {
	case f.custodian != "":
		return "bank-" + string(f.custodian)
	case slices.Contains(f.Open, "webhook"):
		return "webhooks"
	case public(f):
		return "front"
	}
	return "inside"
}

const google = "199.36.153.8/30" // private.googleapis.com

// egress plays the firewall: from each subnet, what can be reached, and what must not be.
func egress(w *world) []string {
	var c complaints
	ranges := map[string]string{}
	for _, r := range w.of("google_compute_subnetwork") {
		ranges[r.text("name")] = r.text("ip_cidr_range")
		if r.text("purpose") == "" && r.at("private_ip_google_access") != true {
			c.add("%s does not reach Google's services privately", r.address)
		}
	}
	type way struct {
		hosts, addresses []string
		nat              bool
	}
	want := map[string]way{"proxies": {addresses: []string{google}}, "front": {addresses: []string{google}}, "inside": {[]string{"accounts.google.com"}, []string{google}, true},
		"webhooks": {nil, []string{"0.0.0.0/0", google}, true}}
	for _, x := range w.deployed() {
		hosts := []string{"accounts.google.com"}
		for _, e := range x.Endpoints {
			hosts = append(hosts, strings.TrimPrefix(e, "https://"))
		}
		slices.Sort(hosts)
		want["bank-"+string(x.ID)] = way{slices.Compact(hosts), []string{google}, true}
	}
	routed := []string{}
	for _, r := range w.of("google_compute_router_nat") {
		if r.text("source_subnetwork_ip_ranges_to_nat") != "LIST_OF_SUBNETWORKS" || r.text("nat_ip_allocate_option") != "MANUAL_ONLY" {
			c.add("%s lets everybody out, or from any address", r.address)
		}
		list, _ := r.at("subnetwork").([]any)
		for _, s := range list {
			routed = append(routed, path.Base(text(within(s, "name"))))
		}
	}
	for name, way := range want {
		hosts, addresses, denied := w.reach(ranges[name])
		if !slices.Equal(hosts, way.hosts) || !slices.Equal(addresses, way.addresses) {
			c.add("%s (%s) reaches %v and %v, want %v and %v", name, ranges[name], hosts, addresses, way.hosts, way.addresses)
		}
		if !denied {
			c.add("the rest of the world is open to %s", name)
		}
		if slices.Contains(routed, name) != way.nat {
			c.add("%s passes NAT: %t", name, !way.nat)
		}
		delete(ranges, name)
	}
	for name := range ranges {
		c.add("nobody wants the subnet %s", name)
	}
	if n := len(w.of("google_compute_address", "egress")); n != 2 {
		c.add("there are %d egress addresses", n)
	}
	if len(w.of("google_compute_region_network_firewall_policy_association")) != 1 {
		c.add("no network has the firewall")
	}
	return c
}

// reach lists what the firewall's rules let out of a range, in the order in which they are tried, until everything is denied. An
// allowed range counts only if private addresses were denied before the whole world was allowed.
func (w *world) reach(from string) (hosts, addresses []string, denied bool) {
	rules := w.of("google_compute_region_network_firewall_policy_rule")
	slices.SortFunc(rules, func(a, b resource) int { return cmp.Compare(number(a.at("priority")), number(b.at("priority"))) })
	private := false
	for _, r := range rules {
		sources, to := texts(r.at("match", "src_ip_ranges")), texts(r.at("match", "dest_ip_ranges"))
		if r.text("direction") != "EGRESS" || !slices.Contains(sources, from) && !slices.Contains(sources, "10.64.0.0/16") {
			continue
		}
		switch {
		case r.text("action") == "deny" && slices.Equal(to, []string{"0.0.0.0/0"}) && r.text("match", "layer4_configs", "ip_protocol") == "all":
			slices.Sort(hosts)
			slices.Sort(addresses)
			return hosts, addresses, true
		case r.text("action") == "deny":
			private = slices.Contains(to, "10.0.0.0/8") && slices.Contains(to, "169.254.0.0/16") && slices.Contains(to, "172.16.0.0/12") && slices.Contains(to, "192.168.0.0/16")
			continue
		case !slices.Equal(texts(r.at("match", "layer4_configs", "ports")), []string{"443"}):
			addresses = append(addresses, "other ports")
		case !private && !slices.Equal(to, []string{google}): // also by the name of a host: names can be made to mean anything
			addresses = append(addresses, "private addresses")
		}
		hosts = append(hosts, texts(r.at("match", "dest_fqdns"))...)
		addresses = append(addresses, to...)
	}
	return hosts, addresses, false
}

func number(v any) float64 {
	n, _ := v.(float64)
	return n
}

// frontDoor wants nothing to be heard but TLS, nothing to pass but what Cloud Armor saw, and certificates of clients on the API.
func frontDoor(w *world) []string {
	var c complaints
	for _, r := range w.of("google_compute_forwarding_rule") {
		if r.text("port_range") != "443" || r.text("load_balancing_scheme") != "EXTERNAL_MANAGED" {
			c.add("%s listens at %s", r.address, r.text("port_range"))
		}
	}
	for _, r := range w.of("google_compute_region_ssl_policy") {
		if r.text("min_tls_version") != "TLS_1_2" || r.text("profile") != "RESTRICTED" {
			c.add("%s takes %s, %s", r.address, r.text("min_tls_version"), r.text("profile"))
		}
	}
	proxies := w.of("google_compute_region_target_https_proxy")
	for _, r := range proxies {
		if path.Base(r.text("ssl_policy")) != "front" || len(texts(r.at("certificate_manager_certificates"))) != 1 {
			c.add("%s has no TLS of ours", r.address)
		}
		if mutual := path.Base(r.text("server_tls_policy")) == "clients"; mutual != (r.key == "api") {
			c.add("%s asks for certificates of clients: %t", r.address, mutual)
		}
	}
	for _, r := range w.of("google_network_security_server_tls_policy") {
		if r.text("mtls_policy", "client_validation_mode") != "REJECT_INVALID" {
			c.add("%s lets callers through without a certificate", r.address)
		}
	}
	if len(proxies) != 2 {
		c.add("there are %d front doors", len(proxies))
	}
	for _, r := range w.of("google_compute_region_backend_service") {
		host, _, _ := strings.Cut(r.key, "-")
		if path.Base(r.text("security_policy")) != "front-"+host {
			c.add("%s is behind no policy of Cloud Armor", r.address)
		}
	}
	return append(c, armor(w)...)
}

var methodsRule = regexp.MustCompile(`^!request\.method\.matches\('\^\(([A-Z|]+)\)\$'\)$`)

// armor wants each policy to refuse foreign methods and known attacks, to bound each address, and to let no route's method go unheard.
func armor(w *world) []string {
	var c complaints
	for _, r := range w.of("google_compute_region_security_policy") {
		rules, _ := r.at("rules").([]any)
		var methods []string
		attacks, bound := 0, false
		for _, rule := range rules {
			expression := text(within(rule, "match", "expr", "expression"))
			if m := methodsRule.FindStringSubmatch(expression); m != nil {
				methods = strings.Split(m[1], "|")
			}
			if strings.HasPrefix(expression, "evaluatePreconfiguredWaf(") && strings.HasPrefix(text(within(rule, "action")), "deny") && within(rule, "preview") != true {
				attacks++
			}
			if text(within(rule, "action")) == "rate_based_ban" && number(within(rule, "rate_limit_options", "rate_limit_threshold", "count")) > 0 && text(within(rule, "rate_limit_options", "enforce_on_key")) == "IP" {
				bound = true
			}
		}
		if attacks < 7 || !bound {
			c.add("%s knows %d attacks, and bounds addresses: %t", r.address, attacks, bound)
		}
		for _, f := range w.pipeline.Functions {
			for _, route := range f.Routes {
				if route.Host == r.key && !slices.Contains(methods, route.Method) {
					c.add("%s refuses %s %s", r.address, route.Method, route.Path)
				}
			}
		}
	}
	return c
}

var hosts = map[string]string{"api": "api.example.com", "pages": "connect.example.com"}

// routes plays the load balancer for each public route of pipeline.json, with values for what its path leaves open, and for others that
// no function should hear of.
func routes(w *world) []string {
	var c complaints
	used := map[string]bool{}
	for host := range hosts {
		for _, f := range w.pipeline.Functions {
			for _, r := range f.Routes {
				if r.Host != host {
					continue
				}
				at := regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(strings.TrimSuffix(r.Path, "{$}"), "con_01J8ZK3Q4.x-y~z")
				for _, method := range headed(r.Method) {
					function, rule := w.route(host, hosts[host], method, at)
					if function != f.Name && (method != "HEAD" || function == "") {
						c.add("%s %s on %s reaches %q, want %s", method, r.Path, host, function, f.Name)
					}
					used[rule] = true
				}
			}
		}
		for _, stray := range []string{"/", "/v1", "/v1/", "/v1/connections/x/y/z/w", "/i", "/i/", "/static/a/b", "/answer", "/projects/p/topics/session-requested", "/v1/consents/"} {
			mux := w.mux(host)
			q, _ := http.NewRequest(http.MethodGet, "http://x"+stray, nil)
			if _, pattern := mux.Handler(q); pattern != "" {
				continue
			}
			if function, _ := w.route(host, hosts[host], "GET", stray); function != "" {
				c.add("%s on %s is no route, and reaches %s", stray, host, function)
			}
		}
		if function, _ := w.route(host, "other.example.com", "GET", "/v1/client"); function != "" {
			c.add("another host's name on %s reaches %s", host, function)
		}
		for _, rule := range w.rules(host) {
			if !used[ruleName(host, rule)] {
				c.add("no route is by the rule %s", ruleName(host, rule))
			}
		}
	}
	return c
}

// headed is a method and those that go with it.
func headed(method string) []string {
	if method == http.MethodGet {
		return []string{method, http.MethodHead}
	}
	return []string{method}
}

// mux is a host's routes as Go's own multiplexer has them.
func (w *world) mux(host string) *http.ServeMux {
	mux := http.NewServeMux()
	for _, f := range w.pipeline.Functions {
		for _, r := range f.Routes {
			if r.Host == host {
				mux.Handle(r.Method+" "+r.Path, http.NotFoundHandler())
			}
		}
	}
	return mux
}

// rules are a URL map's, in the order in which Google tries them.
func (w *world) rules(host string) []any {
	for _, m := range w.of("google_compute_region_url_map") {
		if m.key == host {
			rules, _ := m.at("path_matcher", "route_rules").([]any)
			rules = slices.Clone(rules)
			slices.SortFunc(rules, func(a, b any) int { return cmp.Compare(number(within(a, "priority")), number(within(b, "priority"))) })
			return rules
		}
	}
	return nil
}

func ruleName(host string, rule any) string {
	return fmt.Sprintf("%s %v %s%s", host, within(rule, "priority"), text(within(rule, "match_rules", "full_path_match")), text(within(rule, "match_rules", "path_template_match")))
}

// route is the function that a request reaches, by the name of its service; empty if Google answers 404 itself.
func (w *world) route(host, name, method, at string) (function, rule string) {
	for _, m := range w.of("google_compute_region_url_map") {
		if m.key != host {
			continue
		}
		if !slices.Contains(texts(m.at("host_rule", "hosts")), name) {
			return w.otherwise(m.at("default_service"), m.at("default_route_action")), ""
		}
		for _, r := range w.rules(host) {
			if matches(r, method, at) {
				return w.service(text(within(r, "service"))), ruleName(host, r)
			}
		}
		return w.otherwise(m.at("path_matcher", "default_service"), m.at("path_matcher", "default_route_action")), ""
	}
	return "no URL map", ""
}

// otherwise is the function that has what no rule matches, unless that is refused.
func (w *world) otherwise(service, action any) string {
	if number(within(action, "fault_injection_policy", "abort", "http_status")) == 404 && number(within(action, "fault_injection_policy", "abort", "percentage")) == 100 {
		return ""
	}
	return w.service(text(service))
}

// matches says whether a rule is for a request: all that one of its match rules asks for.
func matches(rule any, method, at string) bool {
	list, _ := within(rule, "match_rules").([]any)
	return slices.ContainsFunc(list, func(m any) bool {
		if full := text(within(m, "full_path_match")); full != "" && full != at {
			return false
		}
		if template := text(within(m, "path_template_match")); template != "" && !fits(template, at) {
			return false
		}
		headers, _ := within(m, "header_matches").([]any)
		return !slices.ContainsFunc(headers, func(h any) bool {
			return text(within(h, "header_name")) != ":method" || text(within(h, "exact_match")) != method
		})
	})
}

// invitations wants no log of requests to keep the tokens that stand in paths: those of pages, whose links are sent to investors.
func invitations(w *world) []string {
	var c complaints
	for _, r := range w.of("google_logging_project_sink") {
		if strings.HasPrefix(r.text("filter"), "NOT (") && !strings.Contains(r.text("filter"), `AND NOT httpRequest.requestUrl:"/i/"`) {
			c.add("%s keeps requests for invitations", r.address)
		}
	}
	return c
}

// fits plays a path template: a star is one segment that is not empty.
func fits(template, at string) bool {
	return slices.EqualFunc(strings.Split(template, "/"), strings.Split(at, "/"), func(want, got string) bool {
		return want == got || want == "*" && got != ""
	})
}

// service follows a backend service to the function behind it.
func (w *world) service(name string) string {
	for _, b := range w.of("google_compute_region_backend_service") {
		if "projects/example-sluis-run/regions/europe-west4/backendServices/"+b.text("name") != name {
			continue
		}
		for _, g := range w.of("google_compute_region_network_endpoint_group") {
			if "projects/example-sluis-run/regions/europe-west4/networkEndpointGroups/"+g.text("name") == b.text("backend", "group") {
				return g.text("cloud_run", "service")
			}
		}
	}
	return "nowhere: " + name
}
