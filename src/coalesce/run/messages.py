"""What a run and its worker processes send each other, each message pickled behind its length.

The run sends one `Assignment`, then tasks: a `GroupTask` for a whole group, a `BatchTask` for a
batch of a group of its own; and a `Halt` after a signal. A worker sends a `Reply` for every output
that it commits, and one for the end of every task.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass
from typing import Any

from coalesce.errors import CoalesceError
from coalesce.model import Batch, CommittedOutput, Kept, Plan, TransferredBatch
from coalesce.protocol.lease import Claim
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.session import GroupRules, Session
from coalesce.report.usage import ProcessUsage
from coalesce.settings import Settings
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import ObjectStore
from coalesce.transfer.limits import Capacity

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What all groups of a run are worked on under, in whichever process.

    Attributes:
        concurrency: GETs in flight at most, over all processes; 0 for as many as the store bears.
        memory: Bytes for bodies, over all processes.
        processes: How many processes share both.
        deadline: Seconds from now on; None for no deadline.
    """

    rules: GroupRules
    concurrency: int
    memory: int
    processes: int = 1
    deadline: float | None = None

    @classmethod
    def of(cls, rules: GroupRules, settings: Settings) -> Assignment:
        """Returns the assignment of a run with these settings, for one process."""
        return cls(rules, settings.concurrency, settings.memory)

    def session(self, store: ObjectStore, lease: Claim) -> Session:
        """Returns the session of one of the processes, with its share of the capacity."""
        capacity = Capacity.of(
            -(-self.concurrency // self.processes),
            self.memory // self.processes,
            lambda: store.usage.throttled,
        )
        return Session(store, self.rules, lease, capacity)


@dataclass(frozen=True, slots=True)
class GroupTask:
    """A group to be worked on. `taken` are the keys of its outputs that exist already."""

    number: int
    plan: Plan
    taken: frozenset[str]


@dataclass(frozen=True, slots=True)
class BatchTask:
    """A batch whose parts are to be sent; all else is done by the run's own process.

    `first` is what its first source says of itself.
    """

    number: int
    batch: Batch
    upload_id: str
    first: Attributes


@dataclass(frozen=True, slots=True)
class Halt:
    """Start nothing new; `code` is the exit code of the reason."""

    code: int


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """What became of a task.

    Attributes:
        kept: All sources that stay, those of its committed outputs included.
        stale: Whether the group is to be listed and planned again.
        unlike: What a source says of itself that is not joined with its neighbours.
        fatal: What ends the whole run; or GroupOwned.
    """

    kept: tuple[Kept, ...]
    failures: tuple[CoalesceError, ...]
    unsettled: bool
    stale: bool
    fatal: CoalesceError | None
    unlike: str = ""

    @classmethod
    def of(cls, outcome: GroupOutcome, fatal: CoalesceError | None) -> TaskEnd:
        """Returns the end of a task from its outcome."""
        return cls(
            kept=tuple(outcome.kept),
            failures=tuple(outcome.failures),
            unsettled=outcome.unsettled,
            stale=outcome.stale,
            fatal=fatal,
            unlike=outcome.unlike,
        )

    def add_to(self, outcome: GroupOutcome) -> None:
        """Completes the outcome that has been told of the task's outputs before."""
        outcome.kept = list(self.kept)
        outcome.failures += self.failures
        outcome.unsettled |= self.unsettled
        outcome.stale |= self.stale
        outcome.unlike = outcome.unlike or self.unlike


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """What became of the parts of a batch.

    `transferred` is None if there was no time for it, or an `error`.
    """

    transferred: TransferredBatch | None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """News of one task.

    Attributes:
        number: The task's.
        usage: What the worker has used so far.
        untidy: Whether the worker may leave uploads that no plan record names.
        stop_code: Why it starts nothing new, as an exit code; 0 if it does.
    """

    number: int
    usage: ProcessUsage
    untidy: bool
    stop_code: int
    news: CommittedOutput | TaskEnd | BatchEnd


def send(writer: asyncio.StreamWriter, message: object) -> None:
    """Sends a message; it may still be in the writer's buffer on return."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(data)) + data)


async def receive(reader: asyncio.StreamReader) -> Any:
    """Returns the next message.

    Raises IncompleteReadError or ConnectionError once the other process is gone.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))
