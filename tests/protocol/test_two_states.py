"""Two runs over one scope that keep their state in different places cannot see one another; that
records may be there twice is noticed.
"""

import asyncio
from typing import Any

from typing_extensions import override

from coalesce.errors import Unavailable
from coalesce.exits import ExitCode
from coalesce.report.report import Report
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import auditor
from support.nights import at
from support.runs import new_run
from support.scenarios import corporate, unfinished
from support.settings import settings


async def test_a_source_that_another_run_has_joined_too_raises_the_alarm() -> None:
    bucket = MemoryBucket()
    corporate(bucket, groups=1, sources=4)
    bucket.now += 1000
    slow, reached, go = MemoryStore(bucket), asyncio.Event(), asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            reached.set()
            await go.wait()

    slow.before = before
    first = asyncio.create_task(new_run(slow, settings(state="_one/")).coalesce())
    await reached.wait()
    corporate(bucket, groups=1, sources=5)  # one more: the other run plans another output
    bucket.now += 1000
    second = await new_run(MemoryStore(bucket), settings(state="_two/")).coalesce()
    go.set()
    report = await first
    assert second.exit_code == ExitCode.DONE
    assert report.exit_code == ExitCode.INTEGRITY
    assert [failure.code for failure in report.failures] == ["TwoRuns"]
    assert "db.core.topic_0_0_49.jsonl.gz" in report.failures[0].message


async def deleted_by_others(store: MemoryStore, *added: str) -> Report:
    """A run during whose Complete somebody takes a source away and adds other objects."""

    def act() -> None:
        store.bucket.remove("data/db.core.topic_0_0-9.jsonl.gz")
        for key in added:
            store.bucket.store(key, b"")

    run = new_run(at(store, "CompleteMultipartUpload", "data/", act), settings(max_files=4))
    return await run.coalesce()


def eight_sources() -> MemoryBucket:
    bucket = MemoryBucket()
    corporate(bucket, groups=1, sources=8)
    bucket.now += 1000
    return bucket


async def test_an_output_of_another_group_that_has_appeared_is_no_alarm() -> None:
    """Its name begins as this group's names do."""
    report = await deleted_by_others(
        MemoryStore(eight_sources()), "data/db.core.topic_0_5_0_9.jsonl.gz"
    )
    assert (report.exit_code, report.failures) == (ExitCode.DONE, [])


async def test_where_it_cannot_be_seen_whether_another_run_is_at_work_all_outputs_are_made() -> (
    None
):
    bucket = eight_sources()

    class Unlisted(MemoryStore):
        @override
        async def list_page(self, prefix: str, **asked: Any) -> Page:
            if prefix == "data/db.core.topic_0_":
                raise Unavailable("made up", key=prefix, operation="ListObjectsV2")
            return await super().list_page(prefix, **asked)

    report = await deleted_by_others(Unlisted(bucket))
    assert report.exit_code == ExitCode.TRANSIENT
    assert report.outputs.written == 2
    assert auditor.sources(bucket.objects) == []
    assert unfinished(bucket) == []
