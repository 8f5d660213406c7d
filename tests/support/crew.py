"""The workers of a run over a bucket in memory: tasks of this process, since no other could share
the bucket. The run speaks to them as to real ones.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from typing_extensions import override

from coalesce.model import Batch, Plan, TransferredBatch
from coalesce.protocol.batch import transfer_here
from coalesce.protocol.lease import Claim
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import Session
from coalesce.report.usage import ProcessUsage
from coalesce.run import worker_process
from coalesce.run.messages import Assignment
from coalesce.run.workers import Workers, _WorkerHandle
from coalesce.stop import RunLimits, Stop
from coalesce.storage.attributes import Attributes
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.scenarios import Killed


class Crew(Workers):
    """Workers that a test can kill.

    `client` makes each worker's way to the bucket; whatever it asks for after its end has no
    effect. `dead` are those that were killed.
    """

    def __init__(
        self, count: int, bucket: MemoryBucket, client: Callable[..., MemoryStore] = MemoryStore
    ) -> None:
        super().__init__(count, self._never, method="spawn")
        self.stores = [client(bucket) for _ in range(count)]
        self.dead: set[int] = set()
        self._ended: set[int] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._writers: dict[int, asyncio.StreamWriter] = {}

    def kill(self, number: int) -> None:
        """Ends a worker from one moment to the next."""
        self.dead.add(number)
        self._ended.add(number)
        self._writers[number].close()

    def kill_all(self) -> None:
        """Ends all workers at once."""
        for number in self._writers:
            self.kill(number)

    async def end(self) -> None:
        """Waits until all workers have ended with their run."""
        for worker in self._workers:
            worker.dismiss()
        await asyncio.gather(*self._serving)
        for _ in range(3):  # so that what is closed is gone too
            await asyncio.sleep(0)

    @staticmethod
    def _never() -> NoReturn:
        raise AssertionError

    @override
    def _start(self, workers: Sequence[_WorkerHandle]) -> None:
        self._serving = [
            asyncio.create_task(self._serve(number, worker))
            for number, worker in enumerate(workers)
        ]

    async def _serve(self, number: int, worker: _WorkerHandle) -> None:
        ours, own_end = worker.ends
        worker.ends = (ours, ours)
        reader, self._writers[number] = await asyncio.open_unix_connection(sock=own_end)

        @asynccontextmanager
        async def opened() -> AsyncIterator[MemoryStore]:
            yield self._mortal(number)

        try:
            await worker_process.serve(
                reader, self._writers[number], opened, self.expiry, worker.in_progress
            )
        except Killed:
            self._ended.add(number)
        finally:
            self._writers[number].close()

    def _mortal(self, number: int) -> MemoryStore:
        store = self.stores[number]
        before, after = store.before, store.after

        async def still_before(request: Any) -> None:
            self._check(number)
            await before(request)
            self._check(number)

        async def still_after(request: Any) -> None:
            await after(request)
            self._check(number)

        store.before, store.after = still_before, still_after
        return store

    def _check(self, number: int) -> None:
        if number in self._ended:
            raise Killed


@contextmanager
def in_this_process() -> Iterator[None]:
    """A worker that loses its run ends like one that is killed, and not this process with it."""

    def end(_: int) -> NoReturn:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker_process.os, "_exit", end)
        yield


class NearCrew:
    """Workers without messages between them and their run, for a clock that leaps while nobody has
    anything to do.

    `stores` are their ways to the bucket, one for each.
    """

    def __init__(self, stores: Sequence[MemoryStore], clock: Callable[[], float]) -> None:
        self.expiry = SimpleNamespace(value=0.0)
        self.usage = ProcessUsage()
        self.most, self.taken = len(stores), 0
        self._stores, self._clock = stores, clock
        self._assignment: tuple[Assignment, Claim, Stop] | None = None
        self._workers: list[tuple[Session, Stop]] = []
        self._turn = 0

    @property
    def alive(self) -> int:
        return self.taken

    @property
    def outputs_in_progress(self) -> tuple[int, int]:
        counts = [stop.outputs_in_progress for _, stop in self._workers]
        return sum(outputs for outputs, _ in counts), sum(size for _, size in counts)

    @asynccontextmanager
    async def assigned(
        self, assignment: Assignment, lease: Claim, stop: Stop
    ) -> AsyncIterator[None]:
        self._assignment = (assignment, lease, stop)
        yield

    def take(self, count: int, on_death: Callable[[], None]) -> None:
        assert self._assignment is not None
        assignment, lease, stop = self._assignment
        shared = replace(assignment, processes=max(1, count))
        limits = RunLimits(deadline=stop.seconds_left)
        self.taken = count
        self._workers = [
            (shared.session(store, lease), Stop(limits, self._clock))
            for store in self._stores[:count]
        ]

    def _next(self) -> tuple[Session, Stop]:
        self._turn += 1
        return self._workers[self._turn % self.taken]

    async def work(self, plan: Plan, taken: frozenset[str], outcome: GroupOutcome) -> None:
        session, stop = self._next()
        await work_on_group(session, plan, taken, stop, outcome)
        self._hear(stop)

    async def transfer(
        self, batch: Batch, upload_id: str, first: Attributes
    ) -> TransferredBatch | None:
        session, stop = self._next()
        try:
            return await transfer_here(session, stop, batch, upload_id, first)
        finally:
            self._hear(stop)

    def halt(self, code: int) -> None:
        for _, stop in self._workers:
            stop.request(code)

    def _hear(self, stop: Stop) -> None:
        assert self._assignment is not None
        self._assignment[2].request(stop.code)
