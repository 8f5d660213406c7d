"""Requests over our own connections, to a server that answers as a test wants.

Errors, retries, credentials, pages and bulk deletes.
"""

import asyncio
import datetime as dt
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import product
from urllib.parse import quote, quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from aiobotocore.credentials import AioRefreshableCredentials

from coalesce import errors
from coalesce.storage.base import Deleted
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.storage.s3 import failure as failures
from support.scripted import (
    EMPTY_LISTING,
    Peer,
    Request,
    Server,
    answer,
    in_turn,
    refusal,
    serving,
    store_of,
)

BODY = b"0123456789"
ETAG = '"e1"'


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The limits between which the pauses before retries were drawn; nobody waits for them."""
    seen: list[tuple[float, float]] = []

    def drawn(low: float, high: float) -> float:
        seen.append((low, high))
        return 0

    monkeypatch.setattr("random.uniform", drawn)
    return seen


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
        open_s3(S3Options("bucket", endpoint_url=server.url, **chosen)) as store,
    ):
        yield store, server


def replies(*answers: bytes) -> Callable[[Request], bytes]:
    """These answers in turn, the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def sent(server: Server) -> list[Request]:
    return [request for request in server.requests if not request.locates]


# Every code and status that the program distinguishes, and some that it does not.
CODES = [
    *failures._BY_CODE,
    *failures._CREDENTIAL_CODES,
    "NoSuchBucket",
    "AuthorizationHeaderMalformed",
    "Whatever",
    "InternalError",
]
STATUSES = [*failures._BY_STATUS, 500, 502, 504, 418]


@pytest.mark.parametrize("status", STATUSES)
async def test_a_refusal_means_the_same_as_to_the_general_client(
    status: int,
) -> None:
    """The same error, code and request id for every status and code.

    The general client sends PutObject, our own connections GetObject.
    """
    answers = [refusal(f"{status} No", code, "a &amp; b") for code in CODES for _ in range(2)]
    async with store_at(store_of(replies(*answers)), attempts=1) as (store, _):
        for code in CODES:
            with pytest.raises(errors.CoalesceError) as own:
                await store.get("k", etag=ETAG)
            with pytest.raises(errors.CoalesceError) as general:
                await store.put("k", b"x")
            both = [
                (type(e), e.code, e.request_id, e.hint, e.message.partition(": ")[2])
                for e in (own.value, general.value)
            ]
            assert both[0] == both[1], (status, code)
            assert own.value.message == f"GetObject 'k': {status} {code} a & b"


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    moved = refusal(f"{status} Moved", "PermanentRedirect")
    async with store_at(store_of(replies(moved))) as (store, server):
        with pytest.raises(errors.ConfigurationError, match="PermanentRedirect") as caught:
            await store.get("k")
        assert "--region" in caught.value.hint
        assert len(sent(server)) == 1


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect"])
async def test_a_server_that_redirects_everything_is_given_up_at_once(status: str) -> None:
    """By itself botocore would ask it without end."""
    moved = answer(b"", status)
    async with store_at(in_turn(moved)) as (store, server):
        for ask in (
            lambda: store.check_access(""),
            lambda: store.put("k", b"x"),
            lambda: store.get("k"),
        ):
            with pytest.raises(errors.ConfigurationError, match=status[:3]) as caught:
                await ask()
            assert "--endpoint-url" in caught.value.hint
        assert len(server.requests) == 4


async def test_a_refusal_without_a_body_counts_by_its_status() -> None:
    async with store_at(store_of(replies(answer(b"", "403 Forbidden", x_amz_request_id="R9")))) as (
        store,
        _,
    ):
        with pytest.raises(errors.AccessDenied) as caught:
            await store.head("k")
        assert caught.value.request_id == "R9"
        with pytest.raises(errors.AccessDenied):
            await store.get("k")


async def test_a_head_without_a_length_is_an_error() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with store_at(store_of(replies(chunked))) as (store, _):
        with pytest.raises(errors.StorageError, match="no content-length"):
            await store.head("k")


