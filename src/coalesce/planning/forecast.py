"""What plans will cost: requests, bytes, seconds, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coalesce.model import (
    Plan,
)
from coalesce.naming.sources import Sources
from coalesce.planning.parts import PART_BYTES, PartSizes
from coalesce.storage.limits import (
    DELETE_PAGE,
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What working off plans will ask of the store, by S3 operation, and of the machine: bytes
    read, seconds, bytes of memory.
    """

    requests: dict[str, int]
    bytes: int
    seconds: float
    memory: int


# Measured on loopback with `make bench`: CPU seconds per source object and per byte that one
# process spends, and its memory besides the budget.
_SECONDS_PER_SOURCE = 0.0015


_SECONDS_PER_BYTE = 4e-9


_PROCESS_BYTES = 100 * 1024**2


def work_seconds(sources: int, size: int) -> float:
    """How long one process takes for so many sources of so many bytes in all."""
    return sources * _SECONDS_PER_SOURCE + size * _SECONDS_PER_BYTE


def forecast(plans: Iterable[Plan], memory: int) -> Forecast:
    """What a run at full guarantees will cost.

    Its own probe and lease, some 60 requests, are left out; retries too.
    """
    requests = dict.fromkeys(
        (
            "CreateMultipartUpload",
            "CompleteMultipartUpload",
            "UploadPart",
            "GetObject",
            "HeadObject",
            "DeleteObjects",
            "DeleteObject",
            "PutObject",
        ),
        0,
    )
    sources = size = 0
    for plan in plans:
        requests["PutObject"] += bool(plan.batches)
        requests["DeleteObject"] += bool(plan.batches)
        for batch in plan.batches:
            sources += len(batch.sources)
            size += batch.size
            requests["CreateMultipartUpload"] += 1
            requests["CompleteMultipartUpload"] += 1
            requests["UploadPart"] += -(-batch.size // PartSizes().of_output(batch.size))
            sizes = Sources.of(plan.group.prefix, batch.sources).sizes()
            ranges = [-(-size // PART_BYTES) for size in sizes]
            requests["GetObject"] += sum(ranges)
            requests["HeadObject"] += 2 + sum(count > 1 for count in ranges)
            requests["DeleteObjects"] += -(-len(batch.sources) // DELETE_PAGE)
    return Forecast(requests, size, round(work_seconds(sources, size), 1), memory + _PROCESS_BYTES)
