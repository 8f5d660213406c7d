"""The functions of `import coalesce`: each as a coroutine, and as one that blocks.

`settings` say what to work on and how, `store` how the bucket is reached where the environment and
the files of the AWS tools do not say it. Each raises ConfigurationError for what the command line
answers with 2 or 10, and returns a report of everything else; `exit_code` in it is the command
line's. Cancelled, it leaves nothing behind but what the next run or `recover` settles.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from typing_extensions import override

from coalesce.errors import ConfigurationError
from coalesce.exits import ExitCode
from coalesce.inspect.status import Status
from coalesce.inspect.verification import Verification
from coalesce.library.blocking import wait_for
from coalesce.library.events import Event, Listener, event_of
from coalesce.library.jobs import (
    JOBS,
    JobName,
    Work,
    check_alone,
    check_manifest,
    denied_is_refused,
    look,
    new_workers,
    open_run,
    prove,
)
from coalesce.library.plans import check_whole, planned_settings, read_plan, save_plan
from coalesce.library.settings import S3, given, reach
from coalesce.planning.work_lists import WorkList
from coalesce.report.events import FailureEvent, VerifiedEvent
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.run.workers import Workers
from coalesce.settings import Settings

OnEvent = Callable[[Event], object]

_Reported = TypeVar("_Reported", Report, Status, Verification)

# How often it is looked whether a run is to end.
_LOOK_SECONDS = 0.1


class StopSign(Protocol):
    """Ends a run between outputs once it is set: a `threading.Event`, an `asyncio.Event`."""

    def is_set(self) -> bool:
        """Whether the run is to end."""
        ...


class Refused(ConfigurationError):
    """Nothing works until someone changes the set-up; `report` says how far the job had come."""

    def __init__(self, report: Report | Status | Verification) -> None:
        failure = report.failures[-1]
        super().__init__(
            failure.message,
            key=failure.key,
            code=failure.code,
            request_id=failure.request_id,
            hint=failure.hint,
            operation=failure.operation,
        )
        self.report = report

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.report,)


async def arun(
    settings: Settings,
    *,
    store: S3 | None = None,
    plan: str = "",
    keys: Iterable[str] | None = None,
    inventory: str = "",
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Finishes what earlier runs left, then joins small objects, proves the outputs and deletes
    the sources.

    Args:
        settings: Scope, limits and rules. Processes of their own are started only if `processes`
            says how many, and as the module `multiprocessing` starts them anew.
        store: How the bucket is reached.
        plan: A saved plan, a file or an `s3://` URL, of which the run does the share of
            `settings.shard`. The settings must be those that it was made with.
        keys: The only sources that may be joined, all under the prefixes of the settings.
        inventory: The `s3://` URL of the manifest.json of an S3 Inventory, which says in which
            groups there is anything to join. Of this, `keys` and a `plan` only one can be given.
        on_event: Is called for what happens, in the thread of the run. If it raises, the run ends
            between outputs, and what it raised is raised then.
        stop: Ends the run between outputs once it is set; the exit code is then 130.
    """
    options = reach(store, settings.bucket)
    check_alone(plan or settings.has_goal, keys is not None, inventory)
    check_manifest(inventory)
    planned = None
    if plan:
        planned = await read_plan(plan, options)
        settings = planned_settings(given(settings), planned, _today())
    work = Work(settings, options, planned, _listed(keys, settings), inventory)
    with new_workers(settings, options) as workers:
        async with _done("run", work, on_event, stop, workers) as run:
            return run.report


