"""A 404 says that an object is absent only if S3 says it: whatever stands in front of the store
answers 404 too.
"""

from collections.abc import Awaitable, Callable

import pytest

from coalesce import errors
from coalesce.storage.base import Deleted
from coalesce.storage.s3 import S3Store, open_s3
from support.scripted import Request, answer, refusal, serving, store_of

BARE = answer(b"<html>nothing here</html>", "404 Not Found")
ABSENT = refusal("404 Not Found", "NoSuchKey")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)


async def ask(
    question: Callable[[S3Store], Awaitable[object]], reply: Callable[[Request], bytes]
) -> tuple[object, list[str]]:
    """What the store makes of the answers, and the requests that it took."""
    async with serving(store_of(reply)) as server:
        options = server.options()
        async with open_s3(options) as store:
            found = await question(store)
        return found, [request.method for request in server.requests if not request.locates]


def to_head(head: bytes, get: bytes) -> Callable[[Request], bytes]:
    return lambda request: head if request.method == "HEAD" else get


async def test_a_404_with_a_request_id_of_s3_is_absent() -> None:
    head = answer(b"", "404 Not Found", x_amz_request_id="R1")
    found, requests = await ask(lambda store: store.head("k"), to_head(head, BARE))
    assert (found, requests) == (None, ["HEAD"])


async def test_a_404_without_one_is_absent_if_a_get_is_answered_with_the_code_of_s3() -> None:
    """Some stores give no request ids."""
    reply = to_head(answer(b"", "404 Not Found"), ABSENT)
    found, requests = await ask(lambda store: store.head("k"), reply)
    assert (found, requests) == (None, ["HEAD", "GET"])


@pytest.mark.parametrize(
    "get",
    [
        BARE,
        answer(b"x", "206 Partial Content", etag='"e"'),
        answer(b"all of it", etag='"e"'),
        refusal("416 Range Not Satisfiable", "InvalidRange"),
        refusal("503 Slow Down", "SlowDown"),
    ],
    ids=["another 404", "its first byte", "all of it", "that it is empty", "a 503"],
)
async def test_a_404_of_something_in_between_says_nothing(get: bytes) -> None:
    with pytest.raises(errors.Unavailable):
        await ask(lambda store: store.head("k"), to_head(answer(b"", "404 Not Found"), get))


async def test_a_get_that_is_denied_does_not_say_that_the_object_is_absent() -> None:
    denied = refusal("403 Forbidden", "AccessDenied")
    with pytest.raises(errors.AccessDenied):
        await ask(lambda store: store.head("k"), to_head(answer(b"", "404 Not Found"), denied))


QUESTIONS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "a GET": lambda store: store.get("k", etag='"e"'),
    "a DELETE": lambda store: store.delete("k", etag='"e"'),
    "a PUT": lambda store: store.put("k", b"x", if_match='"e"'),
    "an Abort": lambda store: store.abort_upload("k", "u"),
    "a listing": lambda store: store.list_page("p/"),
}


@pytest.mark.parametrize("bare", [BARE, answer(b"", "404 Not Found"), refusal("404 No", "Gone")])
@pytest.mark.parametrize("name", QUESTIONS)
async def test_a_404_without_the_code_of_s3_is_trouble_that_may_pass(
    name: str, bare: bytes
) -> None:
    """A source is not "changed" by it, an upload not aborted, a delete not done."""
    with pytest.raises(errors.Unavailable):
        await ask(QUESTIONS[name], lambda _: bare)


async def test_what_s3_says_is_absent_is_absent() -> None:
    with pytest.raises(errors.NotFound):
        await ask(QUESTIONS["a GET"], lambda _: ABSENT)
    found, _ = await ask(lambda store: store.delete("k", etag='"e"'), lambda _: ABSENT)
    assert getattr(found, "deleted", None) is Deleted.ABSENT
    gone = refusal("404 Not Found", "NoSuchUpload")
    assert (await ask(QUESTIONS["an Abort"], lambda _: gone))[0] is None
