"""The jobs on a bucket in S3: what the functions and the command line have in common.

What comes of a job is in its report, whatever it is; nothing is raised for it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from coalesce.errors import AccessDenied, ConfigurationError, UsageError
from coalesce.inspect.status import Status as Status
from coalesce.inspect.status import read_status
from coalesce.inspect.verification import Extent as Extent
from coalesce.inspect.verification import Verification as Verification
from coalesce.inspect.verify import verify
from coalesce.library.files import split_url
from coalesce.listing.inventory import GroupsFound, Leads, find_groups
from coalesce.planning.plan_files import PlanFile
from coalesce.planning.work_lists import WorkList
from coalesce.report.events import FailureEvent, RunEvent, VerifiedEvent
from coalesce.report.report import Report
from coalesce.run.division import most_processes
from coalesce.run.goals import settings_for_goal
from coalesce.run.pipeline import Run as Run
from coalesce.run.start import report_failure as report_failure
from coalesce.run.workers import Workers as Workers
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, open_s3

JobName = Literal["run", "plan", "recover"]

Emit = Callable[[RunEvent], None]
EmitCheck = Callable[[VerifiedEvent | FailureEvent], None]

JOBS: Mapping[JobName, Callable[[Run], Awaitable[Report]]] = {
    "run": Run.coalesce,
    "plan": Run.plan,
    "recover": Run.recover,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run is given: its settings and the way to its bucket; a saved plan or a list of keys
    that it is limited to; the URL of an inventory that says where to look, empty for none.
    """

    settings: Settings
    options: S3Options
    planned: PlanFile | None = None
    wanted: WorkList | None = None
    inventory: str = ""


def check_alone(*given: object) -> None:
    """Raises UsageError if more than one is given of what decides by itself what is joined."""
    if sum(map(bool, given)) > 1:
        raise UsageError(
            "a saved plan, a list of keys, an inventory and a goal contradict each other",
            hint="Leave all but one of them out.",
        )


def check_manifest(url: str) -> None:
    """Raises UsageError for what is not empty and no URL of an inventory's manifest."""
    if url and not (url.startswith("s3://") and url.endswith("/manifest.json")):
        raise UsageError(
            f"{url!r} is no inventory", hint="Give the s3:// URL of its manifest.json."
        )


@asynccontextmanager
async def open_run(work: Work, emit: Emit, workers: Workers | None = None) -> AsyncIterator[Run]:
    """A run on a bucket that is open for the length of the block; one of `JOBS` starts it.

    Where the settings have a goal, what is there is listed first, and the run gets the size of
    outputs that it needs. An inventory is read first too.

    Raises ConfigurationError for options and an inventory that cannot be used, and for a goal that
    cannot be reached; CoalesceError if what is there is not known.
    """
    async with open_s3(work.options) as store:
        with denied_is_refused():
            settings = await settings_for_goal(store, work.settings)
            leads = await _read_inventory(work)
        yield Run(
            store,
            settings,
            emit,
            endpoint=store.endpoint,
            planned=work.planned,
            wanted=work.wanted,
            leads=leads,
            workers=workers,
        )


async def _read_inventory(work: Work) -> Leads | None:
    if not work.inventory:
        return None
    settings = work.settings
    found = GroupsFound(
        settings.prefixes(dt.datetime.now(dt.UTC).date()),
        settings.state_prefix,
        settings.chosen_layout,
        settings.shard,
        grow=settings.grow is not None,
    )
    bucket, key = split_url(work.inventory)
    async with open_s3(work.options.for_bucket(bucket)) as store:
        await find_groups(store, key, settings.bucket, found)
    return found.leads(settings.min_files)


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
    settings: Settings,
    options: S3Options,
    emit: EmitCheck,
    *,
    deep: bool,
    extent: Extent | None = None,
) -> Verification:
    """Proves earlier outputs again; `extent` says at any time how far that is.

    Raises ConfigurationError where nothing can be seen.
    """
    async with open_s3(options) as store:
        return await verify(store, settings, deep=deep, emit=emit, extent=extent)


@contextmanager
def denied_is_refused() -> Iterator[None]:
    """Where nothing may be seen, it is the whole job that is refused, and not a group's failure."""
    try:
        yield
    except AccessDenied as error:
        raise ConfigurationError(
            error.message,
            key=error.key,
            code=error.code,
            request_id=error.request_id,
            hint=error.hint,
            operation=error.operation,
        ) from error
