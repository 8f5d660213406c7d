"""Headers that requests have in common."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping


def describe_object(content_type: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the headers that say what an object is."""
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    # versitygw signs a tab as it is, S3 as a space
    return headers | ({"content-type": content_type.replace("\t", " ")} if content_type else {})


def content_md5(body: bytes) -> str:
    """Returns what stands in Content-MD5 (RFC 1864)."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
