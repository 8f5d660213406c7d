"""The worker processes of a run, as the run sees them.

They transfer, commit and delete; everything else stays with the process that started the run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from coalesce.errors import CoalesceError
from coalesce.model import Plan
from coalesce.protocol.lease import Claim, Expiry
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.usage import ProcessUsage, usable_cpus
from coalesce.run import worker_process
from coalesce.run.messages import Assignment, GroupTask, Halt, Reply, TaskEnd, receive, send
from coalesce.run.worker_process import OpenStore
from coalesce.storage.base import ObjectStore, Usage
from coalesce.transfer.limits import Capacity

# With less memory than this, a process could not hold two parts and a read beside them.
_MIN_MEMORY_BYTES = 32 * 1024**2

# How long a worker may take to notice that its run is over.
_EXIT_SECONDS = 5.0


def processes_for(wanted: int, memory: int) -> int:
    """Returns how many processes a run gets: `wanted`, or one for each CPU if that is 0.

    No more than its `memory`, in bytes, is enough for; at least 1.
    """
    return max(1, min(wanted or usable_cpus(), memory // _MIN_MEMORY_BYTES))


@dataclass(slots=True)
class _WorkerHandle:
    """One worker process.

    Attributes:
        lost: Whether nothing more can come from it.
        tasks: What it is working on, by number: the outcome, and the future that ends with it.
        busy: How many sources its tasks have.
        in_progress: How many outputs it transfers, and their bytes.
    """

    process: BaseProcess
    socket: socket.socket
    in_progress: Sequence[int]
    lost: bool = False
    tasks: dict[int, tuple[GroupOutcome, asyncio.Future[None]]] = field(default_factory=dict)
    usage: ProcessUsage = field(default_factory=ProcessUsage)
    busy: int = 0
    writer: asyncio.StreamWriter | None = None

    async def listen(self, reader: asyncio.StreamReader, lease: Claim) -> None:
        """Takes in replies for as long as the process lives; then fails the tasks it still had."""
        try:
            while True:
                reply: Reply = await receive(reader)
                if reply.untidy:
                    lease.mark_untidy()
                self.take_in(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            lease.mark_untidy()
        finally:
            self.lost = True
            for _, ended in self.tasks.values():
                if not ended.done():
                    ended.set_exception(_WorkerDied())

    def take_in(self, reply: Reply) -> None:
        """Adds a reply to the outcome of its task, and ends the task if that is what it says."""
        self.usage = reply.usage
        if reply.number not in self.tasks:
            return
        outcome, ended = self.tasks[reply.number]
        if not isinstance(reply.news, TaskEnd):
            outcome.add(reply.news)
            return
        reply.news.add_to(outcome)
        if ended.done():
            return
        if reply.news.fatal is None:
            ended.set_result(None)
        else:
            ended.set_exception(reply.news.fatal)

    def end(self) -> None:
        """Waits until the process is gone: it exits with the connection, or else is killed."""
        self.socket.close()
        self.process.join(_EXIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Workers:
    """The worker processes of a run, as a block.

    They are started before there is an event loop or a thread, which a fork would copy half of;
    none outlives the block.
    """

    def __init__(self, count: int, open_store: OpenStore) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.expiry: Expiry = context.Value("d", 0.0, lock=False)
        self._tasks = 0
        pairs = [socket.socketpair() for _ in range(count)]
        self._workers = [
            self._start(context, our_end, their_end, pairs, open_store)
            for our_end, their_end in pairs
        ]
        for _, their_end in pairs:
            their_end.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def _start(
        self,
        context: Any,
        our_end: socket.socket,
        their_end: socket.socket,
        pairs: Sequence[tuple[socket.socket, socket.socket]],
        open_store: OpenStore,
    ) -> _WorkerHandle:
        in_progress = context.Array("q", 2, lock=False)
        forks = context.get_start_method() == "fork"
        copied_ends = [end for pair in pairs for end in pair if forks and end is not their_end]
        process: BaseProcess = context.Process(
            target=worker_process.main,
            args=(their_end, copied_ends, open_store, self.expiry, in_progress, len(pairs)),
            daemon=True,
        )
        process.start()
        return _WorkerHandle(process, our_end, in_progress)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._workers)

    @property
    def outputs_in_progress(self) -> tuple[int, int]:
        """How many outputs the workers would still finish if they stopped: (outputs, bytes)."""
        counts = [worker.in_progress for worker in self._workers if not worker.lost]
        return sum(outputs for outputs, _ in counts), sum(size for _, size in counts)

    @property
    def usage(self) -> ProcessUsage:
        """What all workers have used, as far as they have said."""
        total = ProcessUsage()
        for worker in self._workers:
            total.add(worker.usage)
        return total

    @asynccontextmanager
    async def assigned(self, assignment: Assignment, lease: Claim) -> AsyncIterator[None]:
        """Sends the assignment, and takes in replies until the block ends; then ends the workers.

        The run's `lease` is marked if there may be uploads that no plan record names.
        """
        listeners = []
        for worker in self._workers:
            reader, worker.writer = await asyncio.open_unix_connection(sock=worker.socket)
            send(worker.writer, assignment)
            listeners.append(asyncio.create_task(worker.listen(reader, lease)))
        try:
            yield
        finally:
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            for worker in self._workers:
                if worker.writer is not None:
                    worker.writer.close()
            await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in self._workers))

    async def work(self, plan: Plan, taken: frozenset[str], outcome: GroupOutcome) -> None:
        """Hands a plan to the worker that has the fewest sources, and waits for its end.

        `taken` are the keys of the group's outputs. A worker that dies is a failure of the group.

        Raises GroupOwned, or what ends the whole run: LeaseLost, ConfigurationError.
        """
        worker = min((w for w in self._workers if not w.lost), key=lambda w: w.busy, default=None)
        if worker is None or worker.writer is None:
            outcome.failures.append(_worker_died(plan))
            return
        self._tasks += 1
        number, ended = self._tasks, asyncio.get_running_loop().create_future()
        sources = sum(len(batch.sources) for batch in plan.batches)
        worker.tasks[number] = (outcome, ended)
        worker.busy += sources
        try:
            with suppress(ConnectionError):  # the listener notices too, and fails the task
                send(worker.writer, GroupTask(number, plan, taken))
                await worker.writer.drain()
            await ended
        except _WorkerDied:
            outcome.failures.append(_worker_died(plan))
            outcome.unsettled = True
        finally:
            worker.busy -= sources
            worker.tasks.pop(number, None)

    def halt(self, code: int) -> None:
        """Tells the workers to start nothing new; `code` is the exit code of the reason."""
        for worker in self._workers:
            if worker.writer is not None:
                with suppress(ConnectionError):
                    send(worker.writer, Halt(code))


def usage_of_run(
    store: ObjectStore, capacity: Capacity | None, workers: Workers | None
) -> ProcessUsage:
    """Returns what this process and the workers have used so far.

    `store` is this process's; so is `capacity`, None if it transfers nothing.
    """
    requests = Usage()  # a copy: what the workers have used is added to it
    requests.add(store.usage)
    usage = ProcessUsage.of_this_process(requests, capacity)
    if workers is not None:
        usage.add(workers.usage)
    return usage


class _WorkerDied(Exception):
    """The process is gone, and its tasks with it."""


def _worker_died(plan: Plan) -> CoalesceError:
    return CoalesceError(
        f"{plan.group}: its worker process died",
        key=plan.group.prefix,
        code="WorkerDied",
        hint=(
            "No record is lost: the next run finishes what was started. "
            "Did the container run out of memory?"
        ),
    )
