resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = var.managed_buckets

  bucket = each.key

  # Runs clean up after earlier runs; this rule is for prefixes where no run comes again. Two days,
  # so that it never hits a live run.
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
    resources = concat([for name, location in var.locations : local.prefixes[name] if location.bucket == each.key], [local.ledger[each.key]])

    principals {
      type        = "AWS"
      identifiers = local.roles[each.key]
    }

    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["true"]
    }

    # The start of an upload and its parts cannot carry the condition.
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
    resources = concat([for name, location in var.locations : local.prefixes[name] if location.bucket == each.key], [local.ledger[each.key], local.records[each.key]])

    principals {
      type        = "AWS"
      identifiers = local.roles[each.key]
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
      identifiers = local.roles[each.key]
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
