"""Why a run takes nothing new: a signal, or a limit that the user set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coalesce.model import Batch

LIMIT_REACHED = 12
_SIGNALS = 128


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Where a run ends of its own accord; None is no limit.

    `deadline` is in seconds from its start.
    """

    groups: int | None = None
    bytes: int | None = None
    sources: int | None = None
    deadline: float | None = None


class Stop:
    """Asked before every group and every output.

    The first reason to stop stays, and is the exit code.
    """

    def __init__(self, limits: RunLimits, clock: Callable[[], float]) -> None:
        self.code = 0
        self._limits = limits
        self._clock = clock
        self._begun = clock()
        self._groups = self._bytes = self._sources = 0

    def __bool__(self) -> bool:
        self._look_at_deadline()
        return self.code != 0

    @property
    def interrupted(self) -> bool:
        """Whether also what was admitted already should end, between outputs.

        A limit that is reached ends only what comes after it.
        """
        self._look_at_deadline()
        return self.code > _SIGNALS or self._late

    def request(self, code: int) -> None:
        """Asks the run to end, with this exit code."""
        self.code = self.code or code

    def admits_group(self) -> bool:
        """Whether one more group may be started; counts it if so."""
        if self or self._over(self._groups + 1, self._limits.groups):
            return False
        self._groups += 1
        return True

    def admits(self, batch: Batch) -> bool:
        """Whether this output may be started; counts it if so."""
        size, sources = self._bytes + batch.size, self._sources + len(batch.sources)
        if (
            self
            or self._over(size, self._limits.bytes)
            or self._over(sources, self._limits.sources)
        ):
            return False
        self._bytes, self._sources = size, sources
        return True

    def _over(self, amount: int, limit: int | None) -> bool:
        if limit is None or amount <= limit:
            return False
        self.request(LIMIT_REACHED)
        return True

    @property
    def _late(self) -> bool:
        return (
            self._limits.deadline is not None
            and self._clock() - self._begun >= self._limits.deadline
        )

    def _look_at_deadline(self) -> None:
        if self._late:
            self.request(LIMIT_REACHED)
