"""Whatever a store, or something in front of it, answers: a failure of our own kind, never a crash.

And never "absent" or "done" unless the store says so.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Store, open_s3
from coalesce.storage.s3 import failure as failures
from coalesce.storage.s3.failure import failure_of
from coalesce.storage.s3.xml import parse_delete_result, parse_page
from support.scripted import Request, answer, serving, store_of

LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><Prefix>a/</Prefix><IsTruncated>true</IsTruncated>"
    b"<NextContinuationToken>t</NextContinuationToken><EncodingType>url</EncodingType>"
    b"<Contents><Key>a/t_0_1-2.jsonl.gz</Key><LastModified>2026-11-22T12:00:00.000Z</LastModified>"
    b"<ETag>&quot;e&quot;</ETag><Size>5</Size></Contents>"
    b"<CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes></ListBucketResult>"
)
DELETED = (
    b"<DeleteResult><Deleted><Key>k</Key></Deleted>"
    b"<Error><Key>l</Key><Code>PreconditionFailed</Code><Message>m</Message></Error>"
    b"<Error><Key>n</Key><Code>AccessDenied</Code></Error></DeleteResult>"
)
UPLOADS = (
    b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
    b"<NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>k</Key><UploadId>u</UploadId>"
    b"<Initiated>2026-11-22T12:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>"
)
BEGUN = (
    b"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>u</UploadId>"
    b"</InitiateMultipartUploadResult>"
)
ENDED = (
    b"<CompleteMultipartUploadResult><Key>k</Key><ETag>&quot;e-1&quot;</ETag>"
    b"</CompleteMultipartUploadResult>"
)
COPIED = (
    b"<CopyPartResult><ETag>&quot;e&quot;</ETag>"
    b"<LastModified>2026-11-22T12:00:00.000Z</LastModified></CopyPartResult>"
)
LAUGHS = (
    b'<!DOCTYPE l [<!ENTITY a0 "'
    + b"a" * 100
    + b'">'
    + b"".join(b'<!ENTITY a%d "%b">' % (n, b"&a%d;" % (n - 1) * 20) for n in range(1, 9))
    + b"]><l>&a8;</l>"
)
WHOLE = [LISTING, DELETED, UPLOADS, BEGUN, ENDED, COPIED]
CODES = [*failures._BY_CODE, *failures._CREDENTIAL_CODES, "NoSuchBucket", "InternalError", "", "x"]
STATUSES = [
    200,
    200,
    200,
    204,
    206,
    301,
    304,
    307,
    400,
    403,
    404,
    408,
    409,
    412,
    416,
    429,
    500,
    501,
    502,
    503,
    599,
]

PIECES = [
    b"<",
    b">",
    b"</",
    b"&",
    b"\0",
    b"\xff",
    b"&#0;",
    b"true",
    b"false",
    b"-1",
    b"1e9",
    b"",
    b"99999999999999999999",
    b"&quot;",
    b"<Key/>",
    b"<ETag></ETag>",
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(
            st.sampled_from(
                [
                    b"",
                    LAUGHS,
                    b"<html><body>502 Bad Gateway</body></html>",
                    b"{}",
                    b"<a>" * 5000,
                    b"\xef\xbb\xbf<a/>",
                    b"<a xmlns='\n'/>",
                ]
            )
        )
    if kind == 1:
        return draw(st.binary(max_size=40))
    if kind < 4:
        code, message = draw(st.sampled_from(CODES)), draw(st.text(max_size=5))
        return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    body = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 30))] = draw(
            st.sampled_from(PIECES) | st.binary(max_size=4)
        )
    return bytes(body)


NAMES = [
    "etag",
    "date",
    "last-modified",
    "x-amz-checksum-crc64nvme",
    "x-amz-meta-coalesce-plan",
    "content-type",
    "content-range",
    "x-amz-request-id",
    "location",
]
VALUES = st.sampled_from(
    [
        "",
        '"e"',
        "e",
        "Sun, 22 Nov 2026 12:00:00 GMT",
        "never",
        "-1",
        "bytes 0-1/2",
        "application/xml",
        "http://127.0.0.1:1/",
        "\xff\xfe",
        "=?x?=",
    ]
)
ANSWERS = st.builds(
    lambda status, headers, body: answer(
        b"" if status in (204, 304) else body, f"{status} Made Up", **headers
    ),
    st.sampled_from(STATUSES),
    st.dictionaries(
        st.sampled_from([name.replace("-", "_") for name in NAMES]), VALUES, max_size=4
    ),
    bodies(),
)

PART = UploadedPart(1, 5, '"e"', "")
OPERATIONS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "list": lambda store: store.list_page("a/"),
    "get": lambda store: store.get("k"),
    "get a version": lambda store: store.get("k", etag='"e"'),
    "get a range": lambda store: store.get("k", etag='"e"', start=1, length=2),
    "head": lambda store: store.head("k"),
    "put": lambda store: store.put("k", b"body", if_none_match=True),
    "create": lambda store: store.create_upload("k", checksum=Checksum.CRC64NVME, metadata={}),
    "part": lambda store: store.upload_part(
        "k", "u", 1, [b"body"], checksum=Checksum.NONE, value=""
    ),
    "copy": lambda store: store.copy_part(
        "k", "u", 1, source="s", etag='"e"', start=0, length=5, checksum=Checksum.CRC64NVME
    ),
    "complete": lambda store: store.complete_upload("k", "u", [PART], checksum=Checksum.NONE),
    "abort": lambda store: store.abort_upload("k", "u"),
    "uploads": lambda store: store.list_uploads("k"),
    "delete": lambda store: store.delete("k", etag='"e"'),
    "delete many": lambda store: store.delete_many([("k", '"e"'), ("l", '"e"'), ("m", '"e"')]),
}


class Replying:
    """A store whose server gives the same made-up answer to everything.

    It has an event loop of its own, as hypothesis has none.
    """

    def __init__(self) -> None:
        self.reply = b""
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.store = self._loop.run_until_complete(self._open())

    async def _open(self) -> S3Store:
        server = await self._stack.enter_async_context(serving(store_of(lambda _: self.reply)))
        options = server.options(read_timeout=5)
        store = await self._stack.enter_async_context(open_s3(options))
        await store.check_access("")
        return store

    def ask(self, operation: str, reply: bytes) -> object:
        self.reply = reply
        return self._loop.run_until_complete(
            asyncio.wait_for(OPERATIONS[operation](self.store), 60)
        )

    def close(self) -> None:
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()


@pytest.fixture
def replying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replying]:
    """Retries come without pauses."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.0
    )
    replying = Replying()
    yield replying
    replying.close()


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=max(settings.default.max_examples // 2, 10),
)
@given(reply=ANSWERS)
@example(reply=answer(b"<Error><Code><Key/>NoSuchKey</Code></Error>", "301 Made Up"))
def test_whatever_is_answered_nothing_but_our_own_failures_comes_of_it(
    replying: Replying, operation: str, reply: bytes
) -> None:
    status = int(reply[9:12])
    try:
        found = replying.ask(operation, reply)
    except errors.CoalesceError as error:
        found = error
    event(type(found).__name__)
    if isinstance(found, errors.NotFound | errors.NoSuchUpload):
        assert status == 404
        assert b"NoSuch" in reply
    elif operation == "head" and found is None:
        assert status == 404
        assert b"x-amz-request-id: " in reply or b"NoSuchKey" in reply
    elif operation == "abort":
        assert found is not None or 200 <= status < 300 or (status == 404 and b"NoSuch" in reply)
    elif operation == "delete" and isinstance(found, DeleteResult):
        assert (found.deleted is Deleted.DONE) == (200 <= status < 300)
        assert found.deleted is not Deleted.ABSENT or (status == 404 and b"NoSuchKey" in reply)
    elif operation == "delete many" and isinstance(found, list):
        assert all(
            result.deleted is Deleted.REFUSED or f"<Key>{result.key}</Key>".encode() in reply
            for result in found
        )
    elif not isinstance(found, errors.CoalesceError):
        assert 200 <= status < 300
        assert is_complete(operation, found)


