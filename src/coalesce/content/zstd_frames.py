"""Zstandard frames (RFC 8878)."""

from __future__ import annotations

import sys

from typing_extensions import override

from coalesce.content.deflater import Compressor
from coalesce.content.form import SUMMED, Form, MemberHeader, Unreadable
from coalesce.model import Codec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # behind one byte from 0x50 to 0x5f
_SKIPPABLE_HEADER_BYTES = 8

# The frame header descriptor (3.1.1.1.1).
_SINGLE_SEGMENT, _RESERVED, _CHECKSUM, _DICTIONARY = 0x20, 0x08, 0x04, 0x03
_DICTIONARY_BYTES = (0, 1, 2, 4)

# What a decoder holds of a frame's content. Every decoder should read frames that need 8 MiB
# (3.1.1.1.2); one that needs more may fail for a reader too, and would not fit our memory.
_WINDOW_LOG = 23
WINDOW_BYTES = 1 << _WINDOW_LOG
DECODER_BYTES = WINDOW_BYTES + 1024**2  # measured 8.6 MiB

# zstd's own default level, and a window that is small enough for many outputs at once: measured 1.5
# MiB for each.
_LEVEL = 3
_WRITTEN_WINDOW_LOG = 19
COMPRESSOR_BYTES = 2 * 1024**2

_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: _LEVEL,
    zstd.CompressionParameter.window_log: _WRITTEN_WINDOW_LOG,
    zstd.CompressionParameter.checksum_flag: 1,
}
_LIMITS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}

_SUMMED_OR_NOT = (MemberHeader(is_summed=False), SUMMED)
_SKIPPED = MemberHeader(is_skipped=True)


class ZstdFrames(Form):
    """The form of zstd frames. A frame need not have a checksum: most writers set none.

    Skippable frames hold no content, and often say where other frames begin (the seekable format):
    of an output that would be wrong, so they are not carried over.
    """

    codec = Codec.ZSTD
    member = "zstd frame"
    begin = _MAGIC
    newline = zstd.compress(b"\n", options=_OPTIONS)
    empty = zstd.ZstdCompressor(options=_OPTIONS).flush()
    errors = (zstd.ZstdError,)

    @override
    def header(self, data: bytes, at: int) -> MemberHeader | None:
        head = data[at : at + 18]
        if _SKIPPABLE.startswith(head[1:4]) and 0x50 <= head[0] <= 0x5F:
            return _SKIPPED if len(head) >= _SKIPPABLE_HEADER_BYTES else None
        if not _MAGIC.startswith(head[:4]) or (len(head) > 4 and head[4] & _RESERVED):
            raise Unreadable("there is no header where a frame should begin")
        if len(head) < 5:
            return None
        flags = head[4]
        single = bool(flags & _SINGLE_SEGMENT)
        window_end = 5 if single else 6
        dictionary_end = window_end + _DICTIONARY_BYTES[flags & _DICTIONARY]
        end = dictionary_end + _content_size_bytes(flags)
        if len(head) < end:
            return None
        if any(head[window_end:dictionary_end]):
            raise Unreadable("it was compressed with a dictionary", "ZstdDictionary")
        if single:
            window = int.from_bytes(head[dictionary_end:end], "little")
        else:
            window = _window_bytes(head[5])
        if window > WINDOW_BYTES:
            why = f"a reader needs {window:,} bytes of memory for it, more than {WINDOW_BYTES:,}"
            raise Unreadable(why, "ZstdWindow")
        return _SUMMED_OR_NOT[bool(flags & _CHECKSUM)]

    @override
    def decoder(self) -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options=_LIMITS)


class ZstdCompressor(Compressor):
    """Makes one frame of the text of an output, with a checksum of it."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdCompressor(options=_OPTIONS)

    @override
    def deflate(self, text: bytes) -> bytes:
        return self._frame.compress(text)

    @override
    def finish(self) -> bytes:
        return self._frame.flush()


def _content_size_bytes(flags: int) -> int:
    kind = flags >> 6
    return 1 << kind if kind else int(bool(flags & _SINGLE_SEGMENT))


def _window_bytes(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + (base >> 3) * (descriptor & 7)
