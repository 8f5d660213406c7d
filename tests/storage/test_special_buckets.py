"""Buckets and objects with versions, locks, keys of their own, archive tiers.

`docs/reliability.md` names what no server here can show.
"""

import gzip
from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support import auditor
from support.servers import KEYS, bucket_of

SETTINGS = Settings.model_validate({"bucket": "b", "prefix": ["data"], "min_age": 0})


class Bucket:
    """A bucket through another client, and through the program's store."""

    def __init__(self, url: str, name: str, store: S3Store) -> None:
        self.name = name
        self.store = store
        keys = {
            "aws_access_key_id": KEYS["access_key"],
            "aws_secret_access_key": KEYS["secret_key"],
        }
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        self.client: Any = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", config=config, **keys
        )

    def fill(self, count: int = 5, **more: object) -> dict[str, bytes]:
        bodies = {
            f"data/t_0_{n}-{n}.jsonl.gz": gzip.compress(b'{"n": %d}\n' % n, mtime=0)
            for n in range(count)
        }
        for key, body in bodies.items():
            self.client.put_object(Bucket=self.name, Key=key, Body=body, **more)
        return bodies

    def look(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {
            entry["Key"]: self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
            for entry in listed
        }

    def versions(self) -> dict[str, list[bytes]]:
        """Every version of every object that is kept."""
        found: dict[str, list[bytes]] = {}
        for entry in self.client.list_object_versions(Bucket=self.name).get("Versions", []):
            body = self.client.get_object(
                Bucket=self.name, Key=entry["Key"], VersionId=entry["VersionId"]
            )["Body"].read()
            found.setdefault(entry["Key"], []).append(body)
        return found


@pytest.fixture
async def bucket(ministack: str, request: pytest.FixtureRequest) -> AsyncIterator[Bucket]:
    name = bucket_of(request.node.name)
    async with open_s3(
        S3Options(name, endpoint_url=ministack, region="us-east-1", addressing="path", **KEYS)
    ) as store:
        yield Bucket(ministack, name, store)


async def test_a_versioned_bucket_keeps_every_source_as_an_old_version(bucket: Bucket) -> None:
    """Readers see the joined object, and the sources can be restored."""
    bucket.client.create_bucket(Bucket=bucket.name)
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    sources = bucket.fill()
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert report.exit_code == 0, report.failures
    assert list(bucket.look()) == ["data/t_0_0_4.jsonl.gz"]
    assert auditor.records(bucket.look(), "") == auditor.records(sources, "")
    kept = bucket.versions()
    assert {key: kept[key] for key in sources} == {key: [body] for key, body in sources.items()}


async def test_sources_under_an_object_lock_are_joined_and_kept_as_versions(bucket: Bucket) -> None:
    """A lock keeps versions; a delete without a version only hides the last one, and is allowed."""
    bucket.client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=True)
    sources = bucket.fill(ObjectLockLegalHoldStatus="ON")
    report = await Run(bucket.store, SETTINGS).coalesce()
    kept = bucket.versions()
    assert {key: kept[key] for key in sources} == {key: [body] for key, body in sources.items()}
    assert report.exit_code == 0, report.failures
    assert auditor.records(bucket.look(), "") == auditor.records(sources, "")


@pytest.mark.parametrize("kind", ["GLACIER", "DEEP_ARCHIVE"])
async def test_archived_sources_stay_and_the_others_are_joined(bucket: Bucket, kind: str) -> None:
    """The listing names their class: nobody requests a body that would be refused."""
    bucket.client.create_bucket(Bucket=bucket.name)
    sources = bucket.fill()
    key = "data/t_0_2-2.jsonl.gz"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=sources[key], StorageClass=kind)
    report = await Run(bucket.store, SETTINGS).coalesce()
    listed = {
        entry["Key"]: entry["StorageClass"]
        for entry in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    }
    assert (report.exit_code, report.sources.left["archived"]) == (0, 1)
    assert listed == {key: kind, "data/t_0_0_4.jsonl.gz": "STANDARD"}


async def test_sources_under_a_customers_key_stay(bucket: Bucket) -> None:
    """SSE-C: nobody reads them without the key, which the program does not have."""
    bucket.client.create_bucket(Bucket=bucket.name)
    sources = bucket.fill(SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32)
    with pytest.raises(ClientError):
        bucket.client.get_object(Bucket=bucket.name, Key="data/t_0_0-0.jsonl.gz")
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert (report.exit_code, bool(report.failures)) == (1, True)
    listed = [
        entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    ]
    assert listed == list(sources)


async def test_sources_under_a_kms_key_are_joined(bucket: Bucket) -> None:
    """Their ETag is no MD5 on S3, and nothing takes it for one."""
    bucket.client.create_bucket(Bucket=bucket.name)
    sources = bucket.fill(ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/aws/s3")
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert report.exit_code == 0, report.failures
    assert auditor.records(bucket.look(), "") == auditor.records(sources, "")
    assert list(bucket.look()) == ["data/t_0_0_4.jsonl.gz"]
