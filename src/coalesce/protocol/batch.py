"""One batch from its plan record to its end: a state machine.

| state | what stands in the store | what is done next |
|---|---|---|
| PLANNED | nothing | the round creates its upload and records the plan |
| RECORDED | an open upload, named by the plan record | its sources are read and sent |
| TRANSFERRED | all parts | its ledger entry is written |
| COMPLETED | the ledger entry; Complete may have been sent | Complete, then read back |
| COMMITTED | the output, read back | its sources are deleted |
| DELETED | the output alone | end |
| KEPT | output and sources: deletes are off, or some were refused | end; the record stays |
| SPOILT | an upload of sources that cannot be joined | aborted; planned again around them |
| STALE | an upload of a source that has changed | aborted; the group is listed again |
| CONFLICTED | an upload that a concurrent change made useless | aborted; planned again |
| LOST | an upload whose worker died over it | aborted; planned again |
| TAKEN | another plan's object under the output's name | aborted; a failure is reported |
| FENCED | nothing: another run aborted the upload | the ledger entry is removed |
| ABANDONED | an upload that failed, or that the run has no time for | aborted |
| DROPPED | nothing | end |
| DOUBTED | an output that is not what was sent | end; the record stays and says so |
| UNKNOWN | the output or the upload, or neither | end; the record stays |

Which state follows is decided by `next_step` alone; `BatchWorker` does what a state asks for, and
says what happened.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Protocol

from coalesce.content.rules import ContentRules
from coalesce.errors import (
    CoalesceError,
    Conflict,
    Fenced,
    IntegrityError,
    NoSuchUpload,
    PreconditionFailed,
    SourceUnusable,
    StorageError,
    WorkerDied,
)
from coalesce.model import Batch, TransferredBatch, Why
from coalesce.naming.layouts import codec_of
from coalesce.planning.parts import lay_out
from coalesce.protocol.commit import Blocked, Committed, complete
from coalesce.protocol.deletion import Deletion, delete_sources
from coalesce.protocol.ledger import Expected, expect, remove_entry, write_entry
from coalesce.protocol.session import Session
from coalesce.stop import Stop
from coalesce.storage.attributes import Attributes
from coalesce.transfer.comparison import Comparison
from coalesce.transfer.stream import Misread, SourcesUnusable, transfer, window_bytes

# How often Complete is sent while nothing is known.
_COMPLETES = 4

# How often a batch is read whose sources look spoilt and are whole when they are read again.
_READS = 3


class State(enum.Enum):
    """Where a batch is: see the table of the module."""

    PLANNED = "planned"
    RECORDED = "recorded"
    TRANSFERRED = "transferred"
    COMPLETED = "completed"
    COMMITTED = "committed"
    DELETED = "deleted"
    KEPT = "kept"
    SPOILT = "spoilt"
    STALE = "stale"
    CONFLICTED = "conflicted"
    LOST = "lost"
    TAKEN = "taken"
    ABANDONED = "abandoned"
    DROPPED = "dropped"
    FENCED = "fenced"
    DOUBTED = "doubted"
    UNKNOWN = "unknown"


class Event(enum.Enum):
    """What happened to a batch."""

    WRITTEN = "the plan record, or the ledger entry, was written"
    STOPPED = "the run is to end before this output"
    SENT = "all parts are with the store"
    MISREAD = "a source was misread once"
    SPOILT = "some sources cannot be joined"
    CHANGED = "a source is no longer as it was listed"
    LOST = "the worker that sent the parts died"
    FAILED = "a request failed, and nothing of the output can be visible"
    PROVEN = "the output was read back"
    UNANSWERED = "nothing is there yet, and no answer says why"
    CONFLICT = "a concurrent change made the upload useless"
    TAKEN = "another plan's object has the output's name"
    FENCED = "another run has aborted the upload"
    MISMATCH = "the output is not what was sent"
    UNKNOWN = "what is there cannot be known"
    GONE = "all sources are deleted"
    STAYED = "sources stay: deletes are off, or some were refused"
    ABORTED = "the upload was aborted"


_NEXT = {
    State.PLANNED: {Event.WRITTEN: State.RECORDED},
    State.RECORDED: {
        Event.SENT: State.TRANSFERRED,
        Event.MISREAD: State.RECORDED,
        Event.SPOILT: State.SPOILT,
        Event.CHANGED: State.STALE,
        Event.LOST: State.LOST,
        Event.FENCED: State.FENCED,
        Event.FAILED: State.ABANDONED,
        Event.STOPPED: State.ABANDONED,
    },
    State.TRANSFERRED: {
        Event.WRITTEN: State.COMPLETED,
        Event.FAILED: State.ABANDONED,
    },
    State.COMPLETED: {
        Event.PROVEN: State.COMMITTED,
        Event.UNANSWERED: State.COMPLETED,
        Event.CONFLICT: State.CONFLICTED,
        Event.TAKEN: State.TAKEN,
        Event.FENCED: State.FENCED,
        Event.MISMATCH: State.DOUBTED,
        Event.UNKNOWN: State.UNKNOWN,
    },
    State.COMMITTED: {
        Event.GONE: State.DELETED,
        Event.STAYED: State.KEPT,
        Event.MISMATCH: State.DOUBTED,
        Event.UNKNOWN: State.UNKNOWN,
    },
    **{
        state: {Event.ABORTED: State.DROPPED, Event.UNKNOWN: State.UNKNOWN}
        for state in (
            State.SPOILT,
            State.STALE,
            State.CONFLICTED,
            State.LOST,
            State.TAKEN,
            State.FENCED,
            State.ABANDONED,
        )
    },
}

ENDS = frozenset(State) - _NEXT.keys()


def next_step(state: State, event: Event) -> State:
    """The state that follows. Raises ValueError for what cannot happen in that state."""
    try:
        return _NEXT[state][event]
    except KeyError:
        raise ValueError(f"a batch that is {state.value} cannot meet {event.name}") from None


@dataclass(slots=True)
class BatchWork:
    """A batch on its way, and what is known of it so far.

    `first` is what its first source says of itself; `error` is why it failed, if it did; `refusal`
    is the store's, to remove its ledger entry; `unusable` are the sources that cannot be joined.
    `unanswered` says that a Complete was sent and no answer came, or came only to its repetition.
    """

    batch: Batch
    upload_id: str
    first: Attributes
    state: State = State.RECORDED
    transferred: TransferredBatch | None = None
    expected: Expected | None = None
    committed: Committed | None = None
    deletion: Deletion | None = None
    unusable: tuple[SourceUnusable, ...] = ()
    error: CoalesceError | None = None
    refusal: CoalesceError | None = None
    unanswered: bool = False
    reads: int = 0
    completes: int = 0
    way: list[State] = field(default_factory=list)

    def was(self, state: State) -> bool:
        """Whether it has gone through a state."""
        return state in self.way


class Transfer(Protocol):
    """Sends the parts of batches: in this process, or in another one."""

    async def __call__(
        self, batch: Batch, upload_id: str, first: Attributes
    ) -> TransferredBatch | None:
        """Sends all parts of a batch; None if the run is to stop before it.

        `first` is what its first source says of itself, to which the others are held.

        Raises SourcesUnusable, Misread, StorageError, or WorkerDied.
        """
        ...


async def transfer_here(
    session: Session, stop: Stop, batch: Batch, upload_id: str, first: Attributes
) -> TransferredBatch | None:
    """Sends all parts of a batch from this process, once it has the memory for that.

    `stop` is asked then, which may be long after the batch's round began: None if it says so.
    Raises SourcesUnusable, Misread, StorageError.
    """
    rules, capacity = session.rules, session.capacity
    codec = codec_of(rules.layout, batch.output)
    limits = rules.limits.of_content(codec, rules.layout.records)
    content = ContentRules(codec, rules.check, limits.single, rules.layout.records)
    window = window_bytes(batch, capacity.memory.size, rules.sizes, single=limits.single)
    working = content.working_bytes(in_ranges=batch.size > rules.sizes.usual)
    async with capacity.memory.hold(window + working):
        if not stop.try_continue():
            return None
        with stop.in_progress(batch):
            return await transfer(
                session.store,
                batch,
                lay_out(batch.sources, rules.sizes, copy=limits.copy, check=rules.check),
                upload_id,
                rules=content,
                sizes=rules.sizes,
                checksum=rules.capabilities.checksum,
                capacity=capacity,
                window=window,
                comparison=Comparison(session.store, rules.attributes, first),
            )


@dataclass(frozen=True, slots=True)
class BatchWorker:
    """Brings batches of recorded plans to their ends."""

    session: Session
    transfer: Transfer

    async def work(self, batch: Batch, upload_id: str, first: Attributes) -> BatchWork:
        """One batch, from RECORDED to its end.

        Raises what ends the whole run: LeaseLost, ConfigurationError.
        """
        work = BatchWork(batch, upload_id, first)
        while work.state not in ENDS:
            event = await self._act(work)
            work.way.append(work.state)
            work.state = next_step(work.state, event)
        return work

    async def _act(self, work: BatchWork) -> Event:
        match work.state:
            case State.RECORDED:
                return await self._transfer(work)
            case State.TRANSFERRED:
                return await self._write_entry(work)
            case State.COMPLETED:
                return await self._complete(work)
            case State.COMMITTED:
                return await self._delete(work)
        return await self._abort(work)

    async def _transfer(self, work: BatchWork) -> Event:
        work.reads += 1
        try:
            work.transferred = await self.transfer(work.batch, work.upload_id, work.first)
        except SourcesUnusable as error:
            work.unusable = error.sources
            changed = any(found.why is Why.CHANGED for found in work.unusable)
            return Event.CHANGED if changed else Event.SPOILT
        except Misread as error:
            if work.reads < _READS:
                return Event.MISREAD
            work.error = StorageError(str(error), key=work.batch.output, code="Misread")
            return Event.FAILED
        except WorkerDied as error:
            work.error = error
            return Event.LOST
        except NoSuchUpload:
            work.error = _fenced(work.batch)
            return Event.FENCED
        except StorageError as error:
            work.error = error
            return Event.FAILED
        return Event.STOPPED if work.transferred is None else Event.SENT

    async def _write_entry(self, work: BatchWork) -> Event:
        assert work.transferred is not None
        self.session.lease.check()
        work.expected = expect(self.session.rules, work.transferred)
        try:
            await write_entry(
                self.session,
                work.batch,
                work.upload_id,
                work.transferred,
                work.expected,
                work.first,
            )
        except StorageError as error:
            if isinstance(error, PreconditionFailed):
                work.expected = None  # the entry is somebody else's, and stays
            work.error = error
            return Event.FAILED
        return Event.WRITTEN

    async def _complete(self, work: BatchWork) -> Event:
        assert work.transferred is not None
        assert work.expected is not None
        work.completes += 1
        parts = work.transferred.parts
        try:
            completion = await complete(
                self.session, work.batch, work.upload_id, parts, work.expected, work.unanswered
            )
        except IntegrityError as error:
            work.error = error
            return Event.MISMATCH
        except StorageError as error:
            work.error = error
            return Event.UNKNOWN
        if isinstance(completion, Committed):
            work.committed = completion
            return Event.PROVEN
        if completion.blocked is Blocked.UNANSWERED:
            work.unanswered = True
            work.error = completion.answer
            return Event.UNANSWERED if work.completes < _COMPLETES else Event.UNKNOWN
        work.error = _blocked(work.batch, completion.blocked)
        return _EVENTS[completion.blocked]

    async def _delete(self, work: BatchWork) -> Event:
        assert work.committed is not None
        if not self.session.rules.delete:
            return Event.STAYED
        work.deletion = await delete_sources(self.session, work.committed)
        work.error = work.deletion.error
        if isinstance(work.error, IntegrityError):
            return Event.MISMATCH
        if work.error is not None:
            return Event.UNKNOWN
        return Event.STAYED if work.deletion.refused else Event.GONE

    async def _abort(self, work: BatchWork) -> Event:
        """Of a batch of which nothing is visible: an aborted upload never appears."""
        try:
            await self.session.store.abort_upload(work.batch.output, work.upload_id)
            if work.expected is not None:
                work.refusal = await remove_entry(self.session, work.batch.output, work.upload_id)
        except StorageError as error:
            work.error = work.error or error
            return Event.UNKNOWN
        return Event.ABORTED


_EVENTS = {
    Blocked.CONFLICT: Event.CONFLICT,
    Blocked.TAKEN: Event.TAKEN,
    Blocked.FENCED: Event.FENCED,
}


def _blocked(batch: Batch, blocked: Blocked) -> CoalesceError:
    if blocked is Blocked.FENCED:
        return _fenced(batch)
    reason = {
        Blocked.TAKEN: "another object took the name since the listing",
        Blocked.CONFLICT: "a concurrent change at every try",
    }[blocked]
    hint = "Sources were kept; run again."
    return Conflict(f"{batch.output}: {reason}", key=batch.output, hint=hint)


def _fenced(batch: Batch) -> Fenced:
    message = f"{batch.output}: another run aborted this upload and took over the group"
    return Fenced(message, key=batch.output)
