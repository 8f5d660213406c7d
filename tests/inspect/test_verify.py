"""`verify` proves outputs by HEAD, and with --deep by their bytes; whatever is wrong with one is
found, and exits with 4.
"""

import dataclasses
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from coalesce.inspect.verify import Extent, Verification, verify
from coalesce.run.pipeline import Run
from coalesce.storage.base import Body
from coalesce.storage.checksums import crc64, encode
from coalesce.storage.memory import MemoryBucket, MemoryStore, StoredObject
from coalesce.storage.s3 import S3Store
from support.buckets import contents, data_in, fill, filled
from support.command import coalesce, job
from support.settings import settings

KEY = "data/t_1_0_3.jsonl.gz"


async def bucket_of_outputs(groups: int = 3) -> MemoryBucket:
    bucket = filled(groups)
    await Run(MemoryStore(bucket), settings()).coalesce()
    return bucket


def outputs_of(bucket: MemoryBucket) -> dict[str, bytes]:
    return data_in(contents(bucket))


async def verify_unchanged(bucket: MemoryBucket, *, deep: bool, **more: object) -> Verification:
    before = dict(bucket.objects)
    result = await verify(MemoryStore(bucket), settings(**more), deep=deep)
    assert bucket.objects == before
    return result


@pytest.mark.parametrize("deep", [False, True])
async def test_outputs_of_a_run_are_proven(deep: bool) -> None:
    bucket = await bucket_of_outputs()
    result = await verify_unchanged(bucket, deep=deep)
    assert (result.outputs, result.proven, result.failed, result.unsummed, result.exit_code) == (
        3,
        3,
        0,
        0,
        0,
    )
    assert (result.sources, result.records) == (12, 12 if deep else None)
    assert result.bytes == sum(len(data) for data in outputs_of(bucket).values())


def with_data(stored: StoredObject, data: bytes, *, summed: bool = True) -> StoredObject:
    """The object with other bytes, and the sum that the store would show for them, or none."""
    return dataclasses.replace(
        stored, data=data, checksum={"CRC64NVME": encode(crc64([data]))} if summed else {}
    )


Harm = Callable[[StoredObject], StoredObject]


@pytest.mark.parametrize(
    ("code", "harm", "shallow"),
    [
        ("NoPlanDigest", lambda stored: dataclasses.replace(stored, metadata={}), True),
        (
            "NoPlanDigest",
            lambda stored: dataclasses.replace(
                stored, metadata={**stored.metadata, "coalesce-sources": "0"}
            ),
            True,
        ),
        (
            "ChecksumMismatch",
            lambda stored: dataclasses.replace(stored, data=gzip.compress(b"other\n", mtime=0)),
            False,
        ),
        ("TruncatedGzip", lambda stored: with_data(stored, stored.data[:-1]), False),
        (
            "CorruptGzip",
            lambda stored: with_data(
                stored, stored.data[:-6] + bytes([stored.data[-6] ^ 1]) + stored.data[-5:]
            ),
            False,
        ),
        (
            "NoLastNewline",
            lambda stored: with_data(stored, stored.data + gzip.compress(b"no end", mtime=0)),
            False,
        ),
    ],
)
async def test_what_is_wrong_with_an_output_is_found(code: str, harm: Harm, shallow: bool) -> None:
    bucket = await bucket_of_outputs()
    bucket.objects[KEY] = harm(bucket.objects[KEY])
    for deep in (False, True):
        result = await verify_unchanged(bucket, deep=deep)
        if deep or shallow:
            assert (result.exit_code, result.failed, result.proven) == (4, 1, 2)
            (failure,) = result.failures
            assert (failure.code, failure.key) == (code, KEY)
            assert "sources were kept" not in failure.hint  # they are deleted long since
        else:
            assert (result.exit_code, result.proven) == (0, 3)


