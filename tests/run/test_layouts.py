"""The whole job over names of other programs, and over a user's own: every record once, in order,
wherever the program is killed.
"""

import gzip
import json
import pickle
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest

from coalesce.naming.layouts import LAYOUTS
from coalesce.planning.plan_files import PlanFile, load
from coalesce.planning.rules import Limits
from coalesce.protocol.session import GroupRules
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, data_in, entries_in, look, unfinished_in
from support.runs import new_run
from support.scenarios import dying, run
from support.servers import ACCEPTED
from support.settings import settings

UUID = "fddd7a0e-fad9-4f7e-9bce-00ae5debc56"
OWN = {
    "clicks": {
        "source": r"(?P<dir>.*/)clicks-(?P<host>[a-z0-9]+)-(?P<time>\d{8}T\d{6})\.log\.gz",
        "group": ["dir", "host"],
        "order": ["time"],
        "output": "{dir}clicks-{host}-{first.time}--{last.time}.log.gz",
    }
}


def names(layout: str) -> dict[str, list[str]]:
    """Keys of some groups in their order, by what their output is called."""
    flow = "data/123456789012_vpcflowlogs_us-east-1_fl-1234abcd"
    balancer = "data/123456789012_elasticloadbalancing_us-east-2_app.my-lb.12ab"
    return {
        "kafka-connect": {
            "data/t/partition=0/t+0+0000000000_0000000011.json": [
                f"data/t/partition=0/t+0+{n:010}.json" for n in (0, 2, 9, 11)
            ],
            "data/t/partition=0/t+0+0000000000_0000000002.json.gz": [
                f"data/t/partition=0/t+0+{n:010}.json.gz" for n in (0, 2)
            ],
            "data/u-3-9_100.gz": [f"data/u-3-{n}.gz" for n in (9, 10, 100)],
        },
        "secor": {
            "data/t/dt=1/1_0_00000000000000000003_00000000000000000009.gz": [
                f"data/t/dt=1/1_0_{n:020}.gz" for n in (3, 9)
            ]
        },
        "firehose": {
            "data/2026/11/26/14/s-1-2026-11-26-14-05-00_2026-11-26-14-09-00": [
                f"data/2026/11/26/14/s-1-2026-11-26-14-0{n}-00-{UUID}{9 - n}" for n in (5, 7, 9)
            ]
        },
        "vector": {
            "data/date=2026-11-26/999_1000.log.gz": [
                f"data/date=2026-11-26/{n}-{UUID}{n % 10}.log.gz" for n in (999, 1000)
            ]
        },
        "fluent-bit": {
            "data/app/2026/11/26/14/05-59_15-10": [
                f"data/app/2026/11/26/14/{at}-object{'abcdefgh'}"
                for at in ("05/59", "06/00", "15/10")
            ]
        },
        "logstash": {
            "data/ls.s3.2026-11-26T14.05_2026-11-26T14.10.txt.gz": [
                f"data/ls.s3.{UUID}0.2026-11-26T14.{at}.txt.gz"
                for at in ("05.part9", "05.part10", "10.part11")
            ]
        },
        "aws-load-balancer": {
            f"{balancer}_20261126T1405Z-20261126T1410Z.log.gz": [
                f"{balancer}_20261126T14{n}Z_10.0.0.1_abc{n}.log.gz" for n in ("05", "10")
            ]
        },
        "aws-cloudfront": {
            "data/E1.2026-11-26-14_2026-11-26-15.gz": [
                f"data/E1.2026-11-26-{n}.gz" for n in ("14.aa", "14.bb", "15.AA")
            ]
        },
        "aws-vpc-flow-logs": {
            f"{flow}_20261126T1405Z-20261126T1410Z.log.gz": [
                f"{flow}_20261126T14{n}Z_ab{n}.log.gz" for n in ("05", "10")
            ]
        },
        "clicks": {
            "data/clicks-w1-20261126T140500--20261126T141000.log.gz": [
                f"data/clicks-w1-20261126T14{n}00.log.gz" for n in ("05", "10")
            ],
            "data/clicks-w2-20261126T140500--20261126T141000.log.gz": [
                f"data/clicks-w2-20261126T14{n}00.log.gz" for n in ("05", "10")
            ],
        },
    }[layout]


ALL = [name for name in LAYOUTS if name not in ("corporate", "manifest")] + ["clicks"]
START = {"kafka-connect", "secor"}


