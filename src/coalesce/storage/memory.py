"""A bucket in memory, as strict as S3 where the commit protocol leans on S3: for tests, which also
make it fail, freeze or forget a guarantee.

Rules and their sources: S3 API reference (conditional requests, multipart upload limits, checking
object integrity).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from awscrt import checksums

from coalesce import errors
from coalesce.model import ObjectInfo, UploadedPart
from coalesce.storage.base import CreatedUpload, Body, Deleted, DeleteResult, Head, OpenUpload, Page, Usage
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import MAX_PARTS, MIN_PART_BYTES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the store sees it: the `number`th of all, from 1."""

    number: int
    operation: str
    key: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as it lies in the bucket."""

    data: bytes
    etag: str
    modified: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "binary/octet-stream"
    checksum: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = "STANDARD"


@dataclass(slots=True)
class _Upload:
    key: str
    checksum: Checksum
    metadata: Mapping[str, str]
    content_type: str
    begun: int
    parts: dict[int, tuple[bytes, str, str]] = field(default_factory=dict)


async def _pass(_: Request) -> None:
    return None


@dataclass(slots=True)
class MemoryBucket:
    """What all clients of one bucket share. `now` is the store's clock.

    `ignores` names conditions that the store accepts and forgets: `put-if-none-match`,
    `put-if-match`, `get-if-match`, `complete-if-none-match`, `delete-if-match`, `delete-many-etag`,
    `copy-if-match`, `abort`, `checksum` (all of them), `full-object-checksum` (that of the whole).
    """

    now: float = 1_700_000_000.0
    min_part_bytes: int = MIN_PART_BYTES
    ignores: frozenset[str] = frozenset()
    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, _Upload] = field(default_factory=dict)
    changes: int = 0
    deleted_at: dict[str, int] = field(default_factory=dict)

    def store(
        self,
        key: str,
        data: bytes,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        *,
        etag: str = "",
        checksum: Mapping[str, str] | None = None,
        storage_class: str = "STANDARD",
    ) -> str:
        """Puts an object where it is, without a request: for whoever else writes into the bucket.

        Its ETag.
        """
        etag = etag or f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        self.objects[key] = StoredObject(
            data,
            etag,
            self.now,
            dict(metadata or {}),
            content_type or "binary/octet-stream",
            dict(checksum or {}),
            storage_class,
        )
        self.changes += 1
        return etag

    def remove(self, key: str) -> None:
        """Takes an object away, without a request."""
        if self.objects.pop(key, None) is not None:
            self.changes += 1
            self.deleted_at[key] = self.changes


class MemoryStore:
    """See `ObjectStore`: one client of a bucket.

    `before` is awaited ahead of every request, and may raise: the request then has no effect.
    `after` is awaited when it has had its effect, and may raise too: that is an answer lost.
    """

    def __init__(self, bucket: MemoryBucket) -> None:
        self.usage = Usage()
        self.bucket = bucket
        self.before: Callable[[Request], Awaitable[None]] = _pass
        self.after: Callable[[Request], Awaitable[None]] = _pass
        self._requests = 0

    async def check_access(self) -> None:
        """See `ObjectStore`."""

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        """See `ObjectStore`."""
        return await self._answer(
            "ListObjectsV2", prefix, lambda: self._list(prefix, delimiter, token or "", max_keys)
        )

    def _list(self, prefix: str, delimiter: str, after: str, max_keys: int) -> Page:
        found: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        for key in sorted(
            (key for key in self.bucket.objects if key.startswith(prefix)), key=str.encode
        ):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + len(delimiter)]
            if name.encode() <= after.encode() or name == last:
                continue
            if len(found) + len(prefixes) == max_keys:
                return Page(tuple(found), tuple(prefixes), last, float(int(self.bucket.now)))
            if cut < 0:
                stored = self.bucket.objects[key]
                found.append(
                    ObjectInfo(
                        key,
                        len(stored.data),
                        stored.etag,
                        float(int(stored.modified)),
                        stored.storage_class,
                    )
                )
            else:
                prefixes.append(name)
            last = name
        return Page(tuple(found), tuple(prefixes), None, float(int(self.bucket.now)))

    async def get(
        self, key: str, *, etag: str = "", start: int = 0, length: int | None = None
    ) -> Body:
        """See `ObjectStore`."""
        return await self._answer("GetObject", key, lambda: self._get(key, etag, start, length))

    def _get(self, key: str, etag: str, start: int, length: int | None) -> Body:
        stored = self._stored(key)
        if etag and stored.etag != etag and "get-if-match" not in self.bucket.ignores:
            raise errors.PreconditionFailed(f"{key}: another ETag", key=key)
        if stored.storage_class in ("GLACIER", "DEEP_ARCHIVE"):
            raise errors.Archived(f"{key}: archived", key=key)
        if etag and stored.etag != etag:
            raise errors.ConditionIgnored(f"{key}: the answer has another ETag", key=key)
        data = stored.data if length is None else stored.data[start : start + length]
        self.usage.bytes_in += len(data)
        return Body(
            data,
            stored.etag,
            {}
            if length is not None
            else {k: v for k, v in stored.checksum.items() if "-" not in v},
        )

    async def head(self, key: str) -> Head | None:
        """See `ObjectStore`."""
        return await self._answer("HeadObject", key, lambda: self._head(key))

    def _head(self, key: str) -> Head | None:
        stored = self.bucket.objects.get(key)
        return (
            None
            if stored is None
            else Head(
                key,
                len(stored.data),
                stored.etag,
                stored.metadata,
                stored.content_type,
                stored.checksum,
            )
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

        def apply() -> str:
            stored = self.bucket.objects.get(key)
            if if_none_match and stored and "put-if-none-match" not in self.bucket.ignores:
                raise errors.PreconditionFailed(f"{key}: exists", key=key)
            if if_match and "put-if-match" not in self.bucket.ignores:
                if stored is None:
                    raise errors.NotFound(f"{key}: absent", key=key)
                if stored.etag != if_match:
                    raise errors.PreconditionFailed(f"{key}: another ETag", key=key)
            self.usage.bytes_out += len(body)
            return self.bucket.store(key, body, metadata or {}, content_type)

        return await self._answer("PutObject", key, apply)

    async def create_upload(
        self, key: str, *, checksum: Checksum, metadata: Mapping[str, str], content_type: str = ""
    ) -> CreatedUpload:
        """See `ObjectStore`."""

        def apply() -> CreatedUpload:
            self.bucket.changes += 1
            upload_id = f"upload-{self.bucket.changes}"
            self.bucket.uploads[upload_id] = _Upload(
                key, checksum, dict(metadata), content_type, self.bucket.changes
            )
            return CreatedUpload(upload_id)

        return await self._answer("CreateMultipartUpload", key, apply)

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
        data = b"".join(pieces)

        def apply() -> UploadedPart:
            if value and value != _sum(data, checksum) and "checksum" not in self.bucket.ignores:
                raise errors.BadRequest(
                    f"{key}: part {number} does not have its checksum", key=key, code="BadDigest"
                )
            self.usage.bytes_out += len(data)
            return self._add_part(key, upload_id, number, data)

        return await self._answer("UploadPart", key, apply)

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

        def apply() -> UploadedPart:
            stored = self._stored(source)
            if stored.etag != etag and "copy-if-match" not in self.bucket.ignores:
                raise errors.PreconditionFailed(f"{source}: another ETag", key=source)
            if start + length > len(stored.data):
                raise errors.BadRequest(
                    f"{source}: the range ends behind it", key=source, code="InvalidRange"
                )
            return self._add_part(key, upload_id, number, stored.data[start : start + length])

        return await self._answer("UploadPartCopy", key, apply)

    def _add_part(self, key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
        upload = self._open(key, upload_id)
        if not 1 <= number <= MAX_PARTS:
            raise errors.BadRequest(
                f"{key}: there is no part {number}", key=key, code="InvalidArgument"
            )
        etag, value = (
            f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"',
            _sum(data, upload.checksum),
        )
        upload.parts[number] = (data, etag, value)
        return UploadedPart(number, len(data), etag, value)

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
        """See `ObjectStore`."""
        await self._answer(
            "CompleteMultipartUpload",
            key,
            lambda: self._complete(key, upload_id, parts, value, create_only),
        )

    def _complete(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], value: str, create_only: bool
    ) -> None:
        upload = self._open(key, upload_id)
        if create_only and "complete-if-none-match" not in self.bucket.ignores:
            if key in self.bucket.objects:
                raise errors.PreconditionFailed(f"{key}: exists", key=key)
            if self.bucket.deleted_at.get(key, 0) > upload.begun:
                raise errors.Conflict(f"{key}: deleted since the upload began", key=key)
        chosen = [self._listed(upload, part, is_last=part is parts[-1]) for part in parts]
        if not chosen or [part.number for part in parts] != sorted({part.number for part in parts}):
            raise errors.BadRequest(
                f"{key}: the parts are not in order", key=key, code="InvalidPartOrder"
            )
        data = b"".join(part for part, _ in chosen)
        stored = _whole_sum(data, [value for _, value in chosen], upload.checksum)
        if (
            upload.checksum is Checksum.CRC64NVME
            and value
            and value != stored["CRC64NVME"]
            and not {"checksum", "full-object-checksum"} & self.bucket.ignores
        ):
            raise errors.BadRequest(f"{key}: does not have its checksum", key=key, code="BadDigest")
        digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part, _ in chosen)
        etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(chosen)}"'
        self.bucket.store(
            key, data, upload.metadata, upload.content_type, etag=etag, checksum=stored
        )
        del self.bucket.uploads[upload_id]

    def _listed(self, upload: _Upload, part: UploadedPart, *, is_last: bool) -> tuple[bytes, str]:
        data, etag, value = upload.parts.get(part.number, (b"", "", ""))
        if etag != part.etag:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} is not there", key=upload.key, code="InvalidPart"
            )
        if part.checksum and part.checksum != value and "checksum" not in self.bucket.ignores:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} has another checksum",
                key=upload.key,
                code="InvalidPart",
            )
        if len(data) < self.bucket.min_part_bytes and not is_last:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} is too small",
                key=upload.key,
                code="EntityTooSmall",
            )
        return data, value

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """See `ObjectStore`."""

        def apply() -> None:
            if "abort" not in self.bucket.ignores:
                self.bucket.uploads.pop(upload_id, None)

        await self._answer("AbortMultipartUpload", key, apply)

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """See `ObjectStore`."""
        return await self._answer(
            "ListMultipartUploads",
            prefix,
            lambda: [
                OpenUpload(upload.key, name)
                for name, upload in self.bucket.uploads.items()
                if upload.key.startswith(prefix)
            ],
        )

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        """See `ObjectStore`."""
        return await self._answer(
            "DeleteObject",
            key,
            lambda: self._delete(key, etag if "delete-if-match" not in self.bucket.ignores else ""),
        )

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        """See `ObjectStore`."""
        conditional = "delete-many-etag" not in self.bucket.ignores
        return await self._answer(
            "DeleteObjects",
            targets[0][0],
            lambda: [self._delete(key, etag if conditional else "") for key, etag in targets],
        )

    def _delete(self, key: str, etag: str) -> DeleteResult:
        stored = self.bucket.objects.get(key)
        if stored is None:
            return DeleteResult(key, Deleted.ABSENT if etag else Deleted.DONE)
        if etag and stored.etag != etag:
            return DeleteResult(key, Deleted.CHANGED, "PreconditionFailed", "another ETag")
        self.bucket.remove(key)
        return DeleteResult(key, Deleted.DONE)

    def _stored(self, key: str) -> StoredObject:
        stored = self.bucket.objects.get(key)
        if stored is None:
            raise errors.NotFound(f"{key}: absent", key=key)
        return stored

    def _open(self, key: str, upload_id: str) -> _Upload:
        upload = self.bucket.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise errors.NoSuchUpload(f"{key}: no such upload", key=key)
        return upload

    async def _answer(self, operation: str, key: str, apply: Callable[[], T]) -> T:
        self._requests += 1
        request = Request(self._requests, operation, key)
        self.usage.requests[operation] += 1
        await self.before(request)
        result = apply()
        await self.after(request)
        return result


def _sum(data: bytes, checksum: Checksum) -> str:
    if checksum is Checksum.CRC64NVME:
        return base64.b64encode(checksums.crc64nvme(data).to_bytes(8)).decode()
    if checksum is Checksum.CRC32:
        return base64.b64encode(zlib.crc32(data).to_bytes(4)).decode()
    return ""


def _whole_sum(data: bytes, parts: Sequence[str], checksum: Checksum) -> dict[str, str]:
    if checksum is Checksum.CRC32:
        joined = zlib.crc32(b"".join(base64.b64decode(part) for part in parts))
        return {"CRC32": f"{base64.b64encode(joined.to_bytes(4)).decode()}-{len(parts)}"}
    return {checksum.value: _sum(data, checksum)} if checksum is Checksum.CRC64NVME else {}
