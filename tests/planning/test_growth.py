"""What is promised of outputs that grow."""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Group, GroupId, Source, Why
from coalesce.naming.layouts import layout
from coalesce.planning import batches as planning
from coalesce.planning.growth import grow
from coalesce.planning.rules import Limits

GROUP = GroupId("data/", "db.core.t", 0)
CORPORATE = layout("corporate")
NOW = 1e9


def source(first: int, last: int, size: int, **more: object) -> Source:
    made = Source(
        f"{GROUP.prefix}{first}-{last}.jsonl.gz", size, '"e"', 0.0, "STANDARD", first, last
    )
    return made._replace(**more)


def output(first: int, last: int, size: int, **more: object) -> Source:
    key = f"{GROUP.prefix}{first}_{last}.jsonl.gz"
    made = Source(key, size, '"e-1"', 0.0, "STANDARD", first, last)
    return made._replace(**more)


def planned(sources: list[Source], outputs: list[Source], limits: Limits) -> planning.Plan:
    group = Group(GROUP, tuple(sources), tuple(outputs), NOW)
    return planning.plan(grow(group, CORPORATE, limits), CORPORATE, limits)


def names(plan: planning.Plan) -> list[tuple[str, list[str]]]:
    """Each output of a plan with its sources, without what all keys have in common."""

    def short(key: str) -> str:
        return key.removeprefix(GROUP.prefix).removesuffix(".jsonl.gz")

    return [
        (short(batch.output), [short(source.key) for source in batch.sources])
        for batch in plan.batches
    ]


def test_an_output_is_joined_again_with_what_has_come_since() -> None:
    """In order, under the name of all offsets."""
    plan = planned([source(10, 19, 50), source(20, 29, 50)], [output(0, 9, 80)], Limits(grow=1000))
    assert names(plan) == [("0_29", ["0_9", "10-19", "20-29"])]


def test_without_the_option_outputs_stay() -> None:
    plan = planned([source(10, 19, 50), source(20, 29, 50)], [output(0, 9, 80)], Limits())
    assert names(plan) == [("10_29", ["10-19", "20-29"])]


def test_an_output_that_is_more_than_its_neighbours_together_stays() -> None:
    """Otherwise the bytes of a day would be written again in each of its hours."""
    plan = planned([source(10, 19, 40), source(20, 29, 39)], [output(0, 9, 80)], Limits(grow=1000))
    assert names(plan) == [("10_29", ["10-19", "20-29"])]
    again = planned([source(10, 19, 40), source(20, 29, 40)], [output(0, 9, 80)], Limits(grow=1000))
    assert names(again) == [("0_29", ["0_9", "10-19", "20-29"])]


def test_an_output_of_the_size_stays() -> None:
    sources = [source(10, 19, 900), source(20, 29, 900)]
    assert names(planned(sources, [output(0, 9, 1000)], Limits(grow=1000))) == [
        ("10_29", ["10-19", "20-29"])
    ]
    assert len(names(planned(sources, [output(0, 9, 999)], Limits(grow=1000)))[0][1]) == 3


def test_outputs_are_joined_without_any_new_source() -> None:
    outputs = [output(n * 10, n * 10 + 9, 10) for n in range(5)]
    assert names(planned([], outputs, Limits(grow=1000))) == [
        ("0_49", ["0_9", "10_19", "20_29", "30_39", "40_49"])
    ]


def test_no_output_claims_the_offsets_of_one_that_stays() -> None:
    """The large one lies between two that grow."""
    outputs = [output(0, 9, 10), output(20, 29, 5000), output(40, 49, 10)]
    sources = [source(10, 19, 50), source(30, 39, 50)]
    assert names(planned(sources, outputs, Limits(grow=1000))) == [
        ("0_19", ["0_9", "10-19"]),
        ("30_49", ["30-39", "40_49"]),
    ]


@pytest.mark.parametrize("last", [10, 15, 25])
def test_outputs_that_share_offsets_stay(last: int) -> None:
    """One of them may hold records of the other."""
    outputs = [output(0, last, 10), output(10, 19, 10), output(30, 39, 10)]
    assert names(planned([source(40, 49, 50)], outputs, Limits(grow=1000))) == [
        ("30_49", ["30_39", "40-49"])
    ]


def test_a_source_inside_an_output_that_grows_stays_too() -> None:
    """Its records may be in that output."""
    sources = [source(3, 5, 50), source(10, 19, 50), source(20, 29, 50)]
    plan = planned(sources, [output(0, 9, 80)], Limits(grow=1000))
    assert names(plan) == [("0_29", ["0_9", "10-19", "20-29"])]
    assert [(kept.key, kept.why) for kept in plan.kept] == [(sources[0].key, Why.COVERED)]


def test_nothing_is_joined_across_a_source_that_a_later_run_may_join() -> None:
    sources = [source(10, 19, 50, modified=NOW - 1), source(20, 29, 50), source(30, 39, 50)]
    plan = planned(sources, [output(0, 9, 80)], Limits(grow=1000))
    assert names(plan) == [("20_39", ["20-29", "30-39"])]


@pytest.mark.parametrize(
    "more", [{"modified": NOW - 1}, {"storage_class": "GLACIER"}, {"storage_class": "STANDARD_IA"}]
)
def test_an_output_that_may_not_be_joined_as_a_source_stays(more: dict[str, object]) -> None:
    plan = planned(
        [source(10, 19, 50), source(20, 29, 50)], [output(0, 9, 80, **more)], Limits(grow=1000)
    )
    assert names(plan) == [("10_29", ["10-19", "20-29"])]


