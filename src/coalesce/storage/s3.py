"""An S3 bucket: reads, listings, deletes and parts over `wire`, everything rare through aiobotocore, which this module alone knows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.storage.base import Body, Checksum, Deleted, DeleteResult, Head, OpenUpload, Page, Usage
from coalesce.storage.connection import Answer
from coalesce.storage.failure import failure_of
from coalesce.storage.signing import Keys
from coalesce.storage.wire import Wire
from coalesce.storage.xml import delete_request, parse_deleted, parse_page

_ATTEMPTS = 5
_CHECKSUM_HEADERS = tuple((name, f"x-amz-checksum-{name.lower()}") for name in ("CRC64NVME", "CRC32", "CRC32C"))
_METADATA = "x-amz-meta-"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a bucket is reached. Empty strings leave the matter to botocore's own environment and files; keys are for local servers only.

    `read_timeout` is in seconds: an answer of which nothing more comes for so long is lost.
    """

    bucket: str
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    sign: bool = True
    ca_bundle: str = ""
    verify_ssl: bool = True
    expected_bucket_owner: str = ""
    request_payer: bool = False
    addressing: str = "auto"
    max_connections: int = 96
    read_timeout: float = 60.0
    access_key: str = ""
    secret_key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every request says besides its own."""
        owner = {"x-amz-expected-bucket-owner": self.expected_bucket_owner} if self.expected_bucket_owner else {}
        return owner | ({"x-amz-request-payer": "requester"} if self.request_payer else {})

    def for_bucket(self, bucket: str) -> S3Options:
        """The same way to another bucket."""
        return replace(self, bucket=bucket)


@asynccontextmanager
async def open_s3(options: S3Options) -> AsyncIterator[S3Store]:
    """The bucket, with its connections closed at the end. Raises ConfigurationError for a profile or region that is not there."""
    config = AioConfig(
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=10,
        read_timeout=options.read_timeout,
        max_pool_connections=options.max_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=False,
        signature_version=None if options.sign else UNSIGNED,
        s3={"addressing_style": options.addressing, "payload_signing_enabled": False},
        user_agent="coalesce",
    )
    try:
        session = get_session()
        if options.profile:
            session.set_config_variable("profile", options.profile)
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_epoch)
        if options.access_key:
            session.set_credentials(options.access_key, options.secret_key)
        context = session.create_client(
            "s3",
            config=config,
            region_name=options.region or session.get_config_variable("region") or "us-east-1",
            endpoint_url=options.endpoint_url or None,
            verify=False if not options.verify_ssl else options.ca_bundle or None,
        )
        client = await context.__aenter__()
        credentials = await session.get_credentials() if options.sign else None
    except (BotoCoreError, ValueError) as error:
        raise _mapped(error, "connect", "") from error

    async def keys() -> Keys | None:
        if credentials is None:
            return None
        now = await credentials.get_frozen_credentials()
        return Keys(now.access_key, now.secret_key, now.token or "")

    def tls() -> ssl.SSLContext:
        bundle = options.ca_bundle or session.get_config_variable("ca_bundle")
        context = ssl.create_default_context(cafile=bundle or None)
        if not options.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    wire = Wire(connections=options.max_connections, stall=options.read_timeout, tls=tls, common=options.headers, keys=keys)
    try:
        yield S3Store(client, wire, options)
    finally:
        await wire.close()
        await context.__aexit__(None, None, None)


class S3Store:
    """See `ObjectStore`. Retries of single requests are botocore's standard mode, 5 attempts."""

    def __init__(self, client: Any, wire: Wire, options: S3Options) -> None:
        self.usage = Usage()
        self.endpoint = str(client.meta.endpoint_url)
        self._client = client
        self._wire = wire
        self._locating = asyncio.Lock()
        self._common: dict[str, Any] = {"Bucket": options.bucket}
        if options.expected_bucket_owner:
            self._common["ExpectedBucketOwner"] = options.expected_bucket_owner
        if options.request_payer:
            self._common["RequestPayer"] = "requester"
        client.meta.events.register("before-send.s3", self._count)
        client.meta.events.register_first("needs-retry.s3", _retry_429)

    async def check_access(self) -> None:
        """See `ObjectStore`."""
        try:
            await self._locate()
        except errors.ConfigurationError:
            raise
        except errors.Unavailable as error:
            raise errors.ConfigurationError(f"no answer to begin with: {error.message}", hint="Check the network, --endpoint-url and --region.") from error
        except errors.StorageError as error:
            if isinstance(error, errors.AccessDenied):
                return  # the right to list may be limited to the prefixes
            raise errors.ConfigurationError(
                f"the bucket cannot be used: {error.message}", code=error.code, hint="Check its name, --region and --endpoint-url."
            ) from error

    async def create_bucket(self) -> None:
        """Makes the bucket, for servers of one's own."""
        await self._call("CreateBucket", "")

    async def list_page(self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000) -> Page:
        """See `ObjectStore`."""
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(max_keys), "encoding-type": "url"}
        query |= {name: value for name, value in (("delimiter", delimiter), ("continuation-token", token)) if value}

        async def once() -> Page:
            answer = await self._send("ListObjectsV2", "GET", None, query=query, where=prefix)
            return parse_page(answer.data, prefix, parsedate_to_datetime(answer.headers["date"]).timestamp())

        return await self._retried(once)

    async def get(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> Body:
        """See `ObjectStore`."""
        return await self._retried(lambda: self._get_once(key, etag, start, length))

    async def _retried(self, send: Callable[[], Awaitable[T]]) -> T:
        """Full jitter, as botocore's standard mode does it."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await send()
            except errors.Unavailable:
                self.usage.retries += 1
                await asyncio.sleep(random.uniform(0, min(20, 0.2 * 2**attempt)))
        return await send()

    async def _get_once(self, key: str, etag: str, start: int, length: int | None) -> Body:
        wanted = {"if-match": etag} if etag else {}
        if length is None:
            wanted["x-amz-checksum-mode"] = "ENABLED"
        else:
            wanted["range"] = f"bytes={start}-{start + length - 1}"
        answer = await self._send("GetObject", "GET", key, headers=wanted)
        self.usage.bytes_in += len(answer.data)
        expected = int(answer.headers.get("content-length", len(answer.data))) if length is None else length
        if len(answer.data) != expected:
            raise errors.Unavailable(f"the body of {key!r} has {len(answer.data)} bytes, not {expected}", key=key, operation="GetObject")
        found = answer.headers.get("etag", "")
        if etag and found != etag:
            raise errors.ConditionIgnored(f"{key!r} has another ETag", key=key, operation="GetObject")
        return Body(answer.data, found, {name: value for name, value in _checksums(answer) if "-" not in value})

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
                    with suppress(errors.StorageError):  # any answer shows where the bucket is
                        await self._locate()
        self.usage.requests[operation] += 1
        try:
            return await self._wire.send(operation, method, key, query=query, headers=headers, body=body, where=where)
        except errors.Throttled:
            self.usage.throttled += 1
            raise

    async def _locate(self) -> None:
        await self._call("ListObjectsV2", "", MaxKeys=1)

    async def head(self, key: str) -> Head | None:
        """See `ObjectStore`."""
        try:
            answer = await self._retried(lambda: self._send("HeadObject", "HEAD", key, headers={"x-amz-checksum-mode": "ENABLED"}))
        except errors.NotFound:
            return None
        headers = answer.headers
        metadata = {name.removeprefix(_METADATA): value for name, value in headers.items() if name.startswith(_METADATA)}
        return Head(key, int(headers["content-length"]), headers.get("etag", ""), metadata, headers.get("content-type", ""), dict(_checksums(answer)))

    async def put(
        self, key: str, body: bytes, *, if_none_match: bool = False, if_match: str = "", content_type: str = "", metadata: Mapping[str, str] | None = None
    ) -> str:
        """See `ObjectStore`."""
        optional = {"IfNoneMatch": "*" if if_none_match else "", "IfMatch": if_match, "ContentType": content_type, "Metadata": dict(metadata or {})}
        answer = await self._call("PutObject", key, Key=key, Body=body, **{k: v for k, v in optional.items() if v})
        self.usage.bytes_out += len(body)
        return str(answer["ETag"])

    async def create_upload(self, key: str, *, checksum: Checksum, metadata: Mapping[str, str], content_type: str = "") -> str:
        """See `ObjectStore`."""
        arguments: dict[str, Any] = {"Metadata": dict(metadata)}
        if content_type:
            arguments["ContentType"] = content_type
        if checksum is not Checksum.NONE:
            arguments["ChecksumAlgorithm"] = checksum.value
            arguments["ChecksumType"] = "FULL_OBJECT" if checksum is Checksum.CRC64NVME else "COMPOSITE"
        try:
            answer = await self._call("CreateMultipartUpload", key, Key=key, **arguments)
        except errors.Unavailable:
            self.usage.orphans += 1
            raise
        self.usage.orphans += answer["ResponseMetadata"].get("RetryAttempts", 0)
        return str(answer["UploadId"])

    async def upload_part(self, key: str, upload_id: str, number: int, pieces: Sequence[bytes], *, checksum: Checksum, value: str) -> UploadedPart:
        """See `ObjectStore`."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {f"x-amz-checksum-{checksum.value.lower()}": value} if value else {}
        answer = await self._retried(lambda: self._send("UploadPart", "PUT", key, query=query, headers=headers, body=pieces))
        size = sum(map(len, pieces))
        self.usage.bytes_out += size
        return UploadedPart(number, size, answer.headers.get("etag", ""), value)

    async def copy_part(self, key: str, upload_id: str, number: int, *, source: str, etag: str, start: int, length: int, checksum: Checksum) -> UploadedPart:
        """See `ObjectStore`."""
        answer = await self._call(
            "UploadPartCopy",
            key,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": self._common["Bucket"], "Key": source},
            CopySourceIfMatch=etag,
            CopySourceRange=f"bytes={start}-{start + length - 1}",
        )
        result = answer["CopyPartResult"]
        return UploadedPart(number, length, result["ETag"], result.get(f"Checksum{checksum.value}", ""))

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], *, checksum: Checksum, value: str = "", create_only: bool = True
    ) -> None:
        """See `ObjectStore`. Part sums are always listed: versitygw and MinIO refuse a full-object Complete without them."""
        listed = [{"PartNumber": part.number, "ETag": part.etag, **_named(checksum, part.checksum)} for part in parts]
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if create_only else {}
        if checksum is Checksum.CRC64NVME:
            arguments |= {"ChecksumCRC64NVME": value, "ChecksumType": "FULL_OBJECT"}
        await self._call("CompleteMultipartUpload", key, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}, **arguments)

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        with suppress(errors.NoSuchUpload, errors.NotFound):
            await self._call("AbortMultipartUpload", key, Key=key, UploadId=upload_id)

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """See `ObjectStore`."""
        found: list[OpenUpload] = []
        marker: dict[str, Any] = {}
        while True:
            answer = await self._call("ListMultipartUploads", prefix, Prefix=prefix, **marker)
            for entry in answer.get("Uploads", ()):
                initiated = entry.get("Initiated")
                found.append(OpenUpload(entry["Key"], entry["UploadId"], initiated if isinstance(initiated, float) else 0.0))
            if not answer.get("IsTruncated"):
                return found
            marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        """See `ObjectStore`."""
        try:
            await self._retried(lambda: self._send("DeleteObject", "DELETE", key, headers={"if-match": etag} if etag else {}))
        except errors.NotFound:
            return DeleteResult(key, Deleted.ABSENT)
        except errors.PreconditionFailed as error:
            return DeleteResult(key, Deleted.CHANGED, error.code, error.message)
        except (errors.AccessDenied, errors.BadRequest, errors.Conflict, errors.NotImplementedByStore) as error:
            return DeleteResult(key, Deleted.REFUSED, error.code, error.message)
        return DeleteResult(key, Deleted.DONE)

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        """See `ObjectStore`."""
        body = delete_request(targets)
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()

        async def once() -> list[DeleteResult]:
            answer = await self._send(
                "DeleteObjects", "POST", None, query={"delete": ""}, headers={"content-md5": md5, "content-type": "application/xml"}, body=[body]
            )
            return parse_deleted(answer.data, targets)

        return await self._retried(once)

    async def _call(self, operation: str, where: str, **arguments: Any) -> dict[str, Any]:
        method = getattr(self._client, _METHODS[operation])
        try:
            answer: dict[str, Any] = await method(**self._common, **arguments)
        except (TimeoutError, ClientError, BotoCoreError, OSError) as error:
            mapped = _mapped(error, operation, where)
            self.usage.throttled += isinstance(mapped, errors.Throttled)
            raise mapped from error
        self.usage.retries += answer["ResponseMetadata"].get("RetryAttempts", 0)
        return answer

    def _count(self, event_name: str, request: Any, **_: Any) -> None:
        operation = event_name.rsplit(".", 1)[-1]
        self.usage.requests[operation] += 1
        if operation == "ListObjectsV2":
            authorization = request.headers.get("Authorization", "")
            self._wire.locate(request.url, authorization.decode() if isinstance(authorization, bytes) else authorization)