def filled(layout: str) -> tuple[MemoryBucket, dict[str, bytes]]:
    """A bucket with the sources of some groups, and the text of each output that is to be."""
    bucket, texts = MemoryBucket(), dict[str, bytes]()
    # the last name goes in first: the order is the names', not that of their writing
    for number, (output, keys) in enumerate(names(layout).items()):
        lines = [b'{"group": %d, "n": %d}\n' % (number, n) for n in range(len(keys))]
        if layout == "aws-vpc-flow-logs":
            lines = [b"version account-id\n" + line for line in lines]
        for key, line in reversed(list(zip(keys, lines, strict=True))):
            bucket.store(key, gzip.compress(line, mtime=0) if is_packed(key) else line)
        texts[output] = b"".join(lines)
    bucket.store("data/README.parquet", b"PAR1")
    bucket.now += 1000
    return bucket, texts


def is_packed(key: str) -> bool:
    return key.endswith(".gz")


def chosen(layout: str, **more: Any) -> Settings:
    return settings(layout=layout, layouts=OWN if layout in OWN else {}, **more)


def read(key: str, data: bytes) -> bytes:
    return gzip.decompress(data) if is_packed(key) else data


def records(held: dict[str, bytes]) -> Counter[bytes]:
    lines = (line for key, data in data_in(held).items() for line in read(key, data).splitlines())
    return Counter(line for line in lines if line != b"version account-id")


async def check_joined(bucket: MemoryBucket, layout: str, texts: dict[str, bytes]) -> Report:
    report = await new_run(MemoryStore(bucket), chosen(layout)).coalesce()
    assert report.exit_code == 0, report.failures
    held = contents(bucket)
    found = {key: read(key, data) for key, data in data_in(held).items()}
    if layout == "aws-vpc-flow-logs":
        found = {key: without_headers(text) for key, text in found.items()}
        texts = {key: without_headers(text) for key, text in texts.items()}
    assert found == texts | {"data/README.parquet": b"PAR1"}
    assert unfinished_in(held) == []
    assert entries_in(held) == sorted(texts)
    return report


def without_headers(text: bytes) -> bytes:
    return text.replace(b"version account-id\n", b"")


@pytest.mark.parametrize("layout", ALL)
async def test_every_record_is_there_once_in_order_and_a_second_run_does_nothing(
    layout: str,
) -> None:
    bucket, texts = filled(layout)
    report = await check_joined(bucket, layout, texts)
    assert report.outputs.written == len(texts)
    assert report.sources.left == report.sources.left | {"unparsed": 1}
    before = contents(bucket)
    bucket.now += 1000
    assert (await new_run(MemoryStore(bucket), chosen(layout)).coalesce()).outputs.written == 0
    assert contents(bucket) == before


@pytest.mark.parametrize("layout", ALL)
async def test_gaps_that_names_do_not_tell_are_unknown(layout: str) -> None:
    events: list[dict[str, Any]] = []
    bucket, _ = filled(layout)
    report = await new_run(MemoryStore(bucket), chosen(layout), emit=events.append).coalesce()
    assert report.offsets.unknown == len(names(layout))
    outputs = [event for event in events if event["type"] == "output"]
    assert outputs
    assert {event["last_offset"] for event in outputs} == {None}
    assert (None in {event["first_offset"] for event in outputs}) == (layout not in START)


@pytest.mark.parametrize("layout", ["kafka-connect", "fluent-bit", "clicks"])
@pytest.mark.parametrize("answered", [False, True], ids=["before it acts", "answer lost"])
async def test_killed_at_any_request_the_next_run_ends_with_every_record_once(
    layout: str, answered: bool
) -> None:
    bucket, texts = filled(layout)
    requests: list[Request] = []
    store = MemoryStore(bucket)

    async def note(request: Request) -> None:
        requests.append(request)

    store.before = note
    await new_run(store, chosen(layout)).coalesce()
    for number, request in enumerate(requests, 1):
        if "/probe/" in request.key:
            continue
        bucket, texts = filled(layout)
        before = records(contents(bucket))
        await run(dying(MemoryStore(bucket), number, answered=answered), chosen(layout))
        lost = before - records(contents(bucket))
        assert not lost, f"killed at {number}: {request.operation} {request.key}"
        bucket.now += 1000
        await check_joined(bucket, layout, texts)
        assert bucket.uploads == {}


async def test_what_a_run_with_another_layout_left_is_settled() -> None:
    """Recovery's scope is all layouts under its roots."""
    bucket, texts = filled("kafka-connect")
    await die_among_deletes(bucket, "kafka-connect")
    assert unfinished_in(contents(bucket))
    report = await new_run(MemoryStore(bucket), chosen("corporate")).coalesce()
    assert report.exit_code == 0, report.failures
    assert report.recovered.outputs >= 1
    assert unfinished_in(contents(bucket)) == []
    await check_joined(bucket, "kafka-connect", texts)


