"""What stands under the state prefix: records of unfinished plans, and leases of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coalesce.listing.pages import all_pages
from coalesce.model import ObjectInfo
from coalesce.naming.shards import Shard
from coalesce.protocol.lease import Rival, read_rival
from coalesce.protocol.state import leases_prefix, records_prefix
from coalesce.protocol.together import all_of, both
from coalesce.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What earlier runs left under the state prefix, and what others are at.

    Attributes:
        records: Keys of plan records of groups under the roots, the run's own groups first.
        rivals: Leases of other runs.
        date: When this was seen, in seconds since the epoch by the store's clock.
    """

    records: tuple[str, ...]
    rivals: tuple[Rival, ...]
    date: float


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a run works, and what it settles.

    Attributes:
        layout: The layout's name.
        prefixes: Where it lists: with their dates.
        roots: The prefixes as they were given, without dates. What dead runs left under them is
            settled, whatever date, shard or layout they worked with.
        shard: Whose groups it works on.
        owns: Whether the group of a key, or of the prefix of one, is the run's.
    """

    layout: str
    prefixes: tuple[str, ...]
    roots: tuple[str, ...]
    shard: Shard
    owns: Callable[[str], bool]

    def has(self, group: str) -> bool:
        """Whether a group, by its name, is one that the run works on."""
        return group.startswith(self.prefixes) and self.owns(f"{group}_")

    def holds(self, rival: Rival) -> bool:
        """Whether another run worked under these roots alone: then this one can clean up after it.

        A run without prefixes only probed.
        """
        return all(prefix.startswith(self.roots) for prefix in rival.record.prefixes)

    def meets(self, rival: Rival) -> bool:
        """Whether another run works on groups that may be this run's too."""
        return overlap(self.prefixes, rival.record.prefixes) and rival.record.meets(
            self.layout, self.shard
        )


def overlap(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether a key may lie under both."""
    return any(a.startswith(b) or b.startswith(a) for a in some for b in others)


async def survey(store: ObjectStore, state: str, ground: Ground) -> Leftovers:
    """Finds what is unfinished: two requests where nothing is, and one more for each lease.

    Keys that end with a slash are folders of somebody's console. Raises StorageError.
    """
    # A run whose record is listed may have taken its lease after the leases were listed:
    # `Rivals.is_alive` then looks for that lease.
    records, (rivals, date) = await both(
        find_records(store, state, ground), find_rivals(store, state)
    )
    return Leftovers(records, rivals, date)


async def find_records(store: ObjectStore, state: str, ground: Ground) -> tuple[str, ...]:
    """The keys of plan records of groups under the roots, the run's own groups first. Raises
    StorageError.
    """
    groups = records_prefix(state)
    records: list[str] = []
    async for page in all_pages(store, groups):
        names = (entry.key.removeprefix(groups) for entry in page.objects)
        records += [name for name in names if name.startswith(ground.roots) and name[-1] != "/"]
    records.sort(key=lambda name: not ground.owns(f"{name}_"))
    return tuple(f"{groups}{name}" for name in records)


async def find_rivals(store: ObjectStore, state: str) -> tuple[tuple[Rival, ...], float]:
    """All leases, and when they were listed, by the store's clock. Raises StorageError."""
    leases: list[ObjectInfo] = []
    date = 0.0
    async for page in all_pages(store, leases_prefix(state)):
        date = date or page.date
        leases += [entry for entry in page.objects if not entry.key.endswith("/")]
    rivals = await all_of(read_rival(store, entry, date) for entry in leases)
    return tuple(found for found in rivals if found), date
