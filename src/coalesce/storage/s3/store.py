"""An S3 bucket: reads, listings, deletes and parts over `wire`, everything rare through the general
client.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.base import Body, CreatedUpload, Deleted, DeleteResult, Head, OpenUpload, Page
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3.client import ATTEMPTS, Client, S3Options, open_client
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.wire import Wire
from coalesce.storage.s3.xml import delete_request, parse_deleted, parse_page

_CHECKSUM_HEADERS = tuple(
    (name, f"x-amz-checksum-{name.lower()}") for name in ("CRC64NVME", "CRC32", "CRC32C")
)
_METADATA = "x-amz-meta-"

T = TypeVar("T")


@asynccontextmanager
async def open_s3(options: S3Options) -> AsyncIterator[S3Store]:
    """The bucket, with its connections closed at the end.

    Raises ConfigurationError where that cannot be, whatever the bucket says.
    """
    async with open_client(options) as client:
        wire = Wire(
            client.keys,
            connections=options.max_connections,
            stall=options.read_timeout,
            common=options.headers,
        )
        try:
            yield S3Store(client, wire)
        finally:
            await wire.close()


class S3Store:
    """See `ObjectStore`.

    A request that fails for a passing reason is sent at most 5 times in all.
    """

    def __init__(self, client: Client, wire: Wire) -> None:
        self.usage = client.usage
        self.endpoint = client.endpoint
        self._client = client
        self._wire = wire
        self._locating = asyncio.Lock()

    async def check_access(self) -> None:
        """See `ObjectStore`."""
        try:
            await self._locate()
        except errors.ConfigurationError:
            raise
        except errors.Unavailable as error:
            raise errors.ConfigurationError(
                f"no answer to begin with: {error.message}",
                hint="Check the network, --endpoint-url and --region.",
            ) from error
        except errors.StorageError as error:
            if isinstance(error, errors.AccessDenied):
                return  # the right to list may be limited to the prefixes
            raise errors.ConfigurationError(
                f"the bucket cannot be used: {error.message}",
                code=error.code,
                hint="Check its name, --region and --endpoint-url.",
            ) from error

    async def create_bucket(self) -> None:
        """Makes the bucket, for servers of one's own."""
        await self._client.call("CreateBucket", "")

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        """See `ObjectStore`."""
        query = {
            "list-type": "2",
            "prefix": prefix,
            "max-keys": str(max_keys),
            "encoding-type": "url",
        }
        query |= {
            name: value
            for name, value in (("delimiter", delimiter), ("continuation-token", token))
            if value
        }

        async def once() -> Page:
            answer = await self._send("ListObjectsV2", "GET", None, query=query, where=prefix)
            return parse_page(answer.data, prefix, _date(answer, prefix))

        return await self._retried(once)

    async def get(
        self, key: str, *, etag: str = "", start: int = 0, length: int | None = None
    ) -> Body:
        """See `ObjectStore`."""
        return await self._retried(lambda: self._get_once(key, etag, start, length))

    async def _retried(self, send: Callable[[], Awaitable[T]]) -> T:
        """Full jitter, as botocore's standard mode does it."""
        attempt = 1
        while True:
            try:
                return await send()
            except errors.Unavailable as error:
                self.usage.throttled += isinstance(error, errors.Throttled)
                if attempt == ATTEMPTS:
                    raise
            self.usage.retries += 1
            await asyncio.sleep(random.uniform(0, min(20, 0.2 * 2**attempt)))
            attempt += 1

    async def _get_once(self, key: str, etag: str, start: int, length: int | None) -> Body:
        wanted = {"if-match": etag} if etag else {}
        if length is None:
            wanted["x-amz-checksum-mode"] = "ENABLED"
        else:
            wanted["range"] = f"bytes={start}-{start + length - 1}"
        answer = await self._send("GetObject", "GET", key, headers=wanted)
        self.usage.bytes_in += len(answer.data)
        if length is not None and len(answer.data) != length:
            raise errors.Unavailable(
                f"the range of {key!r} has {len(answer.data)} bytes, not {length}",
                key=key,
                operation="GetObject",
            )
        found = _said(answer.headers, "etag", "GetObject", key)
        if etag and found != etag:
            raise errors.ConditionIgnored(
                f"{key!r} has another ETag", key=key, operation="GetObject"
            )
        return Body(
            answer.data,
            found,
            {name: value for name, value in _checksums(answer) if "-" not in value},
        )

    async def _send(
        self,
        operation: str,
        method: str,
        key: str | None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Sequence[bytes] = (),
        where: str = "",
    ) -> Answer:
        if not self._wire.located:
            async with self._locating:
                if not self._wire.located:
                    with suppress(errors.StorageError):
                        await self._locate()
        self.usage.requests[operation] += 1
        with self.usage.timed(operation):
            return await self._wire.send(
                operation, method, key, query=query, headers=headers, body=body, where=where
            )

    async def _locate(self) -> None:
        try:
            await self._client.call("ListObjectsV2", "", MaxKeys=1)
        finally:  # any answer shows where the bucket is
            url, region = self._client.sent_to
            if url:
                self._wire.locate(url, region, tls=self._client.trust, proxy=self._client.proxy)

    async def head(self, key: str) -> Head | None:
        """See `ObjectStore`."""
        try:
            answer = await self._retried(
                lambda: self._send(
                    "HeadObject", "HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"}
                )
            )
        except errors.NotFound:
            return None
        headers = answer.headers
        if "content-length" not in headers:
            raise errors.StorageError(
                f"the answer does not say how long {key!r} is", key=key, operation="HeadObject"
            )
        metadata = {
            name.removeprefix(_METADATA): value
            for name, value in headers.items()
            if name.startswith(_METADATA)
        }
        return Head(
            key,
            int(headers["content-length"]),
            _said(headers, "etag", "HeadObject", key),
            metadata,
            headers.get("content-type", ""),
            dict(_checksums(answer)),
        )

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
        """See `ObjectStore`."""
        optional = {
            "IfNoneMatch": "*" if if_none_match else "",
            "IfMatch": if_match,
            "ContentType": content_type,
            "Metadata": dict(metadata or {}),
        }
        answer = await self._client.call(
            "PutObject", key, Key=key, Body=body, **{k: v for k, v in optional.items() if v}
        )
        self.usage.bytes_out += len(body)
        return _said(answer, "ETag", "PutObject", key)

    async def create_upload(
        self, key: str, *, checksum: Checksum, metadata: Mapping[str, str], content_type: str = ""
    ) -> CreatedUpload:
        """See `ObjectStore`."""
        arguments: dict[str, Any] = {"Metadata": dict(metadata)}
        if content_type:
            arguments["ContentType"] = content_type
        if checksum is not Checksum.NONE:
            arguments["ChecksumAlgorithm"] = checksum.value
            arguments["ChecksumType"] = (
                "FULL_OBJECT" if checksum is Checksum.CRC64NVME else "COMPOSITE"
            )
        answer = await self._client.call("CreateMultipartUpload", key, Key=key, **arguments)
        repeated = answer["ResponseMetadata"].get("RetryAttempts", 0) > 0
        return CreatedUpload(_said(answer, "UploadId", "CreateMultipartUpload", key), repeated)

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
        """See `ObjectStore`."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {f"x-amz-checksum-{checksum.value.lower()}": value} if value else {}
        answer = await self._retried(
            lambda: self._send("UploadPart", "PUT", key, query=query, headers=headers, body=pieces)
        )
        size = sum(map(len, pieces))
        self.usage.bytes_out += size
        return UploadedPart(number, size, _said(answer.headers, "etag", "UploadPart", key), value)

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
        """See `ObjectStore`."""
        answer = await self._client.call(
            "UploadPartCopy",
            key,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": self._client.bucket, "Key": source},
            CopySourceIfMatch=etag,
            CopySourceRange=f"bytes={start}-{start + length - 1}",
        )
        result = answer.get("CopyPartResult", {})
        return UploadedPart(
            number,
            length,
            _said(result, "ETag", "UploadPartCopy", key),
            result.get(f"Checksum{checksum.value}", ""),
        )

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
        """See `ObjectStore`.

        Part sums are always listed: versitygw and MinIO refuse a full-object Complete without them.
        """
        listed = [
            {"PartNumber": part.number, "ETag": part.etag, **_named(checksum, part.checksum)}
            for part in parts
        ]
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if create_only else {}
        if checksum is Checksum.CRC64NVME:
            arguments |= {"ChecksumCRC64NVME": value, "ChecksumType": "FULL_OBJECT"}
        await self._client.call(
            "CompleteMultipartUpload",
            key,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": listed},
            **arguments,
        )

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        with suppress(errors.NoSuchUpload, errors.NotFound):
            await self._client.call("AbortMultipartUpload", key, Key=key, UploadId=upload_id)

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """See `ObjectStore`."""
        operation = "ListMultipartUploads"
        found: list[OpenUpload] = []
        marker: dict[str, str] = {}
        seen: set[tuple[str, ...]] = set()
        while True:
            answer = await self._client.call(operation, prefix, Prefix=prefix, **marker)
            for entry in answer.get("Uploads", ()):
                key, upload_id = (
                    _said(entry, name, operation, prefix) for name in ("Key", "UploadId")
                )
                found.append(OpenUpload(key, upload_id))
            if not answer.get("IsTruncated"):
                return found
            marker = {
                name: _said(answer, f"Next{name}", operation, prefix)
                for name in ("KeyMarker", "UploadIdMarker")
            }
            if tuple(marker.values()) in seen:
                raise errors.ListingError(
                    f"the listing of uploads under {prefix!r} repeats itself",
                    key=prefix,
                    operation=operation,
                )
            seen.add(tuple(marker.values()))

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        """See `ObjectStore`."""
        try:
            await self._retried(
                lambda: self._send(
                    "DeleteObject", "DELETE", key, headers={"if-match": etag} if etag else {}
                )
            )
        except errors.NotFound:
            return DeleteResult(key, Deleted.ABSENT)
        except errors.PreconditionFailed as error:
            return DeleteResult(key, Deleted.CHANGED, error.code, error.message)
        except (
            errors.AccessDenied,
            errors.BadRequest,
            errors.Conflict,
            errors.NotImplementedByStore,
        ) as error:
            return DeleteResult(key, Deleted.REFUSED, error.code, error.message)
        return DeleteResult(key, Deleted.DONE)

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        """See `ObjectStore`."""
        body = delete_request(targets)
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()

        async def once() -> list[DeleteResult]:
            answer = await self._send(
                "DeleteObjects",
                "POST",
                None,
                query={"delete": ""},
                headers={"content-md5": md5, "content-type": "application/xml"},
                body=[body],
            )
            return parse_deleted(answer.data, targets)

        return await self._retried(once)


def _said(answer: Mapping[str, Any], name: str, operation: str, where: str) -> str:
    """What an answer must say: without it the next request would have no condition, or be another
    one. Raises StorageError.
    """
    value = answer.get(name)
    if not value:
        raise errors.StorageError(
            f"{operation} {where!r}: the answer has no {name}", key=where, operation=operation
        )
    return str(value)


def _named(checksum: Checksum, value: str) -> dict[str, str]:
    return {f"Checksum{checksum.value}": value} if checksum is not Checksum.NONE and value else {}


def _checksums(answer: Answer) -> Iterator[tuple[str, str]]:
    return (
        (name, value)
        for name, header in _CHECKSUM_HEADERS
        if (value := answer.headers.get(header, ""))
    )


def _date(answer: Answer, prefix: str) -> float:
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError) as error:
        raise errors.ListingError(
            f"the listing of {prefix!r} does not say when it is of: {error!r}",
            key=prefix,
            operation="ListObjectsV2",
        ) from error
