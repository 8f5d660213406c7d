"""A client of a bucket in memory: counted requests, between two hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import override

from coalesce.errors import TooLong
from coalesce.model import UploadedPart
from coalesce.storage.attributes import NO_ATTRIBUTES, Attributes
from coalesce.storage.base import (
    Body,
    CreatedUpload,
    DeleteResult,
    Head,
    ObjectStore,
    OpenUpload,
    Page,
    Usage,
)
from coalesce.storage.checksums import Checksum, is_md5
from coalesce.storage.limits import LIST_PAGE
from coalesce.storage.memory.bucket import MemoryBucket

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the store sees it: the `number`th of all, from 1."""

    number: int
    operation: str
    key: str


async def _pass(_: Request) -> None:
    return None


class MemoryStore(ObjectStore):
    """One client of a bucket.

    `before` is awaited ahead of every request, and may raise: the request then has no effect.
    `after` is awaited when it has had its effect, and may raise too: that is an answer lost.
    """

    def __init__(self, bucket: MemoryBucket) -> None:
        self.usage = Usage()
        self.md5_etags = False
        self.bucket = bucket
        self.before: Callable[[Request], Awaitable[None]] = _pass
        self.after: Callable[[Request], Awaitable[None]] = _pass
        self._requests = 0

    @override
    async def check_access(self, prefix: str) -> None:
        pass

    @override
    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = LIST_PAGE,
    ) -> Page:
        return await self._request(
            "ListObjectsV2",
            prefix,
            lambda: self.bucket.list_page(prefix, delimiter, token or "", max_keys),
        )

    @override
    async def get(
        self,
        key: str,
        *,
        etag: str = "",
        start: int = 0,
        length: int | None = None,
        size: int | None = None,
    ) -> Body:
        body = await self._request(
            "GetObject", key, lambda: self.bucket.get(key, etag, start, length)
        )
        if length is None and size is not None and len(body.data) > size:
            raise TooLong(f"{key}: more than {size} bytes", key=key)
        self.usage.bytes_in += len(body.data)
        return body

    @override
    async def head(self, key: str) -> Head | None:
        return await self._request("HeadObject", key, lambda: self.bucket.head(key))

    @override
    async def get_tags(self, key: str) -> dict[str, str]:
        return await self._request("GetObjectTagging", key, lambda: self.bucket.get_tags(key))

    @override
    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_none_match: bool = False,
        if_match: str = "",
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        etag = await self._request(
            "PutObject",
            key,
            lambda: self.bucket.put(
                key,
                body,
                if_none_match=if_none_match,
                if_match=if_match,
                content_type=content_type,
                metadata=metadata or {},
            ),
        )
        self.usage.bytes_out += len(body)
        self.md5_etags = self.md5_etags or is_md5(etag, body)
        return etag

    @override
    async def create_upload(
        self,
        key: str,
        *,
        checksum: Checksum,
        metadata: Mapping[str, str],
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> CreatedUpload:
        upload_id = await self._request(
            "CreateMultipartUpload",
            key,
            lambda: self.bucket.create_upload(key, checksum, metadata, attributes),
        )
        return CreatedUpload(upload_id)

    @override
    async def upload_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        pieces: Sequence[bytes],
        *,
        checksum: Checksum,
        value: str,
    ) -> UploadedPart:
        data = b"".join(pieces)
        part = await self._request(
            "UploadPart",
            key,
            lambda: self.bucket.add_part(
                key, upload_id, number, data, checksum=checksum, value=value
            ),
        )
        self.usage.bytes_out += len(data)
        return part

    @override
    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        etag: str,
        start: int,
        length: int,
        checksum: Checksum,
    ) -> UploadedPart:
        return await self._request(
            "UploadPartCopy",
            key,
            lambda: self.bucket.copy_part(
                key, upload_id, number, source=source, etag=etag, start=start, length=length
            ),
        )

    @override
    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[UploadedPart],
        *,
        checksum: Checksum,
        value: str = "",
        create_only: bool = True,
    ) -> None:
        await self._request(
            "CompleteMultipartUpload",
            key,
            lambda: self.bucket.complete_upload(key, upload_id, parts, value, create_only),
        )

    @override
    async def abort_upload(self, key: str, upload_id: str) -> None:
        await self._request(
            "AbortMultipartUpload", key, lambda: self.bucket.abort_upload(upload_id)
        )

    @override
    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        return await self._request(
            "ListMultipartUploads", prefix, lambda: self.bucket.list_uploads(prefix)
        )

    @override
    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        return await self._request(
            "DeleteObject", key, lambda: self.bucket.delete(key, etag, rule="delete-if-match")
        )

    @override
    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        return await self._request(
            "DeleteObjects",
            targets[0][0],
            lambda: [
                self.bucket.delete(key, etag, rule="delete-many-etag") for key, etag in targets
            ],
        )

    async def _request(self, operation: str, key: str, apply: Callable[[], T]) -> T:
        self._requests += 1
        request = Request(self._requests, operation, key)
        self.usage.requests[operation] += 1
        await self.before(request)
        result = apply()
        await self.after(request)
        return result
