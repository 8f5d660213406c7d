"""A Monday and a Tuesday on AWS, in small: `python ci/rehearsal_on_aws.py`, on the S3 server that
COALESCE_TEST_ENDPOINT names.

`ci/deploy.sh` deploys all locations of `ci/locations` into a model of an account, which keeps
CloudFormation's rule on exports in use and Batch's on revisions. In the night each schedule starts
what it names: this program is the scheduler, runs the job definition's command for every shard,
tries again by its rules, and takes in the metrics that the jobs print. On Tuesday another image is
deployed. In the second night every task of one location is killed as it starts, as for lack of
memory: its alarm must ring, and no other, and the topic be told. On Wednesday it is run by hand.

Not AWS: see docs/evidence/deploy.md for what only AWS can show.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from rehearsal import SMALL, command, records

from coalesce.storage.s3 import S3Options, S3Store, open_s3

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.alarms import Metrics
from support.cloudformation import Account, Refused, template
from support.deploying import deployments
from support.events import failed, messages

BUCKETS = ("rehearsal-storage", "rehearsal-manifests")
DEAD = "coalesce-storage-audit"
AT_ONCE = 4
KILLED = 137
TOPIC = "arn:aws:sns:eu-west-2:123456789012:alarms"
SURROUNDINGS = {
    "VPC_ID": "vpc-1",
    "SUBNET_IDS": "subnet-1,subnet-2",
    "ALARM_TOPIC_ARN": TOPIC,
    "STORAGE_BUCKET": BUCKETS[0],
    "MANIFEST_BUCKET": BUCKETS[1],
    "SCHEDULE_STATE": "ENABLED",
}
MONDAY = dt.datetime(2026, 11, 23)
# Groups of each location, and objects of each group, that come in a day.
GROUPS, OBJECTS = 12, 8


@dataclass
class Cloud:
    """The account as it is deployed, and what has been seen of it.

    Attributes:
        stacks: The resources of each location's stack, by its name.
        shared: The resources of the shared stack.
        images: Which image each location's schedule started last.
        codes: What the last attempts of each location's shards ended with.
        told: What the topic was told.
    """

    account: Account = field(default_factory=Account)
    stacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    images: dict[str, str] = field(default_factory=dict)
    codes: dict[str, list[int]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    lane: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    def deploy(self, folder: Path, image: str) -> str:
        """Deploys all stacks with an image, as the script does; what was refused, if anything."""
        try:
            for made in deployments(folder, IMAGE=image, **SURROUNDINGS):
                resources = self.account.deploy(made.stack, made.template, **made.parameters)
                if made.template == "location":
                    self.stacks[made.stack] = resources
                else:
                    self.shared = resources
        except Refused as refusal:
            return str(refusal)
        return ""

    async def pass_night(self, day: int, dead: str = "") -> None:
        """Starts what every schedule names, at half past two of that day; tasks of the location
        that is `dead` are killed as they start.
        """
        self.told.clear()
        now = MONDAY + dt.timedelta(days=day, hours=2, minutes=30)
        async with asyncio.TaskGroup() as tasks:
            for name, resources in self.stacks.items():
                target = resources["Nightly"]["Targets"][0]["BatchParameters"]
                size = int(target.get("ArrayProperties", {}).get("Size", 1))
                tasks.create_task(
                    self.submit(name, target["JobDefinition"], size, now, kill=name == dead)
                )

    async def submit(
        self, name: str, definition: str, size: int, now: dt.datetime, *, kill: bool = False
    ) -> None:
        """Runs a job of so many shards, and tells of it if it fails."""
        job = self.account.job(definition)
        self.images[name] = job["ContainerProperties"]["Image"]
        codes = await asyncio.gather(
            *(self._work(job, size, index, now, kill=kill) for index in range(size))
        )
        self.codes[name] = list(codes)
        print(f"  {name:30} {size} shards of {self.images[name]}: {_counts(codes)}", flush=True)
        if any(codes):
            summary = {"FAILED": sum(map(bool, codes)), "SUCCEEDED": codes.count(0)}
            detail = {"jobName": name, "jobId": f"{name}-1", "statusReason": "a task failed"}
            of = {"arrayProperties": {"size": size, "statusSummary": summary}}
            one = {"container": {"exitCode": codes[0]}}
            event = failed("coalesce-batch-Queue", detail | (of if size > 1 else one))
            rules = (self.shared["Failed"], self.shared["ArrayFailed"])
            self.told += messages(rules, event)

    async def _work(self, job: Any, size: int, index: int, now: dt.datetime, *, kill: bool) -> int:
        """One shard, tried again by the rules of its definition; its last exit code."""
        rules, code = job["RetryStrategy"], 0
        for attempt in range(1, rules["Attempts"] + 1):
            async with self.lane:
                code, lines = await _attempt(job, size, index, attempt, kill=kill)
            for line in lines:
                self.metrics.take(line, now + attempt * dt.timedelta(minutes=10))
            if code in {0, *(int(rule["OnExitCode"]) for rule in rules["EvaluateOnExit"])}:
                break
        return code

    def ringing(self, day: int) -> set[str]:
        """The alarms that ring at nine in the morning of a day."""
        now = MONDAY + dt.timedelta(days=day, hours=9)
        alarms = [
            name
            for name, resource in template("location")["Resources"].items()
            if resource["Type"] == "AWS::CloudWatch::Alarm"
        ]
        return {
            f"{stack} {name}"
            for stack, resources in self.stacks.items()
            for name in alarms
            if self.metrics.ring(resources[name], now)
        }


def _counts(codes: list[int]) -> str:
    return ", ".join(f"{count} ended with {code}" for code, count in sorted(Counter(codes).items()))


async def _attempt(
    job: Any, size: int, index: int, attempt: int, *, kill: bool
) -> tuple[int, list[str]]:
    """One try of one shard: its exit code, and the lines of its log."""
    words = [
        re.sub(r"Ref::([\w-]+)", lambda match: str(job["Parameters"][match[1]]), word)
        for word in job["ContainerProperties"]["Command"]
    ]
    array = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": str(size)}
    more = {"AWS_BATCH_JOB_ATTEMPT": str(attempt), **(array if size > 1 else {})}
    process = await command(*words, **more)
    if kill:
        process.kill()
    out, errors = await process.communicate()
    if process.returncode not in (0, -9):
        sys.stderr.write(errors.decode())
    code = KILLED if process.returncode == -9 else process.returncode or 0
    return code, out.decode().splitlines()


async def fill(stores: dict[str, S3Store], cloud: Cloud, night: int) -> None:
    """Writes what comes in a day: objects of one record each, under every location's prefix."""
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    lanes = asyncio.Semaphore(16)

    async def write(store: S3Store, key: str, body: bytes) -> None:
        async with lanes:
            await store.put(key, body)

    offsets = range(night * OBJECTS, (night + 1) * OBJECTS)
    async with asyncio.TaskGroup() as tasks:
        for resources in cloud.stacks.values():
            values = resources["Job"]["Parameters"]
            store, prefix = stores[values["s3-bucket-id"]], values["s3-prefix"]
            for group, n in product(range(GROUPS), offsets):
                name = f"db.core.t{group % 3}_{group}_{n}"
                body = f'{{"of": "{prefix}", "group": {group}, "n": {n}}}\n'.encode()
                if values["date-to-add"] == "NOT_SET":
                    key = f"{prefix}/{name}-{name}.txt"
                else:
                    body = gzip.compress(body)
                    key = f"{prefix}/{yesterday:%Y/%m/%d}/{name}-{n}.jsonl.gz"
                tasks.create_task(write(store, key, body))


