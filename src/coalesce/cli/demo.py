"""`coalesce demo`: the whole job on an embedded server, with its proof."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial

from coalesce.cli.generate import progress_bar
from coalesce.cli.log import set_up_log
from coalesce.cli.options import Values
from coalesce.cli.output import Printer, on_stdout, print_line
from coalesce.cli.progress import Pace
from coalesce.cli.request import DemoOptions, OutputOptions, parse
from coalesce.cli.status import status_table
from coalesce.cli.tables import pairs, print_table
from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill, find_leftovers, read_records
from coalesce.demo.server import embedded_server
from coalesce.exits import ExitCode
from coalesce.inspect.status import read_status
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, S3Store, open_s3

_PREFIX = "storage/"
_SETTINGS = Settings(bucket="demo", prefix=("storage",), min_age=0)
_SCOPE = "-b demo -p storage --min-age 0"


def demonstrate(values: Values) -> int:
    """The whole job on data of its own, printed as it goes; the exit code.

    Raises UsageError, or ConfigurationError if the embedded server is not installed.
    """
    output = parse(OutputOptions, values).output
    options = OutputOptions(log_format="text", output=output)
    set_up_log(options)
    return asyncio.run(_demonstrate(parse(DemoOptions, values).objects, Printer.of(options)))


async def _demonstrate(count: int, printer: Printer) -> int:
    with embedded_server() as url:
        options = S3Options(
            _SETTINGS.bucket,
            endpoint_url=url,
            region="us-east-1",
            access_key="test",
            secret_key="test",
            addressing="path",
        )
        before = await _fill(options, count, printer)
        _say(printer, f"Running: coalesce run {_SCOPE}\n")
        report = await _run(options, printer)
        wrong = await _find_wrong(options, before, printer)
    if printer.as_json:
        print_line(json.dumps({"type": "proof", "wrong": wrong}))
    if wrong:
        _say(printer, f"Proof:   FAILED: {'; '.join(wrong)}")
        return ExitCode.INTEGRITY
    _say(printer, "Proof:   read again from the bucket, every record is there exactly once")
    return report.exit_code


def _say(printer: Printer, text: str) -> None:
    """Prints what is for a person only."""
    if not printer.as_json:
        print_line(text)


async def _fill(options: S3Options, count: int, printer: Printer) -> Counter[bytes]:
    """Writes the data set; how often each record is there."""
    shape = Shape(
        _PREFIX,
        days=("2026/11/20/", "2026/11/21/", "2026/11/22/"),
        topics=3,
        partitions=4,
        objects=count,
    )
    async with open_s3(options) as store:
        await store.create_bucket()
        _say(
            printer,
            f"Writing {count:,} small objects of {shape.records} records each to"
            f" {options.endpoint_url}/demo/{_PREFIX}",
        )
        with progress_bar(count, visible=printer.bar) as show:
            await fill(store, shape, show)
        return await _show(store, "Before", printer)


async def _run(options: S3Options, printer: Printer) -> Report:
    async with open_s3(options) as store:
        run = Run(store, _SETTINGS, printer.emit)
        async with printer.progress(partial(Pace().look, run)):
            report = await run.coalesce()
    printer.summary(report)
    _say(printer, "")
    return report


async def _find_wrong(options: S3Options, before: Counter[bytes], printer: Printer) -> list[str]:
    """What is not as it should be after a run: every record of before exactly once, and nothing
    left of the run but its outputs and a ledger entry for each.
    """
    async with open_s3(options) as store:
        after = await _show(store, "After", printer)
        wrong = await find_leftovers(store, _PREFIX, _SETTINGS.state_prefix, _SETTINGS.layout)
    if before != after or max(after.values(), default=1) > 1:
        wrong.insert(0, "the records before and after differ")
    return wrong


async def _show(store: S3Store, when: str, printer: Printer) -> Counter[bytes]:
    """Prints what `status` and a plain reader see; the reader's records."""
    records, sight = await read_records(store, _PREFIX, _SETTINGS.layout)
    status = await read_status(store, _SETTINGS)
    if printer.as_json:
        print_line(json.dumps(status.model_dump(mode="json", by_alias=True)))
        return records
    print_line(f"coalesce status {_SCOPE}\n")
    with on_stdout():
        print_table(status_table(status, _SETTINGS.min_age))
    print_line("")
    with on_stdout():
        print_table(pairs([(f"{when}:", str(sight))]))
    return records
