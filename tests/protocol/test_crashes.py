"""Wherever the program is killed, and whichever answer it never sees: the next run ends with every
record exactly once, and nothing left over.
"""

import random

import pytest

from coalesce.errors import Unavailable
from coalesce.storage.memory import MemoryStore, Request
from support import auditor
from support.runs import new_run
from support.scenarios import (
    FIRST,
    SCENARIOS,
    check_settled,
    contents,
    dying,
    haunted,
    points,
    prepared,
    readable,
    run,
)
from support.schedules import SEEDS, Tally


@pytest.mark.parametrize(
    "answered", [False, True], ids=["before the store acts", "with the answer lost"]
)
async def test_killed_at_any_request_the_next_run_ends_with_every_record_once(
    name: str, answered: bool, tally: Tally
) -> None:
    original = readable(contents(prepared(name)[0]))
    tried = await points(name)
    tally("crash points", len(tried))
    for number, request in tried:
        bucket, chosen = await haunted(name)
        context = f"killed at request {number}: {request.operation} {request.key}"
        await run(dying(MemoryStore(bucket), number, answered=answered), chosen)
        bucket.audit.check(context)
        await check_settled(bucket, chosen, original, context)


@pytest.mark.parametrize("part", range(4))
async def test_killed_again_and_again_a_run_that_is_let_live_ends_with_every_record_once(
    part: int, tally: Tally
) -> None:
    """Three deaths in a row, each at any request of the run that cleans up after the one before.

    The seed in a failure's message replays it.
    """
    name = FIRST
    original = readable(contents(prepared(name)[0]))
    requests = len(await points(name))
    tally("crash points", 3 * SEEDS)
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        chance = random.Random(seed)
        bucket, chosen = prepared(name)
        for _ in range(3):
            await run(
                dying(
                    MemoryStore(bucket), chance.randint(1, requests), answered=chance.random() < 0.5
                ),
                chosen,
            )
            bucket.now += 1000
        await check_settled(bucket, chosen, original, f"seed {seed}")


async def test_an_answer_that_is_lost_does_not_stop_the_job_or_harm_it(
    name: str, tally: Tally
) -> None:
    """The request had its effect, the connection broke: the run itself must come to terms with it,
    or leave it to the next.
    """
    original = readable(contents(prepared(name)[0]))
    tried = await points(name)
    tally("lost answers", len(tried))
    for number, request in tried:
        bucket, chosen = await haunted(name)
        store = MemoryStore(bucket)

        async def after(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise Unavailable("the connection broke", key=seen.key, operation=seen.operation)

        store.after = after
        context = f"answer lost of request {number}: {request.operation} {request.key}"
        report = await run(store, chosen)
        assert report is not None, context
        assert report.exit_code in (0, 1, 4, 10, 75), context
        if report.exit_code == 0 and chosen.delete:
            assert auditor.sources(bucket.objects) == [], context
        bucket.audit.check(context)
        bucket.audit.check_counts(report, context, unanswered=True)
        await check_settled(bucket, chosen, original, context)


async def test_the_scenarios_are_what_they_say(name: str) -> None:
    """A scenario that is refused or does nothing would prove nothing."""
    bucket, chosen = await haunted(name)
    begun = SCENARIOS[name].killed_at is not None
    assert bool([key for key in bucket.objects if key.startswith("_coalesce/runs/")]) == begun
    store = MemoryStore(bucket)
    report = await new_run(store, chosen).coalesce()
    assert (store.usage.requests["UploadPartCopy"] > 2) == ("copies" in name)  # two are the probe's
    assert report.outputs.written + report.outputs.recovered >= 1
    assert bool(bucket.audit.removed) == (
        chosen.delete and name != "after a death before the last record goes"
    )
    if not begun and chosen.delete and chosen.check:
        bucket.audit.check_report(report, name)
