"""The narrow protocol between the job and an object store.

Every method is one S3 request (or its own bounded retries) against one bucket. All of them raise
`StorageError` or a subclass, never anything of the library underneath; a failure that is not one of
the named subclasses means that the effect is unknown. ConfigurationError is raised where no request
can succeed before a person changes something. ETags are passed as the store lists them, quotes
included; sizes, lengths and offsets are in bytes.
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
from coalesce.storage.attributes import NO_ATTRIBUTES, Attributes
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import LIST_PAGE


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to ListObjectsV2.

    `token` leads to the next page, None on the last one; `date` is the answer's Date header in
    seconds since the epoch.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    token: str | None
    date: float


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of one GET.

    `checksum` maps the names of algorithms to base64 values; it is empty for a range, and for an
    object without a full-object checksum. `kms` says that the object is encrypted under a key of
    KMS, so that its ETag is no MD5 (S3 API reference, "Object"). `attributes` are the headers that
    say what the object is; `tags` is how many tags it has, as far as the caller may know.
    """

    data: bytes
    etag: str
    checksum: Mapping[str, str] = field(default_factory=dict)
    kms: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD says about an object.

    `checksum`, `attributes` and `tags` as in `Body`, composite checksums (`...-N`) included; names
    of metadata are lower case. `archived` says that it has to be restored before it can be read.
    """

    key: str
    size: int
    etag: str
    metadata: Mapping[str, str]
    attributes: Mapping[str, str] = field(default_factory=dict)
    checksum: Mapping[str, str] = field(default_factory=dict)
    tags: int = 0
    archived: bool = False


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
    """What became of one key; `code` and `message` are the store's where it refused."""

    key: str
    deleted: Deleted
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class Usage:
    """What the store has been asked so far: requests by S3 operation, and body bytes both ways.

    `seconds` is how long the answers took, by operation, requests in flight together added up;
    `checking` is the CPU time of checking bodies, in seconds.
    """

    requests: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    throttled: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    checking: float = 0.0

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:
        """Adds the time of the block to the operation's."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[operation] += time.perf_counter() - began

    def add(self, other: Usage) -> None:
        """Adds what another client of the same bucket has asked."""
        self.requests.update(other.requests)
        self.retries += other.retries
        self.throttled += other.throttled
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for operation, seconds in other.seconds.items():
            self.seconds[operation] += seconds
        self.checking += other.checking


class ObjectStore(Protocol):
    """One bucket.

    Attributes:
        usage: What it has been asked so far.
        md5_etags: Whether the ETag of an object that was put here was seen to be the MD5 of its
            bytes.
    """

    usage: Usage
    md5_etags: bool

    async def check_access(self, prefix: str) -> None:
        """Raises ConfigurationError if the bucket cannot be used: absent, credentials, network.

        Lists one key under `prefix`, and nothing else. That the right to do so is missing is no
        reason to raise it.
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
        """ListObjectsV2: at most `max_keys` keys and common prefixes that begin with `prefix`.

        `token` is that of the page before. Raises ListingError for an answer that contradicts
        itself.
        """
        ...

    async def get(
        self,
        key: str,
        *,
        etag: str = "",
        start: int = 0,
        length: int | None = None,
        size: int | None = None,
    ) -> Body:
        """GetObject with If-Match `etag`; with `length`, only the bytes [start, start + length).

        `size` is that of the whole object, if it is known: no byte after it is read, nor any after
        a range. A body that breaks off or differs in length from what its headers announce, and
        one of a range that is not that range, is retried, then raised as Unavailable. Raises
        TooLong if the object has more bytes than `size`, PreconditionFailed if it has another ETag
        (also when the store ignores If-Match: the answer's ETag is compared), NotFound, Archived,
        AccessDenied.
        """
        ...

    async def head(self, key: str) -> Head | None:
        """HeadObject with ChecksumMode; None for an object that is absent.

        The answer to a HEAD has no body that could say NoSuchKey. So a 404 counts only if S3 itself
        gave it, which its request id shows, or if a GET of the key is answered with NoSuchKey; any
        other is raised as Unavailable.
        """
        ...

    async def get_tags(self, key: str) -> dict[str, str]:
        """GetObjectTagging. Raises NotFound, AccessDenied."""
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

        Raises PreconditionFailed (412), Conflict (409), NotFound (`if_match` of an absent key).
        """
        ...

    async def create_upload(
        self,
        key: str,
        *,
        checksum: Checksum,
        metadata: Mapping[str, str],
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> CreatedUpload:
        """CreateMultipartUpload (CRC64NVME as FULL_OBJECT, CRC32 as COMPOSITE).

        `metadata` is this program's own, besides that among the `attributes`.

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
        """UploadPart of the joined `pieces`; `value` is their checksum in base64, empty for none.

        `checksum` is the upload's algorithm. Raises NoSuchUpload, BadRequest.
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
        """CompleteMultipartUpload, with If-None-Match: * if `create_only`.

        `value` is the CRC64NVME that the whole object must have, in base64, for an upload with that
        checksum. Raises PreconditionFailed (412), Conflict (409), NoSuchUpload, BadRequest,
        AccessDenied; anything else leaves the effect unknown.
        """
        ...

    async def abort_upload(self, key: str, upload_id: str) -> None:
        """AbortMultipartUpload. It is no error if the upload is gone already."""
        ...

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        """ListMultipartUploads, all pages: the open uploads under `prefix`.

        Raises ListingError for pages that do not come to an end.
        """
        ...

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        """DeleteObject, with If-Match if `etag` is given.

        Refusals are results; a lost answer is raised as Unavailable. What is absent when the
        request is repeated counts as deleted by an earlier try. Without a condition it is sent
        once: whoever asks has just looked at the object, and has to look again.
        """
        ...

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        """DeleteObjects of at most 1,000 (key, ETag) pairs, verbose; an empty ETag means
        unconditional.

        One result for every target, in their order; a key that the answer does not mention is
        REFUSED. What is absent when the request is repeated counts as deleted by an earlier try.
        """
        ...
