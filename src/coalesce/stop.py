"""When a run stops starting new work: after a signal, or at a limit that the user set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass

from coalesce.exits import ExitCode, is_signal
from coalesce.model import Batch
from coalesce.settings import Settings


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of a run; None is no limit.

    Attributes:
        groups: Groups to start, of those that have anything to join.
        bytes: Bytes of sources to join, as listed.
        sources: Sources to join, and so to delete.
        deadline: Seconds from the start of the run.
    """

    groups: int | None = None
    bytes: int | None = None
    sources: int | None = None
    deadline: float | None = None

    @classmethod
    def of(cls, settings: Settings) -> RunLimits:
        """Returns the limits in a run's settings."""
        return cls(
            groups=settings.max_groups,
            bytes=settings.max_bytes,
            sources=settings.max_delete,
            deadline=settings.deadline,
        )


class Stop:
    """Decides whether a run may start more work.

    The properties only look. The methods `try_…` ask for permission: what they grant counts
    against the limits, and the first reason to refuse becomes the run's exit code. So a run that
    finishes after its deadline without having been refused anything was not stopped by it.

    `clock` is in seconds and never goes back; the run starts when the object is made.
    `in_progress` holds how many outputs are transferred right now, and their bytes: where another
    process of the run can see it too.
    """

    def __init__(
        self,
        limits: RunLimits,
        clock: Callable[[], float],
        in_progress: MutableSequence[int] | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._started_at = clock()
        self._code = 0
        self._limit = ""
        self._groups = self._bytes = self._sources = 0
        self._in_progress = [0, 0] if in_progress is None else in_progress

    @contextmanager
    def in_progress(self, batch: Batch) -> Iterator[None]:
        """Counts an output as in progress for the length of a block."""
        self._add_in_progress(1, batch.size)
        try:
            yield
        finally:
            self._add_in_progress(-1, -batch.size)

    def _add_in_progress(self, outputs: int, size: int) -> None:
        self._in_progress[0] += outputs
        self._in_progress[1] += size

    @property
    def outputs_in_progress(self) -> tuple[int, int]:
        """How many outputs a run that stops would still finish here: (outputs, bytes)."""
        outputs, size = self._in_progress
        return outputs, size

    @property
    def code(self) -> int:
        """The exit code of the first reason to stop; 0 if the run was not stopped."""
        return self._code

    @property
    def limit(self) -> str:
        """The option whose limit stopped the run; empty if none did.

        Another process of the run knows of no limit but the deadline.
        """
        return (self._limit or "--deadline") if self._code == ExitCode.LIMIT else ""

    @property
    def stopping(self) -> bool:
        """Whether nothing new may be started."""
        return self._code != 0 or self._past_deadline

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, negative after it; None if there is none."""
        if self._limits.deadline is None:
            return None
        return self._limits.deadline - (self._clock() - self._started_at)

    def request(self, code: int) -> None:
        """Stops the run with this exit code, unless it is already stopping for another reason."""
        self._code = self._code or code

    def try_plan_group(self) -> bool:
        """Returns whether one more group may be planned. No limit counts these."""
        if self.stopping:
            self._refuse()
            return False
        return True

    def try_start_group(self) -> bool:
        """Returns whether a group may be started, and counts it if so."""
        groups = self._groups + 1
        if self.stopping or _exceeds(groups, self._limits.groups):
            self._refuse("--max-groups")
            return False
        self._groups = groups
        return True

    def try_start_output(self, batch: Batch) -> bool:
        """Returns whether this output may be started, and counts its sources if so."""
        size, sources = self._bytes + batch.size, self._sources + len(batch.sources)
        if (
            self.stopping
            or _exceeds(size, self._limits.bytes)
            or _exceeds(sources, self._limits.sources)
        ):
            self._refuse("--max-bytes" if _exceeds(size, self._limits.bytes) else "--max-delete")
            return False
        self._bytes, self._sources = size, sources
        return True

    def try_continue(self) -> bool:
        """Returns whether work that was granted before may go on to its next output.

        Only a signal or the deadline forbids it: the other limits end what comes after them.
        """
        if is_signal(self._code) or self._past_deadline:
            self._refuse()
            return False
        return True

    @property
    def _past_deadline(self) -> bool:
        left = self.seconds_left
        return left is not None and left <= 0

    def _refuse(self, limit: str = "") -> None:
        if not self.stopping:
            self._limit = limit
        self.request(ExitCode.LIMIT)


def _exceeds(amount: int, limit: int | None) -> bool:
    return limit is not None and amount > limit
