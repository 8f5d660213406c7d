"""What is promised of plans."""

import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Batch, Copy, Group, GroupId, Source, Stream, Why
from coalesce.naming.layouts import layout
from coalesce.naming.sources import Sources
from coalesce.planning import batches as planning
from coalesce.planning.parts import PartSizes, lay_out
from coalesce.planning.rules import Limits
from coalesce.storage.limits import MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES

GROUP = GroupId("a/", "db.core.to-do_x", 3)


def source(first: int, last: int, size: int = 100) -> Source:
    return Source(
        f"{GROUP.prefix}{first}-{last}.jsonl.gz", size, '"e"', 0.0, "STANDARD", first, last
    )


def plan(
    sources: list[Source], limits: Limits | None = None, outputs: tuple[Source, ...] = ()
) -> planning.Plan:
    return planning.plan(
        Group(GROUP, tuple(sources), outputs, 1e9), layout("corporate"), limits or Limits()
    )


def test_the_output_of_a_group_is_named_by_its_smallest_and_largest_offset() -> None:
    """A source inside another does not shorten the name."""
    (batch,) = plan([source(0, 999), source(500, 700)]).batches
    assert batch.output == "a/db.core.to-do_x_3_0_999.jsonl.gz"
    parsed = layout("corporate").parse(batch.output)
    assert parsed is not None
    assert (parsed.kind, parsed.group, parsed.first, parsed.last) == ("output", GROUP, 0, 999)


def test_a_taken_name_gets_a_leading_zero() -> None:
    """Never a suffix: readers pick the codec by it."""
    key = layout("corporate").output_key(
        GROUP, (source(0, 9), source(10, 19)), {"a/db.core.to-do_x_3_0_19.jsonl.gz"}
    )
    assert key == "a/db.core.to-do_x_3_0_019.jsonl.gz"


def test_eleven_hundred_sources_by_ten_make_110_outputs() -> None:
    """The packing of equal sources."""
    batches = plan([source(n, n) for n in range(1100)], Limits(max_files=10)).batches
    assert len(batches) == 110
    assert {len(batch.sources) for batch in batches} == {10}


def test_an_output_never_exceeds_the_size_limit() -> None:
    """The original made one output of 328 MB of these."""
    sizes = [100, 100, 127_999_700, 200_000_000]
    made = plan([source(n, n, size) for n, size in enumerate(sizes)])
    assert all(batch.size <= 128_000_000 for batch in made.batches)
    assert [kept.why for kept in made.kept] == [Why.TOO_LARGE]


def test_a_source_inside_an_existing_output_is_left_alone() -> None:
    """It may have been joined before."""
    made = plan(
        [source(5, 6), source(20, 21), source(22, 30)],
        outputs=(Source("k", 1, '"e"', 0.0, "STANDARD", 0, 9),),
    )
    assert [(kept.key, kept.why) for kept in made.kept] == [(source(5, 6).key, Why.COVERED)]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(2, 10), st.integers(1, 120)
)
def test_every_source_is_planned_once_in_order_or_left(
    sizes: list[int], max_files: int, max_size: int
) -> None:
    """Nothing is lost or doubled by planning, whatever the limits."""
    sources = [source(n, n, size) for n, size in enumerate(sizes)]
    made = plan(sources, Limits(max_files=max_files, max_size=max_size))
    joined = [each.key for batch in made.batches for each in batch.sources]
    assert sorted(joined + [kept.key for kept in made.kept]) == sorted(each.key for each in sources)
    assert all(
        batch.size <= max_size and 2 <= len(batch.sources) <= max_files for batch in made.batches
    )


