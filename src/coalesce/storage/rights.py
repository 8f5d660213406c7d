"""The rights that requests need, for whoever lacks one."""

from __future__ import annotations

# AWS service authorization reference, S3.
ACTIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "GetObjectTagging": "s3:GetObjectTagging",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
}
_ON_BUCKET = frozenset({"ListMultipartUploads", "ListObjectsV2"})
# S3 answers 403 instead of 404 for an absent key to whoever may not list.
_TELL_ABSENCE = frozenset({"GetObject", "HeadObject"})


def action_of(operation: str) -> str:
    """The IAM action that an operation needs."""
    return ACTIONS.get(operation, "a right")


def arn_of(bucket: str, region: str) -> str:
    """The bucket's ARN, in the partition that the region belongs to."""
    if bucket.startswith("arn:"):
        return bucket
    partition = (
        "aws-cn"
        if region.startswith("cn-")
        else "aws-us-gov"
        if region.startswith("us-gov-")
        else "aws"
    )
    return f"arn:{partition}:s3:::{bucket}"


def right_of(operation: str, where: str, bucket: str, region: str) -> str:
    """The right that a request needs: its IAM action, and the ARN of what it needs it on.

    `where` is the request's key, or its prefix if it is one on the bucket. Empty for an operation
    that nothing is known of.
    """
    if operation not in ACTIONS:
        return ""
    arn, action = arn_of(bucket, region), action_of(operation)
    if operation in _ON_BUCKET:
        return f"{action} on {arn}" + (f" for the prefix {where!r}" if where else "")
    between = "/object/" if bucket.startswith("arn:") else "/"  # of an access point
    right = f"{action} on {arn}{between}{where}"
    return f"{right} and s3:ListBucket on {arn}" if operation in _TELL_ABSENCE else right
