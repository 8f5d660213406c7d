"""Bodies of sources, read ahead by many readers at once and handed out in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from coalesce.errors import (
    Archived,
    CoalesceError,
    ContentError,
    NotFound,
    PreconditionFailed,
    SourceChanged,
    SourceUnusable,
    StorageError,
    TooLong,
)
from coalesce.model import Source, Span, Why
from coalesce.storage.base import Body, ObjectStore
from coalesce.transfer.comparison import Comparison
from coalesce.transfer.limits import Budget, Capacity, Grant

# Bodies that are looked at in one go, in bytes.
RUN_BYTES = 1024**2

# Readers of one batch: each has one source on its way. How many of them may ask at once is for the
# limiter to say.
_READERS = 256

# How often slow GETs are looked for.
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Read:
    """A span and its body; or why its source cannot be read, or is not to be joined."""

    span: Span
    body: Body | None
    unusable: SourceUnusable | None = None

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return len(self.body.data) if self.body else 0


class ReadAhead:
    """Reads spans ahead of whoever takes them, in order, within a window of bytes.

    The window is asked for bytes in the order of the spans too, so that none waits for a later one.
    """

    def __init__(
        self,
        store: ObjectStore,
        capacity: Capacity,
        window: Budget,
        spans: Iterable[Span],
        part_bytes: int,
        comparison: Comparison | None,
    ) -> None:
        self._comparison = comparison
        self._reads = capacity.reads
        self._window = window
        self._spans = enumerate(cut_spans(spans, part_bytes))
        self._reader = HedgedReader(store, capacity)
        self._done: dict[int, Read] = {}
        self._next = 0
        self._readers = 0
        self._news: asyncio.Future[None] | None = None

    def start(self, tasks: asyncio.TaskGroup, grant: Grant) -> None:
        """Starts as many readers as there are sources in the grant; each gives its share of it back
        when nothing is left for it to read.
        """
        sources = grant.held
        self._readers = min(sources, _READERS)
        for n in range(self._readers):
            share = sources // self._readers + (n < sources % self._readers)
            tasks.create_task(self._read(grant, share))

    async def next_run(self) -> list[Read]:
        """The next bodies that are there: at least one, about a megabyte; none at the end."""
        while self._next not in self._done:
            if not self._readers:
                return []
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        run: list[Read] = []
        size = 0
        while size < RUN_BYTES and (read := self._done.pop(self._next, None)) is not None:
            run.append(read)
            size += read.size
            self._next += 1
        return run

    async def _read(self, grant: Grant, share: int) -> None:
        try:
            for place, span in self._spans:
                await self._window.acquire(span.length)
                self._done[place] = await self._read_span(span)
                if place == self._next:
                    self._wake()
        finally:
            grant.give_back(share)
            self._readers -= 1
            self._wake()

    async def _read_span(self, span: Span) -> Read:
        """A source that changed ends the batch at once; any other is left to its turn."""
        try:
            body = await self._reader.read(span)
            comparison = self._comparison if span.start == 0 else None
            if comparison is None or comparison.is_same(span.source, body):
                return Read(span, body)
            return Read(span, body, await self._look(comparison, span.source, body))
        except NOT_AS_LISTED as error:  # its tags were asked for
            raise not_as_listed(span.source, error) from error
        except SourceUnusable as error:
            if error.why is Why.CHANGED:
                raise
            return Read(span, None, error)

    async def _look(
        self, comparison: Comparison, source: Source, body: Body
    ) -> SourceUnusable | None:
        """What a comparison says of a source; to ask for its tags is one more read."""
        if not body.tags:
            return await comparison.look(source, body)
        async with self._reads.slot():
            return await comparison.look(source, body)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


@dataclass(slots=True, eq=False)
class _Get:
    """A GET on its way. `hedge` sends it again, `body` is the answer to that if it came first."""

    span: Span
    task: asyncio.Task[Any]
    sent: float
    hedge: asyncio.Task[None] | None = None
    body: Body | None = None


class HedgedReader:
    """Reads spans. A GET that is slow beside the others is sent a second time, and the first answer
    counts. Both name the version that was listed, so either is right.

    A timer looks for slow ones: a task or a time-out for each GET would cost far more.
    """

    def __init__(self, store: ObjectStore, capacity: Capacity) -> None:
        self._store = store
        self._reads = capacity.reads
        self._hedging = capacity.hedging
        self._pending: dict[_Get, None] = {}  # in the order of sending
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, span: Span) -> Body:
        """As `read_body`, once there is a slot. If both GETs fail, the first one's error counts."""
        task = asyncio.current_task()
        assert task is not None
        get = _Get(span, task, await self._reads.acquire())
        self._pending[get] = None
        if self._timer is None:
            self._look_later()
        try:
            return await read_body(self._store, span)
        except asyncio.CancelledError:
            if get.body is None or task.uncancel():
                raise
            return get.body
        except CoalesceError:
            if get.hedge is None:
                raise
            self._end(get)  # the other one may wait for this slot
            await asyncio.wait([get.hedge])
            if get.body is None:
                raise
            return get.body
        finally:
            self._end(get)
            if get.hedge is not None:
                get.hedge.cancel()
                await asyncio.wait([get.hedge])
                self._hedging.end(span.length)

    def _end(self, get: _Get) -> None:
        """Gives back the slot of the first GET, if it still has one."""
        if get in self._pending:
            del self._pending[get]
            seconds = self._reads.release(get.sent, given_up=get.body is not None)
            self._hedging.answered(seconds)

    async def _send_again(self, get: _Get) -> None:
        """Whoever waits for the first answer is interrupted, which ends its request, if it is still
        at that.
        """
        try:
            acquired = await self._reads.acquire(ahead=True)
            body = None
            try:
                body = await read_body(self._store, get.span)
            finally:
                self._reads.release(acquired, given_up=body is None)
        except CoalesceError:
            return
        get.body = body
        if get in self._pending:
            get.task.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Sends again what is slow and may be sent again, the oldest first."""
        self._timer = None
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        slow_since = loop.time() - self._hedging.slow_after()
        for get in self._pending:
            if get.sent > slow_since:
                break
            if get.hedge is None and self._hedging.try_hedge(get.span.length):
                get.hedge = loop.create_task(self._send_again(get))
        self._look_later()


async def read_body(store: ObjectStore, span: Span) -> Body:
    """The bytes of a span, of the listed version of its source.

    Raises SourceUnusable if it changed, vanished or was archived since, or is longer than it was
    listed; StorageError.
    """
    source = span.source
    try:
        if span.whole:
            return await store.get(source.key, etag=source.etag, size=source.size)
        return await store.get(source.key, etag=source.etag, start=span.start, length=span.length)
    except NOT_AS_LISTED as error:
        raise not_as_listed(source, error) from error


# What the store answers where a source is no longer as it was listed.
NOT_AS_LISTED = (PreconditionFailed, NotFound, Archived, TooLong)


def not_as_listed(source: Source, error: StorageError) -> SourceUnusable:
    """What such an answer means for the source: changed or vanished, archived, or too long."""
    key, request_id = source.key, error.request_id
    match error:
        case TooLong():
            message = f"{key}: has more than the {source.size} bytes that it was listed with"
            longer = ContentError(message, key=key, request_id=request_id)
            return SourceUnusable(source, Why.CORRUPT, longer)
        case Archived():
            message = f"{key}: {error.message}"
            archived = Archived(message, key=key, code=error.code, request_id=request_id)
            return SourceUnusable(source, Why.ARCHIVED, archived)
    message = f"{key}: changed or vanished since it was listed"
    changed = SourceChanged(message, key=key, request_id=request_id)
    return SourceUnusable(source, Why.CHANGED, changed)


def cut_spans(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """Spans of at most `size` bytes: what one GET brings into memory."""
    for span in spans:
        if span.length <= size:
            yield span
            continue
        for start in range(span.start, span.start + span.length, size):
            yield Span(span.source, start, min(size, span.start + span.length - start))
