"""Plan records read while they come, and believed only where every byte makes sense."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coalesce.errors import RecordDamaged
from coalesce.model import Batch, GroupId, Source
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.naming.sources import SourcesBuilder
from coalesce.planning.batches import Digests
from coalesce.protocol.json_text import JsonText, Step
from coalesce.protocol.record import MOST_SOURCES, PlanRecord, RecordedBatch
from coalesce.protocol.state import record_key

_INFLATED_AT_ONCE = 64 * 1024
_CHECKED_AT_ONCE = 1000
_MOST_FIELDS = 32
_OTHER_VERSION = (
    "Another version of coalesce wrote it; `recover` with that version, or one from after it."
)
_OTHER_LAYOUT = (
    "Its group is left alone. `recover` with the configuration file that has this layout, or with "
    "the version that wrote it."
)

# What goes into a request's headers and query. Empty ones would turn a conditional delete, and the
# abort of an upload, into a delete of whatever is there.
Sent = Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")]
Whole = Annotated[int, Field(ge=0, lt=2**63)]

# Key, ETag, size, first and last offset, and tail of a source.
_Row = tuple[str, Sent, Whole, Whole, Whole, str]
_ROWS = TypeAdapter(list[_Row])


class _Header(BaseModel):
    """The fields of a record that come before its batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 1
    run_id: str
    layout: str
    directory: str
    topic: str
    partition: int
    names: str = ""

    @property
    def group(self) -> GroupId:
        return GroupId(self.directory, self.topic, self.partition, self.names)


