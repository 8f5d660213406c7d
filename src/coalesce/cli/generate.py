"""`coalesce generate`: realistic data for trying things out."""

from __future__ import annotations

import asyncio

from coalesce.cli.options import Values
from coalesce.cli.output import print_line
from coalesce.cli.request import DataSetOptions, StoreOptions, parse
from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill
from coalesce.storage.s3 import S3Options, open_s3


def write_data_set(values: Values) -> int:
    """Writes the data set that the values describe; the exit code.

    Raises UsageError, or CoalesceError for a bucket that cannot be written.
    """
    options = parse(DataSetOptions, values)
    shape = Shape(**options.model_dump(exclude={"bucket"}))
    count = asyncio.run(_write(parse(StoreOptions, values).reach(options.bucket), shape))
    print_line(f"{count:,} objects written under s3://{options.bucket}/{shape.prefix}")
    return 0


async def _write(options: S3Options, shape: Shape) -> int:
    async with open_s3(options) as store:
        await store.check_access(shape.prefix)
        return await fill(store, shape)
