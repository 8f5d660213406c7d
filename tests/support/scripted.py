"""A server on loopback that sends what a test wants, byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coalesce.storage.s3 import S3Options

EMPTY_LISTING = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
)


@dataclass
class Request:
    """One request of a client; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    line: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {
            name: values[0]
            for name, values in parse_qs(
                urlsplit(self.target).query, keep_blank_values=True
            ).items()
        }

    @property
    def locates(self) -> bool:
        """Whether the store learns by this request where its bucket is."""
        return self.method == "GET" and self.query.get("max-keys") == "1"


@dataclass
class Peer:
    """One accepted connection."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Server

    async def head(self) -> Request:
        """The next request without its body. Raises IncompleteReadError at the end."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        method, target, _ = lines[0].decode("latin-1").split(" ", 2)
        fields = (line.decode("latin-1").partition(":") for line in lines[1:-2])
        headers = {name.lower(): value.strip() for name, _, value in fields}
        request = Request(method, target, headers, line=lines[0])
        self.server.requests.append(request)
        return request

    async def request(self) -> Request:
        """The next request, whole."""
        request = await self.head()
        request.body = await self.reader.readexactly(
            int(request.headers.get("content-length", "0"))
        )
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> bytes:
        """Waits until the client closes; what it sent until then."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass
class Server:
    """Where a server listens, and the requests that came."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    failures: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, **more: Any) -> S3Options:
        """How a bucket is reached there, but for what is said otherwise."""
        return S3Options(
            "bucket",
            endpoint_url=self.url,
            region="us-east-1",
            addressing="path",
            access_key="AK",
            secret_key="SK",
            **more,
        )


@asynccontextmanager
async def serving(
    script: Callable[[Peer], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """A server that runs `script` on each connection, until the end of the block.

    It is no failure if the client closes; whatever else the script raises is one.
    """
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await script(Peer(server.connections, reader, writer, server))
        except Exception as error:
            server.failures.append(error)
        finally:
            writer.transport.abort()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(accept(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls, limit=2**20)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        pending = list(tasks)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await asyncio.sleep(0)
    assert server.failures == []


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """An answer of known length; underscores in header names stand for hyphens."""
    fields = {"content-length": str(len(body)), "date": "Sun, 22 Nov 2026 12:00:00 GMT"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "\r\n".join(
        [f"HTTP/1.1 {status}", *[f"{name}: {value}" for name, value in fields.items()]]
    )
    return f"{head}\r\n\r\n".encode("latin-1") + body


def refusal(status: str, code: str, message: str = "made up") -> bytes:
    body = (
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>R1</RequestId></Error>"
    )
    return answer(body.encode(), status, content_type="application/xml", x_amz_request_id="R1")


def in_turn(*answers: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A script that gives these answers in turn over all connections, and the last one for ever."""
    rest = list(answers)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(rest.pop(0) if len(rest) > 1 else rest[0])

    return script


def store_of(reply: Callable[[Request], bytes]) -> Callable[[Peer], Awaitable[None]]:
    """A script that locates the bucket, and answers everything else with `reply`."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.send(answer(EMPTY_LISTING) if request.locates else reply(request))

    return script
