"""What a run's processes owe each other, and what a run owes the next one."""

import asyncio
import pickle
import time
from types import SimpleNamespace

import pytest

from coalesce import errors
from coalesce.errors import LeaseLost
from coalesce.exits import ExitCode
from coalesce.model import Batch, Kept, Source, Why
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.usage import ProcessUsage
from coalesce.run import worker_process, workers
from coalesce.run.division import most_processes
from coalesce.run.messages import Assignment, Reply, TaskEnd, send
from coalesce.stop import RunLimits, Stop
from coalesce.storage.memory import MemoryStore
from coalesce.storage.memory.store import Request
from support.buckets import filled
from support.runs import NoLease, new_run
from support.settings import settings

MIB = 1024**2


@pytest.mark.parametrize(
    ("concurrency", "processes", "each"), [(8, 2, 4), (9, 2, 5), (1, 4, 1), (8, 1, 8)]
)
async def test_processes_share_the_capacity_of_the_run(
    concurrency: int, processes: int, each: int
) -> None:
    assignment = Assignment(None, concurrency, 128 * MIB, processes)  # type: ignore[arg-type]
    session = assignment.session(MemoryStore(filled()), NoLease())
    assert session.capacity.memory.size == 128 * MIB // processes
    assert session.capacity.reads.level.limit == each


@pytest.mark.parametrize(
    ("memory", "most"), [(32 * MIB, 1), (64 * MIB - 1, 1), (64 * MIB, 2), (65 * MIB, 2)]
)
def test_there_are_no_more_processes_than_the_memory_is_enough_for(memory: int, most: int) -> None:
    assert most_processes(8, memory) == most


def test_a_worker_stops_before_its_next_step_once_the_lease_is_lost() -> None:
    lease = worker_process._SharedLease(SimpleNamespace(value=time.monotonic() + 1000))
    lease.check()
    lost = worker_process._SharedLease(SimpleNamespace(value=0.0))
    with pytest.raises(LeaseLost):
        lost.check()


def test_what_a_worker_left_is_in_the_report() -> None:
    """As it was sent: pickled."""
    there = GroupOutcome(lambda _: None)
    there.kept = [Kept("k", Why.CORRUPT)]
    there.failures = [errors.ContentError("k: spoilt", key="k")]
    there.unsettled = there.stale = True
    there.unlike = "k: content-type is text/odd"
    end = pickle.loads(pickle.dumps(TaskEnd.of(there, None)))
    here = GroupOutcome(lambda _: None)
    end.add_to(here)
    assert here.kept == there.kept
    assert [(f.key, f.message) for f in here.failures] == [("k", "k: spoilt")]
    assert (here.unsettled, here.stale, here.unlike) == (True, True, there.unlike)


class Pipe:
    """Stands for a writer: what was sent can be read."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()

    def write(self, data: bytes) -> None:
        self.reader.feed_data(data)


async def heard(*replies: Reply) -> NoLease:
    """The lease of a run after a worker has said this and has died."""
    pipe, lease = Pipe(), NoLease()
    for reply in replies:
        send(pipe, reply)  # type: ignore[arg-type]
    pipe.reader.feed_eof()
    handle = workers._WorkerHandle((), [0, 0], reader=pipe.reader)  # type: ignore[arg-type]
    await handle.listen(lease, Stop(RunLimits(), lambda: 0.0), lambda: None)
    assert handle.lost
    return lease


async def test_a_run_leaves_its_lease_for_a_worker_that_died() -> None:
    """Nobody else knows of the uploads that it had begun."""
    assert (await heard()).untidy


class Alive(Pipe):
    """A worker that goes on living."""


@pytest.mark.parametrize("untidy", [False, True])
async def test_a_run_leaves_its_lease_for_what_a_worker_may_leave(untidy: bool) -> None:
    pipe, lease = Alive(), NoLease()
    handle = workers._WorkerHandle((), [0, 0], reader=pipe.reader)  # type: ignore[arg-type]
    end = TaskEnd((), (), False, False, None)
    send(pipe, Reply(1, ProcessUsage(), untidy, 0, end))  # type: ignore[arg-type]
    listening = asyncio.create_task(
        handle.listen(lease, Stop(RunLimits(), lambda: 0.0), lambda: None)
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert lease.untidy is untidy
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_what_comes_of_a_task_that_was_given_up_changes_nothing() -> None:
    """The worker goes on, and so does what it says of its other tasks."""
    pipe, lease = Alive(), NoLease()
    handle = workers._WorkerHandle((), [0, 0], reader=pipe.reader)  # type: ignore[arg-type]
    ended = asyncio.get_running_loop().create_future()
    ended.cancel()
    handle.tasks[2] = (lambda _: None, ended)
    end = TaskEnd((), (), False, False, None)
    for number, untidy in ((1, False), (2, False), (3, True)):
        send(pipe, Reply(number, ProcessUsage(), untidy, 0, end))  # type: ignore[arg-type]
    listening = asyncio.create_task(
        handle.listen(lease, Stop(RunLimits(), lambda: 0.0), lambda: None)
    )
    for _ in range(10):
        await asyncio.sleep(0)
    assert (lease.untidy, handle.lost) == (True, False)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    "end", [asyncio.IncompleteReadError(b"", 8), ConnectionResetError("reset by peer")]
)
async def test_a_worker_does_nothing_more_once_its_run_is_gone(
    end: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what an exception would start: it ends as if it had been killed."""

    class Ended(BaseException):
        pass

    def exit_at_once(code: int) -> None:
        raise Ended

    monkeypatch.setattr(worker_process.os, "_exit", exit_at_once)
    reader = asyncio.StreamReader()
    reader.set_exception(end)
    with pytest.raises(Ended):
        await worker_process._receive_or_exit(reader)


