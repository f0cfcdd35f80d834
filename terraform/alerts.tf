# What wakes somebody, and what they do then: every alert says what it means, where to look and what to do, and its name is a heading
# of the runbook (README.md). Alerts on log entries stand in the project that the entries come from, all others in the audit project.
# Metrics named sluis.* are counted by the functions (shared/observe); Cloud Monitoring takes them by their own names.
# https://docs.cloud.google.com/stackdriver/docs/reference/telemetry/v1.metrics

variable "alert_emails" {
  description = "Who is told of alerts and budgets, by e-mail. Empty: nobody is, and incidents are in the console only."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+\\.[a-z]+$", a))])
    error_message = "An address looks like watch@example.com."
  }
}

variable "budgets" {
  description = "What each project may cost a month, in whole units of the billing account's currency. At half of it, at nine tenths, and when the month is bound to end beyond it, alert_emails are told. Nothing is stopped."
  type        = object({ runtime = optional(number, 1000), inner = optional(number, 100), keys = optional(number, 100), audit = optional(number, 200) })
  default     = {}

  validation {
    condition     = alltrue([for b in values(var.budgets) : b >= 1 && floor(b) == b])
    error_message = "A budget is a whole number, and not nothing."
  }
}

locals {
  ours = "^fn-[a-z0-9-]+@${local.projects.runtime}[.]iam[.]gserviceaccount[.]com$"

  principal = "protoPayload.authenticationInfo.principalEmail"
  key_uses  = "protoPayload.serviceName=\"cloudkms.googleapis.com\" AND protoPayload.methodName=~\"(Decrypt|Encrypt|Sign|Decapsulate)$\""

  # For each key, the accounts that may open or sign with it, as one pattern. One pattern does for all custodians' functions, as a filter
  # of every account's name would grow too long.
  openers = { for key in keys(local.keys) : key => "^(${join("|", concat(["nobody"],
    [for f in local.pipeline.functions : "fn-${f.name}${try(f.per, "") == "" ? "" : "-[a-z0-9-]+"}@${local.projects.runtime}[.]iam[.]gserviceaccount[.]com" if contains(concat(f.open, f.holds), key)],
    local.agents_of[key],
  ))})$" }

  who = { who = "EXTRACT(protoPayload.authenticationInfo.principalEmail)", what = "EXTRACT(protoPayload.methodName)", on = "EXTRACT(protoPayload.resourceName)" }

  # Alerts on what an audit log says: the first entry counts, refused or not.
  on_logs = {
    key-used-by-person = {
      projects = local.key_projects, severity = "CRITICAL", title = "A person used a key"
      filter   = "${local.key_uses} AND NOT ${local.principal}=~\"gserviceaccount[.]com$\""
      text     = "Somebody encrypted, decrypted or signed with a key of Sluis, or tried to. No person has the right to: keys are used by functions only. Look at who, with which key, from which address, and whether it was refused (status.code 7). If it was not refused, treat every credential or portfolio that the key closes as read: suspend the person's account, and rotate."
    }
    key-used-by-stranger = {
      projects = local.key_projects, severity = "CRITICAL", title = "A key was used by an identity that it is not for"
      filter = "protoPayload.serviceName=\"cloudkms.googleapis.com\" AND protoPayload.methodName=~\"(Decrypt|Sign|Decapsulate)$\" AND (${join(" OR ",
      [for key, who in local.openers : "(protoPayload.resourceName=~\"/cryptoKeys/${key}(/|$)\" AND NOT ${local.principal}=~\"${who}\")"])})"
      text = "A service account opened or signed with a key that pipeline.json does not give it, or tried to. Refused: a function was deployed wrongly, or somebody runs code as it and probes. Not refused: the key's policy was changed outside Terraform. Compare the policy with the plan (`terraform plan`), see access-changed for who did it, and disable the account."
    }
    secret-read-by-stranger = {
      projects = ["runtime"], severity = "CRITICAL", title = "A secret was read by somebody who is no function of ours"
      filter   = "protoPayload.serviceName=\"secretmanager.googleapis.com\" AND protoPayload.methodName=~\"AccessSecretVersion$\" AND NOT ${local.principal}=~\"${local.ours}\""
      text     = "A person or a foreign service account read a secret (a custodian's API credentials, or what pseudonyms and links are made with), or tried to. Look at which secret and who. If it was not refused, bring a new version at once, have the custodian withdraw the old credentials, and destroy the old version."
    }
    data-read-by-stranger = {
      projects = ["runtime"], severity = "CRITICAL", title = "Documents were read or exported by somebody who is no function of ours"
      filter   = "protoPayload.serviceName=~\"^(firestore|datastore)[.]googleapis[.]com$\" AND protoPayload.methodName=~\"([.]v1[.](Firestore|Datastore)[.]|FirestoreAdmin[.](Export|Import|Restore|Clone|BulkDelete))\" AND NOT ${local.principal}=~\"${local.ours}\""
      text     = "Somebody read, wrote, exported or restored documents by hand. Credentials and portfolios are closed with keys that they do not have; consents, connections and webhooks' addresses are not. Ask whether it was announced (a restore is). If not: suspend the account, list what it read (resourceName), and decide with the data protection officer within 72 hours whether it must be notified (GDPR Article 33)."
    }
    function-impersonated = {
      projects = ["runtime"], severity = "CRITICAL", title = "Somebody took a token of one of our service accounts"
      filter   = "protoPayload.serviceName=\"iamcredentials.googleapis.com\" AND NOT ${local.principal}=~\"^service-[0-9]+@\""
      text     = "A token was made, or something signed, in the name of a service account, by somebody who is no agent of Google's. With it they are that function: they can do what it can. Find whose token and who took it, remove the right (roles/iam.serviceAccountTokenCreator or serviceAccountUser), and revoke the function."
    }
    key-changed = {
      projects = local.key_projects, severity = "CRITICAL", title = "A key's policy or a version's state was changed"
      filter   = "log_id(\"cloudaudit.googleapis.com/activity\") AND protoPayload.serviceName=\"cloudkms.googleapis.com\" AND protoPayload.methodName=~\"(SetIamPolicy|DestroyCryptoKeyVersion|RestoreCryptoKeyVersion|UpdateCryptoKeyVersion|UpdateCryptoKeyPrimaryVersion|ImportCryptoKeyVersion)$\" AND NOT ${local.principal}=~\"^sluis-release@\""
      text     = "Somebody changed who may use a key, or disabled, destroyed or restored a version of it, and it was no approved release. A version that was told to be destroyed can be restored for ${var.key_destroy_days} days (`gcloud kms keys versions restore`): if it was not announced, restore it first and ask then. Without the key, all that it closed is lost."
    }
    access-changed = {
      projects = keys(local.projects), severity = "ERROR", title = "Rights were given or taken outside a release"
      filter   = "log_id(\"cloudaudit.googleapis.com/activity\") AND protoPayload.methodName=~\"(SetIamPolicy|CreateServiceAccountKey|setIamPermissions|CreatePolicy|UpdatePolicy|DeletePolicy|SetOrgPolicy)$\" AND NOT ${local.principal}=~\"^(sluis-release@|service-[0-9]+@)\""
      text     = "Somebody changed an IAM policy, an organisation policy or a deny policy, or made a key file for a service account, by hand. Ask them. What nobody asked for is taken back by the next release: run sluis-plan now, and look at what it wants to change."
    }
    watch-changed = {
      projects = keys(local.projects), severity = "CRITICAL", title = "Logs or alerts were changed outside a release"
      filter   = "log_id(\"cloudaudit.googleapis.com/activity\") AND (protoPayload.methodName=~\"((Create|Update|Delete)(Sink|Exclusion|Bucket|LogMetric|AlertPolicy|NotificationChannel)|storage[.]buckets[.](update|delete))$\" OR protoPayload.serviceData.policyDelta.auditConfigDeltas:*) AND NOT ${local.principal}=~\"^(sluis-release@|service-[0-9]+@)\""
      text     = "Somebody changed where logs go, what is logged, or who is told. It is what an intruder does first. Ask them; meanwhile treat what followed as unseen: the archive bucket keeps what arrived before, and Admin Activity logs cannot be turned off. Run sluis-plan to see the difference."
    }
  }

  # Alerts on numbers: each expression (PromQL) that holds for so long tells.
  on_metrics = {
    dead-letters = {
      severity = "ERROR", title = "Events were given up", for = "0s"
      when = {
        "an event was given up after its last attempt"       = "sum by (topic) (increase({\"sluis.dead_letters\"}[10m])) > 0"
        "a message died before anything could be noted"      = "sum by (subscription_id) ({\"pubsub.googleapis.com/subscription/num_undelivered_messages\", monitored_resource=\"pubsub_subscription\", subscription_id=~\".+-dead\"}) > 0"
        "a subscription cannot keep up with what it is sent" = "max by (subscription_id) ({\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\", monitored_resource=\"pubsub_subscription\", subscription_id!~\".+-dead\"}) > 1800"
      }
      text = "An event failed ten times, or its function died ten times before it could say why. Nothing is lost: the event stays in the outbox, marked dead. The log line `an event became a dead letter` has its topic, its subject and the code of the last failure. Repair the cause, then give it another try."
    }
    webhook-age = {
      severity = "WARNING", title = "Webhooks reach clients late", for = "600s"
      when = {
        "one webhook in twenty is older than an hour at its attempt" = "histogram_quantile(0.95, sum by (le) (rate({\"sluis.delivery.age_bucket\"}[30m]))) > 3600"
        "half of the webhooks take longer than a minute"             = "histogram_quantile(0.5, sum by (le) (rate({\"sluis.delivery.latency_bucket\"}[30m]))) > 60"
      }
      text = "Either some client's receiver is down (the usual case: look at deliveries' attempts, grouped by endpoint), or deliver itself is slow or held up. Ours: look at its instances, errors and the backlog of its subscription. Theirs: tell them; the breaker keeps their failures from others, retries go on for about 28 hours, and the endpoint is disabled after five days, with notice."
    }
    consent-denials = {
      severity = "WARNING", title = "Consents refuse many acts", for = "0s"
      when = {
        "far more refusals than usual"        = "sum by (code) (increase({\"sluis.consent.denials\", code!=\"consent_expired\"}[15m])) > 25"
        "somebody asks for what is another's" = "sum(increase({\"sluis.consent.denials\", code=\"consent_not_yours\"}[15m])) > 5"
      }
      text = "An act without a consent that allows it did not happen, as it must; but many of them mean that a client's program is wrong, or that somebody tries what they can get at. The audit entries with outcome denied name client, actor and act. consent_not_yours again and again from one client: revoke its API key, and ask."
    }
    consent-expiry = {
      severity = "WARNING", title = "Consents end without having been renewed", for = "0s"
      when = {
        "clients act under consents that are over" = "sum(increase({\"sluis.consent.denials\", code=\"consent_expired\"}[1h])) > 10"
        "sessions find their consents ended"       = "sum by (custodian) (increase({\"sluis.refreshes\", reason=\"consent_ended\"}[1h])) > 10"
      }
      text = "Many consents have run out and their clients did not notice: investors see old portfolios, or none. Clients are told by the webhook consent.expired and see expires_at in the API. Tell the clients concerned, so that they ask their investors anew before the data is erased."
    }
    refresh-failures = {
      severity = "ERROR", title = "Readings at a custodian fail", for = "300s"
      when = {
        "a third of a custodian's sessions fail, and not for the investor's sake" = "sum by (custodian) (increase({\"sluis.refreshes\", reason=~\"bank_unavailable|bank_answer|rate_limited|interrupted|internal\"}[30m])) / sum by (custodian) (increase({\"sluis.refreshes\"}[30m])) > 0.33 and sum by (custodian) (increase({\"sluis.refreshes\"}[30m])) >= 10"
        "many passwords are refused at one custodian"                             = "sum by (custodian) (increase({\"sluis.refreshes\", reason=~\"credentials_refused|account_locked\"}[30m])) / sum by (custodian) (increase({\"sluis.refreshes\"}[30m])) > 0.2 and sum by (custodian) (increase({\"sluis.refreshes\"}[30m])) >= 10"
      }
      text = "By reason: bank_unavailable and rate_limited are the custodian's trouble; bank_answer means that it changed its interface; internal and interrupted are ours. Many refused passwords at once are no coincidence: the bank changed its login, and each further try can lock an investor's account. Stop that custodian's sessions first, then look."
    }
    egress-refused = {
      severity = "CRITICAL", title = "A connector tried a request that it may not make", for = "0s"
      when = {
        "a session ended because of it" = "sum by (custodian) (increase({\"sluis.refreshes\", reason=\"egress_refused\"}[10m])) > 0"
      }
      text = "Sluis reads only: the egress guard stopped a request that the connector does not declare, and the session with it. Either the bank redirected to somewhere new, or the code is wrong, or it is not our code. The audit entry request.refused has method, host and path. Roll back if it began with a release; otherwise stop the custodian."
    }
    kms-quota = {
      severity = "ERROR", title = "Cloud KMS is about to refuse, or refuses", for = "0s"
      when = {
        "calls are refused for their number" = "sum by (key, method) (increase({\"sluis.kms.calls\", code=\"ResourceExhausted\"}[5m])) > 0"
        "seven tenths of a quota are used"   = "max by (project_id, quota_metric) (rate({\"serviceruntime.googleapis.com/quota/rate/net_usage\", monitored_resource=\"consumer_quota\", service=\"cloudkms.googleapis.com\"}[5m])) * 60 / max by (project_id, quota_metric) (max_over_time({\"serviceruntime.googleapis.com/quota/limit\", monitored_resource=\"consumer_quota\", service=\"cloudkms.googleapis.com\"}[1h])) > 0.7"
      }
      text = "Without KMS nothing opens: sessions and webhooks wait and are tried again, pages answer 503. Ask for more of the quota named in the alert, in the project named there (HSM operations count against the project that the key lies in: inner for gate 1, keys for all others); until then lower the functions' limits of instances, and let scheduled refreshes spread over the day."
    }
    certificate-expiry = {
      severity = "ERROR", title = "A certificate is about to end", for = "0s"
      when = {
        "three weeks are left" = "min by (host) ({\"monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires\", monitored_resource=\"uptime_url\"}) < 21"
      }
      text = "Google renews the certificates of both hosts a month before they end, as long as the DNS authorisation records are there. It did not: compare the records with the output dns_records, and look at the certificate's state. After the last day, no client and no investor gets in."
    }
    clock-stopped = {
      severity = "CRITICAL", title = "The clock does not tick", for = "0s"
      when = {
        "sweep has not ended well for ten minutes" = "absent_over_time({\"run.googleapis.com/request_count\", monitored_resource=\"cloud_run_revision\", service_name=\"sweep\", response_code_class=\"2xx\"}[10m])"
      }
      text = "Everything that is due waits for sweep: refreshes, retries of webhooks, ends of consents, erasures after them. Look at the Cloud Scheduler job sweep (paused? refused?), then at the function's log. Nothing is lost while it stands, but promises of time are broken: consents must not outlive their end."
    }
    errors = {
      severity = "ERROR", title = "A function says that something is wrong", for = "0s"
      when = {
        "errors in the log"            = "sum by (service_name) (increase({\"logging.googleapis.com/user/sluis/errors\", monitored_resource=\"cloud_run_revision\"}[10m])) > 3"
        "answers 5xx at the front"     = "sum by (service_name) (increase({\"run.googleapis.com/request_count\", monitored_resource=\"cloud_run_revision\", response_code_class=\"5xx\"}[10m])) > 20"
        "a function says nothing more" = "absent_over_time({\"sluis.kms.calls\"}[1d])"
      }
      text = "The log lines of severity ERROR name the function, and the trace that they belong to: all lines of one act stand together under it. Did it begin with a release? Then roll back. `says nothing more`: no metrics have come for a day, so that the other alerts are blind; look at the functions' warnings of the export."
    }
  }

  runbook = "The runbook goes on from here: terraform/README.md, "
}

