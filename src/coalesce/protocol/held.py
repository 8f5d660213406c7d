"""Records in the bucket: created, changed and removed under a condition, every time.

Whoever holds the record owns the group.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from coalesce.errors import (
    AccessDenied,
    GroupOwned,
    NotFound,
    PreconditionFailed,
    TooLong,
    Unanswered,
    Unavailable,
)
from coalesce.model import Batch, GroupId
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.protocol.lease import Claim
from coalesce.protocol.record import UNDO_MARK, PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import RecordReader
from coalesce.protocol.state import record_key
from coalesce.protocol.writes import write_state
from coalesce.storage.base import Deleted, DeleteResult, ObjectStore
from coalesce.storage.capabilities import Capabilities

_CONTENT_TYPE = "application/zlib"
_TOMBSTONE = b"removed"
_DELETE_TRIES = 4

# Bytes: what is read with one request, and what is taken in before others have their turn.
_READ_AT_ONCE = 1024**2
_TAKEN_AT_ONCE = 64 * 1024

# Seconds: half the longest pause before the second try of a delete without a condition.
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it stands in the bucket, `size` bytes long, of which only the first were read."""

    key: str
    etag: str
    size: int
    begin: bytes

    @property
    def is_undo(self) -> bool:
        """Whether it says what an undo is at, and is no plan."""
        return self.begin.startswith(UNDO_MARK)


class Held:
    """A record of this run's own, or one taken over: every change must match its ETag."""

    def __init__(self, store: ObjectStore, key: str, etag: str) -> None:
        self.key = key
        self._store = store
        self._etag = etag

    @staticmethod
    async def write(store: ObjectStore, key: str, data: bytes, group: GroupId) -> str:
        """Writes a record of a group create-only; its ETag.

        Raises GroupOwned where one stands already, StorageError.
        """
        try:
            return await write_state(
                store, key, data, if_none_match=True, content_type=_CONTENT_TYPE
            )
        except PreconditionFailed:
            message = f"{group}: another run's plan record stands on it"
            raise GroupOwned(message, key=key) from None

    async def write_again(self, data: bytes) -> bool:
        """Puts other bytes in its place; False if it is not ours any more. Raises StorageError."""
        try:
            self._etag = await write_state(
                self._store,
                self.key,
                data,
                if_match=self._etag,
                content_type=_CONTENT_TYPE,
            )
        except (PreconditionFailed, NotFound):
            return False
        return True

    async def stands(self) -> bool:
        """Whether it is there as it was last read or written here. Raises StorageError."""
        head = await self._store.head(self.key)
        return head is not None and head.etag == self._etag

    async def remove(self, capabilities: Capabilities, run_id: str, lease: Claim) -> None:
        """Removes it if it is still ours; somebody else's stays.

        Where a store knows no conditional delete a tombstone takes its place first, by `If-Match`:
        nobody can create over it. Where it knows no conditional put either, it is looked at first.
        `run_id` and `lease` are those of the run that removes it.

        Raises AccessDenied if the store refuses, StorageError; LeaseLost if others may have cleared
        the tombstone away, and recorded a plan of their own in its place.
        """
        if capabilities.conditional_delete:
            result = await self._store.delete(self.key, etag=self._etag)
        elif capabilities.conditional_delete_many and self.key.isprintable():
            (result,) = await self._store.delete_many([(self.key, self._etag)])
        elif await self._bury(capabilities.conditional_put, run_id):
            result = await self._delete_buried(lease)
        else:
            return
        _check_removed(result)

    async def _delete_buried(self, lease: Claim) -> DeleteResult:
        """Deletes what stands in the record's place, without a condition.

        A DELETE that the store has failed is sent again if what it was to remove is still there.
        One without an answer is not: it may land later, and the other then on the record of another
        run. The tombstone stays for the next run to clear away.
        """
        tries = 0
        while True:
            tries += 1
            lease.check()
            try:
                return await self._store.delete(self.key)
            except Unavailable as error:
                head = await self._store.head(self.key)
                if head is None or head.etag != self._etag:
                    return DeleteResult(self.key, Deleted.ABSENT)
                if isinstance(error, Unanswered) or tries == _DELETE_TRIES:
                    raise
            await asyncio.sleep(random.uniform(0, _PAUSE * 2**tries))

    async def _bury(self, conditional: bool, run_id: str) -> bool:
        """Whether the record was still ours and nobody can change it now."""
        if conditional:
            try:
                tombstone = _new_tombstone(run_id)
                self._etag = await write_state(
                    self._store, self.key, tombstone, if_match=self._etag
                )
            except (PreconditionFailed, NotFound):
                return False
            return True
        return await self.stands()


