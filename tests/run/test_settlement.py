"""What earlier runs left unfinished is settled before the work, after it, or left and counted."""

import asyncio
import re
from typing import Any

import pytest

from coalesce import errors
from coalesce.exits import ExitCode
from coalesce.naming.shards import WHOLE, Shard
from coalesce.protocol.lease import LeaseRecord, Rival
from coalesce.protocol.survey import Ground
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.run.settlement import Rivals, watch
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.auditor import Auditor
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.nights import RECORD, one_group
from support.scenarios import Killed, run
from support.settings import settings
from support.timeless import Timeless

GROUND = Ground("corporate", ("data/",), ("data/",), WHOLE, lambda _: True)


def rival(run_id: str, remaining: float, *prefixes: str) -> Rival:
    record = LeaseRecord(run_id=run_id, layout="corporate", prefixes=prefixes)
    return Rival(f"_coalesce/runs/{run_id}", '"e"', record, remaining, modified=0.0)


async def test_a_run_waits_for_living_runs_that_work_where_it_works_and_for_no_others() -> None:
    here, elsewhere = rival("a", 9, "data/2026/"), rival("b", 9, "other/")
    dead_here, dead_elsewhere = rival("c", 0, "data/"), rival("d", -5, "other/")
    rivals = Rivals.of([here, elsewhere, dead_here, dead_elsewhere], GROUND)
    assert rivals == Rivals((dead_here, dead_elsewhere), alive=(here,), elsewhere=(elsewhere,))
    bucket = MemoryBucket()
    for began_since in ("c", "e"):
        bucket.store(f"_coalesce/runs/{began_since}", b"{}")
    alive = [
        run_id
        for run_id in "abcdef"
        if await rivals.is_alive(MemoryStore(bucket), "_coalesce/", run_id)
    ]
    assert alive == ["a", "b", "e"]


def test_a_run_whose_lease_has_ended_while_it_was_watched_is_dead() -> None:
    gone, first, second, third = (rival(name, 9, "data/") for name in "abcd")
    other = rival("e", 9, "other/")
    rivals = Rivals((gone,), (first, second, third), (other,))
    watched = rivals.after_watch([False, True, False])
    assert watched == Rivals((gone, second), (first, third), (other,))


async def test_leases_are_no_longer_watched_when_the_block_ends() -> None:
    async with watch(MemoryStore(MemoryBucket()), [rival("a", 1e6), rival("b", 0)]) as watches:
        assert await watches[1]
    assert watches[0].cancelled()


def bucket_with_a_crashed_run(
    lease: float, shard: str = "0/1", at: str = "CompleteMultipartUpload"
) -> MemoryBucket:
    """A bucket of two groups, in which a run has just died before it completed an output of one, or
    before another request.
    """
    bucket = filled(2)
    store, dead = MemoryStore(bucket), False

    async def die(request: Request) -> None:
        nonlocal dead
        dead |= request.operation == at and "data/t_0_" in request.key
        if dead:
            raise Killed

    store.before = die
    with pytest.raises((Killed, BaseExceptionGroup)):
        run_on(bucket, store, lease=lease, partition=[0], shard=shard)
    assert "_coalesce/groups/data/t_0" in bucket.objects
    return bucket


def run_on(bucket: MemoryBucket, store: MemoryStore, **more: Any) -> tuple[Report, list[Any]]:
    events: list[Any] = []
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        run = Run(store, settings(**more), events.append, clock=runner.get_loop().time)
        return runner.run(run.coalesce()), events


def test_a_group_whose_run_dies_while_others_are_joined_is_joined_in_the_same_run() -> None:
    """The other groups do not wait for that."""
    bucket = bucket_with_a_crashed_run(lease=60)
    before = records_in(contents(bucket))
    report, events = run_on(bucket, MemoryStore(bucket))
    assert [event["group"] for event in events if event["type"] == "output"] == [
        "data/t_1",
        "data/t_0",
    ]
    assert (report.exit_code, report.groups.seen, report.groups.leased) == (0, 2, 0)
    assert (report.sources.seen, report.sources.deleted) == (8, 8)
    assert set(data_in(bucket.objects)) == {"data/t_0_0_3.jsonl.gz", "data/t_1_0_3.jsonl.gz"}
    check_finished(bucket.objects)
    assert not bucket.uploads
    assert records_in(contents(bucket)) == before


