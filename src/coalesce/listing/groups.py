"""Groups, found by listing prefixes: many at once, each group complete when its own part of the key
space is.

A prefix is listed flat; one that does not fit a page is split where S3 splits it (`Delimiter`), as
long as its pieces are worth a request of their own. The split only cuts the key space: keys are
grouped by what they say, and no order is trusted.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from coalesce.errors import CoalesceError, ListingError, StorageError, first_failure
from coalesce.listing.pages import _page, _Repeated, all_pages
from coalesce.model import ExistingOutput, Group, GroupId, ObjectInfo
from coalesce.naming.layouts import Layout, output_of, source_of
from coalesce.naming.shards import WHOLE, Shard
from coalesce.naming.sources import SourcesBuilder
from coalesce.storage.base import ObjectStore, Page

# A page is 1,000 keys; below this many keys per piece, listing on costs fewer requests than listing
# every piece.
_WORTH_A_REQUEST = 50

# A prefix that ends like this may be a group: below it nothing is split.
_MAY_BE_GROUP = re.compile(r"_\d+_$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listing:
    """What one piece of the key space held of a shard's own: groups with sources, those with
    outputs only, and keys that are neither.
    """

    groups: tuple[Group, ...]
    outputs_only: tuple[Group, ...]
    other_keys: int
    other_bytes: int
    keys: int
    key_characters: int


@dataclass(slots=True)
class _Piece:
    """What is known of a piece while it is listed."""

    layout: Layout
    ignored: str
    shard: Shard
    date: float = 0.0
    keys: int = 0
    other_keys: int = 0
    other_bytes: int = 0
    key_characters: int = 0
    sources: dict[GroupId, SourcesBuilder] = field(default_factory=dict)
    outputs: dict[GroupId, list[ExistingOutput]] = field(default_factory=lambda: defaultdict(list))

    def add(self, page: Page) -> None:
        self.date = self.date or page.date
        for entry in page.objects:
            self._add(entry)

    def _add(self, entry: ObjectInfo) -> None:
        if (self.ignored and entry.key.startswith(self.ignored)) or not self.shard.owns(entry.key):
            return
        self.keys += 1
        self.key_characters += len(entry.key)
        named = self.layout.parse(entry.key)
        if named is None:
            self.other_keys += 1
            self.other_bytes += entry.size
        elif named.kind == "source":
            builder = self.sources.get(named.group)
            if builder is None:
                builder = self.sources[named.group] = SourcesBuilder(named.group.prefix)
            builder.add(source_of(named, entry))
        else:
            self.outputs[named.group].append(output_of(named, entry))

    def listed(self) -> Listing:
        """Raises ListingError where a key has come twice."""
        groups = []
        for group in sorted(self.sources):
            sources = self.sources[group].build()
            if (key := sources.duplicate_key()) is not None:
                raise ListingError(f"{key!r} is listed twice", key=key)
            groups.append(Group(group, sources, tuple(self.outputs.get(group, ())), self.date))
        outputs_only = tuple(
            Group(group, (), tuple(outputs), self.date)
            for group, outputs in sorted(self.outputs.items())
            if group not in self.sources
        )
        return Listing(
            tuple(groups),
            outputs_only,
            self.other_keys,
            self.other_bytes,
            self.keys,
            self.key_characters,
        )


async def list_groups(
    store: ObjectStore,
    prefixes: tuple[str, ...],
    layout: Layout,
    *,
    state_prefix: str,
    on_listing: Callable[[Listing], Awaitable[None]],
    on_failure: Callable[[CoalesceError], None],
    shard: Shard = WHOLE,
    at_once: int = 16,
) -> None:
    """Lists every prefix and hands each piece to `on_listing`.

    A piece whose listing fails is unknown: it goes to `on_failure`, the others go on.

    Keys under `state_prefix` are nobody's sources. Of a listing that is split down
    to groups, only the `shard`'s own are listed. At most `at_once` pieces are listed, or wait for
    `on_listing` to take them.
    """
    lanes = asyncio.Semaphore(at_once)

    async def one(prefix: str) -> None:
        async with lanes:
            try:
                piece, split = await _list_piece(store, prefix, layout, state_prefix, shard)
                listed = piece.listed()
            except StorageError as error:
                on_failure(
                    ListingError(
                        f"listing {prefix!r}: {error.message}",
                        key=prefix,
                        code=error.code,
                        request_id=error.request_id,
                    )
                )
                return
            if piece.keys:
                await on_listing(listed)
        for child in split:
            if _MAY_BE_GROUP.search(child) and not shard.owns(child):
                continue
            tasks.create_task(one(child))

    try:
        async with asyncio.TaskGroup() as tasks:
            for prefix in prefixes:
                tasks.create_task(one(prefix))
    except BaseExceptionGroup as group:
        raise first_failure(group) from group


async def _list_piece(
    store: ObjectStore, prefix: str, layout: Layout, ignored: str, shard: Shard
) -> tuple[_Piece, set[str]]:
    """A piece's own keys, and the pieces to be listed apart.

    What may be a group is one shard's as a whole: so is a directory that happens to begin like one,
    which no other shard gets to see.
    """
    owner = WHOLE if _MAY_BE_GROUP.search(prefix) else shard
    page = await _page(store, prefix, "", None)
    delimiter = _delimiter(prefix, page, shard) if page.token else ""
    if delimiter:
        piece, split = _Piece(layout, ignored, owner), set[str]()
        with suppress(_Repeated):
            async for part in all_pages(store, prefix, delimiter=delimiter):
                piece.add(part)
                split.update(part.prefixes)
            return piece, split
    piece = _Piece(layout, ignored, owner)
    piece.add(page)
    if page.token:
        async for part in all_pages(store, prefix, token=page.token):
            piece.add(part)
    return piece, set()


def _delimiter(prefix: str, page: Page, shard: Shard) -> str:
    """Where to split a prefix whose first page is this, or nothing if that page shows pieces too
    small to be listed apart.
    """
    if _MAY_BE_GROUP.search(prefix):
        return ""
    rests = [entry.key[len(prefix) :] for entry in page.objects]
    for delimiter in "/_":
        pieces = {rest.partition(delimiter)[0] for rest in rests if delimiter in rest}
        direct = sum(delimiter not in rest for rest in rests)
        if pieces and direct < len(rests) // 2:
            # Each shard lists all of a prefix that is not split, and only its share of one that is.
            worth = (
                max(2, _WORTH_A_REQUEST // shard.count) if delimiter == "_" else _WORTH_A_REQUEST
            )
            return delimiter if len(rests) >= len(pieces) * worth else ""
    return ""
