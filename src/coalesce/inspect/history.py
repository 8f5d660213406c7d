"""Where sources went, what outputs hold, what a run did: answers from the ledger. Reads only."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.content.attributes import Difference
from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.inspect.recorded import Standing
from coalesce.inspect.whereabouts import (
    Offset,
    Whereabouts,
    find_offset,
    find_source,
    may_hold,
    names_of,
)
from coalesce.listing.pages import all_pages
from coalesce.model import Codec, Records
from coalesce.protocol.commit import CHECKSUM, COUNT, DIGEST, VERSION
from coalesce.protocol.entry_reader import (
    Entry,
    FoundEntry,
    SourceLine,
    entries_of,
    entries_under,
    open_entry,
)
from coalesce.protocol.together import all_of
from coalesce.report.report import Failure
from coalesce.storage import checksums
from coalesce.storage.base import Head, ObjectStore

# Headers that are read at once, and the bytes of each that are: its header, with the first lines.
_AT_ONCE = 32
_HEADER_BYTES = 64 * 1024

# An entry is written while its run lives, after the moment that the run's id names; by another
# clock.
_CLOCKS_DIFFER = 3600


class OutputEvent(BaseModel):
    """An output, by its ledger entry.

    `written` is RFC 3339, `size` in bytes, `crc64nvme` as S3 spells it. `gzip`, `codec` and `kind`
    say how its content is stored, and what it is made of: see `EntryHeader`. `standing` is what
    became of it, None where nobody looked.
    """

    type: Literal["output"] = "output"
    key: str
    entry: str
    run_id: str
    version: str
    layout: str
    gzip: str
    codec: Codec
    kind: Records
    written: str
    sources: int
    records: int | None
    size: int
    crc64nvme: str
    plan: str
    standing: Standing | None = None

    @classmethod
    def of(cls, entry: Entry, standing: Standing | None = None) -> OutputEvent:
        """What an entry's header says."""
        header = entry.header
        return cls(
            key=header.output,
            entry=entry.key,
            run_id=header.run_id,
            version=header.version,
            layout=header.layout,
            gzip=header.gzip,
            codec=header.content_rules.codec,
            kind=header.kind,
            written=time_of(header.written),
            sources=header.sources,
            records=header.records,
            size=header.size,
            crc64nvme=header.crc64,
            plan=header.digest,
            standing=standing,
        )


class SourceEvent(BaseModel):
    """A source, by its line in the ledger entry of its output.

    `number` is its place among the output's sources, from 1. `start` and `length` are bytes of the
    output, or of its text where that is one member. `content` and `crc64nvme` are size and
    checksum of its inflated content, None where that was not looked at. `provable` says whether the
    output stands as it was written and the content has a digest; None where that is not known.
    """

    type: Literal["source"] = "source"
    key: str
    output: str
    number: int
    etag: str
    size: int
    modified: str
    records: int | None
    start: int
    length: int
    content: int | None
    crc64nvme: str | None
    attributes: Difference | None = None
    provable: bool | None = None

    @classmethod
    def of(
        cls, output: str, number: int, line: SourceLine, standing: Standing | None = None
    ) -> SourceEvent:
        """What a line says of its source."""
        return cls(
            key=line.key,
            output=output,
            number=number,
            etag=line.etag,
            size=line.size,
            modified=time_of(line.modified),
            records=line.records,
            start=line.start,
            length=line.length,
            content=line.content,
            crc64nvme=None if line.crc64 is None else checksums.encode(line.crc64),
            attributes=line.differing,
            provable=_provable(line, standing),
        )


class ObjectEvent(BaseModel):
    """An object that no entry tells of: what its own metadata says.

    `covers` is the source that was asked for, if the object's name says that it holds its offsets.
    """

    type: Literal["object"] = "object"
    key: str
    size: int
    etag: str
    plan: str = ""
    sources: str = ""
    checksum: str = ""
    version: str = ""
    covers: str = ""

    @classmethod
    def of(cls, head: Head, covers: str = "") -> ObjectEvent:
        """What HEAD says."""
        return cls(
            key=head.key,
            size=head.size,
            etag=head.etag,
            plan=head.metadata.get(DIGEST, ""),
            sources=head.metadata.get(COUNT, ""),
            checksum=head.metadata.get(CHECKSUM, ""),
            version=head.metadata.get(VERSION, ""),
            covers=covers,
        )


class History(BaseModel):
    """The end of an answer: how many outputs, sources and objects it names, and what failed.

    `nothing_known` are keys and the like of which neither the ledger nor the bucket knows anything.
    """

    type: Literal["history"] = "history"
    schema_version: int = Field(default=1, alias="schema")
    version: str = __version__
    bucket: str
    outputs: int = 0
    sources: int = 0
    objects: int = 0
    nothing_known: list[str] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    exit_code: int = 0

    def add_failure(self, error: CoalesceError) -> None:
        """Notes what could not be read."""
        self.failures.append(Failure.of(error))
        self.exit_code = worst(self.exit_code, exit_code_of(error))


HistoryEvent = OutputEvent | SourceEvent | ObjectEvent


def _provable(line: SourceLine, standing: Standing | None) -> bool | None:
    if standing in (None, Standing.UNSUMMED):
        return None
    return standing is Standing.INTACT and line.crc64 is not None


def time_of(seconds: float) -> str:
    """A time in seconds since the epoch as RFC 3339, in whole seconds."""
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


