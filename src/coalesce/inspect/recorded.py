"""Which ledger entry an output was written with, and whether it is still what the entry says."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from coalesce.errors import IntegrityError
from coalesce.inspect.places import Places
from coalesce.protocol.commit import stored_checksum
from coalesce.protocol.entry_reader import Entry, FoundEntry, describes, open_entry
from coalesce.protocol.ledger import EntryHeader
from coalesce.storage.base import Head, ObjectStore

_MISMATCH = (
    "Bring back a good version of it if the bucket keeps versions; "
    'see "Exit code 4" in docs/operations.md.'
)


class Standing(enum.StrEnum):
    """What became of an output since its ledger entry was written."""

    INTACT = "intact"  # plan, size and checksum are the entry's
    UNSUMMED = "unsummed"  # plan and size are; the store shows no checksum
    CHANGED = "changed"  # another object has its key
    GONE = "gone"

    @classmethod
    def of(cls, header: EntryHeader, head: Head | None) -> Standing:
        """Returns it from what HEAD says of the output now."""
        if head is None:
            return cls.GONE
        if not describes(header, head):
            return cls.CHANGED
        return cls.INTACT if stored_checksum(head, header)[0] else cls.UNSUMMED


async def entry_of(
    store: ObjectStore, state: str, head: Head, found: Sequence[FoundEntry]
) -> Entry:
    """The entry that an output was written with: the latest of the `found` ones that is about it.

    `found` are its entries, at least one. Raises IntegrityError if none of them is about this
    object, RecordDamaged for one that cannot be read, StorageError.
    """
    entries = [await open_entry(store, state, each) for each in found]
    entries.sort(key=lambda entry: entry.header.written)
    for entry in reversed(entries):
        if describes(entry.header, head):
            return entry
    raise IntegrityError(
        f"{head.key}: {_difference(entries[-1].header, head)}",
        key=head.key,
        code="LedgerMismatch",
        hint=_MISMATCH,
    )


async def places_of(entry: Entry) -> Places:
    """Where each source of an output is, from an entry that was read to its end.

    Raises RecordDamaged for an entry that contradicts itself, StorageError.
    """
    places = Places(entry.header.output, entry.header.gzip)
    async for line in entry.sources():
        places.add(line)
    return places


def _difference(header: EntryHeader, head: Head) -> str:
    """In what an object is not what an entry says."""
    if head.size != header.size:
        return f"has {head.size:,} bytes, its ledger entry says {header.size:,}"
    stored, wanted = stored_checksum(head, header)
    if stored and stored != wanted:
        return f"has the checksum {stored}, its ledger entry says {wanted}"
    return "was made from other sources than its ledger entry says"
