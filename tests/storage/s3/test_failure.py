"""What a store's refusals mean to the program, and how they are worded."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from coalesce import errors
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.storage.s3.failure import describe, failure_of, name_right
from coalesce.storage.s3.origin import Origin
from support.scripted import EMPTY_LISTING, Peer, answer, serving


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        # the store waited for a body in vain: nothing is wrong with the request
        (400, "RequestTimeout", errors.Unavailable),
        (408, "", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (502, "", errors.Unavailable),
        (429, "", errors.Throttled),
        (503, "SlowDown", errors.Throttled),
        # a refusal of an unknown kind is still a refusal
        (405, "MethodNotAllowed", errors.NotImplementedByStore),
        (400, "BadDigest", errors.BadRequest),
        (403, "AccessDenied", errors.AccessDenied),
        (400, "ExpiredToken", errors.ConfigurationError),
        (404, "NoSuchUpload", errors.NoSuchUpload),
        (409, "OperationAborted", errors.Conflict),
    ],
)
def test_an_answer_is_a_refusal_or_transient_trouble(
    status: int, code: str, kind: type[errors.CoalesceError]
) -> None:
    assert (
        type(failure_of("PutObject", "k", status=status, code=code, message="", request_id=""))
        is kind
    )


@pytest.mark.parametrize(
    ("status", "code", "message", "text"),
    [
        (403, "AccessDenied", "No.", "GetObject 'k': 403 AccessDenied No."),
        (502, "", "", "GetObject 'k': 502"),
        (405, "", "No.", "GetObject 'k': 405 No."),
    ],
)
def test_a_refusal_names_the_request_and_what_the_store_says(
    status: int, code: str, message: str, text: str
) -> None:
    error = failure_of("GetObject", "k", status=status, code=code, message=message, request_id="")
    assert error.message == text


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('h', 1)"), "Connection refused"),
        (
            OSError(111, "Multiple exceptions: [Errno 111] Connect call failed, [Errno 101] x"),
            "Connection refused, Network is unreachable",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_a_connection_that_fails_is_worded_by_its_error(cause: OSError, reason: str) -> None:
    assert describe(cause, "h:1") == f"the connection to h:1 failed: {reason}"


def test_a_message_of_another_library_comes_in_one_line_and_without_a_password() -> None:
    error = ValueError("a bad\n  URL: http://user:secret@h/")
    assert describe(error, "h:1") == "h:1: a bad URL: http://h/"


def options(url: str) -> S3Options:
    return S3Options(
        "bucket",
        endpoint_url=url,
        region="us-east-1",
        addressing="path",
        attempts=1,
        access_key="AK",
        secret_key="SK",
    )


async def failures(store: S3Store) -> list[errors.CoalesceError]:
    """The errors of a request through the general client and of one over our own connections."""
    found = []
    for ask in (lambda: store.put("k", b"x"), lambda: store.get("k")):
        with pytest.raises(errors.CoalesceError) as caught:
            await ask()
        found.append(caught.value)
    return found


async def no_tls(peer: Peer) -> None:
    await peer.reader.readexactly(1)
    await peer.send(answer(b"", "400 Bad Request"))


async def closing(peer: Peer) -> None:
    await peer.reader.readexactly(1)
    peer.reset()


@asynccontextmanager
async def opened(
    script: Callable[[Peer], Awaitable[None]], scheme: str, userinfo: str = ""
) -> AsyncIterator[tuple[S3Store, str]]:
    async with serving(script) as server:
        address = f"127.0.0.1:{server.port}"
        async with open_s3(options(f"{scheme}://{userinfo}{address}")) as store:
            yield store, address


async def test_a_server_without_tls_is_named_as_such() -> None:
    async with opened(no_tls, "https") as (store, address):
        reason = f"{address} does not speak TLS, so its URL begins with http://"
        with pytest.raises(errors.ConfigurationError) as caught:
            await store.check_access("")
        assert caught.value.message == f"cannot reach the store: {reason}"
        assert [error.message for error in await failures(store)] == [
            f"PutObject 'k': {reason}",
            f"GetObject 'k': {reason}",
        ]


@pytest.mark.parametrize("script", [no_tls, closing])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_password_in_the_endpoint_is_in_no_message(
    script: Callable[[Peer], Awaitable[None]], scheme: str
) -> None:
    async with opened(script, scheme, "user:secret@") as (store, address):
        with pytest.raises(errors.ConfigurationError) as caught:
            await store.check_access("")
        for error in [caught.value, *await failures(store)]:
            assert "secret" not in f"{error.message} {error.hint}"
        assert store.endpoint == f"{scheme}://{address}"


NO_ENDPOINTS = ["ftp://user:secret@h", "http://user:secret@h:99999", "https://user:secret@"]


@pytest.mark.parametrize("url", NO_ENDPOINTS)
async def test_an_endpoint_that_is_no_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        async with open_s3(options(url)):
            pass
    assert "--endpoint-url" in caught.value.hint
    assert "secret" not in caught.value.message


async def test_what_cannot_be_a_bucket_is_said_to_be_none_whether_the_store_is_there_or_not() -> (
    None
):
    async with open_s3(replace(options("http://127.0.0.1:1"), bucket="b:x")) as store:
        with pytest.raises(
            errors.ConfigurationError, match="'b:x' is not a valid bucket"
        ) as caught:
            await store.check_access("")
    assert "--bucket" in caught.value.hint


def test_an_origin_is_an_http_url_and_never_shows_a_password() -> None:
    proxy = "http://user:secret@p:3128"
    origin = Origin.of("https://h/bucket", tls=None, proxy=proxy)
    assert (origin.host, origin.port, origin.next_hop) == ("h", 443, ("p", 3128))
    assert str(origin) == "h:443 through the proxy p:3128"
    assert "secret" not in repr(origin)
    with pytest.raises(errors.ConfigurationError, match="ftp://h") as caught:
        Origin.of("ftp://user:secret@h", tls=None, proxy="")
    assert "secret" not in caught.value.message


async def test_a_password_in_the_endpoint_takes_no_part_in_requests() -> None:
    """They are signed, and the server is asked by its name alone."""
    requests = []

    async def script(peer: Peer) -> None:
        while True:
            requests.append(await peer.request())
            await peer.send(answer(EMPTY_LISTING, etag='"e"'))

    async with opened(script, "http", "user:secret@") as (store, address):
        await store.check_access("")
        await store.put("k", b"x")
        await store.get("k")
    assert [request.headers["host"] for request in requests] == [address] * 3
    assert all(request.headers["authorization"].startswith("AWS4-") for request in requests)
    assert not any("secret" in value for request in requests for value in request.headers.values())


@pytest.mark.parametrize(
    ("operation", "where", "region", "right"),
    [
        ("PutObject", "a/k", "eu-west-2", "s3:PutObject on arn:aws:s3:::b/a/k"),
        ("UploadPart", "k", "cn-north-1", "s3:PutObject on arn:aws-cn:s3:::b/k"),
        ("DeleteObject", "k", "us-gov-east-1", "s3:DeleteObject on arn:aws-us-gov:s3:::b/k"),
        (
            "HeadObject",
            "k",
            "",
            "s3:GetObject on arn:aws:s3:::b/k and s3:ListBucket on arn:aws:s3:::b",
        ),
        ("ListObjectsV2", "a/", "", "s3:ListBucket on arn:aws:s3:::b for the prefix 'a/'"),
        ("ListMultipartUploads", "", "", "s3:ListBucketMultipartUploads on arn:aws:s3:::b"),
    ],
)
def test_a_denial_names_the_right_that_the_request_needs(
    operation: str, where: str, region: str, right: str
) -> None:
    error = errors.AccessDenied("403", key=where, operation=operation)
    name_right(error, "b", region)
    assert (error.message, str(error)) == (f"403 (needs {right})",) * 2


def test_a_right_on_an_access_point_is_named_by_its_own_arn() -> None:
    point = "arn:aws:s3:eu-west-2:1:accesspoint/p"
    error = errors.AccessDenied("403", key="a/k", operation="PutObject")
    name_right(error, point, "eu-west-2")
    assert error.message == f"403 (needs s3:PutObject on {point}/object/a/k)"


@pytest.mark.parametrize(
    ("operation", "code"), [("CreateBucket", ""), ("GetObject", "AllAccessDisabled")]
)
def test_a_denial_for_another_reason_names_no_right(operation: str, code: str) -> None:
    error = errors.AccessDenied("403", key="k", operation=operation, code=code)
    name_right(error, "b", "")
    assert error.message == "403"
