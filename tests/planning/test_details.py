"""Boundaries of plans: at, just below and just above each limit."""

from dataclasses import replace

import pytest

from coalesce.errors import ConfigurationError
from coalesce.model import (
    Codec,
    Group,
    GroupId,
    ObjectInfo,
    Records,
    Source,
    Why,
)
from coalesce.naming.layouts import LAYOUTS, source_of
from coalesce.planning import batches as planning
from coalesce.planning.forecast import forecast
from coalesce.planning.parts import PART_BYTES, PartSizes
from coalesce.planning.plan_files import PlanFile, PlannedGroup, load, match_plan
from coalesce.planning.rules import Limits
from coalesce.storage.limits import MAX_PARTS
from coalesce.storage.memory import MemoryStore
from support.buckets import filled
from support.runs import new_run
from support.settings import settings

GROUP = GroupId("data/", "t", 0)
NOW = 1e9
CORPORATE, MANIFEST = LAYOUTS["corporate"], LAYOUTS["manifest"]


def source(first: int, last: int, size: int = 100, **more: object) -> Source:
    key = f"{GROUP.prefix}{first}-{last}.jsonl.gz"
    made = Source(key, size, '"e"', 0.0, "STANDARD", first, last)
    return made._replace(**more) if more else made  # type: ignore[arg-type]


def plan(
    sources: list[Source], limits: Limits | None = None, outputs: tuple[Source, ...] = ()
) -> planning.Plan:
    group = Group(GROUP, tuple(sources), outputs, NOW)
    return planning.plan(group, CORPORATE, limits or Limits())


def output(first: int, last: int) -> Source:
    return Source(f"{GROUP.prefix}{first}_{last}.jsonl.gz", 1, '"e"', 0.0, "STANDARD", first, last)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("records", Records)
@pytest.mark.parametrize("single", [False, True])
def test_what_an_output_is_made_of_decides_the_limits_of_its_group(
    codec: Codec, records: Records, single: bool
) -> None:
    """What is compressed again has room to grow, and nothing that the store could copy; nor has
    text out of which a header is taken.
    """
    limits = Limits(max_size=1000, copy=True, single=single).of_content(codec, records)
    header, compressed = records is Records.CSV_HEADER, codec is not Codec.PLAIN
    again = compressed and (single or header)
    assert (limits.single, limits.max_size) == (again, 970 if again else 1000)
    assert limits.copy == (not again and not header)


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_source_is_left_alone(storage_class: str) -> None:
    """A GET of it fails, and with it its batch."""
    why = planning.reason_to_keep(
        Source("k", 1, '"e"', 0.0, storage_class, 0, 0), NOW, Limits(min_age=0)
    )
    assert why is Why.ARCHIVED


@pytest.mark.parametrize(
    ("age", "why"), [(299, Why.YOUNG), (300, None), (301, None), (-1, Why.YOUNG), (-61, Why.YOUNG)]
)
def test_a_source_is_young_until_it_has_the_age(age: float, why: Why | None) -> None:
    """One that the store says was written in the future too."""
    made = source(0, 0, modified=NOW - age)
    assert planning.reason_to_keep(made, NOW, Limits(min_age=300)) is why


@pytest.mark.parametrize(("size", "why"), [(99, None), (100, None), (101, Why.TOO_LARGE)])
def test_a_source_is_too_large_above_the_limit(size: int, why: Why | None) -> None:
    assert planning.reason_to_keep(source(0, 0, size), NOW, Limits(max_size=100)) is why


@pytest.mark.parametrize(("limit", "batches"), [(199, 0), (200, 1), (201, 1)])
def test_sources_that_fill_the_limit_are_one_output(limit: int, batches: int) -> None:
    assert len(plan([source(0, 0), source(1, 1)], Limits(max_size=limit)).batches) == batches


@pytest.mark.parametrize(
    ("first", "last", "covered"),
    [
        (10, 10, True),
        (10, 20, True),
        (19, 20, True),
        (20, 20, True),
        (9, 10, False),
        (20, 21, False),
    ],
)
def test_what_an_output_holds_is_not_joined_again(first: int, last: int, covered: bool) -> None:
    """Its first and its last offset count as held."""
    made = plan([source(first, last)], outputs=(output(10, 20),))
    assert [kept.why for kept in made.kept] == [Why.COVERED if covered else Why.SINGLE]


def test_a_short_output_inside_a_long_one_hides_nothing_of_it() -> None:
    made = plan([source(50, 60)], outputs=(output(0, 99), output(10, 20)))
    assert [kept.why for kept in made.kept] == [Why.COVERED]


@pytest.mark.parametrize(
    ("offsets", "counted"),
    [
        ([(0, 9), (10, 19)], (0, 0)),
        ([(0, 9), (11, 19)], (1, 0)),
        ([(0, 9), (9, 19)], (0, 1)),
        ([(0, 9), (8, 19)], (0, 1)),
        ([(0, 99), (10, 19), (100, 109)], (0, 1)),
        ([(0, 99), (10, 19), (101, 109)], (1, 1)),
    ],
)
def test_gaps_and_overlaps_of_neighbours(
    offsets: list[tuple[int, int]], counted: tuple[int, int]
) -> None:
    made = plan([source(first, last) for first, last in offsets])
    assert (made.gaps, made.overlaps) == counted


