"""What a bucket holds, and S3's rules for it, without requests.

Sources of the rules: S3 API reference (conditional requests, multipart upload limits, checking
object integrity).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from awscrt import checksums

from coalesce import errors
from coalesce.model import ObjectInfo, UploadedPart
from coalesce.storage.attributes import NO_ATTRIBUTES, Attributes
from coalesce.storage.base import Body, Deleted, DeleteResult, Head, OpenUpload, Page
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import ARCHIVED, MAX_PARTS, MIN_PART_BYTES
from coalesce.storage.memory.objects import (
    DEFAULT_TYPE,
    StoredObject,
    StoredPart,
    Upload,
    check_attributes,
)


@dataclass(slots=True)
class MemoryBucket:
    """What all clients of one bucket share. `now` is the store's clock, in seconds since the epoch.

    `ignores` names conditions that the store accepts and forgets: `put-if-none-match`,
    `put-if-match`, `get-if-match`, `complete-if-none-match`, `delete-if-match`, `delete-many-etag`,
    `copy-if-match`, `abort`, `checksum` (all of them), `full-object-checksum` (that of the whole);
    or `upload-metadata` and `attributes`, which it drops.

    The methods take the arguments of `ObjectStore` and raise its errors.
    """

    now: float = 1_700_000_000.0
    min_part_bytes: int = MIN_PART_BYTES
    ignores: frozenset[str] = frozenset()
    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
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
        headers: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Puts an object into the bucket unconditionally; its ETag."""
        stored = StoredObject(
            data,
            etag or _etag(data),
            self.now,
            dict(metadata or {}),
            content_type or DEFAULT_TYPE,
            dict(checksum or {}),
            storage_class,
            dict(headers or {}),
            dict(tags or {}),
        )
        self._keep(key, stored)
        return stored.etag

    def _keep(self, key: str, stored: StoredObject) -> None:
        self.objects[key] = stored
        self.changes += 1

    def remove(self, key: str) -> None:
        """Takes an object out of the bucket unconditionally."""
        if self.objects.pop(key, None) is not None:
            self.changes += 1
            self.deleted_at[key] = self.changes

    def list_page(self, prefix: str, delimiter: str, after: str, max_keys: int) -> Page:
        """The page of a listing that follows `after`; its token is its last name."""
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last, date = "", float(int(self.now))
        for key in sorted((key for key in self.objects if key.startswith(prefix)), key=str.encode):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + len(delimiter)]
            if name.encode() <= after.encode() or name == last:
                continue
            if len(objects) + len(prefixes) == max_keys:
                return Page(tuple(objects), tuple(prefixes), last, date)
            if cut < 0:
                objects.append(self._info(key))
            else:
                prefixes.append(name)
            last = name
        return Page(tuple(objects), tuple(prefixes), None, date)

    def _info(self, key: str) -> ObjectInfo:
        stored = self.objects[key]
        modified = float(int(stored.modified))
        return ObjectInfo(key, len(stored.data), stored.etag, modified, stored.storage_class)

    def get(self, key: str, etag: str, start: int, length: int | None) -> Body:
        """An object's bytes; of a part of it without a checksum."""
        stored = self._find(key)
        if etag and stored.etag != etag and "get-if-match" not in self.ignores:
            raise errors.PreconditionFailed(f"{key}: another ETag", key=key)
        if stored.storage_class in ARCHIVED:
            raise errors.Archived(f"{key}: archived", key=key)
        if etag and stored.etag != etag:
            raise errors.ConditionIgnored(f"{key}: the answer has another ETag", key=key)
        data, full = stored.data, {}
        if length is not None:
            data = data[start : start + length]
        else:
            full = {name: value for name, value in stored.checksum.items() if "-" not in value}
        return Body(data, stored.etag, full, attributes=stored.attributes, tags=len(stored.tags))

    def head(self, key: str) -> Head | None:
        """What is known of an object, None for none."""
        stored = self.objects.get(key)
        if stored is None:
            return None
        return Head(
            key,
            len(stored.data),
            stored.etag,
            stored.metadata,
            stored.attributes,
            stored.checksum,
            len(stored.tags),
            stored.storage_class in ARCHIVED,
        )

    def get_tags(self, key: str) -> dict[str, str]:
        """The tags of an object."""
        return dict(self._find(key).tags)

    def put(
        self,
        key: str,
        body: bytes,
        *,
        if_none_match: bool,
        if_match: str,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> str:
        """Stores an object if the conditions hold; its ETag."""
        stored = self.objects.get(key)
        if if_none_match and stored and "put-if-none-match" not in self.ignores:
            raise errors.PreconditionFailed(f"{key}: exists", key=key)
        if if_match and "put-if-match" not in self.ignores:
            if stored is None:
                raise errors.NotFound(f"{key}: absent", key=key)
            if stored.etag != if_match:
                raise errors.PreconditionFailed(f"{key}: another ETag", key=key)
        return self.store(key, body, metadata, content_type)

    def create_upload(
        self,
        key: str,
        checksum: Checksum,
        metadata: Mapping[str, str],
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> str:
        """Begins an upload; its id."""
        check_attributes(key, metadata, attributes)
        self.changes += 1
        upload_id = f"upload-{self.changes}"
        kept = {} if "upload-metadata" in self.ignores else dict(metadata)
        if "attributes" in self.ignores:
            attributes = NO_ATTRIBUTES
        self.uploads[upload_id] = Upload(key, checksum, kept, attributes, self.changes, self.now)
        return upload_id

    def add_part(
        self, key: str, upload_id: str, number: int, data: bytes, *, checksum: Checksum, value: str
    ) -> UploadedPart:
        """Keeps a part whose checksum is `value`, or for which none is given."""
        if value and value != _sum(data, checksum) and "checksum" not in self.ignores:
            raise errors.BadRequest(
                f"{key}: part {number} does not have its checksum", key=key, code="BadDigest"
            )
        return self._keep_part(key, upload_id, number, data)

    def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        etag: str,
        start: int,
        length: int,
    ) -> UploadedPart:
        """Keeps a range of another object as a part."""
        stored = self._find(source)
        if stored.etag != etag and "copy-if-match" not in self.ignores:
            raise errors.PreconditionFailed(f"{source}: another ETag", key=source)
        if start + length > len(stored.data):
            raise errors.BadRequest(
                f"{source}: the range ends after the object", key=source, code="InvalidRange"
            )
        return self._keep_part(key, upload_id, number, stored.data[start : start + length])

    def _keep_part(self, key: str, upload_id: str, number: int, data: bytes) -> UploadedPart:
        upload = self._find_upload(key, upload_id)
        if not 1 <= number <= MAX_PARTS:
            raise errors.BadRequest(f"{key}: no part {number}", key=key, code="InvalidArgument")
        part = StoredPart(data, _etag(data), _sum(data, upload.checksum))
        upload.parts[number] = part
        return UploadedPart(number, len(data), part.etag, part.checksum)

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], value: str, create_only: bool
    ) -> None:
        """Makes an object of an upload's parts if the conditions hold."""
        upload = self._find_upload(key, upload_id)
        if create_only and "complete-if-none-match" not in self.ignores:
            if key in self.objects:
                raise errors.PreconditionFailed(f"{key}: exists", key=key)
            if self.deleted_at.get(key, 0) > upload.began:
                raise errors.Conflict(f"{key}: deleted since the upload began", key=key)
        chosen = [self._find_part(upload, part, is_last=part is parts[-1]) for part in parts]
        if not chosen or [part.number for part in parts] != sorted({part.number for part in parts}):
            raise errors.BadRequest(
                f"{key}: the parts are not in order", key=key, code="InvalidPartOrder"
            )
        data = b"".join(part.data for part in chosen)
        checksum = _whole_sum(data, [part.checksum for part in chosen], upload.checksum)
        if (
            upload.checksum is Checksum.CRC64NVME
            and value
            and value != checksum["CRC64NVME"]
            and not {"checksum", "full-object-checksum"} & self.ignores
        ):
            raise errors.BadRequest(f"{key}: does not have its checksum", key=key, code="BadDigest")
        etag = _multipart_etag([part.data for part in chosen])
        self._keep(key, upload.become(data, etag, checksum, self.now))
        del self.uploads[upload_id]

    def _find_part(self, upload: Upload, part: UploadedPart, *, is_last: bool) -> StoredPart:
        stored = upload.parts.get(part.number)
        if stored is None or stored.etag != part.etag:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} is absent", key=upload.key, code="InvalidPart"
            )
        if part.checksum and part.checksum != stored.checksum and "checksum" not in self.ignores:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} has another checksum",
                key=upload.key,
                code="InvalidPart",
            )
        if len(stored.data) < self.min_part_bytes and not is_last:
            raise errors.BadRequest(
                f"{upload.key}: part {part.number} is too small",
                key=upload.key,
                code="EntityTooSmall",
            )
        return stored

    def abort_upload(self, upload_id: str) -> None:
        """Ends an upload."""
        if "abort" not in self.ignores:
            self.uploads.pop(upload_id, None)

    def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """The open uploads under a prefix."""
        return [
            OpenUpload(upload.key, upload_id, float(int(upload.initiated)))
            for upload_id, upload in self.uploads.items()
            if upload.key.startswith(prefix)
        ]

    def delete(self, key: str, etag: str, *, rule: str) -> DeleteResult:
        """Removes an object; `rule` is the name in `ignores` of the condition on its ETag."""
        stored = self.objects.get(key)
        if rule in self.ignores:
            etag = ""
        if stored is None:
            return DeleteResult(key, Deleted.ABSENT if etag else Deleted.DONE)
        if etag and stored.etag != etag:
            return DeleteResult(key, Deleted.CHANGED, "PreconditionFailed", "another ETag")
        self.remove(key)
        return DeleteResult(key, Deleted.DONE)

    def _find(self, key: str) -> StoredObject:
        stored = self.objects.get(key)
        if stored is None:
            raise errors.NotFound(f"{key}: absent", key=key)
        return stored

    def _find_upload(self, key: str, upload_id: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise errors.NoSuchUpload(f"{key}: no such upload", key=key)
        return upload


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _multipart_etag(parts: Sequence[bytes]) -> str:
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


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
