"""What this process may use of its machine, and what it has used."""

from __future__ import annotations

import math
import os
import resource
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from coalesce.storage.base import Usage
from coalesce.transfer.limits import Capacity

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_STATUS = Path("/proc/self/status")


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container (cgroup v2,
    cpu.max).
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


def cpu_seconds() -> float:
    """User and system time so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def peak_rss_bytes() -> int:
    """Getrusage's figure starts from that of the process which started this one; Linux knows better
    (proc(5), VmHWM).
    """
    with suppress(OSError), _STATUS.open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(slots=True)
class Spent:
    """What a process has asked of the store and taken of the machine so far; `reads` and `writes`
    are the requests in flight that it now allows itself.
    """

    usage: Usage = field(default_factory=Usage)
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    reads: int = 0
    writes: int = 0

    @classmethod
    def by_this_process(cls, usage: Usage, capacity: Capacity | None = None) -> Spent:
        """As of now; `capacity` is what it works on groups with."""
        reads, writes = (
            (capacity.reads.level.limit, capacity.writes.level.limit) if capacity else (0, 0)
        )
        return cls(usage, cpu_seconds(), peak_rss_bytes(), reads, writes)

    def add(self, other: Spent) -> None:
        """What another process has spent."""
        self.usage.add(other.usage)
        self.cpu_seconds += other.cpu_seconds
        self.peak_rss_bytes += other.peak_rss_bytes
        self.reads += other.reads
        self.writes += other.writes
