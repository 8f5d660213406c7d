"""Others use the bucket while it is coalesced: what they do stays done, and what they left alone is there exactly once."""

import gzip
from collections.abc import Callable

import pytest

from coalesce.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from scenarios import contents, points, prepared, readable

SOURCE = "data/db.core.topic_0_20-29.jsonl.gz"
OLD = b'{"group": 0, "n": 2, "more": ""}'
NEW = b'{"group": 9, "n": 9, "more": ""}'  # as long as the old one
OUTPUT = "data/db.core.topic_0_0_29.jsonl.gz"


def adds(bucket: MemoryBucket) -> None:
    bucket.store("data/db.core.topic_0_90-99.jsonl.gz", gzip.compress(NEW + b"\n", mtime=0))


def overwrites(bucket: MemoryBucket) -> None:
    bucket.store(SOURCE, gzip.compress(NEW + b"\n", mtime=0))


def deletes(bucket: MemoryBucket) -> None:
    bucket.remove(SOURCE)


def writes_the_output(bucket: MemoryBucket) -> None:
    if OUTPUT not in bucket.objects:
        bucket.store(OUTPUT, gzip.compress(NEW + b"\n", mtime=0))


@pytest.mark.parametrize("act", [adds, overwrites, deletes, writes_the_output])
async def test_at_whichever_request_another_hand_changes_something(act: Callable[[MemoryBucket], None]) -> None:
    for number, request in await points("two groups of several outputs"):
        bucket, settings = prepared("two groups of several outputs")
        original = readable(contents(bucket))
        store = MemoryStore(bucket)
        written = False

        async def before(seen: Request, number: int = number, bucket: MemoryBucket = bucket) -> None:
            nonlocal written
            if seen.number == number:
                written = act is not writes_the_output or OUTPUT not in bucket.objects
                act(bucket)

        store.before = before
        context = f"{act.__name__} at request {number}: {request.operation} {request.key}"
        await Run(store, settings).coalesce()
        for _ in range(2):
            bucket.now += 1000
            await Run(MemoryStore(bucket), settings).coalesce()
        left = readable(contents(bucket))
        untouched = {record: count for record, count in original.items() if record != OLD}
        assert {record: left[record] for record in untouched} == untouched, context
        if act is adds or act is overwrites or (act is writes_the_output and written):
            assert left[NEW] == 1, context
        assert left[OLD] <= 1, context
        if act in (adds, writes_the_output):
            assert left[OLD] == 1, context
        assert not [key for key in bucket.objects if key.startswith("_coalesce/")], context
        assert not bucket.uploads, context


async def test_a_reader_can_read_every_record_at_every_instant() -> None:
    bucket, settings = prepared("two groups of several outputs")
    original = readable(contents(bucket))
    store = MemoryStore(bucket)

    async def look(_: Request) -> None:
        assert not original - readable(contents(bucket))

    store.before = store.after = look
    assert (await Run(store, settings).coalesce()).exit_code == 0


async def test_nothing_outside_the_prefixes_and_the_state_is_touched() -> None:
    bucket, settings = prepared("two groups of several outputs")
    for key in ("data2/db.core.topic_0_0-9.jsonl.gz", "db.core.topic_0_0-9.jsonl.gz", "data/README", "data", "_coalesce2/x"):
        bucket.store(key, b"not ours")
    store = MemoryStore(bucket)
    asked: set[str] = set()

    async def before(request: Request) -> None:
        asked.add(request.key)

    store.before = before
    await Run(store, settings).coalesce()
    assert all(key.startswith(("data/", "_coalesce/")) for key in asked)
    assert {key for key, stored in bucket.objects.items() if stored.data == b"not ours"} == {
        "data2/db.core.topic_0_0-9.jsonl.gz",
        "db.core.topic_0_0-9.jsonl.gz",
        "data/README",
        "data",
        "_coalesce2/x",
    }
