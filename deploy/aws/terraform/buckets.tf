resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = var.managed_buckets

  bucket = each.key

  # A run sweeps after its predecessors; this is for prefixes where none comes again. It must never strike a run that is still going.
  rule {
    id     = "abandoned-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = var.managed_buckets

  bucket = each.key
  policy = data.aws_iam_policy_document.bucket[each.key].json
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.buckets

  statement {
    sid       = "JobCreatesOnly"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = [for name, location in var.locations : local.prefixes[name] if location.bucket == each.key]

    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.job.arn]
    }

    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["true"]
    }

    # Starting an upload and its parts cannot carry the condition.
    condition {
      test     = "Bool"
      variable = "s3:ObjectCreationOperation"
      values   = ["true"]
    }
  }

  statement {
    sid       = "JobDeletesByETagOnly"
    effect    = "Deny"
    actions   = ["s3:DeleteObject"]
    resources = concat([for name, location in var.locations : local.prefixes[name] if location.bucket == each.key], [local.records[each.key]])

    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.job.arn]
    }

    condition {
      test     = "Null"
      variable = "s3:if-match"
      values   = ["true"]
    }
  }

  statement {
    sid       = "JobReplacesRecordsByETagOnly"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = [local.records[each.key]]

    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.job.arn]
    }

    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["true"]
    }

    condition {
      test     = "Null"
      variable = "s3:if-match"
      values   = ["true"]
    }

    condition {
      test     = "Bool"
      variable = "s3:ObjectCreationOperation"
      values   = ["true"]
    }
  }
}
