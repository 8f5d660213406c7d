"""Gzip members (RFC 1952)."""

from __future__ import annotations

import gzip

from isal import igzip_lib
from typing_extensions import override

from coalesce.content.form import SUMMED, Form, MemberHeader, Unreadable
from coalesce.model import Codec

# Flags of a member's header (RFC 1952, 2.3.1). Reserved ones must be zero (2.3.1.2): zlib and
# Hadoop refuse such a member.
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_MAGIC, _RESERVED = b"\x1f\x8b\x08", b"\x20"

# No header may be longer, so that one that never ends is not held.
_HEADER_BYTES = 256 * 1024

NEWLINE_MEMBER = gzip.compress(b"\n", mtime=0)
EMPTY_MEMBER = gzip.compress(b"", mtime=0)


class GzipMembers(Form):
    """The form of gzip members. Each has a CRC and the length of its text."""

    codec = Codec.GZIP
    member = "gzip member"
    begin = _MAGIC
    newline = NEWLINE_MEMBER
    empty = EMPTY_MEMBER
    errors = (igzip_lib.error,)  # type: ignore[assignment]  # its stub says object

    @override
    def header(self, data: bytes, at: int) -> MemberHeader | None:
        """Isal misreads a header that arrives in pieces, and ignores reserved flags."""
        end = header_end(data, at)
        if (
            not _MAGIC.startswith(data[at : at + 3])
            or data[at + 3 : at + 4] >= _RESERVED
            or (end or len(data)) - at > _HEADER_BYTES
        ):
            raise Unreadable("there is no header where a member should begin")
        return SUMMED if end else None

    @override
    def decoder(self) -> igzip_lib.IgzipDecompressor:
        return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)


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
