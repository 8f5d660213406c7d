"""What is compared: data, way to the server, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.contestants import (
    AIOBOTOCORE,
    AIOHTTP,
    AIOHTTP_TRANSFER,
    BOTO3,
    FLOOR,
    MEMBERS,
    NO_CHECK,
    OBSTORE,
    OBSTORE_UVLOOP,
    ORIGINAL,
    OURS,
    RCLONE,
    S5CMD,
    TRANSFER,
    TWO,
    UVLOOP,
)
from bench.records import Fill
from bench.rivals.sources import OUTPUT_BYTES

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Scenario:
    """`latency` is in milliseconds, `limit` in bytes per output; `server` is the stand-in or one of
    `ci/with_server.py`.

    Those `once` run in the first round only: they take long, and latency alone makes their time.
    """

    name: str
    title: str
    fill: Fill
    names: tuple[str, ...]
    rounds: int = 3
    tls: bool = False
    latency: float = 0.0
    limit: int = OUTPUT_BYTES
    server: str = "standin"
    once: tuple[str, ...] = ()


_ALL = (
    OURS,
    TWO,
    MEMBERS,
    NO_CHECK,
    TRANSFER,
    BOTO3,
    AIOBOTOCORE,
    S5CMD,
    OBSTORE,
    OBSTORE_UVLOOP,
    RCLONE,
    FLOOR,
)
_MAIN = (OURS, MEMBERS, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE, OBSTORE_UVLOOP, FLOOR)

FULL = (
    Scenario("100KB", "100 KB, HTTP", Fill(10_000, 100_000), _ALL),
    Scenario("100KB-TLS", "100 KB, TLS", Fill(10_000, 100_000), _MAIN, rounds=2, tls=True),
    Scenario(
        "100KB-30ms",
        "100 KB, HTTP, 30 ms latency",
        Fill(10_000, 100_000),
        (OURS, TWO, BOTO3, AIOBOTOCORE, S5CMD, OBSTORE),
        rounds=2,
        latency=30,
        once=(S5CMD,),
    ),
    Scenario("10KB", "10 KB, HTTP", Fill(10_000, 10_000), _ALL),
    Scenario("2KB", "2 KB, HTTP", Fill(10_000, 2_000), _MAIN, rounds=2),
    Scenario("1MB", "1 MB, HTTP", Fill(1_000, 1_000_000), _MAIN, rounds=2),
    Scenario(
        "1GiB",
        "two of 512 MiB into one of 1 GiB, HTTP",
        Fill(2, GIB // 2, 1),
        (OURS, NO_CHECK, BOTO3, S5CMD, OBSTORE),
        rounds=2,
        limit=2 * GIB,
    ),
    Scenario(
        "500MB-output",
        "5,000 of 100 KB into one output of 500 MB, HTTP",
        Fill(5_000, 100_000, 1),
        (OURS, BOTO3),
        rounds=2,
        limit=GIB,
    ),
    Scenario(
        "original",
        "100 KB, HTTP, outputs of 128 MB",
        Fill(2_500, 100_000, 2),
        (OURS, ORIGINAL),
        rounds=1,
    ),
    *(
        Scenario(
            f"scale-{objects}-{groups}",
            f"{objects:,} of 300 bytes in {groups:,} group{'s' if groups > 1 else ''}, HTTP",
            Fill(objects, 300, groups),
            (OURS,),
            1,
        )
        for objects, groups in ((5_000, 1), (100_000, 1), (1_000_000, 1), (1_000_000, 10_000))
    ),
    Scenario(
        "versitygw",
        "100 KB, HTTP, a real server: versitygw",
        Fill(2_000, 100_000),
        (OURS, BOTO3, S5CMD),
        rounds=2,
        server="versitygw",
    ),
)


def _shorter(name: str, objects: int, names: tuple[str, ...]) -> Scenario:
    whole = next(scenario for scenario in FULL if scenario.name == name)
    return replace(whole, fill=replace(whole.fill, objects=objects), names=names, rounds=1)


_FEW = (OURS, TWO, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE, OBSTORE_UVLOOP, FLOOR)
QUICK = (
    _shorter("10KB", 3_000, _FEW),
    _shorter("100KB", 3_000, _FEW),
    _shorter("100KB-TLS", 3_000, (OURS, BOTO3, S5CMD, OBSTORE)),
    _shorter("100KB-30ms", 1_000, (OURS, TWO, S5CMD)),
)
_TRANSPORTS = (OURS, UVLOOP, AIOHTTP, TRANSFER, AIOHTTP_TRANSFER)
TRANSPORT = (
    Scenario("transport-10KB", "10 KB, HTTP, by transport", Fill(10_000, 10_000), _TRANSPORTS),
    Scenario(
        "transport-10KB-TLS",
        "10 KB, TLS, by transport",
        Fill(10_000, 10_000),
        _TRANSPORTS,
        tls=True,
    ),
    Scenario("transport-100KB", "100 KB, HTTP, by transport", Fill(10_000, 100_000), _TRANSPORTS),
    Scenario(
        "transport-100KB-TLS",
        "100 KB, TLS, by transport",
        Fill(10_000, 100_000),
        _TRANSPORTS,
        tls=True,
    ),
)
LISTED = Fill(100_000, 300, 100)
LISTED_QUICK = replace(LISTED, objects=20_000)
