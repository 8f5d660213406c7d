"""What is proposed for names that fit no layout."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import ObjectInfo
from coalesce.naming.guesses import propose
from coalesce.naming.layouts import source_of
from coalesce.naming.sources import Sources

UUIDS = [f"fddd7a0e-fad9-4f7e-9bce-00ae5debc56{n}" for n in range(3)]


@pytest.mark.parametrize(
    ("keys", "group"),
    [
        (
            [f"logs/app-web01-20261126T21{n:02}00Z.log" for n in (9, 10)],
            "logs/app-web01-*.log",
        ),
        (
            [f"x/events_2026-11-26_21-55-0{n}_{UUIDS[n]}.json.gz" for n in (1, 2)],
            "x/events_*.json.gz",
        ),
        ([f"a/part-{n:05}-of-00007.json" for n in (1, 2, 3)], "a/part-*-of.json"),
        ([f"a/{n}.jsonl" for n in (9, 10)], "a/*.jsonl"),
        ([f"a/{UUIDS[n]}-{n}.txt.gz" for n in (1, 2)], "a/*.txt.gz"),
    ],
)
def test_a_proposal_puts_the_keys_that_belong_together_into_one_group_in_order(
    keys: list[str], group: str
) -> None:
    proposed = propose([*reversed(keys), "README"])
    assert proposed is not None
    each = proposed.layout("mine")
    parsed = [each.parse(key) for key in keys]
    assert {str(found.group) for found in parsed if found} == {group}
    sources = [
        source_of(found, ObjectInfo(key, 1, "e", 0.0))
        for found, key in zip(parsed, keys, strict=True)
        if found
    ]
    assert [s.key for s in Sources.of("a", sources).by_offset()] == keys


def test_a_csv_file_may_have_a_header() -> None:
    proposed = propose(["a/x-1.csv", "a/x-2.csv"])
    assert proposed is not None
    assert proposed.records == "csv-header"


def test_where_nothing_orders_names_nothing_is_proposed() -> None:
    assert propose([]) is None
    assert propose(["a/README", "b/", "c/x.json"]) is None


@given(st.lists(st.text("ab01-_.{}/ T2", max_size=20) | st.text(max_size=8), max_size=8))
def test_whatever_the_keys_a_proposal_can_be_used(keys: list[str]) -> None:
    proposed = propose(keys)
    if proposed is not None:
        each = proposed.layout("mine")
        assert any(map(each.parse, keys))
