"""Headers that requests have in common."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import quote

from coalesce.storage.attributes import METADATA, Attributes
from coalesce.storage.checksums import Checksum


def describe(content_type: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that say what an object is."""
    headers = {f"{METADATA}{name}": value for name, value in metadata.items()}
    return headers | ({"content-type": content_type} if content_type else {})


def describe_upload(
    checksum: Checksum, metadata: Mapping[str, str], attributes: Attributes
) -> dict[str, str]:
    """Returns the headers of a CreateMultipartUpload."""
    # versitygw signs a tab as it is, S3 as a space
    headers = {name: value.replace("\t", " ") for name, value in attributes.headers.items()}
    headers |= describe("", metadata)
    if attributes.tags:
        headers["x-amz-tagging"] = "&".join(
            f"{quote(key, safe='')}={quote(value, safe='')}"
            for key, value in attributes.tags.items()
        )
    if attributes.storage_class:
        headers["x-amz-storage-class"] = attributes.storage_class
    if checksum is not Checksum.NONE:
        full = checksum is Checksum.CRC64NVME
        headers["x-amz-checksum-algorithm"] = checksum.value
        headers["x-amz-checksum-type"] = "FULL_OBJECT" if full else "COMPOSITE"
    return headers


def describe_complete(checksum: Checksum, value: str, *, create_only: bool) -> dict[str, str]:
    """Returns the headers of a CompleteMultipartUpload, whose object must have the checksum."""
    headers = {"content-type": "application/xml"}
    if create_only:
        headers["if-none-match"] = "*"
    if checksum is Checksum.CRC64NVME:
        headers |= {"x-amz-checksum-crc64nvme": value, "x-amz-checksum-type": "FULL_OBJECT"}
    return headers


def content_md5(body: bytes) -> str:
    """Returns what stands in Content-MD5 (RFC 1864)."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
