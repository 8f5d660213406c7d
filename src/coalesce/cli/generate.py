"""`coalesce generate`: realistic data for trying things out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coalesce.cli.options import Values
from coalesce.cli.output import print_line
from coalesce.cli.request import DataSetOptions, OutputOptions, StoreOptions, parse
from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill
from coalesce.storage.s3 import S3Options, open_s3


def write_data_set(values: Values) -> int:
    """Writes the data set that the values describe; the exit code.

    Raises UsageError, or CoalesceError for a bucket that cannot be written.
    """
    options, output = parse(DataSetOptions, values), parse(OutputOptions, values)
    store = parse(StoreOptions, values).reach(options.bucket)
    shape = Shape(**options.model_dump(exclude={"bucket"}))
    visible = sys.stderr.isatty() and not output.quiet and not output.no_progress
    count = asyncio.run(_write(store, shape, visible))
    where = f"s3://{options.bucket}/{shape.prefix}"
    if output.as_json:
        print_line(json.dumps({"type": "generated", "objects": count, "under": where}))
    elif not output.quiet:
        print_line(f"{count:,} objects written under {where}")
    return 0


async def _write(options: S3Options, shape: Shape, visible: bool) -> int:
    async with open_s3(options) as store:
        await store.check_access(shape.prefix)
        with progress_bar(shape.objects, visible=visible) as show:
            return await fill(store, shape, show)


@contextmanager
def progress_bar(total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for as long as the block lasts; it is told how many objects are written."""
    if not visible:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("written"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("objects"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.update(task, completed=count)
