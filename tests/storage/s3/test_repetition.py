"""Whoever asks is told whether a refusal may be the answer to a repeated request: then an earlier
try may have done what was asked.
"""

from collections.abc import Awaitable, Callable

import pytest

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.base import Deleted
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Store, open_s3
from support.scripted import EMPTY_LISTING, Peer, Request, answer, refusal, serving, store_of

GONE = (
    b"<DeleteResult><Error><Key>k</Key><Code>NoSuchKey</Code></Error>"
    b"<Error><Key>other</Key><Code>PreconditionFailed</Code></Error></DeleteResult>"
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    monkeypatch.setattr("random.random", lambda: 0.0)


async def put(store: S3Store) -> None:
    await store.put("k", b"x", if_none_match=True)


async def complete(store: S3Store) -> None:
    await store.complete_upload("k", "u", [UploadedPart(1, 1, '"e"', "")], checksum=Checksum.NONE)


@pytest.mark.parametrize("ask", [put, complete])
@pytest.mark.parametrize("first", ["500 Internal Server Error", ""])
async def test_a_refusal_says_whether_the_request_was_sent_before(
    ask: Callable[[S3Store], Awaitable[None]], first: str
) -> None:
    met = 0

    def reply(_: Request) -> bytes:
        nonlocal met
        met += 1
        return answer(status=first if first and met == 1 else "412 Precondition Failed")

    async with serving(store_of(reply)) as server:
        options = server.options(attempts=3)
        async with open_s3(options) as store:
            with pytest.raises(errors.PreconditionFailed) as caught:
                await ask(store)
    assert (caught.value.repeated, met) == ((True, 2) if first else (False, 1))


async def delete(store: S3Store) -> list[Deleted]:
    return [(await store.delete("k", etag='"e"')).deleted]


async def delete_many(store: S3Store) -> list[Deleted]:
    results = await store.delete_many([("k", '"e"'), ("other", '"e"')])
    return [result.deleted for result in results]


@pytest.mark.parametrize("first", ["a 500", "no answer on a kept connection", ""])
@pytest.mark.parametrize(
    ("ask", "last", "others"),
    [
        (delete, refusal("404 Not Found", "NoSuchKey"), []),
        (delete_many, answer(GONE), [Deleted.CHANGED]),
    ],
)
async def test_what_is_absent_when_a_delete_is_repeated_was_deleted_by_it(
    ask: Callable[[S3Store], Awaitable[list[Deleted]]],
    last: bytes,
    others: list[Deleted],
    first: str,
) -> None:
    met = 0

    async def script(peer: Peer) -> None:
        nonlocal met
        while True:
            request = await peer.request()
            deletes = request.method in ("DELETE", "POST")
            met += deletes
            if not deletes:
                await peer.send(answer(EMPTY_LISTING))
            elif not first or met > 1:
                await peer.send(last)
            elif first == "a 500":
                await peer.send(answer(status="500 Internal Server Error"))
            else:
                return

    async with serving(script) as server:
        options = server.options()
        async with open_s3(options) as store:
            await store.list_page("p")  # whose connection is kept
            assert await ask(store) == [Deleted.DONE if first else Deleted.ABSENT, *others]
    assert met == (2 if first else 1)


REFUSED = answer(status="412 Precondition Failed")
CREATED = answer(
    b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
)


async def after_a_lost_connection(
    ask: Callable[[S3Store], Awaitable[object]], second: bytes
) -> object:
    """What a request sees that goes out on a kept connection, which then closes without an answer:
    the next try gets `second` for one.
    """
    lost = False

    async def script(peer: Peer) -> None:
        nonlocal lost
        while True:
            request = await peer.request()
            if request.method == "HEAD":
                await peer.send(answer(ETag='"e"'))
            elif request.method == "GET":
                await peer.send(answer(EMPTY_LISTING))
            elif lost:
                await peer.send(second)
            else:
                lost = True
                return

    async with serving(script) as server:
        options = server.options(attempts=3)
        async with open_s3(options) as store:
            await store.head("k")  # whose connection is kept
            return await ask(store)


@pytest.mark.parametrize("ask", [put, complete])
async def test_a_try_that_a_kept_connection_has_lost_is_one(
    ask: Callable[[S3Store], Awaitable[None]],
) -> None:
    """It may have taken effect: whoever is refused must not take its own object for a rival's."""
    with pytest.raises(errors.PreconditionFailed) as caught:
        await after_a_lost_connection(ask, REFUSED)
    assert caught.value.repeated


async def test_an_upload_that_a_kept_connection_has_lost_may_be_open() -> None:
    async def create(store: S3Store) -> bool:
        made = await store.create_upload("k", checksum=Checksum.NONE, metadata={})
        return made.repeated

    assert await after_a_lost_connection(create, CREATED) is True
