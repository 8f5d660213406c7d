"""Groups worked off in other processes: as many as there are CPUs.

Everything else stays with the process that began the run.

A worker is told once what it works under, then gets one plan after another; it tells of every
output as it is committed, and at the end what became of the group. It has its own connections to
the bucket, and no lease of its own: how long the run's lease holds stands in memory that all of
them see. A worker that loses its run ends at once, as if it had been killed with it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from coalesce.errors import CoalesceError, LeaseLost
from coalesce.model import CommittedOutput, Kept, Plan
from coalesce.protocol.batch import work_off
from coalesce.protocol.lease import Claim, Expiry
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.session import GroupRules, Session
from coalesce.report.usage import Spent, usable_cpus
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import ObjectStore
from coalesce.transfer.limits import Capacity

_LENGTH = struct.Struct("!Q")

# Below this a process could not hold two parts and a read beside them.
_LEAST_MEMORY = 32 * 1024**2

# How long a worker may take to notice that its run is over.
_PATIENCE_SECONDS = 5.0


def processes_for(wanted: int, memory: int) -> int:
    """How many processes a run gets that wants so many, 0 for all CPUs: no more than its memory is
    enough for.
    """
    return max(1, min(wanted or usable_cpus(), memory // _LEAST_MEMORY))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What all groups of a run are worked off under, in whichever process.

    `concurrency` and `memory` are for all processes together.

    `deadline` is in seconds from now on, None for no end.
    """

    rules: GroupRules
    concurrency: int
    memory: int
    deadline: float | None = None

    def session(self, store: ObjectStore, lease: Claim, processes: int = 1) -> Session:
        """The session of one of so many processes."""
        capacity = Capacity.of(
            -(-self.concurrency // processes),
            self.memory // processes,
            lambda: store.usage.throttled,
        )
        return Session(store, self.rules, lease, capacity)


@dataclass(frozen=True, slots=True)
class _Job:
    """One group to be worked off; `taken` are the names of its outputs."""

    number: int
    plan: Plan
    taken: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Halt:
    """Take nothing new: the exit code says why."""

    code: int


@dataclass(frozen=True, slots=True)
class _Word:
    """What a worker tells of one job: an output, or the end of it. `fatal` ends the whole run."""

    number: int
    spent: Spent
    untidy: bool
    output: CommittedOutput | None = None
    ended: bool = False
    kept: tuple[Kept, ...] = ()
    failures: tuple[CoalesceError, ...] = ()
    unsettled: bool = False
    fatal: CoalesceError | None = None


class OpenStore(Protocol):
    """Opens the bucket in a worker: connections cannot be shared."""

    def __call__(self) -> AbstractAsyncContextManager[ObjectStore]:
        """A block with the bucket."""
        ...


@dataclass(slots=True)
class _Worker:
    """One process as its run sees it. It is `lost` once nothing more can come from it."""

    process: BaseProcess
    socket: socket.socket
    lost: bool = False
    jobs: dict[int, tuple[GroupOutcome, asyncio.Future[None]]] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    busy: int = 0  # sources in its hands
    writer: asyncio.StreamWriter | None = None

    def end(self) -> None:
        """Sees to it that the process is gone: without its run it ends by itself, or else is
        killed.
        """
        self.socket.close()
        self.process.join(_PATIENCE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Workers:
    """The worker processes of a run, as a block.

    They are started before there is an event loop or a thread, and none outlives the block.
    """

    def __init__(self, count: int, open_store: OpenStore) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.expiry: Expiry = context.Value("d", 0.0, lock=False)
        self._numbers = 0
        pairs = [socket.socketpair() for _ in range(count)]
        self._workers = [
            _Worker(self._start(context, theirs, pairs, open_store, count), ours)
            for ours, theirs in pairs
        ]
        for _, theirs in pairs:
            theirs.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def _start(
        self,
        context: Any,
        theirs: socket.socket,
        pairs: Sequence[tuple[socket.socket, socket.socket]],
        open_store: OpenStore,
        count: int,
    ) -> BaseProcess:
        others = (
            [end for pair in pairs for end in pair if end is not theirs]
            if context.get_start_method() == "fork"
            else []
        )
        process: BaseProcess = context.Process(
            target=_main, args=(theirs, others, open_store, self.expiry, count), daemon=True
        )
        process.start()
        return process

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._workers)

    @asynccontextmanager
    async def working(
        self, assignment: Assignment, mark_untidy: Callable[[], None]
    ) -> AsyncIterator[Workers]:
        """Gives the assignment, and takes in what is told until the block ends.

        `mark_untidy` is called for uploads that no record may name.
        """
        listeners = []
        for worker in self._workers:
            reader, worker.writer = await asyncio.open_unix_connection(sock=worker.socket)
            _send(worker.writer, assignment)
            listeners.append(asyncio.create_task(_listen(worker, reader, mark_untidy)))
        try:
            yield self
        finally:
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            for worker in self._workers:
                if worker.writer is not None:
                    worker.writer.close()
            await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in self._workers))

    async def work(self, plan: Plan, taken: frozenset[str], outcome: GroupOutcome) -> None:
        """Has a plan worked off by the worker that has the least to do.

        Raises what ends the whole run, or GroupOwned.
        """
        worker = min((w for w in self._workers if not w.lost), key=lambda w: w.busy, default=None)
        if worker is None or worker.writer is None:
            outcome.failures.append(_died(plan))
            return
        self._numbers += 1
        number, ended = self._numbers, asyncio.get_running_loop().create_future()
        sources = sum(len(batch.sources) for batch in plan.batches)
        worker.jobs[number] = (outcome, ended)
        worker.busy += sources
        try:
            with suppress(ConnectionError):  # the listener knows
                _send(worker.writer, _Job(number, plan, taken))
                await worker.writer.drain()
            await ended
        except _WorkerDied:
            outcome.failures.append(_died(plan))
            outcome.unsettled = True
        finally:
            worker.busy -= sources
            worker.jobs.pop(number, None)

    def halt(self, code: int) -> None:
        """Passes a signal on, as the exit code that it means."""
        for worker in self._workers:
            if worker.writer is not None:
                with suppress(ConnectionError):
                    _send(worker.writer, _Halt(code))

    @property
    def spent(self) -> Spent:
        """What all workers have spent, as far as they have told; each at its own peak of memory."""
        total = Spent()
        for worker in self._workers:
            total.add(worker.spent)
        return total


