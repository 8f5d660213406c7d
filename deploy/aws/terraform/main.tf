data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

locals {
  prefixes = { for name, location in var.locations : name => "arn:${data.aws_partition.current.partition}:s3:::${location.bucket}/${location.prefix}/*" }
  records  = { for bucket in local.buckets : bucket => "arn:${data.aws_partition.current.partition}:s3:::${bucket}/_coalesce/groups/*" }
  ledger   = { for bucket in local.buckets : bucket => "arn:${data.aws_partition.current.partition}:s3:::${bucket}/_coalesce/ledger/*" }
  roles    = { for bucket in local.buckets : bucket => [for name, location in var.locations : aws_iam_role.job[name].arn if location.bucket == bucket] }
  buckets  = toset([for location in values(var.locations) : location.bucket])

  # Three attempts of two hours each end before 08:30, an hour before the readers start. The deadline
  # lets an attempt stop by itself.
  attempts        = 3
  attempt_seconds = 7200
  deadline        = "110m"

  # Another attempt would not help with these. Batch retries everything that matches no rule: 1, 11,
  # 12, 75, 130, 137, 143, a lost host.
  final_exit_codes = ["2", "3", "4", "10"]

  layouts = {
    storage   = { flags = [], metrics = "corporate" }
    manifests = { flags = ["-a"], metrics = "manifest" }
  }

  # Where the schedule is off there are no alarms either.
  watched    = { for name, location in var.locations : name => location if var.schedule_enabled }
  dimensions = { for name, location in var.locations : name => { Location = "s3://${location.bucket}/${location.prefix}/", Layout = local.layouts[location.layout].metrics } }

  failed_jobs = {
    failed = {
      description = "A job without an array has failed"
      is_array    = false
      paths       = { name = "$.detail.jobName", id = "$.detail.jobId", reason = "$.detail.statusReason", code = "$.detail.container.exitCode" }
      text        = "coalesce job <name> (<id>) failed: <reason>, exit code <code>. What to do on each code: docs/exit-codes.md"
    }
    # An array is told of once, by its parent, which has no exit code of its own.
    array-failed = {
      description = "Shards of an array job have failed"
      is_array    = true
      paths = {
        name      = "$.detail.jobName"
        id        = "$.detail.jobId"
        reason    = "$.detail.statusReason"
        shards    = "$.detail.arrayProperties.size"
        failed    = "$.detail.arrayProperties.statusSummary.FAILED"
        succeeded = "$.detail.arrayProperties.statusSummary.SUCCEEDED"
      }
      text = "coalesce job <name> (<id>) failed: <reason>. Of <shards> shards <failed> failed and <succeeded> succeeded; list those that failed: aws batch list-jobs --array-job-id <id> --job-status FAILED. What to do on each exit code: docs/exit-codes.md"
    }
  }
}

resource "aws_ecr_repository" "this" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE_WITH_EXCLUSION"

  # The pipeline moves this tag, and deploys by digest.
  image_tag_mutability_exclusion_filter {
    filter      = "latest"
    filter_type = "WILDCARD"
  }

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the last thirty images"
      action       = { type = "expire" }
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 30 }
    }]
  })
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/batch/${var.name}"
  retention_in_days = var.log_retention_days
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "coalesce needs outbound HTTPS and no inbound traffic"
  vpc_id      = var.vpc_id

  egress {
    description = "S3 and other AWS services"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_batch_compute_environment" "this" {
  name_prefix = "${var.name}-"
  type        = "MANAGED"

  compute_resources {
    type               = var.compute_type
    max_vcpus          = var.max_vcpus
    subnets            = var.subnet_ids
    security_group_ids = [aws_security_group.this.id]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_batch_job_queue" "this" {
  name     = var.name
  state    = "ENABLED"
  priority = 10

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.this.arn
  }
}

resource "aws_batch_job_definition" "this" {
  for_each = var.locations

  name                  = "${var.name}-${each.key}"
  type                  = "container"
  platform_capabilities = ["FARGATE"]
  propagate_tags        = true

  timeout {
    attempt_duration_seconds = local.attempt_seconds
  }

  retry_strategy {
    attempts = local.attempts

    dynamic "evaluate_on_exit" {
      for_each = local.final_exit_codes
      content {
        on_exit_code = evaluate_on_exit.value
        action       = "exit"
      }
    }
  }

  parameters = {
    "s3-bucket-id" = each.value.bucket
    "s3-prefix"    = each.value.prefix
    partition      = "-1"
    threads        = tostring(each.value.threads)
    "max-files"    = tostring(each.value.max_files)
    "max-size"     = tostring(each.value.max_size)
    "date-to-add"  = each.value.date
    deadline       = local.deadline
  }

  container_properties = jsonencode({
    image                  = var.image
    user                   = "10001:10001"
    readonlyRootFilesystem = true
    jobRoleArn             = aws_iam_role.job[each.key].arn
    executionRoleArn       = aws_iam_role.execution.arn
    networkConfiguration   = { assignPublicIp = var.assign_public_ip ? "ENABLED" : "DISABLED" }
    environment            = [{ name = "AWS_DEFAULT_REGION", value = data.aws_region.current.region }]
    resourceRequirements = [
      { type = "VCPU", value = tostring(var.size.vcpu) },
      { type = "MEMORY", value = tostring(var.size.memory) },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this.name
        "awslogs-region"        = data.aws_region.current.region
        "awslogs-stream-prefix" = "${var.name}-${each.key}"
      }
    }
    # An eighth of the memory holds bodies in flight: at least 256 MiB for each vCPU. The rest is for
    # the processes and for what a run keeps of each source that it has listed.
    command = concat(
      ["run", "-b", "Ref::s3-bucket-id", "-p", "Ref::s3-prefix", "-n", "Ref::partition", "-t", "Ref::threads"],
      ["-f", "Ref::max-files", "-s", "Ref::max-size", "-d", "Ref::date-to-add", "-m"],
      local.layouts[each.value.layout].flags,
      ["--memory", "${var.size.memory / 8}MiB", "--expected-bucket-owner"],
      [coalesce(each.value.bucket_owner, data.aws_caller_identity.current.account_id)],
      ["--deadline", "Ref::deadline", "--output", "json", "--emf"],
    )
  })
}

resource "aws_cloudwatch_event_rule" "nightly" {
  for_each = var.locations

  name                = "${var.name}-${each.key}"
  description         = "coalesce s3://${each.value.bucket}/${each.value.prefix}"
  schedule_expression = var.schedule
  state               = var.schedule_enabled ? "ENABLED" : "DISABLED"
}

resource "aws_cloudwatch_event_target" "nightly" {
  for_each = var.locations

  rule     = aws_cloudwatch_event_rule.nightly[each.key].name
  arn      = aws_batch_job_queue.this.arn
  role_arn = aws_iam_role.submit.arn

  # No attempts here: they would replace the job definition's, with its exit codes. The ARN without a
  # revision stands for the newest; one that is named goes out of service with the next image.
  batch_target {
    job_definition = aws_batch_job_definition.this[each.key].arn_prefix
    job_name       = "${var.name}-${each.key}"
    array_size     = each.value.shards > 1 ? each.value.shards : null
  }

  # Half an hour is left before the last attempt would meet the readers.
  retry_policy {
    maximum_event_age_in_seconds = 1800
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }
}
