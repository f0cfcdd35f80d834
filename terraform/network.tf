# Where functions may go. All their traffic passes this network. Google's own services are reached privately; a custodian's function
# reaches that custodian and no other host; the one that sends webhooks reaches any public address at port 443; the rest reach
# nothing. Banks and clients see our static addresses only.

locals {
  # A subnet for each kind of way out: instances get any address of it, so it is the subnet that rules can name.
  subnet_of = { for name, f in local.functions : name =>
    f.custodian != "" ? "bank-${f.custodian}" :
    contains(f.open, "webhook") ? "webhooks" : # who opens the secrets that sign webhooks sends them
  f.public ? "front" : "inside" }

  # Places in network_range do not move when a custodian is added at the end of custodians.json.
  ranges = merge(
    { proxies = cidrsubnet(var.network_range, 10, 0) }, # of the load balancers
    { for i, name in ["front", "inside", "webhooks"] : name => cidrsubnet(var.network_range, 8, i + 1) },
    { for i, c in local.catalogue : "bank-${c.id}" => cidrsubnet(var.network_range, 10, i + 16) if contains(keys(local.custodians), c.id) },
  )

  network = "projects/${local.projects.runtime}/global/networks/${google_compute_network.network.name}"

  google_api = "199.36.153.8/30" # private.googleapis.com
  # Functions that only some may call read the keys of the ID tokens' issuer (shared/serve/callers.go); it has no private address.
  issuer = "accounts.google.com"

  # What leaves to the internet: by subnet, the hosts. "*" is any public address.
  hosts = merge(
    { inside = [local.issuer], webhooks = ["*"] },
    { for id, c in local.custodians : "bank-${id}" => sort(distinct(concat([local.issuer], [for e in values(c.endpoints) : regex("^https://([^/:]+)", e)[0]]))) },
  )

  # In the order of priority: Google, private receivers of webhooks, no other private address under any name, hosts, the rest.
  firewall = concat(
    [{ priority = 10, action = "allow", from = [var.network_range], to = [local.google_api], hosts = [], ports = ["443"], name = "google" }],
    [for i, a in sort(var.webhooks_allow) : {
      priority = 100 + i, action = "allow", from = [local.ranges.webhooks], to = ["${split(":", a)[0]}/32"], hosts = [], ports = [split(":", a)[1]]
      name     = "webhooks-private-${i}"
    }],
    [{ priority = 500, action = "deny", from = [var.network_range], to = local.never, hosts = [], ports = [], name = "never" }],
    [for i, subnet in sort(keys(local.hosts)) : {
      priority = 1000 + i, action = "allow", from = [local.ranges[subnet]], to = [], hosts = local.hosts[subnet], ports = ["443"]
      name     = "${subnet}-hosts"
    } if !contains(local.hosts[subnet], "*")],
    [
      { priority = 100000, action = "allow", from = [local.ranges.webhooks], to = ["0.0.0.0/0"], hosts = [], ports = ["443"], name = "webhooks-public" },
      { priority = 1000000, action = "deny", from = [var.network_range], to = ["0.0.0.0/0"], hosts = [], ports = [], name = "rest" },
    ],
  )

  # Private, shared, link-local and reserved addresses (RFC 6890).
  never = ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3"]
}

resource "google_compute_network" "network" {
  project                                   = local.projects.runtime
  name                                      = "sluis"
  description                               = "What functions reach the world through."
  auto_create_subnetworks                   = false
  routing_mode                              = "REGIONAL"
  network_firewall_policy_enforcement_order = "BEFORE_CLASSIC_FIREWALL"

  depends_on = [google_project_service.service]
}

