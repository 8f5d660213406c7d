"""Equal failures counted together: a right that is missing fails for every object alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coalesce.report.report import Failure
from coalesce.storage.rights import ACTIONS


@dataclass(frozen=True, slots=True)
class FailureKind:
    """What equal failures have in common: the code, what was refused, what to do next."""

    code: str
    action: str
    hint: str

    @classmethod
    def of(cls, failure: Failure) -> FailureKind:
        """The kind of a failure."""
        denied = failure.code == "AccessDenied"
        action = ACTIONS.get(failure.operation, "") if denied else failure.operation
        return cls(failure.code, action, failure.hint)

    @property
    def name(self) -> str:
        """Its code, and what was refused if that is known."""
        return f"{self.code} {self.action}".rstrip()


@dataclass(slots=True)
class FailureCount:
    """How often a kind of failure happened, and the first of them."""

    kind: FailureKind
    first: Failure
    times: int = 0

    @property
    def line(self) -> str:
        """One line for a person: what, how often, where first, what to do next."""
        if self.times == 1:
            return failure_line(self.first)
        name, first = self.kind.name, self.first.message.rstrip(".")
        return f"{name}, {self.times:,} times, first {first}. {self.kind.hint}".rstrip()


def failure_line(failure: Failure) -> str:
    """A failure for a person: its code, what happened, what to do next."""
    return f"{failure.code}: {failure.message.rstrip('.')}. {failure.hint}".rstrip()


class FailureTally:
    """Failures by kind, in the order in which the kinds came first."""

    def __init__(self, failures: Iterable[Failure] = ()) -> None:
        self._counts: dict[FailureKind, FailureCount] = {}
        for failure in failures:
            self.add(failure)

    def add(self, failure: Failure) -> FailureCount:
        """Counts a failure; returns the count of its kind."""
        kind = FailureKind.of(failure)
        count = self._counts.setdefault(kind, FailureCount(kind, failure))
        count.times += 1
        return count

    @property
    def counts(self) -> list[FailureCount]:
        """One count for each kind."""
        return list(self._counts.values())

    @property
    def repeated(self) -> list[FailureCount]:
        """The kinds that happened more than once."""
        return [count for count in self.counts if count.times > 1]
