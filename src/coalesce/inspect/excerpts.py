"""What the place of a source in its output must hold: the content that its ledger entry names.

Pure. Bytes go through in pieces of any size.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol

from typing_extensions import override

from coalesce.content.members import Members
from coalesce.errors import ContentError, IntegrityError
from coalesce.protocol.entry_reader import SourceLine
from coalesce.storage import checksums

_MEMBER = b"\x1f\x8b\x08"  # how one begins (RFC 1952, 2.3.1)

# A member of one newline is shorter, whoever deflated it.
_NEWLINE_MEMBER_BYTES = 64

_DAMAGED = (
    "The output is not what was written, or its ledger entry is another's. Bring back a good "
    'version if the bucket keeps versions; see "Exit code 4" in docs/operations.md.'
)


class Held(NamedTuple):
    """What a place holds.

    Attributes:
        name: The source's, for messages.
        length: Bytes of the place: of the output, or of the text of its one gzip member.
        content: Bytes of the source's inflated content; None if nothing was looked at.
        crc64: CRC64NVME of that content; None if nothing was looked at.
    """

    name: str
    length: int
    content: int | None
    crc64: int | None

    @classmethod
    def of(cls, line: SourceLine) -> Held:
        """What the place of a source holds by its entry."""
        return cls(line.key, line.length, line.content, line.crc64)


class Excerpt(Protocol):
    """Takes the bytes of one place, and gives those of the source."""

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes; returns what of the source is known by now.

        Raises IntegrityError for what is no gzip member.
        """
        ...

    def finish(self) -> bytes:
        """The rest of the source.

        Raises IntegrityError if all of it is not what the place must hold.
        """
        ...


def excerpt_of(held: Held, gzip: str) -> Excerpt:
    """The excerpt for a place in an output that is made like this: see `EntryHeader.gzip`."""
    if held.content is None:
        return _Unchecked()
    return _OfMembers(held) if gzip == "members" else _OfText(held)


class _Unchecked(Excerpt):
    """Of a source that nobody looked at: nothing is known of its content."""

    @override
    def feed(self, data: bytes) -> bytes:
        return data

    @override
    def finish(self) -> bytes:
        return b""


class _OfText(Excerpt):
    """Of an output of lines, or of the text of its one gzip member."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._left = held.content or 0
        self._crc64 = 0
        self._supplied = 0

    @override
    def feed(self, data: bytes) -> bytes:
        content, rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self._crc64 = checksums.crc64([content], self._crc64)
        if rest not in (b"", b"\n"):
            raise _mismatch(self._held, "is followed by more than a newline")
        self._supplied += len(rest)
        return content

    @override
    def finish(self) -> bytes:
        if self._left or self._supplied > 1:
            raise _mismatch(self._held, "has another length")
        if self._crc64 != self._held.crc64:
            raise _mismatch(self._held, "has another CRC64NVME")
        return b""


class _OfMembers(Excerpt):
    """Of an output of the members of its sources.

    The last bytes are held back: they may be a member that supplies a missing newline.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self._members = Members(held.name)
        self._last = b""

    @override
    def feed(self, data: bytes) -> bytes:
        data = self._last + data
        cut = max(0, len(data) - _NEWLINE_MEMBER_BYTES)
        self._last = data[cut:]
        return self._take(data[:cut])

    @override
    def finish(self) -> bytes:
        cut = max(0, self._last.rfind(_MEMBER))
        given, tail = self._take(self._last[:cut]), self._last[cut:]
        if not (self._members.content_size == self._held.content and _is_newline(tail)):
            given += self._take(tail)
        if self._held.length:
            self._close()
        if self._members.content_size != self._held.content:
            raise _mismatch(self._held, "has another length")
        if self._members.content_crc64 != self._held.crc64:
            raise _mismatch(self._held, "has another CRC64NVME")
        return given

    def _take(self, data: bytes) -> bytes:
        try:
            self._members.feed(data)
        except ContentError as error:
            raise _mismatch(self._held, "is no gzip", error.code) from error
        return data

    def _close(self) -> None:
        try:
            self._members.finish()
        except ContentError as error:
            raise _mismatch(self._held, "is no whole gzip", error.code) from error


def _is_newline(member: bytes) -> bool:
    try:
        return zlib.decompress(member, 31) == b"\n"
    except zlib.error:
        return False


def _mismatch(held: Held, why: str, code: str = "SourceNotProven") -> IntegrityError:
    message = f"{held.name}: what is at its place in the output {why}"
    return IntegrityError(message, key=held.name, code=code, hint=_DAMAGED)
