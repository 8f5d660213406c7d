"""`coalesce report`: many runs' reports as one summary, one exit code, one HTML report."""

from __future__ import annotations

import asyncio
import json

from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_failures, print_line
from coalesce.cli.request import OutputOptions, ReportOptions, StoreOptions, parse
from coalesce.cli.tables import print_table, summary_table
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.library.files import check_writable, read_texts, reason_of, write_text
from coalesce.report.html import render_page
from coalesce.report.merging import MergedReport, load, merge
from coalesce.report.report import Report
from coalesce.storage.s3 import S3Options


def merge_reports(values: Values) -> int:
    """Merges the reports that the values name, writes and prints the whole; its exit code.

    Raises UsageError for what is no report, ConfigurationError for what cannot be written.
    """
    options, output = parse(ReportOptions, values), parse(OutputOptions, values)
    if not options.reports:
        raise UsageError("no report is named", hint="Give files or s3:// URLs of JSON reports.")
    for path, option in ((options.html, "--html"), (options.merged, "--json")):
        if path:
            check_writable(path, option)
    merged = asyncio.run(_merge(options, parse(StoreOptions, values).reach()))
    if output.as_json:
        print_line(json.dumps(merged.as_json()))
    else:
        with on_stdout():
            print_table(summary_table(merged))
        print_failures(merged.failures)
    return merged.exit_code


async def _merge(options: ReportOptions, store: S3Options) -> MergedReport:
    reports: list[Report] = []
    for path in options.reports:
        reports += await _read(path, store)
    merged = merge(reports)
    text = json.dumps(merged.as_json(), indent=1) + "\n"
    await _write(options.html, render_page(merged), "text/html; charset=utf-8", store)
    await _write(options.merged, text, "application/json", store)
    return merged


async def _read(path: str, store: S3Options) -> list[Report]:
    try:
        return [load(text, name) for name, text in await read_texts(path, store)]
    except UsageError:
        raise
    except (OSError, ValueError, CoalesceError) as error:
        raise UsageError(
            f"cannot read the report {path!r}: {reason_of(error)}",
            hint="Leave it out to merge the others; its shard is then missing.",
        ) from error


async def _write(path: str, text: str, content_type: str, store: S3Options) -> None:
    if not path:
        return
    try:
        await write_text(path, text, store, content_type)
    except (OSError, CoalesceError) as error:
        raise ConfigurationError(
            f"cannot write {path!r}: {reason_of(error)}", hint="Choose another place."
        ) from error