async def count(stores: dict[str, S3Store]) -> tuple[Counter[bytes], list[str], list[str]]:
    """Every record with how often it is there, small objects, and outputs."""
    found, keys = Counter[bytes](), list[str]()
    for store in stores.values():
        lines, data, _ = await records(store)
        found += lines
        keys += data
    small = [key for key in keys if SMALL.search(key)]
    return found, small, [key for key in keys if not SMALL.search(key)]


async def monday(cloud: Cloud, stores: dict[str, S3Store], folder: Path) -> dict[str, bool]:
    """The first deployment, and the first night."""
    refused = cloud.deploy(folder, "coalesce:1")
    await fill(stores, cloud, 0)
    before, _, _ = await count(stores)
    await cloud.pass_night(1)
    after, small, outputs = await count(stores)
    return {
        f"CloudFormation takes the stacks of ci/deploy.sh {refused}".rstrip(): not refused,
        "every schedule starts the first image": set(cloud.images.values()) == {"coalesce:1"}
        and cloud.images.keys() == cloud.stacks.keys(),
        "every shard of the first night ends with 0": not any(map(any, cloud.codes.values())),
        "in the morning no alarm rings, and nothing was told": not cloud.ringing(1)
        and not cloud.told,
        "every record is there once, and only in outputs": after == before
        and set(after.values()) == {1}
        and not small
        and len(outputs) == GROUPS * len(cloud.stacks),
    }


