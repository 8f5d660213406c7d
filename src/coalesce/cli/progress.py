"""How far a run or a verification is: how fast it goes, how long it may still take, and the line
that says so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from coalesce.report.account import Phase
from coalesce.report.events import ProgressEvent
from coalesce.report.report import Report
from coalesce.report.units import clock, human_bytes, human_rate

if TYPE_CHECKING:
    from coalesce.inspect.verify import Extent

_WINDOW = 30.0  # seconds over which the pace is measured
_CHECKING = "checking"
_PHASE_WIDTH = max(len(name) for name in (*(phase.value for phase in Phase), _CHECKING))
_SHORTEST_BAR = 5
_LONGEST_BAR = 40


class Watched(Protocol):
    """A run, as far as it is watched."""

    @property
    def report(self) -> Report:
        """Its report so far."""
        ...

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        ...

    @property
    def all_listed(self) -> bool:
        """Whether the report has every source that there is."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `done` are the sources that are joined, or kept for a reason.

    Of a verification, sources are outputs: those that have been checked.

    Attributes:
        phase: What is done, in a word.
        whole: Whether all sources have been seen.
        source_rate: Sources done in a second.
        byte_rate: Bytes of outputs written, or proven, in a second.
        left: Seconds that it may still take; None if that is unknown.
        noun: What is counted.
    """

    phase: str
    done: int
    seen: int
    whole: bool
    joined: int
    outputs: int
    bytes: int
    failures: int
    source_rate: float
    byte_rate: float
    left: float | None
    noun: str = "sources"

    def as_event(self) -> ProgressEvent:
        """The event of a run for `--output json`, with exact numbers."""
        return {
            "type": "progress",
            "phase": self.phase,
            "seen": self.seen,
            "joined": self.joined,
            "outputs": self.outputs,
            "bytes": self.bytes,
            "sources_per_second": round(self.source_rate, 3),
            "bytes_per_second": round(self.byte_rate, 3),
            "seconds_left": None if self.left is None else round(self.left, 3),
        }

    def sentence(self) -> str:
        """A line of a run's log."""
        parts = [
            f"{self.phase}: {self.seen:,} sources found",
            f"{self.joined:,} joined into {self.outputs:,} outputs",
            human_bytes(self.bytes),
            f"{human_rate(self.source_rate, 1)} sources/s",
            f"{human_bytes(self.byte_rate)}/s",
        ]
        return ", ".join([*parts, *self._rest()])

    def bar(self, width: int, *, ascii_only: bool = False) -> str:
        """One line of at most `width` columns: the less important numbers go first."""
        counts = f"{self.done:,}/{self.seen:,}{'' if self.whole else '+'}"
        rates = [f"{human_rate(self.source_rate, 1)}/s", f"{human_bytes(self.byte_rate)}/s"]
        rest = self._rest()
        texts = [
            "  ".join(words)
            for words in (
                (f"{counts} {self.noun}", *rates, *rest),
                (counts, *rates, *rest),
                (counts, rates[1], *rest),
                (counts, *rest),
                (counts,),
            )
        ]
        start = f"{self.phase:{_PHASE_WIDTH}} "
        room = width - len(start) - 2
        text = next((text for text in texts if len(text) + _SHORTEST_BAR <= room), texts[-1])
        length = min(_LONGEST_BAR, room - len(text))
        if length < _SHORTEST_BAR:
            return f"{start}{text}"[:width]
        return f"{start}{self._drawn(length, '#-' if ascii_only else '━─')}  {text}"

    def _drawn(self, length: int, strokes: str) -> str:
        filled = length * self.done // self.seen if self.seen else 0
        return strokes[0] * filled + strokes[1] * (length - filled)

    def _rest(self) -> list[str]:
        rest = [] if self.left is None else [f"{clock(self.left)} left"]
        return [*rest, f"{self.failures:,} failed"] if self.failures else rest


class Pace:
    """Measures how fast the work goes, from the numbers of the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int]] = deque()

    def look(self, run: Watched, now: float) -> Progress:
        """How far the run is now; `now` is in seconds and never goes back."""
        report = run.report
        sources, outputs = report.sources, report.outputs
        done = sources.joined + sum(sources.left.values())
        source_rate, byte_rate = self._rates(now, done, outputs.bytes)
        return Progress(
            phase=run.phase.value,
            done=done,
            seen=sources.seen,
            whole=run.all_listed,
            joined=sources.joined,
            outputs=outputs.written,
            bytes=outputs.bytes,
            failures=len(report.failures) + report.failures_omitted,
            source_rate=source_rate,
            byte_rate=byte_rate,
            left=_left(sources.seen - done, source_rate) if run.all_listed else None,
        )

    def look_at_check(self, extent: Extent, now: float) -> Progress:
        """How far a verification is now; `now` is in seconds and never goes back."""
        done = extent.proven + extent.failed
        rate, byte_rate = self._rates(now, done, extent.bytes)
        return Progress(
            phase=_CHECKING,
            done=done,
            seen=max(done, extent.found),
            whole=extent.all_listed,
            joined=0,
            outputs=extent.proven,
            bytes=extent.bytes,
            failures=extent.failed,
            source_rate=rate,
            byte_rate=byte_rate,
            left=_left(extent.found - done, rate) if extent.all_listed else None,
            noun="outputs",
        )

    def _rates(self, now: float, done: int, size: int) -> tuple[float, float]:
        """How much of either was done in a second."""
        self._marks.append((now, done, size))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW:
            self._marks.popleft()
        began, done_before, bytes_before = self._marks[0]
        seconds = now - began
        if seconds <= 0:
            return 0.0, 0.0
        return max(0, done - done_before) / seconds, max(0, size - bytes_before) / seconds


def _left(rest: int, rate: float) -> float | None:
    """The seconds that the rest takes at this rate; None if nothing is done at present."""
    return max(0, rest) / rate if rate else None
