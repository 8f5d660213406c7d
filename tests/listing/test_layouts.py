"""Groups of other programs' names are found whole too, by one shard alone."""

from collections import Counter

import pytest

from coalesce.listing.groups import Listing, list_groups
from coalesce.model import GroupId
from coalesce.naming.layouts import layout
from coalesce.naming.shards import Shard
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore


class SmallPages(MemoryStore):
    """Fifty keys a page, so that small buckets are split as large ones are."""

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 50
    ) -> Page:
        return await super().list_page(
            prefix, delimiter=delimiter, token=token, max_keys=min(max_keys, 50)
        )


def kafka_connect() -> list[str]:
    """Topics that look like a corporate group, in one directory and in many."""
    names = [f"p/db_1_x-{part}-{n}.gz" for part in range(2) for n in range(120)]
    names += [
        f"p/t/partition={part}/t_2_+{part}+{n:010}.json" for part in range(9) for n in range(9)
    ]
    return names


def fluent_bit() -> list[str]:
    """Hours of many minutes, each a directory, and of many objects in a minute."""
    names = [
        f"p/tag/2026/11/26/{hour:02}/{minute:02}/{second:02}-objectVxQ2aZ9k"
        for hour in range(3)
        for minute in range(60)
        for second in (5, 35)
    ]
    names += [f"p/tag/2026/11/27/00/00/{n:02}-objectVxQ2aZ9k" for n in range(60)]
    return names


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "keys"), [("kafka-connect", kafka_connect()), ("fluent-bit", fluent_bit())]
)
async def test_a_group_is_whole_however_large_its_directory_is(
    name: str, keys: list[str], count: int
) -> None:
    bucket = MemoryBucket()
    for key in (*keys, "p/README"):
        bucket.store(key, b"1")
    found: Counter[str] = Counter()
    groups: Counter[GroupId] = Counter()
    seen = 0

    async def take(piece: Listing) -> None:
        nonlocal seen
        seen += piece.keys
        groups.update(group.id for group in piece.groups)
        found.update(source.key for group in piece.groups for source in group.sources)

    for n in range(count):
        await list_groups(
            SmallPages(bucket),
            ("p/",),
            layout(name),
            state_prefix="_coalesce/",
            on_listing=take,
            on_failure=pytest.fail,
            shard=Shard(n, count),
        )
    assert found == Counter(keys)
    assert set(groups.values()) == {1}, "a group in two pieces would be joined in two"
    assert seen == len(keys) + 1


async def test_directories_are_listed_apart() -> None:
    bucket = MemoryBucket()
    for part in range(8):
        for n in range(60):
            bucket.store(f"p/t/partition={part}/t+{part}+{n:010}.json", b"1")
    pieces: list[str] = []

    async def take(piece: Listing) -> None:
        pieces.append(piece.prefix)

    await list_groups(
        SmallPages(bucket),
        ("p/t/",),
        layout("kafka-connect"),
        state_prefix="",
        on_listing=take,
        on_failure=pytest.fail,
    )
    assert sorted(pieces) == ["p/t/"] or sorted(pieces) == [f"p/t/partition={n}/" for n in range(8)]
