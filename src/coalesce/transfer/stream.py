"""The bytes of a batch, from its sources into the parts of its upload: many reads in flight, joined
in order, in bounded memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from coalesce.content.rules import ContentRules
from coalesce.errors import SourceUnusable, first_failure
from coalesce.model import (
    Batch,
    Copy,
    Differences,
    Part,
    Span,
    Stream,
    TransferredBatch,
    UploadedPart,
)
from coalesce.planning.parts import PartSizes, lay_out
from coalesce.storage import checksums
from coalesce.storage.base import ObjectStore
from coalesce.storage.checksums import Checksum
from coalesce.transfer.comparison import Comparison
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

    @override
    def __reduce__(self) -> tuple[object, ...]:
        """Pickles it: workers send theirs to the main process."""
        return type(self), (self.sources,)


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
    comparison: Comparison | None = None,
) -> TransferredBatch:
    """Sends all parts of a batch; nothing of it becomes visible.

    `window` is the bytes of bodies that it may hold at once, which the caller holds of the run's
    memory; with a `comparison`, what sources say of themselves is looked at. Once a source turns
    out to be unusable nothing more is sent, and the others are only checked: so a batch with any
    number of them costs one reading.

    What the store is to copy, and turns out to need a change, is sent instead, with all the rest.

    Raises SourcesUnusable, Misread, StorageError.
    """

    async def send(parts: Iterable[Part]) -> TransferredBatch:
        joiner = SourceJoiner(store, capacity, rules, sizes.usual)
        memory = Budget(window), Budget(sizes.usual)
        fresh = comparison.fresh() if comparison else None
        job = _Transfer(
            store, batch, upload_id, rules, sizes, checksum, capacity, *memory, joiner, fresh
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                return await job.run(tasks, parts)
        except BaseExceptionGroup as failures:
            failure = first_failure(failures)
            if isinstance(failure, SourceUnusable):
                raise SourcesUnusable((failure,)) from failures
            raise failure from failures

    try:
        return await send(parts)
    except _CannotCopy:
        return await send(lay_out(batch.sources, sizes, copy=False))


class Misread(Exception):
    """A source looked spoilt and is whole when it is read again: the transfer is to be repeated."""


class _CannotCopy(Exception):
    """What the store is to copy does not become the same bytes, or stands behind too small a part:
    empty members are left out, and newlines added. Or its joiner still holds bytes of what is sent
    before: the beginning of a member of which nothing was inflated yet.
    """


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
    comparison: Comparison | None
    crc: int = 0
    size: int = 0
    sources: JoinedSources = field(default_factory=JoinedSources)
    parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)
    _copied: list[Span] = field(default_factory=list)  # of a source that is being checked
    _pending: list[bytes] = field(default_factory=list)
    _pending_size: int = 0
    _held: int = 0  # bytes of the window that what is pending holds
    _awaited: int = 0  # bytes of the window that are held for what is being deflated

    async def run(self, tasks: asyncio.TaskGroup, parts: Iterable[Part]) -> TransferredBatch:
        unread = False
        for part in parts:
            match part:
                case Stream(spans):
                    await self._stream(tasks, spans)
                case Copy(span) if self.rules.check:
                    await self._check_and_copy(tasks, span)
                case Copy(span):
                    unread = True
                    self.sources.add(span, span.length, None)
                    self._copy_all(tasks, [span])
        misread = await self.joiner.confirm()
        if unusable := self.joiner.unusable:
            raise SourcesUnusable(tuple(unusable.values()))
        if misread:
            raise Misread(f"{self.batch.output}: a source was misread")
        self._append(await self.joiner.finish(), 0)
        if not self.size and not self.parts:
            self._append([self.rules.empty_output], 0)
        self._flush(tasks, self._pending_size)
        receipts = tuple([await task for task in self.parts])
        return TransferredBatch(
            receipts,
            sum(receipt.size for receipt in receipts),
            _combine(receipts) if unread else self.crc,
            self.sources.records,
            self.sources,
            self.comparison.found if self.comparison else Differences(),
        )

    async def _stream(self, tasks: asyncio.TaskGroup, spans: Iterable[Span]) -> None:
        """Reads ahead, and joins in order.

        What is left for the last part of a stream is never too small for a part that is not the
        upload's last.
        """
        part_size = self.sizes.of_output(self.batch.size, single=self.rules.single)

        async def take(run: list[Read], joins: list[Join]) -> None:
            for read, join in zip(run, joins, strict=True):
                self._take(read, join)
            while not self.joiner.unusable and self._pending_size >= part_size + self.sizes.least:
                more = (self._pending_size - self._held) * part_size // self._pending_size
                self._flush(tasks, part_size, await self.longer.acquire(more))

        await self._read(tasks, spans, take)

    async def _check_and_copy(self, tasks: asyncio.TaskGroup, span: Span) -> None:
        """Reads a span to check it, and lets the store copy it once its source has passed.

        The CRC is of what was read: so the store's own, at Complete, proves its copies.
        """
        if span.start and not self.joiner.unusable and self.sources.last_length != span.start:
            raise _CannotCopy
        last = Join()

        async def take(run: list[Read], joins: list[Join]) -> None:
            nonlocal last
            for read, join in zip(run, joins, strict=True):
                self.window.release(read.span.length)
                if self.joiner.unusable:
                    continue
                assert read.body is not None
                self.crc = checksums.crc64([read.body.data], self.crc)
                self.sources.add(read.span, read.span.length, join.joiner)
                last = join

        await self._read(tasks, [span], take)
        self._copied.append(span)
        if last.joiner is None:
            return  # more spans of the source follow, or some source is unusable
        if last.joiner.left_out:
            raise _CannotCopy
        self._copy_all(tasks, self._copied)
        self._copied = []
        if last.joiner.length > span.source.size:
            self._append(last.pieces[-1:], 0)

    async def _read(
        self,
        tasks: asyncio.TaskGroup,
        spans: Iterable[Span],
        take: Callable[[list[Read], list[Join]], Awaitable[None]],
    ) -> None:
        """Reads spans ahead, and hands out in order what they came to."""
        reads = ReadAhead(
            self.store, self.capacity, self.window, spans, self.sizes.usual, self.comparison
        )
        ahead = min(len(self.batch.sources), self.capacity.sources.size // 2)
        async with self.capacity.sources.hold(ahead) as grant:
            reads.start(tasks, grant)
            while run := await reads.next_run():
                await take(run, await self.joiner.join(run))

    def _copy_all(self, tasks: asyncio.TaskGroup, spans: Sequence[Span]) -> None:
        """Sends what is pending as a part, and lets the store copy each of the spans as one."""
        if 0 < self._pending_size < self.sizes.least:
            raise _CannotCopy
        self._flush(tasks, self._pending_size)
        for span in spans:
            self.parts.append(tasks.create_task(self._copy(span, len(self.parts) + 1)))

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
    """The CRC of the whole from those of its parts: some were copied without being read."""
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