TRANSIENT = {
    "500": refusal("500 Internal Server Error", "InternalError"),
    "502 without XML": answer(b"<html>bad gateway", "502 Bad Gateway"),
    "503": refusal("503 Slow Down", "SlowDown"),
    "429": refusal("429 Too Many Requests", "TooManyRequests"),
    "a body cut short": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\netag: "
    + ETAG.encode()
    + b"\r\n\r\n012",
    "a head cut short": b"HTTP/1.1 200 OK\r\ncontent-le",
    "nothing": b"",
    "garbage": b"\x00\x01\x02\x03",
}


def cutting(reply: Callable[[Request], bytes]) -> Callable[[Peer], Awaitable[None]]:
    """As `store_of`, and every connection ends after one answer."""

    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(answer(EMPTY_LISTING) if request.locates else reply(request))

    return script


@pytest.mark.parametrize("name", TRANSIENT)
@pytest.mark.parametrize("failing", [4, 5])
async def test_a_request_in_transient_trouble_is_sent_five_times_in_all(
    name: str, failing: int, waits: list[tuple[float, float]]
) -> None:
    """Each time for the same version, after a pause with jitter that grows."""
    async with store_at(
        cutting(replies(*[TRANSIENT[name]] * failing, answer(BODY, etag=ETAG)))
    ) as (store, server):
        if failing < 5:
            assert (await store.get("k", etag=ETAG)).data == BODY
        else:
            with pytest.raises(errors.Unavailable):
                await store.get("k", etag=ETAG)
        assert [request.headers["if-match"] for request in sent(server)] == [ETAG] * 5
        throttled = failing if name in ("503", "429") else 0
        assert (store.usage.retries, store.usage.throttled, store.usage.requests["GetObject"]) == (
            4,
            throttled,
            5,
        )
        assert waits == [(0, 0.4), (0, 0.8), (0, 1.6), (0, 3.2)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 411, 412, 416, 501])
async def test_a_permanent_refusal_is_not_retried(status: int) -> None:
    code = "NoSuchKey" if status == 404 else "Whatever"
    async with store_at(store_of(replies(refusal(f"{status} No", code)))) as (store, server):
        with pytest.raises(errors.StorageError):
            await store.get("k")
        assert (len(sent(server)), store.usage.retries) == (1, 0)


async def test_another_version_is_refused_though_the_server_gave_it() -> None:
    async with store_at(store_of(replies(answer(BODY, etag='"e2"')))) as (store, _):
        with pytest.raises(errors.ConditionIgnored):
            await store.get("k", etag=ETAG)


async def test_another_range_of_the_same_length_is_asked_for_again() -> None:
    wrong, right = (
        answer(
            BODY[at : at + 4],
            "206 Partial Content",
            etag=ETAG,
            content_range=f"bytes {at}-{at + 3}/{len(BODY)}",
        )
        for at in (0, 2)
    )
    async with store_at(store_of(replies(wrong, right))) as (store, server):
        assert (await store.get("k", etag=ETAG, start=2, length=4)).data == BODY[2:6]
        assert len(sent(server)) == 2


async def test_a_range_that_the_server_ignores_is_no_range() -> None:
    async with store_at(store_of(replies(answer(BODY, etag=ETAG)))) as (store, server):
        with pytest.raises(errors.Unavailable, match="more bytes, not 4"):
            await store.get("k", start=2, length=4)
        assert sent(server)[0].headers["range"] == "bytes=2-5"


@pytest.mark.parametrize("etag", ['"a\r\nx-evil: 1"', '"a\nb"', '"a\rb"', '"a\0b"', '"漢"'])
async def test_an_etag_cannot_smuggle_a_header(etag: str) -> None:
    async with store_at(store_of(replies(answer(BODY, etag=ETAG)))) as (store, server):
        with pytest.raises(errors.BadRequest):
            await store.get("k", etag=etag)
        assert sent(server) == []


