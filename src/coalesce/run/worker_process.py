"""A worker process: it works on the groups and batches that its run sends, until the run is gone.

It has its own connections to the bucket, and no lease of its own: when the run's lease ends is in
memory that all its processes share.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import MutableSequence, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NoReturn, Protocol

from typing_extensions import override

from coalesce.clock import boottime
from coalesce.errors import CoalesceError, LeaseLost, defect
from coalesce.model import CommittedOutput
from coalesce.protocol.batch import transfer_here
from coalesce.protocol.lease import Claim, Expiry
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import Session
from coalesce.report.usage import ProcessUsage
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
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import ObjectStore
from coalesce.transfer.stream import Misread, SourcesUnusable

_log = logging.getLogger(__name__)


class OpenStore(Protocol):
    """Opens the bucket in a worker process: connections cannot be shared."""

    def __call__(self) -> AbstractAsyncContextManager[ObjectStore]:
        """Returns a block that has the bucket."""
        ...


def main(
    own_end: socket.socket,
    other_ends: Sequence[socket.socket],
    open_store: OpenStore,
    expiry: Expiry,
    in_progress: MutableSequence[int],
) -> None:
    """Runs a worker process to its end.

    Signals are for the run, which sends a `Halt` instead: a Ctrl-C reaches every process of a
    terminal.

    Args:
        own_end: The worker's end of its socket pair.
        other_ends: Ends that a fork has copied, and that would hide the end of other processes.
        open_store: Opens the bucket.
        expiry: When the run's lease ends, by `boottime`.
        in_progress: Where the run sees what the worker transfers: see `Stop`.
    """
    for end in other_ends:
        end.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_connect_and_serve(own_end, open_store, expiry, in_progress))


async def _connect_and_serve(
    own_end: socket.socket,
    open_store: OpenStore,
    expiry: Expiry,
    in_progress: MutableSequence[int],
) -> NoReturn:
    reader, writer = await asyncio.open_unix_connection(sock=own_end)
    await serve(reader, writer, open_store, expiry, in_progress)


async def serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    open_store: OpenStore,
    expiry: Expiry,
    in_progress: MutableSequence[int],
) -> NoReturn:
    """Works on what the run sends, until the run is gone; see `main`."""
    assignment: Assignment = await _receive_or_exit(reader)
    lease = _SharedLease(expiry)
    stop = Stop(RunLimits(deadline=assignment.deadline), boottime, in_progress)
    async with open_store() as store:
        worker = _Worker(assignment.session(store, lease), lease, stop, writer)
        tasks: set[asyncio.Task[None]] = set()
        while True:
            message = await _receive_or_exit(reader)
            if isinstance(message, Halt):
                stop.request(message.code)
                continue
            task = asyncio.create_task(worker.work(message))
            tasks.add(task)  # the event loop itself keeps only weak references
            task.add_done_callback(tasks.discard)


async def _receive_or_exit(reader: asyncio.StreamReader) -> Any:
    """Returns the run's next message, or ends this process at once if the run is over or dead.

    Nothing may go on without the run, not even the cleaning up that an exception would start:
    nobody would renew the lease, count the outputs, or report the failures. So this is as if the
    process had been killed together with the run; the next run recovers.
    """
    try:
        return await receive(reader)
    except (asyncio.IncompleteReadError, ConnectionError):
        os._exit(0)


class _SharedLease(Claim):
    """The run's lease as a worker process sees it."""

    def __init__(self, expiry: Expiry) -> None:
        self._expiry = expiry
        self.untidy = False

    @override
    def check(self) -> None:
        if boottime() >= self._expiry.value:
            raise LeaseLost("the run's lease expired or was taken over")

    @override
    def mark_untidy(self) -> None:
        self.untidy = True


class _Worker:
    """Works on tasks, and sends what becomes of them."""

    def __init__(
        self, session: Session, lease: _SharedLease, stop: Stop, writer: asyncio.StreamWriter
    ) -> None:
        self._session = session
        self._lease = lease
        self._stop = stop
        self._writer = writer

    async def work(self, task: GroupTask | BatchTask) -> None:
        """Works on one task; every failure is sent."""
        match task:
            case GroupTask():
                self._reply(task, await self._work_on_group(task))
            case BatchTask():
                self._reply(task, await self._transfer(task))

    async def _work_on_group(self, task: GroupTask) -> TaskEnd:
        outcome = GroupOutcome(lambda output: self._reply(task, output))
        fatal = None
        try:
            await work_on_group(self._session, task.plan, task.taken, self._stop, outcome)
        except CoalesceError as error:
            fatal = error
        return TaskEnd.of(outcome, fatal)

    async def _transfer(self, task: BatchTask) -> BatchEnd:
        try:
            return BatchEnd(
                await transfer_here(
                    self._session, self._stop, task.batch, task.upload_id, task.first
                )
            )
        except (CoalesceError, SourcesUnusable, Misread) as error:
            return BatchEnd(None, error)
        except Exception as error:
            # Without an answer, the run would wait for ever.
            _log.exception("%s", task.batch.output)
            return BatchEnd(None, defect(error))

    def _reply(
        self, task: GroupTask | BatchTask, news: CommittedOutput | TaskEnd | BatchEnd
    ) -> None:
        usage = ProcessUsage.of_this_process(self._session.store.usage, self._session.capacity)
        reply = Reply(task.number, usage, self._lease.untidy, self._stop.code, news)
        send(self._writer, reply)
