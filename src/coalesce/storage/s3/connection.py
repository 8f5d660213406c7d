"""One HTTP/1.1 connection, one request at a time on it, its answers parsed by llhttp.

A general client costs more for each small GET than everything else in the job together: see
`docs/performance.md`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from typing_extensions import override

# What is handed to the transport at once: larger pieces are copied again and again while they drain
# (CPython 3.11), smaller ones cost a call each.
_WRITE_BYTES = 256 * 1024

# S3 itself sends a few kilobytes; an answer with more in its head, or a refusal with more in its
# body, is not S3's.
HEAD_BYTES = 64 * 1024
REFUSAL_BYTES = 1024**2

# An answer that comes more slowly, on average over the time after which silence ends a request, is
# ended too: a byte now and then would hold a request for ever. Bytes per second; a body of 8 MiB
# may take more than two hours.
SLOWEST_ANSWER = 1024


_NOTHING = memoryview(b"")


class BrokenConnection(OSError):
    """The request got no whole answer; `answer_began` is False if not a byte of one came."""

    def __init__(self, message: str, *, answer_began: bool = True) -> None:
        super().__init__(message)
        self.answer_began = answer_began


@dataclass(slots=True)
class Answer:
    """One answer, whole; header names are lower case.

    Of an `overlong` one, whose body has more bytes than whoever asked allows, there is only the
    head.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    overlong: bool = False


