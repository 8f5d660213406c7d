"""`history` says where every source went, from the ledger alone: which output, at which place, by
which run, and whether it can still be proven; and it says so when it does not know.
"""

import gzip
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from coalesce import errors
from coalesce.cli.app import app
from coalesce.inspect.history import (
    Historian,
    HistoryEvent,
    ObjectEvent,
    OutputEvent,
    SourceEvent,
    began_at,
)
from coalesce.inspect.recorded import Standing
from coalesce.inspect.whereabouts import Offset
from coalesce.storage.base import Head
from coalesce.storage.checksums import crc64, encode
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import S3Store
from support.buckets import fill
from support.command import coalesce, job, summary
from support.nights import GROUP, night, one_group, output_of
from support.scenarios import corporate, is_entry, manifests

STATE = "_coalesce/"


class Asked:
    """Answers, and the requests that they took."""

    def __init__(self, bucket: MemoryBucket, store: MemoryStore | None = None) -> None:
        self.events: list[HistoryEvent] = []
        self.requests: list[str] = []
        store = store or MemoryStore(bucket)
        self.historian = Historian(store, "b", STATE, self.events.append)
        self.history = self.historian.history

        async def before(request: Request) -> None:
            self.requests.append(request.operation)

        store.before = before

    async def key(self, key: str) -> "Asked":
        await self.historian.tell_key(key)
        return self

    @property
    def outputs(self) -> list[OutputEvent]:
        return [event for event in self.events if isinstance(event, OutputEvent)]

    @property
    def sources(self) -> list[SourceEvent]:
        return [event for event in self.events if isinstance(event, SourceEvent)]

    @property
    def objects(self) -> list[ObjectEvent]:
        return [event for event in self.events if isinstance(event, ObjectEvent)]


def source(n: int) -> str:
    return f"{GROUP}_{n * 10}-{n * 10 + 9}.jsonl.gz"


def text_at(bucket: MemoryBucket, event: SourceEvent, mode: str) -> bytes:
    """The content at the place that an event names."""
    data = bucket.objects[event.output].data
    if mode == "single":
        return gzip.decompress(data)[event.start : event.start + event.length]
    held = data[event.start : event.start + event.length]
    return gzip.decompress(held) if event.output.endswith(".gz") else held


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_every_source_is_found_in_its_output_at_its_place(mode: str) -> None:
    bucket = MemoryBucket()
    corporate(bucket, groups=2, sources=9)
    before = dict(bucket.objects)
    report = await night(bucket, gzip=mode, max_files=4)
    for key, stored in before.items():
        asked = await Asked(bucket).key(key)
        (output,), (place,) = asked.outputs, asked.sources
        content = gzip.decompress(stored.data)
        assert text_at(bucket, place, mode) == content
        assert (place.output, place.etag, place.size) == (
            output.key,
            stored.etag,
            len(stored.data),
        )
        assert (place.content, place.crc64nvme) == (len(content), encode(crc64([content])))
        assert (output.run_id, output.standing, place.provable) == (
            report.run_id,
            Standing.INTACT,
            True,
        )
        assert output.crc64nvme == bucket.objects[output.key].checksum["CRC64NVME"]
        assert asked.history.exit_code == 0


async def test_a_source_takes_one_listing_and_one_entry_however_many_outputs_there_are() -> None:
    bucket = MemoryBucket()
    corporate(bucket, groups=1, sources=60)
    await night(bucket, max_files=2)
    asked = await Asked(bucket).key(source(31))
    assert len(asked.sources) == 1
    # The first one asks whether the key is an output's.
    assert asked.requests == ["ListObjectsV2", "ListObjectsV2", "GetObject", "HeadObject"]


async def test_an_output_tells_all_its_sources_in_order_in_two_requests() -> None:
    bucket = one_group(20)
    report = await night(bucket)
    asked = await Asked(bucket).key(output_of(20))
    assert asked.requests == ["ListObjectsV2", "GetObject"]
    (output,) = asked.outputs
    assert (output.run_id, output.sources, output.records) == (report.run_id, 20, 20)
    assert [event.key for event in asked.sources] == [source(n) for n in range(20)]
    assert [event.number for event in asked.sources] == list(range(1, 21))
    for event in asked.sources:
        assert gzip.decompress(bucket.objects[output.key].data)[
            event.start : event.start + event.length
        ].startswith(b'{"group": 0, "n": %d' % (event.number - 1))