@pytest.mark.parametrize("parts", [9000, MAX_PARTS])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_there_is_room_for_added_newlines_in_ten_thousand_parts(parts: int, more: int) -> None:
    """Newlines that sources lack make an output up to a tenth longer than they are."""
    size = parts * PART_BYTES + more
    part_bytes = PartSizes().of_output(size)
    assert part_bytes >= PART_BYTES
    assert -(-size * 11 // 10 // part_bytes) <= MAX_PARTS


def manifest(name: str) -> Source:
    key = f"data/{name}.txt"
    parsed = MANIFEST.parse(key)
    assert parsed is not None
    return source_of(parsed, ObjectInfo(key, 10, '"e"', 0.0, "STANDARD"))


def test_offsets_of_manifests_are_not_compared() -> None:
    """The two of a name may be of different partitions."""
    sources = tuple(manifest(f"t_0_{n}-u_1_{n}") for n in (5, 7))
    outputs = (Source("data/t_0_0_u_1_9.txt", 1, '"e"', 0.0, "STANDARD", 0, 9),)
    made = planning.plan(Group(GROUP, sources, outputs, NOW), MANIFEST, Limits())
    assert [batch.output for batch in made.batches] == ["data/t_0_5_u_1_7.txt"]
    assert (made.kept, made.gaps, made.overlaps) == ((), 0, 0)


def test_sources_whose_output_could_not_be_told_from_others_are_left_and_counted() -> None:
    """`t_0_0_1_x_1_8.txt` can be read in two ways."""
    sources = tuple(manifest(f"t_0_{n}-1_x_1_{n + 7}") for n in (0, 1))
    made = planning.plan(Group(GROUP, sources, (), NOW), MANIFEST, Limits())
    assert made.batches == ()
    assert [(kept.key, kept.why) for kept in made.kept] == [(s.key, Why.SINGLE) for s in sources]


def test_two_outputs_of_a_plan_never_have_one_name() -> None:
    keys = ["0-9", "0-09", "00-9", "00-09"]
    sources = [source(0, 9, key=f"{GROUP.prefix}{key}.jsonl.gz") for key in keys]
    made = plan(sources, Limits(max_files=2))
    assert sorted(batch.output for batch in made.batches) == [
        f"{GROUP.prefix}0_09.jsonl.gz",
        f"{GROUP.prefix}0_9.jsonl.gz",
    ]


@pytest.mark.parametrize(
    ("count", "shares"), [(10, [10]), (11, [6, 5]), (12, [6, 6]), (21, [7, 7, 7]), (23, [8, 8, 7])]
)
def test_no_output_is_much_smaller_than_the_others(count: int, shares: list[int]) -> None:
    """A last source alone would be joined with nothing."""
    made = plan([source(n, n) for n in range(count)], Limits(max_files=10))
    assert [len(batch.sources) for batch in made.batches] == shares
    assert made.kept == ()


def test_what_is_kept_for_a_reason_is_not_counted_as_excluded() -> None:
    sources = [source(0, 0), source(1, 1), source(2, 2, size=0), source(3, 3)]
    made = plan(sources, Limits(exclude=("*_3-3*",)))
    assert ([kept.why for kept in made.kept], made.excluded) == ([Why.EMPTY], 1)


def test_a_source_inside_an_output_is_kept_for_its_own_reason_if_it_has_one() -> None:
    made = plan([source(2, 3, size=0), source(4, 5)], outputs=(output(0, 9),))
    assert [kept.why for kept in made.kept] == [Why.EMPTY, Why.COVERED]


@pytest.mark.parametrize("count", [249, 250, 251, 500, 501])
async def test_a_forecast_counts_what_a_run_then_sends(count: int) -> None:
    bucket = filled(1, count)
    planned = await new_run(MemoryStore(bucket), settings()).plan()
    report = await new_run(MemoryStore(bucket), settings()).coalesce()
    assert planned.plan is not None
    names = ("GetObject", "HeadObject", "UploadPart", "PutObject", "DeleteObject", "DeleteObjects")
    probe = (await new_run(MemoryStore(filled(0)), settings()).coalesce()).requests
    assert {name: planned.plan.requests[name] for name in names} == {
        name: report.requests.get(name, 0) - probe.get(name, 0) for name in names
    }


def test_a_forecast_counts_a_head_for_the_type_and_one_for_the_proof() -> None:
    """And one for each source that is read in several ranges."""
    small = plan([source(0, 0), source(1, 1)])
    large = plan([source(0, 0, PART_BYTES), source(1, 1, PART_BYTES + 1)])
    assert forecast([small], 0, single=False).requests["HeadObject"] == 2
    assert forecast([large], 0, single=False).requests["HeadObject"] == 3


SAVED = settings(min_age=300, state="elsewhere")
LIMITS = Limits.of(SAVED)


def saved(sources: list[Source], directory: str = "data/") -> PlanFile:
    group = Group(GroupId(directory, "t", 0), tuple(sources), (), NOW)
    made = planning.plan(group, CORPORATE, LIMITS)
    assert made.batches
    line = PlannedGroup.of(group, made)
    return PlanFile.of(SAVED, ("data/",), [line], version="1", created="2026-11-22T00:00:00Z")


def test_a_plan_with_outputs_outside_its_prefixes_is_refused() -> None:
    inside = saved([source(0, 0), source(1, 1)])
    assert load(inside.dump(), "p").groups == inside.groups
    moved = [source(n, n, key=f"other/t_0_{n}-{n}.jsonl.gz") for n in range(2)]
    with pytest.raises(ConfigurationError):
        load(saved(moved, "other/").dump(), "p")


def test_a_plan_keeps_its_state_prefix() -> None:
    """With two of them, two runs would not see each other's plan records."""
    assert saved([source(0, 0), source(1, 1)]).header.options["state"] == "elsewhere"


def test_sources_that_were_too_young_for_a_plan_do_not_spoil_it() -> None:
    """A day later they are old enough, and still not part of it."""
    sources = [manifest(f"t_0_{n}-u_1_{n}") for n in range(3)]
    sources[1] = sources[1]._replace(modified=NOW - 10)
    limits = Limits(min_age=300)
    group = Group(GROUP, tuple(sources), (), NOW)
    line = PlannedGroup.of(group, planning.plan(group, MANIFEST, limits))
    matched, stale = match_plan(replace(group, listed_at=NOW + 86_400), line, MANIFEST, limits)
    assert [[s.first for s in batch.sources] for batch in matched.batches] == [[0, 2]]
    assert stale == 0


@pytest.mark.parametrize(("came", "stale"), [(5, 0), (15, 1), (25, 0)])
def test_a_plan_is_not_worked_off_across_a_source_that_came_later(came: int, stale: int) -> None:
    """The output would cover that source, and no run would ever join it."""
    sources = [source(10, 14), source(20, 24)]
    (line,) = saved(sources).groups
    later = (*sources, source(came, came + 4, modified=NOW + 10))
    matched, found = match_plan(Group(GROUP, later, (), NOW + 86_400), line, CORPORATE, LIMITS)
    assert (len(matched.batches), found) == (1 - stale, stale)


@pytest.mark.parametrize(("left", "stale"), [([0, 1, 2], 1), ([0], 1), ([2], 1), ([], 0)])
def test_an_output_that_is_there_beside_its_sources_is_not_written_again(
    left: list[int], stale: int
) -> None:
    sources = [source(n, n) for n in range(3)]
    (line,) = saved(sources).groups
    there = Group(GROUP, tuple(sources[n] for n in left), (output(0, 2),), NOW)
    matched, found = match_plan(there, line, CORPORATE, LIMITS)
    assert (matched.batches, found) == ((), stale)


def test_the_same_holds_of_manifests_whose_offsets_cover_nothing() -> None:
    sources = tuple(manifest(f"t_0_{n}-u_1_{n}") for n in (5, 6))
    group = Group(GROUP, sources, (), NOW)
    limits = Limits(min_age=0)
    made = planning.plan(group, MANIFEST, limits)
    line = PlannedGroup.of(group, made)
    matched, stale = match_plan(group, line, MANIFEST, limits)
    assert (len(matched.batches), stale) == (1, 0)
    there = Group(
        GROUP, sources, (Source(made.batches[0].output, 1, '"e"', 0.0, "STANDARD", 5, 6),), NOW
    )
    matched, stale = match_plan(there, line, MANIFEST, limits)
    assert (matched.batches, stale) == ((), 1)


@pytest.mark.parametrize("gone", [0, 3])
def test_an_output_whose_first_or_last_source_is_gone_is_not_joined_as_planned(gone: int) -> None:
    sources = [source(n, n) for n in range(4)]
    group = Group(GROUP, tuple(sources), (), NOW)
    line = PlannedGroup.of(group, planning.plan(group, CORPORATE, LIMITS))
    now = replace(group, sources=(*sources[:gone], *sources[gone + 1 :]))
    matched, stale = match_plan(now, line, CORPORATE, LIMITS)
    assert (matched.batches, stale) == ((), 1)


def test_the_lines_of_a_plan_are_in_the_order_of_their_groups() -> None:
    """The shares of a plan are told by their places."""
    groups = [
        Group(GroupId("data/", "t", n), (source(0, 0), source(1, 1)), (), NOW) for n in (2, 0, 1)
    ]
    lines = [PlannedGroup.of(each, planning.plan(each, CORPORATE, LIMITS)) for each in groups]
    plan = PlanFile.of(SAVED, ("data/",), lines, version="1", created="2026-11-22T00:00:00Z")
    assert [line.partition for line in plan.groups] == [0, 1, 2]
