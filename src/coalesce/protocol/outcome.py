"""What becomes of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coalesce.errors import (
    Archived,
    CoalesceError,
    SourceChanged,
)
from coalesce.model import CommittedOutput, Kept, Why
from coalesce.protocol.commit import (
    Committed,
)


@dataclass(slots=True)
class GroupOutcome:
    """What became of a group. Failures are reported, never raised: the other groups go on.

    `unsettled`: its plan record stays.

    Outputs are told one by one: a group may take hours.
    """

    tell: Callable[[CommittedOutput], None]
    outputs: int = 0
    kept: list[Kept] = field(default_factory=list)
    failures: list[CoalesceError] = field(default_factory=list)
    unsettled: bool = False

    def add(self, output: CommittedOutput) -> None:
        """One more output that is there and proven."""
        self.outputs += 1
        self.kept += output.kept
        self.tell(output)


def committed_output(
    committed: Committed,
    deleted: int,
    left: tuple[Kept, ...],
    *,
    records: int | None,
    recovered: bool = False,
) -> CommittedOutput:
    """What is reported of a committed batch."""
    batch = committed.batch
    first, last = batch.sources[0].first, max(source.last for source in batch.sources)
    kept = {entry.key for entry in left}
    freed = (
        sum(len(source.key) for source in batch.sources if source.key not in kept) if deleted else 0
    )
    return CommittedOutput(
        batch.output,
        len(batch.sources),
        committed.size,
        records,
        first,
        last,
        committed.checksum,
        deleted,
        freed,
        left,
        recovered,
    )


def why_left(error: CoalesceError) -> Why:
    """The report's word for a source that could not be joined."""
    if isinstance(error, SourceChanged):
        return Why.CHANGED
    return Why.ARCHIVED if isinstance(error, Archived) else Why.CORRUPT
