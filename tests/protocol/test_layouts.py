"""Runs with different layouts under the same prefixes."""

import pytest

from coalesce.errors import RecordDamaged
from coalesce.model import Batch, GroupId, ObjectInfo
from coalesce.naming.layouts import layout, source_of
from coalesce.naming.own_layouts import OwnLayout, known_layouts
from coalesce.naming.shards import WHOLE, Shard
from coalesce.planning.batches import digest
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.record import PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import decode
from coalesce.protocol.state import record_key

CLICKS = OwnLayout(
    source=r"(?P<dir>.*/)clicks-(?P<time>\d{8}T\d{6})\.log",
    group=("dir",),
    order=("time",),
    output="{dir}clicks-{first.time}--{last.time}.log",
)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("corporate", "manifest", False),
        ("corporate", "corporate", False),
        ("vector", "vector", False),
        ("corporate", "vector", True),
        ("vector", "firehose", True),
        ("vector", "clicks", True),
    ],
)
def test_shards_of_runs_that_share_out_in_other_ways_may_meet(
    one: str, other: str, meet: bool
) -> None:
    """Then each waits for the other's lease, where in one layout they work side by side."""
    lease = LeaseRecord(run_id="r", layout=one, shard="0/2")
    assert lease.meets(other, Shard(1, 2)) is meet
    assert lease.meets(other, Shard(0, 2))
    assert lease.meets(other, WHOLE)


def recorded(name: str) -> tuple[PlanRecord, str]:
    each = known_layouts((("clicks", CLICKS),))[name]
    keys = {
        "clicks": [f"data/clicks-20261126T21550{n}.log" for n in (1, 2)],
        "kafka-connect": [f"data/t+0+{n:010}.json" for n in (1, 2)],
        "fluent-bit": [f"data/2026/11/26/14/05/0{n}" for n in (1, 2)],
    }[name]
    parsed = [found for key in keys if (found := each.parse(key))]
    sources = [
        source_of(found, ObjectInfo(key, 1, '"e"', 0.0))
        for found, key in zip(parsed, keys, strict=True)
    ]
    group = parsed[0].group
    batch = Batch(each.output_key(group, sources, ()), sources, 2, digest(sources))
    record = PlanRecord("r", name, group, (RecordedBatch(batch, "u"),))
    return record, record_key("_coalesce/", group)


@pytest.mark.parametrize("name", ["kafka-connect", "fluent-bit", "clicks"])
def test_a_record_comes_back_as_it_was_written(name: str) -> None:
    record, key = recorded(name)
    known = known_layouts((("clicks", CLICKS),))
    found = decode(encode(record), key, "_coalesce/", known)
    assert (found.layout, found.group) == (name, record.group)
    (before,), (after,) = record.batches, found.batches
    assert (after.batch.output, after.batch.digest) == (before.batch.output, before.batch.digest)
    assert [source.key for source in after.batch.sources] == [
        source.key for source in before.batch.sources
    ]


def test_a_record_of_ones_own_layout_is_believed_only_where_that_is_known() -> None:
    record, key = recorded("clicks")
    with pytest.raises(RecordDamaged, match="which this run does not know"):
        decode(encode(record), key, "_coalesce/")


def test_a_record_of_a_layout_that_has_changed_since_is_not_believed() -> None:
    """Its names say something else now: nothing of its group is touched."""
    record, key = recorded("clicks")
    changed = CLICKS.model_copy(update={"source": CLICKS.source.replace("clicks", "(?:clicks|x)")})
    renamed = CLICKS.model_copy(update={"output": "{dir}{first.time}--{last.time}.log"})
    assert decode(encode(record), key, "_coalesce/", known_layouts((("clicks", changed),)))
    with pytest.raises(RecordDamaged):
        decode(encode(record), key, "_coalesce/", known_layouts((("clicks", renamed),)))


def test_records_of_two_layouts_never_stand_at_one_key() -> None:
    """A group of `<topic>_<partition>_*` has a name without a star."""
    assert record_key("_coalesce/", GroupId("data/", "t", 0)) == "_coalesce/groups/data/t_0"
    group = layout("vector").parse("data/1-fddd7a0e-fad9-4f7e-9bce-00ae5debc563.log")
    assert group is not None
    assert record_key("_coalesce/", group.group) == "_coalesce/groups/data/*.log"
