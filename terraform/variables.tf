# What may differ from one installation to the next. What must not differ (the flow, the gates, the custodians, the indexes,
# the lives of documents) is in schemas/*.json, and no variable changes it.

variable "projects" {
  description = "The four projects: of functions and data (runtime), of gate 1's key (inner), of gate 2's and all other keys (keys), and of what happened (audit). One with a number exists already and is used as it is; one without is created under folder_id and billed to billing_account."
  type = object({
    runtime = object({ id = string, number = optional(string) })
    inner   = object({ id = string, number = optional(string) })
    keys    = object({ id = string, number = optional(string) })
    audit   = object({ id = string, number = optional(string) })
  })

  validation {
    condition     = alltrue([for p in values(var.projects) : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", p.id))])
    error_message = "A project id has 6 to 30 small letters, digits and hyphens, and begins with a letter."
  }
  validation {
    condition     = length(distinct([for p in values(var.projects) : p.id])) == 4
    error_message = "Runtime, inner, keys and audit are four projects: who runs functions must own no keys, who owns one gate's key not the other's, and none of them the log of what they did."
  }
  validation {
    condition     = alltrue([for p in values(var.projects) : p.number == null || can(regex("^[0-9]{6,20}$", p.number))])
    error_message = "A project number has digits only."
  }
  validation {
    condition     = alltrue([for p in values(var.projects) : p.number != null]) || (var.folder_id != null && var.billing_account != null)
    error_message = "A project that is to be created needs folder_id and billing_account."
  }
}

variable "folder_id" {
  description = "The folder that projects are created in; null where all exist."
  type        = string
  default     = null

  validation {
    condition     = var.folder_id == null || can(regex("^[0-9]+$", var.folder_id))
    error_message = "A folder id has digits only."
  }
}

variable "billing_account" {
  description = "The billing account of projects that are created; null where all exist."
  type        = string
  default     = null

  validation {
    condition     = var.billing_account == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "A billing account looks like 012345-6789AB-CDEF01."
  }
}

variable "region" {
  description = "Where everything is that has a place: data, keys, functions, and the end of every TLS connection. A region in the European Union."
  type        = string
  default     = "europe-west4"

  validation {
    # London (europe-west2) and Zurich (europe-west6) are in Europe, not in the Union.
    condition = contains(["europe-central2", "europe-north1", "europe-north2", "europe-southwest1", "europe-west1", "europe-west3",
    "europe-west4", "europe-west8", "europe-west9", "europe-west10", "europe-west12"], var.region)
    error_message = "The region must be a single one in the European Union, such as europe-west4 (the Netherlands)."
  }
}

variable "domains" {
  description = "The two hosts: of the clients' API, and of the pages that investors see. Their DNS is yours; the outputs say which records it needs."
  type        = object({ api = string, pages = string })

  validation {
    condition     = alltrue([for d in values(var.domains) : can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", d))])
    error_message = "A domain is a full name in small letters, such as api.example.com."
  }
  validation {
    condition     = var.domains.api != var.domains.pages
    error_message = "API and pages are two hosts, so that no cookie of a page ever reaches the API."
  }
}

variable "operator" {
  description = "Who runs this, as investors are told on every page: the company, the authority that supervises it and its number there, the address of its privacy notice, and an e-mail address or a page where it can be reached. The consent function does not start without."
  type        = object({ name = string, authority = string, licence = string, privacy = string, contact = string })

  validation {
    condition     = alltrue([for text in [var.operator.name, var.operator.authority, var.operator.licence] : trimspace(text) == text && length(text) >= 1 && length(text) <= 120])
    error_message = "Name, authority and licence are one line each, of 1 to 120 characters."
  }
  validation {
    condition     = can(regex("^https://[^/@\\s]+(/\\S*)?$", var.operator.privacy)) && length(var.operator.privacy) <= 300
    error_message = "The privacy notice has an https address."
  }
  validation {
    condition     = can(regex("^(https://[^/@\\s]+(/\\S*)?|[^@\\s]+@[^@\\s]+)$", var.operator.contact)) && length(var.operator.contact) <= 254
    error_message = "Contact is an e-mail address, or a page with an https address."
  }
}

variable "sources" {
  description = "Each staged folder (`go run ./test/stage DIR`) and the SHA-256 of its zip, which lies at gs://BUCKET/functions/FOLDER-SHA256.zip. Empty at the first apply, before there is a bucket to upload to: then everything is made but the functions."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for sum in values(var.sources) : can(regex("^[0-9a-f]{64}$", sum))])
    error_message = "A source is named by the SHA-256 of its zip: 64 hexadecimal digits."
  }
  validation {
    condition     = length(var.sources) == 0 || length(setsubtract(local.folders, keys(var.sources))) == 0
    error_message = "A function's source is missing: `go run ./test/stage DIR` makes one folder for each."
  }
}

variable "runtime" {
  description = "The Go runtime that functions are built for."
  type        = string
  default     = "go126"

  validation {
    condition     = can(regex("^go1[0-9]{2}$", var.runtime))
    error_message = "A Go runtime looks like go126."
  }
}

variable "functions" {
  description = "What differs from the defaults of functions.tf: by the name of a function in pipeline.json (which holds for each custodian's), or of one deployment, such as extract-comdirect. Memory in MiB, timeout in seconds."
  type = map(object({
    memory      = optional(number)
    cpu         = optional(number)
    concurrency = optional(number)
    timeout     = optional(number)
    min         = optional(number)
    max         = optional(number)
  }))
  default = {}

  validation {
    condition     = length(setsubtract(keys(var.functions), concat(keys(local.functions), [for f in local.pipeline.functions : f.name]))) == 0
    error_message = "There is no function of such a name."
  }
  validation {
    condition = alltrue([for f in values(var.functions) : alltrue([
      f.memory == null ? true : f.memory >= 128 && f.memory <= 32768,
      f.cpu == null ? true : contains([1, 2, 4, 8], f.cpu),
      f.concurrency == null ? true : f.concurrency >= 1 && f.concurrency <= 1000,
      f.timeout == null ? true : f.timeout >= 10 && f.timeout <= 3600,
      f.min == null ? true : f.min >= 0 && f.min <= 100,
      f.max == null ? true : f.max >= 1 && f.max <= 1000,
    ])])
    error_message = "Memory is 128 to 32768 MiB, cpu 1, 2, 4 or 8, concurrency 1 to 1000, timeout 10 to 3600 seconds, min 0 to 100 and max 1 to 1000 instances."
  }
}

variable "all_traffic" {
  description = "Whether a new revision takes all requests as soon as it is ready. False leaves them with the old one, until `gcloud run services update-traffic` moves them step by step: that is all the gradual rollout that functions have."
  type        = bool
  default     = true
}

variable "network_range" {
  description = "Private addresses of the network: a /16, of which each custodian takes a /26."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(regex("^(10\\.[0-9]+|172\\.(1[6-9]|2[0-9]|3[01])|192\\.168)\\.0\\.0/16$", var.network_range)) && can(cidrhost(var.network_range, 1))
    error_message = "The network's range must be a private /16, such as 10.64.0.0/16."
  }
}

