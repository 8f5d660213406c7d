"""`coalesce report`: many runs' reports as one summary, one exit code, one page."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with

Files = Annotated[
    list[str],
    typer.Argument(
        help="JSON reports: files or s3:// URLs; one that ends with a slash means all .json under it",
        show_default=False,
    ),
]


def command(
    files: Files,
    html: Annotated[
        str | None,
        o.option("--html", help="write one self-contained page to this file or s3:// URL"),
    ] = None,
    to_json: Annotated[
        str | None, o.option("--json", help="write the merged report to this file or s3:// URL")
    ] = None,
    output: o.Output = None,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    addressing: o.Addressing = None,
    localstack: o.Localstack = False,
) -> None:
    """Merge reports of shards, tries and locations.

    The exit code is the worst of theirs; 75 if a shard has none.
    """
    given = dict(locals())
    exit_with(lambda: asyncio.run(_merged(given)))


async def _merged(given: dict[str, Any]) -> int:
    from rich.console import Console

    from coalesce.cli.files import read_texts, write_text
    from coalesce.cli.output import check_writable
    from coalesce.cli.tables import summary_table
    from coalesce.cli.values import gathered, store_options_of, wants_json
    from coalesce.errors import CoalesceError, ConfigurationError, UsageError
    from coalesce.report.html import render_page
    from coalesce.report.merging import load, merge

    values = gathered(given)
    options = store_options_of({**values, "bucket": "-"})
    for path in filter(None, (given["html"], given["to_json"])):
        check_writable(path)
    reports = []
    for path in given["files"]:
        try:
            reports += [load(text, name) for name, text in await read_texts(path, options)]
        except UsageError:
            raise
        except (OSError, ValueError, CoalesceError) as error:
            raise UsageError(
                f"the report {path!r} cannot be read: {error}",
                hint="Leave it out to merge the others; its shard is then missing.",
            ) from error
    merged = merge(reports)
    text = json.dumps(merged.as_json(), indent=1) + "\n"
    for path, content, kind in (
        (given["html"], render_page(merged), "text/html; charset=utf-8"),
        (given["to_json"], text, "application/json"),
    ):
        try:
            if path:
                await write_text(path, content, options, kind)
        except (OSError, CoalesceError) as error:
            raise ConfigurationError(
                f"{path!r} cannot be written: {error}", hint="Choose another place."
            ) from error
    if wants_json(values):
        typer.echo(json.dumps(merged.as_json()))
    else:
        Console(highlight=False, soft_wrap=True).print(summary_table(merged))
        for failure in merged.failures:
            typer.echo(f"{failure.code}: {failure.message}. {failure.hint}", err=True)
    return merged.exit_code
