"""The bytes of a batch, from its sources into the parts of its upload: many reads in flight, joined
in order, in bounded memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from coalesce.content.checks import check_stored, has_md5
from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, SourceUnusable, first_failure
from coalesce.model import (
    Batch,
    Copy,
    Part,
    Source,
    Span,
    Stream,
    TransferredBatch,
    UploadedPart,
    Why,
)
from coalesce.planning.parts import PartSizes
from coalesce.storage import checksums
from coalesce.storage.base import ObjectStore
from coalesce.storage.checksums import Checksum
from coalesce.transfer.joined import JoinedSources
from coalesce.transfer.limits import Budget, Capacity
from coalesce.transfer.reads import RUN_BYTES, Read, ReadAhead, cut_spans, listed_version, read_body

# So many bytes of bodies are looked at on the event loop, a matter of milliseconds. A thread would
# fight with the loop for the interpreter: 10,000 sources of 100 KB took a sixth more CPU that way,
# and no less time. Whoever has CPUs to spare gives them with more processes.
_INLINE_BYTES = 2 * RUN_BYTES


def window_bytes(batch: Batch, budget: int, sizes: PartSizes) -> int:
    """Bytes of source bodies that one batch may hold: all of a small one; else two parts and a read
    beside them, or a quarter of the budget.
    """
    part = sizes.of_output(batch.size)
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
    job = _Transfer(store, batch, upload_id, rules, sizes, checksum, capacity, Budget(window))
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
class _Join:
    """What one read came to: bytes for the output; or why it came to nothing.

    `joiner` is the source's, where all of it has come by.
    """

    pieces: list[bytes] = field(default_factory=list)
    joiner: Joiner | None = None
    unusable: SourceUnusable | None = None


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
    crc: int = 0
    size: int = 0
    sources: JoinedSources = field(default_factory=JoinedSources)
    parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)
    unusable: dict[str, SourceUnusable] = field(default_factory=dict)
    _pending: list[bytes] = field(default_factory=list)
    _pending_size: int = 0
    _held: int = 0  # bytes of the window that what is pending holds
    # the joiner and raw CRC of a source that is read in several spans
    _open: tuple[Joiner, int] | None = None

    async def run(self, tasks: asyncio.TaskGroup, parts: Iterable[Part]) -> TransferredBatch:
        copied = False
        for part in parts:
            match part:
                case Stream(spans):
                    await self._stream(tasks, spans)
                case Copy(span) if not self.unusable:
                    copied = True
                    self.sources.add(span, span.length, None)
                    self.parts.append(tasks.create_task(self._copy(span, len(self.parts) + 1)))
        if self.unusable:
            raise await self._confirm_unusable()
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
        part_size = self.sizes.of_output(self.batch.size)
        reads = ReadAhead(self.store, self.capacity, self.window, spans, self.sizes.usual)
        async with self.capacity.sources.hold(len(self.batch.sources)) as grant:
            reads.start(tasks, grant)
            while run := await reads.next_run():
                joins = await self._join_run(run)
                for read, join in zip(run, joins, strict=True):
                    self._take(read, join)
                while not self.unusable and self._pending_size >= part_size + self.sizes.least:
                    self._flush(tasks, part_size)
        if not self.unusable:
            self._flush(tasks, self._pending_size)

    def _take(self, read: Read, join: _Join) -> None:
        """Adds what a read came to; nothing any more once a source is unusable."""
        if join.unusable is not None:
            self.unusable.setdefault(read.span.source.key, join.unusable)
        if self.unusable:
            self.window.release(read.span.length + self._held)
            self._pending, self._pending_size, self._held = [], 0, 0
            return
        self._append(join.pieces, read.span.length)
        self.sources.add(read.span, sum(map(len, join.pieces)), join.joiner)

    async def _join_run(self, run: list[Read]) -> list[_Join]:
        """What becomes of some bodies.

        One that looks spoilt is read once more, unless its ETag says that the store holds what was
        read: the fault may be the network's.
        """
        inline = not self.rules.check or sum(read.size for read in run) < _INLINE_BYTES
        joins, seconds = self._join(run) if inline else await asyncio.to_thread(self._join, run)
        self.store.usage.checking += seconds
        doubtful = [n for n, read in enumerate(run) if joins[n].unusable and _may_be_misread(read)]
        await asyncio.gather(*(self._read_again(run[n]) for n in doubtful))
        for n in doubtful:
            joins[n] = self._join_read(run[n])
        await self._check_stored(run, joins)
        return joins

    async def _read_again(self, read: Read) -> None:
        async with self.capacity.reads.slot():
            read.body = await read_body(self.store, read.span)

    def _join(self, run: list[Read]) -> tuple[list[_Join], float]:
        """Joins all of them; and the CPU seconds that it took."""
        begun = time.thread_time()
        return [self._join_read(read) for read in run], time.thread_time() - begun

    def _join_read(self, read: Read) -> _Join:
        source = read.span.source
        if read.unusable is not None:
            return _Join(unusable=read.unusable)
        if source.key in self.unusable:
            return _Join(unusable=self.unusable[source.key])
        try:
            return self._join_body(read)
        except ContentError as error:
            self._open = None
            return _Join(unusable=SourceUnusable(source, Why.CORRUPT, error))

    def _join_body(self, read: Read) -> _Join:
        assert read.body is not None
        span, data = read.span, read.body.data
        key = span.source.key
        if len(data) != span.length:
            message = f"{key}: has {len(data)} bytes, listed with {span.length} under the same ETag"
            raise ContentError(message, key=key)
        if span.whole:
            joiner = self.rules.joiner(key)
            if self.rules.check:
                check_stored(key, data, read.body.checksum)
            return _Join([*joiner.feed(data), *joiner.finish()], joiner)
        return self._join_range(read, data)

    def _join_range(self, read: Read, data: bytes) -> _Join:
        """One of several spans of a source, which come in order."""
        span = read.span
        joiner, crc = self._open or (self.rules.joiner(span.source.key), 0)
        pieces = joiner.feed(data)
        crc = checksums.crc64([data], crc)
        self._open = (joiner, crc)
        if span.ends_source:
            pieces += joiner.finish()
            self._open = None
            read.crc = crc
            return _Join(pieces, joiner)
        return _Join(pieces)

    async def _check_stored(self, run: list[Read], joins: list[_Join]) -> None:
        """S3 gives no whole-object checksum with a range, so a source read in ranges costs one
        HEAD.
        """
        for place, read in enumerate(run):
            if read.crc is None or not self.rules.check or joins[place].unusable is not None:
                continue
            source = read.span.source
            head = await self.store.head(source.key)
            stored = head.checksum.get("CRC64NVME") if head and head.etag == source.etag else None
            if stored and stored != checksums.encoded(read.crc):
                message = f"{source.key}: the body does not have its stored CRC64NVME"
                error = ContentError(message, key=source.key, code="ChecksumMismatch")
                joins[place] = _Join(unusable=SourceUnusable(source, Why.CORRUPT, error))

    async def _confirm_unusable(self) -> Exception:
        """What the transfer failed of. A source that is read in ranges is read again only now: its
        first ranges may have been sent when a later one looked spoilt.
        """
        for key, error in list(self.unusable.items()):
            in_ranges = error.why is Why.CORRUPT and error.source.size > self.sizes.usual
            if in_ranges and await self._is_whole(error.source):
                del self.unusable[key]
        if not self.unusable:
            return Misread(f"{self.batch.output}: a source was misread once")
        return SourcesUnusable(tuple(self.unusable.values()))

    async def _is_whole(self, source: Source) -> bool:
        self._open = None
        for span in cut_spans([Span(source, 0, source.size)], self.sizes.usual):
            read = Read(span, None)
            await self._read_again(read)
            try:
                join = await asyncio.to_thread(self._join_body, read)
            except ContentError:
                self._open = None
                return False
            joins = [join]
            await self._check_stored([read], joins)
            if joins[0].unusable:
                return False
        return True

    def _append(self, pieces: list[bytes], length: int) -> None:
        """Adds what `length` bytes of a source came to.

        Bytes that were left out are the window's again.
        """
        self.crc = checksums.crc64(pieces, self.crc)
        self._pending += pieces
        added = sum(map(len, pieces))
        self._pending_size += added
        self.size += added
        held = min(length, added)
        self.window.release(length - held)
        self._held += held

    def _flush(self, tasks: asyncio.TaskGroup, size: int) -> None:
        """Sends the first `size` bytes of what is pending as a part."""
        if not self._pending_size:
            self.window.release(self._held)
            self._held = 0
            return
        chosen, self._pending = _split_pieces(self._pending, size)
        held = self._held * size // self._pending_size
        self._pending_size -= size
        self._held -= held
        number = len(self.parts) + 1
        self.parts.append(tasks.create_task(self._upload(number, chosen, held)))

    async def _upload(self, number: int, pieces: list[bytes], held: int) -> UploadedPart:
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
        return receipt

    async def _copy(self, span: Span, number: int) -> UploadedPart:
        source = span.source
        async with self.capacity.writes.slot():
            with listed_version(source):
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


def _may_be_misread(read: Read) -> bool:
    """Whether a body that looks spoilt may not be what the store holds."""
    return read.body is not None and read.span.whole and not has_md5(read.body.data, read.body.etag)


def _combine(receipts: tuple[UploadedPart, ...]) -> int:
    """The whole's CRC from the parts': of a copied part nothing but its sum has come through here."""
    crc = 0
    for receipt in receipts:
        crc = checksums.combined(crc, checksums.decoded(receipt.checksum), receipt.size)
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