variable "egress_addresses" {
  description = "How many static addresses our requests to banks and clients come from. All must be on the lists of banks and clients that ask for one."
  type        = number
  default     = 1

  validation {
    condition     = var.egress_addresses >= 1 && var.egress_addresses <= 8 && floor(var.egress_addresses) == var.egress_addresses
    error_message = "There are 1 to 8 egress addresses."
  }
}

variable "webhooks_allow" {
  description = "Private addresses, each with its port, that webhooks may go to: a client's receiver that is reached by VPN or peering. Usually none."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for a in var.webhooks_allow : can(cidrhost("${split(":", a)[0]}/32", 0)) && try(tonumber(split(":", a)[1]) >= 1 && tonumber(split(":", a)[1]) <= 65535, false)])
    error_message = "An address looks like 10.0.0.7:443."
  }
}

variable "traces" {
  description = "The share of acts whose traces are kept, 0 to 1. Metrics count all."
  type        = number
  default     = 0.1

  validation {
    condition     = var.traces >= 0 && var.traces <= 1
    error_message = "The share of traces lies between 0 and 1."
  }
}

variable "refresh_interval" {
  description = "Between a reading and the next that a client may ask for, such as 15m; empty means the usual one."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9]+(s|m|h))*$", var.refresh_interval))
    error_message = "An interval looks like 90s, 15m or 1h30m."
  }
}

