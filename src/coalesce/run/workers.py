"""The worker processes of a run, as the run sees them.

They transfer, commit and delete whole groups, and transfer batches of those that are shared;
everything else stays with the process that started the run.
"""

from __future__ import annotations

import asyncio
import mmap
import multiprocessing
import socket
import sys
from collections.abc import AsyncIterator, Callable, MutableSequence, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from typing import Any

from coalesce.errors import WorkerDied
from coalesce.model import Batch, CommittedOutput, Plan, TransferredBatch
from coalesce.protocol.lease import Claim, Expiry
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.usage import ProcessUsage
from coalesce.run import worker_process
from coalesce.run.messages import (
    Assignment,
    BatchEnd,
    BatchTask,
    GroupTask,
    Halt,
    Reply,
    TaskEnd,
    receive,
    send,
)
from coalesce.run.worker_process import OpenStore
from coalesce.stop import Stop
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import ObjectStore, Usage
from coalesce.transfer.limits import Budget, Capacity

# How long a worker may take to notice that its run is over.
_EXIT_SECONDS = 5.0

# Sources of batches that a worker has at once: of three large ones, so that one is read while the
# last parts of another are sent and the next is at hand.
_LARGE = 256
_AHEAD = 3 * _LARGE


class SharedExpiry:
    """When the run's lease ends, in memory that all its processes share."""

    def __init__(self, numbers: MutableSequence[float]) -> None:
        self._numbers = numbers

    @property
    def value(self) -> float:
        """By `boottime`."""
        return self._numbers[0]

    @value.setter
    def value(self, value: float) -> None:
        self._numbers[0] = value


