"""HTTP/1.1 as a server needs it here: requests with a length, answers in order, bodies that are
neither copied nor buffered twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

HEAD_BYTES = 64 * 1024
SLICE_BYTES = 1024 * 1024
_REASONS = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
}
_REASONS |= {
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    500: "Internal Server Error",
}
_REASONS |= {501: "Not Implemented", 503: "Service Unavailable"}


@dataclass(slots=True)
class Request:
    """What was asked: header names are lower case, the target is as it was sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | bytearray = b""


@dataclass(slots=True)
class Answer:
    """What is answered.

    `headers` are whole lines, Content-Length among them unless there is no body; `body` is pieces
    of one body.
    """

    status: int
    headers: bytes = b""
    body: tuple[bytes | memoryview, ...] = ()
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.body))


class Chunks:
    """A body in HTTP's own chunks, put together as they come."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.rest = bytearray()  # what is not part of it yet, and in the end what follows it
        self.whole = False

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes as they arrived."""
        self.rest += data
        while not self.whole and (end := self.rest.find(b"\r\n")) >= 0:
            size = int(self.rest[:end].split(b";")[0], 16)
            if len(self.rest) < end + size + 4:
                return
            self.body += self.rest[end + 2 : end + 2 + size]
            del self.rest[: end + size + 4]
            self.whole = size == 0


class Connection(asyncio.BufferedProtocol):
    """One client.

    `answer` decides, `delay` says how many seconds that takes, `preamble` is the head's lines that
    every answer has.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        delay: Callable[[Request], float],
        preamble: Callable[[], bytes],
    ) -> None:
        self._answer, self._delay, self._preamble = answer, delay, preamble
        self._head = bytearray(HEAD_BYTES)
        self._view = memoryview(self._head)
        self._filled = 0
        # whose body is still arriving, or whose answer is still due
        self._request: Request | None = None
        self._body = memoryview(b"")  # the room that its body has yet to fill
        self._chunks: Chunks | None = None  # or else the chunks that it comes in
        self._unsent: deque[bytes | memoryview] = deque()
        self._paused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Part of asyncio's protocol."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Part of asyncio's protocol: a body goes straight to where it stays."""
        return self._body or self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio's protocol."""
        if self._body:
            self._body = self._body[nbytes:]
            if not self._body:
                self._serve()
            return
        self._filled += nbytes
        if self._chunks:
            self._chunked(self._chunks)
        elif self._request is None:
            self._begin()
        if self._filled == HEAD_BYTES:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._paused = True

    def resume_writing(self) -> None:
        """Part of asyncio's protocol."""
        self._paused = False
        self._send()

    def _begin(self) -> None:
        """Takes the next request out of what has arrived, if its head is whole."""
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == HEAD_BYTES:
                self._transport.close()
            return
        request = self._request = _parsed(bytes(self._view[:end]))
        rest, length = self._filled - end - 4, int(request.headers.get("content-length", 0))
        if request.headers.get("expect", "").lower() == "100-continue" and not rest:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length:
            request.body = bytearray(length)
            taken = min(rest, length)
            request.body[:taken] = self._view[end + 4 : end + 4 + taken]
            self._body = memoryview(request.body)[taken:]
            rest -= taken
        if rest:
            self._head[:rest] = self._view[self._filled - rest : self._filled]
        self._filled = rest
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = Chunks()
            self._chunked(self._chunks)
        elif not self._body:
            self._serve()

    def _chunked(self, chunks: Chunks) -> None:
        chunks.feed(self._view[: self._filled])
        self._filled = 0
        if chunks.whole:
            assert self._request is not None
            self._request.body, self._chunks = chunks.body, None
            self._filled = len(chunks.rest)
            self._head[: self._filled] = chunks.rest
            self._serve()

    def _serve(self) -> None:
        assert self._request is not None
        delay = self._delay(self._request)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        """Answers the request at hand, and turns to the next."""
        request = self._request
        assert request is not None
        answer = self._answer(request)
        head = b"HTTP/1.1 %d %s\r\n%s%s\r\n" % (
            answer.status,
            _REASONS.get(answer.status, "").encode(),
            self._preamble(),
            answer.headers,
        )
        if self._transport.is_closing():
            return
        if answer.size <= SLICE_BYTES and not self._unsent:
            self._transport.writelines((head, *answer.body))
        else:
            self._unsent.append(head)
            for piece in answer.body:
                view = memoryview(piece)
                self._unsent.extend(
                    view[at : at + SLICE_BYTES] for at in range(0, len(view), SLICE_BYTES)
                )
            self._send()
        if request.headers.get("connection", "").lower() == "close" and not self._unsent:
            self._transport.close()
        self._request = None
        if self._filled:
            if self._filled == HEAD_BYTES:
                self._transport.resume_reading()
            self._begin()

    def _send(self) -> None:
        while self._unsent and not self._paused:
            self._transport.write(self._unsent.popleft())


def _parsed(head: bytes) -> Request:
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, target, headers)
