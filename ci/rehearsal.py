"""Two nights of all locations, with this program as the scheduler: `python ci/rehearsal.py`, on the
server that COALESCE_TEST_ENDPOINT names.

Array jobs run as processes with the variables that AWS Batch and Kubernetes give them, several at
once. In the first night every job is killed at its first output, and none is tried again. The next
night is about the next day: one job is started twice, one is killed half way, and jobs are tried
again by their exit codes. It must also settle what the first night left, although that is another
day's. At the end all its reports become one, and the bucket is read anew: every record must be
there exactly once, every output have been made by one job and have its ledger entry, and nothing
else be left but the sources of the first night's day that no job had begun with.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from coalesce.storage.s3 import S3Options, S3Store, open_s3

BUCKET = "rehearsal"
ATTEMPTS = 3
AT_ONCE = 4

# Exit codes after which no further try helps, as in deploy/aws: everything else is tried again, a
# kill too.
FINAL = frozenset({0, 2, 3, 4, 10})

ENTRY = re.compile(r"_coalesce/ledger/(.*)\.[0-9a-f]{16}\.jsonl\.gz")
SMALL = re.compile(r"_\d+-\d+\.jsonl\.gz$|_\d+-[^/]*_\d+_\d+\.txt$")


@dataclass(frozen=True, slots=True)
class Location:
    """One of the nightly jobs: where, how many objects are there, and into how large an array it is
    cut.
    """

    name: str
    prefix: str
    objects: int
    array: int
    manifests: bool = False
    kubernetes: bool = False


LOCATIONS = (
    Location("storage main", "corporate_storage/ucfs_main", 1600, 4),
    Location("storage audit", "corporate_storage/ucfs_audit", 300, 2),
    Location("storage equalities", "corporate_storage/ucfs_equalities", 100, 1),
    Location("manifests main", "business-data/manifest/streaming/main", 1200, 4, manifests=True),
    Location(
        "manifests audit",
        "business-data/manifest/streaming/audit",
        300,
        2,
        manifests=True,
        kubernetes=True,
    ),
    Location(
        "manifests equalities",
        "business-data/manifest/streaming/equalities",
        100,
        1,
        manifests=True,
    ),
)


@dataclass(slots=True)
class Night:
    """The day that its jobs are about, and what they said."""

    day: dt.date
    told: set[str] = field(default_factory=set)  # outputs
    lines: list[str] = field(default_factory=list)
    failed: bool = False


def variables(location: Location, index: int, attempt: int) -> dict[str, str]:
    """What the scheduler puts into a job's environment."""
    if location.kubernetes:
        return {"JOB_COMPLETION_INDEX": str(index), "COALESCE_SHARDS": str(location.array)}
    array = (
        {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": str(location.array)}
        if location.array > 1
        else {}
    )
    return {"AWS_BATCH_JOB_ATTEMPT": str(attempt), **array}


def arguments(location: Location, night: Night) -> list[str]:
    """The options of a job definition, and a lease short enough for a rehearsal."""
    definition = [
        "-b",
        BUCKET,
        "-p",
        location.prefix,
        "-n",
        "-1",
        "-t",
        "0",
        "-f",
        "1000000",
        "-s",
        "128000000",
    ]
    kind = ["-d", "NOT_SET", "-a"] if location.manifests else ["-d", f"{night.day}"]
    told = [
        "--output",
        "json",
        "--log-format",
        "json",
        "--report",
        f"s3://{BUCKET}/reports/{night.day}/{{run_id}}.json",
    ]
    return ["run", *definition, *kind, "--min-age", "0", "--lease", "10s", *told]


async def command(*words: str, **more: str) -> asyncio.subprocess.Process:
    """A process of the program."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "coalesce",
        *words,
        stdout=pipe,
        stderr=pipe,
        env=os.environ | more,
        limit=2**24,
    )


async def tried(night: Night, location: Location, index: int, attempt: int, *, kill: bool) -> int:
    """One try of one job; with `kill` it dies as soon as it has told of an output.

    Its exit code.
    """
    process = await command(*arguments(location, night), **variables(location, index, attempt))
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    keys = []
    async for line in process.stdout:
        event = json.loads(line)
        if event["type"] == "output":
            keys.append(event["key"])
            if kill:
                process.kill()
                break
    await process.stdout.read()
    code = await process.wait()
    night.told.update(keys)
    if code in FINAL - {0}:
        sys.stderr.write((await errors).decode())
    night.lines.append(
        f"{location.name:21} {index}/{location.array}  try {attempt}  exit {code:4}  "
        f"{len(keys):4} outputs{'  (killed)' if kill else ''}"
    )
    await errors
    return code


async def job(
    night: Night, lane: asyncio.Semaphore, location: Location, index: int, *, kill: bool = False
) -> None:
    """One child of an array job, tried again as its exit code says."""
    for attempt in range(1, ATTEMPTS + 1):
        async with lane:
            code = await tried(night, location, index, attempt, kill=kill and attempt == 1)
        if code in FINAL:
            night.failed |= code != 0
            return
    night.failed |= code != 11  # another run has done it all


async def records(store: S3Store) -> tuple[Counter[bytes], list[str], list[str]]:
    """Every record with how often it is there; keys of data; keys of the program's own.

    Read without the program's own readers.
    """
    found: Counter[bytes] = Counter()
    keys: list[str] = []
    token = None
    while True:
        page = await store.list_page("", token=token)
        keys += [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            break
    data = [key for key in keys if key.startswith(("corporate_storage/", "business-data/"))]
    lanes = asyncio.Semaphore(16)

    async def read(key: str) -> None:
        async with lanes:
            body = (await store.get(key)).data
        found.update((gzip.decompress(body) if key.endswith(".gz") else body).splitlines())

    await asyncio.gather(*map(read, data))
    return found, data, [key for key in keys if key.startswith("_coalesce/")]


async def fill(*days: dt.date) -> None:
    """The manifests, which are of no day, and the data of each day."""
    manifests = [(location, "") for location in LOCATIONS if location.manifests]
    dated = [
        (location, f"{day:%Y/%m/%d}/")
        for day in days
        for location in LOCATIONS
        if not location.manifests
    ]
    for seed, (location, folder) in enumerate(manifests + dated, 1):
        prefix = f"{location.prefix}/{folder}"
        shape = [
            "--objects",
            str(location.objects),
            "--topics",
            "5",
            "--partitions",
            "4",
            "--records",
            "5",
            "--record-bytes",
            "300",
            "--seed",
            str(seed),
        ]
        layout = "manifest" if location.manifests else "corporate"
        done = await command("generate", "-b", BUCKET, "-p", prefix, "--layout", layout, *shape)
        _, errors = await done.communicate()
        if done.returncode:
            sys.exit(errors.decode())


async def die(night: Night) -> None:
    """All jobs of a night, each killed at its first output; no other try."""
    lane = asyncio.Semaphore(AT_ONCE)

    async def killed(location: Location, index: int) -> None:
        async with lane:
            await tried(night, location, index, 1, kill=True)

    async with asyncio.TaskGroup() as tasks:
        for location in LOCATIONS:
            for index in range(location.array):
                tasks.create_task(killed(location, index))


async def play(night: Night) -> None:
    """All jobs of the night, so many at once."""
    lane = asyncio.Semaphore(AT_ONCE)
    main = LOCATIONS[0]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(job(night, lane, main, 1))  # twice: a scheduler may
        for location in LOCATIONS:
            for index in range(location.array):
                tasks.create_task(
                    job(night, lane, location, index, kill=location is main and index == 2)
                )


async def rehearse(endpoint: str) -> int:
    """The night, its report, and the proof."""
    keys = {
        "access_key": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
        "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
    }
    os.environ |= {
        "COALESCE_ENDPOINT_URL": endpoint,
        "COALESCE_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ |= {
        "COALESCE_ADDRESSING": "path",
        "AWS_ACCESS_KEY_ID": keys["access_key"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_key"],
    }
    folder = Path(os.environ.get("REHEARSAL") or tempfile.mkdtemp(prefix="rehearsal-"))
    today, begun = dt.datetime.now(dt.UTC).date(), time.monotonic()
    dead, night = (Night(today - dt.timedelta(days=days)) for days in (2, 1))
    async with open_s3(
        S3Options(BUCKET, endpoint_url=endpoint, region="us-east-1", addressing="path", **keys)
    ) as store:
        await store.create_bucket()
        await fill(dead.day, night.day)
        before, objects, _ = await records(store)
        print(
            f"{len(objects):,} small objects of {before.total():,} records "
            f"in {len(LOCATIONS)} locations ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
        await die(dead)
        print("\n".join(dead.lines), flush=True)
        _, _, left = await records(store)
        await play(night)
        print("\n".join(night.lines), flush=True)
        merged = await command(
            "report",
            f"s3://{BUCKET}/reports/{night.day}/",
            "--html",
            str(folder / "night.html"),
            "--json",
            str(folder / "night.json"),
        )
        out, errors = await merged.communicate()
        print(out.decode(), errors.decode(), sep="", flush=True)
        scopes = ("-p", "corporate_storage"), ("-p", "business-data", "--manifests")
        deep = [await command("verify", "-b", BUCKET, *scope, "--deep") for scope in scopes]
        for process in deep:
            print((await process.communicate())[0].decode(), flush=True)
        after, outputs, state = await records(store)
        uploads = await store.list_uploads("")
    report = json.loads((folder / "night.json").read_text())
    small = [key for key in outputs if SMALL.search(key)]
    large = [key for key in outputs if not SMALL.search(key)]
    proofs = {
        "the first night died and left plan records": any("(killed)" in line for line in dead.lines)
        and any(key.startswith("_coalesce/groups/") for key in left),
        "every job of the next night ended well": not night.failed,
        "a job was killed": any("(killed)" in line for line in night.lines),
        "the merged report's exit code is the command's, and 0 or 11": merged.returncode
        == report["exit_code"]
        and report["exit_code"] in (0, 11),
        "every shard has a report": not any(
            failure["code"] == "ReportMissing" for failure in report["failures"]
        ),
        "every record is there exactly once": after == before and set(after.values()) <= {1},
        "no small object is left but of the first night's day": all(
            f"/{dead.day:%Y/%m/%d}/" in key for key in small
        ),
        "every output was told of": dead.told | night.told == set(large),
        "all outputs are proven by verify --deep": all(process.returncode == 0 for process in deep),
        "no plan record, lease, probe object or upload is left": all(map(ENTRY.fullmatch, state))
        and not uploads,
        "every output has one ledger entry: one job made it": sorted(
            match[1] for match in map(ENTRY.fullmatch, state) if match
        )
        == sorted(large),
    }
    for name, holds in proofs.items():
        print(f"{'yes' if holds else 'NO ':3}  {name}")
    print(
        f"{len(objects):,} objects became {len(large):,}, and {len(small):,} were left, "
        f"in {time.monotonic() - begun:.0f} s; the page is {folder / 'night.html'}"
    )
    return 0 if all(proofs.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(rehearse(os.environ["COALESCE_TEST_ENDPOINT"])))
