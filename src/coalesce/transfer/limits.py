"""How much may be under way at once: requests in flight, which find their own level, requests that
are sent a second time, and bytes in memory, which have a fixed one.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

_START = 16
_HIGHEST = 256
_WRITES = 64

_RECORDED = 100_000

# Answers that take so many times as long as the quickest waited for one another, in the store or in
# this process: more requests would only wait longer.
_CROWDED = 1.5
_MUCH_TOO_CROWDED = 4.0
_FALL = 0.7

# The quickest round is forgotten little by little: objects of another size, or another time of day,
# take longer.
_FORGET = 1.02

# A GET is slow after so many seconds, and so many times the median of those before it. S3's own
# advice is to send a small one again after 2 s (S3 User Guide, "Performance guidelines"). That is
# for whoever waits for one object; here each slow one holds up a window of a few hundred.
_SLOW_SECONDS = 0.25
_SLOW_TIMES = 5.0
_REMEMBERED = 128

# One GET in so many is sent a second time at most; what was not used is saved up for so many.
_HEDGED_IN = 50
_SAVED_HEDGES = 64

# What takes long for a longer body may be its length. Together the bodies that are asked for twice
# have no more than so many bytes, beside what the memory of the run holds for them.
_HEDGED_BYTES = 1024**2
_ALL_HEDGED_BYTES = 8 * _HEDGED_BYTES


class Level:
    """How many requests may be in flight. Decided once for each round of as many answers.

    Doubles while answers come as quickly as the quickest ones, then rises by a sixteenth (additive
    increase); falls where the store asks for less, or where answers take much longer
    (multiplicative decrease, RFC 5681). For slow answers alone it does not fall below its start.
    """

    def __init__(self, start: int = _START, highest: int = _HIGHEST) -> None:
        self.limit = min(start, highest)
        self._start = self.limit
        self._highest = highest
        self._doubling = True
        self._quickest = float("inf")
        self._answers = 0
        self._seconds = 0.0

    def answered(self, seconds: float, *, throttled: bool) -> None:
        """One answer, after `seconds`; `throttled` if the store has asked for less since the last
        one.
        """
        self._answers += 1
        self._seconds += seconds
        if throttled:
            self._fall(_FALL, lowest=1)
        elif self._answers >= self.limit:
            self._decide(self._seconds / self._answers)

    def _decide(self, mean: float) -> None:
        self._quickest = min(mean, self._quickest * _FORGET)
        if mean > self._quickest * _MUCH_TOO_CROWDED:
            self._fall(_FALL, lowest=self._start)
            return
        if mean > self._quickest * _CROWDED:
            self._doubling = False
        else:
            self.limit = min(
                self._highest,
                self.limit * 2 if self._doubling else self.limit + max(1, self.limit // 16),
            )
        self._answers, self._seconds = 0, 0.0

    def _fall(self, factor: float, lowest: int) -> None:
        self._doubling = False
        self.limit = min(self.limit, max(lowest, int(self.limit * factor)))
        self._answers, self._seconds = 0, 0.0


class Limiter:
    """Requests of one kind, let through in the order of asking.

    `throttled` counts what the store has refused so far.
    """

    def __init__(self, level: Level, throttled: Callable[[], int]) -> None:
        self.level = level
        self._throttled = throttled
        self._seen = throttled()
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, ahead: bool = False) -> float:
        """Waits for a slot, `ahead` of all that wait already or behind them; returns when it was
        acquired, by the loop's clock in seconds.
        """
        loop = asyncio.get_running_loop()
        if self._busy < self.level.limit and not self._waiting:
            self._busy += 1
            return loop.time()
        turn = loop.create_future()
        if ahead:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._busy -= 1
                self._serve()
            raise
        return loop.time()

    def release(self, acquired: float, *, given_up: bool = False) -> float:
        """Gives back a slot that was acquired at this time; returns for how long it was held.

        That a request was `given_up` for another one says nothing of how many the store bears.
        """
        self._busy -= 1
        seconds = asyncio.get_running_loop().time() - acquired
        if not given_up:
            refused, self._seen = self._throttled() > self._seen, self._throttled()
            self.level.answered(seconds, throttled=refused)
        self._serve()
        return seconds

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One request, as a block."""
        acquired = await self.acquire()
        try:
            yield
        finally:
            self.release(acquired)

    def _serve(self) -> None:
        while self._waiting and self._busy < self.level.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)


