# Keys live in two projects, where no program runs: gate 1's in one, gate 2's and all others in the other, so that no role on a
# project, and nobody who administers one, reaches both gates. What each is for, and which function may close or open with it,
# stands in schemas/pipeline.json; nothing here can give a function more. Keys of use HMAC are secrets: see secrets.tf.

locals {
  # Gate 1, gate 2 and its siblings, what signs, and what encrypts Google's stores: a ring each, so that a role given on a ring by
  # mistake opens one gate at most. By the project that each lies in.
  rings = { inner = "inner", gates = "keys", signing = "keys", stores = "keys" }

  shapes = {
    RSA     = { ring = "inner", purpose = "ASYMMETRIC_DECRYPT", algorithm = "RSA_DECRYPT_OAEP_4096_SHA256", protection = "HSM" }
    AES     = { ring = "gates", purpose = "ENCRYPT_DECRYPT", algorithm = "GOOGLE_SYMMETRIC_ENCRYPTION", protection = "HSM" }
    Ed25519 = { ring = "signing", purpose = "ASYMMETRIC_SIGN", algorithm = "EC_SIGN_ED25519", protection = "SOFTWARE" }
    store   = { ring = "stores", purpose = "ENCRYPT_DECRYPT", algorithm = "GOOGLE_SYMMETRIC_ENCRYPTION", protection = "HSM" }
  }

  # The service agents that encrypt with a store's key, and nobody else does.
  agents = {
    firestore = ["service-${local.numbers.runtime}@gcp-sa-firestore.iam.gserviceaccount.com"]
    pubsub    = ["service-${local.numbers.runtime}@gcp-sa-pubsub.iam.gserviceaccount.com"]
    secrets   = ["service-${local.numbers.runtime}@gcp-sa-secretmanager.iam.gserviceaccount.com"]
    functions = [for a in ["gcf-admin-robot", "serverless-robot-prod", "gcp-sa-artifactregistry", "gs-project-accounts"] : "service-${local.numbers.runtime}@${a}.iam.gserviceaccount.com"]
    logs      = ["service-${local.numbers.audit}@gcp-sa-logging.iam.gserviceaccount.com"]
    audit     = [for a in concat(["gs-project-accounts"], var.build == null ? [] : ["gcp-sa-pubsub"]) : "service-${local.numbers.audit}@${a}.iam.gserviceaccount.com"]
  }

  keys = merge(
    { for name, k in local.pipeline.keys : name => local.shapes[regex("^[A-Za-z0-9]+", k.use)] if !startswith(k.use, "HMAC") },
    { checkpoint = local.shapes.Ed25519 }, # signs the audit log's checkpoints; nobody uses it before there is an audit function
    { for name in keys(local.agents) : "store-${name}" => local.shapes.store },
  )

  # By key: the project that it lies in, and the agents that it is for.
  homes     = { for key, k in local.keys : key => local.rings[k.ring] }
  agents_of = { for key in keys(local.keys) : key => startswith(key, "store-") ? local.agents[trimprefix(key, "store-")] : [] }

  # Who does what with a key: by key, then role. Members are names of service accounts.
  decrypts = { for key in keys(local.keys) : key => [for f in local.functions : f.name if contains(f.open, key)] }
  encrypts = { for key in keys(local.keys) : key => [for f in local.functions : f.name if contains(f.close, key)] }
  signs    = { for key in keys(local.keys) : key => [for f in local.functions : f.name if contains(f.holds, key)] }
  shows    = { for key in keys(local.keys) : key => [for f in local.functions : f.name if contains(f.shows, key)] }
  reads    = { for key, k in local.keys : key => k.purpose == "ENCRYPT_DECRYPT" ? [] : distinct(concat(local.decrypts[key], local.signs[key], local.shows[key])) }

  uses = { for key in keys(local.keys) : key => { for role, members in {
    "roles/cloudkms.cryptoKeyDecrypter"          = local.members_of["decrypts"][key]
    "roles/cloudkms.cryptoKeyEncrypter"          = local.members_of["encrypts"][key]
    "roles/cloudkms.signer"                      = local.members_of["signs"][key]
    (local.public_half[local.homes[key]])        = local.members_of["reads"][key]
    "roles/cloudkms.cryptoKeyEncrypterDecrypter" = [for a in local.agents_of[key] : "serviceAccount:${a}"]
  } : role => sort(members) if length(members) > 0 } }

  members_of = { for what, by_key in { decrypts = local.decrypts, encrypts = local.encrypts, signs = local.signs, reads = local.reads } :
  what => { for key, names in by_key : key => [for n in names : google_service_account.function[n].member] } }
}