# Counted from logs, for alerts and the dashboard.
resource "google_logging_metric" "metric" {
  for_each = merge({
    errors   = { project = "runtime", filter = "resource.type=\"cloud_run_revision\" AND severity>=ERROR", label = "EXTRACT(jsonPayload.message)", key = "message" }
    refusals = { project = "runtime", filter = "resource.type=\"cloud_run_revision\" AND jsonPayload.message=\"caller refused\"", label = "EXTRACT(resource.labels.service_name)", key = "function" }
    }, { for project in local.key_projects : "uses/${project}" =>
    { project = project, filter = local.key_uses, label = "REGEXP_EXTRACT(protoPayload.resourceName, \"cryptoKeys/([^/]+)\")", key = "key" }
  })

  project          = local.projects[each.value.project]
  name             = "sluis/${split("/", each.key)[0]}"
  filter           = each.value.filter
  label_extractors = { (each.value.key) = each.value.label }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    labels {
      key = each.value.key
    }
  }

  depends_on = [google_project_service.service]
}

resource "google_monitoring_notification_channel" "email" {
  for_each = { for pair in setproduct(keys(local.projects), var.alert_emails) : join("/", pair) => { project = pair[0], address = pair[1] } }

  project      = local.projects[each.value.project]
  display_name = each.value.address
  type         = "email"
  labels       = { email_address = each.value.address }

  depends_on = [google_project_service.service, google_project_service.watch]
}

