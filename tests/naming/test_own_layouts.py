"""A user's own layout: checked when it is loaded, so that nothing is joined by a wrong one."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Codec, ObjectInfo, Records
from coalesce.naming.layouts import Layout, source_of
from coalesce.naming.own_layouts import OwnLayout, check_sample, known_layouts
from coalesce.naming.sources import Sources

CLICKS: dict[str, Any] = {
    "source": r"(?P<dir>.*/)clicks-(?P<host>[a-z0-9]+)-(?P<time>\d{8}T\d{6})\.log\.gz",
    "group": ("dir", "host"),
    "order": ("time",),
    "output": "{dir}clicks-{host}-{first.time}--{last.time}.log.gz",
}


def own(**said: Any) -> Layout:
    return OwnLayout.model_validate(CLICKS | said).layout("clicks")


def ordered(each: Layout, keys: list[str]) -> list[str]:
    parsed = [found for key in keys if (found := each.parse(key))]
    assert len(parsed) == len(keys)
    sources = [
        source_of(found, ObjectInfo(key, 1, "e", 0.0))
        for found, key in zip(parsed, keys, strict=True)
    ]
    assert len({found.group for found in parsed}) == 1
    return [source.key for source in Sources.of(parsed[0].group.prefix, sources).by_offset()]


def test_the_documented_one_names_groups_and_outputs() -> None:
    each = own()
    keys = [f"a/b/clicks-web1-20261126T2155{n:02}.log.gz" for n in (1, 2)]
    parsed = each.parse(keys[0])
    assert parsed is not None
    assert str(parsed.group) == "a/b/clicks-web1-*.log.gz"
    assert each.codec(parsed.group) is Codec.GZIP
    sources = [source_of(parsed, ObjectInfo(key, 1, "e", 0.0)) for key in keys]
    output = each.output_key(parsed.group, sources, ())
    assert output == "a/b/clicks-web1-20261126T215501--20261126T215502.log.gz"
    again = each.parse(output)
    assert again is not None
    assert (again.kind, again.group) == ("output", parsed.group)
    assert each.parse("clicks-web1-20261126T215501.log.gz") is None, "it asks for a directory"
    assert each.parse("a/clicks-WEB-20261126T215501.log.gz") is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"source": "(a"}, "source: a group is not closed"),
        ({"source": r"clicks-(?P<time>\d+)"}, "source: it does not begin with the group dir"),
        ({"source": CLICKS["source"] + "["}, "source: missing ]"),
        ({"source": CLICKS["source"] + r"(?=x)"}, "source: of groups that begin with (?"),
        ({"source": CLICKS["source"] + r"(?P<host>x)"}, "source: the group host is there twice"),
        ({"group": ("dir", "host", "zone")}, "group: source has no group zone"),
        ({"group": ("host",)}, "group: dir is missing"),
        ({"group": ("dir", "host", "host")}, "group: a field is there twice"),
        ({"order": ("seq",)}, "order: source has no group seq"),
        ({"order": ()}, "order: one field or two"),
        ({"order": ("host",)}, "order: host is a field of the group already"),
        (
            {"output": "{dir}clicks-{first.time}--{last.time}.gz"},
            "output: every field of the group",
        ),
        ({"output": "clicks-{host}-{first.time}--{last.time}"}, "output: it does not begin with"),
        ({"output": "{dir}{host}-{first.time}.gz"}, "output: {first.time} and {last.time} must"),
        ({"output": "{dir}{host}-{first.time}-{last.seq}.gz"}, "output: {last.seq} is not known"),
        ({"output": "{dir}{host}/{first.time}-{last.time}.gz"}, "output: neither / nor *"),
        ({"output": "{dir}{host}-{first time}-{last.time}.gz"}, "output: '-{first time}-' is no"),
        ({"offsets": "range"}, "offsets: range needs 2 order fields of digits alone"),
        ({"offsets": "start"}, "offsets: start needs 1 order fields of digits alone"),
        (
            {
                "source": r"(?P<dir>.*/)(?P<host>.+)-(?P<time>\d+)\.gz",
                "output": "{dir}{host}-{first.time}-{last.time}.gz",
            },
            "would be taken for a source",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_loaded(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError) as caught:
        known_layouts((("clicks", OwnLayout.model_validate(CLICKS | said)),))
    assert str(caught.value).startswith("[layout.clicks] ")
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["corporate", "kafka-connect", "Clicks", "a b", ""])
def test_its_name_is_its_own(name: str) -> None:
    with pytest.raises(ValueError):
        OwnLayout.model_validate(CLICKS).layout(name)


def test_a_pattern_that_would_take_for_ever_elsewhere_takes_linear_time() -> None:
    """Nested quantifiers on a name that almost matches."""
    each = own(
        source=r"(?P<dir>.*/)(?P<host>(?:[a-z]+)+)-(?P<time>\d{8}T\d{6})\.log\.gz",
        output="{dir}{host}--{first.time}--{last.time}.log.gz",
    )
    begin = time.process_time()
    assert each.parse("a/" + "a" * 1000 + "!") is None
    assert time.process_time() - begin < 5, "backtracking would take longer than the world is old"


def test_times_numbers_and_texts_order_as_what_they_are() -> None:
    times = own(source=CLICKS["source"].replace(r"\d{8}T\d{6}", r"\d{4}-\d{2}-\d{2}(?:T\d{2})?"))
    keys = [f"a/clicks-w-{t}.log.gz" for t in ("2026-11-25T23", "2026-11-26", "2026-11-26T01")]
    assert ordered(times, keys[::-1]) == keys
    numbers = own(source=CLICKS["source"].replace(r"\d{8}T\d{6}", r"\d+"))
    keys = [f"a/clicks-w-{n}.log.gz" for n in (9, 10, 100)]
    assert ordered(numbers, keys[::-1]) == keys
    texts = own(source=CLICKS["source"].replace(r"\d{8}T\d{6}", r"[a-z]+"))
    keys = [f"a/clicks-w-{t}.log.gz" for t in ("alpha", "alphabet", "alphabetical", "beta")]
    assert ordered(texts, keys[::-1]) == keys


def test_two_fields_order_one_after_the_other_and_ties_by_key() -> None:
    each = own(
        source=r"(?P<dir>.*/)(?P<time>\d{8})\.(?P<seq>\d+)\.(?P<host>[a-z]+)(?:-[a-z]+)?\.log",
        order=("time", "seq"),
        output="{dir}{host}.{first.time}.{first.seq}--{last.time}.{last.seq}.log",
    )
    names = ("20261126.2.w", "20261126.10.w", "20261126.10.w-a", "20261127.1.w")
    keys = [f"a/{name}.log" for name in names]
    assert ordered(each, keys[::-1]) == [keys[0], keys[2], keys[1], keys[3]]


def test_a_key_without_what_orders_it_is_nobodys() -> None:
    each = own(
        source=r"(?P<dir>.*/)(?P<host>[a-z]+)(?:-(?P<time>\d+))?\.log",
        output="{dir}{host}--{first.time}--{last.time}.log",
    )
    assert each.parse("a/w-1.log") is not None
    assert each.parse("a/w.log") is None
    empty = own(
        source=r"(?P<dir>.*/)(?P<host>[a-z]+)-(?P<time>\d*)\.log",
        output="{dir}{host}--{first.time}--{last.time}.log",
    )
    assert empty.parse("a/w-.log") is not None


def test_offsets_are_said_of_numbers() -> None:
    each = own(
        source=r"(?P<dir>.*/)(?P<host>[a-z]+)@(?P<begin>\d+)-(?P<end>\d+)\.jsonl",
        order=("begin", "end"),
        output="{dir}{host}@{first.begin}..{max.end}.jsonl",
        offsets="range",
    )
    assert each.comparable_offsets
    parsed = each.parse("a/w@3..19.jsonl")
    assert parsed is not None
    assert (parsed.kind, parsed.first, parsed.last) == ("output", 3, 19)


def test_what_its_objects_hold_can_be_said() -> None:
    each = own(codec="bzip2", records="csv-header", output=CLICKS["output"].replace(".gz", ""))
    parsed = each.parse("a/clicks-w-20261126T215501.log.gz")
    assert parsed is not None
    assert (each.codec(parsed.group), each.records) == (Codec.BZIP2, Records.CSV_HEADER)


def test_a_key_whose_output_would_be_anothers_is_nobodys() -> None:
    """The group of `x` and `-y` and that of `x-` and `y` would have outputs of one name."""
    each = own(
        source=r"(?P<dir>.*/)(?P<host>[a-z-]+)_(?P<zone>[a-z-]+)_(?P<time>\d+)\.log",
        group=("dir", "host", "zone"),
        output="{dir}{host}-{zone}.{first.time}-{last.time}.log",
    )
    assert each.parse("a/x_y_1.log") is not None
    assert each.parse("a/x-y_z_1.log") is not None
    assert each.parse("a/x_y-z_1.log") is None
    check_sample(each, ["a/x_y-z_1.log", "a/x_y_1.log", "README"])
    with pytest.raises(ValueError, match="for another group's"):
        check_sample(each, ["a/x_y-z_1.log", "README"])


@given(
    st.text("ab-", min_size=1, max_size=6),
    st.text("ab-", min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_no_two_groups_have_one_output(host: str, zone: str, n: int) -> None:
    each = own(
        source=r"(?P<dir>.*/)(?P<host>[a-z-]+)_(?P<zone>[a-z-]+)_(?P<time>\d+)\.log",
        group=("dir", "host", "zone"),
        output="{dir}{host}-{zone}.{first.time}-{last.time}.log",
    )
    parsed = each.parse(key := f"a/{host}_{zone}_{n}.log")
    if parsed is None:
        return
    source = source_of(parsed, ObjectInfo(key, 1, "e", 0.0))
    found = each.parse(each.output_key(parsed.group, [source], ()))
    assert found is not None
    assert (found.kind, found.group) == ("output", parsed.group)
