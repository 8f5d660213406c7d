# A job used up its attempts, or ended with a code that is not retried.
resource "aws_cloudwatch_event_rule" "failed" {
  for_each = local.failed_jobs

  name        = "${var.name}-${each.key}"
  description = each.value.description
  event_pattern = jsonencode({
    source        = ["aws.batch"]
    "detail-type" = ["Batch Job State Change"]
    detail = {
      status          = ["FAILED"]
      jobQueue        = [aws_batch_job_queue.this.arn]
      arrayProperties = { index = [{ exists = false }], size = [{ exists = each.value.is_array }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "failed" {
  for_each = local.failed_jobs

  rule = aws_cloudwatch_event_rule.failed[each.key].name
  arn  = var.alarm_topic_arn

  input_transformer {
    input_paths    = each.value.paths
    input_template = "\"${each.value.text}\""
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }
}

# Takes what EventBridge could not deliver: a schedule that could not submit its job, a message that
# the topic refused.
resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id
  policy    = data.aws_iam_policy_document.dead_letters.json
}

data "aws_iam_policy_document" "dead_letters" {
  statement {
    sid       = "RulesOfThisAccount"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead_letters.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${data.aws_partition.current.partition}:events:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:rule/*"]
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "undelivered" {
  alarm_name          = "${var.name}-undelivered"
  alarm_description   = "A schedule could not submit its job, or a message on a failed job could not be sent; the dead-letter queue holds it with its reason"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}

# The metrics are those that the job prints with --emf. Thirty hours: the six that a night's attempts
# may take until 08:30 and the day until the next night is over.
resource "aws_cloudwatch_metric_alarm" "no_good_night" {
  for_each = local.watched

  alarm_name          = "${var.name}-${each.key}-no-good-night"
  alarm_description   = "coalesce s3://${each.value.bucket}/${each.value.prefix}: since yesterday fewer shards have ended well than there are"
  namespace           = "coalesce"
  metric_name         = "GoodRuns"
  dimensions          = local.dimensions[each.key]
  statistic           = "Sum"
  period              = 108000
  evaluation_periods  = 1
  comparison_operator = "LessThanThreshold"
  threshold           = each.value.shards
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "long_path_list" {
  for_each = local.watched

  alarm_name          = "${var.name}-${each.key}-long-path-list"
  alarm_description   = "coalesce s3://${each.value.bucket}/${each.value.prefix}: the comma-joined list of all paths nears the longest that Java holds"
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0.8
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]

  # Each shard tells of its own groups only, and has about an equal part of them.
  metric_query {
    id          = "share"
    expression  = "shard * ${each.value.shards}"
    label       = "Share of the longest list"
    return_data = true
  }

  metric_query {
    id = "shard"

    metric {
      namespace   = "coalesce"
      metric_name = "PathListShare"
      dimensions  = local.dimensions[each.key]
      stat        = "Maximum"
      period      = 86400
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "unsettled" {
  for_each = local.watched

  alarm_name          = "${var.name}-${each.key}-unsettled"
  alarm_description   = "coalesce s3://${each.value.bucket}/${each.value.prefix}: two nights in a row, groups of an earlier run could not be settled"
  namespace           = "coalesce"
  metric_name         = "GroupsUnsettled"
  dimensions          = local.dimensions[each.key]
  statistic           = "Maximum"
  period              = 86400
  evaluation_periods  = 2
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
