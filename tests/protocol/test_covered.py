"""A source that is kept while its neighbours are joined is joined by a later run: no output's
offsets cover it.
"""

import gzip

import pytest

from coalesce.report.report import Report
from coalesce.storage.memory import MemoryStore
from support.nights import GROUP, at, night, one_group, sources_in
from support.scenarios import AuditedBucket


def add(bucket: AuditedBucket, *numbers: int) -> None:
    """A producer writes sources of ten offsets each; those that are there get another version."""
    with bucket.audit.others():
        for n in numbers:
            body = gzip.compress(b"written at %d: %d\n" % (bucket.now, n), mtime=0)
            bucket.store(key_of(n), body)


def key_of(number: int) -> str:
    return f"{GROUP}_{number * 10}-{number * 10 + 9}.jsonl.gz"


async def check_that_all_are_joined(bucket: AuditedBucket, report: Report, *kept: int) -> None:
    """The first night has kept these sources alone; the next one joins them with new ones."""
    assert report.exit_code == 0, report.failures
    assert sources_in(bucket) == sorted(map(key_of, kept))
    add(bucket, 90, 91)
    report = await night(bucket, min_age=300)
    assert (report.exit_code, report.sources.left["covered"]) == (0, 0)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


@pytest.mark.parametrize("place", range(6))
async def test_a_source_that_was_too_young_is_joined_by_a_later_run(place: int) -> None:
    bucket = one_group(8)
    add(bucket, place + 1)
    kept = {0: (0, 1), 5: (6, 7)}.get(place, (place + 1,))  # those that are left alone are too few
    await check_that_all_are_joined(bucket, await night(bucket, min_age=1500), *kept)


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "GetObject"])
async def test_a_source_that_is_rewritten_during_a_run_is_joined_by_a_later_run(
    operation: str,
) -> None:
    """It is young then, and its neighbours are joined around it in the same run."""
    bucket = one_group(6)
    store = at(MemoryStore(bucket), operation, "data/", lambda: add(bucket, 3))
    await check_that_all_are_joined(bucket, await night(bucket, store, min_age=300), 3)


async def test_a_source_that_is_young_when_a_limit_ends_the_run_is_joined_by_a_later_run() -> None:
    """Between two outputs of which only the first is written."""
    bucket = one_group(6)
    add(bucket, 2)
    report = await night(bucket, min_age=1500, max_delete=2)
    assert (report.exit_code, len(sources_in(bucket))) == (12, 4)
    report = await night(bucket)
    assert (report.exit_code, report.sources.left["covered"], sources_in(bucket)) == (0, 0, [])
    bucket.audit.check_quiet()