def test_a_run_that_waits_says_for_whom_and_for_how_long() -> None:
    bucket = bucket_with_a_crashed_run(lease=60)
    _, events = run_on(bucket, MemoryStore(bucket))
    (waiting,) = (event for event in events if event["type"] == "waiting")
    said = re.fullmatch(
        r"waiting for run (\S+) on \S+, which holds its lease for up to (\d+) s", waiting["message"]
    )
    assert said is not None
    assert said[1] == waiting["key"]
    assert 0 < int(said[2]) <= 61  # the store's dates are exact to a second


def test_what_is_finished_late_for_a_dead_run_is_told_once() -> None:
    """It was listed before: its sources are not left, and not in the path list any more."""
    bucket = bucket_with_a_crashed_run(lease=60, at="DeleteObjects")
    audit = Auditor(bucket)
    report, _ = run_on(bucket, MemoryStore(bucket))
    assert set(data_in(bucket.objects)) == {"data/t_0_0_3.jsonl.gz", "data/t_1_0_3.jsonl.gz"}
    audit.check_counts(report)
    assert (report.exit_code, report.groups.seen, report.groups.coalesced) == (0, 1, 1)
    assert (report.sources.seen, report.sources.joined, report.recovered.sources_deleted) == (
        4,
        4,
        4,
    )
    assert [(topic.sources, topic.joined) for topic in report.topics] == [(4, 4)]


