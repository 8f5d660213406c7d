"""The events of a run and of a verification, as they stand on stdout with `--output json`.

Plain dictionaries, since a run may emit millions of them. `docs/events.schema.json` is made from
their types, and so is what the type checker holds each of them against: additive changes only.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field
from typing_extensions import TypedDict, TypeIs

from coalesce.model import UndoneOutput
from coalesce.report.report import Failure

WarningKind = Literal[
    "waiting",
    "leased",
    "unfinished",
    "empty",
    "unmatched",
    "unparsed",
    "worker",
    "missing",
    "young",
]

Count = Annotated[int, Field(ge=0)]


class OutputEvent(TypedDict):
    """An output was proven, this run's own or one that it finished for an earlier run.

    `bytes` are those of the output. `records` is null where nobody counted them, and `crc64nvme`
    is empty where the store keeps no such checksum.
    """

    type: Literal["output"]
    group: str
    key: str
    sources: Count
    bytes: Count
    records: Count | None
    first_offset: int | None
    last_offset: int | None
    crc64nvme: str
    oversized: bool


class PlannedEvent(TypedDict):
    """A run would write this output, whose sources have so many `bytes`; or an undo would give it
    back, and they are its own.
    """

    type: Literal["planned"]
    group: str
    key: str
    sources: Count
    bytes: Count


class UndoneEvent(TypedDict):
    """An output was given back as its sources, and deleted.

    `written` are those of its `sources` that were not there before, `bytes` those of the output,
    and `unnoted` the sources that say what the first one says, since the ledger does not know
    better.
    """

    type: Literal["undone"]
    group: str
    key: str
    sources: Count
    written: Count
    bytes: Count
    unnoted: Count


class LeftEvent(TypedDict):
    """A source was kept; `why` is one of the reasons of `sources.left` in the report."""

    type: Literal["left"]
    key: str
    why: str


class FailureEvent(TypedDict):
    """Something failed, as in `failures` of the report."""

    type: Literal["failure"]
    group: str
    key: str
    code: str
    request_id: str
    message: str
    hint: str
    operation: str


class WarningEvent(TypedDict):
    """What a person should know although nothing has failed."""

    type: WarningKind
    key: str
    message: str
    hint: str


class ProgressEvent(TypedDict):
    """How far a run is; `phase` is one word. `seconds_left` is null while it is unknown."""

    type: Literal["progress"]
    phase: str
    seen: Count
    joined: Count
    outputs: Count
    bytes: Count
    sources_per_second: float
    bytes_per_second: float
    seconds_left: float | None


class VerifiedEvent(TypedDict):
    """`verify` has proven an output; `recorded` says that it has a ledger entry. `records` is null
    without `--deep`.
    """

    type: Literal["verified"]
    key: str
    bytes: Count
    sources: Count
    records: Count | None
    recorded: bool


RunEvent: TypeAlias = (
    OutputEvent | PlannedEvent | UndoneEvent | LeftEvent | FailureEvent | WarningEvent
)
"""What a run emits."""

Event: TypeAlias = RunEvent | ProgressEvent
"""What stands on stdout of a run: what it emits, and how far it is."""


_WARNINGS = frozenset(get_args(WarningKind))


def is_warning(event: Event) -> TypeIs[WarningEvent]:
    """Whether an event is a warning."""
    return event["type"] in _WARNINGS


def planned_event(group: str, key: str, sources: int, size: int) -> PlannedEvent:
    """The event of an output that is planned, of a group by its name; `size` is in bytes."""
    return {"type": "planned", "group": group, "key": key, "sources": sources, "bytes": size}


def undone_event(output: UndoneOutput, group: str) -> UndoneEvent:
    """The event of an output that was given back; `group` is its group's name."""
    return {
        "type": "undone",
        "group": group,
        "key": output.key,
        "sources": output.sources,
        "written": output.written,
        "bytes": output.size,
        "unnoted": output.unnoted,
    }


def failure_event(failure: Failure) -> FailureEvent:
    """The event of a failure."""
    return {
        "type": "failure",
        "group": failure.group,
        "key": failure.key,
        "code": failure.code,
        "request_id": failure.request_id,
        "message": failure.message,
        "hint": failure.hint,
        "operation": failure.operation,
    }
