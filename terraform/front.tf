# The two front doors: the clients' API and the investors' pages. Each has its own address, certificate, limits and routes, and reaches only
# the functions that have routes on it. They are regional load balancers, so that TLS ends in the region, too.

locals {
  # Every public route of schemas/pipeline.json, by host, with each {name} of its path as a star.
  routes = { for host in keys(var.domains) : host => flatten([for f in local.functions : [for r in local.route_list[f.function] : {
    function = f.name, method = r.method, path = replace(trimsuffix(r.path, "{$}"), "/\\{[a-z]+\\}/", "*")
  } if r.host == host]]) }
  route_list = { for f in local.pipeline.functions : f.name => f.routes }

  # Which functions share a path, in the order of pipeline.json. The first answers whatever no other asks for by its method: so a method that
  # nobody has is refused by a function, in our words.
  sharing = { for host, routes in local.routes : host => { for path in distinct(routes[*].path) : path =>
  [for f in local.pipeline.functions : f.name if contains([for r in routes : r.function if r.path == path], f.name)] } }

  # Rules in the order in which they are tried: fixed paths before such with stars, a method's own before the rest of its path.
  rules = { for host, routes in local.routes : host => values(merge(
    { for path, functions in local.sharing[host] : format("%02d %s 1", length(split("*", path)), path) => { path = path, method = "", function = functions[0] } },
    { for r in routes : format("%02d %s 0 %s", length(split("*", r.path)), r.path, r.method) => { path = r.path, method = r.method, function = r.function } if r.function != local.sharing[host][r.path][0] },
  )) }

  doors   = { for pair in distinct(flatten([for host, routes in local.routes : [for r in routes : { host = host, function = r.function }]])) : "${pair.host}-${pair.function}" => pair }
  methods = { for host, routes in local.routes : host => sort(distinct(concat(["HEAD"], routes[*].method))) }

  backends = { for name, b in google_compute_region_backend_service.function : name => "${local.compute}/backendServices/${b.name}" }

  attacks = ["sqli", "xss", "lfi", "rce", "scannerdetection", "protocolattack", "sessionfixation"]
}

resource "google_compute_address" "front" {
  for_each = var.domains

  project      = local.projects.runtime
  region       = var.region
  name         = "front-${each.key}"
  description  = "${each.value} is here."
  address_type = "EXTERNAL"
  network_tier = "PREMIUM"

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.service]
}

resource "google_certificate_manager_dns_authorization" "front" {
  for_each = var.domains

  project     = local.projects.runtime
  location    = var.region
  name        = "front-${each.key}"
  description = "Shows that ${each.value} is ours."
  domain      = each.value
  type        = "PER_PROJECT_RECORD"
  labels      = local.labels

  depends_on = [google_project_service.service]
}

resource "google_certificate_manager_certificate" "front" {
  for_each = var.domains

  project     = local.projects.runtime
  location    = var.region
  name        = "front-${each.key}"
  description = "Google renews it."
  labels      = local.labels

  managed {
    domains            = [each.value]
    dns_authorizations = ["${local.place}/dnsAuthorizations/${google_certificate_manager_dns_authorization.front[each.key].name}"]
  }
}

resource "google_compute_region_ssl_policy" "front" {
  project         = local.projects.runtime
  region          = var.region
  name            = "front"
  description     = "TLS 1.2 and 1.3, with forward secrecy and authenticated encryption only."
  profile         = "RESTRICTED"
  min_tls_version = "TLS_1_2"

  depends_on = [google_project_service.service]
}

# Clients' own certificates, if they are asked for: on the API only, as investors have none.
resource "google_certificate_manager_trust_config" "clients" {
  count = length(var.client_authorities) > 0 ? 1 : 0

  project     = local.projects.runtime
  location    = var.region
  name        = "clients"
  description = "The authorities that clients' certificates come from."
  labels      = local.labels

  trust_stores {
    dynamic "trust_anchors" {
      for_each = var.client_authorities
      content {
        pem_certificate = trust_anchors.value
      }
    }
  }

  depends_on = [google_project_service.service]
}

resource "google_network_security_server_tls_policy" "clients" {
  count = length(google_certificate_manager_trust_config.clients)

  project     = local.projects.runtime
  location    = var.region
  name        = "clients"
  description = "Nobody reaches the API without a client's certificate."
  labels      = local.labels

  mtls_policy {
    client_validation_mode         = "REJECT_INVALID"
    client_validation_trust_config = "${local.place}/trustConfigs/${google_certificate_manager_trust_config.clients[0].name}"
  }
}

