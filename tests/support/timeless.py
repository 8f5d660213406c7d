"""An event loop on which nobody waits."""

import asyncio

from coalesce.storage.memory import MemoryBucket


class Timeless(asyncio.SelectorEventLoop):
    """When all sleep, its clock leaps to whoever wakes up first, and the bucket's clock with it."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__()
        self._bucket = bucket
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def leap(self, seconds: float) -> None:
        self._now += seconds
        self._bucket.now += seconds

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = self._scheduled  # type: ignore[attr-defined]
            due = (timer.when() for timer in timers if not timer.cancelled())
            self.leap(max(0.0, min(due, default=self._now) - self._now))
        super()._run_once()  # type: ignore[misc]
