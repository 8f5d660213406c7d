"""Outputs that grow, in a bucket: hourly runs, deaths, and what is left of it."""

import datetime as dt
import gzip
import json

import pytest

from coalesce.inspect.history import Historian
from coalesce.inspect.status import read_status
from coalesce.inspect.verify import verify
from coalesce.planning.work_lists import WorkList
from coalesce.run.goals import settings_for_goal
from coalesce.run.undoing import Wanted
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support import auditor
from support.auditor import Auditor
from support.buckets import contents, entries_in
from support.runs import new_run
from support.scenarios import AuditedBucket, check_ledger
from support.settings import settings

HOURS = 24
TODAY = dt.date(2026, 11, 22)


def growing_bucket() -> AuditedBucket:
    bucket = AuditedBucket()
    bucket.audit = Auditor(bucket, grows=True)
    return bucket


def produce(bucket: AuditedBucket, hour: int, count: int = 3) -> None:
    """A producer writes so many sources of one record each."""
    with bucket.audit.others():
        for n in range(hour * count, (hour + 1) * count):
            body = gzip.compress(b'{"n": %d, "text": "%d"}\n' % (n, n**20), mtime=0)
            bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body, content_type="application/gzip")
    bucket.now += 3600


@pytest.mark.parametrize("gzip_mode", ["single", "members"])
async def test_hourly_runs_hold_every_record_once_in_few_outputs(gzip_mode: str) -> None:
    bucket = growing_bucket()
    chosen = settings(grow=5_000, max_size=10_000, gzip=gzip_mode)
    for hour in range(HOURS):
        produce(bucket, hour)
        bucket.audit.begin()
        report = await new_run(MemoryStore(bucket), chosen).coalesce()
        assert report.exit_code == 0
        bucket.audit.check_quiet(f"hour {hour}")
        bucket.audit.check_counts(report, f"hour {hour}")
    keys = sorted(key for key in bucket.objects if key.startswith("data/"))
    assert auditor.sources(keys) == []
    assert len(keys) <= 5
    records = auditor.records(contents(bucket), "data/")
    assert records.total() == 3 * HOURS
    assert set(entries_in(bucket.objects)) >= set(keys)


async def test_the_report_says_how_many_of_the_sources_were_outputs() -> None:
    bucket = growing_bucket()
    chosen = settings(grow=100_000, max_size=1_000_000)
    for hour in range(2):
        produce(bucket, hour)
        report = await new_run(MemoryStore(bucket), chosen).coalesce()
    assert (report.sources.seen, report.sources.outputs, report.sources.joined) == (4, 1, 4)


async def test_the_ledger_leads_through_both_generations() -> None:
    """The entry of the new output names the old one, and the old one's entry its sources."""
    bucket = growing_bucket()
    chosen = settings(grow=100_000, max_size=1_000_000)
    for hour in range(2):
        produce(bucket, hour)
        await new_run(MemoryStore(bucket), chosen).coalesce()
    entries = {
        json.loads(lines[0])["output"]: [json.loads(line)[0] for line in lines[1:]]
        for key, stored in bucket.objects.items()
        if key.startswith("_coalesce/ledger/")
        for lines in [gzip.decompress(stored.data).splitlines()]
    }
    assert entries["data/t_0_0_5.jsonl.gz"][0] == "data/t_0_0_2.jsonl.gz"
    assert entries["data/t_0_0_2.jsonl.gz"] == [f"data/t_0_{n}-{n}.jsonl.gz" for n in range(3)]


async def test_a_second_run_writes_nothing_again() -> None:
    bucket = growing_bucket()
    chosen = settings(grow=5_000, max_size=10_000)
    for hour in range(5):
        produce(bucket, hour)
        await new_run(MemoryStore(bucket), chosen).coalesce()
    before = contents(bucket)
    bucket.now += 3600
    report = await new_run(MemoryStore(bucket), chosen).coalesce()
    assert report.outputs.written == 0
    assert contents(bucket) == before


async def test_a_damaged_output_is_left_alone_and_told() -> None:
    """It is checked like any source; its new neighbours are joined without it."""
    bucket = growing_bucket()
    chosen = settings(grow=100_000, max_size=1_000_000)
    produce(bucket, 0)
    await new_run(MemoryStore(bucket), chosen).coalesce()
    key = "data/t_0_0_2.jsonl.gz"
    with bucket.audit.others():
        bucket.store(key, bucket.objects[key].data[:-1])
    damaged = bucket.objects[key].data
    produce(bucket, 1)
    report = await new_run(MemoryStore(bucket), chosen).coalesce()
    assert report.exit_code == 4
    assert bucket.objects[key].data == damaged
    assert "data/t_0_3_5.jsonl.gz" in bucket.objects
    assert auditor.sources(bucket.objects) == []


