"""Finds groups by listing prefixes, many at once. A group is complete when its own listing ends.

A prefix is listed flat. One that does not fit a page is split where S3 itself splits it
(`Delimiter`), as long as its pieces are worth a request of their own. The split only divides the
key space: keys are grouped by what they say, and no order is trusted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from coalesce.errors import AccessDenied, CoalesceError, ListingError, StorageError, first_failure
from coalesce.listing.pages import RepeatedToken, all_pages, read_page
from coalesce.model import Group, GroupId, ObjectInfo, Source
from coalesce.naming.layouts import Layout, ParsedKey, source_of
from coalesce.naming.shards import WHOLE, Shard
from coalesce.naming.sources import SourcesBuilder
from coalesce.storage.base import ObjectStore, Page

# A page holds 1,000 keys. With fewer keys per piece than this, listing on takes fewer requests than
# listing every piece.
_WORTH_A_REQUEST = 50


@dataclass(frozen=True, slots=True)
class Listing:
    """What one piece of the key space holds, as far as the shard owns it.

    Attributes:
        prefix: What all its keys begin with.
        groups: Groups that have sources; each is complete.
        outputs_only: Groups that have outputs and no sources; each is complete.
        other_keys: Keys that are neither sources nor outputs.
        other_key: The first of them; empty if there is none.
        other_bytes: Bytes of their objects.
        keys: All keys.
        key_characters: Characters of all keys.
    """

    prefix: str
    groups: tuple[Group, ...]
    outputs_only: tuple[Group, ...]
    other_keys: int
    other_key: str
    other_bytes: int
    keys: int
    key_characters: int


@dataclass(slots=True)
class _ListingBuilder:
    """Sorts the entries of a piece into groups while it is listed."""

    prefix: str
    layout: Layout
    state_prefix: str
    shard: Shard
    date: float = 0.0
    keys: int = 0
    other_keys: int = 0
    other_key: str = ""
    other_bytes: int = 0
    key_characters: int = 0
    sources: dict[GroupId, SourcesBuilder] = field(default_factory=dict)
    outputs: dict[GroupId, list[Source]] = field(default_factory=lambda: defaultdict(list))
    begin: int = field(init=False)

    def __post_init__(self) -> None:
        self.begin = self.prefix.rfind("/") + 1

    def add(self, page: Page) -> None:
        self.date = self.date or page.date
        for entry in page.objects:
            self._add_entry(entry)

    def _add_entry(self, entry: ObjectInfo) -> None:
        is_state = self.state_prefix and entry.key.startswith(self.state_prefix)
        if is_state or not self.shard.owns(entry.key, self.layout.share_of):
            return
        self.keys += 1
        self.key_characters += len(entry.key)
        parsed = self.layout.parse(entry.key)
        if parsed is None or self._is_partly_here(parsed):
            self.other_keys += 1
            self.other_key = self.other_key or entry.key
            self.other_bytes += entry.size
        elif parsed.kind == "source":
            builder = self.sources.get(parsed.group)
            if builder is None:
                builder = self.sources[parsed.group] = SourcesBuilder(parsed.group.prefix)
            builder.add(source_of(parsed, entry))
        else:
            self.outputs[parsed.group].append(source_of(parsed, entry))

    def _is_partly_here(self, parsed: ParsedKey) -> bool:
        """Whether the group of a key begins in a directory above the piece: neither is it complete
        here, nor may its output be written there.
        """
        return len(parsed.group.directory) < self.begin

    def build(self) -> Listing:
        """Raises ListingError if a source was listed twice."""
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
            self.prefix,
            tuple(groups),
            outputs_only,
            self.other_keys,
            self.other_key,
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
    keep_going: Callable[[], bool] = lambda: True,
    shard: Shard = WHOLE,
    concurrency: int = 16,
    worth_a_request: int = _WORTH_A_REQUEST,
) -> None:
    """Lists prefixes and hands over every group that a shard owns, each in one piece.

    A piece that cannot be listed is unknown, never empty: it is handed to `on_failure`, and the
    other pieces are listed all the same.

    Args:
        store: The bucket.
        prefixes: None of them begins with another.
        layout: How sources and outputs are named.
        state_prefix: Keys under it are left out; empty if there is none.
        on_listing: Gets each piece of the key space that holds a key of the shard's; no group is
            in two pieces. While it waits, so does the listing of further pieces.
        on_failure: Gets a ListingError or AccessDenied, with the piece's prefix as its key, for
            each piece that cannot be listed.
        keep_going: Asked before each piece and each page; a piece that was not listed to its end is
            not handed over.
        shard: The share of the groups to list. A prefix that is split down to groups is listed
            only where this shard owns it.
        concurrency: How many pieces are listed, or wait for `on_listing`, at once.
        worth_a_request: How many keys a piece must have to be listed apart.

    Raises:
        Exception: What `on_listing` raises; nothing more is listed then.
    """
    rules = _Rules(layout, state_prefix, shard, keep_going, worth_a_request)
    lister = _Lister(store, rules, on_listing, on_failure, asyncio.Semaphore(concurrency))
    try:
        async with asyncio.TaskGroup() as tasks:
            for prefix in prefixes:
                tasks.create_task(lister.list_below(prefix, tasks))
    except BaseExceptionGroup as errors:
        raise first_failure(errors) from errors


@dataclass(frozen=True, slots=True)
class _Rules:
    """What of a piece counts, and how it is split: see `list_groups`."""

    layout: Layout
    state_prefix: str
    shard: Shard
    keep_going: Callable[[], bool]
    worth_a_request: int

    def owns(self, prefix: str) -> bool:
        """Whether what may be a group is the shard's."""
        return self.shard.owns(prefix, self.layout.share_of)


