"""TLS on our own connections: what one read from the socket brought is decrypted at once, into
the buffer of whoever reads it.

asyncio's TLS costs more (`docs/evidence/performance-transport.md`), sets a buffer aside for each
connection, and takes any end of the stream for the end of the data (CPython 3.11 to 3.13).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from typing_extensions import override

from coalesce.storage.s3.connection import Connection

# What goes through OpenSSL at once. Its buffers grow to a third more and are kept for as long as
# the connection: with 256 KiB they would take twice 340 KiB for each.
_PASS_BYTES = 64 * 1024


async def start_tls(
    transport: asyncio.Transport,
    connection: Connection,
    context: ssl.SSLContext,
    host: str,
    buffer: memoryview,
) -> None:
    """Starts TLS on an open connection; `connection.connection_made` gets the transport under it.

    `host` is the name that the server is asked for, and that its certificate must have. `buffer`
    takes one read from the socket; all connections of a loop can share it, but not with what
    `connection` reads into. Raises OSError, of which ssl.SSLError is one, if the handshake fails;
    the caller closes the transport.
    """
    if transport.is_closing():
        raise ConnectionResetError("the connection was closed before the TLS handshake")
    tls = TLSTransport(transport, connection, context, host, buffer)
    transport.set_protocol(tls)
    await tls.shake_hands()


class TLSTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The transport of `connection`, and itself the protocol of a socket's `transport`.

    It keeps no data but what OpenSSL does, so backpressure is that of the socket. The end of the
    stream without TLS's own (`close_notify`) is the loss of the connection, and never the end of
    the data: anybody on the way can cause it (RFC 8446, 6.1).
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        connection: Connection,
        context: ssl.SSLContext,
        host: str,
        buffer: memoryview,
    ) -> None:
        super().__init__()
        self._transport = transport
        self._connection = connection
        self._buffer = buffer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        # with a buffer to read into it returns how many bytes that was
        self._read = cast(Callable[[int, memoryview], int], self._tls.read)
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_up = False
        self._error: Exception | None = None

    async def shake_hands(self) -> None:
        """The handshake. Raises OSError."""
        self.buffer_updated(0)
        await self._handshake

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport.is_closing():
            return  # `connection_lost` is on its way
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PASS_BYTES):
                self._tls.write(view[start : start + _PASS_BYTES])
                self._flush()
        except ssl.SSLError as error:  # such as a handshake that the server began anew
            self._lose(error)

    @override
    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    @override
    def abort(self) -> None:
        self._transport.abort()

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    @override
    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer[:nbytes]
        try:
            if not self._is_up:
                self._incoming.write(data)
                self._advance_handshake()
                data = data[:0]  # what came behind the handshake is there already
            if self._is_up and self._decrypt(data):
                self._connection.eof_received()
                self.abort()
        except ssl.SSLError as error:
            self._lose(error)
        self._flush()  # reading makes OpenSSL write where a handshake goes on

    @override
    def eof_received(self) -> None:
        if self._is_up:
            self._lose(ConnectionResetError("TLS was cut off, not ended"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        error = self._error or exc
        if not self._handshake.done():
            self._handshake.set_exception(
                error or ConnectionResetError("the connection was closed during the TLS handshake")
            )
        if self._is_up:
            self._connection.connection_lost(error)

    @override
    def pause_writing(self) -> None:
        self._connection.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def _advance_handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        if not self._handshake.done():  # else whoever waits for it was cancelled
            self._is_up = True
            self._connection.connection_made(self)
            self._handshake.set_result(None)

    def _decrypt(self, data: memoryview) -> bool:
        """Hands the plain text to the connection, in as few pieces as its buffers allow; whether
        the server has ended TLS.
        """
        buffer, filled = self._connection.get_buffer(-1), 0
        try:
            for start in range(0, len(data) or 1, _PASS_BYTES):
                self._incoming.write(data[start : start + _PASS_BYTES])
                try:
                    while self._incoming.pending or self._tls.pending():
                        if filled == len(buffer):
                            self._connection.buffer_updated(filled)
                            buffer, filled = self._connection.get_buffer(-1), 0
                        count = self._read(len(buffer) - filled, buffer[filled:])
                        if not count:
                            return True
                        filled += count
                except ssl.SSLWantReadError:
                    pass  # the rest of a record is still to come
            return False
        finally:
            if filled:
                self._connection.buffer_updated(filled)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _lose(self, error: Exception) -> None:
        """Ends the connection, for the reason `error`; what OpenSSL says of it goes out first."""
        self._error = error
        if not self._handshake.done():
            self._handshake.set_exception(error)
        self._flush()
        self.abort()
