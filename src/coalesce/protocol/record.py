"""Plan records: a group's plan as it stands in the bucket while the group is worked on.

Whoever holds the record owns the group.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalesce.errors import (
    AccessDenied,
    GroupOwned,
    NotFound,
    PreconditionFailed,
    RecordDamaged,
    Unanswered,
    Unavailable,
)
from coalesce.model import Batch, GroupId, Source
from coalesce.naming.layouts import LAYOUTS
from coalesce.naming.sources import Sources
from coalesce.planning.batches import digest, is_single
from coalesce.protocol.lease import Claim
from coalesce.protocol.state import record_key
from coalesce.protocol.writes import write_state
from coalesce.storage.base import Body, Deleted, DeleteResult, ObjectStore
from coalesce.storage.capabilities import Capabilities

_CONTENT_TYPE = "application/zlib"
_TOMBSTONE = b"removed"
_INFLATED = 512 * 1024**2
_WRITTEN_AT_ONCE = 1000
_DELETE_TRIES = 4

# Seconds: half the longest pause before the second try of a delete without a condition.
_PAUSE = 0.2
_OTHER_VERSION = (
    "Another version of coalesce wrote it; `recover` with that version, or one from after it."
)

# What goes into a request's headers and query. Empty ones would turn a conditional delete, and the
# abort of an upload, into a delete of whatever is there.
Sent = Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")]
Whole = Annotated[int, Field(ge=0, lt=2**63)]


class StoredBatch(BaseModel):
    """A batch as it stands in the bucket: its sources as (key, ETag, size, first, last, tail)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    upload_id: Sent
    digest: str
    sources: tuple[tuple[str, Sent, Whole, Whole, Whole, str], ...] = Field(min_length=1)
    doubted: bool = False


class StoredRecord(BaseModel):
    """A record as it stands in the bucket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 1
    run_id: str
    layout: str
    directory: str
    topic: str
    partition: int
    batches: tuple[StoredBatch, ...]


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """A batch, and the upload that alone may make it appear.

    `doubted` is an output that was read back and is not what was sent: nobody deletes its sources
    on the strength of it. `may_lack_entry` says that version 0.1 recorded it, which completed
    uploads without a ledger entry.
    """

    batch: Batch
    upload_id: str
    doubted: bool = False
    may_lack_entry: bool = False


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The unfinished plan of one group."""

    run_id: str
    layout: str
    group: GroupId
    batches: tuple[RecordedBatch, ...]


def encode(record: PlanRecord) -> bytes:
    """A record as stored.

    It may name a million sources, so its JSON is written and deflated little by little.
    """
    deflater = zlib.compressobj()
    return b"".join(
        [*(deflater.compress(text.encode()) for text in _json(record)), deflater.flush()]
    )


def _json(record: PlanRecord) -> Iterator[str]:
    group = record.group
    yield _open_object(
        "batches",
        schema_version=2,
        run_id=record.run_id,
        layout=record.layout,
        directory=group.directory,
        topic=group.topic,
        partition=group.partition,
    )
    for number, entry in enumerate(record.batches):
        batch = entry.batch
        yield "," * (number > 0)
        yield _open_object(
            "sources",
            output=batch.output,
            upload_id=entry.upload_id,
            digest=batch.digest,
            doubted=entry.doubted,
        )
        for start in range(0, len(batch.sources), _WRITTEN_AT_ONCE):
            rows = [
                (s.key, s.etag, s.size, s.first, s.last, s.tail)
                for s in batch.sources[start : start + _WRITTEN_AT_ONCE]
            ]
            yield "," * (start > 0) + json.dumps(rows)[1:-1]
        yield "]}"
    yield "]}"


def _open_object(name: str, **fields: object) -> str:
    """A JSON object up to the first item of its last field, a list."""
    return f'{json.dumps(fields)[:-1]}, "{name}": ['


def decode(data: bytes, key: str, state: str) -> PlanRecord:
    """A stored record, held against its key.

    Raises RecordDamaged where it cannot be read or names anything outside its group.
    """
    stored = _parse(data, key)
    group = GroupId(stored.directory, stored.topic, stored.partition)
    if record_key(state, group) != key:
        raise RecordDamaged(f"the plan record {key!r} is about another group", key=key)
    outputs = [batch.output for batch in stored.batches]
    sources = [source[0] for batch in stored.batches for source in batch.sources]
    if not (
        _are_keys("output", outputs, stored.layout, group)
        and _are_keys("source", sources, stored.layout, group)
    ):
        raise RecordDamaged(
            f"the plan record {key!r} names keys outside its group, or some twice", key=key
        )
    record = PlanRecord(
        stored.run_id,
        stored.layout,
        group,
        tuple(_restore_batch(stored, group, batch) for batch in stored.batches),
    )
    batches = [entry.batch for entry in record.batches]
    if not all(is_single(batch) or digest(batch.sources) == batch.digest for batch in batches):
        raise RecordDamaged(f"the plan record {key!r} does not have its digest", key=key)
    return record