class Stubborn:
    """A process that does not end by itself."""

    def __init__(self) -> None:
        self.killed = False
        self.joined = 0

    def join(self, timeout: float | None = None) -> None:
        self.joined += 1
        assert self.killed or timeout is not None, "this would wait for ever"

    def is_alive(self) -> bool:
        return not self.killed

    def kill(self) -> None:
        self.killed = True


def test_a_worker_that_does_not_end_is_killed() -> None:
    process = Stubborn()
    workers._WorkerHandle((), [0, 0], process).end()  # type: ignore[arg-type]
    assert process.killed


async def test_an_upload_whose_creation_went_unanswered_is_swept() -> None:
    """Nobody knows its id: the run keeps its lease, so that it is found."""
    bucket = filled(1, 3)
    store = MemoryStore(bucket)

    async def lose(request: Request) -> None:
        if request.operation == "CreateMultipartUpload" and request.key.startswith("data/"):
            raise errors.Unavailable("no answer")

    store.after = lose
    assert (await new_run(store, settings()).coalesce()).exit_code == ExitCode.TRANSIENT
    swept_at_once = not bucket.uploads
    bucket.now += 1000
    assert (await new_run(MemoryStore(bucket), settings()).coalesce()).exit_code == 0
    assert bucket.uploads == {}
    assert swept_at_once, "a run sweeps up after itself at its end"


def batch(size: int, sources: int = 1) -> Batch:
    source = Source("d/t_0_0-0.jsonl.gz", 1, '"e"', 0.0, "STANDARD", 0, 0)
    return Batch("d/t_0_0_0.jsonl.gz", [source] * sources, size, "digest")


@pytest.mark.parametrize(("size", "granted"), [(9, True), (10, True), (11, False)])
def test_bytes_are_joined_up_to_the_limit(size: int, granted: bool) -> None:
    stop = Stop(RunLimits(bytes=10), lambda: 0.0)
    assert stop.try_start_output(batch(size)) is granted
    assert stop.code == (0 if granted else ExitCode.LIMIT)


@pytest.mark.parametrize(("count", "granted"), [(9, True), (10, True), (11, False)])
def test_sources_are_joined_up_to_the_limit(count: int, granted: bool) -> None:
    stop = Stop(RunLimits(sources=10), lambda: 0.0)
    assert stop.try_start_output(batch(1, count)) is granted


def test_the_first_reason_to_stop_is_the_exit_code() -> None:
    stop = Stop(RunLimits(), lambda: 0.0)
    stop.request(ExitCode.LIMIT)
    stop.request(ExitCode.TERMINATED)
    assert stop.code == ExitCode.LIMIT


def test_work_that_was_granted_does_not_go_on_after_the_deadline() -> None:
    now = [0.0]
    stop = Stop(RunLimits(deadline=5), lambda: now[0])
    assert stop.try_start_group()
    now[0] = 5.0
    assert stop.stopping
    assert not stop.try_continue()
    assert stop.code == ExitCode.LIMIT
