"""The checksums that S3 keeps, as base64."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from awscrt import checksums

ALGORITHMS = ("crc64nvme", "crc32", "crc32c", "sha1", "sha256")
Pieces = Iterable[bytes | bytearray | memoryview]


def _crc(function: Callable[..., int], width: int, pieces: Pieces) -> bytes:
    value = 0
    for piece in pieces:
        value = function(piece, value)
    return value.to_bytes(width)


def _hash(name: str, pieces: Pieces) -> bytes:
    running = hashlib.new(name, usedforsecurity=False)
    for piece in pieces:
        running.update(piece)
    return running.digest()


_DIGESTS: dict[str, Callable[[Pieces], bytes]] = {
    "crc64nvme": partial(_crc, checksums.crc64nvme, 8),
    "crc32": partial(_crc, checksums.crc32, 4),
    "crc32c": partial(_crc, checksums.crc32c, 4),
    "sha1": partial(_hash, "sha1"),
    "sha256": partial(_hash, "sha256"),
    "md5": partial(_hash, "md5"),
}


def checksum(algorithm: str, pieces: Pieces) -> str:
    """The checksum of the joined pieces."""
    return base64.b64encode(_DIGESTS[algorithm](pieces)).decode()


def composite(algorithm: str, parts: Sequence[str]) -> str:
    """The checksum of the parts' checksums, and how many they are."""
    return f"{checksum(algorithm, [base64.b64decode(part) for part in parts])}-{len(parts)}"


def etag(pieces: Pieces) -> str:
    """An object's ETag: its MD5, quoted."""
    return f'"{_DIGESTS["md5"](pieces).hex()}"'