@given(st.lists(st.integers(1, 30_000_000), min_size=1, max_size=12))
def test_parts_hold_every_byte_once_in_order_and_copies_obey_s3s_limits(sizes: list[int]) -> None:
    """S3 asks 5 MiB of every part but the last."""
    sources = [source(n, n, size) for n, size in enumerate(sizes)]
    parts = lay_out(sources, PartSizes(), copy=True)
    spans = [
        span for part in parts for span in ([part.span] if isinstance(part, Copy) else part.spans)
    ]
    reached: dict[str, int] = {}
    for span in spans:
        assert span.start == reached.get(span.source.key, 0)
        reached[span.source.key] = span.start + span.length
    assert list(reached.items()) == [(each.key, each.size) for each in sources]
    lengths = [
        part.span.length if isinstance(part, Copy) else sum(span.length for span in part.spans)
        for part in parts
    ]
    assert all(length >= MIN_PART_BYTES for length in lengths[:-1])
    assert all(part.span.length >= MIN_PART_BYTES for part in parts if isinstance(part, Copy))


def test_a_source_of_100_gib_is_copied_in_parts_that_s3_takes() -> None:
    parts = lay_out([source(0, 0, 100 * 1024**3)], PartSizes(), copy=True)
    assert all(isinstance(part, Copy) and part.span.length <= MAX_PART_BYTES for part in parts)
    assert sum(part.span.length for part in parts if isinstance(part, Copy)) == 100 * 1024**3


@pytest.mark.parametrize(("count", "kind"), [(MAX_PARTS, Copy), (MAX_PARTS + 1, Stream)])
def test_sources_that_would_be_more_copies_than_an_upload_has_parts_are_streamed(
    count: int, kind: type[Copy | Stream]
) -> None:
    sources = [source(n, n, MIN_PART_BYTES) for n in range(count)]
    assert all(isinstance(part, kind) for part in lay_out(sources, PartSizes(), copy=True))


