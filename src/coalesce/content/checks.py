"""A body against the checksums that are stored with its object."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from awscrt import checksums

from coalesce.errors import ContentError


def check_stored(key: str, data: bytes, stored: Mapping[str, str]) -> None:
    """Holds a body against the checksums stored with its object, as far as they cover the whole
    object. Raises ContentError.
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
                f"{key}: the body does not have its stored {name}", key=key, code="ChecksumMismatch"
            )


def has_md5(data: bytes, etag: str) -> bool:
    """Whether an ETag is the MD5 of these bytes, as that of a plain PutObject is (S3 API reference,
    "Object": not with SSE-KMS, SSE-C or multipart).
    """
    return etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
