"""Others use the bucket while it is coalesced: what they do stays done, and what they left alone is
there exactly once.
"""

import asyncio
import gzip
import random
from collections import Counter
from collections.abc import Callable

import pytest

from coalesce.errors import NotFound
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import auditor
from support.runs import new_run
from support.scenarios import (
    FIRST,
    AuditedBucket,
    check_settled,
    contents,
    points,
    prepared,
    readable,
)
from support.schedules import SEEDS, Tally
from support.turns import Turns

SOURCE = "data/db.core.topic_0_20-29.jsonl.gz"
OLD = gzip.compress(b'{"group": 0, "n": 2, "more": ""}\n', mtime=0)
NEW = gzip.compress(b'{"group": 1, "n": 7, "more": ""}\n', mtime=0)
assert len(NEW) == len(OLD)
OUTPUT = "data/db.core.topic_0_0_29.jsonl.gz"


def adds(bucket: MemoryBucket) -> None:
    bucket.store("data/db.core.topic_0_90-99.jsonl.gz", NEW)


def overwrites(bucket: MemoryBucket) -> None:
    bucket.store(SOURCE, NEW)


def deletes(bucket: MemoryBucket) -> None:
    bucket.remove(SOURCE)


def writes_again(bucket: MemoryBucket) -> None:
    bucket.store(SOURCE, OLD)


def writes_the_output(bucket: MemoryBucket) -> None:
    if OUTPUT not in bucket.objects:
        bucket.store(OUTPUT, NEW)


async def acted(
    bucket: AuditedBucket, settings, acts: dict[int, Callable[[MemoryBucket], None]]
) -> None:
    """A run at whose requests of these numbers others do something."""
    store = MemoryStore(bucket)

    async def before(seen: Request) -> None:
        if seen.number in acts:
            with bucket.audit.others():
                acts[seen.number](bucket)

    store.before = before
    await new_run(store, settings).coalesce()


async def check_quiet(bucket: AuditedBucket, settings, context: str) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        bucket.now += 1000
        await new_run(MemoryStore(bucket), settings).coalesce()
    bucket.audit.check_quiet(context)


@pytest.mark.parametrize("act", [adds, overwrites, deletes, writes_again, writes_the_output])
async def test_at_whichever_request_another_hand_changes_something(
    act: Callable[[MemoryBucket], None], tally: Tally
) -> None:
    tried = await points(FIRST)
    tally("acts of others", len(tried))
    for number, request in tried:
        bucket, settings = prepared(FIRST)
        context = f"{act.__name__} at request {number}: {request.operation} {request.key}"
        await acted(bucket, settings, {number: act})
        bucket.audit.check(context)
        await check_quiet(bucket, settings, context)


@pytest.mark.parametrize("wait", [1, 3, 10])
async def test_a_source_that_vanishes_and_comes_back_is_there_at_the_end(
    wait: int, tally: Tally
) -> None:
    """The same bytes under the same name, as a connector that starts again writes them: the ETag
    cannot tell.
    """
    tried = await points(FIRST)
    tally("acts of others", len(tried))
    for number, request in tried:
        bucket, settings = prepared(FIRST)
        context = f"gone at request {number}: {request.operation} {request.key}"
        await acted(bucket, settings, {number: deletes, number + wait: writes_again})
        await check_quiet(bucket, settings, context)


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "written over"])
async def test_an_output_that_others_take_away_costs_no_source_that_was_not_deleted_before(
    replaced: bool, tally: Tally
) -> None:
    """At each request after the commit.

    Only between the look that precedes the deletes and the deletes can it not be noticed, and only
    its own records go.
    """
    tried = await points(FIRST)
    begun = next(
        number
        for number, request in tried
        if request.operation == "CompleteMultipartUpload" and request.key == OUTPUT
    )
    tally("acts of others", len(tried) - begun)
    for number, request in tried[begun:]:
        bucket, settings = prepared(FIRST)
        context = f"at request {number}: {request.operation} {request.key}"
        seen: list[str] = []
        store = MemoryStore(bucket)

        async def before(
            now: Request,
            number: int = number,
            bucket: AuditedBucket = bucket,
            seen: list[str] = seen,
        ) -> None:
            if now.number != number or OUTPUT not in bucket.objects:
                return
            body = bucket.objects[OUTPUT].data
            with bucket.audit.others():
                if replaced:
                    bucket.store(OUTPUT, NEW)
                else:
                    bucket.remove(OUTPUT)
            if seen:
                bucket.audit.excuse(body)

        async def after(now: Request, seen: list[str] = seen) -> None:
            if now.operation == "HeadObject" and now.key == OUTPUT:
                seen.append(now.operation)

        store.before, store.after = before, after
        await new_run(store, settings).coalesce()
        bucket.audit.check(context)
        await check_quiet(bucket, settings, context)