async def tuesday(cloud: Cloud, stores: dict[str, S3Store], folder: Path) -> dict[str, bool]:
    """Another image, and a night in which one location is dead."""
    refused = cloud.deploy(folder, "coalesce:2")
    await fill(stores, cloud, 1)
    before, _, _ = await count(stores)
    await cloud.pass_night(2, dead=DEAD)
    after, small, _ = await count(stores)
    prefix = cloud.stacks[DEAD]["Job"]["Parameters"]["s3-prefix"]
    others = {name: codes for name, codes in cloud.codes.items() if name != DEAD}
    size = len(cloud.codes[DEAD])
    return {
        f"CloudFormation takes a second image while schedules use the first {refused}".rstrip(): (
            not refused
        ),
        "every schedule starts the second image": set(cloud.images.values()) == {"coalesce:2"},
        f"{DEAD} is dead: every task of it was killed": set(cloud.codes[DEAD]) == {KILLED},
        "every shard of the other locations ends with 0": not any(map(any, others.values())),
        "in the morning its NoGoodNight rings, and no other alarm": cloud.ringing(2)
        == {f"{DEAD} NoGoodNight"},
        "the topic is told of it alone, with how many of its shards failed": len(cloud.told) == 1
        and f"job {DEAD} " in cloud.told[0]
        and f"Of {size} shards {size} failed and 0 succeeded" in cloud.told[0],
        "every record is there once, and small objects only of the dead location": after == before
        and set(after.values()) == {1}
        and len(small) == GROUPS * OBJECTS
        and all(key.startswith(f"{prefix}/") for key in small),
    }


async def wednesday(cloud: Cloud, stores: dict[str, S3Store]) -> dict[str, bool]:
    """The dead location, run by hand: as docs/deploy-aws.md says."""
    before, _, _ = await count(stores)
    await cloud.submit(DEAD, DEAD, 1, MONDAY + dt.timedelta(days=2, hours=10))
    after, small, outputs = await count(stores)
    return {
        "run by hand, the dead location ends with 0": cloud.codes[DEAD] == [0],
        "every record is there once, and no small object is left": after == before
        and set(after.values()) == {1}
        and not small
        and len(outputs) == 2 * GROUPS * len(cloud.stacks),
    }


async def rehearse(endpoint: str) -> int:
    """The days one after another, and what holds after each."""
    own = {
        "access_key": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
        "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
    }
    os.environ |= {
        "COALESCE_ENDPOINT_URL": endpoint,
        "COALESCE_REGION": "us-east-1",
        "COALESCE_ADDRESSING": "path",
        "COALESCE_MIN_AGE": "0",
        "COALESCE_LEASE": "10s",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": own["access_key"],
        "AWS_SECRET_ACCESS_KEY": own["secret_key"],
    }
    begun, cloud, holds = time.monotonic(), Cloud(), dict[str, bool]()
    way = {"endpoint_url": endpoint, "region": "us-east-1", "addressing": "path", **own}
    options = [S3Options(bucket, **way) for bucket in BUCKETS]  # type: ignore[arg-type]
    async with open_s3(options[0]) as first, open_s3(options[1]) as second:
        stores = dict(zip(BUCKETS, (first, second), strict=True))
        for store in stores.values():
            await store.create_bucket()
        with tempfile.TemporaryDirectory() as folder:
            for day in (monday, tuesday):
                print(day.__name__.capitalize(), flush=True)
                holds |= _print(await day(cloud, stores, Path(folder)))
        print("\n".join(f"  the topic was told: {text}" for text in cloud.told))
        print("Wednesday", flush=True)
        holds |= _print(await wednesday(cloud, stores))
    print(f"{sum(holds.values())} of {len(holds)} hold, in {time.monotonic() - begun:.0f} s")
    return 0 if all(holds.values()) else 1


def _print(holds: dict[str, bool]) -> dict[str, bool]:
    for name, is_so in holds.items():
        print(f"{'yes' if is_so else 'NO ':3}  {name}", flush=True)
    return holds


if __name__ == "__main__":
    sys.exit(asyncio.run(rehearse(os.environ["COALESCE_TEST_ENDPOINT"])))
