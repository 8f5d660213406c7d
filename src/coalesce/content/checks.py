"""Holds the body of a source against what the store says of it."""

from __future__ import annotations

import base64
import codecs
import enum
import hashlib
from collections.abc import Callable, Mapping

from awscrt import checksums

from coalesce.errors import ContentError
from coalesce.storage.checksums import looks_like_md5

_Crc = Callable[[bytes, int], int]

# The checksums that S3 can keep of a whole object, each with its bytes.
_STORED: dict[str, tuple[_Crc, int]] = {
    "CRC64NVME": (checksums.crc64nvme, 8),
    "CRC32C": (checksums.crc32c, 4),
    "CRC32": (checksums.crc32, 4),
}

# Control characters that do not stand in text: all but tab, line feed, form feed and carriage
# return.
_CONTROLS = bytes([*range(9), 11, *range(14, 32), 127])


class StoredChecksums:
    """Sums up a body as it comes by, to hold it against its stored checksums in the end."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(_STORED, 0)

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        for name, (function, _) in _STORED.items():
            self._values[name] = function(data, self._values[name])

    def check(self, key: str, stored: Mapping[str, str]) -> bool:
        """As `check_stored`."""
        return _check(key, stored, self._values.__getitem__)


def check_stored(key: str, data: bytes, stored: Mapping[str, str]) -> bool:
    """Holds a body against its stored checksums, as far as they are of the whole object.

    Args:
        key: The object's key, for the message.
        data: The whole body.
        stored: Checksums in base64 by algorithm, such as `CRC64NVME`. One with a hyphen is of a
            multipart upload's parts and is skipped.

    Returns:
        Whether there was any to hold it against.

    Raises:
        ContentError: The body does not match one of them.
    """
    return _check(key, stored, lambda name: _STORED[name][0](data, 0))


def _check(key: str, stored: Mapping[str, str], sum_of: Callable[[str], int]) -> bool:
    found = False
    for name, (_, width) in _STORED.items():
        value = stored.get(name)
        if not value or "-" in value:
            continue
        found = True
        if base64.b64encode(sum_of(name).to_bytes(width)).decode() != value:
            raise ContentError(
                f"{key}: the body does not match its stored {name}",
                key=key,
                code="ChecksumMismatch",
            )
    return found


class Evidence(enum.Enum):
    """What speaks for or against a source that does not tell by itself, as gzip does, whether it is
    what was written: text, and zstd without checksums.
    """

    PROVEN = "it has the MD5 in its ETag or a checksum that the store keeps"
    CONTRADICTED = "it has not the MD5 in its ETag"
    ODD = "there is nothing to hold it against, and text does not look like this"
    PLAUSIBLE = "there is nothing to hold it against, and it looks like text"


class TextCheck:
    """Looks at the text of one source as it comes by.

    Args:
        etag: The source's.
        md5_etags: Whether an ETag that looks like an MD5 is one. If it may not be, a body that has
            it is proven all the same, and one that has another MD5 is not contradicted.
    """

    def __init__(self, etag: str, *, md5_etags: bool) -> None:
        self._etag = etag.strip('"').lower()
        self._md5_etags = md5_etags
        self._md5 = hashlib.md5(usedforsecurity=False) if looks_like_md5(etag) else None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_odd = False

    def feed(self, data: bytes, *, last: bool) -> None:
        """Takes the next bytes; `last` if they end the source."""
        if self._md5 is not None:
            self._md5.update(data)
        if not (self._md5 is not None and self._md5_etags):
            self._is_odd = self._is_odd or self._looks_odd(data, last=last)

    def evidence_of(self, data: bytes) -> Evidence:
        """What is found in a whole source."""
        self.feed(data, last=True)
        return self.evidence()

    def evidence(self) -> Evidence:
        """What was found, after the last bytes."""
        if self._md5 is not None and self._md5.hexdigest() == self._etag:
            return Evidence.PROVEN
        if self._md5 is not None and self._md5_etags:
            return Evidence.CONTRADICTED
        return Evidence.ODD if self._is_odd else Evidence.PLAUSIBLE

    def _looks_odd(self, data: bytes, *, last: bool) -> bool:
        try:
            self._decoder.decode(data, last)
        except UnicodeDecodeError:
            return True
        return len(data.translate(None, _CONTROLS)) != len(data)
