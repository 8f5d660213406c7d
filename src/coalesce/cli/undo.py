"""`coalesce undo`: outputs, given back as the sources that they were made of."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from coalesce.cli.jobs import run_until_stopped
from coalesce.cli.log import logs_json, set_up_log
from coalesce.cli.options import Values
from coalesce.cli.output import Printer, write_report
from coalesce.cli.request import OutputOptions, Request, UndoOptions, parse
from coalesce.errors import CoalesceError, UsageError
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.library.files import check_writable
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.run.start import report_failure
from coalesce.run.undoing import Wanted, group_of_output
from coalesce.storage.s3 import open_s3

_log = logging.getLogger(__name__)


def give_back(values: Values) -> int:
    """Gives back the outputs that the values name; the exit code.

    Raises UsageError or ConfigurationError before anything is logged, or if the log is text too.
    """
    output, options = parse(OutputOptions, values), parse(UndoOptions, values)
    set_up_log(output)
    if output.report:
        check_writable(output.report, "--report")
    outputs, chosen = name_outputs(values)
    request = Request.of(chosen)
    try:
        return asyncio.run(_execute(request, Wanted(outputs, options.run), options.dry_run))
    except CoalesceError as error:
        if not logs_json(output):
            raise
        _log.error("%s. %s", error.message.rstrip("."), error.hint)
        return exit_code_of(error)


def name_outputs(values: Values) -> tuple[tuple[str, ...], Values]:
    """The outputs that are named in the place of prefixes, and the values with their directories as
    the prefixes; no outputs where prefixes are named.

    Raises UsageError if both are, or outputs and a date.
    """
    given = values.get("prefix")
    prefixes = [str(prefix) for prefix in given] if isinstance(given, list | tuple) else []
    outputs = tuple(prefix for prefix in prefixes if group_of_output(prefix) is not None)
    if not outputs:
        return (), values
    if len(outputs) < len(prefixes):
        message = f"{outputs[0]!r} is an output, and others of these are prefixes"
        raise UsageError(message, hint="Name outputs or prefixes; use a command for each.")
    if str(values.get("date", "NOT_SET")).upper() != "NOT_SET":
        raise UsageError("--date goes with prefixes, not with outputs", hint="Leave it out.")
    directories = sorted({output[: output.rfind("/") + 1] for output in outputs})
    if "" in directories:  # at the bucket's root there is no narrower prefix
        return outputs, {**values, "prefix": [], "whole_bucket": True}
    return outputs, {**values, "prefix": directories}


async def _execute(request: Request, wanted: Wanted, dry_run: bool) -> int:
    """Gives back, and delivers the report whatever comes of it."""
    printer = Printer.of(request.output)
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(open_s3(request.store))
        except CoalesceError as error:
            report = report_failure(request.settings, error, printer.emit)
            return await _deliver(report, request, printer)
        run = Run(store, request.settings, printer.emit, endpoint=store.endpoint)

        async def job(run: Run) -> Report:
            return await (run.plan_undo(wanted) if dry_run else run.undo(wanted))

        try:
            await run_until_stopped(run, job, printer)
        finally:
            code = await _deliver(run.report, request, printer)
    return code


async def _deliver(report: Report, request: Request, printer: Printer) -> int:
    """Prints and writes the report; its exit code, or a worse one if it cannot be written."""
    printer.summary(report, undo=True)
    codes = [report.exit_code]
    if printer.errors:
        codes.append(ExitCode.CONFIGURATION)
    try:
        if request.output.report:
            await write_report(report, request.output.report, request.store)
    except CoalesceError as error:
        _log.error("%s. %s", error.message, error.hint)
        codes.append(exit_code_of(error))
    return worst(*codes)
