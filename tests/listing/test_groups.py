"""Groups are found whole, or not at all."""

from collections import Counter

import pytest

from coalesce.errors import CoalesceError, Throttled
from coalesce.listing.groups import Listing, list_groups
from coalesce.naming.layouts import layout
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request


async def list_all(store: MemoryStore, *prefixes: str) -> tuple[Counter[str], list[CoalesceError]]:
    """How often each source was found, and what failed."""
    found: Counter[str] = Counter()
    failures: list[CoalesceError] = []

    async def take(listing: Listing) -> None:
        for group in listing.groups:
            found.update(source.key for source in group.sources)

    await list_groups(
        store,
        prefixes,
        layout("corporate"),
        state_prefix="_coalesce/",
        on_listing=take,
        on_failure=failures.append,
    )
    return found, failures


@pytest.mark.parametrize(
    ("directories", "topics", "partitions", "sources"),
    [
        (1, 1, 1, 2500),
        (1, 3, 40, 30),
        (300, 2, 2, 1),
        (5, 2, 3, 100),
        (1500, 1, 1, 1),
        (1, 1, 1200, 1),
    ],
)
async def test_every_source_is_found_once_however_the_keys_are_spread(
    directories: int, topics: int, partitions: int, sources: int
) -> None:
    bucket = MemoryBucket()
    for d in range(directories):
        for t in range(topics):
            for p in range(partitions):
                for n in range(sources):
                    bucket.store(f"p/{d}/db.a_b.topic-{t}_{p}_{n}-{n}.jsonl.gz", b"1")
    keys = set(bucket.objects)
    bucket.store("p/other", b"1")
    bucket.store("px/t_0_1-1.jsonl.gz", b"1")
    store = MemoryStore(bucket)
    found, failures = await list_all(store, "p/")
    assert (found, failures) == (Counter(keys), [])
    assert store.usage.requests["ListObjectsV2"] <= 3 + len(keys) / 40


async def test_a_group_is_never_cut_where_a_page_ends() -> None:
    bucket = MemoryBucket()
    for n in range(2200):
        bucket.store(f"p/t_0_{n}-{n}.jsonl.gz", b"1")
    sizes = []

    async def take(listing: Listing) -> None:
        sizes.extend(len(group.sources) for group in listing.groups)

    await list_groups(
        MemoryStore(bucket),
        ("p/",),
        layout("corporate"),
        state_prefix="_coalesce/",
        on_listing=take,
        on_failure=pytest.fail,
    )
    assert sizes == [2200]


async def test_a_page_that_fails_makes_its_piece_unknown_and_leaves_the_others() -> None:
    bucket = MemoryBucket()
    for n in range(1100):
        bucket.store(f"a/t_0_{n}-{n}.jsonl.gz", b"1")
    bucket.store("b/t_0_1-1.jsonl.gz", b"1")
    store = MemoryStore(bucket)
    asked = Counter[str]()

    async def before(request: Request) -> None:
        asked[request.key] += 1
        if request.key == "a/" and asked["a/"] == 2:
            raise Throttled("slow down", key="a/")

    store.before = before
    found, failures = await list_all(store, "a/", "b/")
    assert found == Counter(["b/t_0_1-1.jsonl.gz"])
    assert [failure.key for failure in failures] == ["a/"]


async def test_a_store_that_repeats_its_token_is_not_listed_for_ever() -> None:
    class Repeating(MemoryStore):
        async def list_page(
            self,
            prefix: str,
            *,
            delimiter: str = "",
            token: str | None = None,
            max_keys: int = 1000,
        ) -> Page:
            page = await super().list_page(prefix, delimiter=delimiter, max_keys=max_keys)
            return Page(page.objects, page.prefixes, "again", page.date)

    bucket = MemoryBucket()
    bucket.store("a/t_0_1-1.jsonl.gz", b"1")
    found, failures = await list_all(Repeating(bucket), "a/")
    assert not found
    assert [failure.key for failure in failures] == ["a/"]


async def test_a_store_that_leads_nowhere_has_not_shown_all() -> None:
    """Its token comes again, with nothing new: what it held back is unknown."""

    class Stuck(MemoryStore):
        async def list_page(
            self,
            prefix: str,
            *,
            delimiter: str = "",
            token: str | None = None,
            max_keys: int = 1000,
        ) -> Page:
            page = await super().list_page(prefix, delimiter=delimiter, max_keys=max_keys)
            return Page(
                () if token else page.objects, () if token else page.prefixes, "again", page.date
            )

    bucket = MemoryBucket()
    bucket.store("a/t_0_1-1.jsonl.gz", b"1")
    found, failures = await list_all(Stuck(bucket), "a/")
    assert not found
    assert [failure.key for failure in failures] == ["a/"]


@pytest.mark.parametrize(
    "directory", ["a b/", "a%20b/", "a+b/", "a//b/", "a/../b/", "é=ü/", "a&b'\"/", "*/[x]/"]
)
async def test_keys_are_opaque(directory: str) -> None:
    bucket = MemoryBucket()
    bucket.store(f"p/{directory}t_0_1-1.jsonl.gz", b"1")
    found, _ = await list_all(MemoryStore(bucket), "p/")
    assert list(found) == [f"p/{directory}t_0_1-1.jsonl.gz"]


async def list_until(
    bucket: MemoryBucket, requests: int, *prefixes: str
) -> tuple[int, list[Listing]]:
    """A listing that is told to stop at this request; how many it sent, and what it handed over."""
    store = MemoryStore(bucket)
    handed: list[Listing] = []

    async def take(listing: Listing) -> None:
        handed.append(listing)

    await list_groups(
        store,
        prefixes,
        layout("corporate"),
        state_prefix="_coalesce/",
        on_listing=take,
        on_failure=pytest.fail,
        keep_going=lambda: store.usage.requests["ListObjectsV2"] < requests,
        worth_a_request=1,
    )
    return store.usage.requests["ListObjectsV2"], handed


async def test_a_listing_that_is_told_to_stop_begins_no_further_prefix() -> None:
    bucket = MemoryBucket()
    for prefix in "abc":
        bucket.store(f"{prefix}/t_0_1-1.jsonl.gz", b"1")
    assert await list_until(bucket, 0, "a/", "b/", "c/") == (0, [])


@pytest.mark.parametrize(
    ("name", "requests"),
    [("p/t_0_{n}-{n}.jsonl.gz", 6), ("p/{n}/t_0_{n}-{n}.jsonl.gz", 2)],
    ids=["one group", "many directories"],
)
async def test_a_listing_that_is_told_to_stop_reads_no_further_page_and_hands_over_no_part(
    name: str, requests: int
) -> None:
    """What has not been seen whole may lack the sources between two others. One group is found in
    five requests, and has pages after that.
    """
    bucket = MemoryBucket()
    for n in range(4500):
        bucket.store(name.format(n=n), b"1")
    assert await list_until(bucket, requests, "p/") == (requests, [])
