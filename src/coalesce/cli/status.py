"""`coalesce status`: how long the path list is, how near its limit, and what a run would gain."""

from __future__ import annotations

import asyncio
import json

from coalesce.cli.columns import Block, Columns, Row, Stack
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_failures, print_line, print_warnings
from coalesce.cli.request import Request
from coalesce.cli.tables import (
    count_of,
    kept_rows,
    pairs,
    print_table,
    scope_rows,
    share_of_limit,
)
from coalesce.library.jobs import Status, look
from coalesce.report.units import human_bytes
from coalesce.settings import format_size

_WIDTH = 24
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def show(values: Values) -> int:
    """Prints the status that the values ask for; its exit code.

    Raises UsageError, or ConfigurationError if nothing can be seen.
    """
    return asyncio.run(_show(Request.of(values)))


async def _show(request: Request) -> int:
    status = await look(request.settings, request.store)
    if request.output.as_json:
        print_line(json.dumps(status.model_dump(mode="json", by_alias=True)))
    else:
        with on_stdout():
            print_table(status_table(status, request.settings.min_age))
        print_failures(status.failures)
    print_warnings(status.warnings)
    return status.exit_code


def status_table(status: Status, min_age: float) -> Block:
    """Topic by topic, then the whole, then the path list as bars.

    `min_age` is what a run is told as --min-age, in seconds.
    """
    headings = ("topic", "sources", "size", "outputs", "size", "to join", "into")
    topics = [
        (
            topic.topic,
            f"{topic.sources.count:,}",
            human_bytes(topic.sources.bytes),
            f"{topic.outputs.count:,}",
            human_bytes(topic.outputs.bytes),
            f"{topic.would_join:,}",
            f"{topic.would_write:,}",
        )
        for topic in status.topics
    ]
    paths = status.path_list
    rows: list[Row] = [
        ("sources", _total(status.sources.count, status.sources.bytes)),
        ("outputs", _total(status.outputs.count, status.outputs.bytes)),
        ("other keys", _total(status.other.count, status.other.bytes)),
        *kept_rows("would be kept", status.left, min_age),
        *_growth_rows(status),
        *_unfinished_rows(status),
        ("path list", bar(paths.before, paths.limit, "now")),
        ("", bar(paths.after, paths.limit, "after a run")),
    ]
    if status.exit_code == 0:
        rows.append(("next", _next_step(status)))
    return Stack([pairs(scope_rows(status.scope)), Columns(headings, topics), pairs(rows)])


def _next_step(status: Status) -> str:
    joined = sum(topic.would_join for topic in status.topics)
    outputs = sum(topic.would_write for topic in status.topics)
    if outputs:
        return f"`coalesce run` joins {joined:,} sources into {count_of(outputs, 'output')}"
    alive = [*(group.alive for group in status.unfinished), *(run.alive for run in status.leases)]
    return "`coalesce recover` finishes what is unfinished" if not all(alive) else "nothing"


def _total(count: int, size: int) -> str:
    return f"{count:,}, {human_bytes(size)}"


def _growth_rows(status: Status) -> list[Row]:
    """What `--grow` would gain; nothing where that is nothing."""
    growth = status.growth
    if growth is None or growth.fewer <= 0:
        return []
    objects = "1 object" if growth.fewer == 1 else f"{growth.fewer:,} objects"
    return [("growing", f"{objects} fewer with `--grow {format_size(growth.size)}`")]


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
        refused = any(failure.operation == "ListMultipartUploads" for failure in status.failures)
        unseen = "unknown: see the failures" if refused else "this store does not list them"
        rows.append(("open uploads", unseen))
    elif status.uploads:
        rows.append(("open uploads", f"{status.uploads:,}"))
    return rows


def bar(characters: int, limit: int, when: str) -> str:
    """A length as a bar against the limit: as long as its share, to an eighth of a character."""
    eighths = min(8 * _WIDTH, round(8 * _WIDTH * characters / limit))
    filled = "█" * (eighths // 8) + _EIGHTHS[eighths % 8]
    return (
        f"▕{filled:{_WIDTH}}▏ {characters:,} characters {when}, {share_of_limit(characters, limit)}"
    )
