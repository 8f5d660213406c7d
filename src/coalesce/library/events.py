"""What happens in a run, told as objects: the events of `--output json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from coalesce.report.events import RunEvent, VerifiedEvent, WarningKind
from coalesce.report.report import Failure

_Told = TypeVar("_Told")


@dataclass(frozen=True, slots=True)
class OutputWritten:
    """An output was proven, and its sources are deleted unless that is off.

    `bytes` are the output's; offsets are those of its sources, None where names do not tell them.
    `records` is None where they were not counted, `crc64nvme` is in base64, empty where it is
    unknown. An `oversized` one is larger than `max_size`.
    """

    group: str
    key: str
    sources: int
    bytes: int
    records: int | None
    first_offset: int | None
    last_offset: int | None
    crc64nvme: str
    oversized: bool


@dataclass(frozen=True, slots=True)
class OutputPlanned:
    """An output that a run would write, from sources of so many `bytes`."""

    group: str
    key: str
    sources: int
    bytes: int


@dataclass(frozen=True, slots=True)
class OutputVerified:
    """An output of an earlier run that was proven again. `recorded` says that it has a ledger
    entry; `records` is None unless it was read.
    """

    key: str
    bytes: int
    sources: int
    records: int | None
    recorded: bool


@dataclass(frozen=True, slots=True)
class OutputUndone:
    """An output was given back as its sources, and deleted.

    `written` of its sources were not there before, `bytes` are the output's.
    """

    group: str
    key: str
    sources: int
    written: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SourceLeft:
    """A source that is neither joined nor deleted; `why` is a name under `sources.left`."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody should know although nothing has failed; `kind` is a word such as `waiting`."""

    kind: WarningKind
    key: str
    message: str
    hint: str


Event = (
    OutputWritten | OutputPlanned | OutputVerified | OutputUndone | SourceLeft | Failure | Notice
)


def event_of(told: RunEvent | VerifiedEvent) -> Event:
    """An event as an object."""
    if told["type"] == "output":
        return _made_of(OutputWritten, told)
    if told["type"] == "planned":
        return _made_of(OutputPlanned, told)
    if told["type"] == "verified":
        return _made_of(OutputVerified, told)
    if told["type"] == "undone":
        return _made_of(OutputUndone, told)
    if told["type"] == "left":
        return SourceLeft(told["key"], told["why"])
    if told["type"] == "failure":
        return Failure.model_validate(told)
    return Notice(told["type"], told["key"], told["message"], told["hint"])


def _made_of(kind: type[_Told], told: Mapping[str, object]) -> _Told:
    return kind(**{field.name: told[field.name] for field in fields(kind)})  # type: ignore[arg-type]


class Listener:
    """Tells a caller's function of events.

    What the function raises is kept, and the function is not called again: a run ends between
    outputs then, and does not fail in the middle of one.
    """

    def __init__(self, on_event: Callable[[Event], object] | None) -> None:
        self._on_event = on_event
        self.error: Exception | None = None

    def hear(self, told: RunEvent) -> None:
        """Takes an event in."""
        if self._on_event is None or self.error is not None:
            return
        try:
            self._on_event(event_of(told))
        except Exception as error:
            self.error = error
