"""Every condition that the protocol leans on, seen from the server's side.

What is really sent, and what becomes of the answers.
"""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.base import Deleted
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support.servers import KEYS


@dataclass
class Server:
    """Gives one answer to everything, and keeps what it was asked."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    sent: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.query.get("list-type") and "<ListBucketResult>" not in self.body:
            return web.Response(
                text="<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
                content_type="application/xml",
            )
        self.asked = {name.lower(): value for name, value in request.headers.items()}
        self.sent = (await request.read()).decode(errors="replace")
        return web.Response(status=self.status, text=self.body or None, headers=self.headers)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[S3Store]:
    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with open_s3(
        S3Options(
            "b",
            endpoint_url=f"http://127.0.0.1:{port}",
            region="us-east-1",
            addressing="path",
            **KEYS,
        )
    ) as opened:
        yield opened
    await runner.cleanup()


async def test_a_create_only_put_says_so(store: S3Store, server: Server) -> None:
    server.headers = {"ETag": '"e"'}
    await store.put("k", b"1", if_none_match=True)
    assert server.asked["if-none-match"] == "*"


async def test_a_replacing_put_names_the_version(store: S3Store, server: Server) -> None:
    server.headers = {"ETag": '"e"'}
    await store.put("k", b"1", if_match='"old"')
    assert server.asked["if-match"] == '"old"'


async def test_a_complete_is_create_only_and_held_against_the_sum_of_the_whole(
    store: S3Store, server: Server
) -> None:
    server.body = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
    await store.complete_upload(
        "k",
        "u",
        [UploadedPart(1, 4, '"p"', "AAAAAAAAAAA=")],
        checksum=Checksum.CRC64NVME,
        value="BBBBBBBBBBA=",
    )
    assert server.asked["if-none-match"] == "*"
    assert server.asked["x-amz-checksum-crc64nvme"] == "BBBBBBBBBBA="
    assert server.asked["x-amz-checksum-type"] == "FULL_OBJECT"
    assert re.search("<ChecksumCRC64NVME>AAAAAAAAAAA=", server.sent)


async def test_a_complete_is_believed_by_what_follows_the_spaces_that_kept_the_connection(
    store: S3Store, server: Server
) -> None:
    """S3 answers with 200 before it knows how it ends (S3 API reference)."""

    async def complete() -> None:
        await store.complete_upload(
            "k", "u", [UploadedPart(1, 4, '"p"', "")], checksum=Checksum.NONE
        )

    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    server.body = f"   \n{declaration}<CompleteMultipartUploadResult/>"
    await complete()
    server.body = f"   \n{declaration}<Error><Code>PreconditionFailed</Code></Error>"
    with pytest.raises(errors.PreconditionFailed):
        await complete()


async def test_what_is_put_is_held_against_its_md5(store: S3Store, server: Server) -> None:
    """RFC 1864; a bucket with object lock takes nothing without."""
    server.headers = {"ETag": '"e"'}
    await store.put("k", b"data", content_type="text/plain", metadata={"a": "b"})
    assert store.usage.bytes_out == 4
    assert server.asked["content-md5"] == "jXd/OF09/siBXSD3SWAm3A=="
    assert (server.asked["content-type"], server.asked["x-amz-meta-a"]) == ("text/plain", "b")


async def test_a_part_carries_its_sum(store: S3Store, server: Server) -> None:
    server.headers = {"ETag": '"p"'}
    await store.upload_part(
        "k", "u", 1, [b"data"], checksum=Checksum.CRC64NVME, value="BBBBBBBBBBA="
    )
    assert server.asked["x-amz-checksum-crc64nvme"] == "BBBBBBBBBBA="


async def test_a_copied_part_names_the_version_of_its_source(
    store: S3Store, server: Server
) -> None:
    sums = "<ChecksumCRC32>x</ChecksumCRC32><ChecksumCRC64NVME>s</ChecksumCRC64NVME>"
    server.body = f"<CopyPartResult><ETag>e</ETag>{sums}</CopyPartResult>"
    part = await store.copy_part(
        "k", "u", 1, source="a/ü +", etag='"old"', start=0, length=5, checksum=Checksum.CRC64NVME
    )
    assert part == UploadedPart(1, 5, "e", "s")
    assert server.asked["x-amz-copy-source"] == "b/a/%C3%BC%20%2B"
    assert server.asked["x-amz-copy-source-if-match"] == '"old"'
    assert server.asked["x-amz-copy-source-range"] == "bytes=0-4"


async def test_a_copied_part_without_an_etag_is_none(store: S3Store, server: Server) -> None:
    server.body = "<CopyPartResult><ChecksumCRC64NVME>s</ChecksumCRC64NVME></CopyPartResult>"
    with pytest.raises(errors.StorageError, match="no ETag"):
        await store.copy_part(
            "k", "u", 1, source="a", etag='"e"', start=0, length=5, checksum=Checksum.CRC64NVME
        )


async def test_a_get_and_a_delete_name_the_version(store: S3Store, server: Server) -> None:
    server.headers = {"ETag": '"old"'}
    server.body = "data"
    assert (await store.get("k", etag='"old"')).data == b"data"
    assert server.asked["if-match"] == '"old"'
    server.status, server.body = 204, ""
    await store.delete("k", etag='"old"')
    assert server.asked["if-match"] == '"old"'


async def test_a_body_of_another_version_is_refused_though_the_server_gave_it(
    store: S3Store, server: Server
) -> None:
    server.headers, server.body = {"ETag": '"new"'}, "data"
    with pytest.raises(errors.PreconditionFailed):
        await store.get("k", etag='"old"')


@pytest.mark.parametrize("code", ["NoSuchUpload", "NoSuchKey"])
async def test_an_upload_that_is_not_there_needs_no_abort(
    store: S3Store, server: Server, code: str
) -> None:
    server.status, server.body = 404, f"<Error><Code>{code}</Code></Error>"
    await store.abort_upload("k", "u")
    server.status, server.body = 403, "<Error><Code>AccessDenied</Code></Error>"
    with pytest.raises(errors.AccessDenied):
        await store.abort_upload("k", "u")


async def test_a_store_that_has_once_had_an_md5_for_an_etag_keeps_being_one(
    store: S3Store, server: Server
) -> None:
    """An object that is encrypted has another."""
    assert not store.md5_etags
    server.headers = {"ETag": f'"{hashlib.md5(b"x", usedforsecurity=False).hexdigest()}"'}
    await store.put("k", b"x")
    server.headers = {"ETag": '"other"'}
    await store.put("k", b"x")
    assert store.md5_etags


async def test_only_a_404_is_absence(store: S3Store, server: Server) -> None:
    server.status, server.headers = 404, {"x-amz-request-id": "R1"}
    assert await store.head("k") is None
    server.status = 403
    with pytest.raises(errors.AccessDenied):
        await store.head("k")


async def test_a_bulk_delete_names_every_version_and_accounts_for_every_key(
    store: S3Store, server: Server
) -> None:
    """A key of which the answer says nothing is not gone; one that is refused says why."""
    server.body = (
        "<DeleteResult><Deleted><Key>gone</Key></Deleted>"
        "<Error><Key>changed</Key><Code>PreconditionFailed</Code></Error><Error><Key>held</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    )
    results = await store.delete_many(
        [(key, f'"{key}"') for key in ("gone", "changed", "held", "forgotten")]
    )
    assert [(result.key, result.deleted) for result in results] == [
        ("gone", Deleted.DONE),
        ("changed", Deleted.CHANGED),
        ("held", Deleted.REFUSED),
        ("forgotten", Deleted.REFUSED),
    ]
    assert server.sent.replace("&quot;", '"').count("<ETag>") == 4
    digest = hashlib.md5(server.sent.encode(), usedforsecurity=False).digest()
    assert server.asked["content-md5"] == base64.b64encode(digest).decode()
    assert "<Quiet>true" not in server.sent


async def test_a_listing_that_is_cut_short_is_no_listing(store: S3Store, server: Server) -> None:
    server.body = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    with pytest.raises(errors.ListingError):
        await store.list_page("a/")
