"""A walk through an output with its ledger entry: source by source, each is written again, or held
against the object that has its name.

The output is read once, from its first byte to its last. So its own checksum is proven too, by the
time that the walk ends.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from coalesce.content.share import Digest
from coalesce.errors import (
    CannotGiveBack,
    GroupOwned,
    IntegrityError,
    RecordDamaged,
    StorageError,
    first_failure,
)
from coalesce.model import GroupId, Source
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import SourcesBuilder
from coalesce.planning.forecast import UNDO_PAGE
from coalesce.protocol.entry_reader import Entry, SourceLine
from coalesce.protocol.names import SourcesThere
from coalesce.protocol.session import Session
from coalesce.protocol.source_writer import (
    SourceWriter,
    begin_source,
    holds,
    key_taken,
    share_of,
)
from coalesce.protocol.undo_record import HeldUndo, Phase
from coalesce.storage import checksums
from coalesce.storage.base import CreatedUpload, Head
from coalesce.transfer.limits import Budget
from coalesce.transfer.output_reader import OutputReader, off_loop

# Bytes of an output that are turned into those of a source at once.
_TAKEN = 1024**2


class Way(enum.Enum):
    """What a walk does with a source."""

    GIVE = "writes it if its name is free; ends at a name that another object has"
    LOOK = "writes nothing; ends at a name that another object has"
    GATHER = "writes nothing; passes over names that other objects have"


def source_of_line(layout: Layout, group: GroupId, entry: Entry, line: SourceLine) -> Source:
    """A line as a source of the group.

    Raises CannotGiveBack for an output of an earlier plan, which the ledger does not tell all of:
    not the metadata by which it was recognised. Raises RecordDamaged for any other key.
    """
    name = layout.parse(line.key)
    if name is not None and (name.kind, name.group) == ("output", group):
        output = entry.header.output
        message = f"{output}: was made of an output too ({line.key}), which undo does not write"
        raise CannotGiveBack(message, key=output)
    if name is None or (name.kind, name.group) != ("source", group):
        message = f"the ledger entry {entry.key!r} names {line.key!r}, no source of its output"
        raise RecordDamaged(message, key=entry.key)
    return Source(line.key, line.size, line.etag, 0.0, "STANDARD", name.first, name.last, name.tail)


@dataclass(slots=True)
class Walk:
    """One walk.

    Attributes:
        head: The version of the output that is read.
        there: The sources that a listing has shown before.
        way: What is done with each source.
        held: The undo record, which names every upload before it is completed; None where nothing
            is written.
        written: How many sources were written.
        begun: Whether an upload may have been named in the record.
        strays: Whether an upload may be open that the record does not name.
    """

    session: Session
    entry: Entry
    group: GroupId
    head: Head
    there: SourcesThere
    way: Way
    held: HeldUndo | None = None
    written: int = 0
    begun: bool = False
    strays: bool = False
    _proven: SourcesBuilder = field(init=False)
    _window: Budget = field(init=False)

    async def run(self) -> Sequence[Source]:
        """Walks from the first source to the last; the sources that are there, each as the version
        whose content was proven.

        Raises KeyTaken, IntegrityError, RecordDamaged, GroupOwned, LeaseLost, StorageError.
        """
        self._proven = SourcesBuilder(self.group.prefix)
        capacity, sizes, header = self.session.capacity, self.session.rules.sizes, self.entry.header
        part = sizes.of_output(self.head.size)
        window = max(1, min(self.head.size, max(2 * part, capacity.memory.size // 8)))
        async with capacity.memory.hold(window + min(3 * self.head.size, 3 * part)):
            self._window = Budget(window)
            reader = OutputReader(
                self.session.store,
                capacity.reads,
                self.head,
                sizes.usual,
                single=header.gzip == "single",
            )
            length = 0
            async for page in _pages(self.entry.sources()):
                await self._walk_page(page, reader)
                length += sum(line.length for line in page)
            await self._check_end(reader, length)
        return self._proven.added(0)

    async def _walk_page(self, page: Sequence[SourceLine], reader: OutputReader) -> None:
        missing = [line for line in page if self.there.find(line.key) is None]
        uploads = await self._begin(missing) if self.way is Way.GIVE and missing else {}
        try:
            async with asyncio.TaskGroup() as tasks:
                for line in page:
                    await self._walk_line(line, reader, uploads.get(line.key, ""), tasks)
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures

    async def _walk_line(
        self, line: SourceLine, reader: OutputReader, upload_id: str, tasks: asyncio.TaskGroup
    ) -> None:
        source = source_of_line(self.session.rules.layout, self.group, self.entry, line)
        header, found = self.entry.header, self.there.find(line.key)
        share = share_of(self.session, header, line)
        if upload_id:
            writer = SourceWriter(
                self.session, line, header.gzip, upload_id, share, self._window, tasks
            )
            async for piece in self._place_of(line, reader):
                await writer.take(piece)
            await writer.finish()
            tasks.create_task(self._complete(writer, source))
            return
        async for piece in self._place_of(line, reader):
            await off_loop(share.feed, piece)
        share.finish()
        if found is not None:
            tasks.create_task(self._compare(line, found, share.digest))

    async def _place_of(self, line: SourceLine, reader: OutputReader) -> AsyncIterator[bytes]:
        """The bytes of a source's place in the output."""
        left = line.length
        while left:
            piece = await reader.take(min(left, _TAKEN))
            if not piece:
                message = f"{self.head.key}: ends before its last source"
                raise IntegrityError(message, key=self.head.key)
            left -= len(piece)
            yield piece

    async def _complete(self, writer: SourceWriter, source: Source) -> None:
        head = await writer.complete()
        self.written += 1
        self._proven.add(source._replace(size=head.size, etag=head.etag))

    async def _compare(self, line: SourceLine, found: Source, digest: Digest) -> None:
        """Holds the object that has a source's name against the source."""
        head = Head(found.key, found.size, found.etag, {})
        mode = self.entry.header.gzip
        if await holds(self.session.store, head, line, mode, digest, self._window):
            self._proven.add(found)
        elif self.way is not Way.GATHER:
            raise key_taken(line.key)

    async def _begin(self, missing: Sequence[SourceLine]) -> dict[str, str]:
        """Uploads by the key of their source, once the record names them.

        No creation is cancelled by another's failure: nobody would know the upload's id.
        """
        assert self.held is not None
        session, header = self.session, self.entry.header
        session.lease.check()
        results = await asyncio.gather(
            *(begin_source(session, header, line) for line in missing), return_exceptions=True
        )
        uploads: dict[str, str] = {}
        failures: list[BaseException] = []
        for line, result in zip(missing, results, strict=True):
            if isinstance(result, CreatedUpload):
                uploads[line.key] = result.upload_id
                self.strays |= result.repeated
            else:
                failures.append(result)
        self.strays |= bool(failures)
        if failures:
            raise failures[0]
        record, strays = self.held.record, self.strays
        self.begun = self.strays = True  # until the answer says that the record names them
        phase = Phase.GIVING if record.phase is Phase.NEW else record.phase
        named = {"uploads": tuple(uploads.items()), "phase": phase}
        if not await self.held.rewrite(record.model_copy(update=named)):
            await self._abort(uploads)
            message = f"{self.head.key}: another run took over the undo of this output"
            raise GroupOwned(message, key=self.held.key)
        self.strays = strays
        return uploads

    async def _abort(self, uploads: Mapping[str, str]) -> None:
        """Aborts uploads that the record does not name, as far as the store lets it."""
        for key, upload_id in uploads.items():
            with suppress(StorageError):
                await self.session.store.abort_upload(key, upload_id)

    async def _check_end(self, reader: OutputReader, length: int) -> None:
        """Makes sure that the output held its sources, and nothing else."""
        left, header = await reader.drain(), self.entry.header
        if left and (length or header.gzip == "single"):
            message = f"{self.head.key}: holds more than its sources"
            raise IntegrityError(message, key=self.head.key)
        crc64 = checksums.encode(reader.crc64)
        if crc64 != header.crc64:
            message = f"{self.head.key}: has the CRC64NVME {crc64!r}, its entry {header.crc64!r}"
            raise IntegrityError(message, key=self.head.key)


async def _pages(lines: AsyncIterator[SourceLine]) -> AsyncIterator[list[SourceLine]]:
    page: list[SourceLine] = []
    async for line in lines:
        page.append(line)
        if len(page) == UNDO_PAGE:
            yield page
            page = []
    if page:
        yield page
