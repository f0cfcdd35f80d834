# Shards: key parts without which no sealed document opens, whatever copies and keys there are (shared/domain/shard.go). They lie in a
# database of their own that nothing copies: no point-in-time recovery, no backups. Firestore keeps every version for an hour even so,
# readable to whoever may read with a time; no function may. Lost shards mean that investors enter their credentials again.

resource "google_firestore_database" "shards" {
  project                           = local.projects.runtime
  name                              = "shards"
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "PESSIMISTIC"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_DISABLED"
  delete_protection_state           = "DELETE_PROTECTION_ENABLED"
  deletion_policy                   = "PREVENT"

  cmek_config {
    kms_key_name = local.key_ids["store-firestore"]
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_kms_crypto_key_iam_policy.key]
}

# Firestore's rights are for a database and a verb, not for a document: a custodian's function may read another's shards, and opens
# nothing by them, for it has not the keys.
locals {
  shard_powers = { make = "datastore.entities.create", read = "datastore.entities.get", destroy = "datastore.entities.delete" }
}

resource "google_project_iam_custom_role" "shards" {
  for_each = local.shard_powers

  project     = local.projects.runtime
  role_id     = "shards_${each.key}"
  title       = "Shards: ${each.key}"
  permissions = [each.value]
}

resource "google_project_iam_binding" "shards" {
  for_each = local.shard_powers

  project = local.projects.runtime
  role    = "projects/${local.projects.runtime}/roles/${google_project_iam_custom_role.shards[each.key].role_id}"
  members = [for f in sort(keys(local.functions)) : google_service_account.function[f].member if contains(local.functions[f].shards, each.key)]

  condition {
    title      = "the database of shards"
    expression = "resource.name == \"projects/${local.projects.runtime}/databases/${google_firestore_database.shards.name}\""
  }
}