async def test_status_says_what_growing_would_gain() -> None:
    bucket = growing_bucket()
    plain = settings(max_size=1_000_000)
    for hour in range(4):
        produce(bucket, hour)
        await new_run(MemoryStore(bucket), plain).coalesce()
    bucket.now += 3600
    status = await read_status(MemoryStore(bucket), plain)
    assert status.growth is not None
    assert (status.growth.size, status.growth.fewer) == (500_000, 3)
    grown = settings(max_size=1_000_000, grow=500_000)
    assert (await read_status(MemoryStore(bucket), grown)).growth is None
    await new_run(MemoryStore(bucket), grown).coalesce()
    assert len([key for key in bucket.objects if key.startswith("data/")]) == 1
    check_ledger(bucket, "grown", strays=True)


def test_a_size_of_more_than_half_an_output_is_refused() -> None:
    with pytest.raises(ValueError, match="--grow 600KB is more than half of --max-size 1MB"):
        Settings(bucket="b", prefix=("data",), max_size=1_000_000, grow=600_000)


async def test_outputs_of_a_bucket_without_sources_are_found() -> None:
    """A directory that only holds outputs is in scope too."""
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(f"data/t_0_{n}_{n}.jsonl.gz", gzip.compress(b'{"n": %d}\n' % n, mtime=0))
    bucket.now += 3600
    report = await new_run(
        MemoryStore(bucket), settings(grow=100_000, max_size=1_000_000)
    ).coalesce()
    assert (report.groups.seen, report.outputs.written) == (1, 1)
    assert sorted(key for key in bucket.objects if key.startswith("data/")) == [
        "data/t_0_0_2.jsonl.gz"
    ]


async def test_outputs_stay_in_a_run_with_a_work_list() -> None:
    """A list names sources, and nothing else is joined."""
    bucket, chosen = growing_bucket(), settings(grow=100_000, max_size=1_000_000)
    produce(bucket, 0)
    await new_run(MemoryStore(bucket), chosen).coalesce()
    produce(bucket, 1)
    wanted = WorkList.of([f"data/t_0_{n}-{n}.jsonl.gz" for n in (3, 4)], chosen, TODAY)
    report = await new_run(MemoryStore(bucket), chosen, wanted=wanted).coalesce()
    assert (report.exit_code, report.sources.seen) == (0, 3)
    assert sorted(key for key in bucket.objects if key.startswith("data/")) == [
        "data/t_0_0_2.jsonl.gz",
        "data/t_0_3_4.jsonl.gz",
        "data/t_0_5-5.jsonl.gz",
    ]


async def test_a_goal_counts_on_outputs_that_grow() -> None:
    bucket = growing_bucket()
    for hour in range(3):
        produce(bucket, hour)
        await new_run(MemoryStore(bucket), settings()).coalesce()
    chosen = settings(grow=100_000, max_objects=1)
    chosen = await settings_for_goal(MemoryStore(bucket), chosen)
    report = await new_run(MemoryStore(bucket), chosen).coalesce()
    assert report.exit_code == 0
    assert [key for key in bucket.objects if key.startswith("data/")] == ["data/t_0_0_8.jsonl.gz"]


async def two_generations() -> AuditedBucket:
    bucket = growing_bucket()
    for hour in range(2):
        produce(bucket, hour)
        chosen = settings(grow=100_000, max_size=1_000_000)
        await new_run(MemoryStore(bucket), chosen).coalesce()
    return bucket


async def test_history_follows_a_source_into_the_output_that_its_own_one_became() -> None:
    bucket = await two_generations()
    said: list[tuple[str, str]] = []
    historian = Historian(
        MemoryStore(bucket),
        "b",
        "_coalesce/",
        lambda event: said.append((event.type, getattr(event, "key", ""))),
    )
    await historian.tell_key("data/t_0_1-1.jsonl.gz")
    assert said == [
        ("output", "data/t_0_0_2.jsonl.gz"),
        ("source", "data/t_0_1-1.jsonl.gz"),
        ("output", "data/t_0_0_5.jsonl.gz"),
        ("source", "data/t_0_0_2.jsonl.gz"),
    ]
    assert historian.history.exit_code == 0


@pytest.mark.parametrize("deep", [False, True])
async def test_an_output_that_was_joined_again_is_not_missing(deep: bool) -> None:
    bucket = await two_generations()
    result = await verify(MemoryStore(bucket), settings(), deep=deep)
    assert (result.exit_code, result.proven, result.joined_again, result.missing) == (0, 1, 1, 0)
    with bucket.audit.others():
        del bucket.objects["data/t_0_0_5.jsonl.gz"]
    result = await verify(MemoryStore(bucket), settings(), deep=deep)
    assert (result.exit_code, result.missing) == (4, 1)


async def test_undo_leaves_an_output_that_was_made_of_an_output() -> None:
    """The ledger does not say all of that one; nothing is touched, and the failure says why."""
    bucket = await two_generations()
    before = contents(bucket)
    wanted = Wanted(("data/t_0_0_5.jsonl.gz",))
    report = await new_run(MemoryStore(bucket), settings()).undo(wanted)
    assert [failure.code for failure in report.failures] == ["CannotGiveBack"]
    assert (report.exit_code, report.undone.outputs) == (1, 0)
    assert contents(bucket) == before
    report = await new_run(MemoryStore(bucket), settings()).undo(Wanted())
    assert [failure.code for failure in report.failures] == ["CannotGiveBack"]
    assert contents(bucket) == before