class HeldRecord(Held):
    """A plan record."""

    def __init__(self, store: ObjectStore, state: str, record: PlanRecord, etag: str) -> None:
        super().__init__(store, record_key(state, record.group), etag)
        self.record = record
        self._lock = asyncio.Lock()

    @classmethod
    async def create(cls, store: ObjectStore, state: str, record: PlanRecord) -> HeldRecord:
        """Records a plan, create-only. Raises GroupOwned where one stands already, StorageError."""
        key = record_key(state, record.group)
        etag = await cls.write(store, key, encode(record), record.group)
        return cls(store, state, record, etag)

    @classmethod
    async def read(
        cls, store: ObjectStore, state: str, key: str, known: Mapping[str, Layout] = LAYOUTS
    ) -> HeldRecord | None:
        """The plan record at a key, None for none. Raises RecordDamaged, StorageError."""
        stored = await find_record(store, key)
        if stored is None or stored.is_undo:
            return None
        return await cls.of(store, state, stored, known)

    @classmethod
    async def of(
        cls,
        store: ObjectStore,
        state: str,
        stored: StoredRecord,
        known: Mapping[str, Layout] = LAYOUTS,
    ) -> HeldRecord:
        """The plan record that was found, read to its end; `known` are the layouts it may have.

        Raises RecordDamaged, StorageError.
        """
        key, reader, data, at = stored.key, RecordReader(stored.key, state, known), stored.begin, 0
        while True:
            for begin in range(0, len(data), _TAKEN_AT_ONCE):
                reader.feed(data[begin : begin + _TAKEN_AT_ONCE])
                await asyncio.sleep(0)
            at += len(data)
            if at == stored.size:
                return cls(store, state, reader.finish(), stored.etag)
            length = min(_READ_AT_ONCE, stored.size - at)
            data = await _read_range(store, key, stored.etag, at, length)

    async def rewrite(self, record: PlanRecord) -> bool:
        """Replaces it; False if it is not ours any more. Raises StorageError."""
        if not await self.write_again(encode(record)):
            return False
        self.record = record
        return True

    async def replace(self, batch: Batch, entries: Sequence[RecordedBatch]) -> bool:
        """Puts other entries in a batch's place; False if the record is not ours any more."""
        async with self._lock:
            kept = (entry for entry in self.record.batches if entry.batch.digest != batch.digest)
            return await self.rewrite(replace(self.record, batches=(*kept, *entries)))


async def find_record(store: ObjectStore, key: str) -> StoredRecord | None:
    """The record at a key, None if there is none. Raises StorageError.

    A tombstone is no record.
    """
    try:
        body = await store.get(key, size=_READ_AT_ONCE)
    except NotFound:
        return None
    except TooLong:
        head = await store.head(key)
        if head is None:
            return None
        begin = await _read_range(store, key, head.etag, 0, min(_READ_AT_ONCE, head.size))
        stored = StoredRecord(key, head.etag, head.size, begin)
    else:
        stored = StoredRecord(key, body.etag, len(body.data), body.data)
    return None if stored.begin.startswith(_TOMBSTONE) else stored


async def _read_range(store: ObjectStore, key: str, etag: str, start: int, length: int) -> bytes:
    """Raises StorageError; Unavailable for a record that has changed since it was found."""
    try:
        return (await store.get(key, etag=etag, start=start, length=length)).data
    except (PreconditionFailed, NotFound) as error:
        message = f"the plan record {key!r} was written or removed while it was read"
        raise Unavailable(message, key=key, operation="GetObject") from error


async def remove_tombstone(
    store: ObjectStore,
    key: str,
    is_alive: Callable[[str], Awaitable[bool]],
    run_id: str,
    lease: Claim,
) -> None:
    """Removes what is left where a run died that was removing its record, if anything is.

    Nothing can be created over a tombstone. Of several runs that find it one deletes it: the one
    that puts its own in its place. `run_id` and `lease` are this run's. Raises GroupOwned if the
    run that left it, by its id, `is_alive`, since its delete may be on its way; AccessDenied if the
    store refuses; LeaseLost; StorageError.
    """
    try:
        body = await store.get(key)
        if not body.data.startswith(_TOMBSTONE):
            return
        owner = body.data.removeprefix(_TOMBSTONE).decode(errors="replace").split(" ")[1:2]
        if owner and await is_alive(owner[0]):
            raise GroupOwned(f"run {owner[0]} is removing its plan record", key=key)
        await write_state(store, key, _new_tombstone(run_id), if_match=body.etag)
    except (PreconditionFailed, NotFound):
        return
    lease.check()
    _check_removed(await store.delete(key))


def _check_removed(result: DeleteResult) -> None:
    if result.deleted is Deleted.REFUSED:
        message = f"the plan record {result.key!r} cannot be removed: {result.message}"
        hint = "Its outputs are proven and its sources deleted. Check s3:DeleteObject on it."
        raise AccessDenied(message, key=result.key, code=result.code, hint=hint)


def _new_tombstone(run_id: str) -> bytes:
    """A tombstone that no other writer would write, so that each knows its own."""
    return b"%b %b %b" % (_TOMBSTONE, run_id.encode(), uuid.uuid4().hex.encode())
