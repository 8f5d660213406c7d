"""A server that ignores every condition (s3rver does) is refused, and loses nothing by it.

Run by `make test-servers SERVERS=s3rver`.
"""

import gzip
import os
from collections.abc import AsyncIterator

import pytest

from coalesce.protocol.probe import probe
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.capabilities import weaker_modes
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support.runs import NoLease
from support.servers import KEYS, bucket_of

pytestmark = pytest.mark.skipif(
    not os.environ.get("COALESCE_TEST_REFUSED"),
    reason="COALESCE_TEST_REFUSED does not say that the server is one to be refused",
)


@pytest.fixture
async def bucket(server: str, request: pytest.FixtureRequest) -> AsyncIterator[S3Store]:
    async with open_s3(
        S3Options(
            bucket_of(request.node.name),
            endpoint_url=server,
            region="us-east-1",
            addressing="path",
            **KEYS,
        )
    ) as store:
        await store.create_bucket()
        yield store


async def sources(store: S3Store, count: int) -> dict[str, bytes]:
    bodies = {f"data/t_0_{n}-{n}.jsonl.gz": gzip.compress(b'{"n": %d}\n' % n) for n in range(count)}
    for key, body in bodies.items():
        await store.put(key, body)
    return bodies


SETTINGS = Settings.model_validate({"bucket": "b", "prefix": ["data"], "min_age": 0})


async def test_its_weaknesses_are_named(bucket: S3Store) -> None:
    assert set(weaker_modes(await probe(bucket, "probe/", NoLease()))) == {
        "no-exclusion",
        "overwrite-race",
        "delete-race",
    }


async def test_a_run_is_refused_by_name_and_touches_nothing(bucket: S3Store) -> None:
    """One source: a bucket with more of them s3rver cannot even list page by page."""
    held = await sources(bucket, 1)
    report = await Run(bucket, SETTINGS).coalesce()
    assert report.exit_code == 10
    assert "--accept-weaker no-exclusion" in report.failures[0].hint
    assert {
        entry.key: (await bucket.get(entry.key)).data
        for entry in (await bucket.list_page("")).objects
    } == held


async def test_no_source_is_touched_where_its_listing_fails(bucket: S3Store) -> None:
    held = await sources(bucket, 6)
    report = await Run(bucket, SETTINGS).coalesce()
    assert report.exit_code == 10
    assert {
        entry.key: (await bucket.get(entry.key)).data
        for entry in (await bucket.list_page("")).objects
    } == held
