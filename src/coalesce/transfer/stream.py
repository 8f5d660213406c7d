"""The bytes of a batch, from its sources into the parts of its upload: many reads in flight, in
order, in bounded memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coalesce.content.checks import check_stored
from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.errors import (
    Archived,
    ContentError,
    NotFound,
    PreconditionFailed,
    SourceChanged,
    first_failure,
)
from coalesce.model import Batch, Copy, Part, Source, Span, Stream, TransferredBatch, UploadedPart
from coalesce.planning.parts import PART_BYTES, part_bytes
from coalesce.storage import checksums
from coalesce.storage.base import Body, ObjectStore
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import MIN_PART_BYTES
from coalesce.transfer.limits import Budget, Capacity

# Bodies that are looked at in one go.
_RUN_BYTES = 1024**2

# So many bytes of bodies are looked at on the event loop, a matter of milliseconds. A thread would
# fight with the loop for the interpreter: 10,000 sources of 100 KB took a sixth more CPU that way,
# and no less time. Whoever has CPUs to spare gives them with more processes.
_INLINE_BYTES = 2 * _RUN_BYTES

# Readers of one batch: each has one source on its way. How many of them may ask at once is the
# lane's to say.
_READERS = 256


def window_bytes(batch: Batch, budget: int) -> int:
    """Bytes of source bodies that one batch may hold: all of a small one; else two parts, and a
    read beside them, or a quarter of the budget.
    """
    part = part_bytes(batch.size)
    return min(batch.size, max(2 * part + MIN_PART_BYTES + PART_BYTES, budget // 4))


async def transfer(
    store: ObjectStore,
    batch: Batch,
    parts: Iterable[Part],
    upload_id: str,
    *,
    rules: ContentRules,
    checksum: Checksum,
    capacity: Capacity,
) -> TransferredBatch:
    """Sends all parts of a batch; nothing of it becomes visible.

    Raises SourceChanged or Archived (with the source's key), ContentError for a source that is not
    whole, StorageError.
    """
    window = window_bytes(batch, capacity.memory.size)
    async with capacity.memory.held(window):
        job = _Transfer(store, batch, upload_id, rules, checksum, capacity, Budget(max(window, 1)))
        try:
            async with asyncio.TaskGroup() as tasks:
                return await job.run(tasks, parts)
        except BaseExceptionGroup as group:
            raise first_failure(group) from group


@dataclass(slots=True)
class _Transfer:
    store: ObjectStore
    batch: Batch
    upload_id: str
    rules: ContentRules
    checksum: Checksum
    capacity: Capacity
    window: Budget
    crc: int = 0
    size: int = 0
    records: int | None = 0
    parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)
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
                case Copy(span):
                    copied = True
                    self.parts.append(tasks.create_task(self._copy(span, len(self.parts) + 1)))
        if not self.size and not self.parts:
            self._append([self.rules.empty_output], 0)
            self._flush(tasks, self._pending_size)
        receipts = tuple([await task for task in self.parts])
        return TransferredBatch(
            receipts,
            sum(receipt.size for receipt in receipts),
            self._combined(receipts) if copied else self.crc,
            self.records,
        )

    def _combined(self, receipts: tuple[UploadedPart, ...]) -> int:
        """The whole's CRC from the parts': of a copied part nothing but its sum has come through
        here.
        """
        crc = 0
        for receipt in receipts:
            crc = checksums.combined(crc, checksums.decoded(receipt.checksum), receipt.size)
        return crc

    async def _stream(self, tasks: asyncio.TaskGroup, spans: Iterable[Span]) -> None:
        """Reads ahead, and joins in order.

        What is left for the last part of a stream is never too small for a part that is not the
        upload's last.
        """
        part_size = part_bytes(self.batch.size)
        reads = _Reads(self.store, self.capacity, self.window, _pieces(spans))
        await self.capacity.sources.acquire(len(self.batch.sources))
        ahead = reads.begin(tasks, min(len(self.batch.sources), self.capacity.sources.size))
        while run := await reads.next_run():
            for read, joined in zip(run, await self._joined(run), strict=True):
                self._append(joined.pieces, read.span.length)
                self.records = (
                    None
                    if joined.records is None or self.records is None
                    else self.records + joined.records
                )
            while self._pending_size >= part_size + MIN_PART_BYTES:
                self._flush(tasks, part_size)
        await asyncio.gather(*ahead)
        self._flush(tasks, self._pending_size)

    async def _joined(self, run: list[_Read]) -> list[_Joined]:
        """What becomes of some bodies.

        One that looks spoilt is read once more: the fault may be the network's.
        """
        done: list[_Joined] = []
        again = None
        while len(done) < len(run):
            rest = run[len(done) :]
            inline = (
                not self.rules.check or sum(len(read.body.data) for read in rest) < _INLINE_BYTES
            )
            joined, failure, seconds = (
                self._join(rest) if inline else await asyncio.to_thread(self._join, rest)
            )
            self.store.usage.checking += seconds
            done += joined
            if failure is None:
                break
            spoilt = run[len(done)]
            if not spoilt.span.whole or spoilt is again:
                raise failure
            again = spoilt
            spoilt.body = await read_body(self.store, spoilt.span)
        await self._check_stored(run)
        return done

    def _join(self, run: list[_Read]) -> tuple[list[_Joined], ContentError | None, float]:
        """In one pass, as far as nothing is spoilt; and the CPU seconds that it took."""
        begun = time.thread_time()
        done: list[_Joined] = []
        failure = None
        for read in run:
            try:
                done.append(self._join_one(read))
            except ContentError as error:
                failure = error
                break
        return done, failure, time.thread_time() - begun

    def _join_one(self, read: _Read) -> _Joined:
        span, data = read.span, read.body.data
        if len(data) != span.length:
            raise ContentError(
                f"{span.source.key}: has {len(data)} bytes, listed with {span.length} under the same ETag",
                key=span.source.key,
            )
        if span.whole:
            joiner = self.rules.joiner(span.source.key)
            if self.rules.check:
                check_stored(span.source.key, data, read.body.checksum)
            return _Joined([*joiner.feed(data), *joiner.finish()], joiner.records)
        joiner, crc = self._open or (self.rules.joiner(span.source.key), 0)
        before = joiner.records or 0
        pieces = joiner.feed(data)
        crc = checksums.crc64([data], crc)
        self._open = (joiner, crc)
        if span.ends_source:
            pieces += joiner.finish()
            self._open = None
            read.crc = crc
        return _Joined(pieces, None if joiner.records is None else joiner.records - before)

    async def _check_stored(self, run: list[_Read]) -> None:
        """S3 gives no whole-object checksum with a range, so a source read in ranges costs one
        HEAD.
        """
        for read in run:
            if read.crc is None or not self.rules.check:
                continue
            source = read.span.source
            head = await self.store.head(source.key)
            stored = head.checksum.get("CRC64NVME") if head and head.etag == source.etag else None
            if stored and stored != checksums.encoded(read.crc):
                raise ContentError(
                    f"{source.key}: the body does not have its stored CRC64NVME",
                    key=source.key,
                    code="ChecksumMismatch",
                )

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
        chosen, self._pending = _cut(self._pending, size)
        held = self._held * size // self._pending_size
        self._pending_size -= size
        self._held -= held
        self.parts.append(tasks.create_task(self._upload(len(self.parts) + 1, chosen, held)))

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
            with _as_changed(source):
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


@dataclass(slots=True)
class _Read:
    """A span and its body; `crc` is set with the last span of a source that is read in several: of
    all of it.
    """

    span: Span
    body: Body
    crc: int | None = None


@dataclass(slots=True)
class _Joined:
    """What one read came to: bytes for the output, and records."""

    pieces: list[bytes]
    records: int | None


class _Reads:
    """Bodies of spans, read by many readers at once, given out in order.

    The window is asked for bytes in that order too, so none waits for a later one.
    """

    def __init__(
        self, store: ObjectStore, capacity: Capacity, window: Budget, spans: Iterator[Span]
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._window = window
        self._spans = enumerate(spans)
        self._done: dict[int, _Read] = {}
        self._next = 0
        self._readers = 0
        self._news: asyncio.Future[None] | None = None

    def begin(self, tasks: asyncio.TaskGroup, sources: int) -> list[asyncio.Task[None]]:
        """Starts the readers.

        `sources` are held of the lanes' budget, and given back as the last ones are read.
        """
        self._readers = min(sources, _READERS)
        return [
            tasks.create_task(self._read(sources // self._readers + (n < sources % self._readers)))
            for n in range(self._readers)
        ]

    async def next_run(self) -> list[_Read]:
        """The next bodies that are there, at least one; none at the end."""
        while self._next not in self._done:
            if not self._readers:
                return []
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        run: list[_Read] = []
        size = 0
        while size < _RUN_BYTES and (read := self._done.pop(self._next, None)) is not None:
            run.append(read)
            size += len(read.body.data)
            self._next += 1
        return run

    async def _read(self, held: int) -> None:
        try:
            for place, span in self._spans:
                await self._window.acquire(span.length)
                entered = await self._capacity.reads.acquire()
                try:
                    body = await read_body(self._store, span)
                finally:
                    self._capacity.reads.release(entered)
                self._done[place] = _Read(span, body)
                if place == self._next:
                    self._tell()
        finally:
            self._capacity.sources.release(held)
            self._readers -= 1
            self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


async def read_body(store: ObjectStore, span: Span) -> Body:
    """The bytes of a span, of the listed version of its source.

    Raises SourceChanged or Archived (with the source's key), StorageError.
    """
    source = span.source
    with _as_changed(source):
        if span.whole:
            return await store.get(source.key, etag=source.etag)
        return await store.get(source.key, etag=source.etag, start=span.start, length=span.length)


def _pieces(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans of at most one part's size: what one GET brings into memory."""
    for span in spans:
        if span.length <= PART_BYTES:
            yield span
            continue
        for start in range(span.start, span.start + span.length, PART_BYTES):
            yield Span(span.source, start, min(PART_BYTES, span.start + span.length - start))


def _cut(pieces: list[bytes], size: int) -> tuple[list[bytes], list[bytes]]:
    """The first `size` bytes, and the rest."""
    for at, piece in enumerate(pieces):
        if len(piece) > size:
            return ([*pieces[:at], piece[:size]] if size else pieces[:at]), [
                piece[size:],
                *pieces[at + 1 :],
            ]
        size -= len(piece)
    return pieces, []


class _as_changed:  # noqa: N801  used as a block
    """Turns what the store says of a source that is not the listed one any more into
    SourceChanged.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, PreconditionFailed | NotFound):
            key = self._source.key
            raise SourceChanged(
                f"{key}: changed or vanished since it was listed",
                key=key,
                request_id=error.request_id,
            ) from error
        if isinstance(error, Archived):
            error.key = self._source.key
