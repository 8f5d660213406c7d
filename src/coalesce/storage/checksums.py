"""Checksums as S3 computes, combines and writes them."""

from __future__ import annotations

import base64
import enum
import hashlib
import re
import zlib

from awscrt import checksums

_MD5 = re.compile(r'"?[0-9a-fA-F]{32}"?', re.ASCII)


class Checksum(enum.Enum):
    """How an upload is protected: the algorithm for its parts, and what Complete checks."""

    # full object: the store refuses a Complete whose whole-object CRC is not the expected one
    CRC64NVME = "CRC64NVME"
    # composite: each part is checked on arrival, HEAD returns the CRC of the parts' CRCs
    CRC32 = "CRC32"
    NONE = "NONE"  # the store keeps none that can be trusted


def crc64(pieces: list[bytes], value: int = 0) -> int:
    """CRC64NVME of the joined pieces, continued from `value`, the CRC of what precedes them."""
    for piece in pieces:
        value = checksums.crc64nvme(piece, value)
    return value


def combine(first: int, second: int, second_length: int) -> int:
    """CRC64NVME of two byte strings joined, from their own CRCs; the length is in bytes."""
    return int(checksums.combine_crc64nvme(first, second, second_length))


def part_checksum(pieces: list[bytes], checksum: Checksum) -> str:
    """Base64 of the pieces' checksum in an upload's algorithm; empty for none."""
    if checksum is Checksum.CRC64NVME:
        return encode(crc64(pieces))
    if checksum is Checksum.CRC32:
        value = 0
        for piece in pieces:
            value = zlib.crc32(piece, value)
        return base64.b64encode(value.to_bytes(4)).decode()
    return ""


def composite(parts: list[str]) -> str:
    """The composite CRC32 that S3 shows for parts with these base64 CRC32s.

    It is the CRC32 of their bytes, and their number.
    """
    value = zlib.crc32(b"".join(base64.b64decode(part) for part in parts))
    return f"{base64.b64encode(value.to_bytes(4)).decode()}-{len(parts)}"


def encode(value: int) -> str:
    """A CRC64NVME as S3 writes it: base64 of its eight bytes, most significant first."""
    return base64.b64encode(value.to_bytes(8)).decode()


def decode(value: str) -> int:
    """The CRC64NVME that `encode` wrote."""
    return int.from_bytes(base64.b64decode(value))


def looks_like_md5(etag: str) -> bool:
    """Whether an ETag has the form of an MD5, as that of a multipart upload has not.

    With SSE-KMS and SSE-C it has the form and is none (S3 API reference, "Object").
    """
    return _MD5.fullmatch(etag) is not None


def is_md5(etag: str, data: bytes) -> bool:
    """Whether an ETag is the MD5 of these bytes."""
    return etag.strip('"').lower() == hashlib.md5(data, usedforsecurity=False).hexdigest()
