"""Which guarantees a store really keeps: tried under the state prefix, and judged by looking
afterwards, since a 200 proves nothing.

A probe shows that a guarantee is there, never that it is atomic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from coalesce.errors import (
    AccessDenied,
    BadRequest,
    ConditionIgnored,
    NotFound,
    NotImplementedByStore,
    StorageError,
    Unavailable,
)
from coalesce.model import UploadedPart
from coalesce.storage import checksums
from coalesce.storage.base import ObjectStore, OpenUpload
from coalesce.storage.capabilities import Capabilities, weaker_modes
from coalesce.storage.checksums import Checksum

_RACERS = 5


async def probe(store: ObjectStore, prefix: str) -> Capabilities:
    """Tries every guarantee with small objects under `prefix`, and removes them.

    Raises StorageError where the store cannot even be tried.

    A guarantee that seems missing while answers were lost is tried once more.
    """
    seen, doubtful = await _try_all(store, f"{prefix}1/")
    if doubtful and weaker_modes(seen):
        seen, _ = await _try_all(store, f"{prefix}2/")
    return seen


async def _try_all(store: ObjectStore, prefix: str) -> tuple[Capabilities, bool]:
    trial = _Trial(store, prefix)
    try:
        put, matching, getting, complete = await asyncio.gather(
            trial.create_only_put(),
            trial.conditional_put(),
            trial.conditional_get(),
            trial.create_only_complete(),
        )
        fence, single, many, copying, checksum = await asyncio.gather(
            trial.fence(),
            trial.conditional_delete(),
            trial.conditional_delete_many(),
            trial.copy_condition(),
            trial.checksum(),
        )
    finally:
        await trial.tidy_up()
    if trial.untidy and await open_uploads(store, prefix):
        store.usage.orphans += 1
    return Capabilities(
        put, matching, getting, complete, fence, single, many, copying, checksum
    ), trial.doubtful


async def open_uploads(store: ObjectStore, prefix: str) -> list[OpenUpload]:
    """The open uploads under a prefix; none where the store cannot list them.

    Raises StorageError.
    """
    try:
        return await store.list_uploads(prefix)
    except NotImplementedByStore:
        return []


class _Trial:
    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._keys: list[str] = []
        self._uploads: list[tuple[str, str]] = []
        self.doubtful = False  # whether an answer was lost
        self.untidy = False  # whether an abort was refused

    def _key(self, name: str) -> str:
        key = f"{self._prefix}{name}"
        self._keys.append(key)
        return key

    async def _upload(
        self, name: str, data: bytes, checksum: Checksum = Checksum.NONE
    ) -> tuple[str, str, UploadedPart]:
        key = self._key(name)
        upload = await self._store.create_upload(key, checksum=checksum, metadata={})
        self._uploads.append((key, upload))
        value = checksums.part_checksum([data], checksum)
        return (
            key,
            upload,
            await self._store.upload_part(key, upload, 1, [data], checksum=checksum, value=value),
        )

    async def tidy_up(self) -> None:
        """Removes what was tried: all of it that can be, then raises StorageError for the rest.

        Objects last: an upload can no longer put one back.
        """
        aborted = await asyncio.gather(
            *(self._abort(key, upload) for key, upload in self._uploads), return_exceptions=True
        )
        deleted = await asyncio.gather(
            *(self._store.delete(key) for key in dict.fromkeys(self._keys)), return_exceptions=True
        )
        failures = [
            outcome for outcome in (*aborted, *deleted) if isinstance(outcome, BaseException)
        ]
        if failures:
            raise failures[0]

    async def _abort(self, key: str, upload: str) -> None:
        """Of an upload that was completed some stores say neither that it is gone nor that it is
        none.
        """
        try:
            await self._store.abort_upload(key, upload)
        except (AccessDenied, BadRequest):
            self.untidy = True

    async def _tried(self, request: Awaitable[object]) -> bool:
        """Whether the store said yes. Its refusals are answers; what it did is looked at apart."""
        try:
            await request
        except StorageError as error:
            self._note(error)
            return False
        return True

    def _note(self, error: StorageError) -> None:
        self.doubtful |= isinstance(error, Unavailable)

    async def _data(self, key: str) -> bytes | None:
        try:
            return (await self._store.get(key)).data
        except NotFound:
            return None

    async def create_only_put(self) -> bool:
        key = self._key("put")
        await self._store.put(key, b"first")
        await self._tried(self._store.put(key, b"second", if_none_match=True))
        raced = self._key("put-race")
        won = await asyncio.gather(
            *(
                self._tried(self._store.put(raced, b"%d" % n, if_none_match=True))
                for n in range(_RACERS)
            )
        )
        return await self._data(key) == b"first" and sum(won) == 1

    async def conditional_put(self) -> bool:
        key = self._key("replace")
        old = await self._store.put(key, b"first")
        new = await self._store.put(key, b"second")
        await self._tried(self._store.put(key, b"third", if_match=old))
        if await self._data(key) != b"second":
            return False
        replaced = await self._tried(self._store.put(key, b"fourth", if_match=new))
        return replaced and await self._data(key) == b"fourth"

    async def conditional_get(self) -> bool:
        key = self._key("get")
        old = await self._store.put(key, b"first")
        await self._store.put(key, b"second")
        try:
            await self._store.get(key, etag=old)
        except ConditionIgnored:
            return False
        except StorageError as error:
            self._note(error)
            return True
        return False

    async def create_only_complete(self) -> bool:
        key, upload, part = await self._upload("complete", b"second")
        await self._store.put(key, b"first")
        await self._tried(self._store.complete_upload(key, upload, [part], checksum=Checksum.NONE))
        if await self._data(key) != b"first":
            return False
        racers = [await self._upload("complete-race", b"%d" % n) for n in range(_RACERS)]
        won = await asyncio.gather(
            *(
                self._tried(self._store.complete_upload(k, u, [p], checksum=Checksum.NONE))
                for k, u, p in racers
            )
        )
        return sum(won) == 1

    async def fence(self) -> bool:
        key, upload, part = await self._upload("fence", b"late")
        if not await self._tried(self._store.abort_upload(key, upload)):
            return False
        await self._tried(self._store.complete_upload(key, upload, [part], checksum=Checksum.NONE))
        return await self._data(key) is None

    async def conditional_delete(self) -> bool:
        key = self._key("delete")
        old = await self._store.put(key, b"first")
        new = await self._store.put(key, b"second")
        await self._tried(self._store.delete(key, etag=old))
        if await self._data(key) != b"second":
            return False
        await self._tried(self._store.delete(key, etag=new))
        return await self._data(key) is None

    async def conditional_delete_many(self) -> bool:
        changed, same = self._key("delete-many-changed"), self._key("delete-many-same")
        old = await self._store.put(changed, b"first")
        await self._store.put(changed, b"second")
        etag = await self._store.put(same, b"same")
        await self._tried(self._store.delete_many([(changed, old), (same, etag)]))
        return await self._data(changed) == b"second" and await self._data(same) is None

    async def copy_condition(self) -> bool:
        """Also that a copied part's sum is answered: the whole's expected sum is combined from
        it.
        """
        source = self._key("copy-source")
        old = await self._store.put(source, b"first")
        new = await self._store.put(source, b"second")
        target = self._key("copy-target")
        try:
            upload = await self._store.create_upload(
                target, checksum=Checksum.CRC64NVME, metadata={}
            )
        except StorageError as error:
            self._note(error)
            return False
        self._uploads.append((target, upload))
        arguments = {"source": source, "start": 0, "length": 6, "checksum": Checksum.CRC64NVME}
        if await self._tried(self._store.copy_part(target, upload, 1, etag=old, **arguments)):  # type: ignore[arg-type]
            return False
        try:
            part = await self._store.copy_part(target, upload, 1, etag=new, **arguments)  # type: ignore[arg-type]
        except StorageError as error:
            self._note(error)
            return False
        return part.checksum == checksums.encoded(checksums.crc64([b"second"]))

    async def checksum(self) -> Checksum:
        if await self._full_object():
            return Checksum.CRC64NVME
        if await self._composite():
            return Checksum.CRC32
        return Checksum.NONE

    async def _full_object(self) -> bool:
        right, wrong = (checksums.encoded(checksums.crc64([data])) for data in (b"right", b"wrong"))
        try:
            key, upload, part = await self._upload("full-object", b"right", Checksum.CRC64NVME)
        except StorageError as error:
            self._note(error)
            return False
        await self._tried(
            self._store.complete_upload(
                key, upload, [part], checksum=Checksum.CRC64NVME, value=wrong
            )
        )
        if await self._data(key) is not None:
            return False
        key, upload, part = await self._upload("full-object-right", b"right", Checksum.CRC64NVME)
        await self._tried(
            self._store.complete_upload(
                key, upload, [part], checksum=Checksum.CRC64NVME, value=right
            )
        )
        return await self._data(key) == b"right"

    async def _composite(self) -> bool:
        try:
            key, upload, part = await self._upload("composite", b"right", Checksum.CRC32)
            wrong = checksums.part_checksum([b"wrong"], Checksum.CRC32)
            if await self._tried(
                self._store.upload_part(
                    key, upload, 2, [b"right"], checksum=Checksum.CRC32, value=wrong
                )
            ):
                return False
            await self._store.complete_upload(key, upload, [part], checksum=Checksum.CRC32)
            head = await self._store.head(key)
        except StorageError as error:
            self._note(error)
            return False
        return head is not None and head.checksum.get("CRC32") == checksums.composite(
            [part.checksum]
        )
