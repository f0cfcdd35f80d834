# The validations of what watches (watch.tf, alerts.tf) and builds (build.tf), and what is made without them.

variables {
  projects = {
    runtime = { id = "example-run", number = "111111111111" }
    inner   = { id = "example-inner", number = "444444444444" }
    keys    = { id = "example-keys", number = "222222222222" }
    audit   = { id = "example-audit", number = "333333333333" }
  }
  domains  = { api = "api.example.com", pages = "connect.example.com" }
  operator = { name = "Example Data B.V.", authority = "De Nederlandsche Bank", licence = "R123456", privacy = "https://example.com/privacy", contact = "help@example.com" }
}

run "nobody_builds_and_nobody_pays_by_default" {
  command = plan

  assert {
    condition     = length(google_cloudbuild_trigger.plan) + length(google_cloudbuild_trigger.release) + length(google_service_account.build) == 0
    error_message = "Where people apply from their own machines, there is no pipeline."
  }
  assert {
    condition     = length(google_billing_budget.budget) == 0
    error_message = "Without a billing account there can be no budget."
  }
  assert {
    condition     = google_logging_project_bucket_config.logs["audit"].locked && google_storage_bucket.audit.retention_policy[0].is_locked
    error_message = "Audit logs are locked unless somebody says otherwise."
  }
}

run "audit_logs_kept_for_a_month" {
  command = plan

  variables {
    audit_days = { search = 30 }
  }

  expect_failures = [var.audit_days]
}

run "an_archive_for_ever" {
  command = plan

  variables {
    audit_days = { archive = 36500 }
  }

  expect_failures = [var.audit_days]
}

run "an_address_without_a_host" {
  command = plan

  variables {
    alert_emails = ["watch"]
  }

  expect_failures = [var.alert_emails]
}

run "a_budget_of_nothing" {
  command = plan

  variables {
    budgets = { keys = 0 }
  }

  expect_failures = [var.budgets]
}

run "a_budget_of_nothing_for_gate_1" {
  command = plan

  variables {
    budgets = { inner = 0 }
  }

  expect_failures = [var.budgets]
}

run "a_repository_elsewhere" {
  command = plan

  variables {
    build = {
      repository = "projects/example-audit/locations/us-central1/connections/git/repositories/sluis"
      state      = "example-state"
      approvers  = ["group:releases@example.com"]
    }
  }

  expect_failures = [var.build]
}

run "releases_that_a_robot_approves" {
  command = plan

  variables {
    build = {
      repository = "projects/example-audit/locations/europe-west4/connections/git/repositories/sluis"
      state      = "example-state"
      approvers  = ["user:robot@example-audit.iam.gserviceaccount.com"]
    }
  }

  expect_failures = [var.build]
}

run "releases_that_nobody_approves" {
  command = plan

  variables {
    build = {
      repository = "projects/example-audit/locations/europe-west4/connections/git/repositories/sluis"
      state      = "example-state"
      approvers  = []
    }
  }

  expect_failures = [var.build]
}
