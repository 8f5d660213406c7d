"""The narrow protocol between the job and an object store.

Every method is one S3 request (or its own bounded retries) against one bucket. All of them raise
`StorageError` or a subclass, never anything of the library underneath; a failure that is not one of
the named subclasses means that the effect is unknown. ETags are passed as the store lists them,
quotes included.
"""

from __future__ import annotations

import enum
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from coalesce.model import ObjectInfo, UploadedPart
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import LIST_PAGE


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to ListObjectsV2.

    `token` is None on the last page; `date` is the answer's Date header in seconds since the epoch.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    token: str | None
    date: float


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes of one GET.

    `checksum` maps algorithm names to base64 values, only for a whole object with a full-object
    checksum.
    """

    data: bytes
    etag: str
    checksum: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD says of an object.

    `checksum` as in `Body`, composite values (`...-N`) included; metadata names are lower case.
    """

    key: str
    size: int
    etag: str
    metadata: Mapping[str, str]
    content_type: str = ""
    checksum: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that is neither completed nor aborted.

    `initiated` is in seconds since the epoch by the store's clock, 0 where it does not say.
    """

    key: str
    upload_id: str
    initiated: float = 0.0


class CreatedUpload(NamedTuple):
    """A new upload. `repeated` says that the request was sent more than once: then another upload
    may be open whose id nobody knows.
    """

    upload_id: str
    repeated: bool = False


class Deleted(enum.Enum):
    """What became of one key of a delete."""

    DONE = "deleted"
    ABSENT = "absent"  # was not there
    CHANGED = "changed"  # the ETag did not match: kept
    REFUSED = "refused"  # any other error: kept, as far as is known


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """The answer for one key."""

    key: str
    deleted: Deleted
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class Usage:
    """What was asked of the store so far: sent requests by S3 operation name, and body bytes both
    ways.

    `seconds` is how long the answers took, by operation, those under way at once added up;
    `checking` is the CPU time of looking at bodies, in seconds.
    """

    requests: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    throttled: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    checking: float = 0.0

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """One request, as a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[operation] += time.perf_counter() - begun

    def add(self, other: Usage) -> None:
        """What another client of the same bucket has asked."""
        self.requests.update(other.requests)
        self.retries += other.retries
        self.throttled += other.throttled
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for operation, seconds in other.seconds.items():
            self.seconds[operation] += seconds
        self.checking += other.checking


class ObjectStore(Protocol):
    """One bucket."""

    usage: Usage

    async def check_access(self) -> None:
        """Raises ConfigurationError where nothing can be done in the bucket: not there,
        credentials, network.
        """
        ...

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = LIST_PAGE,
    ) -> Page:
        """ListObjectsV2: at most `max_keys` keys and common prefixes that begin with `prefix`."""
        ...

    async def get(
        self, key: str, *, etag: str = "", start: int = 0, length: int | None = None
    ) -> Body:
        """GetObject with If-Match `etag`; with `length`, only the bytes [start, start + length).

        A body that breaks off or differs in length from what its headers announce is a retried and
        then raised `Unavailable`. Raises PreconditionFailed where the object has another ETag (also
        when the store ignores If-Match: the answer's ETag is compared), NotFound, Archived,
        AccessDenied.
        """
        ...

    async def head(self, key: str) -> Head | None:
        """HeadObject with ChecksumMode. None means a 404, nothing else does."""
        ...

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
        """PutObject, create-only with `if_none_match`, replace-only with `if_match`; the new ETag.

        Raises PreconditionFailed (412), Conflict (409), NotFound (`if_match` and the key is
        absent).
        """
        ...

    async def create_upload(
        self, key: str, *, checksum: Checksum, metadata: Mapping[str, str], content_type: str = ""
    ) -> CreatedUpload:
        """CreateMultipartUpload (CRC64NVME as FULL_OBJECT, CRC32 as COMPOSITE).

        After a StorageError that is no refusal an upload may be open whose id nobody knows.
        """
        ...

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
        """UploadPart of the joined `pieces`, with their checksum `value` (base64) in the upload's
        algorithm. Raises NoSuchUpload, BadRequest.
        """
        ...

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
        """UploadPartCopy of [start, start + length) of `source` under x-amz-copy-source-if-match.

        Raises PreconditionFailed, NotFound, NoSuchUpload.
        """
        ...

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
        """CompleteMultipartUpload, If-None-Match: * with `create_only`; for CRC64NVME with the
        expected full-object `value` (base64).

        Raises PreconditionFailed (412), Conflict (409), NoSuchUpload, BadRequest, AccessDenied;
        anything else leaves the effect unknown.
        """
        ...

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """AbortMultipartUpload. An upload that is gone already is no error."""
        ...

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """ListMultipartUploads, all pages: the open uploads under `prefix`."""
        ...

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        """DeleteObject, with If-Match where `etag` is given.

        Refusals are results, lost answers are raised.
        """
        ...

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        """DeleteObjects of at most 1,000 (key, ETag) pairs, verbose; an empty ETag means
        unconditional.

        One result for every target, in their order; a key that the answer does not mention is
        REFUSED.
        """
        ...
