"""What one side of an HTTP/1.1 connection must bear.

Every cut, every way to end an answer, and a peer that breaks the rules.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pickle import PickleBuffer

import pytest

from coalesce.storage.s3 import pool as pools
from coalesce.storage.s3.connection import Answer, BrokenConnection, Connection
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.pool import Pool
from support.scripted import Peer, Server, answer, in_turn, serving

GET = b"GET /k HTTP/1.1\r\nhost: h\r\n\r\n"
ONE = answer(b"one")


class Pipe(asyncio.Transport):
    """A transport in the test's hand."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drops the data: no test here looks at it."""

    def abort(self) -> None:
        self.aborted = True


def opened() -> tuple[Connection, memoryview]:
    buffer = memoryview(bytearray(65536))
    connection = Connection(buffer, asyncio.get_running_loop())
    connection.connection_made(Pipe())
    return connection, buffer


def feed(connection: Connection, buffer: memoryview, data: bytes) -> None:
    while data:
        room = connection.get_buffer(-1)
        piece, data = data[: len(room)], data[len(room) :]
        room[: len(piece)] = piece
        connection.buffer_updated(len(piece))


async def ask(
    connection: Connection, *, bodiless: bool = False, limit: int | None = None
) -> asyncio.Task[Answer]:
    task = asyncio.create_task(connection.exchange(GET, (), bodiless=bodiless, limit=limit))
    await asyncio.sleep(0)
    return task


# The bytes; whether they answer a HEAD; what they mean; whether the connection can be used again.
WHOLE = {
    "of known length": (answer(b"hello", etag='"e"'), False, (200, b"hello"), True),
    "empty": (answer(b""), False, (200, b""), True),
    "in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
        False,
        (200, b"hello!"),
        True,
    ),
    "in chunks with trailers": (
        b"HTTP/1.1 200 OK\r\netag: a\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\netag: b\r\n\r\n",
        False,
        (200, b"hi"),
        True,
    ),
    "after 100 Continue": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"ok"),
        False,
        (200, b"ok"),
        True,
    ),
    "after several 1xx": (
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        + answer(b"ok"),
        False,
        (200, b"ok"),
        True,
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", False, (204, b""), True),
    "304 with a length": (
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        False,
        (304, b""),
        True,
    ),
    "to a HEAD": (b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", True, (200, b""), True),
    "to a HEAD, in chunks": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        True,
        (200, b""),
        True,
    ),
    "to a HEAD, absent": (
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        True,
        (404, b""),
        True,
    ),
    "to a HEAD, after 100": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
        True,
        (200, b""),
        True,
    ),
    "and a close": (answer(b"bye", connection="close"), False, (200, b"bye"), False),
    "HTTP/1.0": (answer(b"old").replace(b"HTTP/1.1", b"HTTP/1.0"), False, (200, b"old"), False),
    "HTTP/1.0 that stays": (
        answer(b"old", connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        False,
        (200, b"old"),
        True,
    ),
    "an empty header and odd case": (
        b"HTTP/1.1 200 OK\r\nX-Empty:\r\nCONTENT-LENGTH:   2  \r\n\r\nab",
        False,
        (200, b"ab"),
        True,
    ),
}


@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_is_the_same_wherever_its_bytes_are_cut(
    name: str, limit: int | None
) -> None:
    data, bodiless, expected, kept = WHOLE[name]
    cuts: list[list[bytes]] = [[data[:n], data[n:]] for n in range(1, len(data))] + [
        [data[n : n + 1] for n in range(len(data))],
        [data],
    ]
    for pieces in cuts:
        connection, buffer = opened()
        task = await ask(connection, bodiless=bodiless, limit=None if bodiless else limit)
        for piece in pieces[:-1]:
            feed(connection, buffer, piece)
            assert not task.done() or bodiless
        feed(connection, buffer, pieces[-1])
        found = await task
        assert (found.status, found.data) == expected, pieces
        assert connection.usable is kept, pieces
        assert found.headers.get("etag") != "b", "a trailer is no header"
        if kept:
            second = await ask(connection)
            feed(connection, buffer, ONE)
            assert (await second).data == b"one", pieces


