"""`coalesce verify`: earlier outputs, proved again."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with


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
    deep: Annotated[
        bool, o.option("--deep", help="read every output: members, records, CRC64NVME")
    ] = False,
    memory: o.Memory = None,
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
    """Prove earlier outputs by their metadata and HEAD, or with --deep by their content.

    Exit code 4 if any fails. Writes nothing.
    """
    given = dict(locals())
    exit_with(lambda: asyncio.run(_verified(given)))


async def _verified(given: dict[str, Any]) -> int:
    from rich.console import Console

    from coalesce.cli.tables import pairs
    from coalesce.cli.values import gathered, settings_of, store_options_of, wants_json
    from coalesce.inspect.verify import verify
    from coalesce.storage.s3 import open_s3

    values = gathered(given)
    settings = settings_of(values)
    as_json = wants_json(values)

    def told(event: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps(event))
        elif event["type"] == "failure":
            typer.echo(f"{event['code']}: {event['message']}. {event['hint']}", err=True)

    async with open_s3(store_options_of(values)) as store:
        result = await verify(store, settings, deep=given["deep"], emit=told)
    if as_json:
        typer.echo(json.dumps(result.model_dump(mode="json", by_alias=True)))
        return result.exit_code
    rows = {
        "outputs": f"{result.outputs:,} seen, {result.proven:,} proven, {result.failed:,} failed",
        "of them": f"{result.bytes:,} bytes from {result.sources:,} sources"
        + ("" if result.records is None else f", {result.records:,} records"),
        "how": "read again" if result.deep else "by metadata and HEAD",
        "without CRC64NVME": f"{result.unsummed:,}",
        "exit code": str(result.exit_code),
    }
    Console(highlight=False, soft_wrap=True).print(pairs(rows))
    return result.exit_code