def _restore_batch(record: StoredRecord, group: GroupId, stored: StoredBatch) -> RecordedBatch:
    rows = (
        Source(key, size, etag, 0.0, "STANDARD", first, last, tail)
        for key, etag, size, first, last, tail in stored.sources
    )
    sources = Sources.of(group.prefix, rows)
    batch = Batch(stored.output, sources, sum(sources.sizes()), stored.digest)
    older = record.schema_version == 1
    return RecordedBatch(batch, stored.upload_id, stored.doubted, may_lack_entry=older)


def _parse(data: bytes, key: str) -> StoredRecord:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, _INFLATED)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("not whole")
        stored = StoredRecord.model_validate_json(text)
    except (zlib.error, ValueError) as error:
        if isinstance(error, ValidationError) and any(
            found["loc"] == ("schema_version",) for found in error.errors()
        ):
            raise RecordDamaged(
                f"the plan record {key!r} has another schema than this version reads",
                key=key,
                hint=_OTHER_VERSION,
            ) from error
        raise RecordDamaged(
            f"the plan record {key!r} cannot be read: {type(error).__name__}", key=key
        ) from error
    if stored.layout not in LAYOUTS:
        raise RecordDamaged(
            f"the plan record {key!r} has a layout that this version does not know",
            key=key,
            hint=_OTHER_VERSION,
        )
    return stored


def _are_keys(kind: str, keys: list[str], layout: str, group: GroupId) -> bool:
    """Whether all of these are keys of this kind, of the record's own group, and each is there
    once.
    """
    named = map(LAYOUTS[layout].parse, keys)
    return len(set(keys)) == len(keys) and all(
        name is not None and (name.kind, name.group) == (kind, group) for name in named
    )


class HeldRecord:
    """A plan record of this run's own, or one taken over: every change must match its ETag."""

    def __init__(self, store: ObjectStore, state: str, record: PlanRecord, etag: str) -> None:
        self.record = record
        self.key = record_key(state, record.group)
        self._store = store
        self._etag = etag
        self._lock = asyncio.Lock()

    @classmethod
    async def create(cls, store: ObjectStore, state: str, record: PlanRecord) -> HeldRecord:
        """Records a plan, create-only. Raises GroupOwned where one stands already, StorageError."""
        key, data = record_key(state, record.group), encode(record)
        try:
            etag = await write_state(
                store, key, data, if_none_match=True, content_type=_CONTENT_TYPE
            )
        except PreconditionFailed:
            message = f"{record.group}: another run's plan record stands on it"
            raise GroupOwned(message, key=key) from None
        return cls(store, state, record, etag)

    @classmethod
    async def read(cls, store: ObjectStore, state: str, key: str) -> HeldRecord | None:
        """The record at a key, None for none. Raises RecordDamaged, StorageError."""
        body = await read_record(store, key)
        return None if body is None else cls.of(store, state, key, body)

    @classmethod
    def of(cls, store: ObjectStore, state: str, key: str, body: Body) -> HeldRecord:
        """The record in a body that was read at a key. Raises RecordDamaged."""
        return cls(store, state, decode(body.data, key, state), body.etag)

    async def rewrite(self, record: PlanRecord) -> bool:
        """Replaces it; False if it is not ours any more. Raises StorageError."""
        try:
            self._etag = await write_state(
                self._store,
                self.key,
                encode(record),
                if_match=self._etag,
                content_type=_CONTENT_TYPE,
            )
        except (PreconditionFailed, NotFound):
            return False
        self.record = record
        return True

    async def stands(self) -> bool:
        """Whether it is there as it was last read or written here. Raises StorageError."""
        head = await self._store.head(self.key)
        return head is not None and head.etag == self._etag

    async def replace(self, batch: Batch, entries: Sequence[RecordedBatch]) -> bool:
        """Puts other entries in a batch's place; False if the record is not ours any more."""
        async with self._lock:
            kept = (entry for entry in self.record.batches if entry.batch.digest != batch.digest)
            return await self.rewrite(replace(self.record, batches=(*kept, *entries)))

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


async def read_record(store: ObjectStore, key: str) -> Body | None:
    """The record at a key as it is stored, None if there is none. Raises StorageError.

    A tombstone is no record.
    """
    try:
        body = await store.get(key)
    except NotFound:
        return None
    return None if body.data.startswith(_TOMBSTONE) else body


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
