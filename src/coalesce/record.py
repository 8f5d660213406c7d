"""Plan records: a group's plan as it stands in the bucket while the group is worked on. Whoever holds the record owns the group."""

from __future__ import annotations

import zlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalesce.errors import GroupOwned, NotFound, PreconditionFailed, RecordDamaged, StorageError
from coalesce.model import Batch, GroupId, Source
from coalesce.naming import LAYOUTS
from coalesce.planning import digest
from coalesce.storage.base import ObjectStore

_CONTENT_TYPE = "application/zlib"
_INFLATED = 512 * 1024**2
_OTHER_VERSION = "Another version of coalesce wrote it; `recover` with that version, or one from after it."

# What goes into a request's headers and query. Empty ones would turn a conditional delete, and the abort of an upload, into a delete of whatever is there.
Sent = Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")]
Whole = Annotated[int, Field(ge=0)]


class RecordedBatch(BaseModel):
    """One batch: where it goes, the upload that alone may make it appear, and its sources as (key, ETag, size, first, last, tail).

    `doubted` is an output that was read back and is not what was sent: nobody deletes its sources on the strength of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    upload_id: Sent
    digest: str
    sources: tuple[tuple[str, Sent, Whole, Whole, Whole, str], ...] = Field(min_length=1)
    doubted: bool = False

    def batch(self) -> Batch:
        """The batch as planned."""
        sources = tuple(Source(key, size, etag, 0.0, "STANDARD", first, last, tail) for key, etag, size, first, last, tail in self.sources)
        return Batch(self.output, sources, sum(source.size for source in sources), self.digest)


class PlanRecord(BaseModel):
    """The unfinished plan of one group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    run_id: str
    layout: str
    directory: str
    topic: str
    partition: int
    batches: tuple[RecordedBatch, ...]

    @property
    def group(self) -> GroupId:
        """The group it stands for."""
        return GroupId(self.directory, self.topic, self.partition)


def records_prefix(state: str) -> str:
    """What the keys of all plan records begin with."""
    return f"{state}groups/"


def record_key(state: str, group: GroupId) -> str:
    """The one key at which a plan of this group can be recorded."""
    return f"{records_prefix(state)}{group}"


def group_of(state: str, key: str) -> GroupId:
    """The group whose plan record stands at this key. Raises ValueError if none can."""
    name, _, partition = key.removeprefix(records_prefix(state)).rpartition("_")
    cut = name.rfind("/") + 1
    return GroupId(name[:cut], name[cut:], int(partition))


def recorded(batch: Batch, upload_id: str) -> RecordedBatch:
    """A batch as it is written down."""
    sources = tuple((s.key, s.etag, s.size, s.first, s.last, s.tail) for s in batch.sources)
    return RecordedBatch(output=batch.output, upload_id=upload_id, digest=batch.digest, sources=sources)


def encode(record: PlanRecord) -> bytes:
    """A record as stored."""
    return zlib.compress(record.model_dump_json().encode())


def decode(data: bytes, key: str, state: str) -> PlanRecord:
    """A stored record, held against its key. Raises RecordDamaged where it cannot be read or names anything outside its group."""
    record = _parsed(data, key)
    if record_key(state, record.group) != key:
        raise RecordDamaged(f"the plan record {key!r} is about another group", key=key)
    outputs = [batch.output for batch in record.batches]
    sources = [source[0] for batch in record.batches for source in batch.sources]
    if not (_are("output", outputs, record) and _are("source", sources, record)):
        raise RecordDamaged(f"the plan record {key!r} names keys outside its group, or some twice", key=key)
    if any(digest(batch.batch().sources) != batch.digest for batch in record.batches):
        raise RecordDamaged(f"the plan record {key!r} does not have its digest", key=key)
    return record


def _parsed(data: bytes, key: str) -> PlanRecord:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, _INFLATED)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("not whole")
        record = PlanRecord.model_validate_json(text)
    except (zlib.error, ValueError) as error:
        if isinstance(error, ValidationError) and any(found["loc"] == ("schema_version",) for found in error.errors()):
            raise RecordDamaged(f"the plan record {key!r} has another schema than this version reads", key=key, hint=_OTHER_VERSION) from error
        raise RecordDamaged(f"the plan record {key!r} cannot be read: {type(error).__name__}", key=key) from error
    if record.layout not in LAYOUTS:
        raise RecordDamaged(f"the plan record {key!r} has a layout that this version does not know", key=key, hint=_OTHER_VERSION)
    return record


def _are(kind: str, keys: list[str], record: PlanRecord) -> bool:
    """Whether all of these are keys of this kind, of the record's own group, and each is there once."""
    parse = LAYOUTS[record.layout].parse
    named = map(parse, keys)
    return len(set(keys)) == len(keys) and all(name is not None and (name.kind, name.group) == (kind, record.group) for name in named)


class HeldRecord:
    """A plan record of this run's own, or one taken over: its ETag is what every change must match."""

    def __init__(self, store: ObjectStore, state: str, record: PlanRecord, etag: str) -> None:
        self.record = record
        self._state = state
        self._store = store
        self._key = record_key(state, record.group)
        self._etag = etag

    @classmethod
    async def create(cls, store: ObjectStore, state: str, record: PlanRecord) -> HeldRecord:
        """Records a plan, create-only. Raises GroupOwned where one stands already."""
        key = record_key(state, record.group)
        try:
            etag = await store.put(key, encode(record), if_none_match=True, content_type=_CONTENT_TYPE)
        except StorageError as error:
            held = await cls._mine(store, state, key, record)
            if held is None and isinstance(error, PreconditionFailed):
                raise GroupOwned(f"{record.group}: another run's plan record stands on it", key=key) from None
            if held is None:
                raise
            return held
        return cls(store, state, record, etag)

    @classmethod
    async def _mine(cls, store: ObjectStore, state: str, key: str, record: PlanRecord) -> HeldRecord | None:
        """After a lost answer, or the 412 that a repeated request gets from its own first try: the record, if it was written after all.

        Upload ids make it unmistakable.
        """
        try:
            found = await cls.read(store, state, key)
        except (StorageError, RecordDamaged):
            return None
        return found if found is not None and found.record == record else None

    @classmethod
    async def read(cls, store: ObjectStore, state: str, key: str) -> HeldRecord | None:
        """The record at a key, None if there is none any more. Raises RecordDamaged."""
        try:
            body = await store.get(key)
        except NotFound:
            return None
        return cls(store, state, decode(body.data, key, state), body.etag)

    async def rewrite(self, record: PlanRecord) -> bool:
        """Replaces it; False if it is not ours any more."""
        try:
            self._etag = await self._store.put(self._key, encode(record), if_match=self._etag, content_type=_CONTENT_TYPE)
        except StorageError as error:
            held = await self._mine(self._store, self._state, self._key, record)
            if held is None and isinstance(error, PreconditionFailed | NotFound):
                return False
            if held is None:
                raise
            self._etag = held._etag
        self.record = record
        return True

    async def remove(self, *, conditional: bool) -> None:
        """Removes it if it is still ours; somebody else's stays. A store without `conditional` deletes is looked at first."""
        if not conditional:
            head = await self._store.head(self._key)
            if head is None or head.etag != self._etag:
                return
        await self._store.delete(self._key, etag=self._etag)
