"""Connections to one origin, kept for the next request."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from coalesce.storage.s3.connection import Answer, BrokenConnection, Connection
from coalesce.storage.s3.tls import start_tls

_READ_BYTES = 256 * 1024
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 15.0  # S3 closes an idle connection after about 20
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `proxy` is the http URL of a proxy in between, empty for none."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: str = ""

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Pool:
    """At most `limit` connections to one origin; the one used last is used first.

    Stalled requests are ended after `stall` seconds without a byte.
    """

    def __init__(self, origin: Origin, *, limit: int, stall: float) -> None:
        self._origin = origin
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._free = asyncio.Semaphore(limit)  # whoever waits is served in order
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def request(
        self, head: bytes, body: Sequence[bytes] = (), *, bodiless: bool = False
    ) -> Answer:
        """One request, one answer.

        Raises BrokenConnection, OSError or TimeoutError where there is none.

        A kept connection that closes before any byte of an answer has come was most likely closed
        while the request was on its way: it is sent once more. Whoever asks must bear that, as with
        any retry.
        """
        async with self._free:
            connection = self._kept()
            if connection is not None:
                try:
                    return await connection.exchange(head, body, bodiless=bodiless)
                except BrokenConnection as error:
                    if error.answered:
                        raise
                finally:
                    self._settle(connection)
            connection = await self._open()
            try:
                return await connection.exchange(head, body, bodiless=bodiless)
            finally:
                self._settle(connection)

    def target(self, path: str) -> str:
        """A path as it stands in the request line: absolute where a proxy has to find its way (RFC
        9112, 3.2.2).
        """
        plain_proxy = self._origin.proxy and self._origin.tls is None
        return f"http://{self._origin.authority}{path}" if plain_proxy else path

    def close(self) -> None:
        """Closes all connections."""
        self._watch.cancel()
        for connection in self._all:
            connection.close()

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._all.discard(connection)
        return None

    def _settle(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        else:
            self._all.discard(connection)
            connection.close()

    async def _open(self) -> Connection:
        async with asyncio.timeout(_CONNECT_SECONDS):
            connection = await self._connect()
        if self._watch.cancelled():
            connection.close()
            raise BrokenConnection("the pool was closed")
        self._all.add(connection)
        return connection

    async def _connect(self) -> Connection:
        """Opens the way to the origin: straight, through a proxy, or through a proxy's tunnel."""
        origin, proxy = self._origin, urlsplit(self._origin.proxy)
        plain = Connection(self._buffer, self._loop)
        host, port = (
            (proxy.hostname, proxy.port or 80) if proxy.hostname else (origin.host, origin.port)
        )
        await self._loop.create_connection(lambda: plain, host, port)
        if origin.tls is None:
            return plain
        try:
            if proxy.hostname:
                await self._request_tunnel(plain, proxy)
            connection = Connection(self._buffer, self._loop)
            await start_tls(plain.transport, connection, origin.tls, origin.host)
            return connection
        except BaseException:
            plain.close()
            raise

    async def _request_tunnel(self, plain: Connection, proxy: SplitResult) -> None:
        """Asks a proxy for a tunnel to the origin (RFC 9110, 9.3.6)."""
        authority = self._origin.authority
        head = (
            f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n{proxy_authorization(proxy)}\r\n"
        )
        answer = await plain.exchange(head.encode("latin-1"), (), bodiless=True)
        if answer.status != 200:
            raise BrokenConnection(
                f"the proxy {proxy.hostname} refused a tunnel to {authority}: {answer.status}"
            )

    def _look(self) -> None:
        """Ends what has stalled, and closes what has been idle for long."""
        now = self._loop.time()
        for connection in [c for c in self._all if c.stalled(now, self._stall)]:
            connection.fail(f"nothing came or went for {self._stall:g} s")
        for connection in [c for c in self._idle if now - c.active_at > _IDLE_SECONDS]:
            self._idle.remove(connection)
            connection.close()
            self._all.discard(connection)
        self._watch = self._loop.call_later(_LOOK_SECONDS, self._look)


def proxy_authorization(proxy: SplitResult) -> str:
    """The header line for the name and password in a proxy's URL, empty if it has none (RFC
    7617).
    """
    if proxy.username is None:
        return ""
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return f"proxy-authorization: Basic {base64.b64encode(said).decode()}\r\n"
