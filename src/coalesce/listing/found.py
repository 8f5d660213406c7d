"""Whether a listing has found what was asked for, and what lies near a prefix that holds no key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches

from coalesce.errors import CoalesceError
from coalesce.listing.groups import Listing
from coalesce.model import GroupId
from coalesce.storage.base import ObjectStore

_MOST = 3


@dataclass(slots=True)
class Found:
    """What a listing of prefixes has found so far.

    Attributes:
        empty: Those that hold no key.
        covers: Whether a group is in scope.
        in_scope: Whether any group is.
        other_group: A group that is not; empty if there is none.
        other_keys: Keys that are neither a source's nor an output's.
        other_key: The first of them.
    """

    empty: set[str]
    covers: Callable[[GroupId], bool]
    in_scope: bool = False
    other_group: str = ""
    other_keys: int = 0
    other_key: str = ""

    def add(self, listing: Listing) -> None:
        """Takes in one piece of the listing."""
        self.empty -= {prefix for prefix in self.empty if listing.prefix.startswith(prefix)}
        for group in (*listing.groups, *listing.outputs_only):
            if self.covers(group.id):
                self.in_scope = True
            else:
                self.other_group = self.other_group or str(group.id)
        self.other_keys += listing.other_keys
        self.other_key = self.other_key or listing.other_key

    def add_failed(self, pieces: Iterable[str]) -> None:
        """Takes in the prefixes of pieces that could not be listed: what they hold is unknown."""
        failed = tuple(pieces)
        self.empty -= {
            prefix for prefix in self.empty if any(piece.startswith(prefix) for piece in failed)
        }


def closest(wanted: str, names: Iterable[str]) -> tuple[str, ...]:
    """Returns at most three of the names, those most like the wanted one first."""
    return tuple(get_close_matches(wanted, list(names), n=_MOST, cutoff=0.0))


async def find_empty(store: ObjectStore, prefixes: Iterable[str]) -> list[str]:
    """Returns those of the prefixes that hold no key: one request for each.

    One that cannot be listed is not known to be empty.
    """
    empty = []
    for prefix in prefixes:
        with suppress(CoalesceError):
            if not (await store.list_page(prefix, max_keys=1)).objects:
                empty.append(prefix)
    return empty


async def find_neighbours(
    store: ObjectStore, empty: Iterable[str], state_prefix: str
) -> dict[str, tuple[str, ...]]:
    """Returns, for each prefix that holds no key, some that do: see `find_nearby`."""
    return {prefix: await find_nearby(store, prefix, state_prefix) for prefix in sorted(empty)}


async def find_nearby(store: ObjectStore, prefix: str, state_prefix: str) -> tuple[str, ...]:
    """Returns prefixes that do hold keys: the neighbours of this one, or of the nearest one above.

    One request for each step up, at the most. Nothing where the bucket is empty, or where the right
    to list it ends.
    """
    while prefix:
        wanted, prefix = prefix, _above(prefix)
        try:
            page = await store.list_page(prefix, delimiter="/")
        except CoalesceError:
            return ()
        if names := set(page.prefixes) - {state_prefix}:
            return closest(wanted, names)
        if page.objects and prefix:
            return (prefix,)
    return ()


def _above(prefix: str) -> str:
    head, slash, _ = prefix.removesuffix("/").rpartition("/")
    return head + slash
