"""What a store's refusals mean: error codes and HTTP statuses as the errors of this program (S3 API
reference, "Error responses").
"""

from __future__ import annotations

from typing import Any

from coalesce import errors

CERTIFICATE_HINT = (
    "Check --ca-bundle and the name in --endpoint-url; --no-verify-ssl trusts anybody."
)
CREDENTIALS_HINT = (
    "Check the credentials: are they of this account, not expired, and is the clock right?"
)

_CREDENTIAL_CODES = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
    }
)
_ELSEWHERE = frozenset({301, 307, 308})
# only of a 404: an error under a 200 or a 5xx says nothing of what is there
_ABSENT = frozenset({"NoSuchKey", "NoSuchUpload"})
_BY_CODE: dict[str, type[errors.StorageError]] = {
    "NoSuchUpload": errors.NoSuchUpload,
    "NoSuchKey": errors.NotFound,
    "PreconditionFailed": errors.PreconditionFailed,
    "ConditionalRequestConflict": errors.Conflict,
    "InvalidObjectState": errors.Archived,
    "SlowDown": errors.Throttled,
    "NotImplemented": errors.NotImplementedByStore,
    "RequestTimeout": errors.Unavailable,  # a 400: the store waited for a body that did not come
}
_BY_STATUS: dict[int, type[errors.StorageError]] = {
    403: errors.AccessDenied,
    404: errors.NotFound,
    408: errors.Unavailable,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    429: errors.Throttled,
    501: errors.NotImplementedByStore,
    503: errors.Throttled,
}


def failure_of(
    operation: str, where: str, *, status: int, code: str, said: str, request_id: str
) -> errors.CoalesceError:
    """The error for one answer: what was asked, of which key, what the store said."""
    message = f"{operation} {where!r}: {status} {code} {said}".rstrip()
    details: dict[str, Any] = {
        "key": where,
        "code": code,
        "request_id": request_id,
        "operation": operation,
    }
    if code == "NoSuchBucket":
        return errors.ConfigurationError(
            message, hint="Check --bucket, --region and --endpoint-url.", **details
        )
    if status in _ELSEWHERE or code == "AuthorizationHeaderMalformed":
        return errors.ConfigurationError(
            message, hint="The bucket is in another region: check --region.", **details
        )
    if code in _CREDENTIAL_CODES:
        return errors.ConfigurationError(message, hint=CREDENTIALS_HINT, **details)
    refused = errors.BadRequest if 400 <= status < 500 else errors.Unavailable
    kind = _BY_STATUS.get(status, refused)
    if code not in _ABSENT or status == 404:
        kind = _BY_CODE.get(code, kind)
    return kind(message, **details)
