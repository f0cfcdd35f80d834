# As an account-information provider runs it: projects that the organisation's own factory made, people for keys and secrets, clients
# that show a certificate, more instances, and new revisions that take requests step by step.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }

  backend "gcs" {} # terraform init -backend-config=bucket=NAME
}

provider "google" {
  user_project_override = true
  billing_project       = "example-sluis-run"
}

variable "sources" {
  description = "Each staged folder and the SHA-256 of its zip."
  type        = map(string)
}

variable "client_authorities" {
  description = "PEM certificates of the authorities that clients' certificates come from: in a terraform.tfvars beside this file."
  type        = list(string)
  default     = []
}

module "sluis" {
  source = "../.."

  projects = {
    runtime = { id = "example-sluis-run", number = "111111111111" }
    inner   = { id = "example-sluis-inner", number = "444444444444" }
    keys    = { id = "example-sluis-keys", number = "222222222222" }
    audit   = { id = "example-sluis-audit", number = "333333333333" }
  }

  domains            = { api = "api.example.com", pages = "connect.example.com" }
  sources            = var.sources
  client_authorities = var.client_authorities

  operator = { name = "Example Data B.V.", authority = "De Nederlandsche Bank", licence = "R123456", privacy = "https://example.com/privacy", contact = "help@example.com" }

  key_administrators = { inner = ["group:sluis-inner@example.com"], keys = ["group:sluis-keys@example.com"] } # nobody is in both groups
  secret_keepers     = ["group:sluis-secrets@example.com"]

  billing_account = "012345-6789AB-CDEF01"
  alert_emails    = ["sluis-watch@example.com"]
  budgets         = { runtime = 5000, inner = 500, keys = 500, audit = 1000 }
  build = {
    repository = "projects/example-sluis-audit/locations/europe-west4/connections/git/repositories/sluis"
    state      = "example-sluis-state"
    approvers  = ["group:sluis-releases@example.com"]
  }

  egress_addresses = 2
  all_traffic      = false
  rate_limits      = { api = 6000, pages = 600 }
  functions = {
    extract   = { max = 100 }
    deliver   = { min = 1, max = 100 }
    portfolio = { min = 1, max = 50 }
  }

  labels = { environment = "production" }
}

output "sluis" {
  description = "Everything that the module says."
  value       = module.sluis
}