resource "google_monitoring_alert_policy" "logs" {
  for_each = merge([for name, a in local.on_logs : { for project in a.projects : "${name}/${project}" => merge(a, { name = name, project = project }) }]...)

  project               = local.projects[each.value.project]
  display_name          = each.value.title
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for name, c in google_monitoring_notification_channel.email : c.id if startswith(name, "${each.value.project}/")]
  user_labels           = local.labels

  conditions {
    display_name = "an entry of the audit log says so"
    condition_matched_log {
      filter           = each.value.filter
      label_extractors = local.who
    }
  }

  alert_strategy {
    auto_close = "604800s"
    notification_rate_limit {
      period = "300s"
    }
  }

  documentation {
    subject   = "Sluis: ${each.value.title}"
    content   = "${each.value.text}\n\n${local.runbook}#${each.value.name}"
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.service, google_project_service.watch]
}

resource "google_monitoring_alert_policy" "metrics" {
  for_each = local.on_metrics

  project               = local.projects.audit
  display_name          = each.value.title
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = [for name, c in google_monitoring_notification_channel.email : c.id if startswith(name, "audit/")]
  user_labels           = local.labels

  dynamic "conditions" {
    for_each = each.value.when
    content {
      display_name = conditions.key
      condition_prometheus_query_language {
        query                     = conditions.value
        duration                  = each.value.for
        evaluation_interval       = "60s"
        disable_metric_validation = true # a metric is not there before its first value
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    subject   = "Sluis: ${each.value.title}"
    content   = "${each.value.text}\n\n${local.runbook}#${each.key}"
    mime_type = "text/markdown"
  }

  depends_on = [google_monitoring_monitored_project.watched]
}

# Asked for from all over the world, like a stranger: whether both hosts answer, and how long their certificates last. Where the API asks
# for a client's certificate, no stranger gets an answer.
resource "google_monitoring_uptime_check_config" "front" {
  for_each = { for host, c in { api = { path = "/v1/client", answers = 401 }, pages = { path = "/", answers = 200 } } : host => c
  if host != "api" || length(var.client_authorities) == 0 }

  project      = local.projects.audit
  display_name = "Sluis ${each.key}"
  timeout      = "10s"
  period       = "300s"

  http_check {
    path         = each.value.path
    port         = 443
    use_ssl      = true
    validate_ssl = true
    accepted_response_status_codes {
      status_value = each.value.answers
    }
  }

  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = local.projects.audit, host = var.domains[each.key] }
  }

  depends_on = [google_project_service.service]
}

