"""What becomes of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coalesce.errors import CoalesceError
from coalesce.model import CommittedOutput, Kept, UndoneOutput
from coalesce.naming.layout_data import Offsets
from coalesce.naming.sources import offsets_of
from coalesce.protocol.commit import Committed
from coalesce.protocol.deletion import Deletion


@dataclass(slots=True)
class GroupOutcome:
    """What became of a group. Failures are reported, never raised: the other groups go on.

    Attributes:
        on_output: Takes each output as it is proven: a group may take hours.
        outputs: How many there are so far.
        joined: How many sources went into them, and are not kept.
        gone: How many of their sources are gone.
        characters: By how many characters the keys of the group have become more.
        more: How many more sources its second listing has shown than were left of its first.
        kept: Sources that stay, and why.
        failures: What went wrong.
        unsettled: Its plan record stays.
        undone: Outputs that were given back as their sources.
        unlike: What one says of itself that is not joined with its neighbours, in words.
        stale: Sources were no longer as they were listed: the group is to be listed again.
    """

    on_output: Callable[[CommittedOutput], None]
    outputs: int = 0
    joined: int = 0
    gone: int = 0
    characters: int = 0
    more: int = 0
    kept: list[Kept] = field(default_factory=list)
    failures: list[CoalesceError] = field(default_factory=list)
    undone: list[UndoneOutput] = field(default_factory=list)
    unsettled: bool = False
    stale: bool = False
    unlike: str = ""

    def add(self, output: CommittedOutput) -> None:
        """Adds an output that is there and proven."""
        self.outputs += 1
        self.joined += output.joined
        self.gone += output.gone
        self.characters += len(output.key) - output.freed
        self.kept += output.kept
        self.on_output(output)


def committed_output(
    committed: Committed,
    deletion: Deletion | None,
    *,
    records: int | None,
    offsets: Offsets,
    recovered: bool = False,
) -> CommittedOutput:
    """Returns what is reported of a committed batch; `deletion` is None where its sources stay, and
    `offsets` what their names say.
    """
    batch = committed.batch
    last = max(last for _, last in offsets_of(batch.sources))
    return CommittedOutput(
        key=batch.output,
        sources=len(batch.sources),
        size=committed.size,
        records=records,
        first=None if offsets is Offsets.NONE else batch.sources[0].first,
        last=last if offsets is Offsets.RANGE else None,
        checksum=committed.crc64,
        deleted=deletion.deleted if deletion else 0,
        gone=deletion.gone if deletion else 0,
        freed=deletion.characters if deletion else 0,
        kept=deletion.kept if deletion else (),
        recovered=recovered,
        unreached=deletion.unreached if deletion else 0,
    )
