"""What an answer of S3 must say, read from its headers or fields."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from coalesce import errors
from coalesce.storage.attributes import METADATA, SSE, attributes_in
from coalesce.storage.base import Body, Head
from coalesce.storage.limits import ARCHIVED
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.failure import subject

_CHECKSUM_HEADERS = tuple(
    (name, f"x-amz-checksum-{name.lower()}") for name in ("CRC64NVME", "CRC32", "CRC32C")
)


def require(fields: Mapping[str, Any], name: str, operation: str, where: str) -> str:
    """A field that must be there and not empty: an empty ETag would be no condition at all.

    Raises StorageError.
    """
    value = fields.get(name)
    if not value:
        raise errors.StorageError(
            f"{subject(operation, where)}: the answer has no {name}",
            key=where,
            operation=operation,
            hint="Is this an S3 endpoint? Check --endpoint-url.",
        )
    return str(value)


def body_of(answer: Answer, key: str, etag: str, start: int, length: int | None) -> Body:
    """The body of a GET under If-Match `etag`, of `length` bytes from `start` on unless that is
    None.

    Raises ConditionIgnored for another ETag, Unavailable for another range, TooLong for an object
    that is longer than was allowed.
    """
    found = require(answer.headers, "etag", "GetObject", key)
    if etag and found != etag:
        raise errors.ConditionIgnored(
            f"GetObject {key!r}: the answer is another version than the one asked for",
            key=key,
            operation="GetObject",
        )
    if length is not None and (answer.overlong or len(answer.data) != length):
        has = "more" if answer.overlong else str(len(answer.data))
        raise errors.Unavailable(
            f"GetObject {key!r}: the answer has {has} bytes, not {length}",
            key=key,
            operation="GetObject",
        )
    if length is not None:
        asked = f"bytes {start}-{start + length - 1}/"
        given = answer.headers.get("content-range", asked)
        if not given.startswith(asked):
            raise errors.Unavailable(
                f"GetObject {key!r}: the answer is {given!r}, not {asked!r}",
                key=key,
                operation="GetObject",
            )
    if answer.overlong:
        raise errors.TooLong(
            f"GetObject {key!r}: the object is longer than it was listed",
            key=key,
            operation="GetObject",
        )
    full = {name: value for name, value in _checksums(answer).items() if "-" not in value}
    attributes = attributes_in(answer.headers)
    kms = attributes.get(SSE, "").startswith("aws:kms")
    tags = _tags(answer) if "x-amz-tagging-count" in answer.headers else 0
    return Body(answer.data, found, full, kms, attributes, tags)


def head_of(answer: Answer, key: str) -> Head:
    """What the answer to a HEAD says. Raises StorageError where it lacks the length or the ETag."""
    headers = answer.headers
    if "content-length" not in headers:
        raise errors.StorageError(
            f"HeadObject {key!r}: the answer has no content-length",
            key=key,
            operation="HeadObject",
        )
    metadata = {
        name.removeprefix(METADATA): value
        for name, value in headers.items()
        if name.startswith(METADATA)
    }
    return Head(
        key,
        int(headers["content-length"]),
        require(headers, "etag", "HeadObject", key),
        metadata,
        attributes_in(headers),
        _checksums(answer),
        _tags(answer),
        _is_archived(headers),
    )


def date_of(answer: Answer, prefix: str) -> float:
    """The store's clock at a listing of `prefix`, in seconds since the epoch.

    Raises ListingError.
    """
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError) as error:
        raise errors.ListingError(
            f"the listing of {prefix!r} has no valid Date header",
            key=prefix,
            operation="ListObjectsV2",
        ) from error


def _tags(answer: Answer) -> int:
    """How many tags the object has. S3 says so only to whoever may read them."""
    count = answer.headers.get("x-amz-tagging-count")
    return int(count) if count is not None and count.isdecimal() else 0


def _is_archived(headers: Mapping[str, str]) -> bool:
    """Whether an object has to be restored, or is being (API reference, "HeadObject")."""
    archived = "x-amz-archive-status" in headers or headers.get("x-amz-storage-class") in ARCHIVED
    return archived and 'ongoing-request="false"' not in headers.get("x-amz-restore", "")


def _checksums(answer: Answer) -> dict[str, str]:
    return {
        name: value
        for name, header in _CHECKSUM_HEADERS
        if (value := answer.headers.get(header, ""))
    }
