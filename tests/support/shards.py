"""A shard of a job that ends without a word."""

import asyncio

from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.settings import settings


async def die(bucket: MemoryBucket, shard: str, at: str, where: str) -> None:
    """A run that is gone without a word at its first request of this name for a key like this."""
    store = MemoryStore(bucket)
    reached = asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == at and where in request.key:
            reached.set()
            await asyncio.Event().wait()

    store.before = before
    run = asyncio.create_task(Run(store, settings(shard=shard)).coalesce())
    await reached.wait()
    frozen = dict(bucket.objects), dict(bucket.uploads)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    bucket.objects, bucket.uploads = frozen
