# From a commit to what runs. Two identities in the audit project, out of reach of those who run the others: one tests, stages and
# plans, and changes nothing; the other applies a plan that somebody approved, and nobody can act as it but Cloud Build, which runs only
# what was approved as it. The steps are in ../cloudbuild.yaml and release.yaml.

variable "build" {
  description = "How commits become releases: null where people apply from their own machines. repository is the one connected to Cloud Build by hand (projects/P/locations/REGION/connections/C/repositories/R, in the audit project), state the bucket of Terraform's state, root the folder that Terraform runs in, approvers those who may approve a release."
  type = object({
    repository = string
    state      = string
    approvers  = set(string)
    branch     = optional(string, "^main$")
    root       = optional(string, "terraform/examples/production")
  })
  default = null

  validation {
    condition     = var.build == null || can(regex("^projects/[^/]+/locations/${var.region}/connections/[^/]+/repositories/[^/]+$", var.build.repository))
    error_message = "The repository is one that Cloud Build is connected to, in the region."
  }
  validation {
    condition     = var.build == null ? true : length(var.build.approvers) > 0 && alltrue([for m in var.build.approvers : can(regex("^(group|user):[^@]+@[^@]+$", m)) && !can(regex("gserviceaccount\\.com$", m))])
    error_message = "Releases are approved by people: group:releases@example.com. A service account is none."
  }
}

locals {
  builds = var.build == null ? {} : {
    plan    = "Tests, stages and plans; changes nothing"
    release = "Applies what was approved"
  }
  built = length(local.builds) > 0

  release = yamldecode(file("${path.module}/release.yaml"))

  # Everything that Terraform looks at when it plans, and what a role of Google's would give besides (documents, values of secrets,
  # logs) left out. The releasing identity can change all of it, use no key, and read no secret and no document.
  looks_at = merge({
    runtime = ["roles/artifactregistry.reader", "roles/certificatemanager.viewer", "roles/cloudfunctions.viewer", "roles/cloudscheduler.viewer",
    "roles/compute.viewer", "roles/dns.reader", "roles/iam.securityReviewer", "roles/monitoring.viewer", "roles/pubsub.viewer", "roles/run.viewer", "roles/serviceusage.serviceUsageViewer"]
    audit = ["roles/cloudbuild.builds.viewer", "roles/iam.securityReviewer", "roles/monitoring.viewer", "roles/pubsub.viewer", "roles/serviceusage.serviceUsageViewer"]
  }, { for project in local.key_projects : project => ["roles/iam.securityReviewer", "roles/monitoring.viewer", "roles/serviceusage.serviceUsageViewer"] })
  looks_after = merge({
    runtime = ["roles/artifactregistry.admin", "roles/certificatemanager.owner", "roles/cloudfunctions.admin", "roles/cloudscheduler.admin", "roles/compute.loadBalancerAdmin",
      "roles/compute.networkAdmin", "roles/compute.securityAdmin", "roles/iam.roleAdmin", "roles/iam.securityReviewer", "roles/iam.serviceAccountAdmin", "roles/logging.configWriter", "roles/monitoring.editor",
    "roles/pubsub.admin", "roles/resourcemanager.projectIamAdmin", "roles/run.admin", "roles/serviceusage.serviceUsageAdmin"]
    audit = ["roles/cloudbuild.builds.editor", "roles/iam.roleAdmin", "roles/iam.securityReviewer", "roles/iam.serviceAccountAdmin", "roles/logging.configWriter", "roles/monitoring.editor", "roles/pubsub.admin", "roles/resourcemanager.projectIamAdmin", "roles/serviceusage.serviceUsageAdmin"]
  }, { for project in local.key_projects : project => ["roles/iam.roleAdmin", "roles/iam.securityReviewer", "roles/logging.configWriter", "roles/monitoring.editor", "roles/resourcemanager.projectIamAdmin", "roles/serviceusage.serviceUsageAdmin"] })
  permissions = {
    plan = merge({
      runtime = ["resourcemanager.projects.get", "secretmanager.secrets.get", "secretmanager.secrets.getIamPolicy", "secretmanager.secrets.list", "datastore.databases.get", "datastore.databases.getMetadata", "datastore.databases.list", "datastore.indexes.get", "datastore.indexes.list", "datastore.backupSchedules.get", "datastore.backupSchedules.list",
      "logging.exclusions.get", "logging.logMetrics.get", "logging.sinks.get", "networksecurity.serverTlsPolicies.get", "storage.buckets.get", "storage.buckets.getIamPolicy"]
      audit = ["resourcemanager.projects.get", "logging.buckets.get", "logging.sinks.get", "logging.logMetrics.get", "storage.buckets.get", "storage.buckets.getIamPolicy"]
    }, { for project in local.key_projects : project => ["resourcemanager.projects.get", "cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.getIamPolicy", "cloudkms.cryptoKeys.list", "cloudkms.cryptoKeyVersions.get", "cloudkms.cryptoKeyVersions.list", "cloudkms.keyRings.get", "cloudkms.keyRings.list", "logging.logMetrics.get", "logging.sinks.get"] })
    release = merge({
      runtime = ["resourcemanager.projects.get", "datastore.databases.create", "datastore.databases.get", "datastore.databases.getMetadata", "datastore.databases.list", "datastore.databases.update", "datastore.indexes.create", "datastore.indexes.delete",
        "datastore.indexes.get", "datastore.indexes.list", "datastore.indexes.update", "datastore.operations.get", "datastore.backupSchedules.create", "datastore.backupSchedules.get", "datastore.backupSchedules.list", "datastore.backupSchedules.update",
        "dns.managedZones.create", "dns.managedZones.get", "dns.managedZones.list", "dns.managedZones.update", "dns.policies.create", "dns.policies.get", "dns.policies.update", "dns.networks.bindPrivateDNSZone", "dns.networks.bindPrivateDNSPolicy",
        "dns.changes.create", "dns.changes.get", "dns.resourceRecordSets.create", "dns.resourceRecordSets.get", "dns.resourceRecordSets.list", "dns.resourceRecordSets.update", "dns.resourceRecordSets.delete",
        "networksecurity.serverTlsPolicies.create", "networksecurity.serverTlsPolicies.delete", "networksecurity.serverTlsPolicies.get", "networksecurity.serverTlsPolicies.update", "networksecurity.serverTlsPolicies.use", "networksecurity.operations.get",
        "secretmanager.secrets.create", "secretmanager.secrets.get", "secretmanager.secrets.getIamPolicy", "secretmanager.secrets.list", "secretmanager.secrets.setIamPolicy", "secretmanager.secrets.update",
      "storage.buckets.create", "storage.buckets.get", "storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy", "storage.buckets.update"]
      audit = ["resourcemanager.projects.get", "storage.buckets.create", "storage.buckets.get", "storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy", "storage.buckets.update"]
      }, { for project in local.key_projects : project =>
      ["resourcemanager.projects.get", "cloudkms.cryptoKeys.create", "cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.getIamPolicy", "cloudkms.cryptoKeys.list", "cloudkms.cryptoKeys.setIamPolicy", "cloudkms.cryptoKeys.update", "cloudkms.cryptoKeyVersions.get",
    "cloudkms.cryptoKeyVersions.list", "cloudkms.keyRings.create", "cloudkms.keyRings.get", "cloudkms.keyRings.getIamPolicy", "cloudkms.keyRings.list", "cloudkms.locations.get", "cloudkms.locations.list"] })
  }
  accesses = merge([for who in keys(local.builds) : merge([for project in keys(local.projects) : {
    for role in who == "plan" ? local.looks_at[project] : local.looks_after[project] : "${who}/${project}/${role}" => { who = who, project = project, role = role }
  }]...)]...)
  finely = merge([for who in keys(local.builds) : { for project in keys(local.projects) : "${who}/${project}" => { who = who, project = project } }]...)
}

