"""One HTTP/1.1 connection, one request at a time on it, its answers parsed by llhttp.

Written because a general client costs more for each small GET than everything else in the job
together: see `docs/performance.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# What is handed to the transport at once: larger pieces are copied again and again while they drain
# (CPython 3.11), smaller ones cost a call each.
_WRITE_BYTES = 256 * 1024

# S3 itself sends a few kilobytes; an answer with more in its head is not S3's.
HEAD_BYTES = 64 * 1024


class BrokenConnection(OSError):
    """The request got no whole answer. `answered` says whether any of one had come."""

    def __init__(self, message: str, *, answered: bool = True) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(slots=True)
class Answer:
    """One answer, whole; header names are lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""


class Connection(asyncio.BufferedProtocol):
    """One connection. llhttp calls the `on_` methods while it is fed.

    `buffer` takes one read from the socket. All connections of a loop can share it: it is filled
    and emptied within one callback.
    """

    def __init__(self, buffer: memoryview, loop: asyncio.AbstractEventLoop) -> None:
        self.usable = False  # open, and nothing but answers to our requests has come
        self.active_at = 0.0  # when bytes last went either way, by the loop's clock
        self.transport: asyncio.Transport
        self._loop = loop
        self._buffer = buffer
        self._parser = HttpResponseParser(self)
        self._turn: asyncio.Future[Answer] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._answer = Answer()
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._received = 0  # bytes since the request went out
        self._bodiless = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self.transport = cast(asyncio.Transport, transport)
        self.usable = True

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if self._unasked:
            self.fail("something came that was not asked for")
            return
        self.active_at = self._loop.time()
        self._received += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            self.fail(f"what came is not an answer: {error.__context__ or error!r}")
            return
        if self._pieces and self._unasked:
            self.fail("more came than the answer")
        elif self._received > HEAD_BYTES and self._answer.status < 200:
            self.fail(f"no head of an answer in {self._received} bytes")

    def eof_received(self) -> bool:
        """See `asyncio.BufferedProtocol`."""
        self._finish_at_eof()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.fail(f"the connection was closed{f': {error}' if error else ''}")

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        drained, self._drained = self._drained, None
        self.active_at = self._loop.time()
        if drained is not None and not drained.done():
            drained.set_result(None)

    def on_message_begin(self) -> None:
        """A status line begins."""
        if self._unasked:
            raise HttpParserError("nothing was asked")
        self._answer, self._pieces, self._fields = Answer(), [], []

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer, which comes too late to be one (RFC 9110, 6.5.1)."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._answer.headers = {
            _lower(name): value.decode("latin-1") for name, value in self._fields
        }
        self._answer.status = self._parser.get_status_code()
        if self._bodiless and self._answer.status >= 200:
            self._complete()

    def on_body(self, data: bytes) -> None:
        """Some of the body, without what chunks put around it."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._answer.status >= 200:  # 1xx only announces the answer (RFC 9110, 15.2)
            self._complete()

    async def exchange(self, head: bytes, body: Sequence[bytes], *, bodiless: bool) -> Answer:
        """Sends one request and waits for its answer.

        `bodiless` answers (to HEAD and CONNECT) end with their head. Raises BrokenConnection.
        """
        if not self.usable:
            raise BrokenConnection("the connection was closed", answered=False)
        turn: asyncio.Future[Answer] = self._loop.create_future()
        self._turn = turn
        self._bodiless = bodiless
        self._received = 0
        self.active_at = self._loop.time()
        try:
            self.transport.write(head)
            if body:
                await self._write(body, turn)
            return await turn
        except BaseException:
            self.close()
            raise
        finally:
            self._turn = None

    async def _write(self, body: Sequence[bytes], turn: asyncio.Future[Answer]) -> None:
        """Hands the body to the transport as fast as it drains; an answer that comes before the end
        of it is the last on this connection.
        """
        for piece in _chunks(body):
            if self._drained is not None:
                await asyncio.wait((self._drained, turn), return_when=asyncio.FIRST_COMPLETED)
            if turn.done():
                self.usable = False
                return
            self.transport.write(piece)

    def fail(self, why: str) -> None:
        """Ends the connection, and with it the request that waits for its answer."""
        self.usable = False
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(BrokenConnection(why, answered=self._received > 0))
        self.resume_writing()
        self.transport.abort()

    def close(self) -> None:
        """Ends the connection."""
        self.usable = False
        self.transport.abort()

    def stalled(self, now: float, limit: float) -> bool:
        """Whether a request has waited `limit` seconds without a byte going either way."""
        return self._turn is not None and now - self.active_at > limit

    @property
    def _unasked(self) -> bool:
        return self._turn is None or self._turn.done()

    def _complete(self) -> None:
        if self._turn is None or self._turn.done():
            return
        answer = self._answer
        answer.data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if not self._parser.should_keep_alive() or self._drained is not None:
            self.usable = False
        if self._bodiless:
            # llhttp waits for the body that the head announces, so the next answer gets a parser of
            # its own.
            self._parser = HttpResponseParser(self)
        self._answer, self._pieces, self._received = Answer(), [], 0
        self._turn.set_result(answer)

    def _finish_at_eof(self) -> None:
        """An answer with neither length nor chunks ends with the connection (RFC 9112, 6.3)."""
        headers = self._answer.headers
        if (
            self._answer.status >= 200
            and "content-length" not in headers
            and "transfer-encoding" not in headers
        ):
            self._complete()


@lru_cache(256)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _chunks(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """The same bytes in writes of a good size."""
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > _WRITE_BYTES and small:
            yield b"".join(small)
            small, size = [], 0
        if len(piece) < _WRITE_BYTES:
            small.append(piece)
            size += len(piece)
        else:
            for start in range(0, len(piece), _WRITE_BYTES):
                yield piece[start : start + _WRITE_BYTES]
    if small:
        yield b"".join(small)
