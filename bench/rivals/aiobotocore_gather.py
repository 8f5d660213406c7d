"""The script of threads, written for asyncio: aiobotocore, 64 GETs in flight, whole outputs in
memory.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from bench.rivals.sources import OUTPUT_BYTES, batches

IN_FLIGHT = 64


async def main(endpoint: str, bucket: str, prefix: str, limit: str = str(OUTPUT_BYTES)) -> None:
    """Reads all bodies of an output, writes them as one, deletes them."""
    config = AioConfig(max_pool_connections=IN_FLIGHT, s3={"addressing_style": "path"})
    async with get_session().create_client("s3", endpoint_url=endpoint, config=config) as client:
        lanes = asyncio.Semaphore(IN_FLIGHT)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        entries = [
            (entry["Key"], entry["Size"])
            async for page in pages
            for entry in page.get("Contents", ())
        ]
        for output, keys in batches(entries, int(limit)):
            bodies = await asyncio.gather(*(read(client, lanes, bucket, key) for key in keys))
            await client.put_object(Bucket=bucket, Key=output, Body=b"".join(bodies))
            for begin in range(0, len(keys), 1000):
                await client.delete_objects(
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": key} for key in keys[begin : begin + 1000]]},
                )


async def read(client: Any, lanes: asyncio.Semaphore, bucket: str, key: str) -> bytes:
    """One body."""
    async with lanes:
        answer = await client.get_object(Bucket=bucket, Key=key)
        async with answer["Body"] as stream:
            return bytes(await stream.read())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