@pytest.mark.parametrize(
    "key",
    ["a b", "a%20b", "a+b", "ü/é", "a=b&c?d#e", "a//b", "../a", "a/./b", "a\r\nb", "/a", "~*'()"],
)
async def test_a_key_arrives_as_it_is(key: str) -> None:
    """Not normalised, encoded once, the same in the request line and in the signature."""
    async with store_at(store_of(replies(answer(BODY, etag=ETAG)))) as (store, server):
        await store.get(key)
        assert sent(server)[0].target == "/bucket/" + quote(key, safe="/~-_.")


async def test_every_request_names_the_expected_owner_and_the_payer() -> None:
    async with store_at(
        store_of(replies(answer(BODY, etag=ETAG))),
        expected_bucket_owner="111122223333",
        request_payer=True,
    ) as (store, server):
        await store.get("k")
        await store.head("k")
        headers = [request.headers for request in server.requests]
        assert [(h["x-amz-expected-bucket-owner"], h["x-amz-request-payer"]) for h in headers] == [
            ("111122223333", "requester")
        ] * 3
        assert all(
            "x-amz-expected-bucket-owner;" in h["authorization"]
            and "x-amz-request-payer" in h["authorization"]
            for h in headers
        )


async def test_an_anonymous_request_is_not_signed() -> None:
    async with store_at(
        store_of(replies(answer(BODY, etag=ETAG))), sign=False, access_key="", secret_key=""
    ) as (store, server):
        await store.get("k")
        assert "authorization" not in sent(server)[0].headers


async def test_an_empty_part_says_that_it_is_empty() -> None:
    async with store_at(store_of(replies(answer(b"", etag=ETAG)))) as (store, server):
        await store.upload_part("k", "u", 1, [], checksum=Checksum.NONE, value="")
        assert sent(server)[0].headers["content-length"] == "0"


async def test_a_part_travels_in_pieces_with_its_checksum_and_unsigned_body() -> None:
    async with store_at(store_of(replies(answer(b"", etag=ETAG)))) as (store, server):
        part = await store.upload_part(
            "k", "u/1+2", 7, [b"ab", b"", b"cd"], checksum=Checksum.CRC64NVME, value="AAAA"
        )
        request = sent(server)[0]
        assert (part.etag, part.size, request.body, request.query) == (
            ETAG,
            4,
            b"abcd",
            {"partNumber": "7", "uploadId": "u/1+2"},
        )
        assert (
            request.headers["x-amz-checksum-crc64nvme"],
            request.headers["x-amz-content-sha256"],
        ) == ("AAAA", "UNSIGNED-PAYLOAD")
        assert store.usage.bytes_out == 4


async def test_a_put_does_not_wait_for_100_continue() -> None:
    """A server that never says 100 Continue would hold it up without end."""
    async with store_at(store_of(replies(answer(b"", etag=ETAG)))) as (store, server):
        assert await store.put("k", BODY) == ETAG
        assert "expect" not in sent(server)[0].headers


PAIRS = [
    # the ETag that a PUT of BODY is answered with, and whether it is the MD5 of it
    ('"781e5e245d69b566979b86e28d23f2c7"', True),
    ('"781E5E245D69B566979B86E28D23F2C7"', True),
    ('"00000000000000000000000000000000"', False),
    ('"781e5e245d69b566979b86e28d23f2c7-1"', False),
]


@pytest.mark.parametrize(("etag", "is_md5"), PAIRS)
async def test_a_store_shows_by_its_puts_whether_its_etags_are_md5s(
    etag: str, is_md5: bool
) -> None:
    said = [answer(b"", etag=etag), answer(b"", etag='"another"')]
    async with store_at(store_of(replies(*said))) as (store, _):
        assert store.md5_etags is False
        for _ in said:
            await store.put("k", BODY)
            assert store.md5_etags is is_md5


