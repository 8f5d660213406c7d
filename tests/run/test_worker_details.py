"""A worker process on a bucket in memory, which a fork has copied: what signals do to it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields
from types import SimpleNamespace
from typing import cast

import pytest

from coalesce.clock import boottime
from coalesce.errors import CoalesceError, LeaseLost, NoSuchUpload, Unavailable, WorkerDied
from coalesce.exits import ExitCode
from coalesce.model import Group, GroupId, Plan, TransferredBatch
from coalesce.naming.layouts import LAYOUTS, source_of
from coalesce.planning import batches as planning
from coalesce.planning.rules import Limits
from coalesce.protocol.batch import transfer_here
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.session import GroupRules
from coalesce.run import worker_process
from coalesce.run.messages import Assignment
from coalesce.run.pipeline import Run
from coalesce.run.worker_process import OpenStore
from coalesce.run.workers import Workers
from coalesce.stop import RunLimits, Stop
from coalesce.storage.attributes import NO_ATTRIBUTES
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryStore, Request
from coalesce.transfer.stream import Misread, SourcesUnusable
from support.buckets import filled
from support.runs import NoLease
from support.settings import settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a fork")

LAYOUT = LAYOUTS["corporate"]
GUARANTEES = {f.name: True for f in fields(Capabilities) if f.name != "checksum"}
KEEPS_ALL = Capabilities(**GUARANTEES, checksum=Checksum.CRC64NVME)  # type: ignore[arg-type]
RULES = GroupRules("_coalesce/", "r", "1", LAYOUT, Limits(min_age=0), KEEPS_ALL)
STOP = Stop(RunLimits(), boottime)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are as a terminal's: a background job of a shell ignores Ctrl-C from its start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@asynccontextmanager
async def opened() -> AsyncIterator[MemoryStore]:
    yield MemoryStore(filled(3, 3))


def plan(partition: int) -> Plan:
    page = filled(3, 3).list_page(f"data/t_{partition}_", "", "", 1000)
    parsed = ((LAYOUT.parse(entry.key), entry) for entry in page.objects)
    sources = tuple(source_of(named, entry) for named, entry in parsed if named is not None)
    group = Group(GroupId("data/", "t", partition), sources, (), page.date)
    return planning.plan(group, LAYOUT, Limits(min_age=0))


@asynccontextmanager
async def deadly() -> AsyncIterator[MemoryStore]:
    """A bucket that a process does not survive writing to."""
    async with opened() as store:

        async def before(request: Request) -> None:
            if request.operation == "UploadPart":
                os.kill(os.getpid(), signal.SIGKILL)

        store.before = before
        yield store


def with_worker(
    do: Callable[[Workers], Awaitable[None]],
    open_store: OpenStore = opened,
    stop: Stop | None = None,
) -> NoLease:
    """Does something with one worker process that has its assignment; the run's lease, then."""
    lease = NoLease()
    stop = stop or Stop(RunLimits(), boottime)
    with Workers(1, open_store) as workers:
        workers.expiry.value = boottime() + 1000

        async def run() -> None:
            async with workers.assigned(Assignment(RULES, 1, 2**25), lease, stop):
                workers.take(1, lambda: None)
                await do(workers)

        asyncio.run(run())
    return lease


async def outcome_of(workers: Workers, partition: int) -> GroupOutcome:
    outcome = GroupOutcome(lambda _: None)
    await workers.work(plan(partition), frozenset(), outcome)
    return outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_terminal_does_not_end_a_worker(number: signal.Signals) -> None:
    """The run says when it is to stop, between two outputs."""

    async def interrupt(workers: Workers) -> None:
        assert (await outcome_of(workers, 0)).outputs == 1
        pid = workers._workers[0].process.pid
        assert pid is not None
        os.kill(pid, number)
        after = await outcome_of(workers, 1)
        assert (after.outputs, after.failures) == (1, [])

    with_worker(interrupt)


def test_a_worker_that_is_told_to_stop_begins_nothing_more() -> None:
    async def halt(workers: Workers) -> None:
        assert (await outcome_of(workers, 0)).outputs == 1
        workers.halt(ExitCode.TERMINATED)
        after = await outcome_of(workers, 1)
        assert (after.outputs, after.failures) == (0, [])

    with_worker(halt)


