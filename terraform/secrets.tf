# Secrets: what pipeline.json says that functions hold, and each custodian's API credentials. Terraform makes the place and says who
# reads it. It never sees a value: those are added by hand (`gcloud secrets versions add`), so no state file holds one.

locals {
  # By the name that the code uses; Secret Manager's has "--" for "/" (shared/backend/gcp/secrets.go). Who reads it: names of functions.
  secrets = merge(
    { for name, k in local.pipeline.keys : "held/${name}" => [for f in local.functions : f.name if contains(f.holds, name)] if startswith(k.use, "HMAC") },
    merge([for id, c in local.custodians : { for s in c.secrets : s => [for f in local.functions : f.name if f.custodian == id] }]...),
  )
}

resource "google_secret_manager_secret" "secret" {
  for_each = local.secrets

  project             = local.projects.runtime
  secret_id           = replace(each.key, "/", "--")
  version_destroy_ttl = "604800s" # a version destroyed by mistake comes back for a week
  deletion_protection = true
  labels              = local.labels

  replication {
    user_managed {
      replicas {
        location = var.region
        customer_managed_encryption {
          kms_key_name = local.key_ids["store-secrets"]
        }
      }
    }
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

# The whole policy of each secret. Those who bring new values cannot read them.
resource "google_secret_manager_secret_iam_policy" "secret" {
  for_each = local.secrets

  project   = local.projects.runtime
  secret_id = google_secret_manager_secret.secret[each.key].secret_id
  policy_data = jsonencode({ bindings = [for role, members in {
    "roles/secretmanager.secretAccessor"     = [for f in each.value : google_service_account.function[f].member]
    "roles/secretmanager.secretVersionAdder" = tolist(var.secret_keepers)
  } : { role = role, members = sort(members) } if length(members) > 0] })
}

resource "google_iam_deny_policy" "secrets" {
  count = var.deny_policies ? 1 : 0

  parent       = urlencode("cloudresourcemanager.googleapis.com/projects/${local.projects.runtime}")
  name         = "sluis-secrets"
  display_name = "Only Sluis's functions read its secrets"

  rules {
    description = "versions.access"
    deny_rule {
      denied_principals    = ["principalSet://goog/public:all"]
      denied_permissions   = ["secretmanager.googleapis.com/versions.access"]
      exception_principals = [for f in sort(distinct(flatten(values(local.secrets)))) : "principal://iam.googleapis.com/projects/-/serviceAccounts/${google_service_account.function[f].email}"]
    }
  }
}
