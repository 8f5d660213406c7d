data "aws_iam_policy_document" "assumed" {
  for_each = toset(["ecs-tasks.amazonaws.com", "events.amazonaws.com"])

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [each.key]
    }
  }
}

resource "aws_iam_role" "execution" {
  name_prefix          = "${var.name}-execution-"
  assume_role_policy   = data.aws_iam_policy_document.assumed["ecs-tasks.amazonaws.com"].json
  permissions_boundary = var.permissions_boundary
}

resource "aws_iam_role_policy" "execution" {
  name   = "pull-and-log"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

data "aws_iam_policy_document" "execution" {
  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = ["arn:${data.aws_partition.current.partition}:ecr:${data.aws_region.current.region}:*:repository/*"]
  }

  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }
}

resource "aws_iam_role" "submit" {
  name_prefix          = "${var.name}-submit-"
  assume_role_policy   = data.aws_iam_policy_document.assumed["events.amazonaws.com"].json
  permissions_boundary = var.permissions_boundary
}

resource "aws_iam_role_policy" "submit" {
  name   = "submit"
  role   = aws_iam_role.submit.id
  policy = data.aws_iam_policy_document.submit.json
}

data "aws_iam_policy_document" "submit" {
  statement {
    actions = ["batch:SubmitJob"]
    resources = [
      aws_batch_job_queue.this.arn,
      "arn:${data.aws_partition.current.partition}:batch:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:job-definition/${var.name}-*",
    ]
  }
}

resource "aws_iam_role" "job" {
  for_each = var.locations

  name_prefix          = "${substr("${var.name}-${each.key}", 0, 37)}-"
  description          = "coalesce s3://${each.value.bucket}/${each.value.prefix}"
  assume_role_policy   = data.aws_iam_policy_document.assumed["ecs-tasks.amazonaws.com"].json
  permissions_boundary = var.permissions_boundary
}

resource "aws_iam_role_policy" "job" {
  for_each = var.locations

  name   = "location"
  role   = aws_iam_role.job[each.key].id
  policy = data.aws_iam_policy_document.job[each.key].json
}

# What `coalesce policy` prints for each bucket and prefix.
data "aws_iam_policy_document" "job" {
  for_each = var.locations

  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${each.value.bucket}"]

    # IfExists: when a HEAD finds no key, S3 checks this right without a prefix. Without the right it
    # answers 403 instead of 404, and a 403 does not say whether the key exists.
    condition {
      test     = "StringLikeIfExists"
      variable = "s3:prefix"
      values   = ["${each.value.prefix}/*", "_coalesce/*"]
    }
  }

  statement {
    sid       = "FindUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::${each.value.bucket}"]
  }

  statement {
    sid     = "ReadWriteDelete"
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = [
      local.prefixes[each.key],
      "arn:${data.aws_partition.current.partition}:s3:::${each.value.bucket}/_coalesce/*",
    ]
  }

  statement {
    sid       = "Tags"
    actions   = ["s3:GetObjectTagging", "s3:PutObjectTagging"]
    resources = [local.prefixes[each.key]]
  }

  dynamic "statement" {
    for_each = length(each.value.kms_key_arns) > 0 ? [each.value.kms_key_arns] : []
    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = statement.value
    }
  }
}