def test_a_group_whose_run_goes_on_counts_as_leased() -> None:
    bucket = bucket_with_a_crashed_run(lease=60)
    (key,) = (key for key in bucket.objects if key.startswith("_coalesce/runs/"))
    store = MemoryStore(bucket)

    async def renew(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload":
            bucket.store(key, bucket.objects[key].data + b" ")

    store.before = renew
    report, events = run_on(bucket, store)
    assert (report.exit_code, report.groups.coalesced, report.groups.leased) == (0, 1, 1)
    assert [event["key"] for event in events if event["type"] == "leased"] == [
        "_coalesce/groups/data/t_0"
    ]
    assert "data/t_0_0-0.jsonl.gz" in bucket.objects
    assert bucket.uploads
    assert key in bucket.objects


@pytest.mark.parametrize("crashed_too", [False, True])
def test_groups_of_a_living_run_of_another_shard_are_left_to_it(crashed_too: bool) -> None:
    """They are not this run's: it waits for none of them, and counts none of them as leased."""
    theirs = next(shard for shard in (Shard(0, 2), Shard(1, 2)) if shard.owns("data/t_0_"))
    bucket = bucket_with_a_crashed_run(lease=60, shard=str(theirs))
    if crashed_too:  # a run of this shard, for whose end it does wait
        mine = LeaseRecord(
            run_id="mine", layout="corporate", prefixes=("data/",), shard=f"{1 - theirs.index}/2"
        )
        bucket.store("_coalesce/runs/mine", mine.model_dump_json().encode())
    record = bucket.objects["_coalesce/groups/data/t_0"]
    report, events = run_on(bucket, MemoryStore(bucket), shard=f"{1 - theirs.index}/2")
    assert (report.exit_code, report.groups.leased, report.outputs.recovered) == (0, 0, 0)
    assert [event for event in events if event["type"] == "leased"] == []
    assert bucket.objects["_coalesce/groups/data/t_0"] == record
    assert bucket.uploads
    assert "_coalesce/runs/mine" not in bucket.objects


def test_after_its_deadline_a_run_waits_for_nobody() -> None:
    bucket = bucket_with_a_crashed_run(lease=3600)
    store, started_at = MemoryStore(bucket), bucket.now

    async def take_ten_seconds(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Timeless)
            loop.leap(10)

    store.before = take_ten_seconds
    report, _ = run_on(bucket, store, deadline=5)
    assert bucket.now - started_at == 10
    assert (report.exit_code, report.groups.coalesced) == (ExitCode.LIMIT, 1)
    assert "_coalesce/groups/data/t_0" in bucket.objects


@pytest.mark.parametrize("state", ["_coalesce/", "of its own/"])
def test_a_run_that_crashed_elsewhere_is_named_with_the_command_that_cleans_up(state: str) -> None:
    bucket = MemoryBucket()
    lease = LeaseRecord(
        run_id="dead", seconds=0, layout="manifest", prefixes=("a/", "b b/"), shard="1/2"
    )
    key = f"{state}runs/dead"
    bucket.store(key, lease.model_dump_json().encode())
    report, events = run_on(bucket, MemoryStore(bucket), state=state)
    assert (report.exit_code, key in bucket.objects) == (0, True)
    (event,) = (event for event in events if event["type"] == "unfinished")
    assert event["key"] == "dead"
    more = "" if state == "_coalesce/" else " --state 'of its own/'"
    assert f"`coalesce recover -b b -p a/ -p 'b b/'{more}`" in event["hint"]


def test_a_group_that_only_its_late_settlement_shows_is_for_the_next_run() -> None:
    """The listing of the prefix fails while a dead run's lease still holds. The record is settled
    once it has ended, and the report counts no group that was not seen.
    """
    bucket = one_group(5)
    loop = Timeless(bucket)

    def finish(store: MemoryStore) -> Report | None:
        return loop.run_until_complete(run(store, settings(), clock=loop.time))

    async def die(_: Request) -> None:
        if RECORD in bucket.objects:
            raise Killed

    async def fail(request: Request) -> None:
        if request.operation == "ListObjectsV2" and request.key == "data/":
            raise errors.Unavailable("made up", key=request.key)

    dead, unlucky = MemoryStore(bucket), MemoryStore(bucket)
    dead.before = dead.after = die
    unlucky.before = fail
    assert finish(dead) is None
    bucket.audit.begin()
    report = finish(unlucky)
    assert report is not None
    assert (report.recovered.groups, report.exit_code) == (1, 1)
    bucket.audit.check_counts(report)
    report = finish(MemoryStore(bucket))
    assert report is not None
    assert (report.exit_code, report.sources.joined) == (0, 5)
    bucket.audit.check_quiet()
    loop.close()


def test_a_group_whose_record_cannot_be_read_has_failed() -> None:
    bucket = filled(2)
    bucket.store("_coalesce/groups/data/t_0", b"damaged")
    report, _ = run_on(bucket, MemoryStore(bucket))
    groups = report.groups
    assert (groups.seen, groups.coalesced, groups.failed, groups.left) == (2, 1, 1, 0)


def test_a_run_does_not_look_at_its_own_records_again_when_it_ends() -> None:
    """Without deletes they all stand."""
    bucket = filled(2)
    store, looks = MemoryStore(bucket), list[str]()

    async def before(request: Request) -> None:
        if request.operation == "GetObject" and request.key.startswith("_coalesce/groups/"):
            looks.append(request.key)

    store.before = before
    report, _ = run_on(bucket, store, delete=False)
    assert (report.exit_code, report.groups.coalesced) == (0, 2)
    assert "_coalesce/groups/data/t_0" in bucket.objects
    assert looks == []


def test_what_recover_has_settled_after_a_wait_is_nobodys_any_more() -> None:
    bucket = bucket_with_a_crashed_run(lease=60)
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        job = Run(MemoryStore(bucket), settings(), clock=runner.get_loop().time)
        report = runner.run(job.recover())
    assert "_coalesce/groups/data/t_0" not in bucket.objects
    assert (report.exit_code, report.groups.leased, report.recovered.groups) == (0, 0, 1)
