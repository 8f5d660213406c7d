"""Keys and listings of every kind: each source is found once and with its whole group, and a
listing that contradicts itself counts for nothing.
"""

import asyncio
import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import CoalesceError
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import ObjectInfo
from coalesce.naming.layouts import layout
from coalesce.run.pipeline import Run
from coalesce.storage.base import Page
from coalesce.storage.limits import MAX_IDLE_PAGES
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import contents
from support.scenarios import check_ledger, prepared, unfinished

# Made of what keys are made of, so that they collide, nest and mislead.
PIECES = st.sampled_from(
    [
        "t",
        "t_",
        "db.core.a",
        "_",
        "-",
        "0",
        "1",
        "07",
        "12",
        "_0_",
        "_1_2-3",
        "/",
        "//",
        "../",
        " ",
        "%2F",
        "+",
        "ü",
        "\x01",
        "a\nb",
        "\u2028",
    ]
)
NAMES = st.one_of(
    st.builds(
        "{}_{}_{}-{}.jsonl.gz".format,
        st.sampled_from(["t", "t_1", "t_1_2", "a-b.c"]),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    st.builds(
        "{}_{}_{}_{}.jsonl.gz".format,
        st.sampled_from(["t", "t_1"]),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    st.lists(PIECES, max_size=4).map("".join),
    st.text(max_size=6),
)
KEYS = st.builds(
    "data/{}{}".format,
    st.sampled_from(["", "", "a/", "a/b/", "t_0_/", "b b/", "%/", "..//", "\x02/"]),
    NAMES,
).filter(lambda key: len(key.encode("utf-8", "ignore")) < 1000)


class Paged(MemoryStore):
    """A store with small pages."""

    per_page = 1000

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        return await super().list_page(
            prefix, delimiter=delimiter, token=token, max_keys=min(max_keys, self.per_page)
        )


async def list_all(
    store: MemoryStore, name: str, worth_a_request: int
) -> tuple[list[Listing], list[CoalesceError]]:
    listings: list[Listing] = []
    failures: list[CoalesceError] = []

    async def take(listing: Listing) -> None:
        listings.append(listing)

    await list_groups(
        store,
        ("data/",),
        layout(name),
        state_prefix="_coalesce/",
        on_listing=take,
        on_failure=failures.append,
        worth_a_request=worth_a_request,
    )
    return listings, failures


@given(
    st.sets(KEYS, max_size=40),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from(["corporate", "manifest"]),
)
def test_whatever_the_keys_are_each_is_found_once_and_no_group_is_cut(
    keys: set[str], per_page: int, splitting: bool, name: str
) -> None:
    """Pages of a few keys, and every way of splitting: a group comes whole, in one piece, or the
    program would join half of it.
    """
    keys = {key for key in keys if key.isascii() or key.encode("utf-8", "ignore").decode() == key}
    bucket = MemoryBucket()
    for key in keys:
        bucket.store(key, b"1")
    store = Paged(bucket)
    store.per_page = per_page
    listings, failures = asyncio.run(list_all(store, name, 1 if splitting else 50))
    assert not failures
    groups = [group for listing in listings for group in listing.groups]
    parsed = {key: layout(name).parse(key) for key in keys}
    sources = {key: each for key, each in parsed.items() if each and each.kind == "source"}
    assert Counter(source.key for group in groups for source in group.sources) == Counter(
        list(sources)
    )
    assert len({group.id for group in groups}) == len(groups)
    for group in groups:
        assert all(sources[source.key].group == group.id for source in group.sources)
        outputs = {
            key
            for key, each in parsed.items()
            if each and (each.kind, each.group) == ("output", group.id)
        }
        assert {output.key for output in group.outputs} == outputs
    assert sum(listing.keys for listing in listings) == len(keys)


@given(KEYS)
def test_a_key_says_the_same_to_every_layout_or_nothing(key: str) -> None:
    """What is parsed leads back to its group's prefix, and a source's name is never an output's."""
    for name in ("corporate", "manifest"):
        each = layout(name).parse(key)
        assert each is None or (
            key.startswith(each.group.prefix) and each.group.directory == key[: key.rfind("/") + 1]
        )
        other = layout(name).parse(key.replace("-", "_"))
        assert not (each and other and each.kind == other.kind == "source" and "-" not in key)


def twice(page: Page) -> Page:
    return replace(page, objects=page.objects * 2)


def with_a_stranger(page: Page) -> Page:
    return replace(
        page,
        objects=(
            *page.objects,
            *(
                entry._replace(key="other/db.core.topic_0_90-99.jsonl.gz")
                for entry in page.objects[:1]
            ),
        ),
    )


def with_itself_below(page: Page) -> Page:
    return replace(page, prefixes=("data/",), token=None)


def with_a_strange_prefix(page: Page) -> Page:
    return replace(page, prefixes=("other/",))


class Lying(MemoryStore):
    """Says something else in every listing of the data than what is there."""

    lie: Callable[[Page], Page]

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        page = await super().list_page(prefix, delimiter=delimiter, token=token, max_keys=max_keys)
        return self.lie(page) if prefix.startswith("data/") else page


@pytest.mark.parametrize("lie", [twice, with_a_stranger, with_itself_below, with_a_strange_prefix])
async def test_a_listing_that_contradicts_itself_counts_for_nothing(
    lie: Callable[[Page], Page],
) -> None:
    """A key that came twice would be joined twice; one from elsewhere would be joined and deleted
    there.
    """
    bucket, settings = prepared("two groups of several outputs")
    bucket.store("other/db.core.topic_0_90-99.jsonl.gz", gzip.compress(b"not ours\n", mtime=0))
    before = contents(bucket)
    store = Lying(bucket)
    store.lie = lie
    report = await Run(store, settings).coalesce()
    assert (report.exit_code, [failure.key for failure in report.failures]) == (1, ["data/"])
    assert contents(bucket) == before


class Repeating(MemoryStore):
    """Hands out the same token for ever where the state lies."""

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        page = await super().list_page(prefix, delimiter=delimiter, max_keys=max_keys)
        return replace(page, token="again") if prefix == "_coalesce/groups/" else page


async def test_a_state_prefix_whose_listing_repeats_itself_ends_the_run() -> None:
    """What may stand there is unknown, so nothing is begun."""
    bucket, settings = prepared("two groups of several outputs")
    before = contents(bucket)
    report = await Run(Repeating(bucket), settings).coalesce()
    assert (report.exit_code, report.failures[0].code) == (1, "ListingUnknown")
    assert contents(bucket) == before


async def test_folders_that_a_console_made_under_the_state_prefix_are_nobodys() -> None:
    bucket, settings = prepared("two groups of several outputs")
    folders = ["_coalesce/", "_coalesce/groups/", "_coalesce/groups/data/", "_coalesce/runs/"]
    for folder in folders:
        bucket.store(folder, b"")
    report = await Run(MemoryStore(bucket), settings).coalesce()
    assert (report.exit_code, report.groups.coalesced) == (0, 2)
    assert unfinished(bucket) == folders
    check_ledger(bucket, "with folders")


class Endless(MemoryStore):
    """A listing of the data whose pages go on with ever new tokens: `pages` in turn, and again from
    the first, or none at all after the last of them if there is an `end`.
    """

    pages: list[Page]
    end: int = 10**9
    listed = 0

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 1000
    ) -> Page:
        if not prefix.startswith("data/"):
            return await super().list_page(prefix, delimiter=delimiter, token=token)
        assert self.listed < 10 * MAX_IDLE_PAGES, "it is followed without end"
        at = int(token or 0)
        self.listed += 1
        page = self.pages[at % len(self.pages)]
        return replace(page, token=str(at + 1) if at + 1 < self.end else None)


def page(*keys: str, prefixes: tuple[str, ...] = ()) -> Page:
    return Page(tuple(ObjectInfo(key, 1, '"e"', 0.0) for key in keys), prefixes, None, 1e9)


SOURCES = [f"data/t_0_{n}-{n}.jsonl.gz" for n in range(9)]
CIRCLES = {
    "empty pages": [page()],
    "the same page": [page(*SOURCES)],
    "a round of pages": [page(*SOURCES[:3]), page(*SOURCES[3:6]), page(), page(*SOURCES[6:])],
    "the same prefixes": [page(prefixes=("data/a/", "data/b/"))],
}


@pytest.mark.parametrize("name", CIRCLES)
async def test_a_listing_that_brings_nothing_new_any_more_is_given_up(name: str) -> None:
    store = Endless(MemoryBucket())
    store.pages = CIRCLES[name]
    listings, failures = await list_all(store, "corporate", 50)
    assert (listings, [failure.code for failure in failures]) == ([], ["ListingUnknown"])
    assert "has no end" in failures[0].message
    assert store.listed <= MAX_IDLE_PAGES + 10


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_empty_pages_in_a_row_are_believed_up_to_a_bound(more: int) -> None:
    """As over deleted versions: S3 may give some, and something after them."""
    count = MAX_IDLE_PAGES + more
    store = Endless(MemoryBucket())
    store.pages = [page(*SOURCES[:3]), *[page()] * count, page(*SOURCES[3:])]
    store.end = len(store.pages)
    listings, failures = await list_all(store, "corporate", 50)
    if count < MAX_IDLE_PAGES:
        (group,) = listings[0].groups
        assert [source.key for source in group.sources] == SOURCES
    assert len(failures) == (count >= MAX_IDLE_PAGES)


async def test_any_number_of_pages_is_followed_as_long_as_they_bring_something() -> None:
    store = Endless(MemoryBucket())
    count = 2 * MAX_IDLE_PAGES + 1
    store.pages = [page(f"data/t_0_{n}-{n}.jsonl.gz") for n in range(count)]
    store.end = count
    listings, failures = await list_all(store, "corporate", 50)
    assert not failures
    assert len(listings[0].groups[0].sources) == count
