"""Which ledger entries outputs have, and whether an output is still what its entry says."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from coalesce.errors import IntegrityError
from coalesce.inspect.places import Places
from coalesce.model import GroupId
from coalesce.naming.layouts import Layout
from coalesce.protocol.commit import stored_checksum
from coalesce.protocol.entry_reader import (
    Entry,
    FoundEntry,
    describes,
    entries_under,
    open_entry,
)
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


class LedgerListing:
    """The entries of outputs of one layout, listed group by group. Raises StorageError."""

    def __init__(self, store: ObjectStore, state: str, layout: Layout) -> None:
        self._store = store
        self._state = state
        self._layout = layout
        self._listed: set[GroupId] = set()

    async def of_group(self, group: GroupId) -> dict[str, list[FoundEntry]]:
        """The entries of a group, by their outputs."""
        self._listed.add(group)
        entries: dict[str, list[FoundEntry]] = defaultdict(list)
        async for found in entries_under(self._store, self._state, group.prefix):
            if self.group_of(found.output) == group:
                entries[found.output].append(found)
        return entries

    async def of_other_groups(self, prefix: str) -> AsyncIterator[tuple[GroupId, FoundEntry]]:
        """Yields the entries under a prefix whose groups were not asked for, with their groups."""
        async for found in entries_under(self._store, self._state, prefix):
            group = self.group_of(found.output)
            if group is not None and group not in self._listed:
                yield group, found

    def group_of(self, output: str) -> GroupId | None:
        """The group of an output of this layout, None for what is none."""
        named = self._layout.parse(output)
        return named.group if named is not None and named.kind == "output" else None


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
    places = Places(entry.header.output, entry.header.content_rules)
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
