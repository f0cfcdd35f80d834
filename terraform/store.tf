# Documents: one Firestore database, its indexes from schemas/indexes.json, the ends of lives from schemas/retention.json.

locals {
  # A certificate of erasure promises that copies nobody can read are gone from backups after this time (functions/erase).
  backups_days = 7

  # An entry of indexes.json asks with its fields equal, its range bounded, and the key (shared/backend/gcp/list.go). Where that is one
  # field, Firestore's own index of it will do. The outbox asks by one field at a time.
  composite = { for ix in local.indexes : ix.name => {
    kind   = ix.kind
    fields = concat([for f in ix.equal : { path = f, order = "ASCENDING" }], [for f in compact([try(ix.range, ""), "Key"]) : { path = f, order = ix.order == "desc" ? "DESCENDING" : "ASCENDING" }])
  } if length(ix.equal) > 0 || try(ix.range, "") != "" }

  # Firestore deletes after End, which the store sets two days past the field that retention.json names: sweep deletes in time, and writes
  # it down.
  mortal = toset([for l in local.retention : l.kind if l.ends == "ttl" && try(l.field, "") != ""])

  # Bodies are read whole and never asked for: indexing them would cost storage and time.
  bodies = { for pair in setproduct([for l in local.retention : l.kind], ["Body", "Packed"]) : "${pair[0]}/${pair[1]}" => { kind = pair[0], field = pair[1] } }
}

resource "google_firestore_database" "documents" {
  project                           = local.projects.runtime
  name                              = "sluis"
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "PESSIMISTIC"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED" # seven days
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

# Point-in-time recovery ends with its database; these do not.
resource "google_firestore_backup_schedule" "daily" {
  project   = local.projects.runtime
  database  = google_firestore_database.documents.name
  retention = "${local.backups_days * 86400}s"

  daily_recurrence {}
}

resource "google_firestore_index" "index" {
  for_each = local.composite

  project     = local.projects.runtime
  database    = google_firestore_database.documents.name
  collection  = each.value.kind
  query_scope = "COLLECTION"

  dynamic "fields" {
    for_each = each.value.fields
    content {
      field_path = fields.value.path
      order      = fields.value.order
    }
  }
}

resource "google_firestore_field" "end" {
  for_each = local.mortal

  project    = local.projects.runtime
  database   = google_firestore_database.documents.name
  collection = each.key
  field      = "End"

  ttl_config {}
  index_config {} # nobody asks for it, and times that only grow make an index hot
}

resource "google_firestore_field" "body" {
  for_each = local.bodies

  project    = local.projects.runtime
  database   = google_firestore_database.documents.name
  collection = each.value.kind
  field      = each.value.field

  index_config {}
}
