# What people and other programs need to know of what was made. No secret is among it.

output "projects" {
  description = "The ids of the four projects."
  value       = local.projects
}

output "dns_records" {
  description = "Records that the domains need: where each host is, and what shows Google that it is ours (before that, no certificate is made)."
  value = { for host, domain in var.domains : domain => {
    address       = google_compute_address.front[host].address
    authorization = google_certificate_manager_dns_authorization.front[host].dns_resource_record
  } }
}

output "egress_addresses" {
  description = "Where our requests to banks and webhooks to clients come from: for their lists."
  value       = google_compute_address.egress[*].address
}

output "sources_bucket" {
  description = "Where zips of staged functions go, as functions/FOLDER-SHA256.zip."
  value       = google_storage_bucket.sources.name
}

output "source_folders" {
  description = "The staged folders that functions are built from: the keys that var.sources needs."
  value       = sort(local.folders)
}

output "functions" {
  description = "Every deployment: its address, service account, subnet and settings."
  value = { for name, f in local.functions : name => merge(local.settings[name], {
    url = local.urls[name], account = local.accounts[name], subnet = local.subnet_of[name], folder = f.folder, public = f.public
  }) }
}

output "secrets" {
  description = "Secrets that want a value by hand before functions work: by the name that the code uses, the resource."
  value       = { for name, s in google_secret_manager_secret.secret : name => "projects/${local.projects.runtime}/secrets/${s.secret_id}" }
}

output "keys" {
  description = "The resource names of keys, by their names in pipeline.json; store-* encrypt Google's own stores."
  value       = local.key_ids
}

output "topics" {
  description = "Each topic, with the subscription in which its dead letters wait."
  value       = { for t in local.topics : t => google_pubsub_subscription.dead[t].name }
}

output "database" {
  description = "Firestore's database."
  value       = "projects/${local.projects.runtime}/databases/${google_firestore_database.documents.name}"
}