resource "google_compute_region_security_policy" "front" {
  for_each = var.domains

  project     = local.projects.runtime
  region      = var.region
  name        = "front-${each.key}"
  description = "What is refused before any function runs."
  type        = "CLOUD_ARMOR"

  advanced_options_config {
    json_parsing = "STANDARD"
    log_level    = "NORMAL" # VERBOSE would log parts of bodies
  }

  rules {
    priority    = 100
    action      = "deny(405)"
    description = "methods that no route has"
    match {
      expr {
        expression = "!request.method.matches('^(${join("|", local.methods[each.key])})$')"
      }
    }
  }

  dynamic "rules" {
    for_each = local.attacks
    content {
      priority    = 1000 + rules.key
      action      = "deny(403)"
      description = rules.value
      match {
        expr {
          expression = "evaluatePreconfiguredWaf('${rules.value}-v33-stable', {'sensitivity': 1})"
        }
      }
    }
  }

  rules {
    priority    = 2000
    action      = "rate_based_ban"
    description = "who asks too often"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action   = "allow"
      exceed_action    = "deny(429)"
      enforce_on_key   = "IP"
      ban_duration_sec = 600
      rate_limit_threshold {
        count        = var.rate_limits[each.key]
        interval_sec = 60
      }
      ban_threshold {
        count        = var.rate_limits[each.key] * 10
        interval_sec = 60
      }
    }
  }

  rules {
    priority    = 2147483647
    action      = "deny(403)"
    description = "never reached: the rule above decides for everybody"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }

  depends_on = [google_project_service.service]
}

resource "google_compute_region_network_endpoint_group" "function" {
  for_each = toset(distinct([for d in local.doors : d.function]))

  project               = local.projects.runtime
  region                = var.region
  name                  = each.key
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = each.key # a function's service has its name
  }

  depends_on = [google_project_service.service]
}

resource "google_compute_region_backend_service" "function" {
  for_each = local.doors

  project               = local.projects.runtime
  region                = var.region
  name                  = each.key
  description           = "${each.value.function} behind ${var.domains[each.value.host]}."
  protocol              = "HTTPS"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  security_policy       = "${local.compute}/securityPolicies/${google_compute_region_security_policy.front[each.value.host].name}"

  backend {
    group           = "${local.compute}/networkEndpointGroups/${google_compute_region_network_endpoint_group.function[each.value.function].name}"
    balancing_mode  = "UTILIZATION"
    capacity_scaler = 1
  }

  log_config {
    enable      = true
    sample_rate = 1
  }
}

resource "google_compute_region_url_map" "front" {
  for_each = var.domains

  project         = local.projects.runtime
  region          = var.region
  name            = "front-${each.key}"
  description     = "From schemas/pipeline.json."
  default_service = local.backends["${each.key}-${local.rules[each.key][0].function}"]

  # What is no route reaches no function.
  default_route_action {
    fault_injection_policy {
      abort {
        http_status = 404
        percentage  = 100
      }
    }
  }

  host_rule {
    hosts        = [each.value]
    path_matcher = "routes"
  }

  path_matcher {
    name            = "routes"
    default_service = local.backends["${each.key}-${local.rules[each.key][0].function}"]

    default_route_action {
      fault_injection_policy {
        abort {
          http_status = 404
          percentage  = 100
        }
      }
    }

    dynamic "route_rules" {
      for_each = local.rules[each.key]
      content {
        priority = route_rules.key + 1
        service  = local.backends["${each.key}-${route_rules.value.function}"]

        match_rules {
          full_path_match     = strcontains(route_rules.value.path, "*") ? null : route_rules.value.path
          path_template_match = strcontains(route_rules.value.path, "*") ? route_rules.value.path : null

          dynamic "header_matches" {
            for_each = route_rules.value.method == "" ? [] : [route_rules.value.method]
            content {
              header_name = ":method"
              exact_match = header_matches.value
            }
          }
        }
      }
    }
  }
}

resource "google_compute_region_target_https_proxy" "front" {
  for_each = var.domains

  project                          = local.projects.runtime
  region                           = var.region
  name                             = "front-${each.key}"
  description                      = each.value
  url_map                          = "${local.compute}/urlMaps/${google_compute_region_url_map.front[each.key].name}"
  certificate_manager_certificates = ["//certificatemanager.googleapis.com/${local.place}/certificates/${google_certificate_manager_certificate.front[each.key].name}"]
  ssl_policy                       = "${local.compute}/sslPolicies/${google_compute_region_ssl_policy.front.name}"
  server_tls_policy                = each.key == "api" ? one([for p in google_network_security_server_tls_policy.clients : "//networksecurity.googleapis.com/${local.place}/serverTlsPolicies/${p.name}"]) : null
}

# Port 443 only: nobody is led to type a password over plain HTTP.
resource "google_compute_forwarding_rule" "front" {
  for_each = var.domains

  project               = local.projects.runtime
  region                = var.region
  name                  = "front-${each.key}"
  description           = each.value
  load_balancing_scheme = "EXTERNAL_MANAGED"
  network_tier          = "PREMIUM"
  network               = local.network
  ip_address            = "${local.compute}/addresses/${google_compute_address.front[each.key].name}"
  ip_protocol           = "TCP"
  port_range            = "443"
  target                = "${local.compute}/targetHttpsProxies/${google_compute_region_target_https_proxy.front[each.key].name}"
  labels                = local.labels

  depends_on = [google_compute_subnetwork.proxies]
}
