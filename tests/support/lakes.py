"""Buckets in memory on which the effect of an option can be seen, each made once."""

import asyncio
import gzip
from functools import cache

from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.inventories import inventory_of
from support.runs import new_run
from support.scenarios import haunted
from support.settings import settings

DAY = "data/2026/11/22/"

GROUPS = {
    "data/t_0": 4,
    "data/t_1": 3,
    "data/u_0": 2,
    f"{DAY}t_0": 2,
    "more/t_0": 2,
}


def put(bucket: MemoryBucket, where: str, count: int) -> None:
    for n in range(count):
        body = gzip.compress(b'{"n": %d}\n' % n, mtime=0)
        bucket.store(f"{where}_{n}-{n}.jsonl.gz", body)


@cache
def lake() -> MemoryBucket:
    """Two topics, two partitions, two prefixes, a day, and two manifests; all an hour old."""
    bucket = MemoryBucket()
    for where, count in GROUPS.items():
        put(bucket, where, count)
    for n in range(2):
        bucket.store(f"data/m_0_{n}-m_0_{n}.txt", b"%d\n" % n)
    bucket.now += 3600
    return bucket


@cache
def small_outputs() -> MemoryBucket:
    """A group of nothing but two outputs of earlier runs."""
    bucket = MemoryBucket()
    for n in range(2):
        bucket.store(f"data/t_0_{n}_{n}.jsonl.gz", gzip.compress(b'{"n": %d}\n' % n, mtime=0))
    bucket.now += 3600
    return bucket


@cache
def other() -> MemoryBucket:
    """Another bucket, with one group of one topic."""
    bucket = MemoryBucket()
    put(bucket, "data/x_0", 3)
    bucket.now += 3600
    return bucket


@cache
def inventory() -> MemoryBucket:
    """Another bucket, with an inventory of one group of the first."""
    return inventory_of(lake(), "data/t_0_")


@cache
def spoilt() -> MemoryBucket:
    """A group whose last source is cut."""
    bucket = MemoryBucket()
    put(bucket, "data/t_0", 5)
    key = "data/t_0_4-4.jsonl.gz"
    bucket.store(key, bucket.objects[key].data[:-2])
    bucket.now += 3600
    return bucket


@cache
def described() -> MemoryBucket:
    """A group whose sources say much of themselves; two of its four are of another class, and its
    last one says something else.
    """
    bucket = MemoryBucket()
    put(bucket, "data/t_0", 4)
    for n, (key, stored) in enumerate(sorted(bucket.objects.items())):
        bucket.store(
            key,
            stored.data,
            {"team": "a" if n < 3 else "b"},
            "application/x-made-up",
            storage_class="STANDARD_IA" if n < 2 else "STANDARD",
            headers={
                "content-encoding": "gzip",
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "arn:key",
            },
            tags={"owner": "x"},
        )
    bucket.now += 3600
    return bucket


@cache
def weak() -> MemoryBucket:
    """The lake in a store that overwrites what a Complete meets."""
    bucket = copy_of(lake())
    bucket.ignores = frozenset({"complete-if-none-match"})
    return bucket


@cache
def weak_and_unfinished() -> MemoryBucket:
    """Such a store with what a dead run left in it."""
    bucket = copy_of(unfinished())
    bucket.ignores = frozenset({"complete-if-none-match"})
    return bucket


@cache
def empty() -> MemoryBucket:
    return MemoryBucket()


@cache
def joined() -> MemoryBucket:
    """The lake after runs over all of it, with both layouts."""
    return _run_over(lake())


@cache
def joined_other() -> MemoryBucket:
    return _run_over(other())


@cache
def damaged() -> MemoryBucket:
    """The same with an output that is as long as before, but ends with other bytes."""
    bucket, key = copy_of(joined()), "data/t_0_0_3.jsonl.gz"
    stored = bucket.objects[key]
    bucket.store(key, stored.data[:-4] + b"\0\0\0\0", stored.metadata)
    return bucket


@cache
def unfinished() -> MemoryBucket:
    """What a run left that died among its deletes."""
    return copy_of(asyncio.run(haunted("after a death among the deletes"))[0])


def copy_of(bucket: MemoryBucket) -> MemoryBucket:
    return MemoryBucket(now=bucket.now, objects=dict(bucket.objects), uploads=dict(bucket.uploads))


def _run_over(bucket: MemoryBucket) -> MemoryBucket:
    bucket = copy_of(bucket)
    for layout in ("corporate", "manifest"):
        chosen = settings(prefix=[], whole_bucket=True, layout=layout)
        assert asyncio.run(new_run(MemoryStore(bucket), chosen).coalesce()).exit_code == 0
        bucket.now += 1000
    return bucket
