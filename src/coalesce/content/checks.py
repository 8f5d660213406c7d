"""Checks a body against the checksums that the store keeps with the object."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from awscrt import checksums

from coalesce.errors import ContentError


def check_stored(key: str, data: bytes, stored: Mapping[str, str]) -> None:
    """Checks a body against its stored checksums, as far as they are of the whole object.

    Args:
        key: The object's key, for the message.
        data: The whole body.
        stored: Checksums in base64 by algorithm, such as `CRC64NVME`. One with a hyphen is of a
            multipart upload's parts and is skipped.

    Raises:
        ContentError: The body does not match one of them.
    """
    for name, function, width in (
        ("CRC64NVME", checksums.crc64nvme, 8),
        ("CRC32C", checksums.crc32c, 4),
        ("CRC32", checksums.crc32, 4),
    ):
        value = stored.get(name)
        if (
            value
            and "-" not in value
            and base64.b64encode(function(data).to_bytes(width)).decode() != value
        ):
            raise ContentError(
                f"{key}: the body does not match its stored {name}",
                key=key,
                code="ChecksumMismatch",
            )


def has_md5(data: bytes, etag: str) -> bool:
    """Whether an ETag is the MD5 of these bytes.

    That of a plain PutObject is, but not with SSE-KMS, SSE-C or multipart (S3 API reference,
    "Object").
    """
    return etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