resource "google_project_service" "build" {
  for_each = toset(local.built ? ["cloudbuild", "pubsub"] : [])

  project            = local.projects.audit
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

resource "google_service_account" "build" {
  for_each = local.builds

  project      = local.projects.audit
  account_id   = "sluis-${each.key}"
  display_name = "Sluis ${each.key}"
  description  = each.value

  depends_on = [google_project_service.service]
}

resource "google_project_iam_member" "build" {
  for_each = local.accesses

  project = local.projects[each.value.project]
  role    = each.value.role
  member  = google_service_account.build[each.value.who].member
}

resource "google_project_iam_custom_role" "build" {
  for_each = local.finely

  project     = local.projects[each.value.project]
  role_id     = "sluis${title(each.value.who)}"
  title       = "Sluis: ${each.value.who}"
  description = "${local.builds[each.value.who]}: what no role of Google's gives without more."
  permissions = local.permissions[each.value.who][each.value.project]
}

resource "google_project_iam_member" "build_finely" {
  for_each = local.finely

  project = local.projects[each.value.project]
  role    = "projects/${local.projects[each.value.project]}/roles/${google_project_iam_custom_role.build[each.key].role_id}"
  member  = google_service_account.build[each.value.who].member
}

resource "google_project_iam_member" "build_logs" {
  for_each = local.builds

  project = local.projects.audit
  role    = "roles/logging.logWriter"
  member  = google_service_account.build[each.key].member
}

# To deploy a function is to act as its account, and as the one that builds it.
resource "google_service_account_iam_member" "release" {
  for_each = local.built ? merge(google_service_account.function, google_service_account.helper) : {}

  service_account_id = "projects/${local.projects.runtime}/serviceAccounts/${each.value.email}"
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build["release"].member
}

# Zips, manifests, plans and notes are added and read, and never changed.
resource "google_project_iam_custom_role" "adds" {
  for_each = toset(local.built ? ["runtime", "audit"] : [])

  project     = local.projects[each.key]
  role_id     = "sluisAdds"
  title       = "Sluis: adds objects"
  description = "Create objects and read them; neither overwrite nor delete."
  permissions = ["storage.objects.create", "storage.objects.get", "storage.objects.list"]
}

resource "google_storage_bucket_iam_member" "sources" {
  count = local.built ? 1 : 0

  bucket = google_storage_bucket.sources.name
  role   = "projects/${local.projects.runtime}/roles/${google_project_iam_custom_role.adds["runtime"].role_id}"
  member = google_service_account.build["plan"].member
}

resource "google_storage_bucket" "plans" {
  count = local.built ? 1 : 0

  project                     = local.projects.audit
  name                        = "${local.projects.audit}-plans"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  encryption {
    default_kms_key_name = local.key_ids["store-audit"]
  }

  retention_policy {
    retention_period = "7776000"
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key, google_org_policy_policy.policy]
}

resource "google_storage_bucket_iam_binding" "plans" {
  count = local.built ? 1 : 0

  bucket  = google_storage_bucket.plans[0].name
  role    = "projects/${local.projects.audit}/roles/${google_project_iam_custom_role.adds["audit"].role_id}"
  members = [for a in google_service_account.build : a.member]
}

resource "google_storage_bucket_iam_member" "state" {
  for_each = local.built ? { plan = "roles/storage.objectViewer", release = "roles/storage.objectUser" } : {}

  bucket = var.build.state
  role   = each.value
  member = google_service_account.build[each.key].member
}

# A plan that was saved rings here; Cloud Build then has a release wait for approval. So whoever plans needs no right over whoever
# applies.
resource "google_pubsub_topic" "planned" {
  count = local.built ? 1 : 0

  project      = local.projects.audit
  name         = "sluis-planned"
  kms_key_name = local.key_ids["store-audit"]
  labels       = local.labels

  message_storage_policy {
    allowed_persistence_regions = [var.region]
    enforce_in_transit          = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key, google_project_service.build]
}

resource "google_pubsub_topic_iam_binding" "planned" {
  count = local.built ? 1 : 0

  project = local.projects.audit
  topic   = google_pubsub_topic.planned[0].name
  role    = "roles/pubsub.publisher"
  members = [google_service_account.build["plan"].member]
}

resource "google_project_iam_binding" "approvers" {
  count = local.built ? 1 : 0

  project = local.projects.audit
  role    = "roles/cloudbuild.builds.approver"
  members = var.build.approvers
}

resource "google_cloudbuild_trigger" "plan" {
  count = local.built ? 1 : 0

  project            = local.projects.audit
  location           = var.region
  name               = "sluis-plan"
  description        = "Tests, stages and plans every push to ${var.build.branch}; with _MANIFEST, plans a rollback."
  filename           = "cloudbuild.yaml"
  service_account    = google_service_account.build["plan"].id
  include_build_logs = "INCLUDE_BUILD_LOGS_WITH_STATUS"

  repository_event_config {
    repository = var.build.repository
    push {
      branch = var.build.branch
    }
  }

  substitutions = {
    _ROOT    = var.build.root
    _SOURCES = google_storage_bucket.sources.name
    _PLANS   = google_storage_bucket.plans[0].name
    _STATE   = var.build.state
    _PLANNED = "projects/${local.projects.audit}/topics/${google_pubsub_topic.planned[0].name}"
  }

  depends_on = [google_project_service.build]
}

resource "google_cloudbuild_trigger" "release" {
  count = local.built ? 1 : 0

  project         = local.projects.audit
  location        = var.region
  name            = "sluis-release"
  description     = "Applies a plan, once somebody approved it."
  service_account = google_service_account.build["release"].id

  approval_config {
    approval_required = true
  }

  pubsub_config {
    topic = "projects/${local.projects.audit}/topics/${google_pubsub_topic.planned[0].name}"
  }

  substitutions = merge(local.release.substitutions, {
    _ROOT   = var.build.root
    _PLANS  = google_storage_bucket.plans[0].name
    _STATE  = var.build.state
    _API    = var.domains.api
    _PAGES  = var.domains.pages
    _MUTUAL = tostring(length(var.client_authorities) > 0)
    _PLAN   = "$(body.message.attributes.plan)"
  })

  # What runs is what was applied here, not what a commit says: a change of release.yaml is itself released first.
  build {
    timeout = local.release.timeout

    options {
      requested_verify_option = local.release.options.requestedVerifyOption
      source_provenance_hash  = local.release.options.sourceProvenanceHash
      machine_type            = local.release.options.machineType
      logging                 = local.release.options.logging
      env                     = local.release.options.env

      dynamic "volumes" {
        for_each = local.release.options.volumes
        content {
          name = volumes.value.name
          path = volumes.value.path
        }
      }
    }

    dynamic "step" {
      for_each = local.release.steps
      content {
        id      = step.value.id
        name    = step.value.name
        timeout = step.value.timeout
        script  = step.value.script
      }
    }
  }

  depends_on = [google_project_service.build]
}