@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize(
    "name", [name for name, (_, bodiless, _, _) in WHOLE.items() if not bodiless]
)
async def test_an_answer_that_ends_early_is_none_wherever_it_ends(
    name: str, limit: int | None
) -> None:
    data = WHOLE[name][0]
    for n in range(len(data)):
        connection, buffer = opened()
        task = await ask(connection, limit=limit)
        feed(connection, buffer, data[:n])
        connection.eof_received()
        connection.connection_lost(None)
        with pytest.raises(BrokenConnection) as caught:
            await task
        assert caught.value.answer_began is (n > 0), n
        assert not connection.usable


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    for lost in (False, True):
        connection, buffer = opened()
        task = await ask(connection)
        feed(connection, buffer, b"HTTP/1.1 200 OK\r\n\r\nall of")
        feed(connection, buffer, b" it")
        assert not task.done()
        connection.connection_lost(
            ConnectionResetError("reset")
        ) if lost else connection.eof_received()
        if lost:  # a reset is not the end of an answer
            with pytest.raises(BrokenConnection, match="reset"):
                await task
        else:
            assert (await task).data == b"all of it"
        assert not connection.usable


WRONG = {
    "no HTTP": b"SSH-2.0-x\r\n",
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "no length at all": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\na: b\r\n c: d\r\n\r\n",
    "one endless header name": b"HTTP/1.1 200 OK\r\n" + b"a" * 200_000,
    "one endless header": b"HTTP/1.1 200 OK\r\na: " + b"a" * 200_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000,
    "announcements without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_no_answer_ends_the_connection(name: str) -> None:
    connection, buffer = opened()
    task = await ask(connection)
    for start in range(0, len(WRONG[name]), 1000):
        feed(connection, buffer, WRONG[name][start : start + 1000])
        if task.done() or not connection.usable:
            break
    with pytest.raises(BrokenConnection):
        await task
    assert isinstance(connection.transport, Pipe)
    assert connection.transport.aborted


async def test_a_head_of_many_kilobytes_is_read() -> None:
    connection, buffer = opened()
    task = await ask(connection)
    feed(connection, buffer, answer(b"x", **{f"x{n}": "v" * 100 for n in range(400)}))
    assert (await task).data == b"x"


@pytest.mark.parametrize("garbage", [b"x", b"HTTP/1.1 200 OK\r\n", ONE, b"\x00" * 100_000])
@pytest.mark.parametrize("bodiless", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_what_follows_an_answer_spoils_the_connection_and_not_the_answer(
    garbage: bytes, bodiless: bool, at_once: bool
) -> None:
    connection, buffer = opened()
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n" if bodiless else ONE
    task = await ask(connection, bodiless=bodiless)
    if at_once:
        feed(connection, buffer, whole + garbage)
        assert (await task).status == 200
    else:
        feed(connection, buffer, whole)
        assert (await task).status == 200
        assert connection.usable
        feed(connection, buffer, garbage)
    assert not connection.usable


@asynccontextmanager
async def pooled(
    script: Callable[[Peer], Awaitable[None]], *, limit: int = 8, stall: float = 60
) -> AsyncIterator[tuple[Pool, Server]]:
    async with serving(script) as server:
        pool = Pool(Origin("127.0.0.1", server.port), limit=limit, stall=stall)
        try:
            yield pool, server
        finally:
            pool.close()
            await asyncio.sleep(0)


async def test_even_an_empty_line_while_nothing_is_asked_spoils_the_connection() -> None:
    connection, buffer = opened()
    feed(connection, buffer, b"\r\n")
    assert not connection.usable


async def test_connections_are_kept() -> None:
    async with pooled(in_turn(answer(b"x"))) as (pool, server):
        for _ in range(10):
            assert (await pool.request(GET)).data == b"x"
        assert server.connections == 1


async def test_a_connection_that_the_server_closes_after_its_answer_is_not_used_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"x", connection="close"))

    async with pooled(script) as (pool, server):
        for _ in range(3):
            assert (await pool.request(GET)).data == b"x"
        assert server.connections == 3


