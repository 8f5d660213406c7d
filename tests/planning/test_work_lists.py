"""A work list says which sources may be joined; nothing else of a group's plan is forgotten."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import UsageError
from coalesce.model import Group, GroupId, ObjectInfo, Plan, Source
from coalesce.naming.layouts import layout, source_of
from coalesce.planning.batches import plan
from coalesce.planning.rules import Limits
from coalesce.planning.work_lists import WorkList, directories_of
from support.settings import settings

TODAY = dt.date(2026, 11, 22)
CORPORATE = layout("corporate")
GROUP = GroupId("data/", "t", 0)


def key(first: int, last: int) -> str:
    return f"data/t_0_{first}-{last}.jsonl.gz"


def minute(number: int, hour: int = 14) -> str:
    """A source of the layout fluent-bit, whose group is the hour."""
    return f"logs/2026/11/26/{hour:02}/{number:02}/00-objectVxQ2aZ9k.gz"


def info(name: str) -> ObjectInfo:
    return ObjectInfo(name, 10, '"e"', 0.0)


def planned(spans: list[tuple[int, int]], listed: list[str], **limits: int) -> Plan:
    """The plan of a group of these sources by a list of these keys."""
    parsed = [(name, CORPORATE.parse(name)) for name in (key(*span) for span in spans)]
    sources = [source_of(named, info(name)) for name, named in parsed if named]
    wanted = WorkList.of(listed, settings(), TODAY).groups.get(GROUP, frozenset())
    group = Group(GROUP, sources, (), 1e9)
    return plan(group, CORPORATE, Limits(min_age=0, wanted=wanted, **limits))


def joined(found: Plan) -> list[list[str]]:
    return [[source.key for source in batch.sources] for batch in found.batches]


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[str]]:
    """Sources that meet, or leave gaps, and a list of some of them in any order, some twice."""
    spans, offset = [], 0
    for length, gap in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), max_size=12)):
        offset += gap
        spans.append((offset, offset + length - 1))
        offset += length
    names = [key(*span) for span in spans]
    return spans, draw(st.lists(st.sampled_from(names), max_size=16)) if names else []


@given(groups(), st.integers(2, 5))
def test_only_listed_sources_are_joined_and_no_output_covers_another(
    made: tuple[list[tuple[int, int]], list[str]], max_files: int
) -> None:
    spans, listed = made
    found = planned(spans, listed, max_files=max_files)
    names = [name for batch in joined(found) for name in batch]
    assert set(names) <= set(listed)
    assert len(names) == len(set(names))
    kept = {entry.key for entry in found.kept}
    assert set(names) | kept == set(listed)
    assert found.excluded == len(spans) - len(set(listed))
    for batch in found.batches:
        first, last = batch.sources[0].first, batch.sources[-1].last
        inside = [key(*span) for span in spans if first <= span[0] and span[1] <= last]
        assert set(inside) <= set(listed)


def test_a_source_that_the_list_leaves_out_is_no_gap() -> None:
    spans = [(0, 1), (2, 3), (4, 5), (8, 9)]
    found = planned(spans, [key(0, 1), key(4, 5), key(8, 9)])
    assert (found.gaps, found.overlaps) == (1, 0)
    assert joined(found) == [[key(4, 5), key(8, 9)]]


def test_a_listed_source_inside_an_output_is_left() -> None:
    named = CORPORATE.parse(key(0, 1))
    assert named is not None
    output = Source("data/t_0_0_9.jsonl.gz", 10, "", 0.0, "STANDARD", 0, 9)
    wanted = WorkList.of([key(0, 1)], settings(), TODAY).groups[GROUP]
    group = Group(GROUP, [source_of(named, info(key(0, 1)))], (output,), 1e9)
    found = plan(group, CORPORATE, Limits(min_age=0, wanted=wanted))
    assert [(entry.key, entry.why.value) for entry in found.kept] == [(key(0, 1), "covered")]


def test_keys_that_are_not_seen_are_missing_unless_their_listing_failed() -> None:
    found = WorkList.of([key(0, 1), key(2, 3), key(2, 3), "data/x", "data/y"], settings(), TODAY)
    named = CORPORATE.parse(key(0, 1))
    assert named is not None
    assert (len(found), found.others, found.other) == (4, 2, "data/x")
    found.see([Group(GROUP, [source_of(named, info(key(0, 1)))], (), 1e9)])
    assert found.missing(()) == [key(2, 3)]
    assert found.missing(("data/t_0_",)) == []


@pytest.mark.parametrize("name", ["other/t_0_0-1.jsonl.gz", "database/t_0_0-1.jsonl.gz"])
def test_a_key_outside_the_prefixes_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not under --prefix"):
        WorkList.of([key(0, 1), name], settings(), TODAY)
    with pytest.raises(UsageError, match="not under --prefix"):
        WorkList.of([key(0, 1)], settings(date="2026-11-22"), TODAY)


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 5))
def test_shards_share_a_list_out(numbers: list[int], count: int) -> None:
    keys = [f"data/t_{number % 7}_{number}-{number}.jsonl.gz" for number in numbers]
    lists = [WorkList.of(keys, settings(shard=f"{index}/{count}"), TODAY) for index in range(count)]
    assert sum(map(len, lists)) == len(set(keys))
    found = [group for one in lists for group in one.groups]
    assert len(found) == len(set(found))


def test_a_list_without_prefixes_works_under_the_directories_of_its_keys() -> None:
    assert directories_of(["a/x/1", "a/2", "b/c/3"], CORPORATE) == ("a/", "b/c/")
    for keys, words in (
        ([], "empty"),
        (["root", "a/1"], "in no directory"),
        ([f"{number}/k" for number in range(1001)], "1,001 directories"),
    ):
        with pytest.raises(UsageError, match=words):
            directories_of(keys, CORPORATE)


def test_a_list_works_under_the_directories_in_which_groups_of_its_layout_begin() -> None:
    keys = [minute(5), minute(15), "logs/2026/11/26/15/00/no-source"]
    found = directories_of(keys, layout("fluent-bit"))
    assert found == ("logs/2026/11/26/14/", "logs/2026/11/26/15/00/")


def test_a_key_whose_group_begins_above_the_prefixes_is_refused() -> None:
    chosen = settings(layout="fluent-bit", prefix=["logs/2026/11/26/14/05"])
    with pytest.raises(UsageError, match="all of 'logs/2026/11/26/14/', which is not under"):
        WorkList.of([minute(5)], chosen, TODAY)


def test_shards_share_a_list_out_by_the_groups_of_its_layout() -> None:
    keys = [minute(number, hour) for number in range(9) for hour in range(20)]
    lists = [
        WorkList.of(keys, settings(layout="fluent-bit", prefix=["logs"], shard=shard), TODAY)
        for shard in ("0/3", "1/3", "2/3")
    ]
    assert sum(map(len, lists)) == len(keys)
    found = [group for one in lists for group in one.groups]
    assert len(found) == len(set(found)) == 20