async def test_whoever_watches_sees_how_far_it_is() -> None:
    bucket = await bucket_of_outputs()
    bucket.objects[KEY] = dataclasses.replace(bucket.objects[KEY], metadata={})
    extent, seen = Extent(), list[tuple[int, int]]()
    result = await verify(
        MemoryStore(bucket),
        settings(),
        deep=True,
        emit=lambda _: seen.append((extent.proven, extent.failed)),
        extent=extent,
    )
    assert sorted(sum(counts) for counts in seen) == [1, 2, 3]
    assert extent == Extent(3, all_listed=True, proven=2, failed=1, bytes=result.bytes)


async def test_deep_counts_the_records_that_a_reader_finds_in_each_output() -> None:
    """Sources of several records, one without an end to its last line, one that holds nothing."""
    bucket = MemoryBucket()
    texts = [b"a\nb\nc\n", b"d\ne", b"", b"\n\nf\n", b"g\n" * 500]
    for group in range(3):
        for n, text in enumerate(texts[group:]):
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", gzip.compress(text, mtime=0))
    bucket.now += 1000
    await Run(MemoryStore(bucket), settings()).coalesce()
    events: list[dict[str, object]] = []
    result = await verify(MemoryStore(bucket), settings(), deep=True, emit=events.append)
    counted = {
        key: len(gzip.decompress(data).splitlines()) for key, data in outputs_of(bucket).items()
    }
    assert {event["key"]: event["records"] for event in events} == counted
    assert sorted(counted.values()) == [503, 505, 508]
    assert result.records == sum(counted.values())


async def test_an_output_without_a_sum_is_read_and_counted_apart() -> None:
    bucket = await bucket_of_outputs()
    bucket.objects[KEY] = with_data(bucket.objects[KEY], bucket.objects[KEY].data, summed=False)
    result = await verify_unchanged(bucket, deep=True)
    assert (result.proven, result.unsummed, result.records, result.exit_code) == (3, 1, 12, 0)


async def test_patterns_and_shards_leave_outputs_out() -> None:
    bucket = await bucket_of_outputs(12)
    assert (await verify_unchanged(bucket, deep=False, exclude=["*_1_*"])).outputs == 11
    assert (await verify_unchanged(bucket, deep=False, partition=[3])).outputs == 1
    assert (
        sum(
            [(await verify_unchanged(bucket, deep=False, shard=f"{n}/3")).outputs for n in range(3)]
        )
        == 12
    )


async def test_large_outputs_are_read_in_parts_a_few_at_once() -> None:
    bucket = MemoryBucket()
    body = gzip.compress(b"x" * 9_000_000 + b"\n", 0, mtime=0)
    for group in range(4):
        for n in range(2):
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    await Run(MemoryStore(bucket), settings()).coalesce()
    held = most = 0

    class Counting(MemoryStore):
        async def get(self, key: str, **asked: Any) -> Body:
            nonlocal held, most
            assert asked["length"] <= 8 * 1024**2
            held += 1
            most = max(most, held)
            found = await super().get(key, **asked)
            held -= 1
            return found

    result = await verify(Counting(bucket), settings(memory="32MiB"), deep=True)
    assert (result.proven, result.records) == (4, 8)
    assert 1 <= most <= 2


@pytest.mark.timeout(180)
async def test_the_command_says_what_was_checked_and_exits_with_4(bucket: S3Store) -> None:
    await fill(bucket, 3, 4)
    assert coalesce(bucket, *job(bucket)).returncode == 0
    done = coalesce(bucket, "verify", f"s3://{bucket.bucket}/data", "--deep")
    assert (done.returncode, "3 proven" in done.stdout, "12 records" in done.stdout) == (
        0,
        True,
        True,
    ), done.stderr
    await bucket.put("data/db.core.topic_7_0_9.jsonl.gz", b"not ours")
    done = coalesce(bucket, "verify", f"s3://{bucket.bucket}/data", "--output", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 4
    assert sorted(line["type"] for line in lines) == [
        "failure",
        "verified",
        "verified",
        "verified",
        "verify",
    ]
    assert (lines[-1]["failed"], lines[-1]["failures"][0]["key"]) == (
        1,
        "data/db.core.topic_7_0_9.jsonl.gz",
    )
