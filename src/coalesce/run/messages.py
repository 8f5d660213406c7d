"""What a run and its worker processes send each other, each message pickled behind its length.

The run sends one `Assignment`, then a `GroupTask` for each group, and a `Halt` after a signal. A
worker sends a `Reply` for every output that it commits, and one for the end of every task.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from dataclasses import dataclass
from typing import Any

from coalesce.errors import CoalesceError
from coalesce.model import CommittedOutput, Kept, Plan
from coalesce.protocol.lease import Claim
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.session import GroupRules, Session
from coalesce.report.usage import ProcessUsage
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore
from coalesce.transfer.limits import Capacity

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What all groups of a run are worked on under, in whichever process.

    Attributes:
        concurrency: GETs in flight at most, over all processes; 0 for as many as the store bears.
        memory: Bytes for bodies, over all processes.
        deadline: Seconds from now on; None for no deadline.
    """

    rules: GroupRules
    concurrency: int
    memory: int
    deadline: float | None = None

    @classmethod
    def of(cls, rules: GroupRules, settings: Settings, deadline: float | None) -> Assignment:
        """Returns the assignment of a run with these settings."""
        return cls(rules, settings.concurrency, settings.memory, deadline)

    def session(self, store: ObjectStore, lease: Claim, processes: int = 1) -> Session:
        """Returns the session of one of so many processes, with its share of the capacity."""
        capacity = Capacity.of(
            -(-self.concurrency // processes),
            self.memory // processes,
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
class Reply:
    """News of one task.

    Attributes:
        number: The task's.
        usage: What the worker has used so far.
        untidy: Whether the worker may leave uploads that no plan record names.
    """

    number: int
    usage: ProcessUsage
    untidy: bool
    news: CommittedOutput | TaskEnd


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