async def _listen(
    worker: _Worker, reader: asyncio.StreamReader, mark_untidy: Callable[[], None]
) -> None:
    """Takes in what a worker tells, to its end. Whatever that is, nobody goes on waiting for it."""
    try:
        while True:
            word: _Word = await _receive(reader)
            if word.untidy or word.spent.usage.orphans:
                mark_untidy()
            _take(worker, word)
    except (asyncio.IncompleteReadError, ConnectionError):
        mark_untidy()
    finally:
        worker.lost = True
        for _, ended in worker.jobs.values():
            if not ended.done():
                ended.set_exception(_WorkerDied())


def _take(worker: _Worker, word: _Word) -> None:
    worker.spent = word.spent
    if word.number not in worker.jobs:
        return
    outcome, ended = worker.jobs[word.number]
    if word.output is not None:
        outcome.add(word.output)
    if not word.ended:
        return
    outcome.kept += word.kept
    outcome.failures += word.failures
    outcome.unsettled |= word.unsettled
    if ended.done():
        return
    if word.fatal is None:
        ended.set_result(None)
    else:
        ended.set_exception(word.fatal)


class _WorkerDied(Exception):
    """The other end is gone."""


def _died(plan: Plan) -> CoalesceError:
    hint = "Its sources are all there, joined or not; the next run settles what was begun. Was the container out of memory?"
    return CoalesceError(
        f"{plan.group}: the process that worked on it has died",
        key=plan.group.prefix,
        code="WorkerDied",
        hint=hint,
    )


class _SharedLease:
    """The run's lease as a worker sees it."""

    def __init__(self, expiry: Expiry) -> None:
        self._expiry = expiry
        self.untidy = False

    def check(self) -> None:
        if time.monotonic() >= self._expiry.value:
            raise LeaseLost("the run's lease expired or was taken away")

    def mark_untidy(self) -> None:
        self.untidy = True


def _main(
    ours: socket.socket,
    others: Sequence[socket.socket],
    open_store: OpenStore,
    expiry: Expiry,
    processes: int,
) -> None:
    """A worker's life. Signals are for the run, which passes them on in its own way."""
    for end in others:
        end.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_serve(ours, open_store, expiry, processes))


async def _serve(
    ours: socket.socket, open_store: OpenStore, expiry: Expiry, processes: int
) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    assignment: Assignment = await _heard(reader)
    lease = _SharedLease(expiry)
    stop = Stop(RunLimits(deadline=assignment.deadline), time.monotonic)
    jobs: set[asyncio.Task[None]] = set()
    async with open_store() as store:
        session = assignment.session(store, lease, processes)

        def say(number: int, **more: Any) -> None:
            _send(
                writer,
                _Word(
                    number,
                    Spent.by_this_process(store.usage, session.capacity),
                    lease.untidy,
                    **more,
                ),
            )

        async def work(job: _Job) -> None:
            outcome = GroupOutcome(lambda output: say(job.number, output=output))
            fatal = None
            try:
                await work_off(session, job.plan, job.taken, stop, outcome)
            except CoalesceError as error:
                fatal = error
            say(
                job.number,
                ended=True,
                kept=tuple(outcome.kept),
                failures=tuple(outcome.failures),
                unsettled=outcome.unsettled,
                fatal=fatal,
            )

        while True:
            message = await _heard(reader)
            if isinstance(message, _Halt):
                stop.request(message.code)
                continue
            task = asyncio.create_task(work(message))
            jobs.add(task)
            task.add_done_callback(jobs.discard)


async def _heard(reader: asyncio.StreamReader) -> Any:
    """What the run says next.

    A run that is over, or dead, takes its workers along: nothing that is still under way may go on
    without it.
    """
    try:
        return await _receive(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        os._exit(0)


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(data)) + data)


async def _receive(reader: asyncio.StreamReader) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))
