data "aws_partition" "current" {}

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

locals {
  prefixes = { for name, location in var.locations : name => "arn:${data.aws_partition.current.partition}:s3:::${location.bucket}/${location.prefix}/*" }
  records  = { for bucket in local.buckets : bucket => "arn:${data.aws_partition.current.partition}:s3:::${bucket}/_coalesce/groups/*" }
  ledger   = { for bucket in local.buckets : bucket => "arn:${data.aws_partition.current.partition}:s3:::${bucket}/_coalesce/ledger/*" }
  buckets  = toset([for location in values(var.locations) : location.bucket])

  # Three attempts of two hours each end before 08:30, an hour before the readers start. The deadline
  # lets an attempt stop by itself.
  attempts        = 3
  attempt_seconds = 7200
  deadline        = "110m"

  # Another attempt would not help with these. Batch retries everything that matches no rule: 1, 11,
  # 12, 75, 130, 137, 143, a lost host.
  final_exit_codes = ["2", "3", "4", "10"]

  definitions = {
    storage   = { flags = [], date = "yesterday" }
    manifests = { flags = ["-a"], date = "NOT_SET" }
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
  for_each = local.definitions

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
    partition     = "-1"
    threads       = "0"
    "max-files"   = "1000000"
    "max-size"    = "128000000"
    "date-to-add" = each.value.date
    deadline      = local.deadline
  }

  container_properties = jsonencode({
    image                  = var.image
    user                   = "10001:10001"
    readonlyRootFilesystem = true
    jobRoleArn             = aws_iam_role.job.arn
    executionRoleArn       = aws_iam_role.execution.arn
    networkConfiguration   = { assignPublicIp = var.assign_public_ip ? "ENABLED" : "DISABLED" }
    resourceRequirements = [
      { type = "VCPU", value = tostring(var.size.vcpu) },
      { type = "MEMORY", value = tostring(var.size.memory) },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this.name
        "awslogs-region"        = data.aws_region.current.region
        "awslogs-stream-prefix" = "coalesce"
      }
    }
    command = concat(
      ["run", "-b", "Ref::s3-bucket-id", "-p", "Ref::s3-prefix", "-n", "Ref::partition", "-t", "Ref::threads"],
      ["-f", "Ref::max-files", "-s", "Ref::max-size", "-d", "Ref::date-to-add", "-m"],
      each.value.flags,
      ["--deadline", "Ref::deadline", "--output", "json"],
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

  # No attempts here: they would replace the job definition's, with its exit codes.
  batch_target {
    job_definition = aws_batch_job_definition.this[each.value.layout].arn
    job_name       = "${var.name}-${each.key}"
    array_size     = each.value.shards > 1 ? each.value.shards : null
  }

  input = jsonencode({
    Parameters = {
      "s3-bucket-id" = each.value.bucket
      "s3-prefix"    = each.value.prefix
      partition      = "-1"
      threads        = tostring(each.value.threads)
      "date-to-add"  = each.value.date
      "max-files"    = tostring(each.value.max_files)
      "max-size"     = tostring(each.value.max_size)
    }
  })
}

resource "aws_cloudwatch_event_rule" "failed" {
  name        = "${var.name}-failed"
  description = "A job used up its attempts, or ended with a code that is not retried. An array is reported once, by its parent"
  event_pattern = jsonencode({
    source        = ["aws.batch"]
    "detail-type" = ["Batch Job State Change"]
    detail = {
      status          = ["FAILED"]
      jobQueue        = [aws_batch_job_queue.this.arn]
      arrayProperties = { index = [{ exists = false }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "failed" {
  rule = aws_cloudwatch_event_rule.failed.name
  arn  = var.alarm_topic_arn

  input_transformer {
    input_paths = {
      name   = "$.detail.jobName"
      id     = "$.detail.jobId"
      reason = "$.detail.statusReason"
      code   = "$.detail.container.exitCode"
    }
    input_template = "\"coalesce job <name> (<id>) failed: <reason>, exit code <code>. What to do on each code: docs/exit-codes.md\""
  }
}

resource "aws_cloudwatch_log_metric_filter" "finished" {
  name           = "${var.name}-finished"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = "{ $.type = \"summary\" && $.exit_code = 0 }"

  metric_transformation {
    namespace = "coalesce"
    name      = "${var.name}-finished"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "nothing_finished" {
  alarm_name          = "${var.name}-nothing-finished"
  alarm_description   = "No run has succeeded for a day; the schedule may be off, or every run may be stuck"
  namespace           = "coalesce"
  metric_name         = "${var.name}-finished"
  statistic           = "Sum"
  period              = 86400
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
