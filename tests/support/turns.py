"""One request of all processes at a time, in an order that a seed decides."""

import asyncio
import random
from collections import Counter

from coalesce.report.report import Report
from coalesce.storage.memory import Request
from support.scenarios import AuditedBucket, grow


class Turns:
    """Lets one request of all processes through at a time, in an order that a seed decides.

    Whoever sleeps gets its turn too: the clock is then set on.

    At one of the turns a producer adds a source, so that not all processes plan the same.
    """

    def __init__(self, seed: int, bucket: AuditedBucket) -> None:
        self._chance = random.Random(seed)
        self.added: Counter[bytes] = Counter()
        self._grows_in = self._chance.randrange(300)
        self._bucket = bucket
        self._requests: list[asyncio.Future[None]] = []
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def before(self, _: Request) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._requests.append(turn)
        await turn

    async def sleep(self, seconds: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._bucket.now + seconds, turn))
        await turn

    async def give_until(self, processes: list[asyncio.Task[Report]]) -> None:
        while not all(process.done() for process in processes):
            idle = 0
            # until every process waits for its turn, or for another of its own requests
            while idle < 4:
                before = len(self._requests)
                await asyncio.sleep(0)
                idle = idle + 1 if len(self._requests) == before else 0
            self._give_one()

    def _give_one(self) -> None:
        self._grows_in -= 1
        if self._grows_in == 0:
            self.added = grow(self._bucket)
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
        if self._sleepers and (not self._requests or self._chance.random() < 0.05):
            due, turn = self._sleepers.pop(self._chance.randrange(len(self._sleepers)))
            self._bucket.now = max(self._bucket.now, due)
        elif self._requests:
            turn = self._requests.pop(self._chance.randrange(len(self._requests)))
        else:
            return
        if not turn.done():
            turn.set_result(None)
