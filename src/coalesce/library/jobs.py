"""The jobs on a bucket in S3: what the functions and the command line have in common.

What comes of a job is in its report, whatever it is; nothing is raised for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from coalesce.inspect.status import Status as Status
from coalesce.inspect.status import read_status
from coalesce.inspect.verify import Verification as Verification
from coalesce.inspect.verify import verify
from coalesce.planning.plan_files import PlanFile
from coalesce.planning.work_lists import WorkList
from coalesce.report.account import Event
from coalesce.report.report import Report
from coalesce.run.division import most_processes
from coalesce.run.pipeline import Run as Run
from coalesce.run.start import report_failure as report_failure
from coalesce.run.workers import Workers as Workers
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, open_s3

JobName = Literal["run", "plan", "recover"]

Emit = Callable[[Event], None]

JOBS: Mapping[JobName, Callable[[Run], Awaitable[Report]]] = {
    "run": Run.coalesce,
    "plan": Run.plan,
    "recover": Run.recover,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is given: its settings and the way to its bucket, and what it is limited to, which
    is a saved plan, a list of keys, or neither.
    """

    settings: Settings
    options: S3Options
    planned: PlanFile | None = None
    wanted: WorkList | None = None


@asynccontextmanager
async def open_run(
    work: Work, emit: Emit, workers: Workers | None = None
) -> AsyncIterator[Run]:
    """A run on a bucket that is open for the length of the block; one of `JOBS` starts it.

    Raises ConfigurationError for options that cannot be used.
    """
    async with open_s3(work.options) as store:
        yield Run(
            store,
            work.settings,
            emit,
            endpoint=store.endpoint,
            planned=work.planned,
            wanted=work.wanted,
            workers=workers,
        )


@contextmanager
def forked_workers(settings: Settings, options: S3Options) -> Iterator[Workers | None]:
    """Worker processes for the length of the block, as many as a run may take; None if that is one
    process. To be called before there is an event loop or a thread.
    """
    count = most_processes(settings.processes, settings.memory)
    if count == 1:
        yield None
        return
    with Workers(count, partial(open_s3, options)) as workers:
        yield workers


@contextmanager
def new_workers(settings: Settings, options: S3Options) -> Iterator[Workers | None]:
    """The same for a process that is somebody else's: it is not forked, since it may have threads,
    and there are none unless the settings say how many.
    """
    count = most_processes(settings.processes, settings.memory) if settings.processes else 1
    if count == 1:
        yield None
        return
    with Workers(count, partial(open_s3, options), "spawn") as workers:
        yield workers


async def look(settings: Settings, options: S3Options) -> Status:
    """The status of a scope. Raises CoalesceError where nothing can be seen."""
    async with open_s3(options) as store:
        return await read_status(store, settings)


async def prove(
    settings: Settings, options: S3Options, emit: Emit, *, deep: bool
) -> Verification:
    """Proves earlier outputs again. Raises ConfigurationError where nothing can be seen."""
    async with open_s3(options) as store:
        return await verify(store, settings, deep=deep, emit=emit)
