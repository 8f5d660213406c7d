"""Runs the suites against real S3 servers, and prints what each of them was seen to keep: `python
ci/test_servers.py NAME...`.

A server that keeps too little for a run is there to be refused: for it only
`tests/run/test_refused_server.py` is run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

from with_server import SERVERS, running

from coalesce.storage.s3 import S3Options, open_s3

SUITES = (
    "tests/storage/test_store_contract.py",
    "tests/cli/test_command.py",
    "tests/run/test_end_to_end.py",
    "tests/run/test_kills.py",
    "tests/run/test_wire_faults.py",
    "tests/storage/s3/test_wire_guarantees.py",
)


@dataclass
class Verdict:
    """How the suites ended on one server, and what the probe saw there."""

    name: str
    passed: bool
    seconds: float
    capabilities: dict[str, object] = field(default_factory=dict)


def judged(name: str) -> Verdict:
    """Starts the server and runs what is meant for it."""
    server = SERVERS[name]
    suites = ("tests/run/test_refused_server.py",) if server.refused else SUITES
    print(f"== {name} {server.version}", flush=True)
    with running(name) as (variables, _):
        environment = (
            {"COALESCE_TEST_KILLS": "all"}
            | os.environ
            | variables
            | {"COALESCE_TEST_REFUSED": "1" if server.refused else ""}
        )
        begun = time.monotonic()
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", "-rfEs", *suites],
            env=environment,
            check=False,
        ).returncode
        return Verdict(name, code == 0, time.monotonic() - begun, probed(environment))


def probed(environment: dict[str, str]) -> dict[str, object]:
    """What `coalesce probe` says of the server, in a bucket of its own."""
    way = {
        "COALESCE_ENDPOINT_URL": environment["COALESCE_TEST_ENDPOINT"],
        "COALESCE_REGION": "us-east-1",
        "COALESCE_ADDRESSING": "path",
    }
    asyncio.run(make_bucket(environment, "probe-table"))
    done = subprocess.run(
        [sys.executable, "-m", "coalesce", "probe", "-b", "probe-table", "--json"],
        env=environment | way,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return dict(json.loads(done.stdout)) if done.stdout else {}


async def make_bucket(environment: dict[str, str], name: str) -> None:
    """An empty bucket on the server."""
    keys = {
        "access_key": environment["AWS_ACCESS_KEY_ID"],
        "secret_key": environment["AWS_SECRET_ACCESS_KEY"],
    }
    async with open_s3(
        S3Options(
            name,
            endpoint_url=environment["COALESCE_TEST_ENDPOINT"],
            region="us-east-1",
            addressing="path",
            **keys,
        )
    ) as store:
        await store.create_bucket()


def table(verdicts: list[Verdict]) -> str:
    """One column for each server."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.capabilities))
    rows = [["", *(verdict.name for verdict in verdicts)]]
    rows += [
        [name, *(said(verdict.capabilities.get(name)) for verdict in verdicts)] for name in names
    ]
    rows += [["suites", *("passed" if verdict.passed else "FAILED" for verdict in verdicts)]]
    rows += [["seconds", *(f"{verdict.seconds:.0f}" for verdict in verdicts)]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def said(value: object) -> str:
    """A capability in one word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) or "-" if isinstance(value, list) else str(value or "?")


def main() -> int:
    """1 if a suite failed on any server."""
    unknown = [name for name in sys.argv[1:] if name not in SERVERS]
    if unknown or len(sys.argv) < 2:
        sys.exit(f"usage: test_servers.py {{{','.join(SERVERS)}}}...")
    verdicts = [judged(name) for name in sys.argv[1:]]
    print(f"\nWhat `coalesce probe` saw, and how the suites ended:\n\n{table(verdicts)}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
