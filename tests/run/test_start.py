"""What a user waits for before a run reads its first source, on a store that is far away."""

import asyncio

from coalesce.report.report import Report
from coalesce.storage.memory import MemoryStore, Request
from support.nights import one_group
from support.runs import new_run
from support.settings import settings


class Rounds:
    """A store's latency: requests are answered in rounds, all that are in flight at once."""

    def __init__(self) -> None:
        self.answered = 0
        self.before_a_source: int | None = None
        self._in_flight: list[asyncio.Future[None]] = []

    async def before(self, request: Request) -> None:
        if request.operation == "GetObject" and request.key.startswith("data/"):
            self.before_a_source = self.before_a_source or self.answered
        answer = asyncio.get_running_loop().create_future()
        self._in_flight.append(answer)
        await answer

    async def answer_until(self, run: asyncio.Task[Report]) -> None:
        while not run.done():
            for _ in range(100):  # whoever can send a request has sent it by then
                await asyncio.sleep(0)
            in_flight, self._in_flight = self._in_flight, []
            self.answered += bool(in_flight)
            for answer in in_flight:
                answer.set_result(None)


async def test_fourteen_round_trips_to_the_store_come_before_the_first_source_is_read() -> None:
    """One to reach the bucket, one to look at the state prefix, two for the lease, seven for the
    probe, and one each for the listing, the upload and the plan record.
    """
    store, rounds = MemoryStore(one_group(sources=6)), Rounds()
    store.before = rounds.before
    run = asyncio.ensure_future(new_run(store, settings()).coalesce())
    await rounds.answer_until(run)
    assert (await run).exit_code == 0
    assert rounds.before_a_source == 14
