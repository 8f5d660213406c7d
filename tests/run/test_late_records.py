"""What another run leaves that begins and dies while this one works is settled by this one, or
counted: it looks once more at its end.
"""

from typing import Any

import pytest

from coalesce.errors import Unavailable
from coalesce.exits import ExitCode
from coalesce.naming.shards import Shard
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.nights import at, dead_run
from support.settings import settings

FIRST, SECOND = "data/t_0_0_3.jsonl.gz", "data/t_1_0_3.jsonl.gz"
RECORD = "_coalesce/groups/data/t_0"

DEATHS = [
    ("PutObject", RECORD),
    ("CompleteMultipartUpload", "data/t_0"),
    ("DeleteObjects", "data/t_0"),
]


def overtaken(bucket: MemoryBucket, operation: str, key: str, **more: object) -> MemoryStore:
    """The store of a run that has just looked for others when another one begins, and dies right
    after such a request for the first of two groups.
    """
    return at(
        MemoryStore(bucket),
        "PutObject",
        "_coalesce/runs/",
        lambda: dead_run(bucket, operation, key, partition=[0], **more),
    )


async def run_on(store: MemoryStore, **more: Any) -> tuple[Report, list[Any]]:
    events: list[Any] = []
    return await Run(store, settings(**more), events.append).coalesce(), events


@pytest.mark.parametrize(("operation", "key"), DEATHS)
async def test_a_group_on_which_a_run_dies_meanwhile_is_settled_and_joined_by_this_one(
    operation: str, key: str
) -> None:
    bucket = filled(2)
    before = records_in(contents(bucket))
    report, events = await run_on(overtaken(bucket, operation, key))
    assert set(data_in(bucket.objects)) == {FIRST, SECOND}
    assert (report.exit_code, report.recovered.groups, report.groups.leased) == (0, 1, 0)
    assert report.sources.seen == report.sources.joined + sum(report.sources.left.values())
    assert [event for event in events if event["type"] == "leased"] == []
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)
    assert not bucket.uploads


async def test_what_is_joined_after_another_run_died_on_it_is_told_once() -> None:
    """It was listed before, and listed again."""
    bucket = filled(2)
    report, _ = await run_on(overtaken(bucket, "PutObject", RECORD))
    assert (report.sources.seen, report.sources.joined, report.sources.deleted) == (8, 8, 8)
    assert (report.groups.seen, report.groups.coalesced, report.offsets.gaps) == (2, 2, 0)
    assert report.path_list.after == sum(len(f"s3://b/{key},") for key in (FIRST, SECOND))
    assert [(topic.sources, topic.joined) for topic in report.topics] == [(8, 8)]


@pytest.mark.parametrize(("operation", "key"), DEATHS)
async def test_recover_settles_what_a_run_leaves_that_dies_meanwhile(
    operation: str, key: str
) -> None:
    bucket = filled(2)
    before = records_in(contents(bucket))
    report = await Run(overtaken(bucket, operation, key), settings()).recover()
    assert (report.exit_code, report.recovered.groups) == (0, 1)
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


async def test_a_group_on_which_a_run_dies_meanwhile_and_that_cannot_be_settled_is_told() -> None:
    """Here because its output has been damaged."""
    bucket = filled(2)
    store = overtaken(bucket, "CompleteMultipartUpload", "data/t_0")

    async def damage(request: Request) -> None:
        if request.operation == "ListObjectsV2" and request.key == "data/":
            output = bucket.objects[FIRST]
            bucket.store(FIRST, output.data[:-9], output.metadata)

    store.after = damage
    report, _ = await run_on(store)
    assert (report.exit_code, report.recovered.unsettled_groups) == (ExitCode.INTEGRITY, 1)
    assert RECORD in bucket.objects
    assert len([key for key in bucket.objects if key.startswith("data/t_0")]) == 5


async def test_the_record_of_a_run_that_is_alive_is_no_alarm() -> None:
    bucket = filled(2)
    store = overtaken(bucket, "PutObject", RECORD, lease=3600)
    report, events = await run_on(store)
    assert (report.exit_code, report.recovered.unsettled_groups) == (0, 0)
    assert (report.groups.coalesced, report.groups.leased, report.failures) == (1, 1, [])
    assert [event["key"] for event in events if event["type"] == "leased"] == [RECORD]
    assert RECORD in bucket.objects


async def test_a_record_outside_of_this_runs_shard_is_left_to_the_shard_that_it_belongs_to() -> (
    None
):
    bucket = filled(2)
    theirs = next(shard for shard in (Shard(0, 2), Shard(1, 2)) if shard.owns("data/t_0_"))
    store = overtaken(bucket, "CompleteMultipartUpload", "data/t_0", shard=str(theirs))
    report, _ = await run_on(store, shard=f"{1 - theirs.index}/2")
    assert (report.exit_code, report.recovered.groups) == (0, 0)
    assert RECORD in bucket.objects


async def test_a_run_that_cannot_look_once_more_says_so() -> None:
    bucket = filled(2)
    store, looks = MemoryStore(bucket), 0

    async def fail(request: Request) -> None:
        nonlocal looks
        looks += request.operation == "ListObjectsV2" and request.key == "_coalesce/groups/"
        if looks == 2 and request.operation == "ListObjectsV2":
            raise Unavailable("made up", key=request.key)

    store.before = fail
    report, _ = await run_on(store)
    assert (report.exit_code, len(report.failures), looks) == (ExitCode.TRANSIENT, 1, 2)
    assert set(data_in(bucket.objects)) == {FIRST, SECOND}
    check_finished(bucket.objects)


async def test_a_run_without_late_records_lists_them_once_more_and_nothing_else() -> None:
    bucket = filled(1)
    store = MemoryStore(bucket)
    listed: list[str] = []

    async def look(request: Request) -> None:
        listed.extend([request.key] if request.operation == "ListObjectsV2" else [])

    store.before = look
    await run_on(store)
    assert listed == ["_coalesce/groups/", "_coalesce/runs/", "data/", "_coalesce/groups/"]
