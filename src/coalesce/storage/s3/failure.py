"""What a failed request means: the store's refusals and lost connections as errors of this program.

Source of the codes: S3 API reference, "Error responses".
"""

from __future__ import annotations

import os
import re
import ssl

from coalesce import errors
from coalesce.storage.rights import right_of
from coalesce.storage.s3.origin import strip_userinfo

CERTIFICATE_HINT = (
    "Check --ca-bundle and the host in --endpoint-url; --no-verify-ssl turns the check off."
)
CREDENTIALS_HINT = (
    "Check the credentials: right account, not expired, and this machine's clock correct?"
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
_DENIALS = frozenset({errors.AccessDenied.code, "Forbidden"})
_REDIRECTS = frozenset({301, 307, 308})
# Only of a 404: an error under a 200 or a 5xx says nothing about what exists. Nor does a 404 with
# another code or none, which whatever stands in front of the store may give.
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
    404: errors.Unavailable,
    405: errors.NotImplementedByStore,
    408: errors.Unavailable,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    429: errors.Throttled,
    501: errors.NotImplementedByStore,
    503: errors.Throttled,
}
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def subject(operation: str, where: str) -> str:
    """How a message names a request: its operation, and the key or prefix if it has one."""
    return f"{operation} {where!r}" if where else operation


def failure_of(
    operation: str, where: str, *, status: int, code: str, message: str, request_id: str
) -> errors.CoalesceError:
    """The error for a refusal: which request, on which key or prefix, and what the store says."""
    answer = " ".join(word for word in (str(status), code, message) if word)
    text = f"{subject(operation, where)}: {answer}"
    details = {"key": where, "code": code, "request_id": request_id, "operation": operation}
    if code == "NoSuchBucket":
        return errors.ConfigurationError(
            text, hint="Check --bucket, --region and --endpoint-url.", **details
        )
    if status in _REDIRECTS or code == "AuthorizationHeaderMalformed":
        return errors.ConfigurationError(
            text,
            hint="The bucket is in another region, or this is no S3 endpoint: "
            "check --region and --endpoint-url.",
            **details,
        )
    if code in _CREDENTIAL_CODES:
        return errors.ConfigurationError(text, hint=CREDENTIALS_HINT, **details)
    refusal = errors.BadRequest if 400 <= status < 500 else errors.Unavailable
    kind = _BY_STATUS.get(status, refusal)
    if code not in _ABSENT or status == 404:
        kind = _BY_CODE.get(code, kind)
    return kind(text, **details)


def name_right(error: errors.AccessDenied, bucket: str, region: str) -> None:
    """Adds to the message of a refusal which right on what it is for."""
    right = right_of(error.operation, error.key, bucket, region)
    if right and error.code in _DENIALS:
        error.message = f"{error.message} (needs {right})"
        error.args = (error.message,)


def connection_failure(
    operation: str, where: str, cause: BaseException, server: str
) -> errors.CoalesceError:
    """The error for a request that got no answer from `server`.

    ConfigurationError for a certificate that is not trusted, Unanswered for everything else.
    """
    for error in _causes(cause):
        if isinstance(error, ssl.SSLCertVerificationError):
            return errors.ConfigurationError(
                f"the certificate of {server} is not trusted "
                f"(CERTIFICATE_VERIFY_FAILED: {error.verify_message})",
                key=where,
                operation=operation,
                hint=CERTIFICATE_HINT,
            )
    reason = describe(cause, server)
    return errors.Unanswered(
        f"{subject(operation, where)}: {reason}" if where else reason,
        key=where,
        operation=operation,
    )


def access_failure(
    error: errors.ConfigurationError | errors.StorageError, bucket: str
) -> errors.CoalesceError:
    """What the first request on a bucket ends with, for whoever has set it up."""
    match error:
        case errors.ConfigurationError(code="NoSuchBucket"):
            return errors.ConfigurationError(
                f"there is no bucket {bucket!r}: {error.message}",
                key=error.key,
                code=error.code,
                request_id=error.request_id,
                hint=error.hint,
                operation=error.operation,
            )
        case errors.Unavailable(code=errors.Unavailable.code):
            return errors.ConfigurationError(
                f"cannot reach the store: {error.message}",
                hint="Check the network, --endpoint-url and --region.",
            )
        case errors.ConfigurationError() | errors.Unavailable():
            return error  # another code is the store's own, which may say otherwise later
    return errors.ConfigurationError(
        f"cannot use the bucket: {error.message}",
        code=error.code,
        hint="Check --bucket, --region and --endpoint-url.",
    )


def describe(cause: BaseException, server: str) -> str:
    """Why `server` gave no answer, in words, without the user and password of any URL."""
    for error in _causes(cause):
        if isinstance(error, ssl.SSLError):
            if error.reason == "WRONG_VERSION_NUMBER":
                return f"{server} does not speak TLS, so its URL begins with http://"
            return f"TLS with {server} failed: {error.reason or error}"
        if isinstance(error, TimeoutError):
            return f"{server} did not answer in time"
        if isinstance(error, OSError) and error.errno is not None:
            return f"the connection to {server} failed: {_words(error)}"
    first = _causes(cause)[0]
    text = strip_userinfo(str(first)) or type(first).__name__
    return f"{server}: {' '.join(text.split())}"


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, the first cause first."""
    causes = [error]
    while (cause := causes[0].__cause__ or causes[0].__context__) is not None:
        causes.insert(0, cause)
    return causes


def _words(error: OSError) -> str:
    """The reason alone: asyncio and aiohttp put addresses around it, once for each that failed."""
    numbers = dict.fromkeys(_ERRNO.findall(str(error)))
    return ", ".join(os.strerror(int(number)) for number in numbers) or str(error.strerror)
