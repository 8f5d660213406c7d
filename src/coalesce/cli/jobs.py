"""`coalesce run`, `plan` and `recover`: a request becomes a run, and its report an exit code."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

from coalesce.cli.log import logs_json, set_up_log
from coalesce.cli.monitoring import Monitoring
from coalesce.cli.options import Values
from coalesce.cli.output import Printer, write_report
from coalesce.cli.progress import Pace
from coalesce.cli.request import JobOptions, OutputOptions, Request, StoreOptions, parse
from coalesce.cli.work_list import read_keys, with_prefixes
from coalesce.errors import CoalesceError, UsageError
from coalesce.exits import ExitCode, code_of_signal, exit_code_of, worst
from coalesce.library.files import check_writable
from coalesce.library.jobs import (
    JOBS,
    JobName,
    Run,
    Work,
    Workers,
    check_alone,
    check_manifest,
    forked_workers,
    open_run,
    report_failure,
)
from coalesce.library.plans import check_whole, planned_settings, read_plan, save_plan
from coalesce.planning.plan_files import PlanFile
from coalesce.planning.work_lists import WorkList
from coalesce.report.report import Report

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One of the three jobs: what it works under, the plan that it executes, where it saves its own
    (empty for nowhere), the only keys that it may join, and the URL of the inventory that says
    where to look (empty for none).
    """

    name: JobName
    request: Request
    planned: PlanFile | None = None
    save_plan: str = ""
    wanted: WorkList | None = None
    inventory: str = ""

    @classmethod
    def of(cls, name: JobName, values: Values) -> Job:
        """The job that the values ask for; reads the plan or the work list that it executes.

        Raises UsageError, or ConfigurationError for a plan or a report that cannot be used.
        """
        output, options = parse(OutputOptions, values), parse(JobOptions, values)
        if options.dry_run:
            name = "plan"
        if output.report:
            check_writable(output.report, "--report")
        if output.metrics_file:
            check_writable(output.metrics_file, "--metrics-file")
        if options.save_plan:
            check_writable(options.save_plan, "--save-plan")
        if options.plan and name != "run":
            raise UsageError(f"--plan is for `run`, not for `{name}`")
        if options.save_plan and name != "plan":
            raise UsageError(f"--save-plan is for `plan`, not for `{name}`")
        goal = values.get("max_objects") or values.get("max_path_list")
        check_alone(options.plan or goal, options.files_from, options.inventory)
        check_manifest(options.inventory)
        today = dt.datetime.now(dt.UTC).date()
        if options.files_from:
            keys = read_keys(values)
            request = Request.of(with_prefixes(values, keys))
            wanted = WorkList.of(keys, request.settings, today)
        elif not options.plan:
            request, wanted = Request.of(values), None
        else:
            planned = asyncio.run(read_plan(options.plan, parse(StoreOptions, values).reach()))
            settings = planned_settings(values, planned, today)
            return cls(name, Request.under(settings, values), planned)
        if options.save_plan:
            check_whole(request.settings)
        return cls(name, request, None, options.save_plan, wanted, options.inventory)


def run_job(name: JobName, values: Values) -> int:
    """One of the three jobs, from its values to its exit code.

    Raises UsageError or ConfigurationError before anything is logged, or if the log is text too.
    """
    output = parse(OutputOptions, values)
    set_up_log(output)
    job = Job.of(name, values)
    if values.get("summaries") or values.get("parallelise"):
        _log.warning("-u and -c are accepted, but have no effect any more; leave them out")
    try:
        return _run_in_processes(job)
    except CoalesceError as error:
        if not logs_json(output):
            raise
        _log.error("%s. %s", error.message.rstrip("."), error.hint)
        return exit_code_of(error)


def _run_in_processes(job: Job) -> int:
    request = job.request
    with (
        forked_workers(request.settings, request.store)
        if job.name == "run"
        else nullcontext() as workers
    ):
        return asyncio.run(_execute(job, workers))


async def _execute(job: Job, workers: Workers | None) -> int:
    """Runs the job, and delivers its report whatever comes of it."""
    request, printer = job.request, Printer.of(job.request.output)
    watched = job.name != "plan"
    monitoring = Monitoring.of(request.output, request.settings) if watched else None
    async with AsyncExitStack() as stack:
        work = Work(request.settings, request.store, job.planned, job.wanted, job.inventory)
        try:
            run = await stack.enter_async_context(open_run(work, printer.emit, workers))
        except CoalesceError as error:
            report = report_failure(request.settings, error, printer.emit)
            return await _deliver(report, request, printer, monitoring)
        try:
            async with monitoring.watch(run.report) if monitoring else nullcontext():
                await run_until_stopped(run, JOBS[job.name], printer)
            if job.save_plan and not run.report.exit_code:
                await save_plan(job.save_plan, run, request.store)
        finally:
            code = await _deliver(run.report, request, printer, monitoring)
    return code


async def _deliver(
    report: Report, request: Request, printer: Printer, monitoring: Monitoring | None
) -> int:
    """Prints and writes the report and the metrics; its exit code, or a worse one if any of them
    cannot be written.
    """
    printer.summary(report, request.settings.min_age)
    codes = [report.exit_code]
    if printer.errors:
        codes.append(ExitCode.CONFIGURATION)
    try:
        if request.output.report:
            await write_report(report, request.output.report, request.store)
    except CoalesceError as error:
        _log.error("%s. %s", error.message, error.hint)
        codes.append(exit_code_of(error))
    try:
        if monitoring:
            await monitoring.end(report, worst(*codes))
    except CoalesceError as error:
        _log.error("%s. %s", error.message, error.hint)
        codes.append(exit_code_of(error))
    return worst(*codes)


async def run_until_stopped(
    run: Run, job: Callable[[Run], Awaitable[Report]], printer: Printer
) -> None:
    """The first signal stops the run between outputs, the second cancels it."""
    task = asyncio.ensure_future(job(run))
    loop = asyncio.get_running_loop()
    signals = 0

    def stop(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            task.cancel()
        else:
            _log.warning(
                "stopping: %s; %s again to quit now, the next run cleans up",
                run.in_progress,
                "Ctrl-C" if number is signal.SIGINT else number.name,
            )
        run.interrupt(code_of_signal(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with printer.progress(partial(Pace().look, run)):
        try:
            await task
        except asyncio.CancelledError:
            if not signals:
                raise
