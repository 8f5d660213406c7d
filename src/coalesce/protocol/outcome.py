"""What becomes of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coalesce.errors import CoalesceError
from coalesce.model import Delivery, Left
from coalesce.protocol.commit import Committed
from coalesce.protocol.deletion import Deletion


@dataclass(slots=True)
class GroupOutcome:
    """What became of a group. Failures are reported, never raised: the other groups go on.

    `unsettled`: its plan record stays. `stale`: sources were no longer as they were listed, so the
    group is to be listed and planned again. Deliveries are told one by one: a group may take hours.
    """

    tell: Callable[[Delivery], None]
    delivered: int = 0
    left: list[Left] = field(default_factory=list)
    failures: list[CoalesceError] = field(default_factory=list)
    unsettled: bool = False
    stale: bool = False

    def add(self, delivery: Delivery) -> None:
        """One more output that is there and proven."""
        self.delivered += 1
        self.left += delivery.left
        self.tell(delivery)


def delivery(
    committed: Committed,
    deletion: Deletion | None,
    *,
    records: int | None,
    recovered: bool = False,
) -> Delivery:
    """What is reported of a committed batch; `deletion` is None where its sources stay."""
    batch = committed.batch
    return Delivery(
        output=batch.output,
        sources=len(batch.sources),
        size=committed.size,
        records=records,
        first=batch.sources[0].first,
        last=max(source.last for source in batch.sources),
        checksum=committed.crc64,
        deleted=deletion.deleted if deletion else 0,
        freed=deletion.characters if deletion else 0,
        left=deletion.kept if deletion else (),
        recovered=recovered,
    )
