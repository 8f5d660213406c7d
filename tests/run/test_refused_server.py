"""A server that ignores every condition (s3rver does) is refused, and loses nothing by it.

Run by `make test-servers SERVERS=s3rver`.
"""

import os

import pytest

from coalesce.protocol.probe import probe
from coalesce.run.pipeline import Run
from coalesce.storage.capabilities import weaker_modes
from coalesce.storage.s3 import S3Store
from support.buckets import data_in, fill, look
from support.runs import NoLease
from support.settings import settings

pytestmark = pytest.mark.skipif(
    not os.environ.get("COALESCE_TEST_REFUSED"),
    reason="COALESCE_TEST_REFUSED does not say that the server is one to be refused",
)


async def test_its_weaknesses_are_named(bucket: S3Store) -> None:
    assert set(weaker_modes(await probe(bucket, "probe/", NoLease()))) == {
        "no-exclusion",
        "overwrite-race",
        "delete-race",
    }


async def test_a_run_is_refused_by_name_and_touches_no_source(bucket: S3Store) -> None:
    """One source: a bucket with more of them s3rver cannot even list page by page.

    Its deletes fail at times, which leaves the lease for a sweep of what the probe has tried.
    """
    await fill(bucket, 1, 1)
    held = await look(bucket)
    report = await Run(bucket, settings()).coalesce()
    assert report.exit_code == 10
    assert "--accept-weaker no-exclusion" in report.failures[0].hint
    assert data_in(await look(bucket)) == held


async def test_no_source_is_touched_where_its_listing_fails(bucket: S3Store) -> None:
    """With a 500, by which nothing is known of the store."""
    await fill(bucket, 1, 6)
    held = await look(bucket)
    report = await Run(bucket, settings()).coalesce()
    assert report.exit_code == 75
    assert data_in(await look(bucket)) == held
