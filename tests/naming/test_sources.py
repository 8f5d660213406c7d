"""Packed sources are the sources that were packed, whatever their names."""

import gc
import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Source
from coalesce.naming.sources import Places, Sources, SourcesBuilder

PREFIX = "a/db.core.t_3_"
OFFSETS = st.integers(0, 3) | st.integers(0, 2**63 - 1)
ETAGS = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda b: f'"{b.hex()}"'),
    st.builds(
        '"{}-{}"'.format,
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        st.sampled_from(["1", "2", "007", "10000", ""]),
    ),
    st.sampled_from(['"x-2"', "", '"ABCDEF0123456789ABCDEF0123456789"']),
)
CLASSES = st.sampled_from(["STANDARD", "STANDARD_IA", "GLACIER"])


@st.composite
def source(draw: st.DrawFn) -> Source:
    first, last, zeros = draw(OFFSETS), draw(OFFSETS), draw(st.sampled_from(["", "", "0"]))
    tail = draw(st.sampled_from(["", f"db.core.other_1_{last}", f"t_0_0{last}"]))
    name = f"{zeros}{first}-{tail or last}{'.txt' if tail else '.jsonl.gz'}"
    return Source(
        PREFIX + name,
        draw(st.integers(0, 2**40)),
        draw(ETAGS),
        draw(st.floats(0, 2e9)),
        draw(CLASSES),
        first,
        last,
        tail,
    )


@given(st.lists(source(), max_size=30))
def test_what_is_packed_comes_out_as_it_was(sources: list[Source]) -> None:
    packed = Sources.of(PREFIX, sources)
    assert list(packed) == sources
    assert list(packed.sizes()) == [each.size for each in sources]
    assert [packed[n] for n in range(len(sources))] == sources
    assert list(packed[1:-1]) == sources[1:-1]


@given(st.lists(source(), max_size=30, unique_by=lambda each: each.key), source())
def test_each_is_found_at_its_place_by_its_key(sources: list[Source], other: Source) -> None:
    places = Places(Sources.of(PREFIX, sources))
    assert [places.find(each.first, each.key) for each in sources] == list(range(len(sources)))
    if other.key not in [each.key for each in sources]:
        assert places.find(other.first, other.key) is None


@given(st.lists(source(), max_size=30))
def test_they_are_ordered_by_first_and_last_offset_and_key(sources: list[Source]) -> None:
    ordered = Sources.of(PREFIX, sources).by_offset()
    assert list(ordered) == sorted(sources, key=lambda each: (each.first, each.last, each.key))
    keys = [each.key for each in sources]
    assert (ordered.duplicate_key() is None) == (len(set(keys)) == len(keys))


@given(st.lists(source(), min_size=1, max_size=30), st.data())
def test_some_of_them_can_be_taken(sources: list[Source], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(sources) - 1), max_size=10))
    taken = Sources.of(PREFIX, sources).take(places)
    assert list(taken) == [sources[place] for place in places]
    assert list(taken.sizes()) == [sources[place].size for place in places]
    assert list(taken.offsets()) == [(sources[at].first, sources[at].last) for at in places]


def test_names_of_the_same_offsets_are_in_order_whatever_order_they_were_listed_in() -> None:
    """A saved plan is held against a later listing, source by source."""
    etag = f'"{"0" * 32}"'
    sources = [
        Source(f"{PREFIX}{zeros}3-4.jsonl.gz", 1, etag, 0.0, "STANDARD", 3, 4)
        for zeros in ("", "00", "0")
    ]
    ordered = Sources.of(PREFIX, sources).by_offset()
    assert list(ordered) == sorted(sources, key=lambda each: each.key)


@pytest.mark.parametrize(
    ("etag", "most"), [('"{}"', 65), ('"{}-2"', 65), ('"{}="', 260)], ids=["MD5", "parts", "other"]
)
@pytest.mark.parametrize("storage_class", ["STANDARD", "GLACIER"])
def test_a_source_takes_as_few_bytes_as_is_documented(
    etag: str, most: int, storage_class: str
) -> None:
    """A listing of millions must fit in memory: docs/how-it-works.md."""
    count = 20_000
    gc.collect()
    tracemalloc.start()
    builder = SourcesBuilder(PREFIX)
    for n in range(count):
        digest = hashlib.md5(b"%d" % n, usedforsecurity=False).hexdigest()
        name = f"{PREFIX}{n * 10}-{n * 10 + 9}.jsonl.gz"
        builder.add(Source(name, 1000, etag.format(digest), 1e9, storage_class, n * 10, n * 10 + 9))
    packed = builder.build()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(packed) == count
    assert held / count < most
