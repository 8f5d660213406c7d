"""Which guarantees a store really keeps: tried under the state prefix, and judged by looking
afterwards, since a 200 proves nothing.

A probe shows that a guarantee is there, never that it is atomic. Only a refusal counts as a
condition kept, and only a plain success against a false condition as one ignored: silence, 5xx and
cut bodies are neither, and are tried again.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coalesce.errors import (
    AccessDenied,
    BadRequest,
    ConditionIgnored,
    ConfigurationError,
    NoSuchUpload,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    StorageError,
    Unavailable,
)
from coalesce.model import UploadedPart
from coalesce.protocol.lease import Claim
from coalesce.storage import checksums
from coalesce.storage.base import Deleted, DeleteResult, ObjectStore, OpenUpload
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum

_RACERS = 5

# How often a guarantee is tried that was not seen either to hold or to lack.
_TRIES = 4

_METADATA = {"coalesce-probe": "kept"}

# The rights that requests need (AWS service authorization reference, S3).
_ACTIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectsV2": "s3:ListBucket",
}


class _Seen(enum.Enum):
    """What a trial has shown of a guarantee. One that only seems to lack is tried again."""

    KEPT = "kept"
    LACKING = "lacking"
    SEEMS_LACKING = "seems lacking"


async def probe(store: ObjectStore, prefix: str, lease: Claim) -> Capabilities:
    """Tries every guarantee with small objects under `prefix`, and removes them.

    An upload that may stay open marks the lease untidy. Raises ConfigurationError that names a
    missing right, Unavailable where a guarantee that a run needs can be neither seen nor ruled out,
    StorageError.
    """
    prober = _Prober(store, prefix, lease)
    try:
        return await prober.run()
    except AccessDenied as error:
        raise _missing_right(error, prefix) from error


def _missing_right(error: AccessDenied, prefix: str) -> ConfigurationError:
    action = _ACTIONS.get(error.operation, "a right")
    message = f"{action} is missing on {prefix!r}: {error.message}"
    hint = f"Grant {action} under the state prefix; `coalesce policy` prints what a run needs."
    return ConfigurationError(
        message, key=error.key, code=error.code, request_id=error.request_id, hint=hint
    )


async def open_uploads(store: ObjectStore, prefix: str) -> list[OpenUpload]:
    """The open uploads under a prefix; none where the store cannot list them.

    Raises StorageError.
    """
    try:
        return await store.list_uploads(prefix)
    except NotImplementedByStore:
        return []


def _raise_if_refused(result: DeleteResult, operation: str) -> None:
    if result.deleted is Deleted.REFUSED:
        kind = AccessDenied if result.code == "AccessDenied" else StorageError
        raise kind(result.message, key=result.key, code=result.code, operation=operation)


@dataclass(slots=True)
class _Prober:
    store: ObjectStore
    prefix: str
    lease: Claim

    async def run(self) -> Capabilities:
        put, replace, get, complete, metadata, fence, one, many, copy, full = await asyncio.gather(
            self._need("create-only PutObject", _Trial.create_only_put),
            self._need("conditional PutObject", _Trial.conditional_put),
            self._want(_Trial.conditional_get),
            self._need("create-only Complete", _Trial.create_only_complete),
            self._need("metadata of uploads", _Trial.upload_metadata),
            self._need("the end of aborted uploads", _Trial.fence),
            self._want(_Trial.conditional_delete),
            self._want(_Trial.conditional_delete_many),
            self._want(_Trial.copy_condition),
            self._want(_Trial.full_object_checksum),
        )
        if not (one or many):
            one = await self._need("conditional deletes", _Trial.conditional_delete)
        checksum = Checksum.CRC64NVME
        if not full:
            composite = await self._want(_Trial.composite_checksum)
            checksum = Checksum.CRC32 if composite else Checksum.NONE
        return Capabilities(
            create_only_put=put,
            conditional_put=replace,
            conditional_get=get,
            create_only_complete=complete,
            fence=fence,
            conditional_delete=one,
            conditional_delete_many=many,
            copy_condition=copy,
            upload_metadata=metadata,
            checksum=checksum,
        )

    async def _want(self, trial: Callable[[_Trial], Awaitable[_Seen]]) -> bool:
        """Whether a guarantee holds; one of which nothing can be known is done without."""
        try:
            return await self._try(trial)
        except Unavailable:
            return False

    async def _need(self, name: str, trial: Callable[[_Trial], Awaitable[_Seen]]) -> bool:
        """Whether a guarantee holds that a run cannot do without."""
        try:
            return await self._try(trial)
        except Unavailable as error:
            message = f"whether the store keeps {name} cannot be told: {error.message}"
            raise Unavailable(message, key=error.key, request_id=error.request_id) from error

    async def _try(self, trial: Callable[[_Trial], Awaitable[_Seen]]) -> bool:
        """Tries with fresh keys until something is certain. Raises Unavailable if nothing is."""
        doubt: StorageError | None = None
        for attempt in range(1, _TRIES + 1):
            keys = _Trial(self.store, f"{self.prefix}{trial.__name__}-{attempt}/", self.lease)
            try:
                seen = await trial(keys)
            except (AccessDenied, NotImplementedByStore):
                raise
            except StorageError as error:
                doubt = error
                continue
            finally:
                await keys.tidy_up()
            if seen is not _Seen.SEEMS_LACKING:
                return seen is _Seen.KEPT
            doubt = None
        if doubt is not None:
            raise Unavailable(doubt.message, key=doubt.key, request_id=doubt.request_id)
        return False


@dataclass(slots=True)
class _Trial:
    """One try of one guarantee, with keys of its own.

    A method returns what it has seen, and raises StorageError where it has seen nothing.
    """

    store: ObjectStore
    prefix: str
    lease: Claim
    keys: list[str] = field(default_factory=list)
    uploads: list[tuple[str, str]] = field(default_factory=list)

    def _key(self, name: str) -> str:
        key = f"{self.prefix}{name}"
        self.keys.append(key)
        return key

    async def _create(
        self, name: str, checksum: Checksum, metadata: dict[str, str] | None = None
    ) -> tuple[str, str]:
        key = self._key(name)
        try:
            created = await self.store.create_upload(
                key, checksum=checksum, metadata=metadata or {}
            )
        except (AccessDenied, BadRequest, NotImplementedByStore):
            raise
        except StorageError:
            self.lease.mark_untidy()
            raise
        if created.repeated:
            self.lease.mark_untidy()
        self.uploads.append((key, created.upload_id))
        return key, created.upload_id

    async def _upload(
        self,
        name: str,
        data: bytes,
        checksum: Checksum = Checksum.NONE,
        metadata: dict[str, str] | None = None,
    ) -> tuple[str, str, UploadedPart]:
        key, upload = await self._create(name, checksum, metadata)
        value = checksums.part_checksum([data], checksum)
        part = await self.store.upload_part(key, upload, 1, [data], checksum=checksum, value=value)
        return key, upload, part

    async def tidy_up(self) -> None:
        """Removes what was tried, objects last: an upload can no longer put one back.

        What cannot be removed is left to a sweep.
        """
        aborted = await asyncio.gather(
            *(self.store.abort_upload(key, upload) for key, upload in self.uploads),
            return_exceptions=True,
        )
        deleted = await asyncio.gather(
            *(self._delete(key) for key in dict.fromkeys(self.keys)), return_exceptions=True
        )
        kept = [result for result in deleted if isinstance(result, BaseException)]
        open_still = [result for result in aborted if isinstance(result, BaseException)]
        if kept or (open_still and await self._leaves_uploads()):
            self.lease.mark_untidy()
        for failure in (*kept, *open_still):
            if not isinstance(failure, StorageError):
                raise failure
        for failure in kept:
            if isinstance(failure, AccessDenied):
                raise failure

    async def _leaves_uploads(self) -> bool:
        """Some stores refuse the abort of an upload that was completed: then nothing is open."""
        try:
            return bool(await open_uploads(self.store, self.prefix))
        except StorageError:
            return True

    async def _is_refused(self, request: Awaitable[object]) -> bool:
        """Whether a request with a false condition is refused. Raises StorageError if neither a
        refusal nor a success comes back.
        """
        try:
            await request
        except (ConditionIgnored, NotImplementedByStore):
            return False
        except (PreconditionFailed, BadRequest, NoSuchUpload):
            return True
        return False

    async def _succeeds(self, request: Awaitable[object]) -> bool:
        """Whether a request with a true condition is let through."""
        return not await self._is_refused(request)

    async def _delete(self, key: str, etag: str = "") -> None:
        _raise_if_refused(await self.store.delete(key, etag=etag), "DeleteObject")

    async def _data(self, key: str) -> bytes | None:
        try:
            return (await self.store.get(key)).data
        except NotFound:
            return None

    async def _win(self, racers: list[Awaitable[object]]) -> int:
        """How many of some requests, of which one alone may succeed, do."""
        refused = await asyncio.gather(*map(self._is_refused, racers))
        return len(refused) - sum(refused)

    async def create_only_put(self) -> _Seen:
        key = self._key("put")
        await self.store.put(key, b"first")
        if not await self._is_refused(self.store.put(key, b"second", if_none_match=True)):
            return _Seen.LACKING
        if await self._data(key) != b"first":
            return _Seen.LACKING
        raced = self._key("race")
        bodies = [b"%d" % n for n in range(_RACERS)]
        won = await self._win([self.store.put(raced, body, if_none_match=True) for body in bodies])
        if won > 1:
            return _Seen.LACKING
        return _Seen.KEPT if won else _Seen.SEEMS_LACKING

    async def conditional_put(self) -> _Seen:
        key = self._key("replace")
        old = await self.store.put(key, b"first")
        new = await self.store.put(key, b"second")
        if not await self._is_refused(self.store.put(key, b"third", if_match=old)):
            return _Seen.LACKING
        if await self._data(key) != b"second":
            return _Seen.LACKING
        if not await self._succeeds(self.store.put(key, b"fourth", if_match=new)):
            return _Seen.SEEMS_LACKING
        return _Seen.KEPT if await self._data(key) == b"fourth" else _Seen.SEEMS_LACKING

    async def conditional_get(self) -> _Seen:
        key = self._key("get")
        old = await self.store.put(key, b"first")
        await self.store.put(key, b"second")
        refused = await self._is_refused(self.store.get(key, etag=old))
        return _Seen.KEPT if refused else _Seen.LACKING

    async def create_only_complete(self) -> _Seen:
        key, upload, part = await self._upload("complete", b"second")
        await self.store.put(key, b"first")
        if not await self._is_refused(self._complete(key, upload, part)):
            return _Seen.LACKING
        if await self._data(key) != b"first":
            return _Seen.LACKING
        racers = [await self._upload("race", b"%d" % n) for n in range(_RACERS)]
        won = await self._win([self._complete(*racer) for racer in racers])
        if won > 1:
            return _Seen.LACKING
        return _Seen.KEPT if won else _Seen.SEEMS_LACKING

    async def _complete(self, key: str, upload: str, part: UploadedPart) -> None:
        await self.store.complete_upload(key, upload, [part], checksum=Checksum.NONE)

    async def upload_metadata(self) -> _Seen:
        key, upload, part = await self._upload("metadata", b"data", metadata=_METADATA)
        if not await self._succeeds(self._complete(key, upload, part)):
            return _Seen.SEEMS_LACKING
        head = await self.store.head(key)
        if head is None:
            return _Seen.SEEMS_LACKING
        return _Seen.KEPT if head.metadata.items() >= _METADATA.items() else _Seen.LACKING

    async def fence(self) -> _Seen:
        key, upload, part = await self._upload("fence", b"late")
        await self.store.abort_upload(key, upload)
        if not await self._is_refused(self._complete(key, upload, part)):
            return _Seen.LACKING
        return _Seen.KEPT if await self._data(key) is None else _Seen.LACKING

    async def conditional_delete(self) -> _Seen:
        key = self._key("delete")
        old = await self.store.put(key, b"first")
        new = await self.store.put(key, b"second")
        await self._delete(key, etag=old)
        if await self._data(key) != b"second":
            return _Seen.LACKING
        await self._delete(key, etag=new)
        return _Seen.KEPT if await self._data(key) is None else _Seen.SEEMS_LACKING

    async def conditional_delete_many(self) -> _Seen:
        changed, same = self._key("changed"), self._key("same")
        old = await self.store.put(changed, b"first")
        await self.store.put(changed, b"second")
        etag = await self.store.put(same, b"same")
        try:
            results = await self.store.delete_many([(changed, old), (same, etag)])
        except (BadRequest, NotImplementedByStore):
            return _Seen.LACKING
        for result in results:
            if result.code == "AccessDenied":
                _raise_if_refused(result, "DeleteObjects")
        if await self._data(changed) != b"second":
            return _Seen.LACKING
        return _Seen.KEPT if await self._data(same) is None else _Seen.SEEMS_LACKING

    async def copy_condition(self) -> _Seen:
        """Also that a copied part's sum is answered: the sum of the whole is combined from it."""
        source = self._key("source")
        old = await self.store.put(source, b"first")
        new = await self.store.put(source, b"second")
        try:
            target, upload = await self._create("target", Checksum.CRC64NVME)
            if not await self._is_refused(self._copy(target, upload, source, old)):
                return _Seen.LACKING
            part = await self._copy(target, upload, source, new)
        except (AccessDenied, BadRequest, NotImplementedByStore, PreconditionFailed):
            return _Seen.LACKING
        whole = checksums.encoded(checksums.crc64([b"second"]))
        return _Seen.KEPT if part.checksum == whole else _Seen.LACKING

    async def _copy(self, target: str, upload: str, source: str, etag: str) -> UploadedPart:
        return await self.store.copy_part(
            target,
            upload,
            1,
            source=source,
            etag=etag,
            start=0,
            length=len(b"second"),
            checksum=Checksum.CRC64NVME,
        )

    async def full_object_checksum(self) -> _Seen:
        """A wrong CRC64NVME of the whole refused, and the right one accepted."""
        values = {data: checksums.encoded(checksums.crc64([data])) for data in (b"right", b"wrong")}
        mode = Checksum.CRC64NVME
        try:
            for name in (b"wrong", b"right"):
                key, upload, part = await self._upload(name.decode(), b"right", mode)
                request = self.store.complete_upload(
                    key, upload, [part], checksum=mode, value=values[name]
                )
                if await self._is_refused(request) is (name == b"right"):
                    return _Seen.LACKING
                if (await self._data(key) is None) is (name == b"right"):
                    return _Seen.LACKING
        except (BadRequest, NotImplementedByStore):
            return _Seen.LACKING
        return _Seen.KEPT

    async def composite_checksum(self) -> _Seen:
        """A wrong CRC32 of a part refused, and HEAD shows that of all parts."""
        mode = Checksum.CRC32
        wrong = checksums.part_checksum([b"wrong"], mode)
        try:
            key, upload, part = await self._upload("composite", b"right", mode)
            request = self.store.upload_part(key, upload, 2, [b"right"], checksum=mode, value=wrong)
            if not await self._is_refused(request):
                return _Seen.LACKING
            await self.store.complete_upload(key, upload, [part], checksum=mode)
        except (BadRequest, NotImplementedByStore):
            return _Seen.LACKING
        head = await self.store.head(key)
        expected = checksums.composite([part.checksum])
        shown = head.checksum.get("CRC32") if head else None
        return _Seen.KEPT if shown == expected else _Seen.LACKING