resource "google_compute_subnetwork" "subnet" {
  for_each = { for name, range in local.ranges : name => range if name != "proxies" }

  project                  = local.projects.runtime
  region                   = var.region
  name                     = each.key
  network                  = local.network
  ip_cidr_range            = each.value
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_1_MIN"
    flow_sampling        = 0.5
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_subnetwork" "proxies" {
  project       = local.projects.runtime
  region        = var.region
  name          = "proxies"
  network       = local.network
  ip_cidr_range = local.ranges.proxies
  purpose       = "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

resource "google_compute_address" "egress" {
  count = var.egress_addresses

  project      = local.projects.runtime
  region       = var.region
  name         = "egress-${count.index}"
  description  = "Requests to banks and webhooks come from here."
  address_type = "EXTERNAL"
  network_tier = "PREMIUM"

  lifecycle {
    prevent_destroy = true # it is on the lists of banks and clients
  }

  depends_on = [google_project_service.service]
}

resource "google_compute_router" "router" {
  project = local.projects.runtime
  region  = var.region
  name    = "sluis"
  network = local.network
}

# Subnets without hosts have no way out at all.
resource "google_compute_router_nat" "nat" {
  project                             = local.projects.runtime
  region                              = var.region
  name                                = "sluis"
  router                              = google_compute_router.router.name
  nat_ip_allocate_option              = "MANUAL_ONLY"
  nat_ips                             = [for a in google_compute_address.egress : "${local.compute}/addresses/${a.name}"]
  source_subnetwork_ip_ranges_to_nat  = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false
  min_ports_per_vm                    = 64
  max_ports_per_vm                    = 4096

  dynamic "subnetwork" {
    for_each = toset(keys(local.hosts))
    content {
      name                    = "${local.compute}/subnetworks/${google_compute_subnetwork.subnet[subnetwork.key].name}"
      source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
    }
  }

  log_config {
    enable = true
    filter = "ALL"
  }
}

resource "google_compute_region_network_firewall_policy" "egress" {
  project     = local.projects.runtime
  region      = var.region
  name        = "sluis-egress"
  description = "Where functions may go."

  depends_on = [google_project_service.service]
}

resource "google_compute_region_network_firewall_policy_association" "egress" {
  project           = local.projects.runtime
  region            = var.region
  name              = "sluis"
  attachment_target = local.network
  firewall_policy   = google_compute_region_network_firewall_policy.egress.id
}

resource "google_compute_region_network_firewall_policy_rule" "egress" {
  for_each = { for r in local.firewall : r.name => r }

  project         = local.projects.runtime
  region          = var.region
  firewall_policy = google_compute_region_network_firewall_policy.egress.name
  rule_name       = each.key
  priority        = each.value.priority
  direction       = "EGRESS"
  action          = each.value.action
  enable_logging  = each.value.action == "deny"

  match {
    src_ip_ranges  = each.value.from
    dest_ip_ranges = each.value.to
    dest_fqdns     = each.value.hosts

    layer4_configs {
      ip_protocol = length(each.value.ports) > 0 ? "tcp" : "all"
      ports       = each.value.ports
    }
  }
}

# Google's services, functions included, under their usual names at their private addresses.
resource "google_dns_managed_zone" "google" {
  for_each = { googleapis = "googleapis.com.", run = "run.app." }

  project     = local.projects.runtime
  name        = each.key
  dns_name    = each.value
  description = "${each.value} at Google's private addresses."
  visibility  = "private"
  labels      = local.labels

  private_visibility_config {
    networks {
      network_url = local.network
    }
  }
}

locals {
  # The apex of a zone can be no alias.
  private_apex = { googleapis = "private.googleapis.com.", run = "run.app." }
}

resource "google_dns_record_set" "private" {
  for_each = local.private_apex

  project      = local.projects.runtime
  managed_zone = google_dns_managed_zone.google[each.key].name
  name         = each.value
  type         = "A"
  ttl          = 300
  rrdatas      = [for i in range(4) : cidrhost(local.google_api, i)]
}

resource "google_dns_record_set" "all" {
  for_each = local.private_apex

  project      = local.projects.runtime
  managed_zone = google_dns_managed_zone.google[each.key].name
  name         = "*.${google_dns_managed_zone.google[each.key].dns_name}"
  type         = "CNAME"
  ttl          = 300
  rrdatas      = [each.value]
}
