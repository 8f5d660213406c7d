"""How large outputs have to be for a goal: so many objects in all, or so long a list of paths.

Everything under the prefixes is listed for it, before the run begins.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from dataclasses import dataclass, field

from coalesce.errors import CoalesceError, UsageError
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group
from coalesce.planning.batches import plan
from coalesce.planning.growth import grow
from coalesce.planning.rules import Limits, Scope
from coalesce.report.report import path_characters
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore
from coalesce.storage.limits import MAX_OBJECT_BYTES


@dataclass(slots=True)
class Census:
    """What lies under the prefixes: all keys, and the groups that the run may work on."""

    settings: Settings
    keys: int = 0
    key_characters: int = 0
    groups: list[Group] = field(default_factory=list)

    def add(self, listing: Listing) -> None:
        """Takes in one piece of the listing."""
        scope = Scope.of(self.settings)
        self.keys += listing.keys
        self.key_characters += listing.key_characters
        listed = (*listing.groups, *(listing.outputs_only if self.settings.grow else ()))
        self.groups += [group for group in listed if scope.covers(group.id)]

    def after(self, max_size: int) -> tuple[int, int]:
        """How many objects there would be after a run with outputs of at most so many bytes, and
        the length of the list of their paths.
        """
        settings = self.settings
        limits = Limits.of(settings.model_copy(update={"max_size": max_size}))
        layout, keys, characters = settings.chosen_layout, self.keys, self.key_characters
        for group in self.groups:
            for batch in plan(grow(group, layout, limits), layout, limits).batches:
                keys += 1 - len(batch.sources)
                characters += len(batch.output) - sum(len(source.key) for source in batch.sources)
        return keys, path_characters(settings.bucket, keys, characters)


def size_for(census: Census) -> int:
    """The bytes of the largest output: as by default, or as often doubled as the goal needs.

    Raises UsageError if no size reaches the goal.
    """
    settings = census.settings
    sizes = [settings.max_size]
    while sizes[-1] * 2 <= MAX_OBJECT_BYTES:
        sizes.append(sizes[-1] * 2)

    def is_reached(size: int) -> bool:
        objects, characters = census.after(size)
        return (settings.max_objects is None or objects <= settings.max_objects) and (
            settings.max_path_list is None or characters <= settings.max_path_list
        )

    at = bisect_left(sizes, True, key=is_reached)
    if at < len(sizes):
        return sizes[at]
    objects, characters = census.after(sizes[-1])
    raise UsageError(
        f"the goal cannot be reached: whatever their size, {objects:,} objects with a path list of "
        f"{characters:,} characters are left",
        hint="Sources that are young, alone or not whole stay, and each topic-partition of each "
        "directory keeps an output; `coalesce status` shows them.",
    )


async def settings_for_goal(store: ObjectStore, settings: Settings) -> Settings:
    """The settings with the size of outputs that their goal needs; the same without a goal.

    Raises UsageError if the goal cannot be reached, and CoalesceError if it is not known what lies
    under the prefixes.
    """
    if not settings.has_goal:
        return settings
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    await store.check_access(prefixes[0])
    census, failures = Census(settings), list[CoalesceError]()

    async def take(listing: Listing) -> None:
        census.add(listing)

    await list_groups(
        store,
        prefixes,
        settings.chosen_layout,
        state_prefix=settings.state_prefix,
        on_listing=take,
        on_failure=failures.append,
    )
    if failures:
        raise failures[0]
    none = {"max_objects": None, "max_path_list": None}
    return settings.model_copy(update={"max_size": size_for(census), **none})
