"""What is promised of names, plans and contents."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce import planning
from coalesce.content import NEWLINE_MEMBER, Members
from coalesce.errors import ContentError
from coalesce.model import ExistingOutput, Group, GroupId, Source, Why
from coalesce.naming import LAYOUTS, layout
from coalesce.planning import Limits

GROUP = GroupId("a/", "db.core.to-do_x", 3)


def source(first: int, last: int, size: int = 100) -> Source:
    return Source(f"{GROUP.prefix}{first}-{last}.jsonl.gz", size, '"e"', 0.0, "STANDARD", first, last)


def plan(sources: list[Source], limits: Limits | None = None, outputs: tuple[ExistingOutput, ...] = ()) -> planning.Plan:
    return planning.plan(Group(GROUP, tuple(sources), outputs, 1e9), layout("corporate"), limits or Limits())


@given(st.text(alphabet="ab_-.019/", max_size=40), st.sampled_from([".jsonl.gz", ".txt"]))
def test_a_key_is_never_a_source_in_one_reading_and_an_output_in_another(stem: str, suffix: str) -> None:
    """Only a key that says what it is without doubt is touched, and what it says leads back to it."""
    for each in LAYOUTS.values():
        named = each.parse(stem + suffix)
        assert named is None or (stem + suffix).startswith(named.group.prefix)


def test_the_output_of_a_group_is_named_by_its_smallest_and_largest_offset() -> None:
    """A source inside another does not shorten the name."""
    (batch,) = plan([source(0, 999), source(500, 700)]).batches
    assert batch.output == "a/db.core.to-do_x_3_0_999.jsonl.gz"
    named = layout("corporate").parse(batch.output)
    assert named is not None
    assert (named.kind, named.group, named.first, named.last) == ("output", GROUP, 0, 999)


def test_a_taken_name_gets_a_leading_zero() -> None:
    """Never a suffix: readers pick the codec by it."""
    key = layout("corporate").output_key(GROUP, (source(0, 9), source(10, 19)), {"a/db.core.to-do_x_3_0_19.jsonl.gz"})
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
    assert [left.why for left in made.left] == [Why.TOO_LARGE]


def test_a_source_inside_an_existing_output_is_left_alone() -> None:
    """It may have been joined before."""
    made = plan([source(5, 6), source(20, 21), source(22, 30)], outputs=(ExistingOutput("k", 1, 0, 9),))
    assert [(left.key, left.why) for left in made.left] == [(source(5, 6).key, Why.COVERED)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(2, 10), st.integers(1, 120))
def test_every_source_is_planned_once_in_order_or_left(sizes: list[int], max_files: int, max_size: int) -> None:
    """Nothing is lost or doubled by planning, whatever the limits."""
    sources = [source(n, n, size) for n, size in enumerate(sizes)]
    made = plan(sources, Limits(max_files=max_files, max_size=max_size))
    joined = [each.key for batch in made.batches for each in batch.sources]
    assert sorted(joined + [left.key for left in made.left]) == sorted(each.key for each in sources)
    assert all(batch.size <= max_size and 2 <= len(batch.sources) <= max_files for batch in made.batches)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.integers(1, 60))
def test_members_pass_whole_and_their_last_record_is_ended(texts: list[bytes], step: int) -> None:
    """However the body arrives: what is written holds the same bytes, with a newline at the end."""
    data = b"".join(gzip.compress(text) for text in texts)
    joiner = Members("k")
    written = [piece for at in range(0, len(data), step) for piece in joiner.feed(data[at : at + step])]
    written += joiner.finish()
    held = b"".join(texts)
    assert gzip.decompress(b"".join(written)) == held + (b"\n" if held and not held.endswith(b"\n") else b"")


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b + b"\0" * 20, lambda b: b + b"junk", lambda _: b"", lambda b: b[:-6] + bytes([b[-6] ^ 1]) + b[-5:]]
)
def test_a_source_that_is_not_whole_gzip_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    """One such source would hide every later record from a reader."""
    joiner = Members("k")
    with pytest.raises(ContentError):
        joiner.feed(spoil(gzip.compress(b'{"a": 1}\n')))
        joiner.finish()


def test_a_member_of_a_newline_is_21_bytes() -> None:
    """As the readers' measurements had it."""
    assert len(NEWLINE_MEMBER) == 21
