"""What stands under the state prefix: records of unfinished plans, and leases of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coalesce.listing.pages import all_pages
from coalesce.model import ObjectInfo
from coalesce.naming.shards import Shard
from coalesce.protocol.lease import Rival, read_rival
from coalesce.protocol.state import lease_key, records_prefix
from coalesce.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What stands under the state prefix: keys of plan records of groups in scope, and runs'
    leases.
    """

    records: tuple[str, ...]
    rivals: tuple[Rival, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a run works.

    `owns` says of any key whether its group is the run's: one of its `shard`.
    """

    layout: str
    prefixes: tuple[str, ...]
    shard: Shard
    owns: Callable[[str], bool]

    def holds(self, rival: Rival) -> bool:
        """Whether another run works, or worked, nowhere but here: then this one can clean up after
        it. One without prefixes only probed.
        """
        theirs = rival.record.prefixes
        here = rival.record.layout == self.layout and rival.record.share.within(self.shard)
        return not theirs or (here and all(prefix.startswith(self.prefixes) for prefix in theirs))

    def meets(self, rival: Rival) -> bool:
        """Whether another run works here too."""
        nearby = any(
            a.startswith(b) or b.startswith(a) for a in rival.record.prefixes for b in self.prefixes
        )
        return nearby and rival.record.share.meets(self.shard)


async def survey(store: ObjectStore, state: str, ground: Ground) -> Leftovers:
    """One request where nothing is unfinished, and one more per lease.

    Raises StorageError; keys that end with a slash are folders of somebody's console.
    """
    groups = records_prefix(state)
    records: list[str] = []
    leases: list[ObjectInfo] = []
    pages = [page async for page in all_pages(store, state)]
    date = pages[0].date
    for entry in (entry for page in pages for entry in page.objects if not entry.key.endswith("/")):
        group = entry.key.removeprefix(groups)
        if entry.key.startswith(groups):
            if group.startswith(ground.prefixes) and ground.owns(f"{group}_"):
                records.append(entry.key)
        elif entry.key.startswith(lease_key(state, "")):
            leases.append(entry)
    rivals = [await read_rival(store, entry, date) for entry in leases]
    return Leftovers(tuple(records), tuple(found for found in rivals if found))
