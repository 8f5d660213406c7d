"""The job at size on the server that COALESCE_TEST_ENDPOINT names: generated, joined, killed,
joined again, and compared record by record.

For each layout twice: once in peace, once with kill -9 in the middle. The bucket is read anew by
`tests/support/auditor.py`, which shares nothing with the program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coalesce.storage.s3 import S3Options, S3Store, open_s3

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support import auditor
from support.buckets import data_in, entries_in, unfinished_in

LANES = 32


class Failed(Exception):
    """The bucket is not as it must be."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says how long a step took, and the CPU time of the processes that ended in it."""
    wall, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {what:34} {time.monotonic() - wall:7.1f} s wall {cpu:7.1f} s CPU", flush=True)


def job(bucket: str, layout: str) -> list[str]:
    """Of outputs of 500 sources at most, so that there is a middle to be killed in."""
    limits = ("--min-age", "0", "-f", "500", "--lease", "5s")
    return [
        "run",
        "-b",
        bucket,
        "-p",
        "data",
        "--layout",
        layout,
        *limits,
        "--output",
        "json",
        "--log-level",
        "warning",
    ]


def coalesce(*arguments: str) -> tuple[int, dict[str, dict[str, int]]]:
    """A process of the command: its exit code, and the report where it makes one."""
    done = subprocess.run(
        [sys.executable, "-m", "coalesce", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if "json" in arguments else {}


def killed(arguments: list[str], outputs: int) -> None:
    """A process of the command that is killed as soon as it has told of so many outputs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coalesce", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(outputs):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise Failed("the run had ended before it could be killed")


async def keys(store: S3Store) -> list[str]:
    """All keys of the bucket."""
    found, token = list[str](), None
    while True:
        page = await store.list_page("", token=token)
        found += [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            return found


async def records(store: S3Store) -> Counter[bytes]:
    """Every record under `data/`, and how often it is there."""
    lanes = asyncio.Semaphore(LANES)

    async def read(key: str) -> Counter[bytes]:
        async with lanes:
            return auditor.records({key: (await store.get(key)).data}, "data/")

    found: Counter[bytes] = Counter()
    for one in await asyncio.gather(
        *(read(key) for key in await keys(store) if key.startswith("data/"))
    ):
        found.update(one)
    return found


async def check(store: S3Store, before: Counter[bytes]) -> int:
    """How many objects hold the records, each exactly as often as before. Raises Failed.

    Besides them only the ledger may be there, with one entry for each output.
    """
    held = dict.fromkeys(await keys(store))
    if await records(store) != before:
        raise Failed("the records before and after differ")
    if auditor.sources(held):
        raise Failed("sources are left over")
    if left := unfinished_in(held) + [key for key in data_in(held) if not key.startswith("data/")]:
        raise Failed(f"left behind: {left[:3]}")
    outputs = sorted(filter(auditor.OUTPUT.fullmatch, held))
    if entries_in(held) != outputs:
        raise Failed(f"{len(outputs)} outputs have {len(entries_in(held))} ledger entries")
    if await store.list_uploads(""):
        raise Failed("an upload is left open")
    return len(data_in(held))


async def accept(options: S3Options, layout: str, objects: int, *, kill: bool) -> None:
    """One bucket on its way. Raises Failed."""
    print(f"{layout}, {objects:,} sources{', killed in the middle' if kill else ''}", flush=True)
    async with open_s3(options) as store:
        await store.create_bucket()
        with told("generate"):
            shape = ("--topics", "3", "--partitions", "4", "--gaps", "0.01", "--overlaps", "0.01")
            coalesce(
                "generate",
                "-b",
                options.bucket,
                "--layout",
                layout,
                "--objects",
                str(objects),
                *shape,
            )
        with told("read all records"):
            before = await records(store)
        if before.total() != 10 * objects:
            raise Failed(f"{before.total()} records were generated, not {10 * objects}")
        if kill:
            with told("run, killed"):
                killed(job(options.bucket, layout), objects // 1000)
            if before - await records(store):
                raise Failed("records are unreadable after the kill")
        with told("run"):
            code, report = coalesce(*job(options.bucket, layout))
        if code:
            raise Failed(f"the run ended with {code}: {report['failures']}")
        with told("read all records"):
            left = await check(store, before)
        with told("run again"):
            code, second = coalesce(*job(options.bucket, layout))
        if code or second["outputs"]["written"] or await check(store, before) != left:
            raise Failed("the second run did something")
    counts = (
        f"{report['outputs']['written']} outputs written, "
        f"{report['outputs']['recovered']} recovered; {left} objects"
    )
    print(
        f"  {before.total():,} records, every one as often as before; {counts}; "
        "the second run did nothing"
    )


def main() -> int:
    """1 where the bucket is not as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=20_000)
    objects = parser.parse_args().objects
    url = os.environ["COALESCE_TEST_ENDPOINT"]
    os.environ |= {
        "COALESCE_ENDPOINT_URL": url,
        "COALESCE_REGION": "us-east-1",
        "COALESCE_ADDRESSING": "path",
    }
    keys = {
        "access_key": os.environ["AWS_ACCESS_KEY_ID"],
        "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    }
    for layout in ("corporate", "manifest"):
        for kill in (False, True):
            options = S3Options(
                f"{layout}-{'killed' if kill else 'whole'}",
                endpoint_url=url,
                region="us-east-1",
                addressing="path",
                **keys,
            )
            try:
                asyncio.run(accept(options, layout, objects, kill=kill))
            except Failed as failure:
                print(f"  FAILED: {failure}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
