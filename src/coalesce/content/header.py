"""The header that the sources of an output have in common: the first line of each (csv-header)."""

from __future__ import annotations

import hashlib

from coalesce.errors import ContentError, HeadersDiffer

# What is held of a source until its first line ends.
LONGEST = 1024**2


class Header:
    """The first line of the sources of one output, once one of them has ended.

    Attributes:
        line: With its newline; empty until then.
        key: The source in which it stays.
    """

    def __init__(self) -> None:
        self.line = b""
        self.key = ""


class HeaderCut:
    """Takes the header out of the text of one source, unless it is the source where it stays.

    Attributes:
        dropped: Bytes that were taken out so far.
    """

    def __init__(self, key: str, header: Header) -> None:
        self.dropped = 0
        self._key = key
        self._header = header
        self._begin = b""
        self._line = b""

    def take(self, text: bytes) -> bytes:
        """Returns what of the next bytes goes into the output.

        Raises HeadersDiffer, ContentError for a first line of which it is not clear where it ends.
        """
        if self._line or not text:
            return text
        self._begin += text
        end = self._begin.find(b"\n") + 1
        if (end or len(self._begin)) > LONGEST:
            raise self._unclear(f"has a first line of more than {LONGEST:,} bytes")
        if not end:
            return b""
        begin, self._begin, self._line = self._begin, b"", self._begin[:end]
        if self._line.count(b'"') % 2:
            raise self._unclear("its header goes on behind its first line")
        if not self._header.line or self._header.key == self._key:
            return begin
        if self._line != self._header.line:
            error = HeadersDiffer(f"{self._key}: has another header", key=self._key)
            error.kind = hashlib.sha256(self._line).hexdigest()
            raise error
        self.dropped = end
        return begin[end:]

    def finish(self) -> None:
        """Ends the source, whose content has passed its checks."""
        if self._line and not self.dropped:
            self._header.line, self._header.key = self._line, self._key

    def _unclear(self, why: str) -> ContentError:
        return ContentError(f"{self._key}: {why}", key=self._key, code="UnclearHeader")
