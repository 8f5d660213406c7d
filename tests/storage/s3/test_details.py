"""What the store notices, repeats and counts, of a server that answers as a test wants."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from coalesce import errors
from coalesce.exits import exit_code_of
from coalesce.storage.base import Deleted, OpenUpload
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.storage.s3.connection import Connection
from coalesce.storage.s3.failure import failure_of
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.pool import Pool
from coalesce.storage.s3.signing import Keys, Signer
from coalesce.storage.s3.xml import parse_delete_result, parse_page
from support.scripted import Peer, Request, Server, answer, refusal, serving, store_of


@asynccontextmanager
async def store_at(
    script: Callable[[Peer], Awaitable[None]], **options: object
) -> AsyncIterator[tuple[S3Store, Server]]:
    chosen: dict[str, object] = {
        "region": "us-east-1",
        "addressing": "path",
        "access_key": "AK",
        "secret_key": "SK",
    } | options
    async with (
        serving(script) as server,
        open_s3(S3Options("bucket", endpoint_url=server.url, **chosen)) as store,  # type: ignore[arg-type]
    ):
        yield store, server


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The bounds between which pauses are drawn; nobody waits for them."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0

    sleep = asyncio.sleep
    monkeypatch.setattr("random.uniform", uniform)
    monkeypatch.setattr(asyncio, "sleep", lambda _, *result: sleep(0, *result))
    return drawn


def created(upload_id: str) -> bytes:
    return answer(
        f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId>"
        "</InitiateMultipartUploadResult>".encode()
    )


def sent(server: Server) -> list[Request]:
    return [request for request in server.requests if not request.locates]


async def test_an_upload_of_a_second_try_says_that_there_may_be_another(
    pauses: list[tuple[float, float]],
) -> None:
    """A 500 may have begun an upload all the same: nobody knows its id."""
    answers = [refusal("500 Internal Server Error", "InternalError"), created("u2"), created("u3")]
    async with store_at(store_of(lambda _: answers.pop(0))) as (store, _):
        first = await store.create_upload("k", checksum=Checksum.CRC64NVME, metadata={})
        second = await store.create_upload("k", checksum=Checksum.CRC64NVME, metadata={})
    assert (first.upload_id, first.repeated) == ("u2", True)
    assert (second.upload_id, second.repeated) == ("u3", False)


@pytest.mark.parametrize(
    ("checksum", "kind"), [("CRC64NVME", "FULL_OBJECT"), ("CRC32", "COMPOSITE"), ("NONE", None)]
)
async def test_an_upload_names_the_type_of_its_checksum(checksum: str, kind: str | None) -> None:
    async with store_at(store_of(lambda _: created("u"))) as (store, server):
        await store.create_upload("k", checksum=Checksum[checksum], metadata={})
    (request,) = sent(server)
    assert request.headers.get("x-amz-checksum-type") == kind
    assert request.headers.get("x-amz-checksum-algorithm") == (checksum if kind else None)


def uploads(*ids: str, more: bool) -> bytes:
    entries = "".join(f"<Upload><Key>k</Key><UploadId>{i}</UploadId></Upload>" for i in ids)
    last = f"<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>{ids[-1]}</NextUploadIdMarker>"
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>{last if more else ''}"
    return answer(
        f"<ListMultipartUploadsResult>{truncated}{entries}</ListMultipartUploadsResult>".encode()
    )


async def test_the_next_page_of_uploads_begins_behind_the_last_upload() -> None:
    """Not behind its key: a thousand uploads may have the same."""

    def reply(request: Request) -> bytes:
        query = request.query
        if not query.get("key-marker"):
            return uploads("1", "2", more=True)
        return (
            uploads("3", more=False)
            if query.get("upload-id-marker") == "2"
            else uploads(more=False)
        )

    async with store_at(store_of(reply)) as (store, _):
        found = await store.list_uploads("k")
    assert [upload.upload_id for upload in found] == ["1", "2", "3"]
    assert all(isinstance(upload, OpenUpload) for upload in found)


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("403 Forbidden", "AccessDenied", Deleted.REFUSED),
        ("400 Bad Request", "InvalidRequest", Deleted.REFUSED),
        ("409 Conflict", "ConditionalRequestConflict", Deleted.REFUSED),
        ("501 Not Implemented", "NotImplemented", Deleted.REFUSED),
        ("412 Precondition Failed", "PreconditionFailed", Deleted.CHANGED),
        ("412 Precondition Failed", "", Deleted.CHANGED),
        ("404 Not Found", "NoSuchKey", Deleted.ABSENT),
    ],
)
async def test_a_delete_that_is_refused_is_a_result(status: str, code: str, state: Deleted) -> None:
    said = refusal(status, code) if code else answer(b"", status)
    async with store_at(store_of(lambda _: said)) as (store, _):
        assert (await store.delete("k", etag='"e"')).deleted is state


def test_a_key_that_is_told_of_twice_is_not_deleted() -> None:
    error = b"<Error><Key>k</Key><Code>AccessDenied</Code></Error>"
    done = b"<Deleted><Key>k</Key></Deleted>"
    for entries in (error + done, done + error):
        body = b"<DeleteResult>" + entries + b"</DeleteResult>"
        (result,) = parse_delete_result(body, [("k", '"e"')])
        assert (result.deleted, result.code) == (Deleted.REFUSED, "AccessDenied")


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit_code"),
    [
        (403, "RequestTimeTooSkewed", errors.ConfigurationError, 10),
        (403, "InvalidAccessKeyId", errors.ConfigurationError, 10),
        (403, "SignatureDoesNotMatch", errors.ConfigurationError, 10),
        (400, "ExpiredToken", errors.ConfigurationError, 10),
        (400, "InvalidToken", errors.ConfigurationError, 10),
        (403, "AccessDenied", errors.AccessDenied, 1),
        (500, "NoSuchKey", errors.Unavailable, 75),
        (503, "NoSuchUpload", errors.Unavailable, 75),
        (404, "NoSuchKey", errors.NotFound, 1),
        (404, "NoSuchUpload", errors.NoSuchUpload, 1),
        (403, "InvalidObjectState", errors.Archived, 1),
        (412, "", errors.PreconditionFailed, 1),
        (412, "PreconditionFailed", errors.PreconditionFailed, 1),
        (429, "", errors.Throttled, 75),
    ],
)
def test_what_a_refusal_means(
    status: int, code: str, kind: type[errors.CoalesceError], exit_code: int
) -> None:
    error = failure_of("GetObject", "k", status=status, code=code, message="", request_id="")
    assert isinstance(error, kind)
    assert exit_code_of(error) == exit_code


@pytest.mark.parametrize(
    ("status", "code"), [("429 Too Many Requests", ""), ("503 Slow Down", "SlowDown")]
)
async def test_what_the_general_client_repeats_is_counted(
    status: str, code: str, pauses: list[tuple[float, float]]
) -> None:
    busy = refusal(status, code)
    answers = [busy, busy, answer(b"<ListMultipartUploadsResult/>")]
    async with store_at(store_of(lambda _: answers.pop(0))) as (store, server):
        assert await store.list_uploads("p") == []
        assert (len(sent(server)), store.usage.retries) == (3, 2)
        assert store.usage.requests["ListMultipartUploads"] == 3


async def test_what_is_throttled_to_the_end_is_counted(pauses: list[tuple[float, float]]) -> None:
    """So that fewer requests are in flight from then on."""
    async with store_at(store_of(lambda _: refusal("503 Slow Down", "SlowDown"))) as (store, _):
        with pytest.raises(errors.Throttled):
            await store.put("k", b"x")
        assert store.usage.throttled == 5
        with pytest.raises(errors.Throttled):
            await store.list_uploads("p")
        assert store.usage.throttled == 6


async def test_an_empty_part_says_its_length() -> None:
    """A PUT without a length is refused with 411."""

    def reply(request: Request) -> bytes:
        given = request.headers.get("content-length")
        return (
            answer(b"", etag='"e"') if given == "0" else refusal("411 Length Required", "Missing")
        )

    async with store_at(store_of(reply)) as (store, _):
        part = await store.upload_part("k", "u", 1, [], checksum=Checksum.NONE, value="")
    assert (part.size, part.etag) == (0, '"e"')


async def test_requests_carry_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store refuses those that are more than a quarter of an hour off."""
    async with store_at(store_of(lambda _: answer(b"x", etag='"e"'))) as (store, server):
        await store.get("k")
    (request,) = sent(server)
    stamp = dt.datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%S%z")
    assert abs(stamp.timestamp() - time.time()) < 600


