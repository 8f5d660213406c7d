"""One try of one guarantee of a store, with objects of its own, judged by looking afterwards."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from coalesce.errors import (
    AccessDenied,
    BadRequest,
    ConditionIgnored,
    NoSuchUpload,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    StorageError,
)
from coalesce.model import UploadedPart
from coalesce.protocol.lease import Claim
from coalesce.protocol.together import all_of, both
from coalesce.storage import checksums
from coalesce.storage.base import Deleted, DeleteResult, ObjectStore, OpenUpload
from coalesce.storage.checksums import Checksum

_RACERS = 5

_METADATA = {"coalesce-probe": "kept"}


class Seen(enum.Enum):
    """What a trial has shown of a guarantee. One that only seems to lack is tried again."""

    KEPT = "kept"
    LACKING = "lacking"
    SEEMS_LACKING = "seems lacking"


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
class Trial:
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
        except StorageError as error:
            refused = isinstance(error, AccessDenied | BadRequest | NotImplementedByStore)
            if error.repeated or not refused:
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

    async def _compare(self, key: str, kept: bytes, lost: bytes | None) -> Seen:
        """What an object shows after a refusal: `lost` is what it would hold (None: nothing) if the
        condition had been ignored. A body that is neither was misread.
        """
        found = await self._data(key)
        if found == kept:
            return Seen.KEPT
        return Seen.LACKING if found == lost else Seen.SEEMS_LACKING

    async def _win(self, racers: list[Callable[[], Awaitable[object]]]) -> int:
        """How many of some requests, of which one alone may succeed, do."""

        async def loses(racer: Callable[[], Awaitable[object]]) -> bool:
            return await self._is_refused(racer())  # nothing is begun if it is cancelled before

        return (await all_of(map(loses, racers))).count(False)

    async def create_only_put(self) -> Seen:
        """If-None-Match on PutObject, and of several at once one alone wins."""
        key = self._key("put")
        await self.store.put(key, b"first")
        if not await self._is_refused(self.store.put(key, b"second", if_none_match=True)):
            return Seen.LACKING
        if (seen := await self._compare(key, b"first", b"second")) is not Seen.KEPT:
            return seen
        raced = self._key("race")
        bodies = [b"%d" % n for n in range(_RACERS)]
        won = await self._win(
            [partial(self.store.put, raced, body, if_none_match=True) for body in bodies]
        )
        if won > 1:
            return Seen.LACKING
        return Seen.KEPT if won else Seen.SEEMS_LACKING

    async def conditional_put(self) -> Seen:
        """If-Match on PutObject: the present ETag let through, then refused as an old one."""
        key = self._key("replace")
        etag = await self.store.put(key, b"first")
        if not await self._succeeds(self.store.put(key, b"second", if_match=etag)):
            return Seen.SEEMS_LACKING
        if not await self._is_refused(self.store.put(key, b"third", if_match=etag)):
            return Seen.LACKING
        return await self._compare(key, b"second", b"third")

    async def conditional_get(self) -> Seen:
        """If-Match on GetObject."""
        key = self._key("get")
        old = await self.store.put(key, b"first")
        await self.store.put(key, b"second")
        refused = await self._is_refused(self.store.get(key, etag=old))
        return Seen.KEPT if refused else Seen.LACKING

    async def create_only_complete(self) -> Seen:
        """If-None-Match on Complete, and of several at once one alone wins."""
        taken = self._key("complete")
        uploads = [("complete", b"second"), *(("race", b"%d" % n) for n in range(_RACERS))]
        _, ((key, upload, part), *racers) = await both(
            self.store.put(taken, b"first"), all_of(self._upload(*each) for each in uploads)
        )
        if not await self._is_refused(self._complete(key, upload, part)):
            return Seen.LACKING
        if (seen := await self._compare(key, b"first", b"second")) is not Seen.KEPT:
            return seen
        won = await self._win([partial(self._complete, *racer) for racer in racers])
        if won > 1:
            return Seen.LACKING
        return Seen.KEPT if won else Seen.SEEMS_LACKING

    async def _complete(
        self, key: str, upload: str, part: UploadedPart, *, create_only: bool = True
    ) -> None:
        await self.store.complete_upload(
            key, upload, [part], checksum=Checksum.NONE, create_only=create_only
        )

    async def upload_metadata(self) -> Seen:
        """HEAD shows the metadata that an upload was created with."""
        key, upload, part = await self._upload("metadata", b"data", metadata=_METADATA)
        if not await self._succeeds(self._complete(key, upload, part, create_only=False)):
            return Seen.SEEMS_LACKING
        head = await self.store.head(key)
        if head is None:
            return Seen.SEEMS_LACKING
        return Seen.KEPT if head.metadata.items() >= _METADATA.items() else Seen.LACKING

    async def fence(self) -> Seen:
        """An aborted upload can no longer be completed."""
        key, upload, part = await self._upload("fence", b"late")
        try:
            await self.store.abort_upload(key, upload)
        except NotImplementedByStore:
            return Seen.LACKING
        try:
            if not await self._is_refused(self._complete(key, upload, part, create_only=False)):
                return Seen.LACKING
        except StorageError:
            if not await self._aborts_by_its_listing():
                raise
        return Seen.KEPT if await self._data(key) is None else Seen.LACKING

    async def _aborts_by_its_listing(self) -> bool:
        """Whether the store lists an upload until it is aborted, and then no more: the proof of
        stores that fail at a Complete after it (moto answers 500).
        """
        key, upload = await self._create("listed", Checksum.NONE)
        before = await self.store.list_uploads(key)
        await self.store.abort_upload(key, upload)
        after = await self.store.list_uploads(key)
        return any(o.upload_id == upload for o in before) and not after

    async def conditional_delete(self) -> Seen:
        """If-Match on DeleteObject."""
        key = self._key("delete")
        old = await self.store.put(key, b"first")
        new = await self.store.put(key, b"second")
        await self._delete(key, etag=old)
        if (seen := await self._compare(key, b"second", None)) is not Seen.KEPT:
            return seen
        await self._delete(key, etag=new)
        return Seen.KEPT if await self._data(key) is None else Seen.SEEMS_LACKING

    async def conditional_delete_many(self) -> Seen:
        """An ETag for each key of DeleteObjects."""
        changed, same = self._key("changed"), self._key("same")
        old, etag = await all_of([self.store.put(changed, b"first"), self.store.put(same, b"same")])
        await self.store.put(changed, b"second")
        try:
            results = await self.store.delete_many([(changed, old), (same, etag)])
        except (BadRequest, NotImplementedByStore):
            return Seen.LACKING
        for result in results:
            if result.code == "AccessDenied":
                _raise_if_refused(result, "DeleteObjects")
        if (seen := await self._compare(changed, b"second", None)) is not Seen.KEPT:
            return seen
        return Seen.KEPT if await self._data(same) is None else Seen.SEEMS_LACKING

    async def copy_condition(self) -> Seen:
        """Also that a copied part's sum is answered: the sum of the whole is combined from it."""
        source = self._key("source")
        old = await self.store.put(source, b"first")
        new = await self.store.put(source, b"second")
        try:
            target, upload = await self._create("target", Checksum.CRC64NVME)
            if not await self._is_refused(self._copy(target, upload, source, old)):
                return Seen.LACKING
            part = await self._copy(target, upload, source, new)
        except (AccessDenied, BadRequest, NotImplementedByStore, PreconditionFailed):
            return Seen.LACKING
        whole = checksums.encode(checksums.crc64([b"second"]))
        return Seen.KEPT if part.checksum == whole else Seen.LACKING

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

    async def full_object_checksum(self) -> Seen:
        """A wrong CRC64NVME of the whole refused, and the right one accepted."""
        try:
            kept = await all_of(self._heeds_sum_of(data) for data in (b"wrong", b"right"))
        except (BadRequest, NotImplementedByStore):
            return Seen.LACKING
        return Seen.KEPT if all(kept) else Seen.LACKING

    async def _heeds_sum_of(self, data: bytes) -> bool:
        """Whether an upload of b"right" is completed with the sum of `data` if that is its own, and
        refused otherwise.
        """
        mode, right = Checksum.CRC64NVME, data == b"right"
        key, upload, part = await self._upload(data.decode(), b"right", mode)
        value = checksums.encode(checksums.crc64([data]))
        request = self.store.complete_upload(
            key, upload, [part], checksum=mode, value=value, create_only=False
        )
        if await self._is_refused(request) is right:
            return False
        return (await self._data(key) is None) is not right

    async def composite_checksum(self) -> Seen:
        """A wrong CRC32 of a part refused, and HEAD shows that of all parts."""
        mode = Checksum.CRC32
        wrong = checksums.part_checksum([b"wrong"], mode)
        try:
            key, upload, part = await self._upload("composite", b"right", mode)
            request = self.store.upload_part(key, upload, 2, [b"right"], checksum=mode, value=wrong)
            if not await self._is_refused(request):
                return Seen.LACKING
            await self.store.complete_upload(key, upload, [part], checksum=mode, create_only=False)
        except (BadRequest, NotImplementedByStore):
            return Seen.LACKING
        head = await self.store.head(key)
        expected = checksums.composite([part.checksum])
        shown = head.checksum.get("CRC32") if head else None
        return Seen.KEPT if shown == expected else Seen.LACKING
