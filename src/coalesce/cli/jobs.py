"""`coalesce run`, `plan` and `recover`: what was typed becomes a run, and its report an exit
code.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import Any

from coalesce.cli.output import Voice, check_writable, voice_of, write_report
from coalesce.cli.plans import planned_settings, read_plan, save_plan
from coalesce.cli.values import gathered, settings_of, store_options_of
from coalesce.errors import CoalesceError, UsageError
from coalesce.exits import exit_code_of, worst
from coalesce.naming.shards import WHOLE
from coalesce.planning.plan_files import PlanFile
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.run.start import report_failure
from coalesce.run.workers import Workers, processes_for
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, open_s3

_log = logging.getLogger(__name__)

_JOBS = {"run": Run.coalesce, "plan": Run.plan, "recover": Run.recover}


def run_job(given: dict[str, Any], job: str) -> int:
    """One of `run`, `plan` and `recover`; its exit code.

    Raises UsageError or ConfigurationError before there is a report.
    """
    values = gathered(given)
    voice = voice_of(values)
    if given["summaries"] is not None or given["parallelise"]:
        _log.warning("-u and -c have no effect any more")
    for path in filter(None, (values.get("report"), values.get("save_plan"))):
        check_writable(path)
    plan, saved, path = values.get("plan"), values.get("save_plan"), values.get("report")
    if plan and job != "run":
        raise UsageError(f"--plan is for `run`, not for `{job}`")
    if saved and job != "plan":
        raise UsageError(f"--save-plan is for `plan`, not for `{job}`")
    planned = asyncio.run(read_plan(plan, values)) if plan else None
    settings = (
        planned_settings(values, planned, dt.datetime.now(dt.UTC).date())
        if planned
        else settings_of(values)
    )
    if saved and settings.shard != WHOLE:
        raise UsageError(
            "a plan is written for all shards at once",
            hint="Leave --shard to `run --plan`, or say --shard 0/1.",
        )
    store_options = store_options_of({**values, "bucket": settings.bucket})
    processes = processes_for(settings.processes, settings.memory) if job == "run" else 1
    with (
        Workers(processes, partial(open_s3, store_options))
        if processes > 1
        else nullcontext() as workers
    ):
        return asyncio.run(
            _report(settings, store_options, job, voice, path, saved, planned, workers)
        )


async def _report(
    settings: Settings,
    store_options: S3Options,
    job: str,
    voice: Voice,
    path: str | None,
    saved: str | None,
    planned: PlanFile | None,
    workers: Workers | None,
) -> int:
    """Runs, and writes the report whatever comes of it."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(open_s3(store_options))
        except CoalesceError as error:
            return await _told(
                report_failure(settings, error, voice.emit), voice, path, store_options
            )
        run = Run(
            store, settings, voice.emit, endpoint=store.endpoint, planned=planned, workers=workers
        )
        try:
            await _until_stopped(run, _JOBS[job], voice)
            if saved and not run.report.exit_code:
                await save_plan(saved, run, settings, store_options)
        finally:
            code = await _told(run.report, voice, path, store_options)
    return code


async def _told(report: Report, voice: Voice, path: str | None, store_options: S3Options) -> int:
    """Prints and writes the report; its exit code, or a worse one if either cannot be written."""
    voice.summary(report)
    codes = [report.exit_code]
    if voice.unheard:
        codes.append(10)
    try:
        if path:
            await write_report(report, path, store_options)
    except CoalesceError as error:
        _log.error("%s. %s", error.message, error.hint)
        codes.append(exit_code_of(error))
    return worst(*codes)


async def _until_stopped(run: Run, job: Callable[[Run], Awaitable[Report]], voice: Voice) -> None:
    """The first signal stops the run between outputs, the second cancels it."""
    task = asyncio.ensure_future(job(run))
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if run.stop.code > 128:
            task.cancel()
        else:
            _log.warning(
                "%s: ending after what is under way; once more to end at once",
                signal.Signals(number).name,
            )
        run.interrupt(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with voice.progress(run.report):
        try:
            await task
        except asyncio.CancelledError:
            if not run.stop.stopping:
                raise
