"""Undo records: which output is being given back as the sources that it was made of, and through
which uploads.

One stands at the key of its group's plan record, so that a group is joined or given back, and never
both at once. It is a mark, and zlib of one JSON object.
"""

from __future__ import annotations

import enum
import zlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from coalesce.errors import RecordDamaged, UndoUnfinished
from coalesce.model import GroupId
from coalesce.naming.layouts import LAYOUTS
from coalesce.protocol.held import Held, StoredRecord
from coalesce.protocol.record import UNDO_MARK
from coalesce.protocol.record_reader import Sent, Whole
from coalesce.protocol.state import record_key
from coalesce.storage.base import Head, ObjectStore

# Bytes of a record that is believed, and of what it inflates to: many times those of one that names
# a page of uploads with the longest keys.
_LONGEST = 1024**2
_LONGEST_TEXT = 4 * 1024**2

_MEND = (
    "Nothing in this group was touched. Compare the output that it names with the sources beside "
    "it, then move the record away."
)


class Phase(enum.Enum):
    """How far an undo is. There is no way back from the last two: a delete that was sent may take
    effect later, and nothing makes it impossible.
    """

    NEW = "new"  # nothing was written
    GIVING = "giving"  # sources may have been written
    DELETING = "deleting"  # all sources were proven, and the output may be deleted
    TAKING_BACK = "taking back"  # sources that were written may be deleted again


class UndoRecord(BaseModel):
    """What is undone.

    Attributes:
        run_id: Of the run that does it.
        layout: The name of the layout that the output was made by.
        output: Its key.
        upload_id: Of the upload that it came from: by it its ledger entry is found.
        etag: As it was before.
        size: Its bytes.
        began: Sources of it that were there before this time, in whole seconds since the epoch by
            the store's clock, are not this undo's.
        phase: How far it is.
        uploads: Keys of sources, and the uploads that alone may make them appear.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    run_id: str
    layout: str
    directory: str
    topic: str
    partition: int
    output: str
    upload_id: Sent
    etag: Sent
    size: Whole
    began: float
    phase: Phase = Phase.NEW
    uploads: tuple[tuple[str, Sent], ...] = ()

    @property
    def group(self) -> GroupId:
        """Whose sources they are."""
        return GroupId(self.directory, self.topic, self.partition)


def unfinished(record: UndoRecord) -> UndoUnfinished:
    """The failure of a command that leaves an undo record alone."""
    message = f"{record.output}: its undo was begun and not finished"
    return UndoUnfinished(message, key=record.output)


class Standing(enum.Enum):
    """What stands where an undo's output stood."""

    THERE = "the output, as it was"
    DELETED = "not the output any more: this undo has deleted it"
    LOST = "nothing, and this undo has not deleted it"
    REPLACED = "another object"


def judge(record: UndoRecord, head: Head | None) -> Standing:
    """What stands where the output of a record stood, by its HEAD.

    Once all sources were proven, whatever else is there is somebody's who came later.
    """
    if head is not None and (head.etag, head.size) == (record.etag, record.size):
        return Standing.THERE
    if record.phase is Phase.DELETING:
        return Standing.DELETED
    return Standing.LOST if head is None else Standing.REPLACED


def encode(record: UndoRecord) -> bytes:
    """A record as stored."""
    return UNDO_MARK + zlib.compress(record.model_dump_json().encode())


def decode(data: bytes, key: str, state: str) -> UndoRecord:
    """A stored record, held against its key.

    Raises RecordDamaged where it cannot be read, or names anything outside its group.
    """
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data.removeprefix(UNDO_MARK), _LONGEST_TEXT)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("not whole, or too long")
        record = UndoRecord.model_validate_json(text)
    except (zlib.error, ValidationError, ValueError) as error:
        message = f"the undo record {key!r} cannot be read: {type(error).__name__}"
        raise RecordDamaged(message, key=key, hint=_MEND) from error
    if record_key(state, record.group) != key or not _names_its_own(record):
        message = f"the undo record {key!r} names keys outside its group"
        raise RecordDamaged(message, key=key, hint=_MEND)
    return record


def _names_its_own(record: UndoRecord) -> bool:
    layout = LAYOUTS.get(record.layout)
    if layout is None:
        return False
    named = [(layout.parse(record.output), "output")]
    named += [(layout.parse(key), "source") for key, _ in record.uploads]
    return all(
        name is not None and (name.kind, name.group) == (kind, record.group) for name, kind in named
    )


class HeldUndo(Held):
    """An undo record."""

    def __init__(self, store: ObjectStore, state: str, record: UndoRecord, etag: str) -> None:
        super().__init__(store, record_key(state, record.group), etag)
        self.record = record

    @classmethod
    async def create(cls, store: ObjectStore, state: str, record: UndoRecord) -> HeldUndo:
        """Records an undo, create-only.

        Raises GroupOwned where a record stands already, StorageError.
        """
        key = record_key(state, record.group)
        etag = await cls.write(store, key, encode(record), record.group)
        return cls(store, state, record, etag)

    @classmethod
    def of(cls, store: ObjectStore, state: str, stored: StoredRecord) -> HeldUndo:
        """The record that was found. Raises RecordDamaged."""
        if stored.size > _LONGEST or len(stored.begin) != stored.size:
            message = f"the undo record {stored.key!r} cannot be read: it is too long"
            raise RecordDamaged(message, key=stored.key, hint=_MEND)
        return cls(store, state, decode(stored.begin, stored.key, state), stored.etag)

    async def rewrite(self, record: UndoRecord) -> bool:
        """Replaces it; False if it is not ours any more. Raises StorageError."""
        if not await self.write_again(encode(record)):
            return False
        self.record = record
        return True
