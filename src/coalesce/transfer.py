"""The bytes of a batch, from its sources into the parts of its upload: many reads in flight, in order, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coalesce import content
from coalesce.content import Joiner
from coalesce.errors import Archived, ContentError, NotFound, PreconditionFailed, SourceChanged, first_failure
from coalesce.model import Batch, Copy, Source, Span, Stream, Transferred, UploadedPart
from coalesce.planning import PART_BYTES, part_bytes
from coalesce.storage.base import Checksum, ObjectStore

# Bodies below this are looked at on the event loop: handing them to a thread costs more than it frees.
_INLINE_BYTES = 32 * 1024


class Budget:
    """Bytes that may be held at once, given out in the order of asking."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def acquire(self, amount: int) -> None:
        """Waits until `amount` bytes are free. More than the whole budget is taken as the whole."""
        amount = min(amount, self.size)
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(amount)
            self._waiting = [entry for entry in self._waiting if entry[1] is not turn]
            self._serve()
            raise

    def release(self, amount: int) -> None:
        """Gives `amount` bytes back."""
        self._free += min(amount, self.size)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            amount, turn = self._waiting.pop(0)
            if not turn.done():
                self._free -= amount
                turn.set_result(None)

    @asynccontextmanager
    async def held(self, amount: int) -> AsyncIterator[None]:
        """`amount` bytes for the length of a block."""
        await self.acquire(amount)
        try:
            yield
        finally:
            self.release(amount)


@dataclass(frozen=True, slots=True)
class Lanes:
    """What all transfers of a run share: GETs in flight, and two budgets in which a batch reserves all it needs at once, lest two wait for each other.

    `sources` are those that may be under way: a batch is finished before the next but one begins, rather than all at once at the end.
    """

    gets: asyncio.Semaphore
    sources: Budget
    memory: Budget

    @classmethod
    def of(cls, gets: int, memory: int) -> Lanes:
        """`gets` in flight at most, `memory` in bytes."""
        return cls(asyncio.Semaphore(gets), Budget(2 * gets), Budget(memory))


