# What happened, kept where nobody who runs Sluis can change it: audit logs of all projects go to the audit project, twice. Once
# into a locked log bucket, to search; once into a bucket whose retention is locked, to keep. The other logs go there too, so that
# no log lies outside the region. Alerts are in alerts.tf.

variable "audit_days" {
  description = "How long audit logs are kept: to search (the log bucket), and in the archive. Once locked, neither can be shortened, nor a bucket be deleted before its time, by anybody."
  type        = object({ search = optional(number, 400), archive = optional(number, 1827) })
  default     = {}

  validation {
    condition     = var.audit_days.search >= 365 && var.audit_days.search <= 3650 && var.audit_days.archive >= 365 && var.audit_days.archive <= 3650
    error_message = "Audit logs are kept for 365 to 3650 days. The archive's five years are what an account-information provider is usually asked for."
  }
}

variable "audit_locked" {
  description = "Whether retention is locked. False only where an installation is to be taken down again without a trace; what is locked stays locked."
  type        = bool
  default     = true
}

locals {
  # Every read and write of what is worth something, by whoever: data access is not logged unless it is asked for.
  # https://docs.cloud.google.com/logging/docs/audit/configure-data-access
  audited = merge({
    runtime = ["datastore.googleapis.com", "firestore.googleapis.com", "secretmanager.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com", "pubsub.googleapis.com", "storage.googleapis.com"]
    audit   = ["iam.googleapis.com", "iamcredentials.googleapis.com", "logging.googleapis.com", "pubsub.googleapis.com", "storage.googleapis.com"]
  }, { for project in local.key_projects : project => ["cloudkms.googleapis.com", "iam.googleapis.com"] })

  # Who did what; what Google's own people did is in access_transparency.
  audit_log = join(" OR ", [for l in ["cloudaudit.googleapis.com/activity", "cloudaudit.googleapis.com/data_access", "cloudaudit.googleapis.com/policy", "cloudaudit.googleapis.com/system_event", "cloudaudit.googleapis.com/access_transparency"] : "log_id(\"${l}\")"])

  # A request for an invitation has its single-use token in its path (/i/{token}), and logs hold no secrets: nobody keeps such a line.
  invitation = "httpRequest.requestUrl:\"/i/\""

  log_buckets = {
    audit      = { days = var.audit_days.search, locked = var.audit_locked, why = "Who did what, in all projects." }
    operations = { days = 30, locked = false, why = "What functions, load balancer and builds say. No personal data but addresses of callers." }
  }

  # "_Default" is there in every project, and would keep logs anywhere in the world: it is taken over.
  sinks = merge([for project in keys(local.projects) : {
    "${project}/audit"      = { project = project, name = "sluis-audit", bucket = "audit", filter = local.audit_log }
    "${project}/archive"    = { project = project, name = "sluis-archive", bucket = "archive", filter = local.audit_log }
    "${project}/operations" = { project = project, name = "_Default", bucket = "operations", filter = "NOT (${local.audit_log}) AND NOT ${local.invitation}" }
  }]...)
}

resource "google_project_iam_audit_config" "access" {
  for_each = merge([for project, services in local.audited : { for s in services : "${project}/${s}" => { project = project, service = s } }]...)

  project = local.projects[each.value.project]
  service = each.value.service

  dynamic "audit_log_config" {
    for_each = ["ADMIN_READ", "DATA_READ", "DATA_WRITE"]
    content {
      log_type = audit_log_config.value # and nobody is exempted
    }
  }
}

resource "google_logging_project_bucket_config" "logs" {
  for_each = local.log_buckets

  project        = local.projects.audit
  location       = var.region
  bucket_id      = "sluis-${each.key}"
  description    = each.value.why
  retention_days = each.value.days
  locked         = each.value.locked

  cmek_settings {
    kms_key_name = local.key_ids["store-logs"]
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

# Write once: not even the owner of the organisation can change or remove an object before its time.
resource "google_storage_bucket" "audit" {
  project                     = local.projects.audit
  name                        = "${local.projects.audit}-archive"
  location                    = var.region
  storage_class               = "STANDARD"
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  retention_policy {
    is_locked        = var.audit_locked
    retention_period = tostring(var.audit_days.archive * 86400)
  }

  encryption {
    default_kms_key_name = local.key_ids["store-audit"]
  }

  lifecycle_rule {
    condition {
      age = 92
    }
    action {
      type          = "SetStorageClass"
      storage_class = "ARCHIVE"
    }
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key, google_org_policy_policy.policy]
}

resource "google_logging_project_sink" "sink" {
  for_each = local.sinks

  project                = local.projects[each.value.project]
  name                   = each.value.name
  filter                 = each.value.filter
  unique_writer_identity = true
  destination = (each.value.bucket == "archive" ? "storage.googleapis.com/${google_storage_bucket.audit.name}"
  : "logging.googleapis.com/projects/${local.projects.audit}/locations/${var.region}/buckets/${google_logging_project_bucket_config.logs[each.value.bucket].bucket_id}")

  depends_on = [google_project_service.service]
}

# Sinks write, and nothing else: not even read. Those of the audit project reach its log buckets without being let in.
resource "google_storage_bucket_iam_binding" "archive" {
  bucket  = google_storage_bucket.audit.name
  role    = "roles/storage.objectCreator"
  members = [for name, s in local.sinks : google_logging_project_sink.sink[name].writer_identity if s.bucket == "archive"]
}

resource "google_project_iam_member" "sink" {
  for_each = { for name, s in local.sinks : name => s if s.bucket != "archive" && s.project != "audit" }

  project = local.projects.audit
  role    = "roles/logging.bucketWriter"
  member  = google_logging_project_sink.sink[each.key].writer_identity

  condition {
    title      = "into ${each.value.bucket}"
    expression = "resource.name.endsWith(\"locations/${var.region}/buckets/${google_logging_project_bucket_config.logs[each.value.bucket].bucket_id}\")"
  }
}

# Functions tell their metrics and traces to Google's OTLP endpoint (shared/observe).
resource "google_project_service" "watch" {
  for_each = { for s in concat(["runtime/telemetry", "runtime/cloudtrace"], [for project in local.key_projects : "${project}/monitoring"]) : s => split("/", s) }

  project            = local.projects[each.value[0]]
  service            = "${each.value[1]}.googleapis.com"
  disable_on_destroy = false
}

resource "google_project_iam_binding" "telemetry" {
  for_each = toset(["roles/telemetry.metricsWriter", "roles/telemetry.tracesWriter"])

  project = local.projects.runtime
  role    = each.key
  members = [for f in sort(keys(local.functions)) : google_service_account.function[f].member]
}

# Whoever watches looks at all of them from the audit project.
resource "google_monitoring_monitored_project" "watched" {
  for_each = setunion(["runtime"], local.key_projects)

  metrics_scope = "locations/global/metricsScopes/${local.projects.audit}"
  name          = local.projects[each.key]

  depends_on = [google_project_service.service, google_project_service.watch]
}
