# Every validation of a variable, tried with what it must refuse, a mistake in each variable at a time; and the least that it must take. Run by `terraform test`, and by
# test/terraform with the real provider.

variables {
  projects = {
    runtime = { id = "example-run", number = "111111111111" }
    inner   = { id = "example-inner", number = "444444444444" }
    keys    = { id = "example-keys", number = "222222222222" }
    audit   = { id = "example-audit", number = "333333333333" }
  }
  domains  = { api = "api.example.com", pages = "connect.example.com" }
  operator = { name = "Example Data B.V.", authority = "De Nederlandsche Bank", licence = "R123456", privacy = "https://example.com/privacy", contact = "help@example.com" }
}

run "the_first_apply_makes_no_function" {
  command = plan

  assert {
    condition     = length(google_cloudfunctions2_function.function) == 0
    error_message = "There are no sources yet."
  }
  assert {
    condition     = length(google_pubsub_subscription.push) == length([for f in local.functions : f if f.trigger != ""])
    error_message = "Subscriptions do not wait for functions."
  }
}

run "mistakes_first" {
  command = plan

  variables {
    # a project id with capitals
    projects = {
      runtime = { id = "Example", number = "111111111111" }
      inner   = { id = "example-inner", number = "444444444444" }
      keys    = { id = "example-keys", number = "222222222222" }
      audit   = { id = "example-audit", number = "333333333333" }
    }
    # a region in america
    region = "us-central1"
    # a domain with a scheme
    domains = { api = "https://api.example.com", pages = "connect.example.com" }
    # an operator without a name
    operator = { name = "", authority = "BaFin", licence = "10012345", privacy = "https://example.com/privacy", contact = "help@example.com" }
    # a source that is no sum
    sources = { consent = "latest" }
    # a runtime that is not go
    runtime = "nodejs22"
    # settings of no function
    functions = { transfer = { max = 1 } }
    # a public network
    network_range = "8.8.0.0/16"
    # no egress address
    egress_addresses = 0
    # a webhook without a port
    webhooks_allow = ["10.0.0.7"]
    # an interval in words
    refresh_interval = "often"
    # a level that is none
    log_level = "loud"
    # more traces than acts
    traces = 2
    # limits that stop everybody
    rate_limits = { api = 1, pages = 300 }
    # an authority that is no certificate
    client_authorities = ["example"]
    # a program that administers keys
    key_administrators = { keys = ["serviceAccount:x@example-run.iam.gserviceaccount.com"] }
    # a program that keeps secrets
    secret_keepers = ["serviceAccount:x@example-run.iam.gserviceaccount.com"]
    # keys that never rotate
    key_rotation_days = 1000
    # keys destroyed at once
    key_destroy_days = 1
    # labels in capitals
    labels = { Team = "x" }
  }

  expect_failures = [var.projects, var.region, var.domains, var.operator, var.sources, var.runtime, var.functions, var.network_range, var.egress_addresses, var.webhooks_allow, var.refresh_interval, var.log_level, var.traces, var.rate_limits, var.client_authorities, var.key_administrators, var.secret_keepers, var.key_rotation_days, var.key_destroy_days, var.labels]
}

run "mistakes_second" {
  command = plan

  variables {
    # keys in the runtime project
    projects = {
      runtime = { id = "example-run", number = "111111111111" }
      inner   = { id = "example-inner", number = "444444444444" }
      keys    = { id = "example-run", number = "111111111111" }
      audit   = { id = "example-audit", number = "333333333333" }
    }
    # a region in london
    region = "europe-west2"
    # one domain for both
    domains = { api = "api.example.com", pages = "api.example.com" }
    # a privacy notice without https
    operator = { name = "Example Data B.V.", authority = "BaFin", licence = "10012345", privacy = "http://example.com/privacy", contact = "help@example.com" }
    # a source missing
    sources = { consent = "0000000000000000000000000000000000000000000000000000000000000000" }
    # too little memory
    functions = { seal = { memory = 64 } }
    # a small network
    network_range = "10.0.0.0/24"
    # half an egress address
    egress_addresses = 1.5
    # a webhook by name
    webhooks_allow = ["internal.example.com:443"]
    # everybody administers gate 1's key
    key_administrators = { inner = ["allAuthenticatedUsers"] }
  }

  expect_failures = [var.projects, var.region, var.domains, var.operator, var.sources, var.functions, var.network_range, var.egress_addresses, var.webhooks_allow, var.key_administrators]
}

