"""A lease is held against a clock that runs while the machine sleeps."""

import inspect
import sys
import time

import pytest

from coalesce.clock import boottime
from coalesce.exits import ExitCode
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.runs import new_run
from support.scenarios import corporate
from support.settings import settings


@pytest.mark.skipif(sys.platform != "linux", reason="CLOCK_BOOTTIME is a clock of Linux")
async def test_a_run_whose_machine_slept_past_its_lease_completes_and_deletes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other runs have taken over by then. The monotonic clock stood still all the while."""
    bucket = MemoryBucket()
    corporate(bucket, groups=1)
    bucket.now += 1000
    before = dict(bucket.objects)
    store, slept, clock = MemoryStore(bucket), 0.0, time.clock_gettime

    def clock_gettime(which: int) -> float:
        return clock(which) + (slept if which == time.CLOCK_BOOTTIME else 0.0)

    async def sleep(request: Request) -> None:
        nonlocal slept
        if request.operation == "UploadPart" and request.key.startswith("data/"):
            slept = 3600.0

    monkeypatch.setattr(time, "clock_gettime", clock_gettime)
    store.after = sleep
    report = await new_run(store, settings(), clock=boottime).coalesce()
    assert slept
    assert report.exit_code == ExitCode.TRANSIENT
    assert {key: bucket.objects.get(key) for key in before} == before
    assert [key for key in bucket.objects if key.startswith("data/")] == sorted(before)


def test_runs_use_that_clock() -> None:
    assert inspect.signature(Run).parameters["clock"].default is boottime
