"""Deflates the text of an output into one gzip member."""

from __future__ import annotations

from isal import isal_zlib

# ISA-L's own scale. Level 2 takes less time, and finds nothing that repeats itself from further
# away than a few kilobytes: see docs/evidence/performance.md, "Deflating again".
_LEVEL = 3

# The wrapper of RFC 1952, with a header that names neither a file nor a time.
_GZIP = 31


class Deflater:
    """Takes text in pieces and returns the bytes of a member, some time later."""

    def __init__(self) -> None:
        self._stream = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)

    def deflate(self, text: bytes) -> bytes:
        """What is ready after these bytes; often nothing."""
        return bytes(self._stream.compress(text))

    def finish(self) -> bytes:
        """The rest of the member, which is valid and empty where there was no text."""
        return bytes(self._stream.flush())
