"""What a source's bytes must be, and how they become an output's bytes.

A joiner takes one source's body in pieces and gives back what goes into the output. Members and
lines are checked as they pass, in one pass; nothing is recompressed. The rules follow from what
readers do with each layout: Hadoop fails a job on anything behind a member, the JDK hides every
record behind it, and a missing newline fuses two records.
"""

from __future__ import annotations

import gzip
import zlib

from isal import isal_zlib

from coalesce.errors import ContentError
from coalesce.storage import checksums

# Inflated bytes at a time: bounds the memory that a body of any ratio can claim.
_INFLATED = 1024**2
_SLICE = 256 * 1024

# Flags of a member's header (RFC 1952, 2.3.1). Reserved ones must be zero: zlib and Hadoop refuse
# such a member.
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_MAGIC, _RESERVED = b"\x1f\x8b\x08", b"\x20"

NEWLINE_MEMBER = gzip.compress(b"\n", mtime=0)
EMPTY_MEMBER = gzip.compress(b"", mtime=0)


class Members:
    """Gzip members of newline-ended text, each with its header, CRC and length (RFC 1952).

    Members that hold nothing are left out: thousands in a row overflow the stack of the JDK's
    reader. A missing last newline is supplied as a member of its own.
    """

    def __init__(self, key: str) -> None:
        self.records: int | None = 0
        self.content_size = 0
        self.content_crc64 = 0
        self._key = key
        self._lines = 0
        self._last = b"\n"
        self._inflater: isal_zlib.Decompress | None = None
        self._begun = b""  # a header that is not all there yet
        self._held: list[bytes] = []  # the current member's bytes as long as it holds nothing
        self._holds = False
        self._members = 0

    def feed(self, data: bytes) -> list[bytes]:
        """See `Joiner`."""
        kept: list[bytes] = []
        at = begin = 0
        data, self._begun = self._begun + data, b""
        while at < len(data):
            if self._inflater is None:
                if not self._header_is_there(data, at):
                    self._begun = data[at:]
                    break
                self._inflater, self._holds = isal_zlib.decompressobj(wbits=31), False
                begin = at
            used = self._inflate(data[at : at + _SLICE])
            at += used
            if self._inflater.eof:
                self._member_ended(data[begin:at] if begin or at < len(data) else data, kept)
                begin = at
        if self._inflater is not None:
            self._pass_on(data[begin:], kept)
        self.records = self._lines + (self._last != b"\n")
        return kept

    def finish(self) -> list[bytes]:
        """See `Joiner`."""
        if self._inflater is not None or self._begun:
            raise ContentError(
                f"{self._key}: the last gzip member is cut short",
                key=self._key,
                code="TruncatedGzip",
            )
        if not self._members:
            raise ContentError(f"{self._key}: holds no gzip member", key=self._key, code="NotGzip")
        return [] if self._last == b"\n" else [NEWLINE_MEMBER]

    def _header_is_there(self, data: bytes, at: int) -> bool:
        """Whether a whole header begins at this byte: isal misreads one that it gets in pieces, and
        does not look at reserved flags.
        """
        end = header_end(data, at)
        if (
            not _MAGIC.startswith(data[at : at + 3])
            or data[at + 3 : at + 4] >= _RESERVED
            or (end or len(data)) - at > _SLICE
        ):
            raise ContentError(
                f"{self._key}: not whole gzip: no header where a member should begin",
                key=self._key,
                code="CorruptGzip",
            )
        return bool(end)

    def _inflate(self, data: bytes) -> int:
        """Takes in one slice; how many of its bytes belong to the current member."""
        inflater = self._inflater
        assert inflater is not None
        try:
            out = inflater.decompress(data, _INFLATED)
            self._look_at(out)
            while not inflater.eof and (inflater.unconsumed_tail or len(out) == _INFLATED):
                out = inflater.decompress(inflater.unconsumed_tail, _INFLATED)
                self._look_at(out)
        except (isal_zlib.error, zlib.error) as error:  # type: ignore[misc]  # its stub says object
            raise ContentError(
                f"{self._key}: not whole gzip: {error}", key=self._key, code="CorruptGzip"
            ) from error
        return len(data) - len(inflater.unused_data)

    def _look_at(self, out: bytes) -> None:
        if out:
            self._holds = True
            self.content_size += len(out)
            self.content_crc64 = checksums.crc64([out], self.content_crc64)
            self._lines += out.count(b"\n")
            self._last = out[-1:]

    def _member_ended(self, piece: bytes, kept: list[bytes]) -> None:
        self._members += 1
        self._pass_on(piece, kept)
        self._held.clear()
        self._inflater = None

    def _pass_on(self, piece: bytes, kept: list[bytes]) -> None:
        if self._holds:
            kept += self._held
            self._held.clear()
            kept.append(piece)
        elif piece:
            self._held.append(piece)


def header_end(data: bytes, at: int) -> int:
    """Where the header of the member that begins `at` ends; 0 if it does not end in `data`."""
    if len(data) < at + 10:
        return 0
    flags = data[at + 3]
    at += 10
    if flags & _FEXTRA:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            at = data.find(b"\0", at) + 1
            if not at:
                return 0
    at += 2 if flags & _FHCRC else 0
    return at if at <= len(data) else 0
