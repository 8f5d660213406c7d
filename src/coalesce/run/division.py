"""How the work of a run is divided: over how many processes, and which groups they share.

The work is estimated in seconds of CPU, from what a listing shows.
"""

from __future__ import annotations

from coalesce.model import Group, Plan
from coalesce.naming.sources import Sources
from coalesce.report.usage import usable_cpus

# With less memory than this, a process could not hold two parts and a read beside them.
_MIN_MEMORY_BYTES = 32 * 1024**2

# What it takes to join a source, each of its bytes, and to write the record, the ledger entries and
# the outputs of a group.
_SOURCE_SECONDS = 0.25e-3
_BYTE_SECONDS = 6e-9
_GROUP_SECONDS = 3e-3

# Work for which one more process is worth its start: a tenth of this.
_LEAST_SECONDS = 1.0

# A group of more work than this part of a process's share is shared: whichever process gets the
# last group that is not, ends at most so much later than the others.
_EVEN = 4


def most_processes(wanted: int, memory: int) -> int:
    """Returns how many processes a run may take: `wanted`, or one for each CPU if that is 0.

    No more than its `memory`, in bytes, is enough for; at least 1.
    """
    return max(1, min(wanted or usable_cpus(), memory // _MIN_MEMORY_BYTES))


def work_of(group: Group) -> float:
    """Returns the work that a group is."""
    sizes = Sources.of(group.id.prefix, group.sources).sizes()
    return _seconds(len(group.sources), sum(sizes))


def processes_worth(work: float, most: int) -> int:
    """Returns how many processes so much work is worth, from 1 to `most`."""
    return max(1, min(int(work / _LEAST_SECONDS), most))


def is_shared(plan: Plan, work: float, processes: int) -> bool:
    """Returns whether all of so many processes transfer the batches of a group, rather than one.

    `work` is that of all groups that are listed, this one included.
    """
    sources = sum(len(batch.sources) for batch in plan.batches)
    own = _seconds(sources, sum(batch.size for batch in plan.batches))
    return len(plan.batches) > 1 and own * processes * _EVEN > work


def _seconds(sources: int, size: int) -> float:
    """The work of a group of so many sources, of `size` bytes in all."""
    return _GROUP_SECONDS + sources * _SOURCE_SECONDS + size * _BYTE_SECONDS