run "mistakes_third" {
  command = plan

  variables {
    # a number with letters
    projects = {
      runtime = { id = "example-run", number = "one" }
      inner   = { id = "example-inner", number = "444444444444" }
      keys    = { id = "example-keys", number = "222222222222" }
      audit   = { id = "example-audit", number = "333333333333" }
    }
    # a multi region
    region = "eur3"
    # three processors
    functions = { seal = { cpu = 3 } }
    # a program dressed as a user
    key_administrators = { inner = ["group:gate@example.com"], keys = ["user:x@example-run.iam.gserviceaccount.com"] }
  }

  expect_failures = [var.projects, var.region, var.functions, var.key_administrators]
}

run "mistakes_fourth" {
  command = plan

  variables {
    # a new project without a folder
    projects = {
      runtime = { id = "example-run" }
      inner   = { id = "example-inner", number = "444444444444" }
      keys    = { id = "example-keys", number = "222222222222" }
      audit   = { id = "example-audit", number = "333333333333" }
    }
    # no instance at all
    functions = { seal = { max = 0 } }
    # one group for both gates
    key_administrators = { inner = ["group:gate@example.com", "group:keys@example.com"], keys = ["group:keys@example.com"] }
  }

  expect_failures = [var.projects, var.functions, var.key_administrators]
}

run "both_gates_in_one_project" {
  command = plan

  variables {
    projects = {
      runtime = { id = "example-run", number = "111111111111" }
      inner   = { id = "example-keys", number = "222222222222" }
      keys    = { id = "example-keys", number = "222222222222" }
      audit   = { id = "example-audit", number = "333333333333" }
    }
    # one person for both gates, written in two ways
    key_administrators = { inner = ["user:anna@example.com"], keys = ["user:Anna@example.com"] }
  }

  expect_failures = [var.projects, var.key_administrators]
}

run "people_for_each_gate" {
  command = plan

  variables {
    key_administrators = { inner = ["group:gate@example.com"] }
  }

  assert {
    condition     = { for project, b in google_project_iam_binding.key_administrators : b.project => b.members } == { "example-inner" = toset(["group:gate@example.com"]) }
    error_message = "Administrators of gate 1's key administer its project, and no other."
  }
}

# Apart from mistakes in projects, which are looked at only where these two are right.
run "mistakes_fifth" {
  command = plan

  variables {
    # a folder with letters
    folder_id = "folders/1"
    # a billing account in small letters
    billing_account = "012345-6789ab-cdef01"
  }

  expect_failures = [var.folder_id, var.billing_account]
}

run "a_custodians_functions_come_from_its_row" {
  command = plan

  assert {
    condition = alltrue([for id in keys(local.custodians) : alltrue([
      contains(keys(google_service_account.function), "extract-${id}"),
      contains(keys(google_service_account.function), "answer-${id}"),
      contains(keys(google_compute_subnetwork.subnet), "bank-${id}"),
      google_pubsub_subscription.push["extract-${id}"].filter == "attributes.custodian = \"${id}\"",
    ])])
    error_message = "A custodian lacks a function, a subnet or its events."
  }
  assert {
    condition     = !contains(keys(local.custodians), "sandbox-comdirect")
    error_message = "The sandbox bank is no custodian in the cloud."
  }
}

run "private_receivers_of_webhooks" {
  command = plan

  variables {
    webhooks_allow = ["10.1.2.3:8443"]
  }

  assert {
    condition     = google_compute_region_network_firewall_policy_rule.egress["webhooks-private-0"].match[0].dest_ip_ranges[0] == "10.1.2.3/32" && local.environment["deliver"].SLUIS_WEBHOOKS_ALLOW == "10.1.2.3:8443"
    error_message = "The firewall and deliver must both be told."
  }
  assert {
    condition     = google_compute_region_network_firewall_policy_rule.egress["webhooks-private-0"].priority < google_compute_region_network_firewall_policy_rule.egress["never"].priority
    error_message = "The rule comes before private addresses are refused."
  }
}
