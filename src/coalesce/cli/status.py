"""`coalesce status`: how long the path list is, how near its limit, and what a run would gain."""

from __future__ import annotations

import asyncio
import json

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_failures, print_line
from coalesce.cli.request import Request
from coalesce.cli.tables import Row, count_of, kept_rows, pairs, print_table, share_of_limit
from coalesce.inspect.status import ObjectTotal, Status, read_status
from coalesce.storage.s3 import open_s3

_WIDTH = 24


def show(values: Values) -> int:
    """Prints the status that the values ask for; its exit code.

    Raises UsageError, or ConfigurationError if nothing can be seen.
    """
    return asyncio.run(_show(Request.of(values)))


async def _show(request: Request) -> int:
    async with open_s3(request.store) as store:
        status = await read_status(store, request.settings)
    if request.output.as_json:
        print_line(json.dumps(status.model_dump(mode="json", by_alias=True)))
    else:
        with on_stdout():
            print_table(status_table(status, request.settings.min_age))
        print_failures(status.failures)
    for warning in status.warnings:
        typer.echo(f"{warning['message']}. {warning['hint']}", err=True)
    return status.exit_code


def status_table(status: Status, min_age: float) -> RenderableType:
    """Topic by topic, then the whole, then the path list as bars.

    `min_age` is what a run is told as --min-age, in seconds.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("topic", overflow="fold")
    for heading in ("small objects", "bytes", "outputs", "bytes", "would be joined", "into"):
        table.add_column(heading, justify="right")
    for topic in status.topics:
        numbers = (
            topic.sources.count,
            topic.sources.bytes,
            topic.outputs.count,
            topic.outputs.bytes,
            topic.would_join,
            topic.would_write,
        )
        table.add_row(topic.topic, *(f"{number:,}" for number in numbers))
    paths = status.path_list
    rows: list[Row] = [
        ("small objects", _total(status.sources)),
        ("outputs", _total(status.outputs)),
        ("other keys", _total(status.other)),
        *kept_rows("would be kept", status.left, min_age),
        *_unfinished_rows(status),
        ("path list", bar(paths.before, paths.limit, "now")),
        ("", bar(paths.after, paths.limit, "after a run")),
    ]
    return Group(table, "", pairs(rows))


def _total(total: ObjectTotal) -> str:
    return f"{total.count:,}, {total.bytes:,} bytes"


def _unfinished_rows(status: Status) -> list[Row]:
    """What runs left, or still work on; nothing where there is nothing."""
    rows: list[Row] = []
    if status.unfinished:
        active = sum(group.alive for group in status.unfinished)
        rows.append(
            (
                "unfinished",
                f"{count_of(len(status.unfinished), 'group')} unfinished"
                f" ({active:,} with an active run);"
                f" {count_of(status.leftovers, 'joined object')} still to delete",
            )
        )
    if status.leases:
        active = sum(lease.alive for lease in status.leases)
        dead = len(status.leases) - active
        rows.append(("runs", f"{active:,} active, {dead:,} ended without cleaning up"))
    if status.uploads is None:
        rows.append(("open uploads", "this store does not list them"))
    elif status.uploads:
        rows.append(("open uploads", f"{status.uploads:,}"))
    return rows


def bar(characters: int, limit: int, when: str) -> str:
    """A length as a bar against the limit; what is there at all shows."""
    filled = min(_WIDTH, max(round(characters / limit * _WIDTH), characters > 0))
    return (
        f"{'█' * filled}{'░' * (_WIDTH - filled)} {characters:,} characters {when},"
        f" {share_of_limit(characters, limit)}"
    )
