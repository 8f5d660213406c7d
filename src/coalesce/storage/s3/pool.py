"""Connections to one origin, kept for the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from coalesce.storage.s3.connection import Answer, BrokenConnection, Connection
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.tls import start_tls

_READ_BYTES = 256 * 1024
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 15.0  # S3 closes an idle connection after about 20
_CHECK_SECONDS = 1.0


class Pool:
    """At most `limit` connections to one origin; the one used last is used first.

    A request is given up after `stall` seconds without a byte, or with too few of its answer.
    """

    def __init__(self, origin: Origin, *, limit: int, stall: float) -> None:
        self._origin = origin
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._sealed = memoryview(bytearray(_READ_BYTES if origin.tls else 0))
        self._free = asyncio.Semaphore(limit)  # whoever waits is served in order
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._timer = self._loop.call_later(_CHECK_SECONDS, self._check)

    async def request(
        self,
        head: bytes,
        body: Sequence[bytes] = (),
        *,
        bodiless: bool = False,
        limit: int | None = None,
        repeatable: bool = True,
        may_trickle: bool = False,
    ) -> Answer:
        """One request, one answer; `bodiless`, `limit` and `may_trickle` as in
        `Connection.exchange`.

        Raises BrokenConnection, OSError or TimeoutError where there is no answer.

        A kept connection that closes before any byte of an answer has come was most likely closed
        while the request was on its way: it is sent once more, if it is `repeatable`.
        """
        exchange = partial(
            Connection.exchange,
            head=head,
            body=body,
            bodiless=bodiless,
            limit=limit,
            may_trickle=may_trickle,
        )
        async with self._free:
            connection = self._take_idle()
            if connection is not None:
                try:
                    return await exchange(connection)
                except BrokenConnection as error:
                    if error.answer_began or not repeatable:
                        raise
                finally:
                    self._release(connection)
            connection = await self._open()
            try:
                return await exchange(connection)
            finally:
                self._release(connection)

    def target(self, path: str) -> str:
        """A path as it stands in the request line.

        It is a whole URL where a proxy has to find its way (RFC 9112, 3.2.2).
        """
        plain_proxy = self._origin.proxy and self._origin.tls is None
        return f"http://{self._origin.authority}{path}" if plain_proxy else path

    def close(self) -> None:
        """Closes all connections."""
        self._timer.cancel()
        for connection in self._all:
            connection.close()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._all.discard(connection)
        return None

    def _release(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        else:
            self._all.discard(connection)
            connection.close()

    async def _open(self) -> Connection:
        async with asyncio.timeout(_CONNECT_SECONDS):
            connection = await self._connect()
        if self._timer.cancelled():
            connection.close()
            raise BrokenConnection("the pool was closed")
        self._all.add(connection)
        return connection

    async def _connect(self) -> Connection:
        """Opens the way to the origin: direct, through a proxy, or through a proxy's tunnel."""
        origin = self._origin
        plain = Connection(self._buffer, self._loop)
        host, port = origin.next_hop
        await self._loop.create_connection(lambda: plain, host, port)
        if origin.tls is None:
            return plain
        try:
            if origin.proxy:
                await self._open_tunnel(plain)
            connection = Connection(self._buffer, self._loop)
            await start_tls(plain.transport, connection, origin.tls, origin.host, self._sealed)
        except BaseException:
            plain.close()
            raise
        return connection

    async def _open_tunnel(self, plain: Connection) -> None:
        """Asks a proxy for a tunnel to the origin (RFC 9110, 9.3.6)."""
        authority = self._origin.authority
        line, host = f"CONNECT {authority} HTTP/1.1\r\n", f"host: {authority}\r\n"
        head = f"{line}{host}{self._origin.proxy_authorization}\r\n".encode("latin-1")
        answer = await plain.exchange(head, (), bodiless=True)
        if answer.status != 200:
            raise BrokenConnection(f"the proxy refused a tunnel: {answer.status}")

    def _check(self) -> None:
        """Ends what has stalled, and closes what has been idle for long."""
        now = self._loop.time()
        for connection in list(self._all):
            connection.check_progress(now, self._stall)
        for connection in [c for c in self._idle if now - c.active_at > _IDLE_SECONDS]:
            self._idle.remove(connection)
            connection.close()
            self._all.discard(connection)
        self._timer = self._loop.call_later(_CHECK_SECONDS, self._check)
