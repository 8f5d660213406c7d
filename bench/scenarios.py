"""What is compared: data, way to the server, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.contestants import AIOBOTOCORE, BOTO3, NO_CHECK, OBSTORE, OBSTORE_UVLOOP, ORIGINAL, OURS, RCLONE, S5CMD, TRANSFER, TWO
from bench.records import Fill
from bench.rivals.sources import OUTPUT_BYTES

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Scenario:
    """`latency` is in milliseconds, `limit` in bytes per output; `server` is the stand-in or one of `ci/with_server.py`."""

    name: str
    title: str
    fill: Fill
    names: tuple[str, ...]
    rounds: int = 3
    tls: bool = False
    latency: float = 0.0
    limit: int = OUTPUT_BYTES
    server: str = "standin"


_ALL = (OURS, TWO, NO_CHECK, TRANSFER, BOTO3, AIOBOTOCORE, S5CMD, OBSTORE, OBSTORE_UVLOOP, RCLONE)
_MAIN = (OURS, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE, OBSTORE_UVLOOP)

FULL = (
    Scenario("2KB", "2 KB, HTTP", Fill(10_000, 2_000), _MAIN, rounds=2),
    Scenario("10KB", "10 KB, HTTP", Fill(10_000, 10_000), _ALL),
    Scenario("100KB", "100 KB, HTTP", Fill(10_000, 100_000), _ALL),
    Scenario("100KB-TLS", "100 KB, TLS", Fill(10_000, 100_000), _MAIN, tls=True),
    Scenario("100KB-30ms", "100 KB, HTTP, 30 ms latency", Fill(10_000, 100_000), (OURS, TWO, BOTO3, AIOBOTOCORE, S5CMD, OBSTORE), rounds=2, latency=30),
    Scenario("1MB", "1 MB, HTTP", Fill(1_000, 1_000_000), _MAIN, rounds=2),
    Scenario("1GiB", "two of 512 MiB into one of 1 GiB, HTTP", Fill(2, GIB // 2, 1), (OURS, NO_CHECK, BOTO3, S5CMD, OBSTORE), rounds=2, limit=2 * GIB),
    Scenario("500MB-output", "5,000 of 100 KB into one output of 500 MB, HTTP", Fill(5_000, 100_000, 1), (OURS, BOTO3), rounds=2, limit=GIB),
    Scenario("original", "100 KB, HTTP, outputs of 128 MB", Fill(2_500, 100_000, 2), (OURS, ORIGINAL), rounds=1),
    Scenario("versitygw", "100 KB, HTTP, a real server: versitygw", Fill(2_000, 100_000), (OURS, BOTO3, S5CMD), rounds=2, server="versitygw"),
)

_FEW = (OURS, TWO, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE, OBSTORE_UVLOOP)
QUICK = (
    *(replace(FULL[n], fill=replace(FULL[n].fill, objects=3_000), names=_FEW, rounds=1) for n in (1, 2)),
    replace(FULL[3], fill=replace(FULL[3].fill, objects=3_000), names=(OURS, BOTO3, S5CMD, OBSTORE), rounds=1),
    replace(FULL[4], fill=replace(FULL[4].fill, objects=3_000), names=(OURS, TWO, S5CMD), rounds=1),
)
LISTED = Fill(100_000, 300, 100)
LISTED_QUICK = replace(LISTED, objects=20_000)