async def test_a_host_that_does_not_answer_is_given_up_after_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that is neither accepted nor refused, as behind a wrong firewall."""
    limits: list[float | None] = []
    timeout = asyncio.timeout

    def at_once(seconds: float | None) -> asyncio.Timeout:
        limits.append(seconds)
        return timeout(0)

    async def unanswered(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    pool = Pool(Origin.of("http://127.0.0.1:1", tls=None, proxy=""), limit=1, stall=60)
    monkeypatch.setattr(asyncio, "timeout", at_once)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", unanswered)
    with pytest.raises(TimeoutError):
        await pool.request(b"GET / HTTP/1.1\r\n\r\n")
    pool.close()
    assert len(limits) == 1
    assert limits[0] is not None
    assert 5 <= limits[0] <= 30


async def test_pauses_between_tries_grow(pauses: list[tuple[float, float]]) -> None:
    """With full jitter, as all clients of a throttling store come back at once without it."""
    async with store_at(store_of(lambda _: refusal("503 Slow Down", "SlowDown")), attempts=9) as (
        store,
        server,
    ):
        with pytest.raises(errors.Throttled):
            await store.get("k")
        assert len(sent(server)) == 9
    assert [low for low, _ in pauses] == [0] * 8
    assert [high for _, high in pauses] == [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20]


async def test_a_role_that_may_not_list_the_whole_bucket_can_go_on() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            denied = request.locates
            await peer.send(
                refusal("403 Forbidden", "AccessDenied") if denied else answer(b"x", etag='"e"')
            )

    async with store_at(script) as (store, _):
        await store.check_access("data/")
        assert (await store.get("data/k")).data == b"x"


async def test_the_bucket_is_located_once_by_many_first_requests() -> None:
    async with store_at(store_of(lambda _: answer(b"x", etag='"e"'))) as (store, server):
        await asyncio.gather(*(store.get(f"k{n}") for n in range(8)))
    assert sum(request.locates for request in server.requests) == 1


def signature(signer: Signer, secret: str, token: str = "") -> str:
    headers = {"host": "h"}
    signer.sign(
        "GET", "/k", "", headers, Keys("AK", secret, token), 1_700_000_000, "UNSIGNED-PAYLOAD"
    )
    return headers["authorization"].rpartition("=")[2]


def test_a_rotated_secret_signs_the_next_request() -> None:
    signer = Signer("us-east-1")
    first = signature(signer, "old")
    assert signature(signer, "new") == signature(Signer("us-east-1"), "new") != first


async def test_a_session_token_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it temporary credentials, as roles have, are unknown to the store."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "SK",
        "AWS_SESSION_TOKEN": "TOKEN",
    }.items():
        monkeypatch.setenv(name, value)
    script = store_of(lambda r: answer(b"x" if r.method == "GET" else b"", etag='"e"'))
    async with store_at(script, access_key="", secret_key="") as (store, server):
        await store.get("k")
        await store.put("k", b"x")
    assert len(server.requests) == 3
    assert {r.headers.get("x-amz-security-token") for r in server.requests} == {"TOKEN"}


@pytest.mark.parametrize("etag", ["", None])
def test_an_entry_without_an_etag_spoils_the_listing(etag: str | None) -> None:
    """Nothing could be read or deleted under the condition that it is unchanged."""
    tag = "" if etag is None else f"<ETag>{etag}</ETag>"
    body = (
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key><Size>1</Size>"
        f"<LastModified>2026-11-22T00:00:00Z</LastModified>{tag}</Contents></ListBucketResult>"
    )
    with pytest.raises(errors.ListingError):
        parse_page(body.encode(), "", 0.0)


class Transport:
    """Takes what is written; pauses its writer after so many writes."""

    def __init__(self, connection: Connection, pause_after: int) -> None:
        self.connection = connection
        self.written: list[bytes] = []
        self.pause_after = pause_after

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if len(self.written) == self.pause_after:
            self.connection.pause_writing()

    def abort(self) -> None: ...


def connect(pause_after: int) -> tuple[Connection, Transport, memoryview]:
    """A connection over such a transport, and the buffer that it reads from."""
    buffer = memoryview(bytearray(1024))
    connection = Connection(buffer, asyncio.get_running_loop())
    transport = Transport(connection, pause_after)
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, transport, buffer


def reply(connection: Connection, buffer: memoryview) -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    buffer[: len(data)] = data
    connection.buffer_updated(len(data))


PIECES = [bytes(256 * 1024)] * 3


async def test_a_connection_with_half_a_body_is_not_used_again() -> None:
    """The answer comes right when there is room again: the next request would be taken for the
    rest of the body.
    """
    connection, transport, buffer = connect(pause_after=2)
    exchange = asyncio.create_task(connection.exchange(b"head", PIECES, bodiless=False))
    for _ in range(3):
        await asyncio.sleep(0)
    connection.resume_writing()
    reply(connection, buffer)
    assert (await exchange).status == 200
    assert len(transport.written) == 2, "the head and one piece of three"
    assert not connection.usable


async def test_a_connection_whose_body_has_not_drained_is_not_used_again() -> None:
    """The store may never take the rest of it."""
    connection, transport, buffer = connect(pause_after=4)
    exchange = asyncio.create_task(connection.exchange(b"head", PIECES, bodiless=False))
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(transport.written) == 4
    reply(connection, buffer)
    assert (await exchange).status == 200
    assert not connection.usable


async def test_a_connection_whose_body_was_taken_is_used_again() -> None:
    connection, _, buffer = connect(pause_after=0)
    exchange = asyncio.create_task(connection.exchange(b"head", PIECES, bodiless=False))
    await asyncio.sleep(0)
    reply(connection, buffer)
    assert (await exchange).status == 200
    assert connection.usable
