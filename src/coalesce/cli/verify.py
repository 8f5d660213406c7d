"""`coalesce verify`: earlier outputs, proved again."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import typer

from coalesce.cli.columns import Row, printable
from coalesce.cli.options import Values
from coalesce.cli.output import Printer, on_stdout, print_line, print_warnings
from coalesce.cli.progress import Pace
from coalesce.cli.request import Request, VerifyOptions, parse
from coalesce.cli.tables import pairs, print_table
from coalesce.exits import meaning_of
from coalesce.library.jobs import Extent, Verification
from coalesce.library.jobs import prove as prove_outputs
from coalesce.report.events import FailureEvent, VerifiedEvent
from coalesce.report.failure_kinds import FailureTally
from coalesce.report.report import Failure
from coalesce.report.units import human_bytes


def prove(values: Values) -> int:
    """Checks the outputs that the values name, and prints what was found; the exit code.

    Raises UsageError, or ConfigurationError if nothing can be seen.
    """
    return asyncio.run(_prove(Request.of(values), parse(VerifyOptions, values).deep))


async def _prove(request: Request, deep: bool) -> int:
    as_json, printer = request.output.as_json, Printer.of(request.output)
    failures, extent = FailureTally(), Extent()

    async with printer.bar_below(partial(Pace().look_at_check, extent)) as say:

        def emit(event: VerifiedEvent | FailureEvent) -> None:
            if as_json:
                print_line(json.dumps(event))
            elif event["type"] == "failure":
                count = failures.add(Failure.model_validate(event))
                if count.times == 1:
                    say(printable(count.line))

        result = await prove_outputs(
            request.settings, request.store, emit, deep=deep, extent=extent
        )
    if as_json:
        print_line(json.dumps(result.model_dump(mode="json", by_alias=True)))
    else:
        with on_stdout():
            print_table(pairs(_rows(result)))
        for count in failures.repeated:
            typer.echo(printable(count.line), err=True)
    print_warnings(result.warnings)
    return result.exit_code


def _rows(result: Verification) -> list[Row]:
    records = "" if result.records is None else f", {result.records:,} records"
    rows = [
        (
            "outputs",
            f"{result.outputs:,} found, {result.proven:,} proven, {result.failed:,} failed",
        ),
        ("proven", f"{human_bytes(result.bytes)} from {result.sources:,} sources{records}"),
        ("how", "every byte read again" if result.deep else "by metadata, HEAD and the ledger"),
        *_ledger_rows(result),
    ]
    if result.unsummed:
        rows.append(("without CRC64NVME", f"{result.unsummed:,}: the store keeps none for them"))
    rows.append(("exit code", f"{result.exit_code}: {meaning_of(result.exit_code)}"))
    return rows


def _ledger_rows(result: Verification) -> list[Row]:
    """What came of the comparison with the ledger."""
    recorded = f"{result.recorded:,} outputs are what their entries say"
    if result.digests is not None:
        recorded += f"; {result.digests:,} sources are in them, by their content"
    rows = [("ledger", recorded)]
    if result.unrecorded:
        rows.append(("", f"{result.unrecorded:,} proven outputs without an entry"))
    if result.missing:
        rows.append(("", f"{result.missing:,} entries without an output"))
    if result.unfinished:
        rows.append(("", f"{result.unfinished:,} outputs of unfinished groups are not there yet"))
    return rows
