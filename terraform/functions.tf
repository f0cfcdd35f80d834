# The functions: each from its staged source, with an identity, an environment and a subnet of its own.

locals {
  # Memory in MiB, timeout in seconds. A function that is missing here takes the first row.
  defaults = {
    ""        = { memory = 256, cpu = 1, concurrency = 40, timeout = 60, min = 0, max = 20 }
    consent   = { min = 1 } # an investor does not wait for a cold start on a page
    seal      = { min = 1 }
    challenge = { timeout = 660, concurrency = 200, min = 1 } # holds a stream of events for up to ten minutes
    extract   = { memory = 512, concurrency = 8, timeout = 540 }
    answer    = { memory = 512, concurrency = 8, timeout = 150 } # challenge waits two minutes
    notify    = { concurrency = 20 }
    deliver   = { concurrency = 20 }
    sweep     = { timeout = 90, concurrency = 1, max = 2 }
  }

  settings = { for name, f in local.functions : name => merge(local.defaults[""], try(local.defaults[f.function], {}),
  [for o in [f.function, name] : { for k, v in try(var.functions[o], {}) : k => v if v != null }]...) }

  # What a function's environment says, as shared/backend/gcp/cloud.go reads it: what it needs and nothing else.
  environment = { for name, f in local.functions : name => merge(
    {
      GOOGLE_CLOUD_PROJECT = local.projects.runtime
      SLUIS_REGION         = var.region
      SLUIS_DATABASE       = google_firestore_database.documents.name
      SLUIS_LOG_LEVEL      = var.log_level

      OTEL_EXPORTER_OTLP_ENDPOINT = "https://telemetry.googleapis.com"
      OTEL_TRACES_SAMPLER         = "parentbased_traceidratio"
      OTEL_TRACES_SAMPLER_ARG     = tostring(var.traces)
    },
    { for key in setunion(f.close, f.open, f.shows, f.holds) : "SLUIS_KEY_${upper(key)}" => local.key_ids[key] if contains(keys(local.keys), key) },
    { for held in [join(",", [for h in f.holds : h if !contains(keys(local.keys), h)])] : "SLUIS_HOLDS" => held if held != "" },
    length(f.shards) == 0 ? {} : { SLUIS_SHARDS = google_firestore_database.shards.name },
    { for custodian in [f.custodian] : "SLUIS_CUSTODIAN" => custodian if custodian != "" },
    { for at in [one([for c in f.calls : "https://${c}-{custodian}-${local.numbers.runtime}.${var.region}.run.app"])] : "SLUIS_ANSWER_URL" => at if at != null },
    length(local.callers[name]) == 0 ? {} : {
      SLUIS_AUDIENCE = local.urls[name]
      SLUIS_CALLERS  = join(",", local.callers[name])
    },
    f.function != "consent" ? {} : {
      SLUIS_CUSTODIANS = join(",", keys(local.custodians))
      SLUIS_PAGES_URL  = "https://${var.domains.pages}"
    },
    f.function != "portfolio" || var.refresh_interval == "" ? {} : { SLUIS_REFRESH_INTERVAL = var.refresh_interval },
    !contains(["deliver", "endpoints"], f.function) || length(var.webhooks_allow) == 0 ? {} : { SLUIS_WEBHOOKS_ALLOW = join(",", sort(var.webhooks_allow)) },
  ) }

  # The service accounts that call a function; the public ones are called by everybody.
  callers = { for name, f in local.functions : name => compact([
    f.trigger == "" ? "" : google_service_account.helper["push"].email,
    f.schedule == "" ? "" : google_service_account.helper["clock"].email,
    length(f.callers) == 0 ? "" : join(",", [for c in f.callers : google_service_account.function[c].email]),
  ]) }

  deployed = length(var.sources) == 0 ? {} : local.functions
}

# Zips are named by their content. None can be changed or removed for a quarter: what ran can be read, and rolled back to.
resource "google_storage_bucket" "sources" {
  project                     = local.projects.runtime
  name                        = "${local.projects.runtime}-sources"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  encryption {
    default_kms_key_name = local.key_ids["store-functions"]
  }

  retention_policy {
    retention_period = "7776000"
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key, google_org_policy_policy.policy]
}

resource "google_artifact_registry_repository" "functions" {
  project       = local.projects.runtime
  location      = var.region
  repository_id = "functions"
  format        = "DOCKER"
  description   = "Images of the functions, as Cloud Build made them."
  kms_key_name  = local.key_ids["store-functions"]
  labels        = local.labels

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

resource "google_cloudfunctions2_function" "function" {
  for_each = local.deployed

  project      = local.projects.runtime
  location     = var.region
  name         = each.key
  description  = each.value.why
  kms_key_name = local.key_ids["store-functions"]
  labels       = local.labels

  build_config {
    runtime           = var.runtime
    entry_point       = each.value.entry_point
    docker_repository = "${local.place}/repositories/${google_artifact_registry_repository.functions.repository_id}"
    service_account   = "projects/${local.projects.runtime}/serviceAccounts/${local.accounts.builder}"

    source {
      storage_source {
        bucket = google_storage_bucket.sources.name
        object = "functions/${each.value.folder}-${var.sources[each.value.folder]}.zip"
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.function[each.key].email
    environment_variables            = local.environment[each.key]
    ingress_settings                 = each.value.public ? "ALLOW_INTERNAL_AND_GCLB" : "ALLOW_INTERNAL_ONLY"
    all_traffic_on_latest_revision   = var.all_traffic
    available_memory                 = "${local.settings[each.key].memory}Mi"
    available_cpu                    = tostring(local.settings[each.key].cpu)
    max_instance_request_concurrency = local.settings[each.key].concurrency
    timeout_seconds                  = local.settings[each.key].timeout
    min_instance_count               = local.settings[each.key].min
    max_instance_count               = local.settings[each.key].max
    direct_vpc_egress                = "VPC_EGRESS_ALL_TRAFFIC"

    direct_vpc_network_interface {
      network    = local.network
      subnetwork = "${local.compute}/subnetworks/${google_compute_subnetwork.subnet[local.subnet_of[each.key]].name}"
    }
  }

  # A function that starts before it may use its keys would fail its first requests.
  depends_on = [google_kms_crypto_key_iam_policy.key, google_secret_manager_secret_iam_policy.secret, google_project_iam_binding.documents,
    google_artifact_registry_repository_iam_binding.builder, google_storage_bucket_iam_binding.builder, google_project_iam_member.builder_logs,
  google_project_iam_member.builder_sources]
}

# Who may call: everybody, through the load balancer only, where there is a public route; else the account that calls and no other.
resource "google_cloud_run_v2_service_iam_binding" "callers" {
  for_each = local.deployed

  project  = local.projects.runtime
  location = var.region
  name     = google_cloudfunctions2_function.function[each.key].name
  role     = "roles/run.invoker"
  members  = each.value.public ? ["allUsers"] : [for c in local.callers[each.key] : "serviceAccount:${c}"]
}
