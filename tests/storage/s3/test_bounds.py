"""A store that sends too much, or next to nothing for ever, is not listened to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coalesce import errors
from coalesce.storage.limits import MAX_IDLE_PAGES
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.storage.s3 import connection as connections
from coalesce.storage.s3.connection import Connection
from support.scripted import (
    EMPTY_LISTING,
    Peer,
    Request,
    Server,
    answer,
    refusal,
    serving,
    store_of,
)

ETAG = '"e"'
HEAD = b'HTTP/1.1 200 OK\r\netag: "e"\r\n'


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)


@asynccontextmanager
async def flood(head: bytes, piece: bytes) -> AsyncIterator[tuple[S3Store, Server, list[int]]]:
    """A store whose every GET is answered with this head and then the same piece again and again;
    and how many bytes of pieces it got rid of. It breaks off after `FLOOD` bytes, which is more
    than anybody may read.
    """
    sent = [0]

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.locates:
                await peer.send(answer(EMPTY_LISTING))
                continue
            await peer.send(head)
            for _ in range(FLOOD // len(piece)):
                await peer.send(piece)
                sent[0] += len(piece)
            return

    async with serving(script) as server, open_s3(options(server)) as store:
        yield store, server, sent


def options(server: Server) -> S3Options:
    return server.options(attempts=2)


ENDLESS = {
    "a length that is too much": (HEAD + b"content-length: 1500000000\r\n\r\n", b"x" * 65536),
    "chunks without end": (
        HEAD + b"transfer-encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"x" * 65536 + b"\r\n",
    ),
    "neither length nor end": (HEAD + b"\r\n", b"x" * 65536),
}
# What the kernel and asyncio keep of what nobody reads.
BUFFERED = 16 * 1024**2
FLOOD = 128 * 1024**2


@pytest.mark.parametrize("name", ENDLESS)
async def test_no_more_of_an_object_is_read_than_it_was_listed_with(name: str) -> None:
    async with flood(*ENDLESS[name]) as (store, server, sent):
        with pytest.raises(errors.TooLong):
            await store.get("k", etag=ETAG, size=1000)
        assert sum(not request.locates for request in server.requests) == 1
        assert sent[0] < BUFFERED
        assert store.usage.bytes_in == 0


@pytest.mark.parametrize("name", ENDLESS)
async def test_no_more_of_a_range_is_read_than_was_asked_for(name: str) -> None:
    async with flood(*ENDLESS[name]) as (store, server, sent):
        with pytest.raises(errors.Unavailable):
            await store.get("k", etag=ETAG, start=0, length=1000)
        assert sum(not request.locates for request in server.requests) == 2
        assert sent[0] < 2 * BUFFERED


async def test_a_length_that_is_too_much_is_enough_to_end_the_connection() -> None:
    """No byte of the body is waited for."""

    async def script(peer: Peer) -> None:
        if (await peer.request()).locates:
            await peer.send(answer(EMPTY_LISTING))
        else:
            await peer.send(HEAD + b"content-length: 1500000000\r\n\r\n")
        await peer.ended()

    async with serving(script) as server, open_s3(options(server)) as store:
        with pytest.raises(errors.TooLong):
            await asyncio.wait_for(store.get("k", etag=ETAG, size=1000), 20)


CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"


async def test_a_page_of_a_listing_without_end_is_not_read_to_its_end() -> None:
    date = b"date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + date + b"transfer-encoding: chunked\r\n\r\n"
    async with flood(head, CHUNK) as (store, _, sent):
        with pytest.raises(errors.Unavailable):
            await store.list_page("p/")
        assert sent[0] < 2 * (32 * 1024**2 + BUFFERED)


async def test_a_refusal_without_end_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n"
    async with flood(head, CHUNK) as (store, _, sent):
        with pytest.raises(errors.AccessDenied):
            await store.get("k")
        assert sent[0] < BUFFERED


@pytest.mark.parametrize("size", [9, 10, 11])
async def test_an_object_may_have_as_many_bytes_as_it_was_listed_with(size: int) -> None:
    body = b"0123456789"
    async with (
        serving(store_of(lambda _: answer(body, etag=ETAG))) as server,
        open_s3(options(server)) as store,
    ):
        if size < len(body):
            with pytest.raises(errors.TooLong):
                await store.get("k", etag=ETAG, size=size)
        else:
            assert (await store.get("k", etag=ETAG, size=size)).data == body


async def test_another_version_is_another_version_however_long_it_is() -> None:
    async with (
        serving(store_of(lambda _: answer(b"longer", etag='"f"'))) as server,
        open_s3(options(server)) as store,
    ):
        with pytest.raises(errors.ConditionIgnored):
            await store.get("k", etag=ETAG, size=1)


async def test_a_refusal_may_be_longer_than_the_object() -> None:
    async with (
        serving(store_of(lambda _: refusal("404 Not Found", "NoSuchKey"))) as server,
        open_s3(options(server)) as store,
    ):
        with pytest.raises(errors.NotFound):
            await store.get("k", etag=ETAG, size=1)


async def test_a_listing_of_uploads_that_shows_none_and_leads_on_for_ever_is_given_up() -> None:
    pages = 0

    def reply(_: Request) -> bytes:
        nonlocal pages
        pages += 1
        assert pages <= MAX_IDLE_PAGES, "it is followed without end"
        marker = b"<NextKeyMarker>%d</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
        return answer(
            b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>%b"
            b"</ListMultipartUploadsResult>" % (marker % pages)
        )

    async with serving(store_of(reply)) as server, open_s3(options(server)) as store:
        with pytest.raises(errors.ListingError, match="no end"):
            await store.list_uploads("data/")


# A trickle, in the time of a clock that the test moves


class Clock:
    """As much of an event loop as a connection needs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        return self.now


