"""Two runs on the same objects, in any order of their requests; and a run that is frozen, overtaken, and wakes up."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from coalesce.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from scenarios import SCENARIOS, check_settled, contents, points, prepared, readable

SEEDS = int(os.environ.get("COALESCE_TEST_SEEDS", "25"))  # per part: more of them cost only time


class Turns:
    """Lets one request of all processes through at a time, in an order that a seed decides."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._waiting: list[asyncio.Future[None]] = []

    async def before(self, _: Request) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    async def give_until(self, processes: list[asyncio.Task[object]], check: Callable[[], None]) -> None:
        while not all(process.done() for process in processes):
            idle = 0
            while idle < 4:  # until every process waits for its turn, or for another of its own requests
                before = len(self._waiting)
                await asyncio.sleep(0)
                idle = idle + 1 if len(self._waiting) == before else 0
            check()
            if self._waiting:
                turn = self._waiting.pop(self._chance.randrange(len(self._waiting)))
                if not turn.done():
                    turn.set_result(None)


def process(bucket: MemoryBucket, settings: Settings, before: Callable[[Request], Awaitable[None]]) -> asyncio.Task[object]:
    store = MemoryStore(bucket)
    store.before = before
    return asyncio.create_task(Run(store, settings).coalesce())


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", ["two groups of several outputs", "a spoilt source among others", "a name that is taken"])
async def test_two_runs_that_ignore_each_others_leases_lose_and_repeat_nothing(name: str, part: int) -> None:
    """The store's clock leaps at every request, so that each finds the other's lease ended. The seed in a failure's message replays it."""
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        bucket, settings = prepared(name)
        original = readable(contents(bucket))
        turns = Turns(seed)

        async def before(request: Request, bucket: MemoryBucket = bucket, turns: Turns = turns) -> None:
            bucket.now += 100
            await turns.before(request)

        def check(bucket: MemoryBucket = bucket, original: Counter[bytes] = original, seed: int = seed) -> None:
            assert not original - readable(contents(bucket)), f"seed {seed}: a record cannot be read"

        both = [process(bucket, settings, before) for _ in range(2)]
        await turns.give_until(both, check)
        for done in both:
            assert done.result().exit_code in (0, 1, 4, 11, 75), f"seed {seed}"  # type: ignore[attr-defined]
        await check_settled(bucket, settings, original, f"seed {seed}")


@pytest.mark.parametrize("answered", [False, True], ids=["before its request", "with its answer under way"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_run_that_was_frozen_and_overtaken_does_no_harm_when_it_wakes_up(name: str, answered: bool) -> None:
    """For every request of the run: frozen there, its lease ends, another run does the work, and then it goes on where it was."""
    for number, request in await points(name):
        context = f"frozen at request {number}: {request.operation} {request.key}"
        bucket, settings = prepared(name)
        original = readable(contents(bucket))
        thaw, frozen = asyncio.Event(), asyncio.Event()

        async def freeze(seen: Request, number: int = number, thaw: asyncio.Event = thaw, frozen: asyncio.Event = frozen) -> None:
            if seen.number >= number:
                frozen.set()
                await thaw.wait()

        sleeper = MemoryStore(bucket)
        if answered:
            sleeper.after = freeze
        else:
            sleeper.before = freeze
        task = asyncio.create_task(Run(sleeper, settings).coalesce())
        await frozen.wait()
        bucket.now += 1000
        assert (await Run(MemoryStore(bucket), settings).coalesce()).exit_code in (0, 4), context
        assert readable(contents(bucket)) == original, context
        thaw.set()
        assert (await task).exit_code in (0, 1, 4, 10, 11, 75), context
        assert not original - readable(contents(bucket)), context
        await check_settled(bucket, settings, original, context)
