"""Small promises of a whole run: whom it waits for, what it works on, and what it tells."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from coalesce.exits import ExitCode
from coalesce.model import Plan
from coalesce.protocol.lease import Claim, LeaseRecord, Rival
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.state import lease_key
from coalesce.report.report import Report
from coalesce.report.usage import ProcessUsage
from coalesce.run.messages import Assignment
from coalesce.run.pipeline import Run
from coalesce.run.settlement import Rivals
from coalesce.run.workload import Workload
from coalesce.stop import Stop
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, data_in, filled, records_in, unfinished_in
from support.scenarios import Killed
from support.settings import settings
from support.timeless import Timeless

TODAY = dt.date(2026, 11, 26)


def run_on(bucket: MemoryBucket, store: MemoryStore, **more: Any) -> tuple[Report, list[Any]]:
    """A run on a clock that leaps: nobody waits."""
    events: list[Any] = []
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        run = Run(store, settings(**more), events.append, clock=runner.get_loop().time)
        return runner.run(run.coalesce()), events


def with_a_crashed_run(groups: int = 2, **more: Any) -> MemoryBucket:
    """A run has just died, before it completed an output of the first group."""
    bucket = filled(groups)
    store, dead = MemoryStore(bucket), False

    async def die(request: Request) -> None:
        nonlocal dead
        dead |= request.operation == "CompleteMultipartUpload" and "data/t_0_" in request.key
        if dead:
            raise Killed

    store.before = die
    with pytest.raises((Killed, BaseExceptionGroup)):
        run_on(bucket, store, partition=[0], **more)
    assert "_coalesce/groups/data/t_0" in bucket.objects
    return bucket


def leave_lease(bucket: MemoryBucket, run_id: str, prefix: str, seconds: float) -> str:
    lease = LeaseRecord(run_id=run_id, layout="corporate", prefixes=(prefix,), seconds=seconds)
    key = lease_key("_coalesce/", run_id)
    bucket.store(key, lease.model_dump_json().encode())
    return key


# --- whom a run waits for


@pytest.mark.parametrize(
    ("theirs", "waits"),
    [
        ("", True),
        ("data/", True),
        ("data/x/", True),
        ("data/x/2026/", True),
        ("data/y/", False),
        ("data/xy/", False),
    ],
)
def test_a_run_waits_for_runs_with_a_wider_and_with_a_narrower_prefix(
    theirs: str, waits: bool
) -> None:
    ground = Workload.of(settings(prefix=["data/x"]), None, TODAY).ground
    record = LeaseRecord(run_id="other", layout="corporate", prefixes=(theirs,))
    rival = Rival("_coalesce/runs/other", '"e"', record, remaining=9.0, modified=0.0)
    assert bool(Rivals.of([rival], ground).alive) is waits


@pytest.mark.parametrize(
    ("theirs", "waits"),
    [("0/1", True), ("1/4", True), ("3/8", False), ("5/8", True), ("2/4", False)],
)
def test_a_shard_waits_only_for_shards_with_groups_of_its_own(theirs: str, waits: bool) -> None:
    ground = Workload.of(settings(shard="1/4"), None, TODAY).ground
    record = LeaseRecord(run_id="other", layout="corporate", prefixes=("data/",), shard=theirs)
    rival = Rival("_coalesce/runs/other", '"e"', record, remaining=9.0, modified=0.0)
    assert bool(Rivals.of([rival], ground).alive) is waits


def test_a_run_does_not_wait_for_a_run_elsewhere() -> None:
    bucket = filled()
    key = leave_lease(bucket, "other", "other/", 3600)
    began = bucket.now
    report, events = run_on(bucket, MemoryStore(bucket))
    assert (report.exit_code, bucket.now - began) == (0, 0)
    assert [event for event in events if event["type"] == "waiting"] == []
    assert key in bucket.objects


def test_nothing_is_swept_while_another_run_is_alive_here() -> None:
    bucket = filled()
    dead = leave_lease(bucket, "dead", "data/", 0)
    leave_lease(bucket, "alive", "data/", 60)
    store = MemoryStore(bucket)
    stood: list[bool] = []

    async def before(request: Request) -> None:
        if request.operation == "CreateMultipartUpload" and request.key.startswith("data/"):
            stood.append(dead in bucket.objects)

    store.before = before
    report, _ = run_on(bucket, store)
    assert (report.exit_code, stood) == (0, [True])
    assert unfinished_in(bucket.objects) == []


# --- groups of a run that dies meanwhile


def test_a_group_out_of_scope_is_settled_and_not_joined() -> None:
    """Its run dies while this one works on another partition."""
    bucket = with_a_crashed_run(lease=60)
    before = records_in(contents(bucket))
    report, _ = run_on(bucket, MemoryStore(bucket), partition=[1])
    assert (report.exit_code, report.outputs.written) == (0, 1)
    assert {key for key in data_in(bucket.objects) if "t_0" in key} == {
        f"data/t_0_{n}-{n}.jsonl.gz" for n in range(4)
    }
    assert (bucket.uploads, unfinished_in(bucket.objects)) == ({}, [])
    assert records_in(contents(bucket)) == before


def test_a_group_of_a_living_run_is_left_alone_from_the_first() -> None:
    bucket = with_a_crashed_run(lease=60)
    (key,) = (key for key in bucket.objects if key.startswith("_coalesce/runs/"))
    store = MemoryStore(bucket)
    touched: list[str] = []

    async def renew(request: Request) -> None:
        if request.key.startswith("data/t_0_"):
            touched.append(request.operation)
        if request.operation == "CompleteMultipartUpload":
            bucket.store(key, bucket.objects[key].data + b" ")

    store.before = renew
    report, _ = run_on(bucket, store)
    assert (report.groups.coalesced, report.groups.leased, touched) == (1, 1, [])


def test_a_run_that_is_interrupted_waits_for_nobody() -> None:
    bucket = with_a_crashed_run(lease=3600)
    began = bucket.now
    events: list[Any] = []
    store = MemoryStore(bucket)
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        run = Run(store, settings(), events.append, clock=runner.get_loop().time)

        async def interrupt(request: Request) -> None:
            if request.operation == "CompleteMultipartUpload":
                run.interrupt(ExitCode.TERMINATED)

        store.before = interrupt
        report = runner.run(run.coalesce())
    assert report.exit_code == ExitCode.TERMINATED
    assert bucket.now - began < 5


# --- limits


async def test_max_groups_ends_the_run_after_so_many_groups() -> None:
    bucket = filled(3)
    report = await Run(MemoryStore(bucket), settings(max_groups=1)).coalesce()
    assert (report.exit_code, report.groups.coalesced) == (ExitCode.LIMIT, 1)
    assert sum("-" in key for key in data_in(bucket.objects)) == 8


async def test_a_group_that_waits_when_the_run_is_stopped_is_not_planned_any_more() -> None:
    """Of three groups the second meets the limit; the third has nothing to join, but nobody has
    looked at it, and so nobody says so.
    """
    bucket = filled(2, 3)
    bucket.store("data/t_2_0-0.jsonl.gz", b"")
    report = await Run(MemoryStore(bucket), settings(max_groups=1)).coalesce()
    assert (report.exit_code, report.groups.coalesced) == (ExitCode.LIMIT, 1)
    assert {why: n for why, n in report.sources.left.items() if n} == {"stopped": 4}


async def test_of_a_group_that_was_not_begun_any_more_each_source_has_its_own_reason() -> None:
    bucket = filled(2, 4)
    bucket.store("data/t_1_7-7.jsonl.gz", b"")
    report = await Run(MemoryStore(bucket), settings(max_groups=1, exclude=["*_1_0-*"])).coalesce()
    left = {why: n for why, n in report.sources.left.items() if n}
    assert left == {"stopped": 3, "excluded": 1, "empty": 1}


async def test_sources_of_an_output_that_a_limit_forbids_were_not_reached() -> None:
    limits = settings(max_files=4, max_delete=4)
    report = await Run(MemoryStore(filled(1, 8)), limits).coalesce()
    assert (report.exit_code, report.sources.joined) == (ExitCode.LIMIT, 4)
    assert {why: n for why, n in report.sources.left.items() if n} == {"stopped": 4}


async def test_a_group_for_which_there_was_no_place_in_the_queue_counts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coalesce.run.groups._QUEUED", 1)
    monkeypatch.setattr("coalesce.run.groups._CONCURRENCY", 1)
    report = await Run(MemoryStore(filled(6)), settings(max_groups=1)).coalesce()
    assert (report.groups.seen, report.groups.coalesced, report.groups.left) == (6, 1, 5)
    assert report.sources.seen == report.sources.joined + report.sources.left["stopped"]


# --- what a run tells


async def test_a_run_that_died_elsewhere_is_told() -> None:
    bucket = filled()
    leave_lease(bucket, "dead", "other/", 0)
    events: list[Any] = []
    await Run(MemoryStore(bucket), settings(), events.append).coalesce()
    assert [event["key"] for event in events if event["type"] == "unfinished"] == ["dead"]


async def test_a_forecast_includes_the_memory_for_bodies() -> None:
    forecasts = [
        await Run(MemoryStore(filled()), settings(memory=memory)).plan()
        for memory in (64 * 1024**2, 100 * 1024**2)
    ]
    small, large = (report.plan.memory_bytes for report in forecasts if report.plan)
    assert large - small == 36 * 1024**2


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ["EAST-14", "WEST+12"], indirect=True)
def test_today_is_the_day_of_utc(zone: None) -> None:
    """At any time it is another day in one of these zones."""
    days = [dt.datetime.now(dt.UTC).date()]
    run = Run(MemoryStore(filled()), settings(date="today"))
    days.append(dt.datetime.now(dt.UTC).date())
    expected = [settings(date="today").prefixes(day) for day in days]
    assert tuple(run.report.scope.prefixes) in expected


# --- worker processes, as the run speaks to them


class Crew:
    """Notes what it is told instead of doing it."""

    most = alive = 1
    taken = 0
    outputs_in_progress = (0, 0)
    usage = ProcessUsage()

    def __init__(self, on_work: Callable[[], None] = lambda: None) -> None:
        self.expiry = SimpleNamespace(value=0.0)
        self.stop: Stop | None = None
        self.seconds_left: float | None = None
        self.halts: list[int] = []
        self._on_work = on_work

    @asynccontextmanager
    async def assigned(
        self, assignment: Assignment, lease: Claim, stop: Stop
    ) -> AsyncIterator[None]:
        self.stop = stop
        yield

    def take(self, count: int, on_death: Callable[[], None]) -> None:
        assert self.stop is not None
        self.seconds_left = self.stop.seconds_left

    async def work(self, plan: Plan, taken: frozenset[str], outcome: GroupOutcome) -> None:
        self._on_work()

    def halt(self, code: int) -> None:
        self.halts.append(code)


async def test_the_deadline_of_workers_is_that_of_the_run() -> None:
    """Which has begun earlier than they."""
    now = 0.0
    store = MemoryStore(filled())

    async def before(request: Request) -> None:
        nonlocal now
        now = 30.0

    store.before = before
    crew = Crew()
    await Run(store, settings(deadline=100), clock=lambda: now, workers=crew).coalesce()  # type: ignore[arg-type]
    assert crew.seconds_left == 70


async def test_a_signal_reaches_the_workers() -> None:
    crew = Crew(lambda: run.interrupt(ExitCode.INTERRUPTED))
    run = Run(MemoryStore(filled(2)), settings(), workers=crew)  # type: ignore[arg-type]
    report = await run.coalesce()
    assert report.exit_code == ExitCode.INTERRUPTED
    assert set(crew.halts) == {ExitCode.INTERRUPTED}
