"""CPU of listing everything under a prefix, page after page: `python -m bench.listing
{coalesce,botocore} ENDPOINT BUCKET PREFIX`; prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.rivals.boto3_threads import connected
from coalesce.storage.s3 import S3Options, open_s3


async def by_coalesce(endpoint: str, bucket: str, prefix: str) -> tuple[float, int]:
    """CPU seconds after start-up, and keys."""
    async with open_s3(S3Options(bucket, endpoint_url=endpoint, addressing="path")) as store:
        await store.list_page(prefix, max_keys=1)
        begun, keys, token = time.process_time(), 0, None
        while True:
            page = await store.list_page(prefix, token=token)
            keys += len(page.objects)
            token = page.token
            if token is None:
                return time.process_time() - begun, keys


def by_botocore(endpoint: str, bucket: str, prefix: str) -> tuple[float, int]:
    """CPU seconds after start-up, and keys."""
    client = connected(endpoint, 1)
    client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    begun = time.process_time()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = sum(len(page["Contents"]) for page in pages)
    return time.process_time() - begun, keys


if __name__ == "__main__":
    who, *where = sys.argv[1:]
    cpu, found = asyncio.run(by_coalesce(*where)) if who == "coalesce" else by_botocore(*where)
    print(json.dumps({"cpu_seconds": cpu, "keys": found}))