class Hedging:
    """Which GETs are sent a second time, so that the first of two answers counts.

    Those that are slow beside the others, as long as they are few: a store that is slow as a whole,
    or has asked for less, is not asked for more. `throttled` counts what it has refused so far.
    """

    def __init__(self, throttled: Callable[[], int]) -> None:
        self._throttled = throttled
        self._seen = throttled()
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._credit = 0  # GETs that were answered and that no hedge has been paid with
        self._bytes = 0

    def answered(self, seconds: float) -> None:
        """One GET has ended after `seconds`, or was given up then for its hedge."""
        self._recent.append(seconds)
        if self._credit < _HEDGED_IN * _SAVED_HEDGES:
            self._credit += 1

    def slow_after(self) -> float:
        """After how many seconds a GET is slow; infinite while none may be hedged."""
        if self._credit < _HEDGED_IN:
            return math.inf
        return max(_SLOW_SECONDS, _SLOW_TIMES * median(self._recent))

    def try_hedge(self, size: int) -> bool:
        """Whether a slow GET of so many bytes is sent a second time; if so, `end` has to follow."""
        if self._throttled() > self._seen:
            self._seen, self._credit = self._throttled(), 0
        if self._credit < _HEDGED_IN or size > _HEDGED_BYTES:
            return False
        if self._bytes + size > _ALL_HEDGED_BYTES:
            return False
        self._credit -= _HEDGED_IN
        self._bytes += size
        return True

    def end(self, size: int) -> None:
        """The second GET of so many bytes has ended."""
        self._bytes -= size


class Budget:
    """Bytes, or anything else that is counted, that may be held at once: granted in the order of
    asking.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, amount: int) -> int:
        """Waits until `amount` is free; returns what was granted, which is what must be released.

        Whoever asks for more than the whole budget is granted the whole.
        """
        granted = min(amount, self.size)
        if not self._waiting and granted <= self.free:
            self.free -= granted
            return granted
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(granted)
            self._serve()
            raise
        return granted

    def release(self, granted: int) -> None:
        """Gives back what was granted, or a part of it."""
        self.free += granted
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            granted, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= granted
                turn.set_result(None)

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[Grant]:
        """`amount` for the length of a block. What was not given back by then is released."""
        grant = Grant(self, await self.acquire(amount))
        try:
            yield grant
        finally:
            grant.give_back(grant.held)


class Grant:
    """What is held of a budget. It can be given back little by little, and never twice."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget, held: int) -> None:
        self._budget = budget
        self.held = held

    def give_back(self, amount: int) -> None:
        """Releases `amount`, or what is left of it."""
        amount = min(amount, self.held)
        self.held -= amount
        self._budget.release(amount)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all groups of a run share.

    `reads` and `writes` are requests in flight, and `hedging` says which reads are sent twice;
    `memory` is for bodies, in bytes. `sources` are those that batches may be about to read, each at
    most half of them: a batch is read before the next but one begins, rather than all at once at
    the end, and the next while its last answers are awaited. `recorded` are those in plan records
    that this run holds in memory.
    """

    reads: Limiter
    writes: Limiter
    hedging: Hedging
    sources: Budget
    recorded: Budget
    memory: Budget

    @classmethod
    def of(cls, concurrency: int, memory: int, throttled: Callable[[], int]) -> Capacity:
        """`concurrency` GETs in flight at most, 0 for as many as the store bears; `memory` in
        bytes; `throttled` counts the store's refusals.
        """
        reads = Level(concurrency, concurrency) if concurrency else Level()
        return cls(
            Limiter(reads, throttled),
            Limiter(Level(highest=_WRITES), throttled),
            Hedging(throttled),
            Budget(2 * (concurrency or _HIGHEST)),
            Budget(_RECORDED),
            Budget(memory),
        )