async def test_a_kept_connection_that_closes_while_idle_costs_nothing() -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ONE)
        if peer.number == 1:
            peer.writer.close()
            left.set()
        else:
            await peer.ended()

    async with pooled(script) as (pool, server):
        await pool.request(GET)
        await left.wait()
        assert (await pool.request(GET)).data == b"one"
        assert len(server.requests) == 2


async def test_where_a_kept_connection_has_closed_another_kept_one_is_taken() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await go.wait()
        await peer.send(ONE)
        if peer.number == 1:
            await peer.request()
            await peer.send(answer(b"two"))
            await peer.ended()

    async with pooled(script) as (pool, server):
        first, second = (asyncio.create_task(pool.request(GET)) for _ in range(2))
        await first
        go.set()
        await second
        for _ in range(10_000):
            await asyncio.sleep(0)
            if not all(connection.usable for connection in pool._idle):
                break
        assert (await pool.request(GET)).data == b"two"
        assert server.connections == 2


@pytest.mark.parametrize("body", [(), (b"part",)])
async def test_a_kept_connection_that_closes_as_the_request_goes_out_is_replaced_once(
    body: tuple[bytes, ...],
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(ONE)
            await peer.request()
            peer.reset()
        await peer.send(answer(b"two"))
        await peer.ended()

    head = b"PUT /k HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(b"".join(body))
    async with pooled(script) as (pool, server):
        await pool.request(GET)
        assert (await pool.request(head, body)).data == b"two"
        assert [request.body for request in server.requests] == [
            b"",
            b"".join(body),
            b"".join(body),
        ]
        assert server.connections == 2


async def test_what_must_not_be_repeated_is_not_sent_on_another_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ONE)
        await peer.request()
        peer.reset()

    async with pooled(script) as (pool, server):
        await pool.request(GET)
        with pytest.raises(BrokenConnection):
            await pool.request(GET, repeatable=False)
        assert len(server.requests) == 2


async def test_a_fresh_connection_that_closes_is_not_replaced() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with pooled(script) as (pool, server):
        with pytest.raises(BrokenConnection):
            await pool.request(GET)
        assert len(server.requests) == 1


async def test_a_request_is_not_sent_again_once_a_byte_of_an_answer_has_come() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ONE)
        await peer.request()
        await peer.send(b"H")
        peer.writer.close()

    async with pooled(script) as (pool, server):
        await pool.request(GET)
        with pytest.raises(BrokenConnection):
            await pool.request(GET)
        assert len(server.requests) == 2


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_CHECK_SECONDS", 0.01)

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await peer.ended()

    async with pooled(script, stall=0.05) as (pool, server):
        for _ in range(2):
            with pytest.raises(BrokenConnection, match="no bytes for"):
                await pool.request(GET)
        assert len(server.requests) == 2


async def test_a_server_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_CHECK_SECONDS", 0.01)
    over = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await over.wait()

    async with pooled(script, stall=0.05) as (pool, _):
        with pytest.raises(BrokenConnection, match="no bytes for"):
            await pool.request(
                b"PUT /k HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n", [b"x" * 1_000_000] * 100
            )
        over.set()


async def test_a_connection_is_closed_when_it_was_idle_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(pools, "_IDLE_SECONDS", 0.0)
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ONE)
        await peer.ended()
        closed.set()

    async with pooled(script) as (pool, _):
        await pool.request(GET)
        await asyncio.wait_for(closed.wait(), 10)


