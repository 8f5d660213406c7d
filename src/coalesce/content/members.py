"""The joiner of gzip members (RFC 1952)."""

from __future__ import annotations

import gzip

from isal import igzip_lib
from typing_extensions import override

from coalesce.content.joiner import Joiner
from coalesce.content.lines import count_newlines
from coalesce.errors import ContentError
from coalesce.storage import checksums

# Inflated bytes at a time: bounds the memory that a body of any compression ratio can take.
_INFLATE_BYTES = 1024**2
_SLICE_BYTES = 256 * 1024

# Flags of a member's header (RFC 1952, 2.3.1). Reserved ones must be zero (2.3.1.2): zlib and
# Hadoop refuse such a member.
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_MAGIC, _RESERVED = b"\x1f\x8b\x08", b"\x20"

NEWLINE_MEMBER = gzip.compress(b"\n", mtime=0)
EMPTY_MEMBER = gzip.compress(b"", mtime=0)


class Members(Joiner):
    """Joins gzip members of newline-ended text, each checked for its header, CRC and length.

    Members are passed on as they are, except that empty ones are left out and a missing final
    newline is added as a member of its own. The package's docstring says why.
    """

    def __init__(self, key: str) -> None:
        self.length = self.left_out = 0
        self.records: int | None = 0
        self.content_size = 0
        self.content_crc64 = 0
        self._key = key
        self._lines = 0
        self._last = b"\n"
        self._inflater: igzip_lib.IgzipDecompressor | None = None
        self._partial_header = b""
        self._held: list[bytes] = []  # the current member's bytes while it is empty so far
        self._is_empty = True
        self._members = 0

    @override
    def feed(self, data: bytes) -> list[bytes]:
        output: list[bytes] = []
        at = begin = 0
        data, self._partial_header = self._partial_header + data, b""
        while at < len(data):
            if self._inflater is None:
                if not self._has_header(data, at):
                    self._partial_header = data[at:]
                    break
                self._inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
                self._is_empty = True
                begin = at
            at += self._inflate(data[at : at + _SLICE_BYTES])
            if self._inflater.eof:
                self._end_member(data[begin:at] if begin or at < len(data) else data, output)
                begin = at
        if self._inflater is not None:
            self._pass_on(data[begin:], output)
        self.length += sum(map(len, output))
        self.records = self._lines + (self._last != b"\n")
        return output

    @override
    def finish(self) -> list[bytes]:
        if self._inflater is not None or self._partial_header:
            raise ContentError(
                f"{self._key}: the last gzip member is truncated",
                key=self._key,
                code="TruncatedGzip",
            )
        if not self._members:
            raise ContentError(
                f"{self._key}: contains no gzip member", key=self._key, code="NotGzip"
            )
        if self._last == b"\n":
            return []
        self.length += len(NEWLINE_MEMBER)
        return [NEWLINE_MEMBER]

    def _has_header(self, data: bytes, at: int) -> bool:
        """Whether a complete header begins at this byte; False if more bytes are needed.

        isal misreads a header that arrives in pieces, and ignores reserved flags.
        """
        end = header_end(data, at)
        if (
            not _MAGIC.startswith(data[at : at + 3])
            or data[at + 3 : at + 4] >= _RESERVED
            or (end or len(data)) - at > _SLICE_BYTES
        ):
            raise self._corrupt("there is no header where a member should begin")
        return bool(end)

    def _inflate(self, data: bytes) -> int:
        """Inflates one slice; returns how many of its bytes belong to the current member."""
        inflater = self._inflater
        assert inflater is not None
        try:
            out = inflater.decompress(data, _INFLATE_BYTES)
            if out:
                self._count(out)
            while not inflater.eof and (len(out) == _INFLATE_BYTES or not inflater.needs_input):
                out = inflater.decompress(b"", _INFLATE_BYTES)
                if out:
                    self._count(out)
        except igzip_lib.error as error:  # type: ignore[misc]  # its stub says object
            raise self._corrupt(str(error)) from error
        return len(data) - len(inflater.unused_data)

    def _count(self, text: bytes) -> None:
        """Counts inflated bytes and records, and continues their checksum."""
        self._is_empty = False
        self.content_size += len(text)
        self.content_crc64 = checksums.crc64([text], self.content_crc64)
        self._lines += count_newlines(text)
        self._last = text[-1:]

    def _end_member(self, piece: bytes, output: list[bytes]) -> None:
        self._members += 1
        self._pass_on(piece, output)
        self.left_out += sum(map(len, self._held))
        self._held.clear()
        self._inflater = None

    def _pass_on(self, piece: bytes, output: list[bytes]) -> None:
        """Appends a piece of the current member to the output, or holds it while it is empty."""
        if not self._is_empty:
            output += self._held
            self._held.clear()
            output.append(piece)
        elif piece:
            self._held.append(piece)

    def _corrupt(self, why: str) -> ContentError:
        return ContentError(
            f"{self._key}: not a valid gzip file: {why}", key=self._key, code="CorruptGzip"
        )


def header_end(data: bytes, at: int) -> int:
    """Returns where the header of the member that begins at `at` ends; 0 if not within `data`."""
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