def test_outputs_that_the_patterns_leave_out_stay() -> None:
    limits = Limits(grow=1000, exclude=("*_9.jsonl.gz",))
    plan = planned([source(10, 19, 50), source(20, 29, 50)], [output(0, 9, 80)], limits)
    assert names(plan) == [("10_29", ["10-19", "20-29"])]


def test_an_output_waits_for_as_many_sources_as_any_other() -> None:
    limits = Limits(grow=1000, min_files=4)
    assert names(planned([source(10, 19, 90)], [output(0, 9, 80)], limits)) == []
    sources = [source(n, n + 9, 50) for n in (10, 20, 30)]
    assert len(names(planned(sources, [output(0, 9, 80)], limits))) == 1


def test_the_name_of_an_output_that_grows_is_not_given_again() -> None:
    """It is there until the new one is proven."""
    manifest = layout("manifest")
    group = GroupId("data/", "t", 0)
    grows = Source(f"{group.prefix}0_u_1_7.txt", 50, '"e-1"', 0.0, "STANDARD", 0, 7, "u_1_7")
    key = f"{group.prefix}0-u_1_5.txt"
    late = Source(key, 90, '"e"', 0.0, "STANDARD", 0, 5, "u_1_5")
    limits = Limits(grow=1000)
    grown = grow(Group(group, (late,), (grows,), NOW), manifest, limits)
    (batch,) = planning.plan(grown, manifest, limits).batches
    assert batch.output == f"{group.prefix}0_u_1_07.txt"


def test_manifests_grow_by_the_order_of_their_names() -> None:
    """Their two offsets cannot be compared: what lies beside one another is joined."""
    manifest = layout("manifest")
    group = GroupId("data/", "t", 0)
    tails = ["u_1_900", "u_1_5", "u_1_7"]
    outputs = (
        Source(f"{group.prefix}0_{tails[0]}.txt", 80, '"e-1"', 0.0, "STANDARD", 0, 900, tails[0]),
    )
    sources = tuple(
        Source(f"{group.prefix}{n}-{tails[n]}.txt", 50, '"e"', 0.0, "STANDARD", n, last, tails[n])
        for n, last in ((1, 5), (2, 7))
    )
    limits = Limits(grow=1000)
    listed = Group(group, sources, outputs, NOW)
    (batch,) = planning.plan(grow(listed, manifest, limits), manifest, limits).batches
    assert batch.output == f"{group.prefix}0_u_1_7.txt"
    assert [source.first for source in batch.sources] == [0, 1, 2]


@dataclass
class Day:
    """A topic-partition that is run over each hour, and how often each source was written."""

    limits: Limits
    sources: list[Source] = field(default_factory=list)
    outputs: list[Source] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    written: Counter[str] = field(default_factory=Counter)
    first_written: dict[str, int] = field(default_factory=dict)
    offset: int = 0

    def hour(self, sizes: list[int]) -> None:
        for size in sizes:
            made = source(self.offset, self.offset, size)
            self.sources.append(made)
            self.held[made.key] = [made.key]
            self.offset += 1
        plan = planned(self.sources, self.outputs, self.limits)
        for batch in plan.batches:
            joined = {source.key for source in batch.sources}
            self.held[batch.output] = [
                key for source in batch.sources for key in self.held.pop(source.key)
            ]
            for key in self.held[batch.output]:
                self.written[key] += 1
                self.first_written.setdefault(key, batch.size)
            self.sources = [left for left in self.sources if left.key not in joined]
            self.outputs = [left for left in self.outputs if left.key not in joined]
            parsed = CORPORATE.parse(batch.output)
            assert parsed is not None
            self.outputs.append(output(parsed.first, parsed.last, batch.size, key=batch.output))

    def check(self) -> None:
        """Every offset is in one object, and every object holds the offsets of its name."""
        objects = [*self.sources, *self.outputs]
        ranges = sorted((found.first, found.last) for found in objects)
        covered = [offset for first, last in ranges for offset in range(first, last + 1)]
        assert covered == list(range(self.offset))
        for found in objects:
            assert len(self.held[found.key]) == found.last - found.first + 1


@given(
    st.lists(st.lists(st.integers(1, 60), max_size=9), min_size=1, max_size=60),
    st.sampled_from([64, 500, 4000]),
)
def test_over_many_hours_few_outputs_remain_and_no_byte_is_written_often(
    hours: list[list[int]], size: int
) -> None:
    """At every hour: each offset once; side by side there are as few outputs that still grow as
    doublings from the smallest of them to the size; and so few times is each source written.
    """
    day = Day(Limits(grow=size, max_size=2 * size, min_age=0))
    for sizes in hours:
        day.hour(sizes)
        day.check()
        ordered = sorted(day.outputs, key=lambda found: found.first)
        for is_small, side_by_side in groupby(ordered, key=lambda found: found.size < size):
            sizes = [found.size for found in side_by_side]
            assert not is_small or len(sizes) <= math.log2(size / min(sizes)) + 2
        for key, times in day.written.items():
            assert times <= max(0, math.log2(size / day.first_written[key])) + 2


def test_hourly_runs_end_the_day_with_few_large_outputs() -> None:
    day = Day(Limits(grow=5_000_000, max_size=10_000_000, min_age=0))
    for _ in range(24):
        day.hour([100_000] * 10)
        day.check()
    assert len(day.outputs) <= 6
    assert max(day.written.values()) <= 4
    assert day.sources == []
