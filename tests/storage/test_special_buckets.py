"""Buckets and objects with versions, locks, keys of their own, archive tiers.

`docs/reliability.md` names what no server here can show.
"""

from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from coalesce.run.pipeline import Run
from coalesce.storage.s3 import S3Store, open_s3
from support.buckets import check_finished, data_in, look, records_in, sources
from support.servers import KEYS, bucket_of, options_of
from support.settings import settings

SETTINGS = settings()


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

    def put_sources(self, **more: object) -> dict[str, bytes]:
        """Sources with options that the program's own store does not have."""
        bodies = sources(count=5)
        for key, body in bodies.items():
            self.client.put_object(Bucket=self.name, Key=key, Body=body, **more)
        return bodies

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
    async with open_s3(options_of(ministack, name)) as store:
        yield Bucket(ministack, name, store)


async def test_a_versioned_bucket_keeps_every_source_as_an_old_version(bucket: Bucket) -> None:
    """Readers see the joined object, and the sources can be restored."""
    bucket.client.create_bucket(Bucket=bucket.name)
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    original = bucket.put_sources()
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert report.exit_code == 0, report.failures
    held = await look(bucket.store)
    assert list(data_in(held)) == ["data/t_0_0_4.jsonl.gz"]
    assert records_in(held) == records_in(original)
    check_finished(held)
    kept = bucket.versions()
    assert {key: kept[key] for key in original} == {key: [body] for key, body in original.items()}


async def test_sources_under_an_object_lock_are_joined_and_kept_as_versions(bucket: Bucket) -> None:
    """A lock keeps versions; a delete without a version only hides the last one, and is allowed."""
    bucket.client.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=True)
    original = bucket.put_sources(ObjectLockLegalHoldStatus="ON")
    report = await Run(bucket.store, SETTINGS).coalesce()
    kept = bucket.versions()
    assert {key: kept[key] for key in original} == {key: [body] for key, body in original.items()}
    assert report.exit_code == 0, report.failures
    held = await look(bucket.store)
    assert records_in(held) == records_in(original)
    check_finished(held)


@pytest.mark.parametrize("kind", ["GLACIER", "DEEP_ARCHIVE"])
async def test_archived_sources_stay_and_the_others_are_joined(bucket: Bucket, kind: str) -> None:
    """The listing names their class: nobody requests a body that would be refused. No output covers
    them, so that they can be joined once they are brought back.
    """
    bucket.client.create_bucket(Bucket=bucket.name)
    original = bucket.put_sources()
    key = "data/t_0_2-2.jsonl.gz"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=original[key], StorageClass=kind)
    report = await Run(bucket.store, SETTINGS).coalesce()
    listed = {
        entry["Key"]: entry["StorageClass"]
        for entry in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    }
    assert (report.exit_code, report.sources.left["archived"]) == (0, 1)
    outputs = dict.fromkeys(("data/t_0_0_1.jsonl.gz", "data/t_0_3_4.jsonl.gz"), "STANDARD")
    assert data_in(listed) == {key: kind, **outputs}
    check_finished(listed)


async def test_sources_under_a_customers_key_stay(bucket: Bucket) -> None:
    """SSE-C: nobody reads them without the key, which the program does not have."""
    bucket.client.create_bucket(Bucket=bucket.name)
    original = bucket.put_sources(SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32)
    with pytest.raises(ClientError):
        bucket.client.get_object(Bucket=bucket.name, Key="data/t_0_0-0.jsonl.gz")
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert (report.exit_code, bool(report.failures)) == (1, True)
    listed = [
        entry["Key"] for entry in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
    ]
    assert listed == list(original)


async def test_sources_under_a_kms_key_are_joined(bucket: Bucket) -> None:
    """Their ETag is no MD5 on S3, and nothing takes it for one."""
    bucket.client.create_bucket(Bucket=bucket.name)
    original = bucket.put_sources(ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/aws/s3")
    report = await Run(bucket.store, SETTINGS).coalesce()
    assert report.exit_code == 0, report.failures
    held = await look(bucket.store)
    assert records_in(held) == records_in(original)
    assert list(data_in(held)) == ["data/t_0_0_4.jsonl.gz"]
    check_finished(held)
