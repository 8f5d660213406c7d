"""Bzip2 streams."""

from __future__ import annotations

import bz2

from typing_extensions import override

from coalesce.content.deflater import Compressor
from coalesce.content.form import SUMMED, Form, MemberHeader, Unreadable
from coalesce.model import Codec

_MAGIC = b"BZh"
_LEVELS = b"123456789"

# A block, or the end of a stream that has none, stands right behind the level.
_BLOCK, _END = b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"
_HEADER_BYTES = 10

# A decoder holds a block of up to 900 kB in four bytes for each of its own, a compressor in eight.
DECODER_BYTES = 4 * 1024**2
COMPRESSOR_BYTES = 8 * 1024**2


class Bzip2Streams(Form):
    """The form of bzip2 streams. Each has a CRC of every block, and of them all."""

    codec = Codec.BZIP2
    member = "bzip2 stream"
    begin = _MAGIC
    newline = bz2.compress(b"\n")
    empty = bz2.compress(b"")
    errors = (OSError, ValueError, EOFError)

    @override
    def header(self, data: bytes, at: int) -> MemberHeader | None:
        head = data[at : at + _HEADER_BYTES]
        if (
            not _MAGIC.startswith(head[:3])
            or (len(head) > 3 and head[3] not in _LEVELS)
            or not (_BLOCK.startswith(head[4:]) or _END.startswith(head[4:]))
        ):
            raise Unreadable("there is no header where a stream should begin")
        return SUMMED if len(head) == _HEADER_BYTES else None

    @override
    def decoder(self) -> bz2.BZ2Decompressor:
        return bz2.BZ2Decompressor()


class Bzip2Compressor(Compressor):
    """Makes one stream of the text of an output."""

    delayed_bytes = 1024**2  # a block that does not get shorter
    is_slow = True

    def __init__(self) -> None:
        self._stream = bz2.BZ2Compressor()

    @override
    def deflate(self, text: bytes) -> bytes:
        return self._stream.compress(text)

    @override
    def finish(self) -> bytes:
        return self._stream.flush()