def test_the_run_sees_how_many_outputs_its_workers_transfer_and_their_bytes() -> None:
    """It says so when it is told to stop."""
    groups = [plan(partition) for partition in (0, 1)]
    ours, theirs = os.pipe()

    @asynccontextmanager
    async def stuck() -> AsyncIterator[MemoryStore]:
        """A bucket to which no part gets through."""
        async with opened() as store:

            async def before(request: Request) -> None:
                if request.operation == "UploadPart":
                    os.write(theirs, b".")
                    await asyncio.Event().wait()

            store.before = before
            yield store

    async def look(workers: Workers) -> None:
        assert workers.outputs_in_progress == (0, 0)
        tasks = [asyncio.create_task(outcome_of(workers, partition)) for partition in (0, 1)]
        for _ in tasks:
            await asyncio.to_thread(os.read, ours, 1)
        size = sum(batch.size for group in groups for batch in group.batches)
        assert workers.outputs_in_progress == (2, size)
        process = workers._workers[0].process
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*tasks)
        assert workers.outputs_in_progress == (0, 0)

    with_worker(look, stuck)
    os.close(ours)
    os.close(theirs)


def test_a_worker_begins_nothing_once_the_lease_of_its_run_has_ended() -> None:
    async def outlive(workers: Workers) -> None:
        workers.expiry.value = 0.0
        with pytest.raises(LeaseLost):
            await outcome_of(workers, 0)

    with_worker(outlive)


def test_a_worker_begins_nothing_after_the_deadline_of_its_run_which_then_says_why() -> None:
    now = [0.0]
    stop = Stop(RunLimits(deadline=5), lambda: now[0])
    now[0] = 6

    async def be_late(workers: Workers) -> None:
        after = await outcome_of(workers, 1)
        assert (after.outputs, after.failures) == (0, [])

    with_worker(be_late, stop=stop)
    assert stop.code == ExitCode.LIMIT


def test_what_a_worker_that_died_had_begun_is_left_for_a_run_that_recovers_and_sweeps() -> None:
    """Its group's record stands, and its run's lease says that uploads may be there too."""

    async def die(workers: Workers) -> None:
        outcome = await outcome_of(workers, 0)
        assert [failure.code for failure in outcome.failures] == ["WorkerDied"]
        assert outcome.unsettled

    assert with_worker(die, deadly).untidy


def test_an_upload_that_a_worker_may_have_left_open_is_left_for_a_run_that_sweeps() -> None:
    """Its id never came: only the run's lease, which stays, tells of it."""

    @asynccontextmanager
    async def answerless() -> AsyncIterator[MemoryStore]:
        async with opened() as store:

            async def after(request: Request) -> None:
                if request.operation == "CreateMultipartUpload":
                    raise Unavailable("no answer")

            store.after = after
            yield store

    async def lose(workers: Workers) -> None:
        (failure,) = (await outcome_of(workers, 0)).failures
        assert isinstance(failure, Unavailable)

    async def work(workers: Workers) -> None:
        assert (await outcome_of(workers, 0)).outputs == 1

    assert with_worker(lose, answerless).untidy
    assert not with_worker(work).untidy


def test_a_run_that_is_to_end_tells_of_the_outputs_of_its_workers() -> None:
    workers = SimpleNamespace(outputs_in_progress=(2, 3_000_000))
    run = Run(MemoryStore(filled(0)), settings(), workers=cast(Workers, workers))
    assert run.in_progress == "finishing 2 outputs (3 MB)"


# --- batches of a group that is shared


async def transferred(workers: Workers, partition: int) -> TransferredBatch | None:
    (batch,) = plan(partition).batches
    return await workers.transfer(batch, "no-such-upload", NO_ATTRIBUTES)


def test_what_a_worker_cannot_send_is_told_as_what_it_is() -> None:
    async def send(workers: Workers) -> None:
        with pytest.raises(NoSuchUpload) as raised:
            await transferred(workers, 0)
        assert raised.value.key.startswith("data/t_0_")

    with_worker(send)