async def test_a_refused_connection_is_reported_at_once_and_frees_its_place() -> None:
    async with serving(in_turn(ONE)) as server:
        port = server.port
    pool = Pool(Origin("127.0.0.1", port), limit=1, stall=60)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await pool.request(GET)
    pool.close()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_a_cancelled_request_closes_its_connection_and_frees_its_place(begun: bytes) -> None:
    arrived = asyncio.Event()
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(begun)
            arrived.set()
            await peer.ended()
            ended.set()
        else:
            await peer.send(ONE)
            await peer.ended()

    async with pooled(script, limit=1) as (pool, _):
        task = asyncio.create_task(pool.request(GET))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 10)
        assert (await pool.request(GET)).data == b"one"


async def test_no_more_connections_than_the_limit_and_whoever_waits_is_served_in_order() -> None:
    go = asyncio.Event()
    full = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(peer.server.requests) == 2:
                full.set()
            await go.wait()
            await peer.send(ONE)

    async with pooled(script, limit=2) as (pool, server):
        tasks = [
            asyncio.create_task(pool.request(b"GET /%d HTTP/1.1\r\n\r\n" % n)) for n in range(9)
        ]
        await full.wait()
        cancelled = tasks[4]
        cancelled.cancel()
        go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [found.data for found in done if isinstance(found, Answer)] == [b"one"] * 8
        assert isinstance(done[4], asyncio.CancelledError)
        assert [request.target for request in server.requests] == [
            f"/{n}" for n in range(9) if n != 4
        ]
        assert server.connections == 2


async def test_a_place_given_to_one_who_is_cancelled_goes_to_the_next() -> None:
    async with pooled(in_turn(ONE), limit=1) as (pool, _):
        first = asyncio.create_task(pool.request(GET))
        second = asyncio.create_task(pool.request(GET))
        third = asyncio.create_task(pool.request(GET))
        first.add_done_callback(lambda _: second.cancel())
        assert (await asyncio.wait_for(third, 10)).data == b"one"
        await asyncio.gather(first, second, return_exceptions=True)


def pieces(count: int, size: int) -> Iterator[bytes]:
    return (bytes([n % 251]) * size for n in range(count))


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (3, 0), (5000, 1000), (40, 1_000_003), (1, 9_000_000), (3, 262_144)]
)
async def test_a_body_arrives_as_it_was_given(count: int, size: int) -> None:
    body = list(pieces(count, size))
    head = b"PUT /k HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (count * size)
    async with pooled(in_turn(ONE)) as (pool, server):
        assert (await pool.request(head, body)).data == b"one"
        assert (await pool.request(GET)).data == b"one"
        assert server.requests[0].body == b"".join(body)
        assert server.connections == 1


async def test_a_body_waits_for_a_slow_reader_and_not_in_memory() -> None:
    """At most what one write holds, and what the transport keeps before it says stop."""
    go = asyncio.Event()
    head_came = asyncio.Event()

    async def script(peer: Peer) -> None:
        request = await peer.head()
        head_came.set()
        await go.wait()
        request.body = await peer.reader.readexactly(int(request.headers["content-length"]))
        await peer.send(ONE)

    body = [b"x" * 1_000_000] * 30
    async with pooled(script) as (pool, server):
        task = asyncio.create_task(
            pool.request(b"PUT /k HTTP/1.1\r\ncontent-length: 30000000\r\n\r\n", body)
        )
        await head_came.wait()
        for _ in range(100):
            await asyncio.sleep(0)
            assert (
                sum(connection.transport.get_write_buffer_size() for connection in pool._all)
                <= 512 * 1024
            )
        go.set()
        assert (await task).data == b"one"
        assert server.requests[0].body == b"".join(body)


class Taken(list[bytes]):
    """A body that counts how much of it was asked for."""

    pieces = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in super().__iter__():
            self.pieces += 1
            yield piece


@pytest.mark.parametrize("close", [True, False])
async def test_a_refusal_before_the_body_is_sent_counts_and_ends_the_connection(
    close: bool,
) -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 1:
            await peer.send(
                answer(b"no", "403 Forbidden", **({"connection": "close"} if close else {}))
            )
            await ended.wait()
        else:
            await peer.send(ONE)
            await peer.ended()

    async with pooled(script, limit=1) as (pool, server):
        body = Taken([b"x" * 1_000_000] * 50)
        refused = await pool.request(b"PUT /k HTTP/1.1\r\ncontent-length: 50000000\r\n\r\n", body)
        assert (refused.status, refused.data) == (403, b"no")
        assert body.pieces < 50
        assert (await pool.request(GET)).data == b"one"
        assert server.connections == 2
        ended.set()


