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
    ONE,
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
    """`latency` is in milliseconds, `limit` in bytes per output, `slow` the share of GETs that take
    three seconds; `server` is the stand-in or one of `ci/with_server.py`.

    Those `once` run in the first round only: they take long, or no aim speaks of them.
    """

    name: str
    title: str
    fill: Fill
    names: tuple[str, ...]
    rounds: int = 3
    tls: bool = False
    latency: float = 0.0
    slow: float = 0.0
    limit: int = OUTPUT_BYTES
    server: str = "standin"
    once: tuple[str, ...] = ()


def _over_tls(scenario: Scenario) -> tuple[Scenario, Scenario]:
    """A scenario over TLS and over HTTP, in turns: what users have comes first."""
    return (
        replace(scenario, name=f"{scenario.name}-TLS", title=f"{scenario.title}, TLS", tls=True),
        replace(scenario, title=f"{scenario.title}, HTTP"),
    )


_ONCE = (AIOBOTOCORE, OBSTORE, RCLONE, FLOOR)
_MAIN = (OURS, ONE, MEMBERS, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE_UVLOOP)

_KB100 = Scenario(
    "100KB", "100 KB", Fill(10_000, 100_000), (*_MAIN, TWO, *_ONCE), once=(OURS, *_ONCE)
)
_KB10 = Scenario(
    "10KB", "10 KB", Fill(10_000, 10_000), (*_MAIN, *_ONCE), rounds=2, once=(*_ONCE, TRANSFER)
)
_MB1 = Scenario("1MB", "1 MB", Fill(1_000, 1_000_000), (*_MAIN, FLOOR), rounds=2, once=(FLOOR,))
_LATE = Scenario(
    "100KB-30ms",
    "100 KB, HTTP, 30 ms latency",
    Fill(10_000, 100_000),
    (OURS, TWO, MEMBERS, BOTO3, OBSTORE),
    rounds=2,
    latency=30,
    once=(MEMBERS, BOTO3, OBSTORE),
)
_TAILS = replace(
    _LATE,
    name="100KB-tails",
    title="100 KB, HTTP, 30 ms latency, and 3 s for 1% of the GETs",
    names=(OURS, BOTO3),
    slow=0.01,
    once=(BOTO3,),
)


def _many(objects: int, groups: int, *names: str) -> tuple[Scenario]:
    title = f"{objects:,} of 300 bytes in {groups:,} group{'s' if groups > 1 else ''}, HTTP"
    return (Scenario(f"scale-{objects}-{groups}", title, Fill(objects, 300, groups), names, 1),)


# What is compared with one another is measured together, in turns.
TOGETHER: tuple[tuple[Scenario, ...], ...] = (
    _over_tls(_KB100),
    _over_tls(_KB10),
    _over_tls(_MB1),
    (
        Scenario(
            "one-group-20ms",
            "100 KB in one group, HTTP, 20 ms latency",
            Fill(10_000, 100_000, 1),
            (OURS, ONE),
            latency=20,
        ),
    ),
    (_LATE, _TAILS),
    (
        Scenario(
            "1GiB",
            "two of 512 MiB into one of 1 GiB, HTTP",
            Fill(2, GIB // 2, 1),
            (ONE, MEMBERS, NO_CHECK, BOTO3, S5CMD, OBSTORE),
            rounds=2,
            limit=2 * GIB,
            once=(OBSTORE,),
        ),
    ),
    (
        Scenario(
            "500MB-output",
            "5,000 of 100 KB into one output of 500 MB, HTTP",
            Fill(5_000, 100_000, 1),
            (ONE, MEMBERS, BOTO3),
            rounds=1,
            limit=GIB,
        ),
    ),
    _many(5_000, 1, ONE, MEMBERS),
    _many(100_000, 1, ONE, MEMBERS),
    _many(1_000_000, 1, ONE, MEMBERS),
    _many(1_000_000, 10_000, OURS),
    (
        Scenario(
            "original",
            "100 KB, HTTP, outputs of 128 MB",
            Fill(2_500, 100_000, 2),
            (OURS, ORIGINAL),
            rounds=1,
        ),
    ),
    (
        Scenario(
            "versitygw",
            "100 KB, HTTP, a real server: versitygw",
            Fill(2_000, 100_000),
            (OURS, BOTO3, S5CMD),
            rounds=1,
            server="versitygw",
        ),
    ),
)

FULL = tuple(scenario for scenarios in TOGETHER for scenario in scenarios)

_TRANSPORTS = (ONE, UVLOOP, AIOHTTP, TRANSFER, AIOHTTP_TRANSFER)
TRANSPORT = tuple(
    _over_tls(
        Scenario(f"transport-{name}", f"{title}, by transport", Fill(10_000, size), _TRANSPORTS)
    )
    for name, title, size in (("10KB", "10 KB", 10_000), ("100KB", "100 KB", 100_000))
)


def changed(
    scenarios: tuple[Scenario, ...],
    objects: int | None,
    rounds: int | None,
    names: tuple[str, ...] = (),
) -> tuple[Scenario, ...]:
    """The same with so many objects and rounds, and of those who take part only some if they are
    named.
    """
    return tuple(
        replace(
            scenario,
            fill=replace(scenario.fill, objects=objects or scenario.fill.objects),
            names=tuple(name for name in scenario.names if not names or name in names),
            rounds=rounds or scenario.rounds,
        )
        for scenario in scenarios
    )


_SHORT = (OURS, ONE, TWO, MEMBERS, NO_CHECK, TRANSFER, BOTO3, S5CMD, OBSTORE_UVLOOP)
QUICK = (
    changed(TOGETHER[0], 2_000, 1, _SHORT),
    changed(TOGETHER[1], 2_000, 1, (ONE, MEMBERS, BOTO3)),
    changed(TOGETHER[3], 2_000, 1),
    changed(TOGETHER[4], 1_000, 1, (OURS, TWO)),
)
LISTED = Fill(100_000, 300, 100)
LISTED_QUICK = replace(LISTED, objects=20_000)
