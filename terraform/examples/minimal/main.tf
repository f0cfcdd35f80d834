# The least that one can say: four new projects in a folder, two hosts, and everything else as it is by default. The first apply makes
# all but the functions; the second is told their sources.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }
}

provider "google" {}

variable "sources" {
  description = "Each staged folder and the SHA-256 of its zip."
  type        = map(string)
  default     = {}
}

module "sluis" {
  source = "../.."

  folder_id       = "123456789012"
  billing_account = "012345-6789AB-CDEF01"
  projects = {
    runtime = { id = "example-sluis-run" }
    inner   = { id = "example-sluis-inner" }
    keys    = { id = "example-sluis-keys" }
    audit   = { id = "example-sluis-audit" }
  }

  domains = { api = "api.example.com", pages = "connect.example.com" }
  sources = var.sources

  operator = { name = "Example Data B.V.", authority = "De Nederlandsche Bank", licence = "R123456", privacy = "https://example.com/privacy", contact = "help@example.com" }
}

output "sluis" {
  description = "Everything that the module says."
  value       = module.sluis
}