@pytest.mark.parametrize("part", range(2))
async def test_a_reader_that_lists_and_reads_all_the_while_sees_every_record_and_no_object_change(
    name: str, part: int, tally: Tally
) -> None:
    """Between its requests anything may happen.

    An object that is gone makes it list again, as readers must; what it reads is what was listed.
    """
    tally("interleavings", SEEDS)
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        bucket, settings = prepared(name)
        original = readable(contents(bucket))
        turns = Turns(seed, bucket)
        store, reader = MemoryStore(bucket), MemoryStore(bucket)
        store.before = reader.before = turns.before
        job = asyncio.create_task(new_run(store, settings).coalesce())
        reading = asyncio.create_task(_read_until(job, reader))
        await turns.give_until([job, reading])
        seen = reading.result()
        assert seen, f"seed {seed}"
        for each in seen:
            assert not original - each, f"seed {seed}: a record was not to be seen"
            assert all(
                times <= 2 * (original + turns.added)[record] for record, times in each.items()
            ), f"seed {seed}: a record was to be seen more than twice"
        bucket.audit.check(f"seed {seed}")
        await check_settled(bucket, settings, original + turns.added, f"seed {seed}", strays=True)


async def _read_until(job: asyncio.Task[object], reader: MemoryStore) -> list[Counter[bytes]]:
    """What each reading of everything saw that was not disturbed; the last one is after the job's
    end.
    """
    seen: list[Counter[bytes]] = []
    while True:
        last = job.done()
        held: dict[str, bytes] = {}
        try:
            for entry in (await reader.list_page("data/")).objects:
                held[entry.key] = (await reader.get(entry.key, etag=entry.etag)).data
        except NotFound:
            continue
        seen.append(auditor.records(held, "data/"))
        if last:
            return seen


async def test_nothing_outside_the_prefixes_and_the_state_is_touched(name: str) -> None:
    bucket, settings = prepared(name)
    for key in (
        "data2/db.core.topic_0_0-9.jsonl.gz",
        "db.core.topic_0_0-9.jsonl.gz",
        "data/README",
        "data",
        "_coalesce2/x",
        "_coalesce",
    ):
        with bucket.audit.others():
            bucket.store(key, b"not ours")
    store = MemoryStore(bucket)
    asked: set[str] = set()

    async def before(request: Request) -> None:
        asked.add(request.key)

    store.before = before
    await new_run(store, settings).coalesce()
    assert all(key.startswith(("data/", "_coalesce/")) for key in asked)
    bucket.audit.check()
    assert {key for key, stored in bucket.objects.items() if stored.data == b"not ours"} == {
        "data2/db.core.topic_0_0-9.jsonl.gz",
        "db.core.topic_0_0-9.jsonl.gz",
        "data/README",
        "data",
        "_coalesce2/x",
        "_coalesce",
    }


async def test_several_hands_at_once(tally: Tally) -> None:
    """Three things happen at any three requests. The seed in a failure's message replays it."""
    tally("acts of others", 20 * SEEDS)
    requests = len(await points(FIRST))
    for seed in range(20 * SEEDS):
        chance = random.Random(seed)
        bucket, settings = prepared(FIRST)
        acts = {
            number: chance.choice([adds, overwrites, deletes, writes_again, writes_the_output])
            for number in chance.sample(range(1, requests), 3)
        }
        await acted(bucket, settings, acts)
        bucket.audit.check(f"seed {seed}")
        await check_quiet(bucket, settings, f"seed {seed}")
