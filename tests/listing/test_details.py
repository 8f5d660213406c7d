"""What a listing counts, and when it was."""

import gzip
import re

import pytest

from coalesce.listing.groups import Listing, list_groups
from coalesce.naming.layouts import layout
from coalesce.naming.shards import WHOLE, Shard
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.memory.store import Request
from support.runs import new_run
from support.settings import settings


async def listed(
    store: MemoryStore, shard: Shard = WHOLE, prefix: str = "data/"
) -> tuple[list[Listing], list[Exception]]:
    found: list[Listing] = []
    failures: list[Exception] = []

    async def add(listing: Listing) -> None:
        found.append(listing)

    await list_groups(
        store,
        (prefix,),
        layout("corporate"),
        state_prefix="_coalesce/",
        on_listing=add,
        on_failure=failures.append,
        shard=shard,
    )
    return found, failures


def large_bucket(groups: int = 3, count: int = 400, more: tuple[str, ...] = ()) -> MemoryBucket:
    """More keys than a page holds, so that the prefix is split."""
    bucket = MemoryBucket()
    for group in range(groups):
        for n in range(count):
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", b"x")
    for key in more:
        bucket.store(key, b"x")
    return bucket


@pytest.mark.parametrize("count", [999, 1000, 1001])
async def test_what_is_young_is_decided_by_the_first_page(count: int) -> None:
    """What was written while the later pages came is then young, however long they took."""
    bucket = large_bucket(1, count)
    store, first = MemoryStore(bucket), bucket.now

    async def later(_: Request) -> None:
        bucket.now += 1000

    store.after = later
    found, _ = await listed(store, prefix="data/t_0_")
    (group,) = (group for listing in found for group in listing.groups)
    assert (group.listed_at, len(group.sources)) == (first, count)


async def test_keys_beside_the_pieces_of_a_split_listing_are_counted() -> None:
    bucket = large_bucket(more=("data/README", "data/zzz"))
    found, failures = await listed(MemoryStore(bucket))
    assert failures == []
    assert len(found) > 1, "it was split"
    assert sum(listing.other_keys for listing in found) == 2
    assert sum(listing.keys for listing in found) == 1202


class Repeating(MemoryStore):
    """Gives the token of the first page again and again where it cuts keys at a delimiter."""

    async def list_page(self, prefix: str, *, delimiter: str = "", **more: object) -> Page:  # type: ignore[override]
        page = await super().list_page(prefix, delimiter=delimiter, **more)  # type: ignore[arg-type]
        if not delimiter:
            return page
        return Page(page.objects[:1], page.prefixes[:1], "again", page.date)


async def test_a_split_listing_that_repeats_itself_is_not_taken_for_whole() -> None:
    """The keys are listed plainly then: every group is there, with all its sources."""
    found, failures = await listed(Repeating(large_bucket()))
    sizes = {g.id.partition: len(g.sources) for listing in found for g in listing.groups}
    assert (sizes, failures) == ({0: 400, 1: 400, 2: 400}, [])


@pytest.mark.parametrize("key", ["data/ü", "data/plain", "data/\N{SNOWMAN}\N{SNOWMAN}"])
async def test_the_path_list_is_counted_in_characters(key: str) -> None:
    """Java's limit is one of characters, not of bytes."""
    bucket = MemoryBucket()
    bucket.store(key, b"x")
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), settings()).plan()
    assert report.path_list.before == len(f"s3://b/{key},")


async def test_shards_together_list_everything_once_and_only_their_share() -> None:
    odd = [f"data/t_0_y/z_{n}_0-0.jsonl.gz" for n in range(9)]  # a directory named like a group
    bucket = large_bucket(6, 300, more=("data/x_1_y/t_0_0-0.jsonl.gz", "data/README", *odd))
    keys: list[str] = []
    counted = 0
    for index in range(3):
        store = MemoryStore(bucket)
        asked: list[str] = []

        async def note(request: Request, asked: list[str] = asked) -> None:
            asked.append(request.key)

        store.before = note
        found, failures = await listed(store, Shard(index, 3))
        assert failures == []
        counted += sum(listing.keys for listing in found)
        keys += [s.key for listing in found for g in listing.groups for s in g.sources]
        groups = {key for key in asked if re.fullmatch(r"data/t_\d+_", key)}
        assert groups == {key for key in groups if Shard(index, 3).owns(key)}
    assert counted == len(bucket.objects)
    assert sorted(keys) == sorted(key for key in bucket.objects if key.endswith(".gz"))


async def test_outputs_that_exist_belong_to_their_group() -> None:
    """So that their leftovers are not joined again."""
    bucket = MemoryBucket()
    for key in ("t_0_0_9", "t_0_3-3", "t_0_4-4"):
        bucket.store(f"data/{key}.jsonl.gz", gzip.compress(b"x\n"))
    (listing,), _ = await listed(MemoryStore(bucket))
    (group,) = listing.groups
    assert [(output.first, output.last) for output in group.outputs] == [(0, 9)]


class Inside(MemoryStore):
    """Names the prefix itself among the prefixes below it."""

    async def list_page(self, prefix: str, *, delimiter: str = "", **more: object) -> Page:  # type: ignore[override]
        page = await super().list_page(prefix, delimiter=delimiter, **more)  # type: ignore[arg-type]
        return Page(page.objects, (*page.prefixes, prefix), page.token, page.date)


@pytest.mark.timeout(20)
async def test_a_prefix_inside_itself_is_unknown_and_not_listed_for_ever() -> None:
    found, failures = await listed(Inside(large_bucket()))
    assert (found, len(failures)) == ([], 1)