@dataclass(frozen=True, slots=True)
class _Lister:
    """Lists pieces and hands them over: see `list_groups`."""

    store: ObjectStore
    rules: _Rules
    on_listing: Callable[[Listing], Awaitable[None]]
    on_failure: Callable[[CoalesceError], None]
    limiter: asyncio.Semaphore

    async def list_below(self, prefix: str, tasks: asyncio.TaskGroup) -> None:
        """Lists a piece, and every one below it that is to be listed apart as a task of its own."""
        async with self.limiter:
            children = await self._list_and_hand_over(prefix)
        for child in children:
            if not self.rules.layout.may_be_group(child) or self.rules.owns(child):
                tasks.create_task(self.list_below(child, tasks))

    async def _list_and_hand_over(self, prefix: str) -> set[str]:
        """Returns the pieces below this one; none if the listing is to end, or has failed."""
        keep_going = self.rules.keep_going
        if not keep_going():
            return set()
        try:
            builder, children = await _list_piece(self.store, prefix, self.rules)
            if not keep_going():
                return set()
            listing = builder.build()
        except StorageError as error:
            self.on_failure(_unknown(prefix, error))
            return set()
        if listing.keys:
            await self.on_listing(listing)
        return children


def _unknown(prefix: str, error: StorageError) -> StorageError:
    """The failure of a listing; running again is no cure for one that is not allowed."""
    kind = AccessDenied if isinstance(error, AccessDenied) else ListingError
    message = f"listing {prefix!r}: {error.message}"
    said = {"code": error.code, "request_id": error.request_id, "operation": error.operation}
    return kind(message, key=prefix, **said)


async def _list_piece(
    store: ObjectStore, prefix: str, rules: _Rules
) -> tuple[_ListingBuilder, set[str]]:
    """Lists one prefix: its own keys, and the prefixes below it that are to be listed apart.

    What may be a group is listed by the one shard that owns it, as a whole. That includes a
    directory whose name happens to end like a group's, which no other shard gets to see.
    """
    whole = not rules.layout.by_directory and rules.layout.may_be_group(prefix)
    owner = WHOLE if whole else rules.shard
    builder, children = _ListingBuilder(prefix, rules.layout, rules.state_prefix, owner), set[str]()
    first = await read_page(store, prefix, "", None)
    if first.token and (delimiter := _choose_delimiter(prefix, first, rules)):
        with suppress(RepeatedToken):
            async for page in all_pages(store, prefix, delimiter=delimiter):
                builder.add(page)
                children.update(page.prefixes)
                if not rules.keep_going():
                    break
            return builder, children
        builder, children = _ListingBuilder(prefix, rules.layout, rules.state_prefix, owner), set()
    builder.add(first)
    if first.token:
        async for page in all_pages(store, prefix, token=first.token):
            builder.add(page)
            if not rules.keep_going():
                break
    return builder, children


def _choose_delimiter(prefix: str, page: Page, rules: _Rules) -> str:
    """Chooses where to split a prefix, by its first page.

    Returns an empty string if the pieces that this page shows are too small to be listed apart.
    """
    if rules.layout.may_be_group(prefix):
        return ""
    rests = [entry.key[len(prefix) :] for entry in page.objects]
    for delimiter in "/" if rules.layout.by_directory else "/_":
        pieces = {rest.partition(delimiter)[0] for rest in rests if delimiter in rest}
        direct = sum(delimiter not in rest for rest in rests)
        if pieces and direct < len(rests) // 2:
            # Each shard lists all of a prefix that is not split, and only its share of one that is.
            worth = rules.worth_a_request
            if delimiter == "_":
                worth = max(2, worth // rules.shard.count)
            return delimiter if len(rests) >= len(pieces) * worth else ""
    return ""
