"""What keys say, and what they do not."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coalesce.model import GroupId, Source
from coalesce.naming.layouts import LAYOUTS, layout

TOPICS = st.from_regex(r"[a-zA-Z][a-zA-Z0-9.-]{0,12}(_[a-z]{1,5}){0,2}", fullmatch=True)
DIRECTORIES = st.sampled_from(["", "a/", "a b/", "2026/11/22/", "x_1_2/"])
OFFSETS = st.integers(0, 10**12)
WORDS = st.sampled_from([*"ab019_-./", "a_", "_0_", "_1-", "-2", "_9", "a_0_1-", "a_0_9", "b/"])


@given(st.lists(WORDS, max_size=12).map("".join), st.sampled_from([".jsonl.gz", ".txt"]))
@example("d/a_0_1-2", ".jsonl.gz")
@example("a_0_1_2", ".jsonl.gz")
@example("a_0_1-a_0_9", ".txt")
@example("d/a_0_1_b_1_9", ".txt")
def test_a_key_that_means_something_leads_back_to_itself(stem: str, suffix: str) -> None:
    """Only a key that says what it is without doubt is touched."""
    for each in LAYOUTS.values():
        parsed = each.parse(stem + suffix)
        assert parsed is None or (stem + suffix).startswith(parsed.group.prefix)


@given(
    DIRECTORIES,
    TOPICS,
    st.integers(0, 300),
    st.lists(st.tuples(OFFSETS, OFFSETS), min_size=2, max_size=5),
    st.integers(0, 2),
)
def test_a_corporate_output_says_what_it_holds(
    directory: str, topic: str, partition: int, ranges: list[tuple[int, int]], taken: int
) -> None:
    group = GroupId(directory, topic, partition)
    sources = tuple(
        Source(f"{group.prefix}{a}-{b}.jsonl.gz", 1, "e", 0.0, "STANDARD", a, b)
        for a, b in sorted(ranges)
    )
    corporate = layout("corporate")
    for source in sources:
        parsed = corporate.parse(source.key)
        assert parsed is not None
        assert (parsed.kind, parsed.group, parsed.first, parsed.last) == (
            "source",
            group,
            source.first,
            source.last,
        )
    used: set[str] = set()
    for _ in range(taken + 1):
        key = corporate.output_key(group, sources, used)
        parsed = corporate.parse(key)
        assert parsed is not None
        assert (parsed.kind, parsed.group) == ("output", group)
        assert (parsed.first, parsed.last) == (min(a for a, _ in ranges), max(b for _, b in ranges))
        assert key not in used
        used.add(key)


@given(
    DIRECTORIES,
    TOPICS,
    TOPICS,
    st.integers(0, 300),
    st.lists(st.tuples(OFFSETS, OFFSETS), min_size=2, max_size=5),
)
def test_a_manifest_output_runs_from_its_first_source_to_its_last(
    directory: str, topic: str, other: str, partition: int, ranges: list[tuple[int, int]]
) -> None:
    group = GroupId(directory, topic, partition)
    manifest = layout("manifest")
    keys = [f"{group.prefix}{a}-{other}_7_{b}.txt" for a, b in ranges]
    parsed_keys = [manifest.parse(key) for key in keys]
    if None in parsed_keys:
        return  # a key that could be cut in two ways is nobody's
    sources = tuple(
        Source(key, 1, "e", 0.0, "STANDARD", p.first, p.last, p.tail)
        for key, p in zip(keys, parsed_keys, strict=True)
        if p
    )
    key = manifest.output_key(group, sources, ())
    assert key == f"{group.prefix}{ranges[0][0]}_{other}_7_{ranges[-1][1]}.txt"
    parsed = manifest.parse(key)
    assert parsed is None or (parsed.kind, parsed.group, parsed.first, parsed.last) == (
        "output",
        group,
        ranges[0][0],
        ranges[-1][1],
    )


@pytest.mark.parametrize(
    "key",
    [
        "a/t_0_1-2.jsonl",
        "a/t_0_1-2.jsonl.gz.2",
        "a/t_0_1-2.jsonl.gz/",
        "a/t_07_1-2.jsonl.gz",
        "a/t_0_1-.jsonl.gz",
        "a/t_-1_1-2.jsonl.gz",
        "a/_0_1-2.jsonl.gz",
        "a/t_0_\u0661-2.jsonl.gz",
        "a/t_0_1-2.jsonl.gz\n",
        "a/t t_0_1-2.jsonl.gz",
        "a/topic_0_1-topic_0_2.TXT",
        "a/x_0_1-y_2_3-z_4_5.txt",
        "a/x_0_1_y_2_3_z_4_5.txt",
    ],
)
def test_other_keys_are_nobodys(key: str) -> None:
    assert [layout(name).parse(key) for name in ("corporate", "manifest")] == [None, None]
