"""Small jobs of several shards, and a run that ends without a word."""

import asyncio
import gzip

from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request


def filled(groups: int) -> MemoryBucket:
    bucket = MemoryBucket()
    for group in range(groups):
        for n in range(4):
            bucket.store(
                f"data/t_{group}_{n}-{n}.jsonl.gz", gzip.compress(b"%d-%d\n" % (group, n), mtime=0)
            )
    bucket.now += 1000
    return bucket


def settings(shard: str) -> Settings:
    return Settings.model_validate(
        {"bucket": "b", "prefix": ["data"], "min_age": 0, "shard": shard}
    )


async def died(bucket: MemoryBucket, shard: str, at: str, where: str) -> None:
    """A run that is gone without a word at its first request of this name for a key like this."""
    store = MemoryStore(bucket)
    reached = asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == at and where in request.key:
            reached.set()
            await asyncio.Event().wait()

    store.before = before
    run = asyncio.create_task(Run(store, settings(shard)).coalesce())
    await reached.wait()
    frozen = dict(bucket.objects), dict(bucket.uploads)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    bucket.objects, bucket.uploads = frozen
