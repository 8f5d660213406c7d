"""Plan records and leases that are not what this program wrote: their groups are left, the record
is named, and nothing is deleted.
"""

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import RecordDamaged
from coalesce.model import Batch, GroupId, Source
from coalesce.planning.batches import digest
from coalesce.protocol import record
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.record import PlanRecord, RecordedBatch
from coalesce.protocol.record_reader import decode
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.runs import new_run
from support.scenarios import check_settled, contents, prepared, readable

KEY = "_coalesce/groups/data/db.core.topic_0"
OUTPUT = "data/db.core.topic_0_0_29.jsonl.gz"
SOURCES = tuple(
    Source(f"data/db.core.topic_0_{n}-{n}.jsonl.gz", 5, '"e"', 0.0, "STANDARD", n, n)
    for n in range(2)
)
WHOLE = PlanRecord(
    "r",
    "corporate",
    GroupId("data/", "db.core.topic", 0),
    (RecordedBatch(Batch(OUTPUT, SOURCES, 10, digest(SOURCES)), "u"),),
)

WHOLE_DATA = record.encode(WHOLE)


class Killed(BaseException):
    """The process is gone."""


async def interrupted() -> MemoryBucket:
    """A bucket as a run leaves it that is killed when its outputs are there and all sources too."""
    bucket, settings = prepared("two groups of several outputs")
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "DeleteObjects" and request.key.startswith("data/"):
            raise Killed

    store.before = before
    with pytest.raises(Killed):
        await new_run(store, settings).coalesce()
    for key in [key for key in bucket.objects if key.startswith("_coalesce/runs/")]:
        bucket.remove(key)
    assert {KEY, OUTPUT} <= bucket.objects.keys()
    bucket.now += 1000
    return bucket