@pytest.mark.parametrize(
    ("harm", "standing", "provable"),
    [
        ("gone", Standing.GONE, False),
        ("another", Standing.CHANGED, False),
        ("bytes", Standing.CHANGED, False),
        ("no checksum", Standing.UNSUMMED, None),
    ],
)
async def test_a_source_says_whether_its_output_still_is_what_was_written(
    harm: str, standing: Standing, provable: bool | None
) -> None:
    bucket = one_group(20)
    await night(bucket)
    key, stored = output_of(20), bucket.objects[output_of(20)]
    with bucket.audit.others():
        if harm == "gone":
            bucket.remove(key)
        elif harm == "another":
            bucket.store(key, stored.data, checksum=stored.checksum)
        elif harm == "bytes":
            data = b"x" * len(stored.data)
            bucket.store(key, data, stored.metadata, checksum={"CRC64NVME": encode(crc64([data]))})
        else:
            bucket.store(key, stored.data, stored.metadata)
    asked = await Asked(bucket).key(source(3))
    assert [output.standing for output in asked.outputs] == [standing]
    assert [place.provable for place in asked.sources] == [provable]


async def test_a_source_that_was_joined_twice_is_told_twice_the_first_time_first() -> None:
    bucket = one_group(4)
    first = await night(bucket)
    with bucket.audit.others():
        bucket.remove(output_of(4))
        corporate(bucket, groups=1, sources=4)
    second = await night(bucket)
    asked = await Asked(bucket).key(source(2))
    assert [output.run_id for output in asked.outputs] == [first.run_id, second.run_id]
    asked = await Asked(bucket).key(output_of(4))
    assert {output.run_id for output in asked.outputs} == {first.run_id, second.run_id}
    assert len(asked.sources) == 8


async def test_manifests_are_found_though_their_offsets_say_nothing() -> None:
    bucket = MemoryBucket()
    manifests(bucket)
    before = dict(bucket.objects)
    await night(bucket, layout="manifest")
    for key, stored in before.items():
        (place,) = (await Asked(bucket).key(key)).sources
        assert text_at(bucket, place, "none") == stored.data


