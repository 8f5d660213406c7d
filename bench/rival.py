"""The usual script: boto3, 16 threads, whole objects in memory. It checks nothing, and loses data when it is killed.

Usage: `python -m bench.rival ENDPOINT BUCKET PREFIX`; prints its requests by kind and its peak memory as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

THREADS = 16
OUTPUT_BYTES = 128_000_000
SOURCE = re.compile(r"(?P<group>.*_\d+)_(?P<first>\d+)-(?P<last>\d+)\.jsonl\.gz")

Found = tuple[int, int, str, int]  # first offset, last offset, key, bytes


def main(endpoint: str, bucket: str, prefix: str) -> None:
    """Joins everything under the prefix."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(max_pool_connections=THREADS, s3={"addressing_style": "path"}))
    requests: Counter[str] = Counter()
    client.meta.events.register("before-send.s3", lambda event_name, **_: requests.update([event_name.rsplit(".", 1)[-1]]))
    with ThreadPoolExecutor(THREADS) as pool:
        for group, sources in listed(client, bucket, prefix).items():
            for batch in batches(sorted(sources)):
                join(client, pool, bucket, group, batch)
    peak = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"requests": requests, "peak_rss_bytes": peak}))


def listed(client: Any, bucket: str, prefix: str) -> dict[str, list[Found]]:
    """Sources by topic-partition."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            match = SOURCE.fullmatch(entry["Key"])
            if match:
                groups[match["group"]].append((int(match["first"]), int(match["last"]), entry["Key"], entry["Size"]))
    return groups


def batches(sources: list[Found]) -> Iterator[list[Found]]:
    """Neighbours that together stay below the size of an output."""
    batch: list[Found] = []
    for source in sources:
        if batch and sum(size for *_, size in batch) + source[3] > OUTPUT_BYTES:
            yield batch
            batch = []
        batch.append(source)
    if len(batch) > 1:
        yield batch


def join(client: Any, pool: ThreadPoolExecutor, bucket: str, group: str, batch: list[Found]) -> None:
    """Reads all bodies, writes them as one, deletes them."""
    keys = [key for _, _, key, _ in batch]
    bodies = pool.map(lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read(), keys)
    client.put_object(Bucket=bucket, Key=f"{group}_{batch[0][0]}_{batch[-1][1]}.jsonl.gz", Body=b"".join(bodies))
    for begin in range(0, len(keys), 1000):
        client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[begin : begin + 1000]]})


if __name__ == "__main__":
    main(*sys.argv[1:])
