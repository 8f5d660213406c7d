"""A GET that takes much longer than others is sent a second time, and the first answer counts."""

import asyncio
import gzip
from collections import Counter
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import StorageError, Unavailable
from coalesce.model import Source, Span
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import open_s3
from coalesce.transfer.limits import Capacity, Hedging, Level, Limiter
from coalesce.transfer.reads import HedgedReader
from support.buckets import contents, records_in
from support.runs import new_run
from support.scripted import EMPTY_LISTING, Peer, answer, serving
from support.settings import settings
from support.timeless import Timeless

T = TypeVar("T")

MIB = 1024**2
KEY = "data/t_0_0-0.jsonl.gz"
LATENCY = 0.03
HELD = 3.0


def in_virtual_time(bucket: MemoryBucket, job: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """What the job returns, and how many seconds it took if it had waited."""

    async def timed() -> tuple[T, float]:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(3600):  # who waits for ever fails at once
            return await job(), asyncio.get_running_loop().time() - began

    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        return runner.run(timed())


# --- deciding


def after(answers: int, seconds: float = LATENCY, throttled: Callable[[], int] = int) -> Hedging:
    """After so many answers."""
    hedging = Hedging(throttled)
    for _ in range(answers):
        hedging.answered(seconds)
    return hedging


@given(
    st.lists(
        st.one_of(
            st.floats(0.001, 30), st.integers(1, 2 * MIB), st.sampled_from(["end", "refuse"])
        ),
        max_size=600,
    ),
    st.integers(0, 4000),
)
def test_whatever_happens_one_request_in_fifty_is_sent_twice_and_8_mib_are_held_at_most(
    events: list[float | int | str], before: int
) -> None:
    refused, answered, hedged = 0, before, 0
    hedging = after(before, throttled=lambda: refused)
    seconds = [LATENCY] * before
    held: list[int] = []
    for event in events:
        match event:
            case float():
                hedging.answered(event)
                seconds.append(event)
                answered += 1
            case int():
                if hedging.try_hedge(event):
                    assert event <= MIB
                    hedged += 1
                    held.append(event)
            case "end" if held:
                hedging.end(held.pop())
            case "refuse":
                refused += 1
        assert hedged * 50 <= answered
        assert sum(held) <= 8 * MIB
        slow = hedging.slow_after()
        assert slow >= max(0.25, 5 * median(seconds[-128:] or [0.0])) or answered < 50


def test_nothing_is_slow_before_fifty_answers_have_shown_what_is_usual() -> None:
    assert after(49).slow_after() == float("inf")
    assert not after(49).try_hedge(10)
    assert after(50).slow_after() == 0.25
    assert after(50).try_hedge(10)


def test_on_a_store_that_is_slow_as_a_whole_a_slow_answer_is_nothing_special() -> None:
    assert after(50, 2.0).slow_after() == 10.0


def test_a_store_that_has_asked_for_less_is_asked_for_nothing_twice_for_fifty_answers() -> None:
    refused = 0
    hedging = after(500, throttled=lambda: refused)
    refused = 1
    assert not hedging.try_hedge(10)
    for _ in range(49):
        hedging.answered(LATENCY)
    assert not hedging.try_hedge(10)
    hedging.answered(LATENCY)
    assert hedging.try_hedge(10)


def test_a_body_of_more_than_a_mebibyte_is_never_asked_for_twice() -> None:
    assert not after(500).try_hedge(MIB + 1)
    assert after(500).try_hedge(MIB)


def test_one_of_fifty_answered_gets_may_be_sent_twice() -> None:
    hedging = after(149)
    assert [hedging.try_hedge(10) for _ in range(3)] == [True, True, False]


def test_bodies_that_are_asked_for_twice_have_8_mib_together() -> None:
    hedging = after(5000)
    assert sum(hedging.try_hedge(MIB) for _ in range(20)) == 8
    hedging.end(MIB)
    assert hedging.try_hedge(MIB)


def test_what_was_saved_up_is_64_requests_at_most() -> None:
    hedging = after(1_000_000)
    assert sum(hedging.try_hedge(10) for _ in range(100)) == 64


async def test_whoever_goes_ahead_is_served_before_all_that_wait_already() -> None:
    limiter = Limiter(Level(1, 1), lambda: 0)
    first = await limiter.acquire()
    order: list[str] = []

    async def one(name: str, ahead: bool) -> None:
        acquired = await limiter.acquire(ahead=ahead)
        order.append(name)
        limiter.release(acquired)

    waiting = [asyncio.create_task(one(*who)) for who in (("a", False), ("b", False), ("c", True))]
    await asyncio.sleep(0)
    limiter.release(first)
    await asyncio.gather(*waiting)
    assert order == ["c", "a", "b"]


# --- a whole run


def run_with(held: Callable[[int], bool], count: int = 3000) -> tuple[MemoryStore, float]:
    """Joins so many sources, of which some are held when they are read first; the seconds that it
    would take.
    """
    bucket = MemoryBucket()
    for n in range(count):
        key = f"data/t_{n % 4}_{n}-{n}.jsonl.gz"
        bucket.store(key, gzip.compress(b'{"n": %d}\n' % n, mtime=0))
    bucket.now += 1000
    before = records_in(contents(bucket))
    store = MemoryStore(bucket)
    asked: set[str] = set()

    async def hold(request: Request) -> None:
        seconds, key = LATENCY, request.key
        if request.operation == "GetObject" and key.startswith("data/") and key not in asked:
            asked.add(key)
            seconds += HELD if held(len(asked)) else 0
        await asyncio.sleep(seconds)

    store.before = hold
    report, seconds = in_virtual_time(bucket, new_run(store, settings(gzip="members")).coalesce)
    assert report.exit_code == 0
    assert records_in(contents(bucket)) == before
    assert report.requests["GetObject"] == store.usage.requests["GetObject"]
    return store, seconds


def test_with_one_get_in_a_hundred_3_s_later_a_run_hardly_takes_longer() -> None:
    """And at most one GET in fifty is sent a second time."""
    plain, usual = run_with(lambda _: False)
    store, seconds = run_with(lambda n: n % 100 == 70)
    hedged = store.usage.requests["GetObject"] - plain.usage.requests["GetObject"]
    assert 20 <= hedged <= 60
    assert seconds <= 1.3 * usual


def test_on_a_usual_night_nothing_is_asked_for_twice() -> None:
    store, _ = run_with(lambda _: False, 1000)
    reads = Counter(store.usage.requests)["GetObject"]
    slow, _ = run_with(lambda n: n % 2 == 0, 1000)  # as slow as all others: no tail
    assert slow.usage.requests["GetObject"] <= 1.02 * reads


# --- one GET and its hedge


class Scene:
    """One source, whose first GET and second GET take so long, and then fail or not."""

    def __init__(self, concurrency: int = 4) -> None:
        self.bucket = MemoryBucket()
        etag = self.bucket.store(KEY, b"body")
        self.source = Source(KEY, 4, etag, self.bucket.now, "STANDARD", 0, 0)
        self.store = MemoryStore(self.bucket)
        self.store.before = self._before
        self.capacity = Capacity.of(concurrency, MIB, lambda: 0)
        for _ in range(200):
            self.capacity.hedging.answered(LATENCY)
        self.plan: list[tuple[float, BaseException | None]] = []
        self.sent = 0
        self.most = self.in_flight = 0
        self.levels: list[float] = []
        answered = self.capacity.reads.level.answered

        def note(seconds: float, *, throttled: bool) -> None:
            self.levels.append(seconds)
            answered(seconds, throttled=throttled)

        self.capacity.reads.level.answered = note  # type: ignore[method-assign]

    async def _before(self, _: Request) -> None:
        seconds, error = self.plan[self.sent]
        self.sent += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
        if error is not None:
            raise error

    async def read(self) -> bytes:
        reader = HedgedReader(self.store, self.capacity)
        task = asyncio.create_task(reader.read(Span(self.source, 0, 4)))
        try:
            return (await task).data
        finally:
            await self.all_is_given_back()
            assert not task.cancelling()

    async def all_is_given_back(self) -> None:
        assert self.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert self.capacity.reads._busy == 0
        assert self.capacity.hedging._bytes == 0

    def play(self, *plan: tuple[float, BaseException | None]) -> tuple[bytes, float]:
        self.plan = list(plan)
        return in_virtual_time(self.bucket, self.read)


FIRST, SECOND = Unavailable("the first"), Unavailable("the second")


def test_the_second_answer_counts_if_it_comes_first_and_the_first_request_is_ended() -> None:
    scene = Scene()
    body, seconds = scene.play((3, None), (LATENCY, None))
    assert body == b"body"
    assert seconds < 0.4
    assert scene.levels == pytest.approx([LATENCY]), "what was replaced says nothing of the store"


def test_the_first_answer_counts_if_it_comes_first_and_the_second_request_is_ended() -> None:
    scene = Scene()
    body, seconds = scene.play((0.5, None), (3, None))
    assert (body, seconds) == (b"body", pytest.approx(0.5))
    assert scene.levels == pytest.approx([0.5])


@pytest.mark.parametrize(("first", "second"), [((1, FIRST), (2, None)), ((2, None), (0.1, SECOND))])
def test_if_one_of_the_two_fails_the_other_counts(first: Any, second: Any) -> None:
    scene = Scene()
    body, seconds = scene.play(first, second)
    assert body == b"body"
    assert 2 <= seconds < 2.4
    assert scene.sent == 2


@pytest.mark.parametrize("second", [0.1, 2])
def test_if_both_fail_the_first_error_counts(second: float) -> None:
    scene = Scene()
    with pytest.raises(StorageError, match="the first"):
        scene.play((1, FIRST), (second, SECOND))
    assert scene.sent == 2


def test_a_get_is_sent_twice_and_no_third_time() -> None:
    scene = Scene()
    assert scene.play((30, None), (0.1, SECOND))[1] == pytest.approx(30)
    assert scene.sent == 2


@pytest.mark.parametrize("error", [None, FIRST])
def test_where_one_request_may_be_in_flight_there_are_never_two_and_nobody_waits_for_ever(
    error: BaseException | None,
) -> None:
    """A second one is sent only once the first has failed."""
    scene = Scene(concurrency=1)
    body, seconds = scene.play((3, error), (LATENCY, None))
    assert body == b"body"
    assert 2.99 < seconds < 3.1
    assert scene.most == 1
    assert scene.sent == (1 if error is None else 2)


@pytest.mark.parametrize("at", [0.1, 0.25, 0.3, 0.31, 0.33])
def test_a_batch_that_is_given_up_leaves_neither_request_behind(at: float) -> None:
    scene = Scene()
    scene.plan = [(3, None), (LATENCY, None)]

    async def give_up() -> None:
        asyncio.get_running_loop().call_later(at, asyncio.current_task().cancel)  # type: ignore[union-attr]
        with pytest.raises(asyncio.CancelledError):
            reader = HedgedReader(scene.store, scene.capacity)
            await reader.read(Span(scene.source, 0, 4))
            await asyncio.sleep(60)  # the answer came first: nothing is left to give up
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
        await scene.all_is_given_back()

    in_virtual_time(scene.bucket, give_up)


def test_a_batch_that_is_given_up_when_the_second_answer_comes_is_given_up() -> None:
    scene = Scene()

    async def give_up() -> None:
        reader = HedgedReader(scene.store, scene.capacity)
        task = asyncio.create_task(reader.read(Span(scene.source, 0, 4)))

        async def before(_: Request) -> None:
            scene.sent += 1
            if scene.sent == 1:
                await asyncio.sleep(3)
            else:
                task.cancel()

        scene.store.before = before
        with pytest.raises(asyncio.CancelledError):
            await task
        await scene.all_is_given_back()

    in_virtual_time(scene.bucket, give_up)
    assert scene.sent == 2


def test_an_answer_that_comes_while_it_is_looked_for_leaves_nothing_behind() -> None:
    """The hedge then ends before it has begun."""
    scene = Scene()

    async def job() -> bytes:
        reader = HedgedReader(scene.store, scene.capacity)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Timeless)
        first = asyncio.create_task(reader.read(Span(scene.source, 0, 4)))
        await asyncio.sleep(0.01)
        loop.leap(5)  # this process was not running for so long
        body = await first
        await scene.all_is_given_back()
        return body.data

    scene.plan = [(5, None), (1, None)]
    assert in_virtual_time(scene.bucket, job)[0] == b"body"


# --- on the wire


async def test_the_connection_of_the_request_that_was_given_up_is_closed() -> None:
    held = 0
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal held
        while True:
            request = await peer.request()
            if request.locates:
                await peer.send(answer(EMPTY_LISTING))
            elif not held:
                held += 1
                assert await peer.ended() == b""
                closed.set()
                return
            else:
                assert request.headers["if-match"] == '"e"'
                await peer.send(answer(b"body", etag='"e"'))

    async with serving(script) as server, open_s3(server.options()) as store, asyncio.timeout(30):
        capacity = Capacity.of(0, MIB, lambda: 0)
        for _ in range(50):
            capacity.hedging.answered(LATENCY)
        source = Source(KEY, 4, '"e"', 0.0, "STANDARD", 0, 0)
        body = await HedgedReader(store, capacity).read(Span(source, 0, 4))
        assert body.data == b"body"
        await closed.wait()
        assert store.usage.requests["GetObject"] == 2
