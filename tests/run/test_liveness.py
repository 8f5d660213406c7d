"""A run ends when it is told to: within the time of the outputs whose bytes are on their way, from
any request on. On a clock that leaps: each request takes a second, and nobody waits.
"""

import asyncio
import gzip
from collections.abc import Callable

import pytest

from coalesce.exits import ExitCode
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.record_reader import decode
from coalesce.protocol.state import lease_key
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.crew import NearCrew
from support.runs import new_run
from support.settings import settings
from support.timeless import Timeless


class Bucket(MemoryBucket):
    """Of one group, eight outputs are on their way at once."""

    round_batches = 8
    keys_per_page = 1000


class Store(MemoryStore):
    """Its listings have pages of as many keys as the bucket says."""

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        token: str | None = None,
        max_keys: int = 1000,
    ) -> Page:
        most = getattr(self.bucket, "keys_per_page", max_keys)
        return await super().list_page(prefix, delimiter=delimiter, token=token, max_keys=most)


# An output takes its upload, record, reads, part, ledger entry, Complete, HEAD and deletes, each a
# second, and what waits for them in the limiter; the probe's longest trial takes as long.
SECONDS = 32


def many_groups(bucket: MemoryBucket) -> None:
    for group in range(60):
        for n in range(3):
            body = gzip.compress(b"%d-%d\n" % (group, n), mtime=0)
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", body)


def one_long_group(bucket: MemoryBucket) -> None:
    for n in range(600):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, mtime=0))


def a_long_listing(bucket: MemoryBucket) -> None:
    """It takes two minutes to list what is not to be joined."""
    assert isinstance(bucket, Bucket)
    bucket.keys_per_page = 2
    for n in range(240):
        bucket.store(f"data/other-{n}", b"")
    for n in range(3):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, mtime=0))


def unfinished_groups(bucket: MemoryBucket) -> None:
    """Outputs that are there, with their sources and their plan records."""
    many_groups(bucket)
    bucket.now += 1000
    asyncio.run(new_run(MemoryStore(bucket), settings(delete=False)).coalesce())


def another_runs_lease(bucket: MemoryBucket) -> None:
    """It works on the same groups, died a moment ago, and holds its lease for two hours."""
    unfinished_groups(bucket)
    key = "_coalesce/groups/data/t_0"
    run_id = decode(bucket.objects[key].data, key, "_coalesce/").run_id
    lease = LeaseRecord(run_id=run_id, layout="corporate", prefixes=("data/",), seconds=7200)
    bucket.store(lease_key("_coalesce/", run_id), lease.model_dump_json().encode())


BUCKETS = {
    "many groups": (many_groups, {}),
    "one group of many rounds": (one_long_group, {"max_files": 3}),
    "a listing of many pages": (a_long_listing, {}),
    "unfinished groups": (unfinished_groups, {}),
    "another run's lease": (another_runs_lease, {}),
}


def timed_run(
    fill: Callable[[MemoryBucket], None], more: dict[str, object], at: int, workers: int
) -> tuple[Report, float]:
    """A run that is told to stop at its request number `at`, counted over all its processes; and
    the seconds that it took then.
    """
    bucket = Bucket()
    fill(bucket)
    bucket.now += 1000
    loop = Timeless(bucket)
    store = Store(bucket)
    told, sent = 0.0, 0

    async def before(request: Request) -> None:
        nonlocal told, sent
        sent += 1
        if sent == at:
            told = loop.time()
            run.interrupt(ExitCode.TERMINATED)
        await asyncio.sleep(1)

    stores = [Store(bucket) for _ in range(workers)]
    for each in (store, *stores):
        each.before = before
    crew = NearCrew(stores, loop.time) if workers else None
    chosen = settings(concurrency=4 * max(1, workers), processes=workers, **more)
    run: Run = new_run(store, chosen, clock=loop.time, workers=crew)
    try:
        report = loop.run_until_complete(run.coalesce())
    finally:
        ended = loop.time()
        loop.close()
    return report, ended - told


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", BUCKETS)
def test_a_run_that_is_told_to_stop_ends_within_one_outputs_time(name: str, workers: int) -> None:
    fill, more = BUCKETS[name]
    at = 1
    while True:
        report, seconds = timed_run(fill, more, at, workers)
        if report.exit_code != ExitCode.TERMINATED:
            break  # it had ended before
        assert seconds <= SECONDS, (at, seconds)
        at += 23
    assert at > 100


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", BUCKETS)
def test_a_run_ends_soon_after_its_deadline(name: str, workers: int) -> None:
    fill, more = BUCKETS[name]
    for deadline in (1, 15, 40):
        report, seconds = timed_run(fill, {**more, "deadline": deadline}, 1, workers)
        assert report.exit_code in (ExitCode.LIMIT, ExitCode.TERMINATED)
        assert seconds <= deadline + SECONDS, (deadline, seconds)
