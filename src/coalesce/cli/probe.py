"""`coalesce probe`: which guarantees a store really keeps."""

from __future__ import annotations

import asyncio
import json

from coalesce.cli.options import Values
from coalesce.cli.output import print_line
from coalesce.cli.request import OutputOptions, ProbeOptions, StoreOptions, parse
from coalesce.clock import boottime
from coalesce.exits import ExitCode
from coalesce.protocol.lease import Lease, LeaseRecord
from coalesce.protocol.probe import probe
from coalesce.protocol.state import probe_prefix
from coalesce.run.start import new_run_id
from coalesce.settings import as_directory
from coalesce.storage.capabilities import Capabilities, weaker_modes
from coalesce.storage.s3 import S3Options, open_s3


def try_store(values: Values) -> int:
    """Tries the store that the values name, and prints what it keeps; the exit code.

    Raises UsageError, or CoalesceError for a store that cannot be tried.
    """
    options, store = parse(ProbeOptions, values), parse(StoreOptions, values)
    as_json = options.as_json or parse(OutputOptions, values).as_json
    seen = asyncio.run(_probe(store.reach(options.bucket), as_directory(options.state)))
    needs = weaker_modes(seen)
    if as_json:
        print_line(json.dumps(seen.as_dict() | {"needs": sorted(needs)}))
    else:
        for name, value in seen.as_dict().items():
            print_line(f"{name:24} {value if isinstance(value, str) else 'yes' if value else 'no'}")
        for mode, guarantee in needs.items():
            print_line(f"`run` needs --accept-weaker {mode}: the store does not keep {guarantee}")
    return ExitCode.CONFIGURATION if needs else ExitCode.DONE


async def _probe(options: S3Options, state: str) -> Capabilities:
    run_id = new_run_id()
    async with open_s3(options) as store:
        await store.check_access(state)
        record = LeaseRecord(run_id=run_id)
        async with Lease(store, state, record, boottime).hold() as lease:
            return await probe(store, probe_prefix(state, run_id), lease)