async def test_the_record_of_a_layout_that_is_not_known_is_left_alone_and_told() -> None:
    bucket, texts = filled("clicks")
    await die_among_deletes(bucket, "clicks")
    before = contents(bucket)
    report = await new_run(MemoryStore(bucket), chosen("corporate")).coalesce()
    assert report.exit_code != 0
    assert {failure.code for failure in report.failures} == {"RecordDamaged"}
    assert all("'clicks'" in failure.message for failure in report.failures)
    assert all("configuration file" in failure.hint for failure in report.failures)
    assert contents(bucket) == before, "the run that died left its lease too"
    bucket.now += 1000
    await check_joined(bucket, "clicks", texts)


async def test_uploads_of_a_layout_that_is_not_known_wait_for_a_run_that_knows_it() -> None:
    """The lease says that they may be there; it stays as long as they do."""
    bucket, texts = filled("clicks")
    await die_at(bucket, "clicks", "CreateMultipartUpload", "data/", 2)
    assert bucket.uploads
    assert (await new_run(MemoryStore(bucket), chosen("corporate")).coalesce()).exit_code == 0
    assert bucket.uploads
    bucket.now += 1000
    await check_joined(bucket, "clicks", texts)
    assert bucket.uploads == {}


async def die_among_deletes(bucket: MemoryBucket, layout: str) -> None:
    await die_at(bucket, layout, "DeleteObjects", "data/", 1)


async def die_at(
    bucket: MemoryBucket, layout: str, operation: str, prefix: str, times: int
) -> None:
    store, met = MemoryStore(bucket), 0
    requests: list[Request] = []

    async def note(request: Request) -> None:
        nonlocal met
        requests.append(request)

    trial = MemoryStore(copied(bucket))
    trial.before = note
    await new_run(trial, chosen(layout)).coalesce()
    at = [
        number
        for number, request in enumerate(requests, 1)
        if request.operation == operation and request.key.startswith(prefix)
    ][times - 1]
    assert await run(dying(store, at, answered=False), chosen(layout)) is None
    bucket.now += 1000


def copied(bucket: MemoryBucket) -> MemoryBucket:
    return MemoryBucket(now=bucket.now, objects=dict(bucket.objects))


@pytest.mark.parametrize("layout", ["kafka-connect", "fluent-bit", "firehose", "clicks"])
@pytest.mark.parametrize("count", [2, 3])
async def test_shards_together_join_everything_and_none_of_it_twice(
    layout: str, count: int
) -> None:
    bucket, texts = filled(layout)
    seen = 0
    for n in range(count):
        report = await new_run(MemoryStore(bucket), chosen(layout, shard=f"{n}/{count}")).coalesce()
        assert report.exit_code == 0, report.failures
        seen += report.outputs.written
        bucket.now += 1000
    assert seen == len(texts)
    found = {key: read(key, data) for key, data in data_in(contents(bucket)).items()}
    assert found == texts | {"data/README.parquet": b"PAR1"}


@pytest.mark.parametrize("layout", ["kafka-connect", "fluent-bit", "clicks"])
async def test_a_saved_plan_is_executed_as_it_was_made(layout: str) -> None:
    bucket, texts = filled(layout)
    planning = new_run(MemoryStore(bucket), chosen(layout))
    await planning.plan()
    assert {*contents(bucket)} == {*filled(layout)[0].objects}, "a plan writes nothing"
    text = PlanFile.of(chosen(layout), ["data/"], planning.lines, version="0", created="").dump()
    plan = load(text, "plan")
    assert {b.output for group in plan.groups for b in group.batches} == {*texts}
    for n in range(2):
        share = chosen(layout, shard=f"{n}/2")
        report = await new_run(MemoryStore(bucket), share, planned=plan).coalesce()
        assert report.exit_code == 0, report.failures
        bucket.now += 1000
    found = {key: read(key, data) for key, data in data_in(contents(bucket)).items()}
    assert found == texts | {"data/README.parquet": b"PAR1"}


def test_a_plan_of_ones_own_layout_names_it() -> None:
    text = PlanFile.of(chosen("clicks"), ["data/"], [], version="0", created="").dump()
    options = json.loads(text.splitlines()[0])["options"]
    assert options["layouts"] == OWN
    assert (
        "layouts"
        not in json.loads(
            PlanFile.of(chosen("vector"), ["data/"], [], version="0", created="")
            .dump()
            .splitlines()[0]
        )["options"]
    )


