"""What is promised of plans."""

from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Copy, ExistingOutput, Group, GroupId, Source, Why
from coalesce.naming.layouts import layout
from coalesce.planning import batches as planning
from coalesce.planning.parts import lay_out, part_bytes
from coalesce.planning.rules import Limits
from coalesce.storage.limits import MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES

GROUP = GroupId("a/", "db.core.to-do_x", 3)


def source(first: int, last: int, size: int = 100) -> Source:
    return Source(
        f"{GROUP.prefix}{first}-{last}.jsonl.gz", size, '"e"', 0.0, "STANDARD", first, last
    )


def plan(
    sources: list[Source], limits: Limits | None = None, outputs: tuple[ExistingOutput, ...] = ()
) -> planning.Plan:
    return planning.plan(
        Group(GROUP, tuple(sources), outputs, 1e9), layout("corporate"), limits or Limits()
    )


def test_the_output_of_a_group_is_named_by_its_smallest_and_largest_offset() -> None:
    """A source inside another does not shorten the name."""
    (batch,) = plan([source(0, 999), source(500, 700)]).batches
    assert batch.output == "a/db.core.to-do_x_3_0_999.jsonl.gz"
    named = layout("corporate").parse(batch.output)
    assert named is not None
    assert (named.kind, named.group, named.first, named.last) == ("output", GROUP, 0, 999)


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
    assert [left.why for left in made.kept] == [Why.TOO_LARGE]


def test_a_source_inside_an_existing_output_is_left_alone() -> None:
    """It may have been joined before."""
    made = plan(
        [source(5, 6), source(20, 21), source(22, 30)], outputs=(ExistingOutput("k", 1, 0, 9),)
    )
    assert [(left.key, left.why) for left in made.kept] == [(source(5, 6).key, Why.COVERED)]


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
    assert sorted(joined + [left.key for left in made.kept]) == sorted(each.key for each in sources)
    assert all(
        batch.size <= max_size and 2 <= len(batch.sources) <= max_files for batch in made.batches
    )


@given(st.lists(st.integers(1, 30_000_000), min_size=1, max_size=12))
def test_parts_hold_every_byte_once_in_order_and_copies_obey_s3s_limits(sizes: list[int]) -> None:
    """S3 asks 5 MiB of every part but the last."""
    sources = [source(n, n, size) for n, size in enumerate(sizes)]
    parts = lay_out(sources, copy=True)
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
    parts = lay_out([source(0, 0, 100 * 1024**3)], copy=True)
    assert all(isinstance(part, Copy) and part.span.length <= MAX_PART_BYTES for part in parts)
    assert sum(part.span.length for part in parts if isinstance(part, Copy)) == 100 * 1024**3


@given(st.integers(1, 10**14))
def test_ten_thousand_parts_hold_any_output(size: int) -> None:
    assert -(-size // part_bytes(size)) <= MAX_PARTS


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
    assert [left.why for left in made.kept] == [Why.YOUNG, Why.EMPTY, Why.ARCHIVED]
    assert not made.batches


def test_gaps_and_overlaps_are_joined_and_counted() -> None:
    made = plan([source(0, 9), source(5, 14), source(20, 29)])
    assert (len(made.batches), made.gaps, made.overlaps) == (1, 1, 1)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=20), st.data())
def test_a_batch_is_split_around_a_source_never_across_it(
    sizes: list[int], data: st.DataObject
) -> None:
    sources = [source(n, n, size) for n, size in enumerate(sizes)]
    (batch,) = plan(sources).batches
    spoilt = data.draw(st.sampled_from(sources))
    pieces, single = planning.split(
        GROUP, batch, spoilt, layout("corporate"), Limits(), {batch.output}
    )
    joined = {each.key for piece in pieces for each in piece.sources} | {
        each.key for each in single
    }
    assert joined == {each.key for each in sources} - {spoilt.key}
    assert all(
        all(each.first < spoilt.first for each in piece.sources)
        or all(each.first > spoilt.first for each in piece.sources)
        for piece in pieces
    )
    assert len({batch.output, *(piece.output for piece in pieces)}) == 1 + len(pieces)


def test_a_piece_of_a_batch_never_has_the_batchs_name() -> None:
    """The batch's upload may still be open."""
    sources = [source(0, 99), source(5, 9), source(10, 20)]
    (batch,) = plan(sources).batches
    (piece,), _ = planning.split(
        GROUP, batch, sources[2], layout("corporate"), Limits(), {batch.output}
    )
    assert (batch.output, piece.output) == (
        f"{GROUP.prefix}0_99.jsonl.gz",
        f"{GROUP.prefix}0_099.jsonl.gz",
    )
