"""The stream under TLS: every cut, every way to end, and a peer that breaks the rules.

The other side is OpenSSL too, but what it seals is cut, spoilt and held back here.
"""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from coalesce.storage.s3.connection import Answer, BrokenConnection, Connection
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.pool import Pool
from coalesce.storage.s3.tls import start_tls
from support.scripted import Peer, answer, in_turn, serving
from support.tls import certified

GET = b"GET /k HTTP/1.1\r\nhost: h\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nall of it"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Socket(asyncio.Transport):
    """A socket in the test's hand, and what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.protocol: asyncio.BufferedProtocol | None = None

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += data

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self.protocol = protocol

    @override
    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def feed(self, data: bytes) -> None:
        """As if these bytes had come, until the connection is given up."""
        while data and not self.closed:
            assert self.protocol is not None
            room = self.protocol.get_buffer(-1)
            assert isinstance(room, memoryview)
            piece, data = data[: len(room)], data[len(room) :]
            room[: len(piece)] = piece
            self.protocol.buffer_updated(len(piece))

    def end(self) -> None:
        """As if the server had ended its side of the stream."""
        assert self.protocol is not None
        self.protocol.eof_received()
        self.abort()


class Pair:
    """A connection, and the server at the other end of its socket."""

    def __init__(self, context: ssl.SSLContext, buffer_bytes: int = 65536) -> None:
        self.socket = Socket()
        self.connection = Connection(
            memoryview(bytearray(buffer_bytes)), asyncio.get_running_loop()
        )
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(self._to_server, self._to_client, server_side=True)

    async def shake_hands(self, client: ssl.SSLContext, greeting: bytes = b"") -> None:
        """`greeting` is what the server says at once behind its last word of the handshake."""
        buffer = memoryview(bytearray(256 * 1024))
        task = asyncio.create_task(
            start_tls(self.socket, self.connection, client, "localhost", buffer)
        )
        while not task.done():
            await asyncio.sleep(0)
            self.take()
            with suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
                if greeting:
                    self.server.write(greeting)
                    greeting = b""
            self.socket.feed(self._to_client.read())
        await task

    def take(self) -> None:
        """Gives the server what the client wrote."""
        self._to_server.write(self.socket.written)
        self.socket.written = b""

    def seal(self, data: bytes) -> bytes:
        self.server.write(data)
        return self._to_client.read()

    def seal_end(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.server.unwrap()
        return self._to_client.read()

    async def ask(self, limit: int | None = None) -> asyncio.Task[Answer]:
        task = asyncio.create_task(self.connection.exchange(GET, (), bodiless=False, limit=limit))
        await asyncio.sleep(0)
        self.take()
        assert self.server.read(1000) == GET
        return task


@pytest.fixture
async def pair(authority: trustme.CA, client: ssl.SSLContext) -> Pair:
    made = Pair(certified(authority, "localhost"))
    await made.shake_hands(client)
    return made


@pytest.mark.parametrize("limit", [None, 100])
async def test_an_answer_is_the_same_wherever_its_records_are_cut(
    pair: Pair, limit: int | None
) -> None:
    """Its last record ends with the last byte, so every cut is within it or before it."""
    whole = answer(b"hello", etag='"e"')
    cut, size = 1, 2
    while cut < size:
        task = await pair.ask(limit)
        sealed = pair.seal(whole[:20]) + pair.seal(whole[20:-3]) + pair.seal(whole[-3:])
        size = len(sealed)
        pair.socket.feed(sealed[:cut])
        assert not task.done()
        pair.socket.feed(sealed[cut:])
        assert (await task).data == b"hello", cut
        assert pair.connection.usable
        cut += 1


async def test_an_answer_is_the_same_byte_by_byte(pair: Pair) -> None:
    task = await pair.ask(100)
    for byte in pair.seal(answer(b"hello")):
        pair.socket.feed(bytes([byte]))
    assert (await task).data == b"hello"


@pytest.mark.parametrize("limit", [None, 3_000_000])
@pytest.mark.parametrize("buffer_bytes", [1000, 65536, 256 * 1024])
@pytest.mark.parametrize("record", [100, 16_384])
@pytest.mark.parametrize("size", [1, 50_000, 3_000_000])
async def test_a_body_of_any_size_in_records_of_any_size_is_read_whole(
    authority: trustme.CA,
    client: ssl.SSLContext,
    limit: int | None,
    buffer_bytes: int,
    record: int,
    size: int,
) -> None:
    body = bytes(n % 251 for n in range(min(size, 1000))) * -(-size // 1000)
    pair = Pair(certified(authority, "localhost"), buffer_bytes)
    await pair.shake_hands(client)
    whole = answer(body)
    for _ in range(2):
        task = await pair.ask(limit)
        pair.socket.feed(
            b"".join(pair.seal(whole[at : at + record]) for at in range(0, len(whole), record))
        )
        assert (await task).data == body
        assert pair.connection.usable


async def test_an_answer_of_unknown_length_ends_with_tls(pair: Pair) -> None:
    task = await pair.ask()
    pair.socket.feed(pair.seal(ENDLESS) + pair.seal_end())
    assert (await task).data == b"all of it"
    assert pair.socket.closed


async def test_an_answer_of_unknown_length_is_none_where_tls_did_not_end(pair: Pair) -> None:
    """Whoever can close the connection could shorten it unseen."""
    task = await pair.ask()
    pair.socket.feed(pair.seal(ENDLESS))
    pair.socket.end()
    with pytest.raises(BrokenConnection, match="cut off"):
        await task


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("limit", [None, 100])
async def test_an_answer_that_ends_early_is_none_wherever_it_ends(
    authority: trustme.CA, client: ssl.SSLContext, ended: bool, limit: int | None
) -> None:
    whole = answer(b"hello")
    for size in range(len(whole)):
        pair = Pair(certified(authority, "localhost"))
        await pair.shake_hands(client)
        task = await pair.ask(limit)
        pair.socket.feed(pair.seal(whole[:size]) if size else b"")
        if ended:
            pair.socket.feed(pair.seal_end())
        else:
            pair.socket.end()
        with pytest.raises(BrokenConnection) as caught:
            await task
        assert caught.value.answer_began is (size > 0), size


async def test_an_answer_counts_though_tls_was_cut_off_behind_it(pair: Pair) -> None:
    task = await pair.ask()
    pair.socket.feed(pair.seal(answer(b"whole")))
    pair.socket.end()
    assert (await task).data == b"whole"


@pytest.mark.parametrize("place", [0, 3, 7, 20, -1])
async def test_a_spoilt_record_ends_the_connection_and_is_never_data(
    pair: Pair, place: int
) -> None:
    task = await pair.ask()
    first, second = pair.seal(answer(b"hello")[:-3]), bytearray(pair.seal(b"llo"))
    second[place] ^= 1
    pair.socket.feed(first + second)
    pair.socket.end()
    with pytest.raises(BrokenConnection):
        await task
    assert pair.socket.closed


async def test_an_answer_in_front_of_a_spoilt_record_counts(pair: Pair) -> None:
    task = await pair.ask()
    whole, spoilt = pair.seal(answer(b"hello")), bytearray(pair.seal(b"x") + pair.seal(b"y"))
    spoilt[7] ^= 1
    pair.socket.feed(whole + spoilt)
    assert (await task).data == b"hello"
    assert pair.socket.closed


async def test_what_comes_unasked_spoils_the_connection(pair: Pair) -> None:
    """Also behind an answer in one read with it, which counts all the same."""
    task = await pair.ask(100)
    pair.socket.feed(pair.seal(answer(b"one")) + pair.seal(answer(b"two")))
    assert (await task).data == b"one"
    assert not pair.connection.usable


async def test_what_a_server_says_before_it_is_asked_is_no_answer(
    authority: trustme.CA, client: ssl.SSLContext
) -> None:
    """Though it comes in one read with the end of the handshake."""
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = Pair(certified(authority, "localhost"))
    await pair.shake_hands(client, greeting=answer(b"of nobody's"))
    with pytest.raises(BrokenConnection):
        await pair.connection.exchange(GET, (), bodiless=False)
    assert pair.socket.closed


async def test_a_connection_that_has_just_ended_takes_no_request(pair: Pair) -> None:
    """The loop has not told of its end yet."""
    pair.socket.feed(pair.seal_end())
    with pytest.raises(BrokenConnection) as caught:
        await pair.connection.exchange(GET, (), bodiless=False)
    assert not caught.value.answer_began


class Secret:
    """The server's half of TLS 1.3 with TLS_AES_256_GCM_SHA384, by hand (RFC 8446, 5.2 and 7)."""

    def __init__(self, secret: bytes, sent: int) -> None:
        self._secret, self._sent = secret, sent

    def _expand(self, label: str, size: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return hmac.digest(self._secret, info + b"\x01", hashlib.sha384)[:size]

    def seal(self, data: bytes, kind: int) -> bytes:
        head = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        count = self._sent.to_bytes(12, "big")
        nonce = bytes(a ^ b for a, b in zip(self._expand("iv", 12), count, strict=True))
        self._sent += 1
        return head + AESGCM(self._expand("key", 32)).encrypt(nonce, data + bytes([kind]), head)

    def update(self) -> bytes:
        """A KeyUpdate that asks for the other side's, and from then on new keys."""
        sealed = self.seal(b"\x18\0\0\x01\x01", 22)
        self._secret, self._sent = self._expand("traffic upd", 48), 0
        return sealed


async def test_a_server_may_change_its_keys_and_have_ours_changed(
    authority: trustme.CA, client: ssl.SSLContext, tmp_path: Path
) -> None:
    context = certified(authority, "localhost")
    context.num_tickets = 0
    client.keylog_filename = str(tmp_path / "keys")
    pair = Pair(context)
    await pair.shake_hands(client)
    assert pair.server.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
    (line,) = [
        line
        for line in (tmp_path / "keys").read_text().splitlines()
        if line.startswith("SERVER_TRAFFIC_SECRET_0")
    ]
    server = Secret(bytes.fromhex(line.split()[2]), sent=0)
    for _ in range(2):
        task = await pair.ask()  # OpenSSL reads the request, under our new keys the second time
        pair.socket.feed(server.update() + server.seal(answer(b"new keys"), 23))
        assert (await task).data == b"new keys"


@asynccontextmanager
async def pooled(context: ssl.SSLContext, port: int, stall: float = 60) -> AsyncIterator[Pool]:
    pool = Pool(Origin("localhost", port, context), limit=8, stall=stall)
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_large_bodies_go_both_ways(
    authority: trustme.CA, client: ssl.SSLContext, highest: ssl.TLSVersion
) -> None:
    client.maximum_version = highest
    body = bytes(range(251)) * 20_000
    head = b"PUT /k HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (3 * len(body))
    async with (
        serving(in_turn(answer(body)), tls=certified(authority, "localhost")) as server,
        pooled(client, server.port) as pool,
    ):
        for limit in (None, len(body)):
            found = await asyncio.gather(
                *[pool.request(head, [body] * 3, limit=limit) for _ in range(4)]
            )
            assert all(one.data == body for one in found)
        assert all(request.body == body * 3 for request in server.requests)
        assert server.connections == 4


async def test_a_body_waits_for_a_slow_reader_and_not_in_memory(
    authority: trustme.CA, client: ssl.SSLContext
) -> None:
    go, came = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        request = await peer.head()
        came.set()
        await go.wait()
        request.body = await peer.reader.readexactly(int(request.headers["content-length"]))
        await peer.send(answer(b"one"))

    body = [b"x" * 1_000_000] * 30
    async with (
        serving(script, tls=certified(authority, "localhost")) as server,
        pooled(client, server.port) as pool,
    ):
        head = b"PUT /k HTTP/1.1\r\ncontent-length: 30000000\r\n\r\n"
        task = asyncio.create_task(pool.request(head, body))
        await came.wait()
        for _ in range(100):
            await asyncio.sleep(0)
            waiting = [connection.transport.get_write_buffer_size() for connection in pool._all]
            assert sum(waiting) <= 512 * 1024
        go.set()
        assert (await task).data == b"one"
        assert server.requests[0].body == b"".join(body)


async def test_a_server_that_stops_reading_is_given_up(
    authority: trustme.CA, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalesce.storage.s3.pool._CHECK_SECONDS", 0.01)
    over = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await over.wait()

    async with (
        serving(script, tls=certified(authority, "localhost")) as server,
        pooled(client, server.port, stall=0.2) as pool,
    ):
        with pytest.raises(BrokenConnection, match="no bytes for"):
            await pool.request(
                b"PUT /k HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n", [b"x" * 1_000_000] * 100
            )
        over.set()
