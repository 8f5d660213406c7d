"""The command as a process of its own, on a bucket of a real server."""

import gzip
import json
import os
import subprocess
import sys

from coalesce.storage.s3 import S3Store
from support.servers import KEYS


def environment(store: S3Store) -> dict[str, str]:
    keys = {
        "AWS_ACCESS_KEY_ID": KEYS["access_key"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_key"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {
        **os.environ,
        **keys,
        "COALESCE_ENDPOINT_URL": store.endpoint,
        "COALESCE_REGION": "us-east-1",
        "COALESCE_ADDRESSING": "path",
    }


def coalesce(store: S3Store, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coalesce", *arguments]
    return subprocess.run(
        command, env=environment(store) | more, capture_output=True, text=True, check=False
    )


def job(store: S3Store, *more: str) -> list[str]:
    """The options of an existing job definition."""
    return [
        "run",
        "-b",
        store.bucket,
        "-p",
        "data",
        "-n",
        "-1",
        "-t",
        "4",
        "-f",
        "100000",
        "-s",
        "128000000",
        "-d",
        "NOT_SET",
        "--min-age",
        "0",
        *more,
    ]


async def fill(store: S3Store, groups: int, sources: int) -> None:
    for group in range(groups):
        for n in range(sources):
            await store.put(
                f"data/db.core.topic_{group}_{n * 10}-{n * 10 + 9}.jsonl.gz",
                gzip.compress(b'{"group": %d, "n": %d}\n' % (group, n)),
            )


async def look(store: S3Store) -> dict[str, bytes]:
    """Every object in the bucket, besides the ledger."""
    page = await store.list_page("")
    return {
        entry.key: (await store.get(entry.key)).data
        for entry in page.objects
        if not entry.key.startswith("_coalesce/ledger/")
    }


def summary(output: str) -> dict[str, object]:
    return dict(json.loads(output.splitlines()[-1]))
