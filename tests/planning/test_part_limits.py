"""An upload has at most 10,000 parts: with one more, Complete is refused after all was sent."""

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Copy, Group, GroupId, Part, Source, Stream, Why
from coalesce.naming.layouts import layout
from coalesce.naming.sources import Sources
from coalesce.planning.batches import plan
from coalesce.planning.parts import PART_BYTES, PartSizes, lay_out
from coalesce.planning.rules import Limits
from coalesce.storage.limits import MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES

SIZES = PartSizes()
GROUP = GroupId("corporate/storage/2026/11/22/", "db.core.toDo", 3)


def sources(*sizes: int) -> list[Source]:
    return [
        Source(f"{GROUP.prefix}{n}-{n}.jsonl.gz", size, f'"{n:032x}"', 0.0, "STANDARD", n, n)
        for n, size in enumerate(sizes)
    ]


def uploads(parts: tuple[Part, ...]) -> int:
    """How many parts of an upload it takes, as they are sent: full ones while what is left behind
    is enough for another, and the rest.
    """
    size = sum(
        part.span.length if isinstance(part, Copy) else sum(span.length for span in part.spans)
        for part in parts
    )
    part_bytes = SIZES.of_output(size)
    count = 0
    for part in parts:
        rest = 0 if isinstance(part, Copy) else sum(span.length for span in part.spans)
        while rest >= part_bytes + SIZES.least:
            rest -= part_bytes
            count += 1
        count += isinstance(part, Copy) or rest > 0
    return count


def kinds(parts: tuple[Part, ...]) -> set[type[Part]]:
    return {type(part) for part in parts}


@pytest.mark.parametrize("count", [MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 1])
def test_copies_alone(count: int) -> None:
    parts = lay_out(sources(*[MIN_PART_BYTES] * count), SIZES, copy=True)
    assert kinds(parts) == ({Copy} if count <= MAX_PARTS else {Stream})
    assert uploads(parts) <= MAX_PARTS
    assert count > MAX_PARTS or uploads(parts) == count


@pytest.mark.parametrize("count", [MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 1])
def test_copies_between_streams(count: int) -> None:
    """Each small source takes what its part lacks from the large one behind it."""
    pairs = [100, 2 * MIN_PART_BYTES] * (count // 2)
    odd = [2 * MIN_PART_BYTES] * (count % 2)
    parts = lay_out(sources(*odd, *pairs), SIZES, copy=True)
    assert kinds(parts) == ({Copy, Stream} if count <= MAX_PARTS else {Stream})
    assert uploads(parts) <= MAX_PARTS
    assert count > MAX_PARTS or uploads(parts) == count


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_stream_of_several_parts_among_copies(more: int) -> None:
    """Seven parts and what is left behind them, of sources too small to be copied."""
    small = [MIN_PART_BYTES - 1] * (8 * PART_BYTES // MIN_PART_BYTES)
    copies = [MIN_PART_BYTES] * (MAX_PARTS - 8 + more)
    parts = lay_out(sources(*copies, *small), SIZES, copy=True)
    assert uploads(parts) <= MAX_PARTS


@pytest.mark.parametrize("size", [9_000 * PART_BYTES, 9_000 * PART_BYTES + 1, 50 * 10**12])
def test_an_output_of_any_size_is_streamed_in_parts_that_are_large_enough(size: int) -> None:
    """A tenth of the parts is left for the newlines that are added."""
    parts = lay_out(sources(size), SIZES, copy=False)
    assert kinds(parts) == {Stream}
    assert uploads(parts) <= MAX_PARTS * 9 // 10


def test_an_archived_source_takes_as_many_bytes_as_is_documented() -> None:
    """docs/how-it-works.md: its key is written out for the report."""
    count = 20_000
    packed = Sources.of(
        GROUP.prefix,
        (source._replace(storage_class="GLACIER") for source in sources(*[1000] * count)),
    )
    gc.collect()
    tracemalloc.start()
    made = plan(Group(GROUP, packed, (), 1e9), layout("corporate"), Limits())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [kept.why for kept in made.kept[:2]] == [Why.ARCHIVED] * 2
    assert len(made.kept) == count
    assert held / count < 230 - 55


@given(st.integers(1, MAX_OBJECT_BYTES // 4))
def test_an_output_of_one_member_may_be_four_times_as_long_as_its_sources(size: int) -> None:
    """Deflating again finds less of what repeats itself."""
    part_bytes = PartSizes().of_output(size, single=True)
    assert -(-4 * size // part_bytes) <= MAX_PARTS
    assert part_bytes <= MAX_PART_BYTES
