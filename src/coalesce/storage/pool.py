"""Connections to one origin, kept for the next request."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from coalesce.storage.connection import HEAD_BYTES, Answer, BrokenConnection, Connection

_READ_BYTES = 256 * 1024
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 15.0  # S3 closes an idle connection after about 20
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `proxy` is the URL of a proxy in between, empty for none."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: str = ""


class Pool:
    """At most `limit` connections to one origin; the one used last is used first. Stalled requests are ended after `stall` seconds without a byte."""

    def __init__(self, origin: Origin, *, limit: int, stall: float) -> None:
        self._origin = origin
        self._limit = limit
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def request(self, head: bytes, body: Sequence[bytes] = (), *, bodiless: bool = False) -> Answer:
        """One request, one answer. Raises BrokenConnection, OSError or TimeoutError where there is none.

        A kept connection that closes before any answer has come was most likely closed while the request was on its way: it is sent once more.
        Whoever asks must bear that, as with any retry.
        """
        connection = await self._acquire()
        try:
            kept = connection.served > 0
            try:
                return await connection.exchange(head, body, bodiless=bodiless)
            except BrokenConnection as error:
                if not kept or error.answered:
                    raise
            self._forget(connection)
            connection = await self._replace()
            return await connection.exchange(head, body, bodiless=bodiless)
        finally:
            self._release(connection)

    def target(self, path: str) -> str:
        """A path as it stands in the request line: absolute where a proxy has to find its way (RFC 9112, 3.2.2)."""
        plain_proxy = self._origin.proxy and self._origin.tls is None
        return f"http://{self._origin.host}:{self._origin.port}{path}" if plain_proxy else path

    def close(self) -> None:
        """Closes all connections."""
        self._watch.cancel()
        for connection in self._all:
            connection.close()

    async def _acquire(self) -> Connection:
        while True:
            while self._idle:
                connection = self._idle.pop()
                if connection.usable:
                    return connection
                self._forget(connection)
            if len(self._all) + self._opening < self._limit:
                return await self._replace()
            turn = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake_next()
                raise

    async def _replace(self) -> Connection:
        self._opening += 1
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                connection = await self._open()
            self._all.add(connection)
        except BaseException:
            self._wake_next()
            raise
        finally:
            self._opening -= 1
        return connection

    async def _open(self) -> Connection:
        origin, connection = self._origin, Connection(self._buffer, self._loop)
        proxy = urlsplit(origin.proxy)
        if not proxy.hostname:
            name = origin.host if origin.tls else None
            await self._loop.create_connection(lambda: connection, origin.host, origin.port, ssl=origin.tls, server_hostname=name)
        elif origin.tls is None:
            await self._loop.create_connection(lambda: connection, proxy.hostname, proxy.port or 80)
        else:
            transport = await self._loop.start_tls(await _tunnel(proxy, origin), connection, origin.tls, server_hostname=origin.host)
            if transport is None:
                raise BrokenConnection(f"the way through the proxy {proxy.hostname} was closed")
            connection.connection_made(transport)
        return connection

    def _release(self, connection: Connection) -> None:
        if connection.usable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            self._forget(connection)
        self._wake_next()

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.close()

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _look(self) -> None:
        """Ends what has stalled, and closes what has been idle for long."""
        now = self._loop.time()
        for connection in [c for c in self._all if c.stalled(now, self._stall)]:
            connection.fail(f"nothing came or went for {self._stall:g} s")
        old = [c for c in self._idle if now - c.idle_since > _IDLE_SECONDS]
        for connection in old:
            self._idle.remove(connection)
            self._forget(connection)
        self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)


def proxy_authorization(proxy: SplitResult) -> str:
    """The header line for the name and password in a proxy's URL, empty if it has none (RFC 7617)."""
    if proxy.username is None:
        return ""
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return f"proxy-authorization: Basic {base64.b64encode(said).decode()}\r\n"


async def _tunnel(proxy: SplitResult, origin: Origin) -> asyncio.Transport:
    """A way to the origin through an HTTP proxy (RFC 9110, CONNECT)."""
    reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port or 80, limit=HEAD_BYTES)
    where = f"{origin.host}:{origin.port}"
    writer.write(f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\n{proxy_authorization(proxy)}\r\n".encode("latin-1"))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise BrokenConnection(f"the proxy {proxy.hostname} gave no way to {where}: {error}") from error
    if head.split(None, 2)[1:2] != [b"200"]:
        writer.close()
        raise BrokenConnection(f"the proxy {proxy.hostname} gave no way to {where}: {head.split(bytes([13]), 1)[0].decode('latin-1')}")
    assert isinstance(writer.transport, asyncio.Transport)
    return writer.transport
