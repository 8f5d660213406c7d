"""What is granted is given back, once and whole, whoever is cancelled in between."""

import asyncio

import pytest

from coalesce.transfer.limits import Budget, Capacity, Level, Limiter


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_memory_that_was_granted_to_a_cancelled_task_is_free_again() -> None:
    budget = Budget(10)
    held = await budget.acquire(10)
    waiting = asyncio.create_task(budget.acquire(7))
    await turns()
    budget.release(held)  # grants it, but the task does not run before it is cancelled
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.free == 10


async def test_whoever_waits_behind_a_cancelled_task_is_served() -> None:
    budget = Budget(10)
    await budget.acquire(5)
    large = asyncio.create_task(budget.acquire(10))
    small = asyncio.create_task(budget.acquire(5))
    await turns()
    assert not small.done(), "in the order of asking"
    large.cancel()
    await turns()
    assert small.done()
    assert budget.free == 0


@pytest.mark.parametrize("amount", [9, 10, 11, 1000])
async def test_a_budget_is_as_large_after_a_request_as_before(amount: int) -> None:
    """Also after one that waited, and after one that is larger than the whole."""
    budget = Budget(10)
    for _ in range(3):
        async with budget.hold(amount):
            other = asyncio.create_task(budget.acquire(amount))
            await turns()
            assert budget.free == 10 - min(amount, 10)
        budget.release(await other)
        assert budget.free == 10


async def test_nobody_overtakes_whoever_waits() -> None:
    """Not even when there is room again before the one that waits has run."""
    level = Level(1, 1)
    limiter = Limiter(level, lambda: 0)
    first = await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await turns()
    level.limit = 3  # has risen, as after quick answers
    late = asyncio.create_task(limiter.acquire())
    await turns()
    assert not late.done()
    limiter.release(first)
    await turns()
    assert waiting.done()
    assert late.done()


@pytest.mark.parametrize("kind", ["reads", "writes"])
async def test_fewer_requests_are_in_flight_once_the_store_refuses(kind: str) -> None:
    refused = 0
    capacity = Capacity.of(0, 2**25, lambda: refused)
    limiter: Limiter = getattr(capacity, kind)
    before = limiter.level.limit
    refused = 1
    async with limiter.slot():
        pass
    assert limiter.level.limit < before