def stored(data: bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(zlib.decompress(data))
    return values


def remade(
    change: Callable[[dict[str, Any]], None], *, signed: bool = True
) -> Callable[[bytes], bytes]:
    """A record with something else in it, digests made anew as one who means harm would make
    them.
    """

    def make(data: bytes) -> bytes:
        values = stored(data)
        change(values)
        for batch in values["batches"] if signed else []:
            batch["digest"] = digest(
                [
                    Source(key, size, etag, 0.0, "STANDARD", 0, 0)
                    for key, etag, size, *_ in batch["sources"]
                ]
            )
        return zlib.compress(json.dumps(values).encode())

    return make


def first_source(field: int, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["batches"][0]["sources"][0].__setitem__(field, value)


def first_batch(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda values: values["batches"][0].update(fields)


def plain(values: bytes) -> Callable[[bytes], bytes]:
    return lambda _: zlib.compress(values)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda data: data[:-9],
    "one bit flipped": lambda data: data[:30] + bytes([data[30] ^ 4]) + data[31:],
    "something behind it": lambda data: data + b"x",
    "not compressed": zlib.decompress,
    "not JSON": plain(b"{"),
    "not an object": plain(b"[1, 2]"),
    "deeply nested": plain(b"[" * 100_000),
    "another kind of object": plain(b'{"kind": "ConfigMap"}'),
    "a newer schema": remade(lambda values: values.update(schema_version=3)),
    "a field that is not known": remade(first_batch(more=1)),
    "an unknown layout": remade(lambda values: values.update(layout="parquet")),
    "another group": remade(lambda values: values.update(partition=1)),
    "a wrong digest": remade(first_batch(digest="0" * 64), signed=False),
    "an output outside": remade(first_batch(output="other/db.core.topic_0_0_29.jsonl.gz")),
    "an output that is a source's name": remade(
        first_batch(output="data/db.core.topic_0_0-29.jsonl.gz")
    ),
    "an output of a group with a longer name": remade(
        first_batch(output="data/db.core.topic_0_1_0_29.jsonl.gz")
    ),
    "a source outside": remade(first_source(0, "other/db.core.topic_0_0-9.jsonl.gz")),
    "a source of a group with a longer name": remade(
        first_source(0, "data/db.core.topic_0_1_0-9.jsonl.gz")
    ),
    "a source that is an output": remade(first_source(0, OUTPUT)),
    "an offset that is not its name's": remade(first_source(3, 7)),
    "a source twice": remade(
        lambda values: values["batches"][0]["sources"].append(values["batches"][0]["sources"][0])
    ),
    "no sources": remade(first_batch(sources=[])),
    "no ETag": remade(first_source(1, "")),
    "an ETag of two lines": remade(first_source(1, '"a"\r\nx-amz-bypass: true')),
    "a size that no object has": remade(first_source(2, 2**63)),
    "a negative size": remade(first_source(2, -1)),
    "no upload id": remade(first_batch(upload_id="")),
    "an upload id of two lines": remade(first_batch(upload_id="a\r\nb")),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_record_stops_its_group_names_itself_and_costs_nothing(name: str) -> None:
    bucket, (_, settings) = await interrupted(), prepared("two groups of several outputs")
    before = readable(contents(bucket))
    bucket.store(KEY, DAMAGES[name](bucket.objects[KEY].data))
    touched = {
        key: stored for key, stored in bucket.objects.items() if "_topic_0" in key or key == KEY
    }
    store = MemoryStore(bucket)
    report = await new_run(store, settings).coalesce()
    assert report.exit_code == 4
    failures = [failure for failure in report.failures if failure.code == "RecordDamaged"]
    assert [failure.key for failure in failures] == [KEY]
    assert KEY in failures[0].message
    assert failures[0].hint
    assert {key: bucket.objects.get(key) for key in touched} == touched
    assert before.keys() == readable(contents(bucket)).keys()
    assert f"{KEY[:-1]}1" not in bucket.objects  # the other group was settled
    assert (await new_run(MemoryStore(bucket), settings).recover()).exit_code == 4


async def test_when_a_person_has_moved_a_damaged_record_away_the_group_is_worked_on_again() -> None:
    """The sources lie inside the outputs that are there already, and the report says so: only a
    person can tell.
    """
    bucket, (_, settings) = await interrupted(), prepared("two groups of several outputs")
    bucket.store(KEY, b"")
    await new_run(MemoryStore(bucket), settings).coalesce()
    bucket.remove(KEY)
    report = await new_run(MemoryStore(bucket), settings).coalesce()
    assert (report.exit_code, report.sources.left["covered"]) == (0, 5)


async def test_a_record_of_another_layout_is_settled_too() -> None:
    bucket, settings = prepared("two groups of several outputs")
    bucket.store(KEY, record.encode(PlanRecord("r", "manifest", WHOLE.group, ())))
    report = await new_run(MemoryStore(bucket), settings).coalesce()
    assert (report.exit_code, report.groups.coalesced) == (0, 2)
    assert KEY not in bucket.objects


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    for body in (data, zlib.compress(data)):
        with pytest.raises(RecordDamaged, match="topic_0"):
            decode(body, KEY, "_coalesce/")


@given(st.data())
def test_a_record_with_bytes_changed_is_refused(data: st.DataObject) -> None:
    body = bytearray(record.encode(WHOLE))
    assert stored(record.encode(decode(bytes(body), KEY, "_coalesce/"))) == stored(bytes(body))
    at = data.draw(st.integers(0, len(body)))
    length = data.draw(st.integers(0, 4))
    new = data.draw(st.binary(max_size=4).filter(lambda new: new != body[at : at + length]))
    body[at : at + length] = new
    with pytest.raises(RecordDamaged, match="topic_0"):
        decode(bytes(body), KEY, "_coalesce/")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([KEY, OUTPUT, "data/", "corporate", "manifest"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(sorted({*stored(WHOLE_DATA), *stored(WHOLE_DATA)["batches"][0]})),
            inner,
            max_size=9,
        )
    ),
    max_leaves=12,
)


@given(st.data())
def test_a_record_with_any_value_in_any_place_is_refused_or_still_about_its_own_group(
    data: st.DataObject,
) -> None:
    """Valid JSON, and every field may hold anything."""
    values = stored(WHOLE_DATA)
    holder: Any = data.draw(
        st.sampled_from(
            [
                values,
                values["batches"][0],
                values["batches"][0]["sources"],
                values["batches"][0]["sources"][0],
            ]
        )
    )
    holder[
        data.draw(
            st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        )
    ] = data.draw(JSON)
    body = zlib.compress(json.dumps(values).encode())
    try:
        decoded = decode(body, KEY, "_coalesce/")
    except RecordDamaged:
        return
    assert str(decoded.group) == "data/db.core.topic_0"
    for entry in decoded.batches:
        assert entry.upload_id
        assert all(
            source.key.startswith("data/db.core.topic_0_") and "-" in source.key and source.etag
            for source in entry.batch.sources
        )
        assert entry.batch.output.startswith("data/db.core.topic_0_")


LEASE = (
    LeaseRecord(run_id="dead", layout="corporate", prefixes=("data/",)).model_dump_json().encode()
)
LEASES = {
    "empty": b"",
    "not JSON": b"{",
    "another kind of object": b'{"kind": "Lease"}',
    "cut short": LEASE[:-5],
    "no number": LEASE.replace(b"60.0", b"NaN"),
    "for ever": LEASE.replace(b"60.0", b"Infinity"),
    "for a million years": LEASE.replace(b"60.0", b"3e13"),
    "negative": LEASE.replace(b"60.0", b"-1"),
    "of a newer version": LEASE.replace(b'"renewals"', b'"renewed"'),
}


@pytest.mark.parametrize("name", LEASES)
async def test_a_lease_that_makes_no_sense_holds_up_nobody_for_longer_than_a_minute_and_is_told(
    name: str,
) -> None:
    """It stays: who wrote it is unknown, and so is what else that run has left, and where."""
    bucket, (_, settings) = await interrupted(), prepared("two groups of several outputs")
    original = readable(contents(prepared("two groups of several outputs")[0]))
    held = bucket.store("_coalesce/runs/dead", LEASES[name])
    bucket.now += 62
    events: list[dict[str, Any]] = []
    report = await new_run(MemoryStore(bucket), settings, events.append).coalesce()
    assert (report.exit_code, report.outputs.recovered) == (0, 4)
    assert [
        "_coalesce/runs/dead" in event["message"]
        for event in events
        if event["type"] == "unfinished"
    ] == [True]
    assert bucket.objects["_coalesce/runs/dead"].etag == held
    bucket.remove("_coalesce/runs/dead")
    await check_settled(bucket, settings, original, name)
