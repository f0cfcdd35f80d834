# Four projects: functions and data in one, gate 1's key in the second, gate 2's and all other keys in the third, what happened in
# the fourth. Whoever is given one by mistake has none of the others.

resource "google_project" "project" {
  for_each = { for name, p in var.projects : name => p if p.number == null }

  name                = "Sluis ${each.key}"
  project_id          = each.value.id
  folder_id           = var.folder_id
  billing_account     = var.billing_account
  auto_create_network = false
  deletion_policy     = "PREVENT"
  labels              = local.labels
}

locals {
  # By runtime, inner, keys and audit.
  projects = { for name, p in var.projects : name => p.number == null ? google_project.project[name].project_id : p.id }
  numbers  = { for name, p in var.projects : name => p.number == null ? google_project.project[name].number : p.number }

  # Where keys lie, and no program runs. What is switched on, watched and allowed is the same in both.
  key_projects = toset(["inner", "keys"])

  services = merge({
    runtime = ["artifactregistry", "certificatemanager", "cloudbuild", "cloudfunctions", "cloudscheduler", "compute", "dns", "firestore", "iam",
    "iamcredentials", "logging", "monitoring", "networksecurity", "orgpolicy", "pubsub", "run", "secretmanager", "storage"]
    audit = ["iam", "logging", "monitoring", "orgpolicy", "pubsub", "storage"]
  }, { for project in local.key_projects : project => ["cloudkms", "iam", "logging", "orgpolicy"] })
}

resource "google_project_service" "service" {
  for_each = merge([for project, names in local.services : { for name in names : "${project}/${name}" => project }]...)

  project            = local.projects[each.value]
  service            = "${split("/", each.key)[1]}.googleapis.com"
  disable_on_destroy = false
}

# Organisation policies on each project: what holds even if somebody makes something by hand.
locals {
  policies = {
    "gcp.resourceLocations"                           = { allowed = ["in:${var.region}-locations"] }
    "iam.disableServiceAccountKeyCreation"            = { enforce = true }
    "iam.disableServiceAccountKeyUpload"              = { enforce = true }
    "iam.automaticIamGrantsForDefaultServiceAccounts" = { enforce = true }
    "storage.uniformBucketLevelAccess"                = { enforce = true }
    "storage.publicAccessPrevention"                  = { enforce = true }
    "compute.skipDefaultNetworkCreation"              = { enforce = true }
    "run.allowedIngress"                              = { allowed = ["internal", "internal-and-cloud-load-balancing"] }
    "run.allowedVPCEgress"                            = { allowed = ["all-traffic"] }
    "gcp.restrictCmekCryptoKeyProjects"               = { allowed = ["projects/${local.projects.keys}"] } # stores never take gate 1's project
  }
}

resource "google_org_policy_policy" "policy" {
  for_each = merge([for project in keys(local.projects) : { for name, p in local.policies : "${project}/${name}" => merge({ project = project, name = name, allowed = [], enforce = false }, p) }]...)

  name   = "projects/${local.projects[each.value.project]}/policies/${each.value.name}"
  parent = "projects/${local.projects[each.value.project]}"

  spec {
    rules {
      enforce = each.value.enforce ? "TRUE" : null
      dynamic "values" {
        for_each = each.value.enforce ? [] : [each.value.allowed]
        content {
          allowed_values = values.value
        }
      }
    }
  }

  depends_on = [google_project_service.service]
}
