"""Two runs on the same objects, in any order of their requests; and a run that is frozen,
overtaken, and wakes up.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from coalesce.protocol import lease
from coalesce.report.report import Report
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.runs import new_run
from support.scenarios import (
    AuditedBucket,
    check_settled,
    contents,
    grow,
    haunted,
    points,
    prepared,
    readable,
)
from support.schedules import SEEDS, Tally
from support.turns import Turns

PARTS = range(2)


def process(
    bucket: MemoryBucket,
    settings: Settings,
    before: Callable[[Request], Awaitable[None]],
    **more: Callable[[], float],
) -> asyncio.Task[Report]:
    store = MemoryStore(bucket)
    store.before = before
    return asyncio.create_task(new_run(store, settings, **more).coalesce())


@pytest.mark.parametrize("part", PARTS)
async def test_two_runs_that_ignore_each_others_leases_lose_and_repeat_nothing(
    name: str, part: int, tally: Tally
) -> None:
    """The store's clock leaps at every request, so that each finds the other's lease ended.

    The seed in a failure's message replays it.
    """
    tally("interleavings", SEEDS)
    original = readable(contents(prepared(name)[0]))
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        bucket, settings = await haunted(name)
        turns = Turns(seed, bucket)

        async def before(
            request: Request, bucket: AuditedBucket = bucket, turns: Turns = turns
        ) -> None:
            bucket.now += 100
            await turns.before(request)

        both = [process(bucket, settings, before) for _ in range(2)]
        await turns.give_until(both)
        bucket.audit.check(f"seed {seed}")
        for done in both:
            assert done.result().exit_code in (0, 1, 4, 11, 75), f"seed {seed}"
        await check_settled(bucket, settings, original + turns.added, f"seed {seed}", strays=True)


@pytest.mark.parametrize("part", PARTS)
async def test_two_runs_that_keep_their_leases_lose_and_repeat_nothing(
    name: str, part: int, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """One clock for the store and both runs, set on by whoever sleeps: leases are renewed, outlived
    and lost, as the seed decides.
    """
    tally("interleavings", SEEDS)
    original = readable(contents(prepared(name)[0]))
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        bucket, settings = await haunted(name)
        turns = Turns(seed, bucket)
        with monkeypatch.context() as time:
            time.setattr(
                lease,
                "asyncio",
                SimpleNamespace(
                    sleep=turns.sleep,
                    create_task=asyncio.create_task,
                    gather=asyncio.gather,
                    timeout=asyncio.timeout,
                ),
            )
            both = [
                process(bucket, settings, turns.before, clock=lambda bucket=bucket: bucket.now)
                for _ in range(2)
            ]
            await turns.give_until(both)
        bucket.audit.check(f"seed {seed}")
        for done in both:
            assert done.result().exit_code in (0, 1, 4, 11, 75), f"seed {seed}"
        await check_settled(bucket, settings, original + turns.added, f"seed {seed}", strays=True)


@pytest.mark.parametrize(
    "answered", [False, True], ids=["before its request", "with its answer under way"]
)
@pytest.mark.parametrize("respected", [False, True], ids=["lease ignored", "lease respected"])
async def test_a_run_that_was_frozen_and_overtaken_does_no_harm_when_it_wakes_up(
    name: str, respected: bool, answered: bool, tally: Tally
) -> None:
    """For every request of the run: frozen there, its lease ends, another run does the work, and
    then it goes on where it was.

    A run that ignores its lease finds that a source was added meanwhile, so that the other has made
    other outputs. A run that looks at the clock finds its lease ended, and completes and deletes
    nothing that was not already on its way.
    """
    tried = await points(name)
    original = readable(contents(prepared(name)[0]))
    tally("frozen runs", len(tried))
    for number, request in tried:
        context = f"frozen at request {number}: {request.operation} {request.key}"
        bucket, settings = await haunted(name)
        thaw, frozen = asyncio.Event(), asyncio.Event()
        late: list[str] = []

        async def freeze(
            seen: Request,
            number: int = number,
            thaw: asyncio.Event = thaw,
            frozen: asyncio.Event = frozen,
        ) -> None:
            if seen.number >= number:
                frozen.set()
                await thaw.wait()

        async def look(seen: Request, thaw: asyncio.Event = thaw, late: list[str] = late) -> None:
            if thaw.is_set() and seen.key.startswith("data/"):
                late.append(seen.operation)

        async def look_and_freeze(seen: Request, look=look, freeze=freeze) -> None:  # type: ignore[no-untyped-def]
            await look(seen)
            await freeze(seen)

        sleeper = MemoryStore(bucket)
        sleeper.before, sleeper.after = (
            (look, freeze) if answered else (look_and_freeze, sleeper.after)
        )
        clock = {"clock": lambda bucket=bucket: bucket.now} if respected else {}
        task = asyncio.create_task(new_run(sleeper, settings, **clock).coalesce())
        await frozen.wait()
        bucket.now += 1000
        added = Counter[bytes]() if respected else grow(bucket)
        try:
            code = (await new_run(MemoryStore(bucket), settings).coalesce()).exit_code
        finally:
            thaw.set()
        # Without deletes the plan record of the first run stands, and says so.
        assert code in ((0, 4) if settings.delete else (0, 75)), context
        bucket.audit.check(context)
        assert (await task).exit_code in (0, 1, 4, 10, 11, 75), context
        bucket.audit.check(context)
        if respected:
            assert not {"CompleteMultipartUpload", "DeleteObjects", "DeleteObject"} & set(late), (
                context
            )
        await check_settled(bucket, settings, original + added, context, strays=True)
