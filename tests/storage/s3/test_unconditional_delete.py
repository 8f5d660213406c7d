"""A delete without a condition is sent once: whoever asks for it has just looked at the object, and
has to look again before another try (`--accept-weaker delete-race`).
"""

import pytest

from coalesce import errors
from coalesce.storage.base import Deleted
from coalesce.storage.s3 import S3Options, open_s3
from support.scripted import EMPTY_LISTING, Peer, serving
from support.servers import KEYS

NO_CONTENT = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
FOUND = b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: "e"\r\n\r\n'
LISTING = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(EMPTY_LISTING), EMPTY_LISTING)


async def deletes(etag: str, first: bytes) -> tuple[int, object]:
    """How often a DELETE comes whose first try gets `first` for an answer, and what came of it."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        while True:
            request = await peer.request()
            sent += request.method == "DELETE"
            if request.method == "HEAD":
                await peer.send(FOUND)
            elif request.method != "DELETE":
                await peer.send(LISTING)
            elif sent > 1:
                await peer.send(NO_CONTENT)
            elif first:
                await peer.send(first)
            else:
                return

    async with serving(script) as server:
        options = S3Options(
            "b", endpoint_url=server.url, region="us-east-1", addressing="path", **KEYS
        )
        async with open_s3(options) as store:
            await store.head("k")  # whose connection is kept
            try:
                became: object = (await store.delete("k", etag=etag)).deleted
            except errors.Unavailable as error:
                became = type(error)
    return sent, became


ANSWERS = {"no answer": b"", "503": SLOW_DOWN}
FAILURES = {"no answer": errors.Unanswered, "503": errors.Throttled}


@pytest.mark.parametrize("first", ANSWERS)
async def test_a_conditional_delete_is_sent_again(first: str) -> None:
    assert await deletes('"e"', ANSWERS[first]) == (2, Deleted.DONE)


@pytest.mark.parametrize("first", ANSWERS)
async def test_an_unconditional_delete_is_not(first: str) -> None:
    assert await deletes("", ANSWERS[first]) == (1, FAILURES[first])