variable "log_level" {
  description = "What functions log: debug, info, warn or error. No line holds a secret or personal data at any level; debug has a line for each request."
  type        = string
  default     = "info"

  validation {
    condition     = contains(["debug", "info", "warn", "error"], var.log_level)
    error_message = "A log level is debug, info, warn or error."
  }
}

variable "rate_limits" {
  description = "Requests a minute from one address: beyond that they are refused with 429, and after ten minutes' worth in a minute the address is kept out for ten minutes."
  type        = object({ api = number, pages = number })
  default     = { api = 1200, pages = 300 }

  validation {
    condition     = alltrue([for n in values(var.rate_limits) : n >= 60 && n <= 100000])
    error_message = "A limit is 60 to 100000 requests a minute."
  }
}

variable "client_authorities" {
  description = "PEM certificates of the authorities that clients' own certificates come from. Empty: clients show an API key only. Not empty: nobody reaches the API without a certificate of theirs, too."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for c in var.client_authorities : can(regex("^-----BEGIN CERTIFICATE-----\n", c))])
    error_message = "An authority is a PEM certificate."
  }
}

variable "key_administrators" {
  description = "Who may administer keys (versions, rotation), and can use none: groups of people. Of gate 1's key (inner), and of gate 2's and all others (keys); nobody of both."
  type        = object({ inner = optional(set(string), []), keys = optional(set(string), []) })
  default     = {}

  validation {
    condition     = alltrue([for m in setunion(values(var.key_administrators)...) : can(regex("^(group|user):[^@]+@[^@]+$", m)) && !can(regex("gserviceaccount\\.com$", m))])
    error_message = "An administrator of keys is a group (or a user): group:keys@example.com. A service account is none."
  }
  validation {
    # By address alone, as Google reads it: in letters of either size, and an address is one group's or one user's.
    condition     = length(setintersection([for people in values(var.key_administrators) : [for m in people : lower(reverse(split(":", m))[0])]]...)) == 0
    error_message = "Nobody administers the keys of both gates: take the member out of key_administrators.inner or of key_administrators.keys."
  }
}

variable "secret_keepers" {
  description = "Who may add new versions of secrets, and can read none: groups of people."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for m in var.secret_keepers : can(regex("^(group|user):[^@]+@[^@]+$", m)) && !can(regex("gserviceaccount\\.com$", m))])
    error_message = "A keeper of secrets is a group (or a user): group:secrets@example.com. A service account is none."
  }
}

variable "key_rotation_days" {
  description = "How long a symmetric key encrypts before a new version of it does. Old versions go on opening what they closed."
  type        = number
  default     = 90

  validation {
    condition     = var.key_rotation_days >= 1 && var.key_rotation_days <= 365
    error_message = "Keys rotate after 1 to 365 days."
  }
}

variable "key_destroy_days" {
  description = "How long a version of a key that was told to be destroyed can still be restored."
  type        = number
  default     = 30

  validation {
    condition     = var.key_destroy_days >= 30 && var.key_destroy_days <= 120
    error_message = "A key can be restored for 30 to 120 days: all data hangs on it."
  }
}

variable "deny_policies" {
  description = "Whether IAM deny policies keep even owners of the projects from using keys and reading secrets. They need roles/iam.denyAdmin on the organisation; false only where nobody can give that."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Labels of everything that takes labels."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for k, v in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", k)) && can(regex("^[a-z0-9_-]{0,63}$", v))])
    error_message = "Labels have small letters, digits, hyphens and underscores."
  }
}