class Connection(asyncio.BufferedProtocol):
    """One connection. llhttp calls the `on_` methods while it is fed.

    `buffer` takes one read from the socket. All connections of a loop can share it: it is filled
    and emptied within one callback. A body that takes more than one read is read into its own
    memory, without llhttp, as soon as its length is known.
    """

    def __init__(self, buffer: memoryview, loop: asyncio.AbstractEventLoop) -> None:
        self.usable = False  # open, and nothing has come but answers to our requests
        self.active_at = 0.0  # when bytes last went either way, by the loop's clock
        self.transport: asyncio.Transport
        self._loop = loop
        self._buffer = buffer
        self._parser = HttpResponseParser(self)
        self._pending: asyncio.Future[Answer] | None = None
        self._drain: asyncio.Future[None] | None = None
        self._answer = Answer()
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._body: BytesIO | None = None  # once it is read into its own memory
        self._rest = _NOTHING  # what is missing of it
        self._announced = 0  # the length of the body, where that is known and bounded
        self._answer_bytes = 0  # since the request went out
        self._body_bytes = 0
        self._most_body_bytes = math.inf
        self._bodiless = False
        self._may_trickle = False
        # when the speed of an answer was looked at, and how many bytes had come by then
        self._mark: tuple[float, int] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.usable = True

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._rest or self._buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        if self._is_idle:
            self.fail("the server sent data that was not asked for")
            return
        self.active_at = self._loop.time()
        self._answer_bytes += nbytes
        if self._rest:
            filled, self._rest = self._rest, self._rest[nbytes:]
            with suppress(BufferError):  # uvloop holds it still; then the body is copied once
                filled.release()
            if not self._rest:
                self._complete()
            return
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as error:
            self.fail(f"the answer is not valid HTTP: {error.__context__ or error}")
            return
        if self._pieces and self._is_idle:
            self.fail("the server sent more than the answer")
        elif self._answer_bytes > HEAD_BYTES and self._answer.status < 200:
            self.fail(f"the head of the answer has no end within {self._answer_bytes} bytes")
        elif self._announced > self._body_bytes and not self._is_idle:
            self._take_over()

    @override
    def eof_received(self) -> bool:
        self._finish_at_eof()
        return False

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self.fail(f"the connection was closed{f': {error}' if error else ''}")

    @override
    def pause_writing(self) -> None:
        self._drain = self._loop.create_future()

    @override
    def resume_writing(self) -> None:
        drain, self._drain = self._drain, None
        self.active_at = self._loop.time()
        if drain is not None and not drain.done():
            drain.set_result(None)

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._is_idle:
            raise HttpParserError("an answer without a request")
        self._answer, self._pieces, self._fields = Answer(), [], []
        self._body_bytes = self._announced = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer, which comes too late to be one (RFC 9110, 6.5.1)."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._answer.headers = {
            _lower(name): value.decode("latin-1") for name, value in self._fields
        }
        self._answer.status = status = self._parser.get_status_code()
        if self._bodiless and status >= 200:
            self._complete()
            return
        if status >= 300:
            self._most_body_bytes = REFUSAL_BYTES
        announced = int(self._answer.headers.get("content-length", "0"))  # llhttp has checked it
        if announced > self._most_body_bytes:
            self._end_overlong()
        elif status >= 200 and self._most_body_bytes < math.inf:
            self._announced = announced

    def on_body(self, data: bytes) -> None:
        """A piece of the body, without the framing of chunks."""
        self._body_bytes += len(data)
        self._pieces.append(data)
        if self._body_bytes > self._most_body_bytes:
            self._end_overlong()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._answer.status >= 200:  # 1xx only announces the answer (RFC 9110, 15.2)
            self._complete()

    async def exchange(
        self,
        head: bytes,
        body: Sequence[bytes],
        *,
        bodiless: bool,
        limit: int | None = None,
        may_trickle: bool = False,
    ) -> Answer:
        """Sends one request and waits for its answer, which may come as slowly as it likes if it
        `may_trickle`.

        `bodiless` answers (to HEAD and CONNECT) end with their head. `limit` is the most bytes that
        the body may have, unless it is that of a refusal: the first byte too many, or a head that
        announces it, ends the connection and makes the answer an overlong one. Raises
        BrokenConnection.
        """
        if not self.usable:
            raise BrokenConnection("the connection was closed", answer_began=False)
        pending: asyncio.Future[Answer] = self._loop.create_future()
        self._pending = pending
        self._bodiless = bodiless
        self._answer_bytes = 0
        self._most_body_bytes = math.inf if limit is None else limit
        self._may_trickle = may_trickle
        self._mark = None
        self.active_at = self._loop.time()
        try:
            self.transport.write(head)
            if body:
                await self._write(body, pending)
            return await pending
        except BaseException:
            self.close()
            raise
        finally:
            self._pending = None

    async def _write(self, body: Sequence[bytes], pending: asyncio.Future[Answer]) -> None:
        """Hands the body to the transport as fast as it drains.

        An answer that comes before the end of it is the last on this connection.
        """
        for piece in _chunks(body):
            if self._drain is not None:
                await asyncio.wait((self._drain, pending), return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                self.usable = False
                return
            self.transport.write(piece)

    def fail(self, why: str) -> None:
        """Ends the connection, and the request that waits for its answer, for the reason `why`."""
        self.usable = False
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(BrokenConnection(why, answer_began=self._answer_bytes > 0))
        self.resume_writing()
        self.transport.abort()

    def close(self) -> None:
        """Ends the connection."""
        self.usable = False
        self.transport.abort()

    def check_progress(self, now: float, seconds: float) -> None:
        """Ends a request that has seen no byte either way for more than so many seconds, or whose
        answer has come more slowly than SLOWEST_ANSWER for as long.
        """
        if self._is_idle:
            return
        if now - self.active_at > seconds:
            self.fail(f"no bytes for {seconds:g} s")
        elif self._may_trickle:
            return
        elif self._mark is None:
            self._mark = (now, self._answer_bytes) if self._answer_bytes else None
        elif now - self._mark[0] >= seconds:
            came = self._answer_bytes - self._mark[1]
            self._mark = (now, self._answer_bytes)
            if came < SLOWEST_ANSWER * seconds:
                self.fail(f"no more than {came} bytes of the answer in {seconds:g} s")

    @property
    def _is_idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def _complete(self) -> None:
        if self._pending is None or self._pending.done():
            return
        answer = self._answer
        answer.data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if self._body is not None:
            self._rest.release()
            answer.data = self._body.getvalue()
        if not self._parser.should_keep_alive() or self._drain is not None:
            self.usable = False
        if self._bodiless or self._body is not None:
            # llhttp waits for the body that the head announces, so the next answer gets a parser of
            # its own.
            self._parser = HttpResponseParser(self)
        self._answer, self._pieces, self._answer_bytes = Answer(), [], 0
        self._body, self._rest = None, _NOTHING
        self._pending.set_result(answer)

    def _take_over(self) -> None:
        """Has the rest of the body read into its own memory.

        BytesIO hands it out as bytes, in CPython without a copy if no view of it is left.
        """
        self._body = BytesIO(bytes(self._announced))
        with self._body.getbuffer() as view:
            view[: self._body_bytes] = b"".join(self._pieces)
            self._pieces, self._rest = [], view[self._body_bytes :]

    def _end_overlong(self) -> None:
        """Ends the connection, and the request with the head of its answer."""
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(replace(self._answer, overlong=True))
        self._pieces = []
        self.close()

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
    """The same bytes in pieces of the size that is best to write."""
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
