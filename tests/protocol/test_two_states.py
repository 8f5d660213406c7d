"""Two runs over one scope that keep their state in different places cannot see one another; that
records may be there twice is noticed.
"""

import asyncio

from coalesce.exits import ExitCode
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.runs import new_run
from support.scenarios import corporate
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