locals {
  public_half = { for project in local.key_projects : project => "projects/${local.projects[project]}/roles/${google_project_iam_custom_role.public_half[project].role_id}" }
}

resource "google_kms_key_ring" "ring" {
  for_each = local.rings

  project  = local.projects[each.value]
  name     = each.key
  location = var.region

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.service]
}

resource "google_kms_crypto_key" "key" {
  for_each = local.keys

  name                       = each.key
  key_ring                   = "projects/${local.projects[local.homes[each.key]]}/locations/${var.region}/keyRings/${google_kms_key_ring.ring[each.value.ring].name}"
  purpose                    = each.value.purpose
  rotation_period            = each.value.purpose == "ENCRYPT_DECRYPT" ? "${var.key_rotation_days * 86400}s" : null # the others are rotated by hand: the runbook says how
  destroy_scheduled_duration = "${var.key_destroy_days * 86400}s"
  labels                     = local.labels

  version_template {
    algorithm        = each.value.algorithm
    protection_level = each.value.protection
  }

  lifecycle {
    prevent_destroy = true
  }
}

# The whole policy of each key: a grant that somebody adds by hand goes with the next apply.
resource "google_kms_crypto_key_iam_policy" "key" {
  for_each = local.keys

  crypto_key_id = local.key_ids[each.key]
  policy_data   = jsonencode({ bindings = [for role, members in local.uses[each.key] : { role = role, members = members }] })
}

# What a function needs to know an asymmetric key's versions and their public halves (shared/backend/gcp/kms.go), and no more.
resource "google_project_iam_custom_role" "public_half" {
  for_each = local.key_projects

  project     = local.projects[each.key]
  role_id     = "sluisPublicHalf"
  title       = "Sluis: read the public half of a key"
  description = "List a key's versions and read their public halves."
  permissions = ["cloudkms.cryptoKeyVersions.list", "cloudkms.cryptoKeyVersions.viewPublicKey"]
}

# Administrators make versions, disable and restore them: of one project's keys, and nobody of both. The role holds no use of a key.
resource "google_project_iam_binding" "key_administrators" {
  for_each = { for project, people in var.key_administrators : project => people if length(people) > 0 }

  project = local.projects[each.key]
  role    = "roles/cloudkms.admin"
  members = each.value
}

# An owner of a project, or of the organisation, could give themselves the use of a key. This denies it to everybody but those
# named above for the keys of that project, whatever else they are given.
resource "google_iam_deny_policy" "keys" {
  for_each = toset([for project in local.key_projects : project if var.deny_policies])

  parent       = urlencode("cloudresourcemanager.googleapis.com/projects/${local.projects[each.key]}")
  name         = "sluis-keys"
  display_name = "Only Sluis's functions use its keys"

  dynamic "rules" {
    for_each = {
      useToDecrypt = flatten([for key, home in local.homes : concat(local.decrypts[key], local.agents_of[key]) if home == each.key])
      useToEncrypt = flatten([for key, home in local.homes : concat(local.encrypts[key], local.agents_of[key]) if home == each.key])
      useToSign    = flatten([for key, home in local.homes : local.signs[key] if home == each.key])
    }
    content {
      description = "cryptoKeyVersions.${rules.key}"
      deny_rule {
        denied_principals    = ["principalSet://goog/public:all"]
        denied_permissions   = ["cloudkms.googleapis.com/cryptoKeyVersions.${rules.key}"]
        exception_principals = sort([for n in distinct(rules.value) : "principal://iam.googleapis.com/projects/-/serviceAccounts/${try(google_service_account.function[n].email, n)}"])
      }
    }
  }
}
