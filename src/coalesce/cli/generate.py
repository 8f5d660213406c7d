"""`coalesce generate`: realistic data for trying things out."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with


def command(
    bucket: o.Bucket = None,
    prefix: Annotated[str, o.option("--prefix", "-p", help="where to (default data/)")] = "data/",
    layout: Annotated[
        str, o.option("--layout", help="corporate (default) or manifest")
    ] = "corporate",
    topics: Annotated[int, o.option("--topics", help="topics (default 2)")] = 2,
    partitions: Annotated[
        int, o.option("--partitions", help="partitions of each topic (default 3)")
    ] = 3,
    objects: Annotated[int, o.option("--objects", help="objects in all (default 1000)")] = 1000,
    records: Annotated[int, o.option("--records", help="records of each object (default 10)")] = 10,
    record_bytes: Annotated[
        int, o.option("--record-bytes", help="bytes of each record (default 600)")
    ] = 600,
    seed: Annotated[
        int, o.option("--seed", help="the same seed makes the same data (default 1)")
    ] = 1,
    gaps: Annotated[
        float, o.option("--gaps", help="share of objects behind a gap in the offsets, 0 to 1")
    ] = 0.0,
    overlaps: Annotated[
        float, o.option("--overlaps", help="share of objects that overlap the one before, 0 to 1")
    ] = 0.0,
    spoilt: Annotated[
        float, o.option("--spoilt", help="share of objects that are cut short, 0 to 1")
    ] = 0.0,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    localstack: o.Localstack = False,
) -> None:
    """Write a realistic data set into a bucket."""
    given = dict(locals())

    async def work() -> int:
        from coalesce.cli.values import gathered, store_options_of
        from coalesce.demo.dataset import Shape
        from coalesce.demo.proof import fill
        from coalesce.storage.s3 import open_s3

        shape = Shape(
            prefix,
            layout,
            ("",),
            topics,
            partitions,
            objects,
            records,
            record_bytes,
            seed,
            gaps,
            overlaps,
            spoilt,
        )
        async with open_s3(store_options_of(gathered({**given, "prefix": [prefix]}))) as store:
            await store.check_access()
            typer.echo(f"{await fill(store, shape):,} objects written under s3://{bucket}/{prefix}")
        return 0

    exit_with(lambda: asyncio.run(work()))