def window_bytes(batch: Batch, budget: int) -> int:
    """Bytes of source bodies that one batch may hold: all of a small one; else two parts, and a read beside them, or a quarter of the budget."""
    part = part_bytes(batch.size)
    return min(batch.size, max(2 * part + PART_BYTES, budget // 4))


async def transfer(
    store: ObjectStore, batch: Batch, upload_id: str, *, joiner: Callable[[str], Joiner], nothing: bytes, checksum: Checksum, lanes: Lanes
) -> Transferred:
    """Sends all parts of a batch; nothing of it becomes visible. `nothing` is written where all sources together hold nothing.

    Raises SourceChanged or Archived (with the source's key), ContentError for a source that is not whole, StorageError.
    """
    window = window_bytes(batch, lanes.memory.size)
    async with lanes.sources.held(len(batch.sources)), lanes.memory.held(window):
        job = _Transfer(store, batch, upload_id, joiner, checksum, lanes.gets, Budget(max(window, 1)))
        try:
            async with asyncio.TaskGroup() as tasks:
                return await job.run(tasks, nothing)
        except BaseExceptionGroup as group:
            raise first_failure(group) from group


@dataclass(slots=True)
class _Joined:
    """What one read came to: bytes for the output, the window bytes they hold, and records."""

    pieces: list[bytes]
    records: int | None


@dataclass(slots=True)
class _Transfer:
    store: ObjectStore
    batch: Batch
    upload_id: str
    joiner: Callable[[str], Joiner]
    checksum: Checksum
    gets: asyncio.Semaphore
    window: Budget
    crc: int = 0
    size: int = 0
    records: int | None = 0
    parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)
    _pending: list[bytes] = field(default_factory=list)
    _pending_size: int = 0
    _pending_window: int = 0
    _open: tuple[Joiner, int] | None = None  # the joiner and raw CRC of a source that is read in several spans

    async def run(self, tasks: asyncio.TaskGroup, nothing: bytes) -> Transferred:
        part_size = part_bytes(self.batch.size)
        for part in self.batch.parts:
            match part:
                case Stream(spans):
                    await self._stream(tasks, spans, part_size)
                case Copy(span):
                    self.parts.append(tasks.create_task(self._copy(span, len(self.parts) + 1)))
        if not self.size and not self.parts:
            self._append([nothing])
            self._flush(tasks)
        receipts = tuple([await task for task in self.parts])
        crc = self._combined(receipts) if any(isinstance(part, Copy) for part in self.batch.parts) else self.crc
        return Transferred(receipts, sum(receipt.size for receipt in receipts), crc, self.records)

    def _combined(self, receipts: tuple[UploadedPart, ...]) -> int:
        """The whole's CRC from the parts': of a copied part nothing but its sum has come through here."""
        crc = 0
        for receipt in receipts:
            crc = content.combined(crc, content.decoded(receipt.checksum), receipt.size)
        return crc

    async def _stream(self, tasks: asyncio.TaskGroup, spans: tuple[Span, ...], part_size: int) -> None:
        reads: asyncio.Queue[tuple[Span, asyncio.Task[_Joined]] | None] = asyncio.Queue()
        reader = tasks.create_task(self._read_ahead(tasks, spans, reads))
        while (entry := await reads.get()) is not None:
            span, task = entry
            joined = await task
            added = self._append(joined.pieces)
            held = min(span.length, added)
            self.window.release(span.length - held)
            self._pending_window += held
            self.records = None if joined.records is None or self.records is None else self.records + joined.records
            if self._pending_size >= part_size:
                self._flush(tasks)
        await reader
        self._flush(tasks)

    async def _read_ahead(self, tasks: asyncio.TaskGroup, spans: tuple[Span, ...], reads: asyncio.Queue[tuple[Span, asyncio.Task[_Joined]] | None]) -> None:
        before: asyncio.Task[_Joined] | None = None
        for span in _pieces(spans):
            await self.window.acquire(span.length)
            if span.whole:
                task = tasks.create_task(self._read_whole(span.source))
            else:
                task = tasks.create_task(self._read_span(span, before))
                before = task
            reads.put_nowait((span, task))
        reads.put_nowait(None)

    async def _read_whole(self, source: Source) -> _Joined:
        """A source in one GET. One that looks spoilt is read once more: the fault may be the network's."""
        try:
            return await self._read_and_join(source)
        except ContentError:
            return await self._read_and_join(source)

    async def _read_and_join(self, source: Source) -> _Joined:
        async with self.gets:
            with _as_changed(source):
                body = await self.store.get(source.key, etag=source.etag)
            if len(body.data) != source.size:
                raise ContentError(f"{source.key}: has {len(body.data)} bytes, listed with {source.size} under the same ETag", key=source.key)
        if source.size < _INLINE_BYTES:
            return self._joined(source, body.data, body.checksum)
        return await asyncio.to_thread(self._joined, source, body.data, body.checksum)

    def _joined(self, source: Source, data: bytes, stored: Mapping[str, str]) -> _Joined:
        joiner = self.joiner(source.key)
        if joiner.records is not None:
            content.check_stored(source.key, data, stored)
        pieces = joiner.feed(data)
        pieces += joiner.finish()
        return _Joined(pieces, joiner.records)

    async def _read_span(self, span: Span, before: asyncio.Task[_Joined] | None) -> _Joined:
        source = span.source
        async with self.gets:
            with _as_changed(source):
                body = await self.store.get(source.key, etag=source.etag, start=span.start, length=span.length)
        if before is not None:
            await asyncio.wait([before])
        if self._open is None:
            self._open = (self.joiner(source.key), 0)
        joiner, crc = self._open
        counted = joiner.records or 0
        pieces = await asyncio.to_thread(joiner.feed, body.data)
        crc = content.crc64([body.data], crc)
        if span.ends_source:
            pieces += joiner.finish()
            self._open = None
            await self._check_stored(source, joiner, crc)
        else:
            self._open = (joiner, crc)
        return _Joined(pieces, None if joiner.records is None else joiner.records - counted)

    async def _check_stored(self, source: Source, joiner: Joiner, crc: int) -> None:
        """S3 gives no whole-object checksum with a range, so a source read in ranges costs one HEAD."""
        if joiner.records is None:
            return
        head = await self.store.head(source.key)
        stored = head.checksum.get("CRC64NVME") if head and head.etag == source.etag else None
        if stored and stored != content.encoded(crc):
            raise ContentError(f"{source.key}: the body does not have its stored CRC64NVME", key=source.key, code="ChecksumMismatch")

    def _append(self, pieces: list[bytes]) -> int:
        self.crc = content.crc64(pieces, self.crc)
        self._pending += pieces
        added = sum(map(len, pieces))
        self._pending_size += added
        self.size += added
        return added

    def _flush(self, tasks: asyncio.TaskGroup) -> None:
        if self._pending_size:
            self.parts.append(tasks.create_task(self._upload(len(self.parts) + 1, self._pending, self._pending_window)))
        else:
            self.window.release(self._pending_window)
        self._pending, self._pending_size, self._pending_window = [], 0, 0

    async def _upload(self, number: int, pieces: list[bytes], held: int) -> UploadedPart:
        value = content.part_checksum(pieces, self.checksum)
        receipt = await self.store.upload_part(self.batch.output, self.upload_id, number, pieces, checksum=self.checksum, value=value)
        self.window.release(held)
        return receipt

    async def _copy(self, span: Span, number: int) -> UploadedPart:
        source = span.source
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


def _pieces(spans: tuple[Span, ...]) -> Iterator[Span]:
    """Spans of at most one part's size: what one GET brings into memory."""
    for span in spans:
        for start in range(span.start, span.start + span.length, PART_BYTES):
            yield Span(span.source, start, min(PART_BYTES, span.start + span.length - start))


class _as_changed:  # noqa: N801  used as a block
    """Turns what the store says of a source that is not the listed one any more into SourceChanged."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PreconditionFailed | NotFound):
            key = self._source.key
            raise SourceChanged(f"{key}: changed or vanished since it was listed", key=key, request_id=error.request_id) from error
        if isinstance(error, Archived):
            error.key = self._source.key
