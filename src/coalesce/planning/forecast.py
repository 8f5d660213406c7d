"""Forecasts what plans will cost: requests, bytes, seconds and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from coalesce.model import Plan
from coalesce.naming.sources import Sources
from coalesce.planning.parts import PART_BYTES, PartSizes
from coalesce.storage.limits import DELETE_PAGE

# Sources whose uploads one undo record names.
UNDO_PAGE = 250

# Measured with `make bench`, over TLS: CPU seconds of one process for each source and each byte;
# and its memory besides the budget, for itself and for text that is deflated again.
_SECONDS_PER_SOURCE = 0.0004
_SECONDS_PER_BYTE = 9.5e-9
_PROCESS_BYTES = 100 * 1024**2
_TEXT_BYTES = 40 * 1024**2


@dataclass(frozen=True, slots=True)
class Forecast:
    """What plans will cost one process.

    Attributes:
        requests: By S3 operation.
        bytes: Bytes of sources to read.
        seconds: Estimated duration.
        memory: Peak memory in bytes.
    """

    requests: dict[str, int]
    bytes: int
    seconds: float
    memory: int


def work_seconds(sources: int, size: int) -> float:
    """Estimates the seconds that one process takes for `sources` sources of `size` bytes in all."""
    return sources * _SECONDS_PER_SOURCE + size * _SECONDS_PER_BYTE


def forecast(plans: Iterable[Plan], memory: int, *, single: bool) -> Forecast:
    """Forecasts a run on a store with full guarantees.

    Left out are retries, and some 60 requests of the run's own probe and lease.

    Args:
        plans: The plans of all groups.
        memory: The budget for bodies in flight, in bytes.
        single: Whether outputs become one gzip member each.
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
            reads = [-(-length // PART_BYTES) for length in sizes]
            requests["GetObject"] += sum(reads)
            requests["PutObject"] += 1  # the ledger entry
            pages = -(-len(batch.sources) // DELETE_PAGE)
            requests["DeleteObjects"] += pages
            # For the content type, for the proof, before each further page of deletes, and for the
            # checksum of a source that is read in ranges.
            requests["HeadObject"] += 1 + pages + sum(count > 1 for count in reads)
    memory += _PROCESS_BYTES + single * _TEXT_BYTES
    return Forecast(requests, size, round(work_seconds(sources, size), 1), memory)


def forecast_undo(outputs: Iterable[tuple[int, int]], memory: int) -> Forecast:
    """Forecasts an undo on a store with full guarantees, as `forecast` does a run.

    Args:
        outputs: Of each output the number of its sources, and its bytes.
        memory: The budget for bodies in flight, in bytes.
    """
    requests: Counter[str] = Counter()
    sources = size = 0
    for count, length in outputs:
        sources += count
        size += length
        # Of each source one upload, and a look at it; it may be of several parts.
        each = dict.fromkeys(("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"), 1)
        requests.update({name: times * count for name, times in each.items()})
        requests["HeadObject"] += count + 4
        requests["GetObject"] += 1 - (-length // PART_BYTES)  # the ledger entry, and the output
        # The undo record, rewritten for each page of uploads and before the delete.
        requests["PutObject"] += 2 - (-count // UNDO_PAGE)
        requests["ListObjectsV2"] += 4
        requests["DeleteObject"] += 3  # the output, its ledger entry, the record
    seconds = round(work_seconds(sources, size), 1)
    return Forecast(dict(requests), size, seconds, memory + _PROCESS_BYTES)