class Historian:
    """Answers questions, event by event; `history` is what it said so far.

    Its methods raise ConfigurationError, and StorageError where a listing fails.
    """

    def __init__(
        self, store: ObjectStore, bucket: str, state: str, emit: Callable[[HistoryEvent], None]
    ) -> None:
        self.history = History(bucket=bucket)
        self._store = store
        self._state = state
        self._emit = emit

    async def tell_key(self, key: str) -> None:
        """What an output holds, in two requests; or where a source went.

        Of an output without an entry it says what the output's metadata says; of a source that no
        entry names, whether it is there, and which outputs have its offsets in their names.
        """
        if found := await entries_of(self._store, self._state, key):
            for each in found:
                await self._tell_output(each)
            return
        if not await self._tell_source(key):
            await self._tell_objects(key)

    async def tell_offset(self, prefixes: Sequence[str], offset: Offset) -> None:
        """Which sources held an offset, and where they are."""
        before = self.history.sources
        for prefix in prefixes:
            found = find_offset(self._store, self._state, prefix, offset, self._fail)
            async for where in self._found(found):
                await self._tell_whereabouts(where)
        if self.history.sources == before:
            self._note_unknown(f"{offset.topic}:{offset.partition}:{offset.number}")

    async def tell_run(self, prefixes: Sequence[str], run_id: str) -> None:
        """Which outputs a run made: one request for each entry that was written after it began."""
        before, began = self.history.outputs, began_at(run_id)
        for prefix in prefixes:
            batch: list[FoundEntry] = []
            async for found in entries_under(self._store, self._state, prefix):
                if found.modified >= began - _CLOCKS_DIFFER:
                    batch.append(found)
                if len(batch) == _AT_ONCE:
                    await self._tell_headers(batch, run_id)
                    batch.clear()
            await self._tell_headers(batch, run_id)
        if self.history.outputs == before:
            self._note_unknown(run_id)

    async def _tell_headers(self, batch: Sequence[FoundEntry], run_id: str) -> None:
        for entry in await all_of(self._read_header(found) for found in batch):
            if entry is not None and entry.header.run_id == run_id:
                self._say(OutputEvent.of(entry))

    async def _read_header(self, found: FoundEntry) -> Entry | None:
        """None for one that cannot be read, which is noted."""
        try:
            return await open_entry(self._store, self._state, found, most=_HEADER_BYTES)
        except ConfigurationError:
            raise
        except CoalesceError as error:
            self._fail(error)
            return None

    async def _tell_output(self, found: FoundEntry) -> None:
        try:
            entry = await open_entry(self._store, self._state, found)
            self._say(OutputEvent.of(entry))
            number = 0
            async for line in entry.sources():
                number += 1
                self._say(SourceEvent.of(found.output, number, line))
        except ConfigurationError:
            raise
        except CoalesceError as error:
            self._fail(error)

    async def _found(self, found: AsyncIterator[Whereabouts]) -> AsyncIterator[Whereabouts]:
        """The same, the oldest entry first."""
        for where in sorted([each async for each in found], key=lambda w: w.entry.header.written):
            yield where

    async def _tell_whereabouts(self, where: Whereabouts) -> None:
        """The output, as it is now, and the source in it."""
        header, standing = where.entry.header, None
        try:
            standing = Standing.of(header, await self._store.head(header.output))
        except ConfigurationError:
            raise
        except CoalesceError as error:
            self._fail(error)
        self._say(OutputEvent.of(where.entry, standing))
        self._say(SourceEvent.of(header.output, where.number, where.line, standing))
        if standing is Standing.GONE:  # it may have been joined again itself
            await self._tell_source(header.output)

    async def _tell_source(self, key: str) -> bool:
        """Where a source is, by each entry that names it; whether any does."""
        known = False
        async for where in self._found(find_source(self._store, self._state, key, self._fail)):
            known = True
            await self._tell_whereabouts(where)
        return known

    async def _tell_objects(self, key: str) -> None:
        """What the bucket itself knows of a key that no entry names."""
        before = self.history.objects
        if head := await self._store.head(key):
            self._say(ObjectEvent.of(head))
        for layout, named in names_of(key):
            if named.kind != "source":
                continue
            async for page in all_pages(self._store, named.group.prefix):
                for info in page.objects:
                    output = layout.parse(info.key)
                    if output is None or not may_hold(layout, output, named):
                        continue
                    if head := await self._store.head(info.key):
                        self._say(ObjectEvent.of(head, covers=key))
        if self.history.objects == before:
            self._note_unknown(key)

    def _say(self, event: HistoryEvent) -> None:
        match event:
            case OutputEvent():
                self.history.outputs += 1
            case SourceEvent():
                self.history.sources += 1
            case ObjectEvent():
                self.history.objects += 1
        self._emit(event)

    def _fail(self, error: CoalesceError) -> None:
        self.history.add_failure(error)

    def _note_unknown(self, what: str) -> None:
        """The answer is that there is none. What could not be read may have been one."""
        self.history.nothing_known.append(what)
        self.history.exit_code = worst(self.history.exit_code, ExitCode.FAILED)


def began_at(run_id: str) -> float:
    """When a run began, by its id, in seconds since the epoch; 0 for an id that does not say."""
    try:
        began = dt.datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ")
    except ValueError:
        return 0.0
    return began.replace(tzinfo=dt.UTC).timestamp()


def as_json(event: HistoryEvent | History) -> dict[str, Any]:
    """An event as a JSON object."""
    return event.model_dump(mode="json", by_alias=True)