@pytest.mark.parametrize("failure", [Misread("a source was misread"), SourcesUnusable(())])
def test_what_has_a_batch_sent_again_is_told_by_its_worker(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(worker_process, "transfer_here", fail)  # in the fork too

    async def send(workers: Workers) -> None:
        with pytest.raises(type(failure)):
            await transferred(workers, 0)

    with_worker(send)


def test_an_error_that_nobody_expects_in_a_worker_fails_the_batch() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[MemoryStore]:
        async with opened() as store:

            async def before(request: Request) -> None:
                raise ZeroDivisionError("oh")

            store.before = before
            yield store

    async def send(workers: Workers) -> None:
        with pytest.raises(CoalesceError, match="ZeroDivisionError: oh") as raised:
            await transferred(workers, 0)
        assert raised.value.code == "Defect"

    with_worker(send, broken)


def test_a_worker_that_is_told_to_stop_sends_no_further_batch() -> None:
    async def halt(workers: Workers) -> None:
        workers.halt(ExitCode.TERMINATED)
        assert await transferred(workers, 0) is None

    with_worker(halt)


def test_a_batch_whose_worker_dies_is_told_as_lost() -> None:
    async def die(workers: Workers) -> None:
        with pytest.raises(WorkerDied):
            await transferred(workers, 0)
        with pytest.raises(WorkerDied):
            await transferred(workers, 1)
        assert workers.alive == 0

    assert with_worker(die, deadly).untidy


def test_workers_that_are_not_needed_end_at_once() -> None:
    async def run(workers: Workers) -> None:
        async with workers.assigned(Assignment(RULES, 1, 2**25), NoLease(), STOP):
            workers.take(1, lambda: None)
            for worker in workers._workers[1:]:
                assert worker.process is not None
                await asyncio.to_thread(worker.process.join)
            outcome = GroupOutcome(lambda _: None)
            await workers.work(plan(0), frozenset(), outcome)
            assert (outcome.outputs, workers.taken) == (1, 1)

    with Workers(3, opened) as workers:
        workers.expiry.value = boottime() + 1000
        asyncio.run(run(workers))


def with_two_workers(
    do: Callable[[Workers], Awaitable[None]], open_store: OpenStore = opened
) -> None:
    stop = Stop(RunLimits(), boottime)
    with Workers(2, open_store) as workers:
        workers.expiry.value = boottime() + 1000

        async def run() -> None:
            async with workers.assigned(Assignment(RULES, 2, 2**26), NoLease(), stop):
                workers.take(2, lambda: None)
                await do(workers)

        asyncio.run(run())


def test_of_a_task_that_has_ended_a_run_holds_nothing_but_what_it_used() -> None:
    """Millions of them would fill its memory, and the worker would seem to be busy for ever."""

    async def work(workers: Workers) -> None:
        assert workers.usage.store.requests.total() == 0
        assert (await outcome_of(workers, 0)).outputs == 1
        (worker,) = workers._workers
        assert (worker.busy, worker.tasks) == (0, {})
        assert workers.usage.store.requests["CompleteMultipartUpload"] == 1

    with_worker(work)


def test_a_group_goes_to_the_worker_that_has_least_to_do() -> None:
    async def work(workers: Workers) -> None:
        await asyncio.gather(outcome_of(workers, 0), outcome_of(workers, 1))
        used = [worker.usage.store.requests for worker in workers._workers]
        assert [requests["CompleteMultipartUpload"] for requests in used] == [1, 1]

    with_two_workers(work)


def test_every_worker_is_told_to_stop() -> None:
    async def halt(workers: Workers) -> None:
        workers.halt(ExitCode.TERMINATED)
        for after in await asyncio.gather(outcome_of(workers, 0), outcome_of(workers, 1)):
            assert (after.outputs, after.failures) == (0, [])

    with_two_workers(halt)


def test_each_worker_has_as_many_batches_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one; what is beyond that waits in the run."""
    monkeypatch.setattr("coalesce.run.workers._AHEAD", 1)
    monkeypatch.setattr("coalesce.run.workers._LARGE", 1)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    @asynccontextmanager
    async def stuck() -> AsyncIterator[MemoryStore]:
        async with opened() as store:

            async def before(request: Request) -> None:
                theirs.send(b".")
                await asyncio.Event().wait()

            store.before = before
            yield store

    async def send(workers: Workers) -> None:
        batches = [asyncio.create_task(transferred(workers, partition)) for partition in range(3)]
        for _ in workers._workers:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1), 10)
        assert [len(worker.tasks) for worker in workers._workers] == [1, 1]
        for batch in batches:
            batch.cancel()
        await asyncio.gather(*batches, return_exceptions=True)

    with_two_workers(send, stuck)
    ours.close()
    theirs.close()


async def test_a_batch_waits_until_there_is_memory_for_it() -> None:
    batches = [plan(partition).batches[0] for partition in (0, 1)]
    stop, store, asked = Stop(RunLimits(), boottime), MemoryStore(filled(3, 3)), set[str]()
    session = Assignment(RULES, 8, batches[0].size).session(store, NoLease())

    async def before(request: Request) -> None:
        asked.add(request.key)
        await asyncio.Event().wait()

    store.before = before
    sent = [
        asyncio.create_task(transfer_here(session, stop, batch, "upload", NO_ATTRIBUTES))
        for batch in batches
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    assert asked == {source.key for source in batches[0].sources}
    for task in sent:
        task.cancel()
    await asyncio.gather(*sent, return_exceptions=True)
