"""Who takes part, and by which command: `coalesce` in its ways of working, and what else there
is.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.records import Fill, stems
from bench.site import BUCKET, Site

OURS = "coalesce run"
ONE = "coalesce, 1 process"
TWO = "coalesce, 2 processes"
MEMBERS = "coalesce, members"
NO_CHECK = "coalesce, members, no check"
TRANSFER = "coalesce, members, transfer"
AIOHTTP = "coalesce, 1 process, aiohttp"
UVLOOP = "coalesce, 1 process, uvloop"
AIOHTTP_TRANSFER = "coalesce, members, transfer, aiohttp"
BOTO3 = "boto3, 16 threads"
AIOBOTOCORE = "aiobotocore"
S5CMD = "s5cmd cat | s5cmd pipe"
OBSTORE = "obstore async"
OBSTORE_UVLOOP = "obstore async, uvloop"
RCLONE = "rclone cat | rclone rcat"
ORIGINAL = "the original's algorithm"
FLOOR = "the floor"

BIN = Path(sys.executable).parent
_ONE = ("--processes", "1")
_MEMBERS = ("--gzip", "members")
_TRANSFER = (*_MEMBERS, "--no-check", "--no-delete")
_OVER_AIOHTTP = (sys.executable, "-m", "bench.over_aiohttp")
_OVER_UVLOOP = (sys.executable, "-m", "bench.over_uvloop")


@dataclass(frozen=True, slots=True)
class Contestant:
    """`deletes` says whether it does the whole job: one that leaves the sources is compared as a
    transfer alone. `limit` is the bytes of an output.
    """

    name: str
    command: Callable[[Site, Fill, int], list[str]]
    deletes: bool = True


def _coalesce(
    *options: str, program: tuple[str, ...] = (str(BIN / "coalesce"),)
) -> Callable[[Site, Fill, int], list[str]]:
    def command(site: Site, fill: Fill, limit: int) -> list[str]:
        where = [
            "-b",
            BUCKET,
            "-p",
            fill.prefix,
            "--endpoint-url",
            site.endpoint,
            "--addressing",
            "path",
        ]
        return [*program, "run", *where, "-s", str(limit), "--min-age", "0", "-q", *options]

    return command


def _script(name: str, *words: str) -> Callable[[Site, Fill, int], list[str]]:
    def command(site: Site, fill: Fill, limit: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            f"bench.rivals.{name}",
            site.endpoint,
            BUCKET,
            fill.prefix,
            str(limit),
            *words,
        ]

    return command


def _pipes(pipe: Callable[[str, str, Site], str]) -> Callable[[Site, Fill, int], list[str]]:
    """One pipe per group, one after another."""

    def command(site: Site, fill: Fill, limit: int) -> list[str]:
        return [
            "bash",
            "-ec",
            "set -o pipefail\n"
            + "\n".join(pipe(stem, f"{stem}0_{fill.last}.jsonl.gz", site) for stem in stems(fill)),
        ]

    return command


def _s5cmd(stem: str, output: str, site: Site) -> str:
    tool = shlex.join([str(BIN / "s5cmd"), "--endpoint-url", site.endpoint])
    return (
        f"{tool} cat {shlex.quote(f's3://{BUCKET}/{stem}*-*.jsonl.gz')} | "
        f"{tool} pipe {shlex.quote(f's3://{BUCKET}/{output}')}"
    )


def _rclone(stem: str, output: str, site: Site) -> str:
    remote = (
        ":s3,provider=AWS,env_auth,force_path_style,no_check_bucket,use_multipart_etag=false,"
        f"endpoint='{site.endpoint}':{BUCKET}"
    )
    tool = shlex.join([str(BIN / "rclone"), "--config", ""])
    directory, _, name = stem.rpartition("/")
    return (
        f"{tool} cat --include {shlex.quote(f'/{name}*-*.jsonl.gz')} "
        f"{shlex.quote(f'{remote}/{directory}')} | "
        f"{tool} rcat {shlex.quote(f'{remote}/{output}')}"
    )


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(OURS, _coalesce()),
        Contestant(ONE, _coalesce(*_ONE)),
        Contestant(TWO, _coalesce("--processes", "2")),
        Contestant(MEMBERS, _coalesce(*_ONE, *_MEMBERS)),
        Contestant(NO_CHECK, _coalesce(*_ONE, *_MEMBERS, "--no-check")),
        Contestant(TRANSFER, _coalesce(*_ONE, *_TRANSFER), deletes=False),
        Contestant(UVLOOP, _coalesce(*_ONE, program=_OVER_UVLOOP)),
        Contestant(AIOHTTP, _coalesce(*_ONE, program=_OVER_AIOHTTP)),
        Contestant(
            AIOHTTP_TRANSFER,
            _coalesce(*_ONE, *_TRANSFER, program=_OVER_AIOHTTP),
            deletes=False,
        ),
        Contestant(BOTO3, _script("boto3_threads")),
        Contestant(AIOBOTOCORE, _script("aiobotocore_gather")),
        Contestant(S5CMD, _pipes(_s5cmd), deletes=False),
        Contestant(OBSTORE, _script("obstore_async"), deletes=False),
        Contestant(OBSTORE_UVLOOP, _script("obstore_async", "uvloop"), deletes=False),
        Contestant(RCLONE, _pipes(_rclone), deletes=False),
        Contestant(ORIGINAL, _script("original")),
        Contestant(FLOOR, _script("floor"), deletes=False),
    )
}
