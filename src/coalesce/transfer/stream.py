"""The bytes of a batch, from its sources into the parts of its upload: many reads in flight, joined
in order, in bounded memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from coalesce.content.rules import ContentRules
from coalesce.errors import SourceUnusable, first_failure
from coalesce.model import (
    Batch,
    Copy,
    Part,
    Span,
    Stream,
    TransferredBatch,
    UploadedPart,
)
from coalesce.planning.parts import PartSizes
from coalesce.storage import checksums
from coalesce.storage.base import ObjectStore
from coalesce.storage.checksums import Checksum
from coalesce.transfer.joined import JoinedSources
from coalesce.transfer.joining import Join, SourceJoiner
from coalesce.transfer.limits import Budget, Capacity
from coalesce.transfer.reads import NOT_AS_LISTED, Read, ReadAhead, not_as_listed


def window_bytes(batch: Batch, budget: int, sizes: PartSizes, *, single: bool = False) -> int:
    """Bytes of source bodies that one batch may hold: all of a small one; else two parts and a read
    beside them, or a quarter of the budget.
    """
    part = sizes.of_output(batch.size, single=single)
    return max(1, min(batch.size, max(2 * part + sizes.least + sizes.usual, budget // 4)))


class SourcesUnusable(Exception):
    """Sources of a batch that cannot be joined: all that were found, at least one."""

    def __init__(self, sources: tuple[SourceUnusable, ...]) -> None:
        super().__init__(f"{len(sources)} unusable sources")
        self.sources = sources


async def transfer(
    store: ObjectStore,
    batch: Batch,
    parts: Iterable[Part],
    upload_id: str,
    *,
    rules: ContentRules,
    sizes: PartSizes,
    checksum: Checksum,
    capacity: Capacity,
    window: int,
) -> TransferredBatch:
    """Sends all parts of a batch; nothing of it becomes visible.

    `window` is the bytes of bodies that it may hold at once, which the caller holds of the run's
    memory. Once a source turns out to be unusable nothing more is sent, and the others are only
    checked: so a batch with any number of them costs one reading.

    Raises SourcesUnusable, Misread, StorageError.
    """
    joiner = SourceJoiner(store, capacity, rules, sizes.usual)
    longer = Budget(sizes.usual)
    job = _Transfer(
        store, batch, upload_id, rules, sizes, checksum, capacity, Budget(window), longer, joiner
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            return await job.run(tasks, parts)
    except BaseExceptionGroup as failures:
        failure = first_failure(failures)
        if isinstance(failure, SourceUnusable):
            raise SourcesUnusable((failure,)) from failures
        raise failure from failures


class Misread(Exception):
    """A source looked spoilt and is whole when it is read again: the transfer is to be repeated."""


@dataclass(slots=True)
class _Transfer:
    store: ObjectStore
    batch: Batch
    upload_id: str
    rules: ContentRules
    sizes: PartSizes
    checksum: Checksum
    capacity: Capacity
    window: Budget
    longer: Budget  # for bytes of parts on their way that are more than the window holds for them
    joiner: SourceJoiner
    crc: int = 0
    size: int = 0
    sources: JoinedSources = field(default_factory=JoinedSources)
    parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)
    _pending: list[bytes] = field(default_factory=list)
    _pending_size: int = 0
    _held: int = 0  # bytes of the window that what is pending holds
    _awaited: int = 0  # bytes of the window that are held for what is being deflated

    async def run(self, tasks: asyncio.TaskGroup, parts: Iterable[Part]) -> TransferredBatch:
        copied = False
        for part in parts:
            match part:
                case Stream(spans):
                    await self._stream(tasks, spans)
                case Copy(span) if not self.joiner.unusable:
                    copied = True
                    self._flush(tasks, self._pending_size)
                    self.sources.add(span, span.length, None)
                    self.parts.append(tasks.create_task(self._copy(span, len(self.parts) + 1)))
        misread = await self.joiner.confirm()
        if unusable := self.joiner.unusable:
            raise SourcesUnusable(tuple(unusable.values()))
        if misread:
            raise Misread(f"{self.batch.output}: a source was misread")
        self._append(self.joiner.finish(), 0)
        if not self.size and not self.parts:
            self._append([self.rules.empty_output], 0)
        self._flush(tasks, self._pending_size)
        receipts = tuple([await task for task in self.parts])
        return TransferredBatch(
            receipts,
            sum(receipt.size for receipt in receipts),
            _combine(receipts) if copied else self.crc,
            self.sources.records,
            self.sources,
        )

    async def _stream(self, tasks: asyncio.TaskGroup, spans: Iterable[Span]) -> None:
        """Reads ahead, and joins in order.

        What is left for the last part of a stream is never too small for a part that is not the
        upload's last.
        """
        part_size = self.sizes.of_output(self.batch.size, single=self.rules.single)
        reads = ReadAhead(self.store, self.capacity, self.window, spans, self.sizes.usual)
        async with self.capacity.sources.hold(len(self.batch.sources)) as grant:
            reads.start(tasks, grant)
            while run := await reads.next_run():
                joins = await self.joiner.join(run)
                for read, join in zip(run, joins, strict=True):
                    self._take(read, join)
                while (
                    not self.joiner.unusable and self._pending_size >= part_size + self.sizes.least
                ):
                    more = (self._pending_size - self._held) * part_size // self._pending_size
                    self._flush(tasks, part_size, await self.longer.acquire(more))

    def _take(self, read: Read, join: Join) -> None:
        """Adds what a read came to; nothing any more once a source is unusable."""
        if self.joiner.unusable:
            self.window.release(read.span.length + self._held + self._awaited)
            self._pending, self._pending_size, self._held, self._awaited = [], 0, 0, 0
            return
        added = self._append(join.pieces, read.span.length)
        self.sources.add(read.span, added, join.joiner)

    def _append(self, pieces: list[bytes], length: int) -> int:
        """Adds what `length` bytes of a source came to, and returns how many bytes that are.

        What is held for bytes that were left out is the window's again; a deflater may still have
        some of them.
        """
        self.crc = checksums.crc64(pieces, self.crc)
        self._pending += pieces
        added = sum(map(len, pieces))
        self._pending_size += added
        self.size += added
        held = min(self._awaited + length, added)
        self._held += held
        self._awaited += length - held
        spared = max(0, self._awaited - self.joiner.delayed_bytes)
        self._awaited -= spared
        self.window.release(spared)
        return added

    def _flush(self, tasks: asyncio.TaskGroup, size: int, more: int = 0) -> None:
        """Sends the first `size` bytes of what is pending as a part, for which `more` is held
        besides the window.
        """
        if not self._pending_size:
            self.window.release(self._held)
            self._held = 0
            return
        chosen, self._pending = _split_pieces(self._pending, size)
        held = self._held * size // self._pending_size
        self._pending_size -= size
        self._held -= held
        number = len(self.parts) + 1
        self.parts.append(tasks.create_task(self._upload(number, chosen, held, more)))

    async def _upload(self, number: int, pieces: list[bytes], held: int, more: int) -> UploadedPart:
        value = checksums.part_checksum(pieces, self.checksum)
        async with self.capacity.writes.slot():
            receipt = await self.store.upload_part(
                self.batch.output,
                self.upload_id,
                number,
                pieces,
                checksum=self.checksum,
                value=value,
            )
        self.window.release(held)
        self.longer.release(more)
        return receipt

    async def _copy(self, span: Span, number: int) -> UploadedPart:
        source = span.source
        async with self.capacity.writes.slot():
            try:
                return await self.store.copy_part(
                    self.batch.output,
                    self.upload_id,
                    number,
                    source=source.key,
                    etag=source.etag,
                    start=span.start,
                    length=span.length,
                    checksum=self.checksum,
                )
            except NOT_AS_LISTED as error:
                raise not_as_listed(source, error) from error


def _combine(receipts: tuple[UploadedPart, ...]) -> int:
    """The CRC of the whole from those of its parts: copied ones did not come through here."""
    crc = 0
    for receipt in receipts:
        crc = checksums.combine(crc, checksums.decode(receipt.checksum), receipt.size)
    return crc


def _split_pieces(pieces: list[bytes], size: int) -> tuple[list[bytes], list[bytes]]:
    """The first `size` bytes, and the rest."""
    for at, piece in enumerate(pieces):
        if len(piece) > size:
            return (
                ([*pieces[:at], piece[:size]] if size else pieces[:at]),
                [piece[size:], *pieces[at + 1 :]],
            )
        size -= len(piece)
    return pieces, []