_METHODS = {
    "CreateBucket": "create_bucket",
    "ListObjectsV2": "list_objects_v2",
    "PutObject": "put_object",
    "CreateMultipartUpload": "create_multipart_upload",
    "UploadPartCopy": "upload_part_copy",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "AbortMultipartUpload": "abort_multipart_upload",
    "ListMultipartUploads": "list_multipart_uploads",
}


def _retry_429(response: tuple[Any, Any] | None, **_: Any) -> None:
    """To its retries a 429 is a 503: botocore knows it only by codes that S3 does not use, and from the answer to a HEAD by nothing at all."""
    if response and response[0].status_code == 429:
        response[0].status_code = 503


def _mapped(error: Exception, operation: str, where: str) -> errors.CoalesceError:
    """Our error for one of botocore's: what was asked, of which key, what the store said."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return errors.ConfigurationError("no credentials found", code="NoCredentials", hint="Set AWS_PROFILE or --profile, or give the job a role.")
    if isinstance(error, ProfileNotFound):
        return errors.ConfigurationError(str(error), code="ProfileNotFound", hint="Check --profile and AWS_PROFILE.")
    if not isinstance(error, ClientError):
        kind = errors.ConfigurationError if operation == "connect" else errors.Unavailable
        return kind(f"{operation} {where!r}: {type(error).__name__}: {error}", key=where, operation=operation)
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    return failure_of(
        operation,
        where,
        status=int(metadata.get("HTTPStatusCode", 0)),
        code=str(details.get("Code", "")),
        said=str(details.get("Message", "")),
        request_id=str(metadata.get("RequestId", "")),
    )


def _named(checksum: Checksum, value: str) -> dict[str, str]:
    return {f"Checksum{checksum.value}": value} if checksum is not Checksum.NONE and value else {}


def _checksums(answer: Answer) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, header in _CHECKSUM_HEADERS if (value := answer.headers.get(header, "")))


def _epoch(value: Any) -> Any:
    """Seconds since the epoch of a listing's ISO time; other timestamps stay text. botocore's own parser costs most of a listing's CPU."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return value