def is_complete(operation: str, found: object) -> bool:
    """An empty ETag would be no condition at all in the next request, and an empty upload id no
    upload.
    """
    match operation:
        case "list":
            return all(entry.etag and entry.key and entry.size >= 0 for entry in found.objects)  # type: ignore[attr-defined]
        case "put" | "create":
            return bool(found)
        case "get" | "part" | "copy" | "head":
            return bool(found.etag)  # type: ignore[attr-defined]
        case "uploads":
            return all(upload.upload_id for upload in found)  # type: ignore[attr-defined]
    return True


@given(
    st.sampled_from([*CODES, "AuthorizationHeaderMalformed"]) | st.text(max_size=10),
    st.integers(100, 599),
    st.text(max_size=10),
)
def test_only_a_404_means_absence(code: str, status: int, message: str) -> None:
    """403, 5xx and errors under a 200 say nothing about what exists."""
    error = failure_of("GetObject", "k", status=status, code=code, message=message, request_id="")
    if isinstance(error, errors.NotFound | errors.NoSuchUpload):
        assert (status, code) in ((404, "NoSuchKey"), (404, "NoSuchUpload"))
    assert error.key == "k"
    if status >= 500 and status != 501 and code not in failures._BY_CODE:
        assert isinstance(error, errors.Unavailable | errors.ConfigurationError)


@given(bodies())
def test_a_page_and_a_bulk_delete_are_read_or_refused(body: bytes) -> None:
    for parse in (
        lambda: parse_page(body, "a/", 0.0).objects,
        lambda: parse_delete_result(body, [("k", "e"), ("l", "e")]),
    ):
        try:
            found = parse()
        except errors.CoalesceError:
            continue
        assert all(getattr(entry, "etag", "e") for entry in found)


@given(
    st.lists(
        st.text(min_size=1, max_size=6).filter(
            lambda key: key.encode("utf-8", "ignore").decode() == key
        ),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_keys_of_every_kind_come_through_a_listing_as_they_are(keys: list[str]) -> None:
    entries = "".join(
        f"<Contents><Key>{quote(key)}</Key><LastModified>2026-11-22T12:00:00Z</LastModified>"
        "<ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    listing = (
        "<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
        f"{entries}</ListBucketResult>"
    )
    page = parse_page(listing.encode(), "", 0.0)
    assert [entry.key for entry in page.objects] == keys


async def test_a_listing_of_uploads_that_repeats_itself_ends() -> None:
    def reply(request: Request) -> bytes:
        return answer(UPLOADS)

    async with serving(store_of(reply)) as server:
        options = server.options()
        async with open_s3(options) as store:
            with pytest.raises(errors.ListingError):
                await asyncio.wait_for(store.list_uploads("k"), 20)


def test_the_made_up_answers_are_accepted_undamaged(replying: Replying) -> None:
    """A test that only ever sees refusals proves nothing."""
    replies = {
        "list": answer(LISTING),
        "get": answer(b"body", etag='"e"'),
        "put": answer(etag='"e"'),
        "create": answer(BEGUN),
        "part": answer(etag='"e"'),
        "copy": answer(COPIED),
        "complete": answer(ENDED),
        "delete many": answer(DELETED),
        "head": answer(etag='"e"', x_amz_checksum_crc64nvme=base64.b64encode(bytes(8)).decode()),
    }
    for operation, reply in replies.items():
        replying.ask(operation, reply)
