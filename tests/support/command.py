"""The command as a process of its own, on a bucket of a real server."""

import json
import os
import subprocess
import sys
from typing import Any

from coalesce.storage.s3 import S3Store
from support.servers import KEYS


def environment(url: str) -> dict[str, str]:
    """The way to a server, and its keys."""
    keys = {
        "AWS_ACCESS_KEY_ID": KEYS["access_key"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_key"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {
        **os.environ,
        **keys,
        "COALESCE_ENDPOINT_URL": url,
        "COALESCE_REGION": "us-east-1",
        "COALESCE_ADDRESSING": "path",
    }


def coalesce(store: S3Store, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coalesce", *arguments]
    return subprocess.run(
        command, env=environment(store.endpoint) | more, capture_output=True, text=True, check=False
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


def summary(output: str) -> Any:
    """The report at the end of a run's JSON lines."""
    return json.loads(output.splitlines()[-1])