@pytest.mark.parametrize(
    ("headers", "kms"),
    [
        ({}, False),
        ({"x_amz_server_side_encryption": "AES256"}, False),
        ({"x_amz_server_side_encryption": "aws:kms"}, True),
        ({"x_amz_server_side_encryption": "aws:kms:dsse"}, True),
    ],
)
async def test_an_answer_says_whether_its_etag_can_be_an_md5(
    headers: dict[str, str], kms: bool
) -> None:
    async with store_at(store_of(replies(answer(BODY, etag=ETAG, **headers)))) as (store, _):
        assert (await store.get("k", etag=ETAG)).kms is kms


# Credentials


def rotating(monkeypatch: pytest.MonkeyPatch, lifetimes: list[float]) -> list[str]:
    """Credentials that a provider gives for these many seconds each, in turn; the access keys that
    it gave.
    """
    given: list[str] = []

    def fresh() -> dict[str, str]:
        given.append(f"AK{len(given) + 1}")
        seconds = lifetimes.pop(0) if len(lifetimes) > 1 else lifetimes[0]
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        return {
            "access_key": given[-1],
            "secret_key": f"S{len(given)}",
            "token": f"T{len(given)}",
            "expiry_time": expires.isoformat(),
        }

    async def refresh() -> dict[str, str]:
        return fresh()

    async def get_credentials(self: object) -> AioRefreshableCredentials:
        if not hasattr(self, "_made_up"):
            self._made_up = AioRefreshableCredentials.create_from_metadata(
                fresh(), refresh, "made-up"
            )
        return self._made_up  # type: ignore[attr-defined]

    monkeypatch.setattr("aiobotocore.session.AioSession.get_credentials", get_credentials)
    return given


async def test_credentials_are_renewed_before_they_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """What expires within 15 minutes is renewed, and within 10 nothing goes on before that."""
    given = rotating(monkeypatch, [3600, 300, 300, 3600])
    async with store_at(
        store_of(replies(answer(BODY, etag=ETAG))), access_key="", secret_key=""
    ) as (store, server):
        await store.get("k")
        assert given == ["AK1"]
        credentials = store._client._credentials
        credentials._expiry_time = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
        await store.get("k")
    seen = [
        (
            r.headers["authorization"].partition("Credential=")[2].partition("/")[0],
            r.headers["x-amz-security-token"],
        )
        for r in sent(server)
    ]
    assert seen == [("AK1", "T1"), (given[-1], f"T{len(given)}")]
    assert len(given) > 1


async def test_a_token_that_expires_during_a_run_is_a_configuration_error() -> None:
    expired = refusal("400 Bad Request", "ExpiredToken", "The provided token has expired.")
    async with store_at(store_of(replies(answer(BODY, etag=ETAG), expired))) as (store, server):
        await store.get("k")
        with pytest.raises(errors.ConfigurationError, match="ExpiredToken") as caught:
            await store.get("k")
        assert "credentials" in caught.value.hint
        assert len(sent(server)) == 2


async def test_credentials_that_cannot_be_renewed_are_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rotating(monkeypatch, [3600, -60])
    async with store_at(
        store_of(replies(answer(BODY, etag=ETAG))), access_key="", secret_key=""
    ) as (store, _):
        await store.get("k")
        store._client._credentials._expiry_time = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=60)
        for ask in (lambda: store.get("k"), lambda: store.check_access("")):
            with pytest.raises(errors.ConfigurationError, match="expired"):
                await ask()


