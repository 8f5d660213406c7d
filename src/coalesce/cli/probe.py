"""`coalesce probe`: which guarantees a store really keeps."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with


def command(
    bucket: o.Bucket = None,
    state: o.State = None,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    localstack: o.Localstack = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Which guarantees this store really keeps; exit code 10 if `run` would refuse it."""
    given = dict(locals())
    exit_with(lambda: asyncio.run(_probed(given)))


async def _probed(given: dict[str, Any]) -> int:
    from coalesce.cli.values import gathered, store_options_of
    from coalesce.protocol.lease import Lease, LeaseRecord
    from coalesce.protocol.probe import probe
    from coalesce.protocol.state import probe_prefix
    from coalesce.run.start import new_run_id
    from coalesce.settings import Settings, as_directory
    from coalesce.storage.capabilities import weaker_modes
    from coalesce.storage.s3 import open_s3

    values = gathered(given)
    async with open_s3(store_options_of(values)) as store:
        await store.check_access()
        state, run_id = (
            as_directory(values.get("state", Settings.model_fields["state"].default)),
            new_run_id(),
        )
        record = LeaseRecord(run_id=run_id)
        async with Lease(store, state, record, time.monotonic).hold() as lease:
            seen = await probe(store, probe_prefix(state, run_id), lease)
    needs = weaker_modes(seen)
    if given["as_json"]:
        typer.echo(json.dumps(seen.as_dict() | {"needs": sorted(needs)}))
    else:
        for name, value in seen.as_dict().items():
            typer.echo(f"{name:24} {value if isinstance(value, str) else 'yes' if value else 'no'}")
        for mode, what in needs.items():
            typer.echo(f"`run` needs --accept-weaker {mode}: the store does not keep {what}")
    return 10 if needs else 0
