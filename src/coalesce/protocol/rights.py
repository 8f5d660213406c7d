"""The rights that requests need, for whoever lacks one."""

from __future__ import annotations

from coalesce.errors import AccessDenied, ConfigurationError

# AWS service authorization reference, S3.
_ACTIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
}


def missing_right(error: AccessDenied, prefix: str) -> ConfigurationError:
    """The failure that names the IAM action which is missing under a state prefix."""
    action = _ACTIONS.get(error.operation, "a right")
    message = f"{action} is missing on {prefix!r}: {error.message}"
    hint = f"Grant {action} under the state prefix; `coalesce policy` prints what a run needs."
    return ConfigurationError(
        message, key=error.key, code=error.code, request_id=error.request_id, hint=hint
    )
