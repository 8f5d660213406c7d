"""What the place of a source in its output must hold: the content that its ledger entry names.

Pure. Bytes go through in pieces of any size.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from typing_extensions import override

from coalesce.content.form import Form
from coalesce.content.members import Members
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, IntegrityError
from coalesce.model import Records
from coalesce.protocol.entry_reader import SourceLine
from coalesce.storage import checksums

# A member of one newline is shorter, of any codec and whoever wrote it.
_NEWLINE_MEMBER_BYTES = 64

_DAMAGED = (
    "The output is not what was written, or its ledger entry is another's. Bring back a good "
    'version if the bucket keeps versions; see "Exit code 4" in docs/operations.md.'
)


class Held(NamedTuple):
    """What a place holds.

    Attributes:
        name: The source's, for messages.
        length: Bytes of the place: of the output, or of the text of its one member.
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

        Raises IntegrityError for what is no member.
        """
        ...

    def finish(self) -> bytes:
        """The rest of the source.

        Raises IntegrityError if all of it is not what the place must hold.
        """
        ...


def excerpt_of(held: Held, rules: ContentRules) -> Excerpt:
    """The excerpt for a place in an output that is made by these rules.

    Under a header (csv-header) a source lies without its own: it is fed with the output's first.
    """
    if held.content is None:
        return _Unchecked()
    if rules.form is None or rules.single:
        return _OfText(held, rules.records)
    return _OfMembers(held, rules.form, rules.records)


class _Unchecked(Excerpt):
    """Of a source that nobody looked at: nothing is known of its content."""

    @override
    def feed(self, data: bytes) -> bytes:
        return data

    @override
    def finish(self) -> bytes:
        return b""


class _OfText(Excerpt):
    """Of an output that is not compressed, or of the text of its one member."""

    def __init__(self, held: Held, records: Records) -> None:
        self._held = held
        self._may_supply = records is not Records.OPAQUE
        self._left = held.content or 0
        self._crc64 = 0
        self._supplied = 0

    @override
    def feed(self, data: bytes) -> bytes:
        content, rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self._crc64 = checksums.crc64([content], self._crc64)
        if rest and not (self._may_supply and rest == b"\n"):
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

    def __init__(self, held: Held, form: Form, records: Records) -> None:
        self._held = held
        self._form = form
        self._may_supply = records is not Records.OPAQUE
        self._members = Members(held.name, form, records)
        self._last = b""

    @override
    def feed(self, data: bytes) -> bytes:
        data = self._last + data
        cut = max(0, len(data) - _NEWLINE_MEMBER_BYTES)
        self._last = data[cut:]
        return self._take(data[:cut])

    @override
    def finish(self) -> bytes:
        cut = max(0, self._last.rfind(self._form.begin))
        given, tail = self._take(self._last[:cut]), self._last[cut:]
        if not self._is_supplied(tail):
            given += self._take(tail)
        if self._held.length:
            self._close()
        if self._members.content_size != self._held.content:
            raise _mismatch(self._held, "has another length")
        if self._members.content_crc64 != self._held.crc64:
            raise _mismatch(self._held, "has another CRC64NVME")
        return given

    def _is_supplied(self, tail: bytes) -> bool:
        """Whether this is a member with the newline that the source lacked."""
        is_whole = self._members.content_size == self._held.content
        return self._may_supply and is_whole and _is_newline(tail, self._form)

    def _take(self, data: bytes) -> bytes:
        try:
            self._members.feed(data)
        except ContentError as error:
            raise _mismatch(self._held, f"is no {self._form.codec}", error.code) from error
        return data

    def _close(self) -> None:
        try:
            self._members.finish()
        except ContentError as error:
            raise _mismatch(self._held, f"is no whole {self._form.codec}", error.code) from error


def _is_newline(member: bytes, form: Form) -> bool:
    decoder = form.decoder()
    try:
        text = decoder.decompress(member, 2)
    except form.errors:
        return False
    return text == b"\n" and decoder.eof and not decoder.unused_data


def _mismatch(held: Held, why: str, code: str = "SourceNotProven") -> IntegrityError:
    message = f"{held.name}: what is at its place in the output {why}"
    return IntegrityError(message, key=held.name, code=code, hint=_DAMAGED)
