"""Makes one member of the text of an output: a gzip member, deflated by ISA-L."""

from __future__ import annotations

from typing import Protocol

from isal import isal_zlib
from typing_extensions import override

# ISA-L's own scale. The quick level takes two thirds of the time, and finds nothing that repeats
# itself from further away than a few kilobytes: docs/evidence/performance.md, "Deflating again".
QUICK, THOROUGH = 1, 3

# How many times as long the text may become for that.
_LONGER = 1.05

# The level is chosen by the first bytes of a piece, and again after so many bytes of text. A
# shorter piece would take longer to be chosen for than it could save.
_SAMPLE_BYTES = 128 * 1024
PIECE_BYTES = 1024**2
CHOICE_BYTES = 8 * 1024**2

# RFC 1952, 2.3: of no time and no file.
_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"

# Streams of deflate (RFC 1951) alone: a member may hold several, at other levels.
_RAW = -15


class TakesText(Protocol):
    """Takes text in pieces and returns the bytes of a member, some time later."""

    def deflate(self, text: bytes) -> bytes:
        """What is ready after these bytes; often nothing."""
        ...


class Compressor(TakesText, Protocol):
    """Makes one member of all text that it is given.

    `delayed_bytes` is the most that it keeps back, in bytes of the member; `is_slow` says that the
    event loop must not wait for a megabyte.
    """

    delayed_bytes: int = 256 * 1024  # measured 130 KB of ISA-L, and a margin; zstd keeps a block
    is_slow: bool = False

    def finish(self) -> bytes:
        """The rest of the member, which is valid and empty where there was no text."""
        ...


def level_for(text: bytes) -> int:
    """The level for text that begins like this: the quick one, unless it makes it longer."""
    sample = text[:_SAMPLE_BYTES]
    quick, thorough = (len(isal_zlib.compress(sample, n, _RAW)) for n in (QUICK, THOROUGH))
    return QUICK if quick <= thorough * _LONGER else THOROUGH


class Deflater(Compressor):
    """Makes the member, at the level that its text is worth.

    Into which pieces the text is cut changes its bytes, and nothing of what they inflate to.
    """

    def __init__(self) -> None:
        self._level = THOROUGH
        self._next_choice = 0
        self._stream = self._begin()
        self._size = self._crc = 0
        self._head = _HEADER

    @override
    def deflate(self, text: bytes) -> bytes:
        ready, self._head = self._head, b""
        if self._size >= self._next_choice and len(text) >= PIECE_BYTES:
            self._next_choice = self._size + CHOICE_BYTES
            ready += self._change_to(level_for(text))
        self._size += len(text)
        self._crc = isal_zlib.crc32(text, self._crc)
        return ready + self._stream.compress(text)

    @override
    def finish(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        return self._head + self._stream.flush() + trailer

    def _change_to(self, level: int) -> bytes:
        """Goes on at this level; returns the end of the stream at another one."""
        if level == self._level:
            return b""
        end = bytes(self._stream.flush(isal_zlib.Z_SYNC_FLUSH))
        self._level = level
        self._stream = self._begin()
        return end

    def _begin(self) -> isal_zlib.Compress:
        return isal_zlib.compressobj(self._level, isal_zlib.DEFLATED, _RAW)
