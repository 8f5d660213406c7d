"""How many requests are in flight: as many as the store and this process bear, in the order of
asking.
"""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.transfer.limits import Budget, Level, Limiter


def rounds(level: Level, seconds: float, count: int) -> None:
    for _ in range(count):
        for _ in range(level.limit):
            level.answered(seconds, throttled=False)


def test_quick_answers_let_it_rise_to_the_most_there_may_be() -> None:
    level = Level(16, highest=256)
    rounds(level, 0.03, 5)
    assert level.limit == 256


def test_answers_that_wait_for_one_another_let_it_stay() -> None:
    level = Level(16, highest=256)
    rounds(level, 0.01, 1)
    rounds(level, 0.02, 5)
    assert level.limit == 32


def test_a_refusal_lets_it_fall_at_once_and_good_answers_let_it_rise_again() -> None:
    level = Level(16, highest=256)
    rounds(level, 0.03, 4)
    before = level.limit
    level.answered(0.03, throttled=True)
    fallen = level.limit
    assert fallen < before
    rounds(level, 0.03, 1)
    assert fallen < level.limit < before


@given(
    st.lists(st.tuples(st.floats(0.0001, 10), st.booleans()), max_size=300),
    st.integers(1, 64),
    st.integers(1, 300),
)
def test_whatever_is_answered_it_stays_between_one_and_its_highest(
    answers: list[tuple[float, bool]], start: int, highest: int
) -> None:
    level = Level(start, highest)
    for seconds, throttled in answers:
        level.answered(seconds, throttled=throttled)
        assert 1 <= level.limit <= highest


async def test_turns_come_in_the_order_of_asking_and_a_cancelled_one_is_not_lost() -> None:
    limiter = Limiter(Level(1, 1), lambda: 0)
    order: list[int] = []

    async def one(number: int) -> None:
        async with limiter.slot():
            order.append(number)
            await asyncio.sleep(0)

    first = await limiter.acquire()
    waiting = [asyncio.create_task(one(n)) for n in range(4)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    limiter.release(first)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3]


async def test_a_turn_given_to_one_that_is_cancelled_goes_to_the_next() -> None:
    limiter = Limiter(Level(1, 1), lambda: 0)
    first = await limiter.acquire()
    second, third = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    limiter.release(first)
    second.cancel()
    async with asyncio.timeout(10):
        await third
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_budget_is_never_overdrawn_and_is_whole_again_in_the_end() -> None:
    budget = Budget(10)
    held = most = 0

    async def one(amount: int) -> None:
        nonlocal held, most
        async with budget.hold(amount):
            held += min(amount, 10)
            most = max(most, held)
            await asyncio.sleep(0)
            held -= min(amount, 10)

    await asyncio.gather(*(one(amount) for amount in (3, 9, 1, 25, 4, 4, 10)))
    async with asyncio.timeout(10):
        assert await budget.acquire(25) == 10
    assert most == 10
    assert budget.free == 0
    budget.release(10)
    assert budget.free == budget.size


async def test_a_grant_is_given_back_little_by_little_and_whole_at_the_end_of_its_block() -> None:
    budget = Budget(10)
    async with budget.hold(8) as grant:
        grant.give_back(5)
        assert (grant.held, budget.free) == (3, 7)
    assert budget.free == 10
    grant.give_back(3)
    assert budget.free == 10
