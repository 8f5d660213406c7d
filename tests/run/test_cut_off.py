"""What a run says that is told to stop, or is cut off: its numbers add up, and it does not wait."""

import asyncio
from contextlib import suppress

import pytest

from coalesce.errors import ConfigurationError
from coalesce.exits import ExitCode
from coalesce.report.events import Event
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryStore, Request
from support.buckets import filled
from support.settings import settings
from support.shards import die


def check_sums(report: Report) -> None:
    sources, groups = report.sources, report.groups
    assert sources.seen == sources.joined + sum(sources.left.values()) > 0
    assert groups.seen == groups.coalesced + groups.left + groups.leased + groups.failed > 0


@pytest.mark.parametrize("cause", ["signal", "credentials"])
@pytest.mark.parametrize(
    "operation", ["CreateMultipartUpload", "CompleteMultipartUpload", "DeleteObjects"]
)
async def test_every_source_is_counted_of_a_run_that_is_cut_off(operation: str, cause: str) -> None:
    store, reached = MemoryStore(filled(3, 4)), asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == operation and "/probe/" not in request.key:
            if cause == "credentials":
                raise ConfigurationError("expired", key=request.key)
            reached.set()
            await asyncio.Event().wait()

    store.before = before
    run = Run(store, settings(max_files=2))
    task = asyncio.create_task(run.coalesce())
    if cause == "signal":
        await reached.wait()
        run.interrupt(ExitCode.INTERRUPTED)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert run.report.exit_code in (ExitCode.INTERRUPTED, ExitCode.CONFIGURATION)
    check_sums(run.report)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_run_that_is_to_stop_does_not_say_that_it_waits(stopped: bool) -> None:
    bucket, waits = filled(2), asyncio.Event()
    await die(bucket, "0/1", "CompleteMultipartUpload", "data/")

    def emit(event: Event) -> None:
        if event["type"] == "waiting":
            waits.set()

    run = Run(MemoryStore(bucket), settings(), emit)
    task = asyncio.create_task(run.coalesce())
    if not stopped:
        await waits.wait()
    run.interrupt(ExitCode.TERMINATED)
    await task
    assert waits.is_set() is not stopped
