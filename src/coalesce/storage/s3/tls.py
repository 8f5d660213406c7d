"""TLS on our own connections, with a smaller buffer than asyncio's.

`loop.create_connection(ssl=...)` and `loop.start_tls` leave no choice of the buffer, so the
protocol is made here as they make it (CPython 3.11 to 3.13, `asyncio/base_events.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol


class TLSProtocol(SSLProtocol):
    """asyncio's TLS, with 64 KiB instead of 256 set aside for each connection.

    A record has at most 16 KiB (RFC 8446, 5.1); `docs/performance.md` has the measurement.
    """

    max_size = 64 * 1024


async def start_tls(
    transport: asyncio.Transport,
    protocol: asyncio.BufferedProtocol,
    context: ssl.SSLContext,
    host: str,
) -> None:
    """Starts TLS on an open connection; `protocol.connection_made` gets the transport under it.

    `host` is the name that the server is asked for, and that its certificate must have. Raises
    OSError, of which ssl.SSLError is one, if the handshake fails; the caller closes the transport.
    """
    if transport.is_closing():
        raise ConnectionResetError("the connection was closed before the TLS handshake")
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    tls = TLSProtocol(loop, protocol, context, waiter, server_hostname=host)
    transport.set_protocol(tls)
    tls.connection_made(transport)
    await waiter
    if transport.is_closing():  # a close without an error wakes the waiter as a success does
        raise ConnectionResetError("the connection was closed during the TLS handshake")