@pytest.mark.parametrize("offset", [0, 30, 35, 39, 199])
async def test_an_offset_names_the_source_that_held_it(offset: int) -> None:
    bucket = MemoryBucket()
    corporate(bucket, groups=2, sources=20)
    await night(bucket, max_files=4)
    asked = Asked(bucket)
    await asked.historian.tell_offset(["data/"], Offset("db.core.topic", 0, offset))
    (place,) = asked.sources
    assert place.key == source(offset // 10)
    assert asked.requests == ["ListObjectsV2", "GetObject", "HeadObject"]


async def test_an_offset_outside_the_prefixes_is_not_known() -> None:
    bucket = one_group(20)
    await night(bucket)
    for prefixes, offset in (
        (["data/"], Offset("db.core.topic", 0, 200)),
        (["data/"], Offset("db.core.topic", 1, 5)),
        (["data/"], Offset("topic", 0, 5)),
        (["other/"], Offset("db.core.topic", 0, 5)),
    ):
        asked = Asked(bucket)
        await asked.historian.tell_offset(prefixes, offset)
        assert asked.events == []
        assert asked.history.exit_code == 1
        assert len(asked.history.nothing_known) == 1


async def test_a_run_names_its_outputs_and_no_others() -> None:
    bucket = MemoryBucket(now=time.time())  # by which runs are named
    corporate(bucket, groups=3, sources=6)
    first = await night(bucket, partition=[0, 1], max_files=3)
    second = await night(bucket)
    for report, count in ((first, 4), (second, 1)):
        asked = Asked(bucket)
        await asked.historian.tell_run(["data/"], report.run_id)
        assert len(asked.outputs) == count
        assert {output.run_id for output in asked.outputs} == {report.run_id}
        assert asked.sources == []
    asked = Asked(bucket)
    await asked.historian.tell_run(["data/"], "20200101T000000Z-0")
    assert (asked.outputs, asked.history.exit_code) == ([], 1)


async def test_entries_from_before_a_run_are_not_read_for_it() -> None:
    bucket = one_group(20)
    bucket.now = began_at("20261126T000000Z-0")
    await night(bucket)
    for began, read in (("20261126T000000Z-0", 1), ("20261126T100000Z-0", 0)):
        asked = Asked(bucket)
        await asked.historian.tell_run(["data/"], began)
        assert asked.requests.count("GetObject") == read


@pytest.mark.parametrize("run_id", ["", "x", "nightly", "20261126", "20269926T000000Z-0"])
def test_a_run_of_any_name_is_looked_for(run_id: str) -> None:
    assert began_at(run_id) == 0.0


# --- what the ledger does not know


def forget(bucket: MemoryBucket) -> None:
    for key in [key for key in bucket.objects if is_entry(key)]:
        bucket.remove(key)


async def test_without_an_entry_an_output_tells_what_its_metadata_says() -> None:
    bucket = one_group(20)
    await night(bucket)
    with bucket.audit.others():
        forget(bucket)
    asked = await Asked(bucket).key(output_of(20))
    (event,) = asked.objects
    metadata = bucket.objects[output_of(20)].metadata
    assert (event.plan, event.sources) == (metadata["coalesce-plan"], "20")
    assert (asked.outputs, asked.sources, asked.history.exit_code) == ([], [], 0)


async def test_without_an_entry_a_source_names_the_outputs_that_have_its_offsets() -> None:
    bucket = one_group(20)
    await night(bucket, max_files=4)
    with bucket.audit.others():
        forget(bucket)
    asked = await Asked(bucket).key(source(6))
    assert [(event.key, event.covers) for event in asked.objects] == [
        (f"{GROUP}_40_79.jsonl.gz", source(6))
    ]


async def test_a_source_that_was_not_joined_is_there() -> None:
    bucket = one_group(1)
    await night(bucket)
    asked = await Asked(bucket).key(source(0))
    assert [(event.key, event.plan) for event in asked.objects] == [(source(0), "")]


@pytest.mark.parametrize("key", [source(99), "data/other.txt", "no/such/output_0_0_9.jsonl.gz"])
async def test_of_a_key_that_nobody_knows_it_says_so_and_exits_with_1(key: str) -> None:
    bucket = one_group(20)
    await night(bucket)
    asked = await Asked(bucket).key(key)
    assert asked.events == []
    assert (asked.history.nothing_known, asked.history.exit_code) == ([key], 1)


# --- what cannot be read


async def test_a_damaged_entry_is_named_and_the_others_answer() -> None:
    bucket = one_group(4)
    await night(bucket)
    with bucket.audit.others():
        bucket.remove(output_of(4))
        corporate(bucket, groups=1, sources=4)
    second = await night(bucket)
    for key in [key for key in bucket.objects if is_entry(key)]:
        header = json.loads(gzip.decompress(bucket.objects[key].data).splitlines()[0])
        if header["run_id"] != second.run_id:
            bucket.store(key, bucket.objects[key].data[:-9])
    for asked in (
        await Asked(bucket).key(source(2)),
        await Asked(bucket).key(output_of(4)),
    ):
        assert second.run_id in {output.run_id for output in asked.outputs}
        assert [failure.code for failure in asked.history.failures] == ["RecordDamaged"]
        assert asked.history.exit_code == 4


async def test_a_damaged_entry_tells_nothing_of_a_source() -> None:
    """Its line may come before the damage: an entry is believed whole or not at all."""
    bucket = one_group(20)
    await night(bucket)
    (key,) = (key for key in bucket.objects if is_entry(key))
    lines = gzip.decompress(bucket.objects[key].data).splitlines(keepends=True)
    bucket.store(key, gzip.compress(b"".join(lines[:-1])))
    asked = await Asked(bucket).key(source(2))
    assert (asked.sources, asked.outputs) == ([], [])
    assert asked.history.exit_code == 4


class DeniesOutputs(MemoryStore):
    async def head(self, key: str) -> Head | None:
        raise errors.AccessDenied("not allowed", key=key)


async def test_whether_an_output_is_there_stays_open_where_nobody_may_look() -> None:
    bucket = one_group(20)
    await night(bucket)
    asked = await Asked(bucket, DeniesOutputs(bucket)).key(source(3))
    assert [output.standing for output in asked.outputs] == [None]
    assert [place.provable for place in asked.sources] == [None]
    assert (asked.history.failures[0].code, asked.history.exit_code) == ("AccessDenied", 1)


async def test_a_listing_that_fails_is_not_taken_for_an_empty_one() -> None:
    bucket = one_group(20)
    await night(bucket)
    store = MemoryStore(bucket)
    asked = Asked(bucket, store)

    async def fail(request: Request) -> None:
        if request.operation == "ListObjectsV2":
            raise errors.Unavailable("made up", key=request.key)

    store.before = fail
    with pytest.raises(errors.Unavailable):
        await asked.key(source(3))


async def test_nothing_is_written() -> None:
    bucket = one_group(20)
    report = await night(bucket)
    before = dict(bucket.objects)
    asked = Asked(bucket)
    for key in (source(3), output_of(20), "nothing"):
        await asked.key(key)
    await asked.historian.tell_run(["data/"], report.run_id)
    await asked.historian.tell_offset(["data/"], Offset("db.core.topic", 0, 5))
    assert bucket.objects == before
    assert set(asked.requests) == {"ListObjectsV2", "GetObject", "HeadObject"}


@pytest.mark.parametrize("text", ["", "t", "t:1", "t:1:", "t:a:1", "t:1:-1", ":1:2", "t:1:2:3"])
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TOPIC:PARTITION:OFFSET"):
        Offset.parse(text)


# --- the command


@pytest.mark.timeout(180)
async def test_the_command_answers_in_words_and_in_json(bucket: S3Store) -> None:
    await fill(bucket, 2, 4)
    done = coalesce(bucket, *job(bucket, "--output", "json"))
    run_id = summary(done.stdout)["run_id"]
    place = f"s3://{bucket.bucket}"
    key, output = "data/db.core.topic_1_10-19.jsonl.gz", "data/db.core.topic_1_0_39.jsonl.gz"

    def ask(*words: str, code: int = 0) -> tuple[str, Sequence[Any]]:
        text = coalesce(bucket, "history", *words)
        data = coalesce(bucket, "history", *words, "--output", "json")
        assert (text.returncode, data.returncode) == (code, code), text.stderr
        return text.stdout + text.stderr, [json.loads(line) for line in data.stdout.splitlines()]

    said, events = ask(f"{place}/{key}")
    assert [event["type"] for event in events] == ["output", "source", "history"]
    assert (events[0]["key"], events[0]["run_id"], events[0]["standing"]) == (
        output,
        run_id,
        "intact",
    )
    assert (events[1]["key"], events[1]["number"], events[1]["provable"]) == (key, 2, True)
    assert "source 2 of 4" in said
    assert "as it was written" in said
    said, events = ask(f"{place}/{output}")
    assert [event["type"] for event in events] == ["output", *["source"] * 4, "history"]
    assert said.count("data/db.core.topic_1_") >= 6
    said, events = ask(place + "/data", "--run", run_id)
    assert [event["type"] for event in events] == ["output", "output", "history"]
    assert output in said
    said, events = ask(place + "/data", "--offset", "db.core.topic:1:15")
    assert events[1]["key"] == key
    said, events = ask(f"{place}/data/nothing", code=1)
    assert "nothing is known of data/nothing" in said
    assert events[-1]["nothing_known"] == ["data/nothing"]
    assert (events[-1]["schema"], events[-1]["exit_code"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["s3://b/data/"], "no key is named"),
        (["-b", "b", "--whole-bucket"], "no key is named"),
        (["s3://b/data", "--offset", "t:1"], "--offset t:1: write TOPIC:PARTITION:OFFSET"),
        (["s3://b/data", "--offset", "t:1:2", "--run", "x"], "--run and --offset are two"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["history", *words])
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