@given(st.integers(1, 10**14))
def test_ten_thousand_parts_hold_any_output(size: int) -> None:
    assert -(-size // PartSizes().of_output(size)) <= MAX_PARTS


def test_young_empty_archived_and_excluded_sources_stay_with_their_reason() -> None:
    """The store's clock, not ours."""
    group = Group(
        GROUP,
        (
            Source(f"{GROUP.prefix}0-0.jsonl.gz", 10, "e", 1000.0, "STANDARD", 0, 0),
            Source(f"{GROUP.prefix}1-1.jsonl.gz", 0, "e", 0.0, "STANDARD", 1, 1),
            Source(f"{GROUP.prefix}2-2.jsonl.gz", 10, "e", 0.0, "GLACIER", 2, 2),
            Source(f"{GROUP.prefix}3-3.jsonl.gz", 10, "e", 0.0, "STANDARD", 3, 3),
        ),
        (),
        listed_at=1200.0,
    )
    made = planning.plan(group, layout("corporate"), Limits(exclude=("*_3-3*",)))
    assert [kept.why for kept in made.kept] == [Why.YOUNG, Why.EMPTY, Why.ARCHIVED]
    assert not made.batches


def test_gaps_and_overlaps_are_joined_and_counted() -> None:
    made = plan([source(0, 9), source(5, 14), source(20, 29)])
    assert (len(made.batches), made.gaps, made.overlaps) == (1, 1, 1)


@st.composite
def sources_by_offset(draw: st.DrawFn) -> list[Source]:
    """Neighbours with gaps and overlaps; some have the same offsets, written with zeros."""
    offsets, sizes = st.integers(0, 20), st.integers(1, 50)
    ranges = draw(st.lists(st.tuples(offsets, offsets, sizes), min_size=2, max_size=30))
    seen = Counter[tuple[int, int]]()
    sources = []
    for first, length, size in ranges:
        each, zeros = source(first, first + length, size), "0" * seen[first, length]
        seen[first, length] += 1
        sources.append(
            each._replace(key=f"{GROUP.prefix}{zeros}{each.key.removeprefix(GROUP.prefix)}")
        )
    return sorted(sources, key=lambda each: (each.first, each.last, each.key))


def one_batch(sources: list[Source]) -> Batch:
    (batch,) = plan(sources).batches
    return batch


LIMITS = st.builds(
    Limits,
    max_files=st.integers(2, 6),
    max_size=st.integers(50, 150),
    min_files=st.integers(1, 4),
)


@given(sources_by_offset(), LIMITS, st.data())
def test_a_batch_is_planned_again_around_any_of_its_sources_never_across_one(
    sources: list[Source], limits: Limits, data: st.DataObject
) -> None:
    """Every other source is in one new batch or single, in order, under a name that nobody has."""
    batch = one_batch(sources)
    unusable = data.draw(st.lists(st.sampled_from(sources), min_size=1, unique=True))
    taken = {f"{GROUP.prefix}{sources[0].first}_{sources[0].last}.jsonl.gz"}
    batches, single = planning.replan(GROUP, batch, unusable, layout("corporate"), limits, taken)

    place = {each.key: at for at, each in enumerate(sources)}
    joined = [[place[each.key] for each in piece.sources] for piece in batches]
    alone = [place[each.key] for each in single]
    apart = {place[each.key] for each in unusable}
    assert sorted([*apart, *alone, *(at for run in joined for at in run)]) == list(
        range(len(sources))
    ), "each source once"
    assert [at for run in joined for at in run] == sorted(at for run in joined for at in run)
    assert alone == sorted(alone)
    for run in joined:
        assert run == list(range(run[0], run[-1] + 1)), "neighbours, with nothing left out between"
        assert limits.min_files <= len(run) <= max(limits.max_files, limits.min_files)
    outputs = [piece.output for piece in batches]
    assert len({*outputs, *taken, batch.output}) == len(outputs) + len({*taken, batch.output})
    for piece in batches:
        parsed = layout("corporate").parse(piece.output)
        assert parsed is not None
        assert (parsed.first, parsed.last) == (
            piece.sources[0].first,
            max(each.last for each in piece.sources),
        )
        assert piece.digest == planning.digest(piece.sources)


def test_no_output_covers_a_source_that_a_later_run_may_join() -> None:
    """An archived, a large, a left out or a young one; an empty one holds nothing to be joined."""
    kept = {
        20: source(20, 29)._replace(modified=1e9),
        40: source(40, 49)._replace(storage_class="GLACIER"),
        60: source(60, 69, 10**9),
        80: source(80, 89),
    }
    sources = [kept.get(n) or source(n, n + 9) for n in range(0, 120, 10)]
    sources[-1] = sources[-1]._replace(size=0)
    made = plan(sources, Limits(exclude=("*_80-89*",)))
    assert [[each.first for each in batch.sources] for batch in made.batches] == [
        [0, 10],
        [90, 100],
    ]
    sources[-2], sources[-1] = sources[-2]._replace(size=0), source(110, 119)
    (_, last) = plan(sources, Limits(exclude=("*_80-89*",))).batches
    assert [each.first for each in last.sources] == [90, 110]


@given(sources_by_offset(), LIMITS, st.data())
def test_a_kept_source_is_covered_only_by_one_that_holds_its_offsets_itself(
    sources: list[Source], limits: Limits, data: st.DataObject
) -> None:
    """Whichever sources are too young this time."""
    young = data.draw(st.lists(st.sampled_from(sources), unique=True))
    aged = [each._replace(modified=1e9) if each in young else each for each in sources]
    for batch in plan(aged, limits).batches:
        parsed = layout("corporate").parse(batch.output)
        assert parsed is not None
        for each in young:
            if parsed.first <= each.first and each.last <= parsed.last:
                assert any(
                    joined.first <= each.first and each.last <= joined.last
                    for joined in batch.sources
                )


@given(sources_by_offset())
def test_a_batch_of_which_nothing_can_be_joined_becomes_nothing(sources: list[Source]) -> None:
    batch = one_batch(sources)
    assert planning.replan(GROUP, batch, sources, layout("corporate"), Limits(), ()) == ((), ())


def test_a_batch_is_only_planned_again_around_its_own_sources() -> None:
    """Otherwise the same batch would come out for ever."""
    batch = one_batch([source(0, 9), source(10, 19)])
    with pytest.raises(ValueError, match="not all of these are sources"):
        planning.replan(GROUP, batch, [source(20, 29)], layout("corporate"), Limits(), ())


def test_a_batch_with_thousands_of_unusable_sources_is_planned_again() -> None:
    """How long it takes grows with the batch, not with its square (`pytest -s` shows it)."""
    sources = [source(n, n) for n in range(10_000)]
    batch = one_batch(sources)
    unusable = [each for each in sources if each.first % 4 < 2]
    begun = time.perf_counter()
    batches, single = planning.replan(GROUP, batch, unusable, layout("corporate"), Limits(), ())
    seconds = time.perf_counter() - begun
    sys.stdout.write(f"10,000 sources, 5,000 of them unusable: {seconds:.3f} s\n")
    assert (len(batches), len(single)) == (2_500, 0)


def test_a_part_of_a_batch_never_has_the_batchs_name() -> None:
    """The batch's upload may still be open."""
    sources = [source(0, 99), source(5, 9), source(10, 20)]
    batch = one_batch(sources)
    (piece,), _ = planning.replan(GROUP, batch, sources[2:], layout("corporate"), Limits(), ())
    assert (batch.output, piece.output) == (
        f"{GROUP.prefix}0_99.jsonl.gz",
        f"{GROUP.prefix}0_099.jsonl.gz",
    )


CLASSES = st.lists(
    st.tuples(st.sampled_from(["STANDARD", "STANDARD_IA", "GLACIER_IR"]), st.integers(1, 60)),
    max_size=40,
)


@given(CLASSES, st.integers(2, 5), st.integers(2, 4))
def test_no_batch_mixes_storage_classes(
    described: list[tuple[str, int]], max_files: int, min_files: int
) -> None:
    """Unless the user chose the class of the outputs; and every source is planned once or left."""
    sources = [
        source(n, n, size)._replace(storage_class=name) for n, (name, size) in enumerate(described)
    ]
    limits = Limits(max_files=max_files, min_files=min_files, max_size=150)
    made = plan(sources, limits)
    for batch in made.batches:
        assert len({one.storage_class for one in batch.sources}) == 1
    held = [one.key for batch in made.batches for one in batch.sources]
    assert sorted([*held, *(kept.key for kept in made.kept)]) == sorted(s.key for s in sources)
    whole = plan([one._replace(storage_class="STANDARD") for one in sources], limits)
    mixed = plan(sources, replace(limits, one_class=False))
    assert [batch.output for batch in mixed.batches] == [batch.output for batch in whole.batches]


@given(CLASSES)
def test_runs_of_one_storage_class_are_as_long_as_they_can_be(
    described: list[tuple[str, int]],
) -> None:
    """Also of sources whose keys cannot be packed."""
    sources = Sources.of(
        GROUP.prefix,
        [
            source(n, n, size)._replace(storage_class=name)
            if size % 2
            else source(n, n, size)._replace(storage_class=name, key=f"odd-{n}")
            for n, (name, size) in enumerate(described)
        ],
    )
    runs = [list(run) for run in sources.by_class()]
    assert [one for run in runs for one in run] == list(sources)
    classes = [{one.storage_class for one in run} for run in runs]
    assert all(len(found) <= 1 for found in classes)
    assert all(before != after for before, after in pairwise(classes))


@given(st.text("abc", max_size=30), st.sets(st.integers(0, 29)))
def test_a_batch_is_planned_again_with_one_kind_in_each_output(kinds: str, bad: set[int]) -> None:
    sources = [source(n, n) for n in range(len(kinds))]
    spoilt = [one for n, one in enumerate(sources) if n in bad]
    batch = Batch("a/db.core.to-do_x_3_0_99.jsonl.gz", sources, 0, "d")
    kind_of = {one.key: kind for one, kind in zip(sources, kinds, strict=True) if kind != "a"}
    made, single = planning.replan(
        GROUP, batch, spoilt, layout("corporate"), Limits(), set(), kind_of
    )
    for piece in made:
        firsts = [one.first for one in piece.sources]
        assert firsts == list(range(firsts[0], firsts[-1] + 1))
        assert len({kinds[n] for n in firsts}) == 1
    held = [one for piece in made for one in piece.sources]
    assert sorted([*held, *single, *spoilt]) == sorted(sources)
    assert sorted(single) == sorted(
        one
        for n, one in enumerate(sources)
        if n not in bad
        and not any(
            other in range(len(kinds)) and other not in bad and kinds[other] == kinds[n]
            for other in (n - 1, n + 1)
        )
    )