async def aplan(
    settings: Settings,
    *,
    store: S3 | None = None,
    save: str = "",
    keys: Iterable[str] | None = None,
    inventory: str = "",
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Says what a run would do and what it would cost, under `plan` in the report. Writes nothing
    to the bucket but, with `save`, the plan: to that file or `s3://` URL, if the exit code is 0.

    `keys` and `inventory` as for `arun`; a plan of them is executed without them.
    """
    options = reach(store, settings.bucket)
    if save:
        check_whole(settings)
    check_alone(keys is not None, inventory, settings.has_goal)
    check_manifest(inventory)
    work = Work(settings, options, wanted=_listed(keys, settings), inventory=inventory)
    async with _done("plan", work, on_event, stop) as run:
        if save and not run.report.exit_code:
            await save_plan(save, run, options)
        return run.report


async def arecover(
    settings: Settings,
    *,
    store: S3 | None = None,
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Finishes or undoes what earlier runs left unfinished, and nothing else."""
    work = Work(settings, reach(store, settings.bucket))
    async with _done("recover", work, on_event, stop) as run:
        return run.report


async def astatus(settings: Settings, *, store: S3 | None = None) -> Status:
    """Says what is there, what is unfinished, and what a run would change.

    Raises CoalesceError where the state prefix cannot be read.
    """
    with denied_is_refused():
        return _checked(await look(settings, reach(store, settings.bucket)))


async def averify(
    settings: Settings,
    *,
    store: S3 | None = None,
    deep: bool = False,
    on_event: OnEvent | None = None,
) -> Verification:
    """Proves earlier outputs again: by their metadata, or with `deep` by all of their bytes.

    What `on_event` raises ends it at once.
    """

    def hear(told: VerifiedEvent | FailureEvent) -> None:
        if on_event is not None:
            on_event(event_of(told))

    with denied_is_refused():
        return _checked(await prove(settings, reach(store, settings.bucket), hear, deep=deep))


def run(
    settings: Settings,
    *,
    store: S3 | None = None,
    plan: str = "",
    keys: Iterable[str] | None = None,
    inventory: str = "",
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Does what `arun` does, and blocks until that is done."""
    return wait_for(
        arun(
            settings,
            store=store,
            plan=plan,
            keys=keys,
            inventory=inventory,
            on_event=on_event,
            stop=stop,
        )
    )


def plan(
    settings: Settings,
    *,
    store: S3 | None = None,
    save: str = "",
    keys: Iterable[str] | None = None,
    inventory: str = "",
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Does what `aplan` does, and blocks until that is done."""
    return wait_for(
        aplan(
            settings,
            store=store,
            save=save,
            keys=keys,
            inventory=inventory,
            on_event=on_event,
            stop=stop,
        )
    )


def recover(
    settings: Settings,
    *,
    store: S3 | None = None,
    on_event: OnEvent | None = None,
    stop: StopSign | None = None,
) -> Report:
    """Does what `arecover` does, and blocks until that is done."""
    return wait_for(arecover(settings, store=store, on_event=on_event, stop=stop))


def status(settings: Settings, *, store: S3 | None = None) -> Status:
    """Does what `astatus` does, and blocks until that is done."""
    return wait_for(astatus(settings, store=store))


def verify(
    settings: Settings,
    *,
    store: S3 | None = None,
    deep: bool = False,
    on_event: OnEvent | None = None,
) -> Verification:
    """Does what `averify` does, and blocks until that is done."""
    return wait_for(averify(settings, store=store, deep=deep, on_event=on_event))


@asynccontextmanager
async def _done(
    name: JobName,
    work: Work,
    on_event: OnEvent | None,
    stop: StopSign | None,
    workers: Workers | None = None,
) -> AsyncIterator[Run]:
    """A job that is done, on a bucket that is still open.

    Raises Refused, and what `on_event` raised.
    """
    listener = Listener(on_event)

    def is_to_end() -> bool:
        return listener.error is not None or (stop is not None and stop.is_set())

    async with open_run(work, listener.hear, workers) as current:
        async with _ended_by(is_to_end, current):
            await JOBS[name](current)
        if listener.error is not None:
            raise listener.error
        _checked(current.report)
        yield current


@asynccontextmanager
async def _ended_by(is_to_end: Callable[[], bool], current: Run) -> AsyncIterator[None]:
    """Ends a run between outputs once that is wanted, for the length of the block."""

    async def heed() -> None:
        while not is_to_end():  # noqa: ASYNC110 - a thread may set what says so
            await asyncio.sleep(_LOOK_SECONDS)
        current.interrupt(ExitCode.INTERRUPTED)

    if is_to_end():
        current.interrupt(ExitCode.INTERRUPTED)
    heeding = asyncio.create_task(heed())
    try:
        yield
    finally:
        heeding.cancel()
        await asyncio.gather(heeding, return_exceptions=True)


def _listed(keys: Iterable[str] | None, settings: Settings) -> WorkList | None:
    return None if keys is None else WorkList.of(keys, settings, _today())


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _checked(report: _Reported) -> _Reported:
    """The same report. Raises Refused for one that says that somebody has to change something."""
    if report.exit_code == ExitCode.CONFIGURATION:
        raise Refused(report)
    return report
