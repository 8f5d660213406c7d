"""Wherever the program is killed, and whichever answer it never sees: the next run ends with every record exactly once, and nothing left over."""

import pytest

import auditor
from coalesce.errors import Unavailable
from coalesce.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryStore, Request
from scenarios import SCENARIOS, check_settled, contents, points, prepared, readable


class Killed(BaseException):
    """The process is gone: no request leaves it any more."""


async def run(store: MemoryStore, chosen: Settings) -> int | None:
    """A process from its start to its end, or to its death."""
    try:
        return (await Run(store, chosen).coalesce()).exit_code
    except BaseException as error:
        if not _only_killed(error):
            raise
        return None


def _only_killed(error: BaseException) -> bool:
    return isinstance(error, Killed) or (isinstance(error, BaseExceptionGroup) and all(map(_only_killed, error.exceptions)))


def dying(store: MemoryStore, at: int, *, answered: bool) -> MemoryStore:
    """Kills the process at its request number `at`: before it has an effect, or after it, with the answer lost."""

    async def before(request: Request) -> None:
        if request.number > at or (request.number == at and not answered):
            raise Killed

    async def after(request: Request) -> None:
        if request.number >= at:
            raise Killed

    store.before, store.after = before, after
    return store


@pytest.mark.parametrize("answered", [False, True], ids=["before the store acts", "with the answer lost"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_killed_at_any_request_the_next_run_ends_with_every_record_once(name: str, answered: bool) -> None:
    original = readable(contents(prepared(name)[0]))
    for number, request in await points(name):
        bucket, chosen = prepared(name)
        context = f"killed at request {number}: {request.operation} {request.key}"
        await run(dying(MemoryStore(bucket), number, answered=answered), chosen)
        lost = original - readable(contents(bucket))
        assert not lost, f"{context}: records unreadable at once"
        await check_settled(bucket, chosen, original, context)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_an_answer_that_is_lost_does_not_stop_the_job_or_harm_it(name: str) -> None:
    """The request had its effect, the connection broke: the run itself must come to terms with it, or leave it to the next."""
    original = readable(contents(prepared(name)[0]))
    for number, request in await points(name):
        bucket, chosen = prepared(name)
        store = MemoryStore(bucket)

        async def after(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise Unavailable("the connection broke", key=seen.key, operation=seen.operation)

        store.after = after
        context = f"answer lost of request {number}: {request.operation} {request.key}"
        code = await run(store, chosen)
        assert code in (0, 1, 4, 10, 75), context
        assert not original - readable(contents(bucket)), context
        await check_settled(bucket, chosen, original, context)


def test_the_scenarios_are_what_they_say() -> None:
    """A scenario that is refused or does nothing would prove nothing."""
    for name in SCENARIOS:
        bucket, _ = prepared(name)
        assert len(auditor.sources(bucket.objects)) >= 3