@dataclass(slots=True)
class _WorkerHandle:
    """One worker process.

    Attributes:
        ends: Its sockets: ours, and its own.
        in_progress: How many outputs it transfers, and their bytes.
        process: None until it is started.
        lost: Whether nothing more can come from it.
        tasks: What it is working on, by number: what takes its outputs, and the future of its end.
        busy: How many sources its tasks have.
    """

    ends: tuple[socket.socket, socket.socket]
    in_progress: MutableSequence[int]
    process: BaseProcess | None = None
    lost: bool = False
    tasks: dict[int, tuple[Callable[[CommittedOutput], None], asyncio.Future[Any]]] = field(
        default_factory=dict
    )
    usage: ProcessUsage = field(default_factory=ProcessUsage)
    busy: int = 0
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Makes a connection of our socket."""
        self.reader, self.writer = await asyncio.open_unix_connection(sock=self.ends[0])

    def send(self, message: object) -> None:
        """Sends a message; it may still be on its way on return."""
        assert self.writer is not None
        send(self.writer, message)

    async def listen(self, lease: Claim, stop: Stop, on_death: Callable[[], None]) -> None:
        """Takes in replies for as long as the process lives; then fails the tasks it still had."""
        assert self.reader is not None
        try:
            while True:
                reply: Reply = await receive(self.reader)
                if reply.untidy:
                    lease.mark_untidy()
                stop.request(reply.stop_code)
                self.take_in(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            lease.mark_untidy()
            on_death()
        finally:
            self.lost = True
            for _, ended in self.tasks.values():
                if not ended.done():
                    ended.set_exception(_Died())

    def take_in(self, reply: Reply) -> None:
        """Hands on an output, or ends the task if that is what the reply says."""
        self.usage = reply.usage
        if reply.number not in self.tasks:
            return
        on_output, ended = self.tasks[reply.number]
        if isinstance(reply.news, CommittedOutput):
            on_output(reply.news)
        elif not ended.done():
            ended.set_result(reply.news)

    async def ask(
        self,
        task: GroupTask | BatchTask,
        sources: int,
        on_output: Callable[[CommittedOutput], None],
    ) -> Any:
        """Sends a task of so many sources, and waits for its end. Raises _Died."""
        assert self.writer is not None
        ended = asyncio.get_running_loop().create_future()
        self.tasks[task.number] = (on_output, ended)
        self.busy += sources
        try:
            with suppress(ConnectionError):  # the listener notices too, and fails the task
                self.send(task)
                await self.writer.drain()
            return await ended
        finally:
            self.busy -= sources
            self.tasks.pop(task.number, None)

    def dismiss(self) -> None:
        """Lets the process end, which it does with the connection."""
        self.lost = True
        if self.writer is not None:
            self.writer.close()

    def end(self) -> None:
        """Waits until the process is gone: it exits with the connection, or else is killed."""
        for end in self.ends:
            end.close()
        if self.process is None:
            return
        self.process.join(_EXIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Workers:
    """The worker processes of a run, as a block.

    As many as it may take are forked before there is an event loop or a thread, which a fork would
    copy half of: until it is known how many are needed, they wait, and the others are then ended.
    Where processes are not forked but start anew, they start when they are taken. None outlives
    the block.
    """

    def __init__(
        self,
        most: int,
        open_store: OpenStore,
        method: str = "fork" if sys.platform == "linux" else "spawn",
    ) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self._open_store = open_store
        self._forks = method == "fork"
        self._tasks = 0
        self.expiry: Expiry = SharedExpiry(self._share("d", 1))
        self._workers = [
            _WorkerHandle(socket.socketpair(), self._share("q", 2)) for _ in range(most)
        ]
        self._taken: list[_WorkerHandle] = []
        self._assignment: tuple[Assignment, Claim, Stop] | None = None
        self._listeners: list[asyncio.Task[None]] = []
        self._ahead = Budget(_AHEAD)
        if self._forks:
            self._start(self._workers)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def _share(self, kind: str, count: int) -> Any:
        """Numbers that all processes see. A fork shares an anonymous map; the array that others
        can be sent takes 20 ms to import.
        """
        if self._forks:
            shared: Any = memoryview(mmap.mmap(-1, 8 * count))
            return shared.cast(kind)
        return self._context.Array(kind, count, lock=False)

    def _start(self, workers: Sequence[_WorkerHandle]) -> None:
        ends = [end for worker in self._workers for end in worker.ends] if self._forks else []
        for worker in workers:
            own_end = worker.ends[1]
            worker.process = self._context.Process(
                target=worker_process.main,
                args=(
                    own_end,
                    [end for end in ends if end is not own_end],
                    self._open_store,
                    self.expiry,
                    worker.in_progress,
                ),
                daemon=True,
            )
            worker.process.start()
        for worker in workers:
            worker.ends[1].close()

    @property
    def most(self) -> int:
        """How many there may be."""
        return len(self._workers)

    @property
    def taken(self) -> int:
        """How many work for the run."""
        return len(self._taken)

    @property
    def alive(self) -> int:
        """How many of them still live."""
        return sum(not worker.lost for worker in self._taken)

    @property
    def outputs_in_progress(self) -> tuple[int, int]:
        """How many outputs the workers would still finish if they stopped: (outputs, bytes)."""
        counts = [worker.in_progress for worker in self._taken if not worker.lost]
        return sum(count[0] for count in counts), sum(count[1] for count in counts)

    @property
    def usage(self) -> ProcessUsage:
        """What all workers have used, as far as they have said."""
        total = ProcessUsage()
        for worker in self._taken:
            total.add(worker.usage)
        return total

    @asynccontextmanager
    async def assigned(
        self, assignment: Assignment, lease: Claim, stop: Stop
    ) -> AsyncIterator[None]:
        """For the length of a block, workers can be taken for the assignment; then all are ended.

        The run's `lease` is marked if there may be uploads that no plan record names; its `stop`
        hears why a worker stops.
        """
        self._assignment = (assignment, lease, stop)
        for worker in self._workers:
            await worker.connect()
        try:
            yield
        finally:
            for listener in self._listeners:
                listener.cancel()
            await asyncio.gather(*self._listeners, return_exceptions=True)
            for worker in self._workers:
                worker.dismiss()
            await asyncio.gather(*(asyncio.to_thread(worker.end) for worker in self._workers))

    def take(self, count: int, on_death: Callable[[], None]) -> None:
        """Takes so many workers, which share the capacity of the run; the others are ended.

        `on_death` is called for each that dies.
        """
        assert self._assignment is not None
        assignment, lease, stop = self._assignment
        self._taken, others = self._workers[:count], self._workers[count:]
        for worker in others:
            worker.dismiss()
        if not self._forks:
            self._start(self._taken)
        self._ahead = Budget(_AHEAD * count)
        for worker in self._taken:
            worker.send(replace(assignment, processes=count, deadline=stop.seconds_left))
            self._listeners.append(asyncio.create_task(worker.listen(lease, stop, on_death)))

    async def work(self, plan: Plan, taken: frozenset[str], outcome: GroupOutcome) -> None:
        """Hands a whole group to one worker, and waits for its end.

        `taken` are the keys of the group's outputs. A worker that dies is a failure of the group.

        Raises GroupOwned, or what ends the whole run: LeaseLost, ConfigurationError.
        """
        worker = self._least_busy()
        if worker is None:
            outcome.failures.append(_worker_died(plan.group.prefix))
            return
        sources = sum(len(batch.sources) for batch in plan.batches)
        try:
            end: TaskEnd = await worker.ask(
                GroupTask(self._next_number(), plan, taken), sources, outcome.add
            )
        except _Died:
            outcome.failures.append(_worker_died(plan.group.prefix))
            outcome.unsettled = True
            return
        end.add_to(outcome)
        if end.fatal is not None:
            raise end.fatal

    async def transfer(
        self, batch: Batch, upload_id: str, first: Attributes
    ) -> TransferredBatch | None:
        """Has a worker send the parts of a batch: see `Transfer`."""
        sources = len(batch.sources)
        async with self._ahead.hold(min(sources, _LARGE)):
            worker = self._least_busy()
            if worker is None:
                raise _worker_died(batch.output)
            task = BatchTask(self._next_number(), batch, upload_id, first)
            try:
                end: BatchEnd = await worker.ask(task, sources, lambda _: None)
            except _Died:
                raise _worker_died(batch.output) from None
        if end.error is not None:
            raise end.error
        return end.transferred

    def halt(self, code: int) -> None:
        """Tells the workers to start nothing new; `code` is the exit code of the reason."""
        for worker in self._taken:
            with suppress(ConnectionError):
                worker.send(Halt(code))

    def _least_busy(self) -> _WorkerHandle | None:
        alive = (worker for worker in self._taken if not worker.lost)
        return min(alive, key=lambda worker: worker.busy, default=None)

    def _next_number(self) -> int:
        self._tasks += 1
        return self._tasks


def usage_of_run(
    store: ObjectStore, capacity: Capacity | None, workers: Workers | None
) -> ProcessUsage:
    """Returns what this process and the workers have used so far.

    `store` and `capacity` are this process's; it transfers nothing if there are workers.
    """
    requests = Usage()  # a copy: what the workers have used is added to it
    requests.add(store.usage)
    transfers = workers is None or not workers.taken
    usage = ProcessUsage.of_this_process(requests, capacity if transfers else None)
    if workers is not None:
        usage.add(workers.usage)
    return usage


class _Died(Exception):
    """The process is gone, and its tasks with it."""


def _worker_died(key: str) -> WorkerDied:
    return WorkerDied(f"{key}: its worker process died", key=key)
