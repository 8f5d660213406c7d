"""The usual script: boto3, 16 threads, whole outputs in memory.

It checks nothing, and loses data when it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from bench.rivals.sources import OUTPUT_BYTES, batches

THREADS = 16


def connected(endpoint: str, connections: int) -> Any:
    """A client for path-style requests."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(max_pool_connections=connections, s3={"addressing_style": "path"}),
    )


def listed(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Keys and sizes."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            yield entry["Key"], entry["Size"]


def delete(client: Any, bucket: str, keys: list[str]) -> None:
    """Deletes all of them, whatever they are by now."""
    for begin in range(0, len(keys), 1000):
        client.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[begin : begin + 1000]]}
        )


def main(endpoint: str, bucket: str, prefix: str, limit: str = str(OUTPUT_BYTES)) -> None:
    """Reads all bodies of an output, writes them as one, deletes them."""
    client = connected(endpoint, THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        for output, keys in batches(listed(client, bucket, prefix), int(limit)):
            bodies = pool.map(
                lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read(), keys
            )
            client.put_object(Bucket=bucket, Key=output, Body=b"".join(bodies))
            delete(client, bucket, keys)


if __name__ == "__main__":
    main(*sys.argv[1:])
