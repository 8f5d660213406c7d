"""What `status`, `verify` and `policy` must not overlook."""

import asyncio

import pytest

from coalesce.inspect.policy import role_policy
from coalesce.inspect.status import read_status
from coalesce.inspect.verify import verify
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.state import lease_key
from coalesce.storage.base import Head
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.memory.store import Request
from support.buckets import filled
from support.runs import new_run
from support.scenarios import Killed
from support.settings import settings


async def test_only_open_uploads_of_outputs_are_counted() -> None:
    bucket = filled(1, 2)
    for key in ("data/t_0_0_9.jsonl.gz", "data/t_0_0-9.jsonl.gz", "data/backup.tar", "data/t_0"):
        bucket.create_upload(key, Checksum.CRC64NVME, {})
    status = await read_status(MemoryStore(bucket), settings())
    assert status.uploads == 1
    shards = [await read_status(MemoryStore(bucket), settings(shard=f"{n}/2")) for n in (0, 1)]
    assert sorted(shard.uploads or 0 for shard in shards) == [0, 1]


async def killed_run(bucket: MemoryBucket) -> str:
    """A run dies with its plan recorded; its id."""
    store = MemoryStore(bucket)

    async def die(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            raise Killed

    store.before = die
    job = new_run(store, settings())
    with pytest.raises(BaseException):  # noqa: B017
        await job.coalesce()
    return job.run_id


async def test_a_dead_runs_group_is_dead_though_another_run_lives() -> None:
    bucket = filled(1, 3)
    dead = await killed_run(bucket)
    bucket.now += 1000
    living = LeaseRecord(run_id="living", prefixes=("elsewhere/",), seconds=60)
    bucket.store(lease_key("_coalesce/", "living"), living.model_dump_json().encode())
    status = await read_status(MemoryStore(bucket), settings())
    assert [(group.run_id, group.alive) for group in status.unfinished] == [(dead, False)]
    assert {lease.run_id: lease.alive for lease in status.leases}["living"]


async def joined(groups: int = 1) -> MemoryBucket:
    bucket = filled(groups, 2)
    assert (await new_run(MemoryStore(bucket), settings(gzip="members")).coalesce()).exit_code == 0
    return bucket


class Disagreeing(MemoryStore):
    """Answers a HEAD with another size than the listing."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        if head is None:
            return None
        return Head(
            head.key, head.size + 1, head.etag, head.metadata, head.attributes, head.checksum
        )


async def test_a_head_that_contradicts_the_listing_is_a_failure() -> None:
    result = await verify(Disagreeing(await joined()), settings(), deep=False)
    assert (result.failed, result.proven, result.exit_code) == (1, 0, 4)


async def test_an_output_that_is_replaced_while_it_is_read_is_not_proven() -> None:
    bucket = await joined()
    (key,) = (key for key in bucket.objects if key.startswith("data/"))
    stored = bucket.objects[key]
    bucket.store(key, stored.data, stored.metadata)  # as in a store that keeps no checksums
    store, half = MemoryStore(bucket), len(stored.data) // 2
    other = stored.data[half:] + stored.data[:half]  # its two members the other way round

    async def replace(request: Request) -> None:
        if request.operation == "HeadObject":
            bucket.store(key, other, stored.metadata)

    store.after = replace
    result = await verify(store, settings(), deep=True)
    assert (result.failed, result.proven) == (1, 0)


@pytest.mark.parametrize("deep", [False, True])
async def test_more_outputs_than_are_checked_at_once_are_all_checked(deep: bool) -> None:
    store = MemoryStore(await joined(100))

    async def wait(request: Request) -> None:
        for _ in range(200):  # so that all others wait in the queue by the end of the listing
            await asyncio.sleep(0)

    store.before = wait
    result = await verify(store, settings(), deep=deep)
    assert (result.outputs, result.proven, result.exit_code) == (100, 100, 0)


def test_a_role_with_a_key_may_read_and_write_what_it_encrypts() -> None:
    """Writing in parts needs both rights."""
    key = "arn:aws:kms:eu-west-2:1:key/k"
    policy = role_policy("arn:aws:s3:::b", ["data/"], "_coalesce/", report="", kms_keys=(key,))
    (statement,) = (s for s in policy["Statement"] if s["Resource"] == [key])
    assert set(statement["Action"]) == {"kms:Decrypt", "kms:GenerateDataKey"}
