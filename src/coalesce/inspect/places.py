"""Every place of an output, held against what the ledger entry says of it, in one pass.

Pure. 24 bytes are kept for each source.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from typing_extensions import override

from coalesce.content.form import Form
from coalesce.content.header import LONGEST
from coalesce.content.joiner import Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import Members
from coalesce.content.rules import ContentRules
from coalesce.errors import IntegrityError
from coalesce.inspect.excerpts import Excerpt, Held, excerpt_of
from coalesce.model import Records
from coalesce.protocol.entry_reader import SourceLine

_UNKNOWN = -1
_MISMATCH = (
    "The output is not what its ledger entry says. Bring back a good version of it if the bucket "
    'keeps versions; see "Exit code 4" in docs/operations.md.'
)


class Places:
    """The places of all sources of an output, packed.

    Attributes:
        digests: How many of the sources have a digest in the entry.
    """

    def __init__(self, output: str, rules: ContentRules) -> None:
        self.digests = 0
        self._output = output
        self._rules = rules
        self._lengths, self._contents, self._crcs = array("q"), array("q"), array("Q")

    def add(self, line: SourceLine) -> None:
        """The next source of the output."""
        self._lengths.append(line.length)
        self._contents.append(_UNKNOWN if line.content is None else line.content)
        self._crcs.append(line.crc64 or 0)
        self.digests += line.content is not None

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Held]:
        rows = zip(self._lengths, self._contents, self._crcs, strict=True)
        for number, (length, content, crc64) in enumerate(rows, 1):
            name = f"{self._output}, source {number:,} of {len(self):,}"
            known = content != _UNKNOWN
            yield Held(name, length, content if known else None, crc64 if known else None)

    def joiner(self) -> Joiner:
        """Reads the output as a reader would, and holds every place against its digest.

        Its `feed` and `finish` also raise IntegrityError, for the first place that does not hold
        what it must; so does this, for a place of no bytes.
        """
        rules = self._rules
        form, records = rules.form, rules.records
        if form is not None and not rules.single and not any(self._lengths):
            return Members(self._output, form, records)  # an empty member, which is no source's
        cutter = _Cutter(iter(self), self._output, rules)
        if form is None:
            return _PlacedLines(self._output, records, cutter)
        placed = _PlacedText if rules.single else _PlacedMembers
        return placed(self._output, form, records, cutter)


class _Cutter:
    """Cuts the bytes of an output, or its text, into places."""

    def __init__(self, places: Iterator[Held], output: str, rules: ContentRules) -> None:
        self._places = places
        self._output = output
        self._rules = rules
        self._header = b""  # of the output, as far as it has come
        self._in_header = rules.records is Records.CSV_HEADER
        self._excerpt: Excerpt | None = None
        self._left = 0  # of the current place
        self._begin_next()

    def take(self, data: bytes) -> None:
        """The next bytes."""
        at = 0
        while at < len(data):
            if self._excerpt is None:
                raise self._wrong("more bytes")
            piece = data[at : at + self._left]
            if self._in_header:
                self._take_header(piece)
            self._excerpt.feed(piece)
            at += len(piece)
            self._left -= len(piece)
            if not self._left:
                self._end_place()

    def finish(self) -> None:
        """The end of the output."""
        if self._excerpt is not None:
            raise self._wrong("fewer bytes")

    def _take_header(self, piece: bytes) -> None:
        end = piece.find(b"\n") + 1
        self._header += piece[:end] if end else piece
        self._in_header = not end and len(self._header) < LONGEST

    def _end_place(self) -> None:
        assert self._excerpt is not None
        self._excerpt.finish()
        self._begin_next()

    def _begin_next(self) -> None:
        """Goes on with the next place that holds anything."""
        self._excerpt = None
        for held in self._places:
            excerpt = excerpt_of(held, self._rules)
            if self._header and held.content:
                excerpt.feed(self._header)
            if held.length:
                self._excerpt, self._left = excerpt, held.length
                return
            excerpt.finish()

    def _wrong(self, what: str) -> IntegrityError:
        message = f"{self._output}: has {what} than its sources have by its ledger entry"
        return IntegrityError(message, key=self._output, code="SourceNotProven", hint=_MISMATCH)


class _PlacedText(Members):
    def __init__(self, key: str, form: Form, records: Records, cutter: _Cutter) -> None:
        super().__init__(key, form, records)
        self._cutter = cutter

    @override
    def _count(self, text: bytes) -> None:
        super()._count(text)
        self._cutter.take(text)

    @override
    def finish(self) -> list[bytes]:
        supplied = super().finish()
        self._cutter.finish()
        return supplied


class _PlacedMembers(Members):
    def __init__(self, key: str, form: Form, records: Records, cutter: _Cutter) -> None:
        super().__init__(key, form, records)
        self._cutter = cutter

    @override
    def feed(self, data: bytes) -> list[bytes]:
        output = super().feed(data)
        self._cutter.take(data)
        return output

    @override
    def finish(self) -> list[bytes]:
        supplied = super().finish()
        self._cutter.finish()
        return supplied


class _PlacedLines(Lines):
    def __init__(self, key: str, records: Records, cutter: _Cutter) -> None:
        super().__init__(key, records)
        self._cutter = cutter

    @override
    def feed(self, data: bytes) -> list[bytes]:
        self._cutter.take(data)
        return super().feed(data)

    @override
    def finish(self) -> list[bytes]:
        self._cutter.finish()
        return super().finish()
