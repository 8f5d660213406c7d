"""Ledger entries: found, read line by line, and believed only where every line makes sense."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from coalesce.content.attributes import Difference
from coalesce.errors import RecordDamaged
from coalesce.listing.pages import all_pages
from coalesce.model import Source
from coalesce.planning.batches import Digests
from coalesce.planning.parts import PART_BYTES
from coalesce.protocol.commit import DIGEST, stored_checksum
from coalesce.protocol.ledger import EntryHeader
from coalesce.protocol.record_reader import Sent, Whole
from coalesce.protocol.state import entries_prefix, entry_key, ledger_prefix, output_of_entry
from coalesce.storage.base import Head, ObjectStore

_INFLATED_AT_ONCE = 64 * 1024

# Bytes of a line that is held whole: many times those of a source with the longest key that says
# as much of itself as S3 allows.
_LONGEST = 64 * 1024

_DAMAGED = (
    "Nothing was changed, and the output may be sound: `coalesce verify --deep` reads it. "
    "Bring back an earlier version of the entry if the bucket keeps versions."
)
_OTHER_VERSION = (
    "Another version of coalesce wrote it; use that version, or one from after it. "
    "Nothing was changed."
)

_Crc = Annotated[int, Field(ge=0, lt=2**64)]


class SourceLine(NamedTuple):
    """What an entry says of one source.

    Attributes:
        key: As it was.
        etag: As it was listed, with its quotes.
        size: In bytes, as it was listed.
        modified: Whole seconds since the epoch, by the store's clock.
        records: None where the content was not looked at.
        start: The first byte of its place in the output; where the output is one gzip member, in
            the output's text.
        length: Bytes of that place. Beside the content it may hold a final newline that was
            missing.
        crc64: CRC64NVME of its inflated content, None where that was not looked at.
        content: Bytes of its inflated content, None where that was not looked at.
        differing: What it says of itself otherwise than the first source; None if nothing.
    """

    key: str
    etag: str
    size: int
    modified: int
    records: int | None
    start: int
    length: int
    crc64: int | None
    content: int | None
    differing: Difference | None = None


_FIELDS = len(SourceLine._fields)
_Key = Annotated[str, Field(min_length=1)]
_Unsure = Whole | None
_Row = tuple[_Key, Sent, Whole, int, _Unsure, Whole, Whole, _Crc | None, _Unsure, Difference | None]

SOURCE_LINE = TypeAdapter(_Row)
"""A line as it stands in an entry, with nothing of what later versions add."""


class FoundEntry(NamedTuple):
    """A ledger entry in a listing: the output that it is about, and its own key, size in bytes,
    ETag and time, in seconds since the epoch by the store's clock.
    """

    output: str
    key: str
    size: int
    etag: str
    modified: float


class Entry:
    """An entry whose header was read.

    Attributes:
        key: Where it stands.
        header: What it says of the output.
    """

    def __init__(
        self, store: ObjectStore, state: str, found: FoundEntry, begin: bytes, header: EntryHeader
    ) -> None:
        self.key = found.key
        self.header = header
        self._store = store
        self._state = state
        self._found = found
        self._begin = begin

    async def sources(self) -> AsyncIterator[SourceLine]:
        """Yields the sources in their order in the output; each call begins with the first.

        That the lines are all, and those of this output, is known only when the last was yielded:
        nothing irrevocable may be done before.

        Raises:
            RecordDamaged: The entry cannot be read, or contradicts itself.
            StorageError: PreconditionFailed or NotFound if another one stands there by now.
        """
        parser = _Parser(self.key, self._state)
        for line in parser.feed(self._begin):
            yield line
        for start in range(len(self._begin), self._found.size, PART_BYTES):
            for line in parser.feed(await _read(self._store, self._found, start, PART_BYTES)):
                yield line
        parser.finish()


async def open_entry(
    store: ObjectStore, state: str, found: FoundEntry, *, most: int = PART_BYTES
) -> Entry:
    """Reads the header of an entry, with one request.

    Args:
        store: The bucket.
        state: The state prefix.
        found: The entry, as it was listed.
        most: So many bytes are read of it now, and held; an entry that has no more is read whole.

    Raises:
        RecordDamaged: The header cannot be read, or is about another output.
        StorageError: NotFound or PreconditionFailed if it is not there as it was found.
    """
    begin = await _read(store, found, 0, most) if found.size else b""
    return Entry(store, state, found, begin, _Parser(found.key, state).read_header(begin))


async def entries_of(store: ObjectStore, state: str, output: str) -> list[FoundEntry]:
    """The entries of one output, by one listing: usually one.

    There are more while runs dispute it, and where it was deleted and written again. Raises
    StorageError.
    """
    prefix = entries_prefix(state, output)
    return [found async for found in _list(store, state, prefix) if found.output == output]


async def entries_under(store: ObjectStore, state: str, prefix: str) -> AsyncIterator[FoundEntry]:
    """Yields the entries of all outputs whose keys begin with `prefix`. Raises StorageError."""
    async for found in _list(store, state, f"{ledger_prefix(state)}{prefix}"):
        yield found


def describes(header: EntryHeader, head: Head) -> bool:
    """Whether an entry is about this object: it has the plan's digest, size and checksum.

    A checksum that the store does not show is not held against it.
    """
    stored, wanted = stored_checksum(head, header)
    return (
        head.metadata.get(DIGEST) == header.digest
        and head.size == header.size
        and (not stored or stored == wanted)
    )


async def _list(store: ObjectStore, state: str, prefix: str) -> AsyncIterator[FoundEntry]:
    async for page in all_pages(store, prefix):
        for info in page.objects:
            if output := output_of_entry(state, info.key):
                yield FoundEntry(output, info.key, info.size, info.etag, info.modified)


async def _read(store: ObjectStore, found: FoundEntry, start: int, most: int) -> bytes:
    """Up to `most` bytes of an entry from byte `start`. Raises StorageError."""
    length = min(most, found.size - start)
    body = await store.get(found.key, etag=found.etag, start=start, length=length)
    return body.data


class _Parser:
    """Reads the entry at a key from its bytes as they come. All steps raise RecordDamaged."""

    def __init__(self, key: str, state: str) -> None:
        self._key = key
        self._state = state
        self._inflater = zlib.decompressobj(31)
        self._rest = b""
        self._header: EntryHeader | None = None
        self._digests = Digests()
        self._count = self._end = 0
        self._records: int | None = 0

    def read_header(self, data: bytes) -> EntryHeader:
        """The header of the entry that begins with these bytes."""
        next(self.feed(data), None)
        if self._header is None:
            raise self._damaged("there is no header")
        return self._header

    def feed(self, data: bytes) -> Iterator[SourceLine]:
        """Takes the next bytes, and yields the sources whose lines end in them."""
        try:
            inflated = b""
            while data or len(inflated) == _INFLATED_AT_ONCE:
                inflated = self._inflater.decompress(data, _INFLATED_AT_ONCE)
                data = self._inflater.unconsumed_tail
                *lines, self._rest = (self._rest + inflated).split(b"\n")
                if len(self._rest) > _LONGEST:
                    raise ValueError("a line without an end")
                yield from self._read_lines(lines)
            if self._inflater.unused_data:
                raise ValueError("something behind it")
        except (zlib.error, ValueError, RecursionError) as error:
            raise self._damaged(type(error).__name__) from error

    def finish(self) -> None:
        """Holds all lines against the header."""
        if not self._inflater.eof or self._rest or self._header is None:
            raise self._damaged("it is not whole")
        header = self._header
        if self._count != header.sources or header.digest not in self._digests:
            raise self._damaged("its lines are not the sources of its output")
        if self._records != header.records:
            raise self._damaged("its lines have other records than its header")
        # The place of each is in the output's bytes, or in the text of its one member. An output of
        # nothing but empty members is one of them, which is no source's.
        if header.gzip != "single" and self._end not in (header.size, 0):
            raise self._damaged("its lines have another length than its header")

    def _read_lines(self, lines: list[bytes]) -> Iterator[SourceLine]:
        for text in lines:
            if self._header is None:
                self._header = self._parse_header(text)
            else:
                yield self._parse_line(text)

    def _parse_header(self, text: bytes) -> EntryHeader:
        try:
            header = EntryHeader.model_validate_json(text)
        except ValidationError as error:
            if any(found["loc"] == ("schema_version",) for found in error.errors()):
                raise self._damaged("it has another schema", _OTHER_VERSION) from error
            raise
        if entry_key(self._state, header.output, header.upload_id) != self._key:
            raise self._damaged("it is about another upload")
        return header

    def _parse_line(self, text: bytes) -> SourceLine:
        row = json.loads(text)
        if not isinstance(row, list):
            raise ValueError("a line that is no list")
        # Later versions may add to a line; a version that does not know what it is leaves it out.
        whole = (*row, None)[:_FIELDS]
        line = SourceLine(*SOURCE_LINE.validate_python(whole, strict=True))
        if line.start != self._end:
            raise ValueError("a place that does not begin where the one before it ends")
        self._end += line.length
        self._count += 1
        if self._records is not None:
            self._records = None if line.records is None else self._records + line.records
        self._digests.add([Source(line.key, line.size, line.etag, line.modified, "", 0, 0)])
        return line

    def _damaged(self, why: str, hint: str = _DAMAGED) -> RecordDamaged:
        message = f"the ledger entry {self._key!r} cannot be read: {why}"
        return RecordDamaged(message, key=self._key, hint=hint)