resource "google_monitoring_alert_policy" "down" {
  project               = local.projects.audit
  display_name          = "A host does not answer"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [for name, c in google_monitoring_notification_channel.email : c.id if startswith(name, "audit/")]
  user_labels           = local.labels

  dynamic "conditions" {
    for_each = google_monitoring_uptime_check_config.front
    content {
      display_name = "${var.domains[conditions.key]} fails from two places"
      condition_threshold {
        filter          = "metric.type=\"monitoring.googleapis.com/uptime_check/check_passed\" AND resource.type=\"uptime_url\" AND metric.label.check_id=\"${conditions.value.uptime_check_id}\""
        comparison      = "COMPARISON_GT"
        threshold_value = 1
        duration        = "300s"
        aggregations {
          alignment_period     = "1200s"
          per_series_aligner   = "ALIGN_NEXT_OLDER"
          cross_series_reducer = "REDUCE_COUNT_FALSE"
          group_by_fields      = ["resource.label.host"]
        }
      }
    }
  }

  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    subject   = "Sluis: a host does not answer"
    content   = "The API or the investors' pages cannot be reached, or answer something else than they must to a stranger. Look in this order: did it begin with a release (roll back)? DNS? the certificate? Cloud Armor refusing everybody? the function consent?\n\n${local.runbook}#front-down"
    mime_type = "text/markdown"
  }
}

