"""Which right a refused request lacked."""

from __future__ import annotations

from coalesce.errors import AccessDenied, ConfigurationError

# The rights that requests need (AWS service authorization reference, S3).
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


def missing_right(error: AccessDenied, where: str, operation: str = "") -> ConfigurationError:
    """Returns the failure of a run that cannot work under `where` without a right that it lacks.

    `operation` is the S3 operation that was refused, where the error does not say it.
    """
    action = _ACTIONS.get(error.operation or operation, "a right")
    message = f"{action} is missing on {where!r}: {error.message}"
    hint = f"Grant {action} there; `coalesce policy` prints what a run needs."
    return ConfigurationError(
        message, key=error.key, code=error.code, request_id=error.request_id, hint=hint
    )