async def test_a_source_that_starts_inside_an_output_is_covered() -> None:
    """A connector that was stopped before it had committed its offsets writes some records again:
    what an output has is not joined into another.
    """
    bucket, texts = filled("kafka-connect")
    await check_joined(bucket, "kafka-connect", texts)
    for n in (2, 9):
        bucket.store(f"data/t/partition=0/t+0+{n:010}.json", b'{"again": true}\n')
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), chosen("kafka-connect")).coalesce()
    assert report.sources.left["covered"] == 2
    assert report.outputs.written == 0


async def test_a_second_output_of_the_same_ends_has_a_name_of_its_own() -> None:
    """Names of an hour do not tell two outputs of it apart: a zero does."""
    bucket = MemoryBucket()
    for n in range(4):
        bucket.store(f"data/E1.2026-11-26-14.{n}.gz", gzip.compress(b"%d\n" % n, mtime=0))
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), chosen("aws-cloudfront", max_files=2)).coalesce()
    assert report.exit_code == 0
    assert sorted(data_in(bucket.objects)) == [
        "data/E1.2026-11-26-14_02026-11-26-14.gz",
        "data/E1.2026-11-26-14_2026-11-26-14.gz",
    ]
    bucket.now += 1000
    again = chosen("aws-cloudfront", max_files=2)
    assert (await new_run(MemoryStore(bucket), again).coalesce()).outputs.written == 0


async def test_a_prefix_inside_a_group_is_left_alone() -> None:
    """Fluent Bit's groups are hours: of one minute alone no output may be written above it."""
    bucket, _ = filled("fluent-bit")
    before = contents(bucket)
    chosen_minute = chosen("fluent-bit").model_copy(
        update={"prefix": ("data/app/2026/11/26/14/05",)}
    )
    report = await new_run(MemoryStore(bucket), chosen_minute).coalesce()
    assert report.outputs.written == 0
    assert data_in(contents(bucket)) == data_in(before)


@pytest.mark.parametrize("what", ["coalesce", "plan"])
async def test_ones_own_layout_is_tried_on_keys_that_are_there_before_anything_is_begun(
    what: str,
) -> None:
    """Two fields that run into each other in the output's name."""
    layouts = {
        "mixed": {
            "source": r"(?P<dir>.*/)(?P<host>[a-z-]+)_(?P<zone>[a-z-]+)_(?P<time>\d+)\.log",
            "group": ["dir", "host", "zone"],
            "order": ["time"],
            "output": "{dir}{host}-{zone}.{first.time}-{last.time}.log",
        }
    }
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(f"data/x_y-z_{n}.log", b"%d\n" % n)
    bucket.now += 1000
    before = contents(bucket)
    begun = new_run(MemoryStore(bucket), settings(layout="mixed", layouts=layouts))
    report = await getattr(begun, what)()
    assert report.exit_code == 10
    assert [failure.code for failure in report.failures] == ["BadLayout"]
    assert contents(bucket) == before


async def test_on_a_real_server_other_names_are_joined_in_order(store: ObjectStore) -> None:
    for layout in ("kafka-connect", "clicks"):
        bucket, texts = filled(layout)
        for key, data in contents(bucket).items():
            await store.put(key, data)
        report = await Run(store, chosen(layout, accept_weaker=ACCEPTED)).coalesce()
        assert report.exit_code == 0, report.failures
        held = await look(store)
        found = {key: read(key, data) for key, data in data_in(held).items()}
        assert {key: found[key] for key in texts} == texts
        assert not sources_left(found, layout)


def sources_left(keys: Iterable[str], layout: str) -> list[str]:
    gone = {key for group in names(layout).values() for key in group}
    return sorted(gone.intersection(keys))


def test_a_layout_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="--layout clicks: choose corporate, manifest, "):
        settings(layout="clicks")


@pytest.mark.parametrize("layout", ["fluent-bit", "clicks"])
def test_the_rules_of_a_run_reach_its_workers(layout: str) -> None:
    """They are sent as bytes: patterns that are compiled need not be such."""
    promises = [each.name for each in fields(Capabilities) if each.name != "checksum"]
    rules = GroupRules(
        state="_coalesce/",
        run_id="r",
        version="0",
        layout=chosen(layout).chosen_layout,
        limits=Limits.of(chosen(layout)),
        capabilities=Capabilities(**dict.fromkeys(promises, True), checksum=Checksum.CRC64NVME),
        known=chosen(layout).known_layouts,
    )
    there = pickle.loads(pickle.dumps(rules))
    for key in (key for keys in names(layout).values() for key in keys):
        assert there.layout.parse(key) == rules.layout.parse(key)
    assert set(there.known) == set(rules.known)