# Money is a signal, too: keys that are used ten times as much are used by somebody else.
resource "google_billing_budget" "budget" {
  for_each = { for project, units in var.budgets : project => units if var.billing_account != null }

  billing_account = var.billing_account
  display_name    = "Sluis ${each.key}"

  budget_filter {
    projects = ["projects/${local.numbers[each.key]}"]
  }

  amount {
    specified_amount {
      units = tostring(each.value)
    }
  }

  dynamic "threshold_rules" {
    for_each = { "0.5" = "CURRENT_SPEND", "0.9" = "CURRENT_SPEND", "1.0" = "FORECASTED_SPEND" }
    content {
      threshold_percent = tonumber(threshold_rules.key)
      spend_basis       = threshold_rules.value
    }
  }

  all_updates_rule {
    monitoring_notification_channels = slice([for name, c in google_monitoring_notification_channel.email : c.id if startswith(name, "audit/")], 0, min(5, length(var.alert_emails)))
    disable_default_iam_recipients   = false
  }
}

# What to look at first, when an alert came or none did.
locals {
  charts = [
    { title = "Sessions that ended, by custodian", query = "sum by (custodian) (rate({\"sluis.refreshes\"}[5m])) * 60", unit = "a minute" },
    { title = "Why sessions fail", query = "sum by (custodian, reason) (rate({\"sluis.refreshes\", outcome=\"failed\"}[5m])) * 60", unit = "a minute" },
    { title = "Strong customer authentication, by method", query = "sum by (method, outcome) (rate({\"sluis.sca\"}[5m])) * 60", unit = "a minute" },
    { title = "From notice to delivered webhook (p50, p95)", query = "histogram_quantile(0.95, sum by (le) (rate({\"sluis.delivery.latency_bucket\"}[5m]))) or histogram_quantile(0.5, sum by (le) (rate({\"sluis.delivery.latency_bucket\"}[5m])))", unit = "s" },
    { title = "Age of webhooks at their attempt (p95)", query = "histogram_quantile(0.95, sum by (le) (rate({\"sluis.delivery.age_bucket\"}[15m])))", unit = "s" },
    { title = "Acts that consents refused, by code", query = "sum by (code) (rate({\"sluis.consent.denials\"}[5m])) * 60", unit = "a minute" },
    { title = "Events given up, by topic", query = "sum by (topic) (increase({\"sluis.dead_letters\"}[1h]))", unit = "events" },
    { title = "Dead letters that wait", query = "sum by (subscription_id) ({\"pubsub.googleapis.com/subscription/num_undelivered_messages\", monitored_resource=\"pubsub_subscription\", subscription_id=~\".+-dead\"})", unit = "messages" },
    { title = "Backlog, by subscription", query = "max by (subscription_id) ({\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\", monitored_resource=\"pubsub_subscription\", subscription_id!~\".+-dead\"})", unit = "s" },
    { title = "Calls of Cloud KMS, by key and method", query = "sum by (key, method) (rate({\"sluis.kms.calls\"}[5m])) * 60", unit = "a minute" },
    { title = "Uses of keys, as the audit log counts them", query = "sum by (key) (rate({\"logging.googleapis.com/user/sluis/uses\", monitored_resource=~\"cloudkms_cryptokey|cloudkms_cryptokeyversion\"}[5m])) * 60", unit = "a minute" },
    { title = "Answers, by function and class", query = "sum by (service_name, response_code_class) (rate({\"run.googleapis.com/request_count\", monitored_resource=\"cloud_run_revision\"}[5m]))", unit = "a second" },
    { title = "Errors in logs, by function", query = "sum by (service_name) (rate({\"logging.googleapis.com/user/sluis/errors\", monitored_resource=\"cloud_run_revision\"}[5m])) * 60", unit = "a minute" },
  ]
}

resource "google_monitoring_dashboard" "sluis" {
  project = local.projects.audit
  dashboard_json = jsonencode({
    displayName = "Sluis"
    mosaicLayout = {
      columns = 12
      tiles = [for i, c in local.charts : {
        xPos = i % 2 * 6, yPos = floor(i / 2) * 4, width = 6, height = 4
        widget = { title = c.title, xyChart = {
          dataSets = [{ plotType = "LINE", targetAxis = "Y1", timeSeriesQuery = { prometheusQuery = c.query } }]
          yAxis    = { label = c.unit, scale = "LINEAR" }
        } }
      }]
    }
  })

  depends_on = [google_monitoring_monitored_project.watched]
}
