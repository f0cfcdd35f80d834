# Who is who: a service account for each function, one that Pub/Sub shows when it pushes, one for the clock, one that builds.
# What each may do with keys is in keys.tf, with secrets in secrets.tf, with topics and subscriptions in flow.tf. Nobody has a
# key file: an organisation policy forbids them.

resource "google_service_account" "function" {
  for_each = local.functions

  project      = local.projects.runtime
  account_id   = "fn-${each.key}"
  display_name = "Sluis function ${each.key}"
  description  = each.value.why

  lifecycle {
    precondition {
      condition     = length("fn-${each.key}") <= 30
      error_message = "The custodian's id is too long: fn-${each.key} must have at most 30 letters, as names of service accounts do."
    }
  }

  depends_on = [google_project_service.service]
}

resource "google_service_account" "helper" {
  for_each = {
    push    = "Pub/Sub shows it to functions that take events"
    clock   = "Cloud Scheduler shows it to functions that the clock calls"
    builder = "Cloud Build is it when it builds functions"
  }

  project      = local.projects.runtime
  account_id   = "sluis-${each.key}"
  display_name = "Sluis ${each.key}"
  description  = each.value

  depends_on = [google_project_service.service]
}

# Every function reads and writes documents, in the one database and in no other.
resource "google_project_iam_binding" "documents" {
  project = local.projects.runtime
  role    = "roles/datastore.user"
  members = [for f in sort(keys(local.functions)) : google_service_account.function[f].member]

  condition {
    title      = "the database of Sluis"
    expression = "resource.name == \"projects/${local.projects.runtime}/databases/${google_firestore_database.documents.name}\""
  }
}

# Pub/Sub and Cloud Scheduler make ID tokens of the accounts that they show, and nothing else of them.
resource "google_service_account_iam_binding" "tokens" {
  for_each = { push = "gcp-sa-pubsub", clock = "gcp-sa-cloudscheduler" }

  service_account_id = "projects/${local.projects.runtime}/serviceAccounts/${google_service_account.helper[each.key].email}"
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  members            = ["serviceAccount:service-${local.numbers.runtime}@${each.value}.iam.gserviceaccount.com"]
}

# Building a function reads its source, writes its image, and logs. Google keeps the uploaded source in a bucket of its own naming.
resource "google_project_iam_member" "builder_logs" {
  project = local.projects.runtime
  role    = "roles/logging.logWriter"
  member  = google_service_account.helper["builder"].member
}

resource "google_project_iam_member" "builder_sources" {
  project = local.projects.runtime
  role    = "roles/storage.objectViewer"
  member  = google_service_account.helper["builder"].member

  condition {
    title      = "sources of functions"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${local.numbers.runtime}-${var.region}\")"
  }
}

resource "google_artifact_registry_repository_iam_binding" "builder" {
  project    = local.projects.runtime
  location   = var.region
  repository = google_artifact_registry_repository.functions.repository_id
  role       = "roles/artifactregistry.writer"
  members    = [google_service_account.helper["builder"].member]
}

resource "google_storage_bucket_iam_binding" "builder" {
  bucket  = google_storage_bucket.sources.name
  role    = "roles/storage.objectViewer"
  members = [google_service_account.helper["builder"].member]
}
