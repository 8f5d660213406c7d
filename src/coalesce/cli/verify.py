"""`coalesce verify`: earlier outputs, proved again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import typer

from coalesce.cli.columns import Row, printable
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_line
from coalesce.cli.request import Request, VerifyOptions, parse
from coalesce.cli.tables import pairs, print_table
from coalesce.exits import meaning_of
from coalesce.library.jobs import Verification
from coalesce.library.jobs import prove as prove_outputs
from coalesce.report.failure_kinds import FailureTally
from coalesce.report.report import Failure
from coalesce.report.units import human_bytes


def prove(values: Values) -> int:
    """Checks the outputs that the values name, and prints what was found; the exit code.

    Raises UsageError, or ConfigurationError if nothing can be seen.
    """
    return asyncio.run(_prove(Request.of(values), parse(VerifyOptions, values).deep))


async def _prove(request: Request, deep: bool) -> int:
    as_json = request.output.as_json
    failures = FailureTally()

    def emit(event: dict[str, Any]) -> None:
        if as_json:
            print_line(json.dumps(event))
        elif event["type"] == "failure":
            count = failures.add(Failure.model_validate(event))
            if count.times == 1:
                typer.echo(printable(count.line), err=True)

    result = await prove_outputs(request.settings, request.store, emit, deep=deep)
    if as_json:
        print_line(json.dumps(result.model_dump(mode="json", by_alias=True)))
    else:
        with on_stdout():
            print_table(pairs(_rows(result)))
        for count in failures.repeated:
            typer.echo(printable(count.line), err=True)
    return result.exit_code


def _rows(result: Verification) -> list[Row]:
    records = "" if result.records is None else f", {result.records:,} records"
    rows = [
        (
            "outputs",
            f"{result.outputs:,} found, {result.proven:,} proven, {result.failed:,} failed",
        ),
        ("proven", f"{human_bytes(result.bytes)} from {result.sources:,} sources{records}"),
        ("how", "every byte read again" if result.deep else "by metadata and HEAD"),
    ]
    if result.unsummed:
        rows.append(("without CRC64NVME", f"{result.unsummed:,}: the store keeps none for them"))
    rows.append(("exit code", f"{result.exit_code}: {meaning_of(result.exit_code)}"))
    return rows
