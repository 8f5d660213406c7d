"""`coalesce status`: how long the path list is, how near its limit, and what a run would gain."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coalesce.inspect.status import Status

_WIDTH = 24


def command(
    targets: o.Targets = None,
    bucket: o.Bucket = None,
    prefix: o.Prefix = None,
    whole_bucket: o.WholeBucket = None,
    date: o.Date = None,
    layout: o.Layout = None,
    manifests: o.Manifests = False,
    partition: o.Partition = None,
    topic: o.Topic = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    max_files: o.MaxFiles = None,
    max_size: o.MaxSize = None,
    min_files: o.MinFiles = None,
    min_age: o.MinAge = None,
    shard: o.ShardOf = None,
    state: o.State = None,
    config: o.Config = None,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    no_sign_request: o.NoSign = None,
    ca_bundle: o.CaBundle = None,
    no_verify_ssl: o.NoVerify = None,
    expected_bucket_owner: o.Owner = None,
    request_payer: o.Payer = None,
    addressing: o.Addressing = None,
    localstack: o.Localstack = False,
    output: o.Output = None,
) -> None:
    """Say what lies under the prefixes now, what is unfinished, and what a run would change.

    Writes nothing.
    """
    given = dict(locals())
    exit_with(lambda: asyncio.run(_looked(given)))


async def _looked(given: dict[str, Any]) -> int:
    from rich.console import Console

    from coalesce.cli.values import gathered, settings_of, store_options_of, wants_json
    from coalesce.inspect.status import read_status
    from coalesce.storage.s3 import open_s3

    values = gathered(given)
    settings = settings_of(values)
    as_json = wants_json(values)
    async with open_s3(store_options_of(values)) as store:
        status = await read_status(store, settings)
    if as_json:
        typer.echo(json.dumps(status.model_dump(mode="json", by_alias=True)))
    else:
        Console(highlight=False, soft_wrap=True).print(status_table(status))
        for failure in status.failures:
            typer.echo(f"{failure.code}: {failure.message}. {failure.hint}", err=True)
    return status.exit_code


def status_table(status: Status) -> RenderableType:
    """Topic by topic, then the whole, then the path list as bars."""
    from rich.console import Group
    from rich.table import Table

    from coalesce.cli.tables import pairs

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
    alive = sum(line.alive for line in status.unfinished)
    rows = {
        "small objects": f"{status.sources.count:,} of {status.sources.bytes:,} bytes",
        "outputs": f"{status.outputs.count:,} of {status.outputs.bytes:,} bytes",
        "other keys": f"{status.other.count:,} of {status.other.bytes:,} bytes",
        "would be left": ", ".join(f"{count:,} {why}" for why, count in status.left.items())
        or "none",
        "unfinished": f"{len(status.unfinished):,} groups, {alive:,} of them worked on now; {status.leftovers:,} small objects whose output is there",
        "open uploads": "the store does not list them"
        if status.uploads is None
        else f"{status.uploads:,}",
        "leases": f"{sum(lease.alive for lease in status.leases):,} alive, {sum(not lease.alive for lease in status.leases):,} ended",
        "path list": _bar(status.path_list.before, status.path_list.limit, "now"),
        "": _bar(status.path_list.after, status.path_list.limit, "after a run"),
    }
    return Group(table, "", pairs(rows))


def _bar(characters: int, limit: int, when: str) -> str:
    """Against the limit; what is there at all shows."""
    share = characters / limit
    filled = min(_WIDTH, max(round(share * _WIDTH), characters > 0))
    return f"{'█' * filled}{'░' * (_WIDTH - filled)} {characters:,} characters {when}, {share:.2%} of {limit:,}"
