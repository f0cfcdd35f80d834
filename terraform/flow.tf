# Topics and their subscriptions, as schemas/pipeline.json draws them, and the clock. An event's truth is its document in the outbox; a
# message only rings for it (shared/backend/gcp/gcp.go). So a dead letter here is one that died before anything could be noted.

locals {
  # One for each function with a trigger. Those of one custodian get that custodian's events.
  subscriptions = { for name, f in local.functions : name => f if f.trigger != "" }

  # Who publishes: who emits, and whoever the clock calls, as it publishes what is due on any topic (Backend.Pump).
  publishers = { for t in local.topics : t => sort([for f in local.functions : f.name if contains(f.emits, t) || f.schedule != ""]) }

  pubsub_agent = "serviceAccount:service-${local.numbers.runtime}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_schema" "event" {
  project    = local.projects.runtime
  name       = "event"
  type       = "PROTOCOL_BUFFER"
  definition = file("${path.module}/event.proto")

  depends_on = [google_project_service.service]
}

resource "google_pubsub_topic" "topic" {
  for_each = toset(local.topics)

  project                    = local.projects.runtime
  name                       = each.key
  kms_key_name               = local.key_ids["store-pubsub"]
  message_retention_duration = "604800s"
  labels                     = local.labels

  message_storage_policy {
    allowed_persistence_regions = [var.region]
    enforce_in_transit          = true
  }

  schema_settings {
    schema   = "projects/${local.projects.runtime}/schemas/${google_pubsub_schema.event.name}"
    encoding = "JSON"
  }

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

resource "google_pubsub_topic_iam_binding" "publishers" {
  for_each = local.publishers

  project = local.projects.runtime
  topic   = google_pubsub_topic.topic[each.key].name
  role    = "roles/pubsub.publisher"
  members = [for f in each.value : google_service_account.function[f].member]
}

resource "google_pubsub_topic" "dead" {
  for_each = toset(local.topics)

  project                    = local.projects.runtime
  name                       = "${each.key}-dead"
  kms_key_name               = local.key_ids["store-pubsub"]
  message_retention_duration = "2678400s" # 31 days
  labels                     = local.labels

  message_storage_policy {
    allowed_persistence_regions = [var.region]
    enforce_in_transit          = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

resource "google_pubsub_topic_iam_binding" "dead" {
  for_each = toset(local.topics)

  project = local.projects.runtime
  topic   = google_pubsub_topic.dead[each.key].name
  role    = "roles/pubsub.publisher"
  members = [local.pubsub_agent]
}

# Dead letters wait here for a person: the runbook says what to do with them.
resource "google_pubsub_subscription" "dead" {
  for_each = toset(local.topics)

  project                    = local.projects.runtime
  name                       = "${each.key}-dead"
  topic                      = google_pubsub_topic.dead[each.key].name
  message_retention_duration = "2678400s"
  ack_deadline_seconds       = 60
  labels                     = local.labels

  expiration_policy {
    ttl = "" # never
  }
}

resource "google_pubsub_subscription" "push" {
  for_each = local.subscriptions

  project                    = local.projects.runtime
  name                       = each.key
  topic                      = google_pubsub_topic.topic[each.value.trigger].name
  filter                     = each.value.custodian == "" ? null : "attributes.custodian = \"${each.value.custodian}\""
  ack_deadline_seconds       = min(600, local.settings[each.key].timeout)
  message_retention_duration = "604800s"
  labels                     = local.labels

  push_config {
    # The path is what functions-framework takes a push of Pub/Sub by.
    push_endpoint = "${local.urls[each.key]}/projects/${local.projects.runtime}/topics/${each.value.trigger}"
    oidc_token {
      service_account_email = google_service_account.helper["push"].email
      audience              = local.urls[each.key]
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = "projects/${local.projects.runtime}/topics/${google_pubsub_topic.dead[each.value.trigger].name}"
    max_delivery_attempts = 10
  }

  expiration_policy {
    ttl = "" # never
  }

  depends_on = [google_service_account_iam_binding.tokens, google_pubsub_topic_iam_binding.dead]
}

# To move a message to its dead-letter topic, Pub/Sub acknowledges it.
resource "google_pubsub_subscription_iam_binding" "dead" {
  for_each = local.subscriptions

  project      = local.projects.runtime
  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  members      = [local.pubsub_agent]
}

resource "google_cloud_scheduler_job" "clock" {
  for_each = { for name, f in local.functions : name => f if f.schedule != "" }

  project          = local.projects.runtime
  region           = var.region
  name             = each.key
  description      = each.value.why
  schedule         = each.value.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${local.settings[each.key].timeout}s"

  retry_config {
    retry_count = 0 # the next minute comes anyway
  }

  http_target {
    http_method = "POST"
    uri         = "${local.urls[each.key]}/"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")
    oidc_token {
      service_account_email = google_service_account.helper["clock"].email
      audience              = local.urls[each.key]
    }
  }

  depends_on = [google_project_service.service]
}
