"""The clock of leases and deadlines."""

from __future__ import annotations

import sys
import time


def boottime() -> float:
    """Returns seconds that never go back and go on while the machine sleeps.

    A lease held against a clock that stands still in a suspended machine would outlive itself: the
    store's clock, by which other runs judge it, goes on. All processes of a machine see the same
    seconds.

    Sources: clock_gettime(2) (CLOCK_BOOTTIME is CLOCK_MONOTONIC and the time suspended); Darwin's
    clock_gettime(3) (CLOCK_MONOTONIC "will continue to increment while the system is asleep", and
    `time.monotonic` does not read that one).
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()