class _BatchFields(BaseModel):
    """The fields of a batch besides its sources."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    upload_id: Sent
    digest: str
    doubted: bool = False


def decode(data: bytes, key: str, state: str, known: Mapping[str, Layout] = LAYOUTS) -> PlanRecord:
    """A stored record, held against its key; `known` are the layouts that it may have.

    Raises RecordDamaged where it cannot be read or names anything outside its group.
    """
    reader = RecordReader(key, state, known)
    reader.feed(data)
    return reader.finish()


class RecordReader:
    """Reads the record at a key from its bytes as they come, into packed sources; `known` are the
    layouts that it may have.

    Both steps raise RecordDamaged as `decode` does.
    """

    def __init__(self, key: str, state: str, known: Mapping[str, Layout] = LAYOUTS) -> None:
        self._key = key
        self._inflater = zlib.decompressobj()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = JsonText()
        self._contents = _Contents(key, state, self._text, known)
        self._reading = self._contents.read()
        self._record: PlanRecord | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        try:
            inflated = b""
            while data or len(inflated) == _INFLATED_AT_ONCE:
                inflated = self._inflater.decompress(data, _INFLATED_AT_ONCE)
                data = self._inflater.unconsumed_tail
                self._read_on(self._decoder.decode(inflated))
            if self._inflater.unused_data:
                raise ValueError("something behind it")
        except (zlib.error, ValueError, RecursionError) as error:
            raise self._damaged(error) from error

    def finish(self) -> PlanRecord:
        """The record, once all bytes were taken."""
        try:
            if not self._inflater.eof:
                raise ValueError("not whole")
            self._read_on(self._decoder.decode(b"", final=True), last=True)
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        assert self._record is not None
        return self._record

    def _read_on(self, text: str, *, last: bool = False) -> None:
        self._text.add(text, last=last)
        try:
            next(self._reading)
        except StopIteration as end:
            self._record = end.value

    def _damaged(self, error: Exception) -> RecordDamaged:
        message = f"the plan record {self._key!r} cannot be read: {type(error).__name__}"
        return RecordDamaged(message, key=self._key)


class _Contents:
    """What is said in a record, held against its key."""

    def __init__(self, key: str, state: str, text: JsonText, known: Mapping[str, Layout]) -> None:
        self._key = key
        self._state = state
        self._text = text
        self._known = known

    def read(self) -> Step[PlanRecord]:
        """The whole record. Raises RecordDamaged, ValueError."""
        text, values = self._text, dict[str, object]()
        yield from text.open("{")
        while (name := (yield from text.name())) != "batches":
            if name is None or name in values or len(values) == _MOST_FIELDS:
                raise ValueError("no batches, or other fields than those of a record")
            values[name] = yield from text.value()
        header = self._check(values)
        batches = _Batches(text, header, self._known[header.layout])
        entries = yield from batches.read()
        if (yield from text.name()) is not None:
            raise ValueError("a field that is not known")
        yield from text.end()
        if not batches.names_its_own:
            message = f"the plan record {self._key!r} names keys outside its group, or some twice"
            raise RecordDamaged(message, key=self._key)
        if not batches.have_their_digests:
            message = f"the plan record {self._key!r} does not have its digest"
            raise RecordDamaged(message, key=self._key)
        return PlanRecord(header.run_id, header.layout, header.group, entries)

    def _check(self, values: dict[str, object]) -> _Header:
        try:
            header = _Header.model_validate(values)
        except ValidationError as error:
            if any(found["loc"] == ("schema_version",) for found in error.errors()):
                message = (
                    f"the plan record {self._key!r} has another schema than this version reads"
                )
                raise RecordDamaged(message, key=self._key, hint=_OTHER_VERSION) from error
            raise
        if header.layout not in self._known:
            message = (
                f"the plan record {self._key!r} has the layout {header.layout!r}, which this run "
                "does not know"
            )
            raise RecordDamaged(message, key=self._key, hint=_OTHER_LAYOUT)
        if record_key(self._state, header.group) != self._key:
            message = f"the plan record {self._key!r} is about another group"
            raise RecordDamaged(message, key=self._key)
        return header


class _Batches:
    """The batches of a record.

    `have_their_digests` says whether each digest is that of the batch's sources.
    """

    def __init__(self, text: JsonText, header: _Header, layout: Layout) -> None:
        self.have_their_digests = True
        self._text = text
        self._group = header.group
        self._layout = layout
        self._older = header.schema_version == 1
        self._sources = SourcesBuilder(header.group.prefix)
        self._strangers = False

    @property
    def names_its_own(self) -> bool:
        """Whether all keys are outputs and sources of the record's own group, each there once: an
        output that is a source of its own record would be deleted for itself.
        """
        return not self._strangers and self._sources.build().duplicate_key() is None

    def read(self) -> Step[tuple[RecordedBatch, ...]]:
        entries: list[RecordedBatch] = []
        yield from self._text.open("[")
        while (yield from self._text.goes_on("]")):
            entries.append((yield from self._read_batch()))
        return tuple(entries)

    def _read_batch(self) -> Step[RecordedBatch]:
        values: dict[str, object] = {}
        begin, digests = len(self._sources), Digests()
        yield from self._text.open("{")
        while (name := (yield from self._text.name())) is not None:
            if name in values or len(values) == _MOST_FIELDS:
                raise ValueError("other fields than those of a batch")
            if name == "sources":
                values[name] = yield from self._read_sources(digests)
            else:
                values[name] = yield from self._text.value()
        if not values.pop("sources", 0):
            raise ValueError("no sources")
        fields = _BatchFields.model_validate(values)
        sources = self._sources.added(begin)
        self._add_output(fields.output)
        self.have_their_digests &= fields.digest in digests
        batch = Batch(fields.output, sources, sum(sources.sizes()), fields.digest)
        return RecordedBatch(batch, fields.upload_id, fields.doubted, may_lack_entry=self._older)

    def _add_output(self, key: str) -> None:
        """Packs an output beside the sources, so that no other key is the same."""
        name = self._layout.parse(key)
        if name is None or (name.kind, name.group) != ("output", self._group):
            self._strangers = True
            return
        self._sources.add(Source(key, 0, "", 0.0, "STANDARD", name.first, name.last, name.tail))

    def _read_sources(self, digests: Digests) -> Step[int]:
        """Packs the sources of a batch; returns how many there are."""
        begin = len(self._sources)
        rows: list[object] = []
        yield from self._text.open("[")
        while (yield from self._text.goes_on("]")):
            rows.append((yield from self._text.value()))
            if len(rows) == _CHECKED_AT_ONCE:
                self._add(rows, digests)
                rows.clear()
        self._add(rows, digests)
        return len(self._sources) - begin

    def _add(self, rows: list[object], digests: Digests) -> None:
        if len(self._sources) + len(rows) > MOST_SOURCES:
            raise ValueError("too many sources")
        parse, group = self._layout.parse, self._group
        sources: list[Source] = []
        for key, etag, size, first, last, tail in _ROWS.validate_python(rows):
            name = parse(key)  # of a source, or of an output that grows
            self._strangers |= name is None or name[1:] != (group, first, last, tail)
            sources.append(Source(key, size, etag, 0.0, "STANDARD", first, last, tail))
        digests.add(sources)
        for source in sources:
            self._sources.add(source)