class Pipe(asyncio.Transport):
    def write(self, data: object) -> None: ...

    def abort(self) -> None: ...


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def connection(clock: Clock) -> Connection:
    made = Connection(memoryview(bytearray(65536)), clock)  # type: ignore[arg-type]
    made.connection_made(Pipe())
    return made


def feed(connection: Connection, data: bytes) -> None:
    connection.get_buffer(0)[: len(data)] = data
    connection.buffer_updated(len(data))


async def test_a_body_that_is_announced_as_too_long_is_not_waited_for(
    connection: Connection,
) -> None:
    request = asyncio.create_task(connection.exchange(b"GET", (), bodiless=False, limit=1000))
    await asyncio.sleep(0)
    feed(connection, HEAD + b"content-length: 1001\r\n\r\n")
    await asyncio.sleep(0)
    assert request.done()
    assert request.result().overlong
    assert not connection.usable


async def test_an_answer_that_trickles_is_given_up_though_it_never_falls_silent(
    clock: Clock, connection: Connection
) -> None:
    request = asyncio.create_task(connection.exchange(b"GET", (), bodiless=False))
    await asyncio.sleep(0)
    feed(connection, HEAD + b"content-length: 1000000\r\n\r\n")
    for at in range(122):  # quick at first
        feed(connection, b"x" * (10_000 if at < 30 else 100))
        connection.check_progress(clock.now, 60)
        clock.now += 1
    with pytest.raises(connections.BrokenConnection, match="bytes of the answer in 60 s"):
        await asyncio.wait_for(request, 10)


async def test_an_answer_that_may_trickle_is_waited_for_as_long_as_it_is_not_silent(
    clock: Clock, connection: Connection
) -> None:
    """While S3 puts a large object together it sends a space now and then, for minutes."""
    request = asyncio.create_task(
        connection.exchange(b"POST", (), bodiless=False, may_trickle=True)
    )
    await asyncio.sleep(0)
    feed(connection, HEAD + b"content-length: 31\r\n\r\n")
    for _ in range(30):
        feed(connection, b" ")
        for _ in range(20):
            connection.check_progress(clock.now, 60)
            clock.now += 1
    feed(connection, b"x")
    assert len((await asyncio.wait_for(request, 10)).data) == 31
    silent = asyncio.create_task(connection.exchange(b"POST", (), bodiless=False, may_trickle=True))
    await asyncio.sleep(0)
    connection.check_progress(clock.now + 61, 60)
    with pytest.raises(connections.BrokenConnection, match="no bytes for 60 s"):
        await asyncio.wait_for(silent, 10)


async def test_an_answer_as_slow_as_is_allowed_is_read_to_its_end(
    clock: Clock, connection: Connection
) -> None:
    """From its first byte on: what the server takes to think does not count."""
    request = asyncio.create_task(connection.exchange(b"GET", (), bodiless=False))
    await asyncio.sleep(0)
    for _ in range(59):
        connection.check_progress(clock.now, 60)
        clock.now += 1
    size = 300 * connections.SLOWEST_ANSWER
    feed(connection, HEAD + b"content-length: %d\r\n\r\n" % size)
    for _ in range(300):
        connection.check_progress(clock.now, 60)
        feed(connection, b"x" * connections.SLOWEST_ANSWER)
        clock.now += 1
    assert len((await asyncio.wait_for(request, 10)).data) == size


async def test_a_server_may_think_for_as_long_as_it_may_be_silent(
    clock: Clock, connection: Connection
) -> None:
    """Before the first byte of an answer there is no speed; after the last there is none either."""
    for _ in range(2):
        request = asyncio.create_task(connection.exchange(b"GET", (), bodiless=False))
        await asyncio.sleep(0)
        for _ in range(60):
            connection.check_progress(clock.now, 60)
            clock.now += 1
        feed(connection, HEAD + b"content-length: 1\r\n\r\n")
        connection.check_progress(clock.now, 60)
        feed(connection, b"x")
        assert (await asyncio.wait_for(request, 10)).data == b"x"
        for _ in range(120):
            connection.check_progress(clock.now, 60)
            clock.now += 1
        assert connection.usable
