"""obstore's asyncio interface: 64 GETs in flight, in order into a streaming writer.

Transfer alone: it deletes nothing.

With `uvloop` as the fifth word it runs on that loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque

import obstore
import uvloop
from obstore.store import S3Store

from bench.rivals.sources import OUTPUT_BYTES, batches

IN_FLIGHT = 64


async def main(endpoint: str, bucket: str, prefix: str, limit: str = str(OUTPUT_BYTES)) -> None:
    """Joins everything under the prefix."""
    store = S3Store(
        bucket,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    entries = [
        (entry["path"], entry["size"])
        for page in obstore.list(store, prefix=prefix)
        for entry in page
    ]
    for output, keys in batches(entries, int(limit)):
        async with obstore.open_writer_async(store, output, buffer_size=16 * 1024**2) as writer:
            reads: deque[asyncio.Task[obstore.Bytes]] = deque()
            for key in keys:
                reads.append(asyncio.create_task(read(store, key)))
                if len(reads) == IN_FLIGHT:
                    await writer.write(await reads.popleft())
            for waiting in reads:
                await writer.write(await waiting)


async def read(store: S3Store, key: str) -> obstore.Bytes:
    """One body."""
    answer = await obstore.get_async(store, key)
    return await answer.bytes_async()


if __name__ == "__main__":
    work = main(*sys.argv[1:5])
    uvloop.run(work) if sys.argv[5:] == ["uvloop"] else asyncio.run(work)
    # when the interpreter ends, obstore's threads now and then abort the process, with all work
    # done
    os._exit(0)