def test_a_body_of_many_reads_is_in_memory_once_and_no_longer_than_it_is_wanted() -> None:
    """In no pieces, and not with the connection that it came over."""
    size = 20_000_000

    async def read() -> None:
        connection, buffer = opened()
        task = await ask(connection, limit=size)
        piece = bytes(50_000)
        feed(connection, buffer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            feed(connection, buffer, piece)
        assert len((await task).data) == size
        assert tracemalloc.get_traced_memory()[1] < size * 1.05
        del task
        await asyncio.sleep(0)  # the loop, too, forgets the task
        assert connection.usable
        assert tracemalloc.get_traced_memory()[0] < size / 20

    tracemalloc.start()
    try:
        asyncio.run(read())
    finally:
        tracemalloc.stop()


async def test_a_loop_may_hold_what_it_has_filled() -> None:
    """As uvloop does, until the connection has seen it."""
    connection, buffer = opened()
    task = await ask(connection, limit=9)
    feed(connection, buffer, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    for piece in (b"def", b"ghi"):
        room = connection.get_buffer(-1)
        with PickleBuffer(room).raw() as held:
            held[:3] = piece
            connection.buffer_updated(3)
    assert (await task).data == b"abcdefghi"
    assert connection.usable


async def test_no_memory_is_set_aside_for_a_length_that_nobody_has_bounded() -> None:
    connection, buffer = opened()
    task = await ask(connection)
    feed(connection, buffer, b"HTTP/1.1 200 OK\r\ncontent-length: 900000000000000\r\n\r\n")
    feed(connection, buffer, b"x" * 100_000)
    connection.connection_lost(None)
    with pytest.raises(BrokenConnection, match="was closed"):
        await task


async def test_the_length_of_an_answer_is_not_that_of_the_next_one() -> None:
    """Of which nobody has bounded the length; and the first may have been much longer."""
    for cut in range(1, len(ONE)):
        connection, buffer = opened()
        first = await ask(connection, limit=10)
        feed(connection, buffer, answer(b"ten bytes."))
        assert (await first).data == b"ten bytes."
        second = await ask(connection)
        feed(connection, buffer, ONE[:cut])
        feed(connection, buffer, ONE[cut:])
        assert (await asyncio.wait_for(second, 5)).data == b"one", cut


async def test_a_length_in_an_announcement_is_not_that_of_the_answer() -> None:
    connection, buffer = opened()
    task = await ask(connection, limit=100)
    feed(connection, buffer, b"HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\n\r\n")
    feed(connection, buffer, answer(b"hello"))
    assert (await task).data == b"hello"
    assert connection.usable


@pytest.mark.parametrize("limit", [None, 100 * 100_003])
async def test_large_answers_are_read_whole(limit: int | None) -> None:
    body = b"".join(pieces(100, 100_003))
    async with pooled(in_turn(answer(body))) as (pool, server):
        found = await asyncio.gather(*[pool.request(GET, limit=limit) for _ in range(6)])
        assert all(one.data == body for one in found)
        assert server.connections == 6


async def test_nothing_is_left_open_at_the_end() -> None:
    """Also with requests on their way: an unclosed transport warns, and a warning fails the
    test.
    """
    came, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(ONE)
        await peer.request()
        came.set()
        await peer.ended()
        gone.set()

    async with pooled(script) as (pool, _):
        await pool.request(GET)
        task = asyncio.create_task(pool.request(GET))
        await came.wait()
        pool.close()
        with pytest.raises(BrokenConnection, match="the pool was closed"):
            await task
        await asyncio.wait_for(gone.wait(), 10)
