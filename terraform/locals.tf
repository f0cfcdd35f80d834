# The contracts of schemas/, and what everything else is called.
locals {
  schemas    = "${path.module}/../schemas"
  pipeline   = jsondecode(file("${local.schemas}/pipeline.json"))
  catalogue  = jsondecode(file("${local.schemas}/custodians.json"))
  indexes    = jsondecode(file("${local.schemas}/indexes.json"))
  retention  = jsondecode(file("${local.schemas}/retention.json"))
  custodians = { for c in local.catalogue : c.id => c if !try(c.sandbox, false) } # the sandbox bank is played on one machine only

  labels = merge({ app = "sluis" }, var.labels)

  # Every deployment: a function of pipeline.json, or one for each custodian. By name, such as consent or extract-comdirect.
  functions = { for d in flatten([for f in local.pipeline.functions : [for c in try(f.per, "") == "custodian" ? keys(local.custodians) : [""] : {
    name        = c == "" ? f.name : "${f.name}-${c}"
    function    = f.name # in pipeline.json
    custodian   = c      # empty, or an id of custodians.json
    why         = f.why
    entry_point = f.entry_point
    folder      = replace(c == "" ? try(f.source, f.name) : "${try(f.source, f.name)}/${local.custodians[c].protocol}", "/", "-")
    trigger     = try(f.trigger, "")  # a topic, or empty
    schedule    = try(f.schedule, "") # cron, or empty
    public      = length([for r in f.routes : r if r.host != "internal"]) > 0
    callers     = [for g in local.pipeline.functions : g.name if contains(try(g.calls, []), f.name)]
    calls       = try(f.calls, [])
    emits       = f.emits
    close       = f.close
    open        = f.open
    shows       = try(f.shows, [])
    shards      = try(f.shards, [])
    holds       = f.holds
  }]]) : d.name => d }
  folders = toset([for f in local.functions : f.folder]) # staged by test/stage, keys of var.sources

  # Cloud Run gives every service this address before it exists, so that a function can be told its own.
  urls = { for name in keys(local.functions) : name => "https://${name}-${local.numbers.runtime}.${var.region}.run.app" }

  topics = keys(local.pipeline.topics)

  # Full names of what others refer to: a plan shows them, where ids are known only after it was applied.
  place    = "projects/${local.projects.runtime}/locations/${var.region}"
  compute  = "projects/${local.projects.runtime}/regions/${var.region}"
  key_ids  = { for name, k in local.keys : name => "projects/${local.projects[local.homes[name]]}/locations/${var.region}/keyRings/${google_kms_key_ring.ring[k.ring].name}/cryptoKeys/${google_kms_crypto_key.key[name].name}" }
  accounts = merge({ for name, a in google_service_account.function : name => a.email }, { for name, a in google_service_account.helper : name => a.email })
}
