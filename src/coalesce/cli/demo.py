"""`coalesce demo`: the whole job on an embedded server, with its proof."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with
from coalesce.demo.proof import fill, read_records

if TYPE_CHECKING:
    from coalesce.settings import Settings
    from coalesce.storage.s3 import S3Store


def command(
    objects: Annotated[int, o.option("--objects", help="objects to join (default 5000)")] = 5000,
) -> None:
    """The whole job on an embedded S3 server: no account, no Docker."""
    exit_with(lambda: asyncio.run(_demonstrate(objects)))


async def _demonstrate(count: int) -> int:
    from coalesce.cli.output import voice_of
    from coalesce.demo import server as demo
    from coalesce.demo.dataset import Shape
    from coalesce.run.pipeline import Run
    from coalesce.settings import Settings
    from coalesce.storage.s3 import S3Options, open_s3

    shape = Shape(
        "storage/",
        days=("2026/11/20/", "2026/11/21/", "2026/11/22/"),
        topics=3,
        partitions=4,
        objects=count,
    )
    settings = Settings.model_validate({"bucket": "demo", "prefix": ["storage"], "min_age": 0})
    voice = voice_of({"log_format": "text"})
    with demo.embedded_server() as url:
        store_options = S3Options(
            "demo",
            endpoint_url=url,
            region="us-east-1",
            access_key="test",
            secret_key="test",
            addressing="path",
        )
        async with open_s3(store_options) as store:
            await store.create_bucket()
            typer.echo(
                f"Writing {count:,} small objects of {shape.records} records each to {url}/demo/storage/"
            )
            await fill(store, shape)
            before, first = await read_records(store, "storage/", "corporate")
            await _show(store, settings)
        typer.echo(f"\nBefore: {first}\nRunning: coalesce run -b demo -p storage --min-age 0\n")
        async with open_s3(store_options) as store:
            run = Run(store, settings, voice.emit)
            async with voice.progress(run.report):
                report = await run.coalesce()
        voice.summary(report)
        async with open_s3(store_options) as store:
            after, last = await read_records(store, "storage/", "corporate")
            state = (await store.list_page("_coalesce/")).objects
            uploads = await store.list_uploads("")
            typer.echo()
            await _show(store, settings)
    typer.echo(f"\nAfter:  {last}")
    whole = before == after and max(after.values()) == 1 and not state and not uploads
    typer.echo(
        "Proof:  read anew from the bucket, every record is there exactly once"
        if whole
        else "Proof:  FAILED: the records before and after differ"
    )
    return report.exit_code if whole else 4


async def _show(store: S3Store, settings: Settings) -> None:
    from rich.console import Console

    from coalesce.cli.status import status_table
    from coalesce.inspect.status import read_status

    typer.echo("coalesce status -b demo -p storage --min-age 0\n")
    Console(highlight=False, soft_wrap=True).print(status_table(await read_status(store, settings)))
