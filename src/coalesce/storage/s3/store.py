"""An S3 bucket: objects and uploads over our own connections, what is rare through the general
client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from typing_extensions import override

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.attributes import NO_ATTRIBUTES, Attributes
from coalesce.storage.base import (
    Body,
    CreatedUpload,
    Deleted,
    DeleteResult,
    Head,
    ObjectStore,
    OpenUpload,
    Page,
)
from coalesce.storage.checksums import Checksum, is_md5
from coalesce.storage.limits import LIST_PAGE, MAX_IDLE_PAGES
from coalesce.storage.s3.answers import body_of, date_of, head_of, require
from coalesce.storage.s3.client import Client, open_client
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.failure import access_failure
from coalesce.storage.s3.headers import content_md5, describe, describe_complete, describe_upload
from coalesce.storage.s3.options import S3Options
from coalesce.storage.s3.sender import Sender
from coalesce.storage.s3.signing import encode_path
from coalesce.storage.s3.wire import Wire
from coalesce.storage.s3.xml import (
    complete_request,
    delete_request,
    parse_delete_result,
    parse_page,
    parse_result,
    parse_tags,
)

_REFUSALS = (errors.AccessDenied, errors.BadRequest, errors.Conflict, errors.NotImplementedByStore)


@asynccontextmanager
async def open_s3(options: S3Options) -> AsyncIterator[S3Store]:
    """The bucket, with its connections closed at the end.

    Raises ConfigurationError for options that cannot be used, whatever the bucket's state.
    """
    async with open_client(options) as client:
        wire = Wire(
            client.keys,
            connections=options.max_connections,
            stall=options.read_timeout,
            common=options.headers,
        )
        try:
            yield S3Store(client, wire, options.attempts)
        finally:
            await wire.close()


class S3Store(ObjectStore):
    """An S3 bucket. A request that fails for a passing reason is sent at most `attempts` times."""

    def __init__(self, client: Client, wire: Wire, attempts: int) -> None:
        self.usage = client.usage
        self.md5_etags = False
        self.endpoint = client.endpoint
        self._client = client
        self._wire = wire
        self._sender = Sender(client, wire, attempts)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._client.bucket

    @override
    async def check_access(self, prefix: str) -> None:
        try:
            await self._sender.locate(prefix)
        except errors.AccessDenied:
            return  # the right to list may be limited to the prefixes
        except (errors.ConfigurationError, errors.StorageError) as error:
            raise access_failure(error, self.bucket) from error

    async def create_bucket(self) -> None:
        """Creates the bucket, on local servers."""
        await self._client.call("CreateBucket", "")

    @override
    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = LIST_PAGE,
    ) -> Page:
        query = {
            "list-type": "2",
            "prefix": prefix,
            "max-keys": str(max_keys),
            "encoding-type": "url",
        }
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["continuation-token"] = token

        async def once() -> Page:
            answer = await self._sender.send(
                "ListObjectsV2", "GET", None, query=query, where=prefix
            )
            return parse_page(answer.data, prefix, date_of(answer, prefix))

        return await self._sender.retry(once)

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
        headers = {"if-match": etag} if etag else {}
        if length is None:
            headers["x-amz-checksum-mode"] = "ENABLED"
        else:
            headers["range"] = f"bytes={start}-{start + length - 1}"

        async def once() -> Body:
            limit = size if length is None else length
            answer = await self._sender.send("GetObject", "GET", key, headers=headers, limit=limit)
            self.usage.bytes_in += len(answer.data)
            return body_of(answer, key, etag, start, length)

        return await self._sender.retry(once)

    @override
    async def head(self, key: str) -> Head | None:
        headers = {"x-amz-checksum-mode": "ENABLED"}
        try:
            answer = await self._sender.retry(
                lambda: self._sender.send("HeadObject", "HEAD", key, headers=headers)
            )
        except errors.NotFound as error:
            if error.request_id or await self._is_absent(key):
                return None
            raise errors.Unavailable(
                f"{error.message}: the answer is not S3's, and a GET finds the object",
                key=key,
                operation="HeadObject",
            ) from error
        return head_of(answer, key)

    async def _is_absent(self, key: str) -> bool:
        """Whether a GET says so. Raises what else it means."""
        try:
            await self.get(key, start=0, length=1)
        except errors.NotFound:
            return True
        except errors.BadRequest:
            return False  # 416: an empty object has no first byte
        return False

    @override
    async def get_tags(self, key: str) -> dict[str, str]:
        async def once() -> dict[str, str]:
            answer = await self._sender.send("GetObjectTagging", "GET", key, query={"tagging": ""})
            return parse_tags(answer.data, key)

        return await self._sender.retry(once)

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
        headers = describe(content_type, metadata or {}) | {"content-md5": content_md5(body)}
        if if_none_match:
            headers["if-none-match"] = "*"
        if if_match:
            headers["if-match"] = if_match
        answer = await self._sender.retry(
            lambda: self._sender.send(
                "PutObject", "PUT", key, headers=headers, body=[body], repeatable=False
            )
        )
        self.usage.bytes_out += len(body)
        etag = require(answer.headers, "etag", "PutObject", key)
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
        headers = describe_upload(checksum, metadata, attributes)
        operation, tries = "CreateMultipartUpload", 0

        async def once() -> str:
            nonlocal tries
            tries += 1
            answer = await self._sender.send(
                operation, "POST", key, query={"uploads": ""}, headers=headers, repeatable=False
            )
            return require(parse_result(answer.data, operation, key), "UploadId", operation, key)

        upload_id = await self._sender.retry(once)
        return CreatedUpload(upload_id, repeated=tries > 1)

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
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {f"x-amz-checksum-{checksum.value.lower()}": value} if value else {}
        answer = await self._sender.retry(
            lambda: self._sender.send(
                "UploadPart", "PUT", key, query=query, headers=headers, body=pieces
            )
        )
        size = sum(map(len, pieces))
        self.usage.bytes_out += size
        return UploadedPart(number, size, require(answer.headers, "etag", "UploadPart", key), value)

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
        operation = "UploadPartCopy"
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {
            "x-amz-copy-source": encode_path(f"{self.bucket}/{source}"),
            "x-amz-copy-source-if-match": etag,
            "x-amz-copy-source-range": f"bytes={start}-{start + length - 1}",
        }

        async def once() -> dict[str, str]:
            answer = await self._sender.send(operation, "PUT", key, query=query, headers=headers)
            return parse_result(answer.data, operation, key)

        result = await self._sender.retry(once)
        found = require(result, "ETag", operation, key)
        return UploadedPart(number, length, found, result.get(f"Checksum{checksum.value}", ""))

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
        operation = "CompleteMultipartUpload"
        headers = describe_complete(checksum, value, create_only=create_only)
        body = complete_request(parts, checksum)

        async def once() -> None:
            answer = await self._sender.send(
                operation,
                "POST",
                key,
                query={"uploadId": upload_id},
                headers=headers,
                body=[body],
                repeatable=False,
            )
            parse_result(answer.data, operation, key)

        await self._sender.retry(once)

    @override
    async def abort_upload(self, key: str, upload_id: str) -> None:
        with suppress(errors.NoSuchUpload, errors.NotFound):
            await self._sender.retry(
                lambda: self._sender.send(
                    "AbortMultipartUpload", "DELETE", key, query={"uploadId": upload_id}
                )
            )

    @override
    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        operation = "ListMultipartUploads"
        found: list[OpenUpload] = []
        marker: dict[str, str] = {}
        seen: set[tuple[str, ...]] = set()
        idle = 0
        while True:
            answer = await self._client.call(operation, prefix, Prefix=prefix, **marker)
            idle = 0 if answer.get("Uploads") else idle + 1
            for entry in answer.get("Uploads", ()):
                key, upload_id = (
                    require(entry, name, operation, prefix) for name in ("Key", "UploadId")
                )
                initiated = entry.get("Initiated")
                when = initiated.timestamp() if isinstance(initiated, datetime) else 0.0
                found.append(OpenUpload(key, upload_id, when))
            if not answer.get("IsTruncated"):
                return found
            marker = {
                name: require(answer, f"Next{name}", operation, prefix)
                for name in ("KeyMarker", "UploadIdMarker")
            }
            if tuple(marker.values()) in seen or idle == MAX_IDLE_PAGES:
                raise errors.ListingError(
                    f"the listing of uploads under {prefix!r} repeats itself or has no end",
                    key=prefix,
                    operation=operation,
                )
            seen.add(tuple(marker.values()))

    @override
    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        async def once() -> Answer:
            headers = {"if-match": etag} if etag else {}
            return await self._sender.send(
                "DeleteObject", "DELETE", key, headers=headers, repeatable=False
            )

        try:
            # Without a condition the caller has to look at the object again before another try.
            await (self._sender.retry(once) if etag else once())
        except errors.NotFound as error:
            # What is absent after an unanswered try was deleted by it.
            return DeleteResult(key, Deleted.DONE if error.repeated else Deleted.ABSENT)
        except errors.PreconditionFailed as error:
            return DeleteResult(key, Deleted.CHANGED, error.code, error.message)
        except _REFUSALS as error:
            return DeleteResult(key, Deleted.REFUSED, error.code, error.message)
        return DeleteResult(key, Deleted.DONE)

    @override
    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        body, tries = delete_request(targets), 0

        async def once() -> list[DeleteResult]:
            nonlocal tries
            tries += 1
            answer = await self._sender.send(
                "DeleteObjects",
                "POST",
                None,
                query={"delete": ""},
                headers={"content-md5": content_md5(body), "content-type": "application/xml"},
                body=[body],
                repeatable=False,
            )
            return parse_delete_result(answer.data, targets)

        results = await self._sender.retry(once)
        if tries == 1:
            return results
        return [
            DeleteResult(result.key, Deleted.DONE) if result.deleted is Deleted.ABSENT else result
            for result in results
        ]