@pytest.mark.parametrize("defect", [RecursionError("too deep"), MemoryError(), RuntimeError("x")])
async def test_a_defect_is_no_configuration_error(
    defect: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes through as it is, from both clients."""
    rotating(monkeypatch, [3600])

    async def get_frozen_credentials() -> None:
        raise defect

    async with store_at(
        store_of(replies(answer(BODY, etag=ETAG))), access_key="", secret_key=""
    ) as (store, _):
        await store.get("k")
        monkeypatch.setattr(
            store._client._credentials, "get_frozen_credentials", get_frozen_credentials
        )
        for ask in (
            lambda: store.get("k"),
            lambda: store.put("k", b"x"),
            lambda: store.check_access(""),
        ):
            with pytest.raises(type(defect)) as caught:
                await ask()
            assert caught.value is defect


@pytest.mark.parametrize("defect", [RecursionError("too deep"), MemoryError()])
async def test_a_defect_within_the_general_client_is_no_lost_connection(
    defect: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def request(self: object, *_: object, **__: object) -> None:
        raise defect

    async with store_at(store_of(replies(answer(BODY, etag=ETAG))), attempts=1) as (store, _):
        monkeypatch.setattr("aiohttp.ClientSession._request", request)
        for ask in (lambda: store.put("k", b"x"), lambda: store.check_access("")):
            with pytest.raises(type(defect)) as caught:
                await ask()
            assert caught.value is defect


# Listings


def entry(key: str, *, leave_out: str = "", **more: str) -> str:
    fields = {
        "Key": key,
        "LastModified": "2026-11-22T12:00:00.000Z",
        "ETag": "&quot;e&quot;",
        "Size": "7",
        "StorageClass": "STANDARD",
    } | more
    return (
        "<Contents>"
        + "".join(
            f"<{name}>{value}</{name}>" for name, value in fields.items() if name != leave_out
        )
        + "</Contents>"
    )


def page(
    *parts: str, truncated: str = "<IsTruncated>false</IsTruncated>", url: bool = False
) -> bytes:
    encoding = "<EncodingType>url</EncodingType>" if url else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{truncated}{encoding}{''.join(parts)}</ListBucketResult>"
    ).encode()


ODD_KEYS = ["a b", "a%20b", "a+b", "ü/é漢", "a=b&c<d>", "a//b", "../a", "'\""]


@pytest.mark.parametrize("url", [True, False])
async def test_keys_are_listed_as_they_are(url: bool) -> None:
    keys = ODD_KEYS + (["a\r\nb", "a\x01b"] if url else [])
    spelt = [quote_plus(key, safe="/") if url else escape(key) for key in keys]
    listing = page(
        *[entry(key) for key in spelt],
        *[f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>" for key in spelt],
        url=url,
    )
    async with store_at(store_of(replies(answer(listing)))) as (store, server):
        found = await store.list_page("p + %/", delimiter="/", token="t+/=", max_keys=9)
        assert [o.key for o in found.objects] == keys
        assert list(found.prefixes) == keys
        assert sent(server)[0].query == {
            "list-type": "2",
            "prefix": "p + %/",
            "delimiter": "/",
            "continuation-token": "t+/=",
            "max-keys": "9",
            "encoding-type": "url",
        }
        assert next((o.size, o.etag, o.modified, o.storage_class) for o in found.objects) == (
            7,
            '"e"',
            1795348800.0,
            "STANDARD",
        )
        assert (found.date, found.token) == (1795348800.0, None)


async def test_a_token_leads_on() -> None:
    more = page(
        entry("k"),
        truncated="<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>",
    )
    async with store_at(store_of(replies(answer(more)))) as (store, _):
        assert (await store.list_page("p")).token == "a&b"


UNREADABLE = {
    "an entry without a key": page(entry("k", leave_out="Key")),
    "an entry without a size": page(entry("k", leave_out="Size")),
    "an entry without an ETag": page(entry("k", leave_out="ETag")),
    "an entry without a time": page(entry("k", leave_out="LastModified")),
    "a size that is no number": page(entry("k", Size="many")),
    "a time that is none": page(entry("k", LastModified="yesterday")),
    "a nameless common prefix": page("<CommonPrefixes></CommonPrefixes>"),
    "no word on whether more follows": page(entry("k"), truncated=""),
    "more without a token": page(entry("k"), truncated="<IsTruncated>true</IsTruncated>"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_page_that_cannot_be_read_is_unknown_and_never_empty(name: str) -> None:
    async with store_at(store_of(replies(answer(UNREADABLE[name])))) as (store, server):
        with pytest.raises(errors.ListingError):
            await store.list_page("p")
        assert len(sent(server)) == 1


async def test_an_entry_without_a_storage_class_is_standard() -> None:
    async with store_at(store_of(replies(answer(page(entry("k", leave_out="StorageClass")))))) as (
        store,
        _,
    ):
        assert (await store.list_page("p")).objects[0].storage_class == "STANDARD"


@pytest.mark.parametrize("date", [b"", b"date: yesterday\r\n"])
async def test_a_listing_without_the_servers_time_is_unknown(date: bytes) -> None:
    listing = page(entry("k"))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n" % (
        len(listing),
        date,
    )
    async with store_at(store_of(replies(head + listing))) as (store, _):
        with pytest.raises(errors.ListingError, match="no valid Date header"):
            await store.list_page("p")


SLOW = b"<Error><Code>SlowDown</Code><Message>m</Message><RequestId>R1</RequestId></Error>"
BROKEN = {
    "an error under a 200": b"<Error><Code>InternalError</Code><Message>m</Message></Error>",
    "half a document": page(entry("k"), entry("l"))[:-30],
    "nothing": b"",
    "no XML": b"{}",
    "another document": b"<Whatever/>",
    "a character that XML forbids": page(entry("a&#1;b")),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("mends", [True, False])
async def test_a_200_that_is_no_answer_is_retried(name: str, mends: bool) -> None:
    """Half a page may hold whole entries: none of them counts."""
    answers = [answer(BROKEN[name])] * (4 if mends else 5) + [
        answer(page(entry("k")) if mends else BROKEN[name])
    ]
    async with store_at(store_of(replies(*answers))) as (store, server):
        if mends:
            assert [o.key for o in (await store.list_page("p")).objects] == ["k"]
        else:
            with pytest.raises(errors.Unavailable):
                await store.list_page("p")
        assert (len(sent(server)), store.usage.retries) == (5, 4)
    bulk = answer(b"<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>")
    async with store_at(store_of(replies(*answers[:4], bulk if mends else answers[0]))) as (
        store,
        server,
    ):
        if mends:
            assert [r.deleted for r in await store.delete_many([("k", ETAG)])] == [Deleted.DONE]
        else:
            with pytest.raises(errors.Unavailable):
                await store.delete_many([("k", ETAG)])
        assert len(sent(server)) == 5


async def test_slow_down_under_a_200_is_slow_down() -> None:
    async with store_at(store_of(replies(answer(SLOW)))) as (store, _):
        for ask in (lambda: store.list_page("p"), lambda: store.delete_many([("k", "")])):
            with pytest.raises(errors.Throttled) as caught:
                await ask()
            assert (caught.value.code, caught.value.request_id) == ("SlowDown", "R1")
        assert store.usage.throttled == 10


# Deletes


@pytest.mark.parametrize("key", [*ODD_KEYS, "a\r\nb", "a\rb", "a\nb", " a ", "]]>"])
async def test_a_bulk_delete_names_a_key_as_it_is(key: str) -> None:
    def reply(request: Request) -> bytes:
        (named,) = ElementTree.fromstring(request.body).findall("{*}Object/{*}Key")
        spelt = escape(named.text or "", {"\r": "&#13;", "\n": "&#10;"})
        return answer(
            f"<DeleteResult><Deleted><Key>{spelt}</Key></Deleted></DeleteResult>".encode()
        )

    async with store_at(store_of(reply)) as (store, server):
        assert [(r.key, r.deleted) for r in await store.delete_many([(key, '"e&<"')])] == [
            (key, Deleted.DONE)
        ]
        request = sent(server)[0]
        root = ElementTree.fromstring(request.body)
        assert [
            (e.findtext("{*}Key"), e.findtext("{*}ETag")) for e in root.findall("{*}Object")
        ] == [(key, '"e&<"')]
        assert root.findtext("{*}Quiet") == "false"
        assert (request.method, request.target) == ("POST", "/bucket?delete=")
        assert (
            request.headers["content-md5"] == b64encode(hashlib.md5(request.body).digest()).decode()
        )


async def test_every_key_of_a_bulk_delete_is_accounted_for() -> None:
    entries = "<Deleted><Key>done</Key></Deleted>" + "".join(
        f"<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>"
        for key, code in {
            "changed": "PreconditionFailed",
            "absent": "NoSuchKey",
            "denied": "AccessDenied",
            "both": "InternalError",
        }.items()
    )
    result = (
        f"<DeleteResult><Deleted><Key>both</Key></Deleted>{entries}"
        "<Deleted><Key>stranger</Key></Deleted></DeleteResult>"
    )
    async with store_at(store_of(replies(answer(result.encode())))) as (store, _):
        results = await store.delete_many(
            [(key, ETAG) for key in ("both", "denied", "done", "changed", "absent", "forgotten")]
        )
        assert [(r.key, r.deleted, r.code) for r in results] == [
            ("both", Deleted.REFUSED, "InternalError"),
            ("denied", Deleted.REFUSED, "AccessDenied"),
            ("done", Deleted.DONE, ""),
            ("changed", Deleted.CHANGED, "PreconditionFailed"),
            ("absent", Deleted.ABSENT, "NoSuchKey"),
            ("forgotten", Deleted.REFUSED, "NotMentioned"),
        ]


SINGLE = {
    "204 No Content": Deleted.DONE,
    "404 Not Found": Deleted.ABSENT,
    "412 Precondition Failed": Deleted.CHANGED,
    "403 Forbidden": Deleted.REFUSED,
    "409 Conflict": Deleted.REFUSED,
    "400 Bad Request": Deleted.REFUSED,
    "501 Not Implemented": Deleted.REFUSED,
}


@pytest.mark.parametrize("status", SINGLE)
async def test_a_single_delete_says_what_became_of_the_object(status: str) -> None:
    reply = (
        b"HTTP/1.1 204 No Content\r\n\r\n"
        if status.startswith("204")
        else refusal(status, "NoSuchKey" if status.startswith("404") else "Whatever")
    )
    async with store_at(store_of(replies(reply))) as (store, server):
        assert (await store.delete("k", etag=ETAG)).deleted is SINGLE[status]
        assert [(r.method, r.headers["if-match"]) for r in sent(server)] == [("DELETE", ETAG)]


async def test_a_delete_with_a_lost_answer_is_raised() -> None:
    async with store_at(cutting(replies(b""))) as (store, server):
        with pytest.raises(errors.Unavailable):
            await store.delete("k", etag=ETAG)
        assert len(sent(server)) == 5


# Where the bucket is


async def test_the_bucket_is_located_once_for_many_requests_at_a_time() -> None:
    async with store_at(store_of(replies(answer(BODY, etag=ETAG)))) as (store, server):
        await asyncio.gather(*[store.get(f"{n}") for n in range(20)])
        assert sum(request.locates for request in server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), list(product(["403 Forbidden", "404 Not Found"], ["AccessDenied"]))
)
async def test_a_refusal_too_shows_where_the_bucket_is(status: str, code: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.send(refusal(status, code) if request.locates else answer(BODY, etag=ETAG))

    async with store_at(script) as (store, server):
        assert (await store.get("k")).data == BODY
        assert sum(request.locates for request in server.requests) == 1


async def test_requests_follow_a_bucket_to_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """The general client learns of another region and signs for it from then on; so do our own
    connections.
    """

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if "/eu-west-2/s3/" in request.headers["authorization"]:
                await peer.send(
                    answer(EMPTY_LISTING) if request.locates else answer(BODY, etag=ETAG)
                )
            else:
                body = (
                    b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message>"
                    b"<Region>eu-west-2</Region></Error>"
                )
                await peer.send(answer(body, "400 Bad Request", x_amz_bucket_region="eu-west-2"))

    async with store_at(script) as (store, server):
        await store.check_access("")
        assert (await store.get("k")).data == BODY
        assert "/eu-west-2/s3/aws4_request" in sent(server)[-1].headers["authorization"]
