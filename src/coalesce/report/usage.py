"""The CPUs that a process may use, and the resources that it has used."""

from __future__ import annotations

import math
import os
import resource
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coalesce.storage.base import Usage
from coalesce.transfer.limits import Capacity

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PROCESS_STATUS = Path("/proc/self/status")


def usable_cpus() -> int:
    """Returns how many CPUs this process may use, at least 1.

    Its CPU affinity limits them, and so does the quota of its container (cgroup v2).
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = _CGROUP_QUOTA.read_text().split()
        cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


def cpu_seconds() -> float:
    """Returns the user and system CPU time of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def peak_rss_bytes() -> int:
    """Returns the largest resident memory of this process so far.

    From VmHWM (proc(5)) where there is one: getrusage starts from the peak of the parent process.
    """
    with suppress(OSError), _PROCESS_STATUS.open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(slots=True)
class ProcessUsage:
    """What one process, or several together, have used so far.

    Attributes:
        store: Requests and bytes.
        peak_rss_bytes: The peak of each process, added up.
        reads: GETs that it now allows itself in flight.
        writes: Uploads that it now allows itself in flight.
    """

    store: Usage = field(default_factory=Usage)
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    reads: int = 0
    writes: int = 0

    @classmethod
    def of_this_process(cls, store: Usage, capacity: Capacity | None = None) -> ProcessUsage:
        """Returns the usage as of now; `capacity` is None if this process transfers nothing."""
        reads, writes = (
            (capacity.reads.level.limit, capacity.writes.level.limit) if capacity else (0, 0)
        )
        return cls(store, cpu_seconds(), peak_rss_bytes(), reads, writes)

    def add(self, other: ProcessUsage) -> None:
        """Adds what another process has used."""
        self.store.add(other.store)
        self.cpu_seconds += other.cpu_seconds
        self.peak_rss_bytes += other.peak_rss_bytes
        self.reads += other.reads
        self.writes += other.writes
