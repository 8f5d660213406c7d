"""What is to be reached, and whether this run did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.contestants import (
    BOTO3,
    MEMBERS,
    NO_CHECK,
    OBSTORE_UVLOOP,
    ONE,
    OURS,
    S5CMD,
    TRANSFER,
    TWO,
)
from bench.results import Results

Figure = Callable[[Results], float | None]
At = tuple[str, str]
"""A scenario and a contestant."""


def middle(results: Results, at: At, measure: str) -> float | None:
    """The median of a measure of `Result`; None where it was not taken."""
    scenario, name = at
    result = results.results.get(scenario)
    if result is None or not result.runs.get(name):
        return None
    of: Callable[[str], list[float]] = getattr(result, measure)
    return median(of(name))


def times(measure: str, one: At, other: At) -> Figure:
    """How many times the other's median the one's is."""

    def figure(results: Results) -> float | None:
        above, below = middle(results, one, measure), middle(results, other, measure)
        return above / below if above is not None and below else None

    return figure


def rival(measure: str, scenario: str, name: str, ours: str) -> Figure:
    """How many times ours a rival's median is."""
    return times(measure, (scenario, name), (scenario, ours))


def rate(scenario: str, name: str) -> Figure:
    """Sources a second over the whole run."""

    def figure(results: Results) -> float | None:
        wall = middle(results, (scenario, name), "wall")
        return results.results[scenario].scenario.fill.objects / wall if wall else None

    return figure


def largest(results: Results) -> float | None:
    """MiB of memory at the peak of the largest of all our processes."""
    peaks = [
        peak
        for result in results.results.values()
        for name in result.runs
        if name.startswith("coalesce")
        for peak in result.largest(name)
    ]
    return max(peaks, default=None)


def bytes_per_source(name: str) -> Figure:
    """Bytes of peak memory that each listed source adds, from 5,000 to 1,000,000 in one group."""

    def figure(results: Results) -> float | None:
        few = middle(results, ("scale-5000-1", name), "peak")
        many = middle(results, ("scale-1000000-1", name), "peak")
        return (many - few) * 2**20 / 995_000 if few is not None and many is not None else None

    return figure


def first_request(results: Results) -> float | None:
    """CPU seconds before the first request."""
    values = results.figures.get("start", {}).get("first request")
    return median(values) if values else None


@dataclass(frozen=True, slots=True)
class Aim:
    """`least` is what the figure has to come to; `most` what it may come to."""

    what: str
    figure: Figure
    least: float = 0.0
    most: float = 0.0
    unit: str = ""

    def row(self, results: Results) -> tuple[str, str, str, str]:
        """What, the aim, what was reached, and a verdict."""
        reached = self.figure(results)
        aim = f">= {self.least:,g}{self.unit}" if self.least else f"<= {self.most:,g}{self.unit}"
        if reached is None:
            return self.what, aim, "-", "not measured"
        met = reached >= self.least if self.least else reached <= self.most
        shown = f"{reached:,.0f}" if reached >= 100 else f"{reached:.2f}"
        return self.what, aim, f"{shown}{self.unit}", "reached" if met else "**not reached**"


def _both(what: str, one: str, other: str, *, least: tuple[float, float]) -> tuple[Aim, Aim]:
    """CPU for 100 KB over HTTP and over TLS."""
    return tuple(
        Aim(f"{what}, 100 KB, {way}, CPU", rival("cpu", scenario, one, other), bound)
        for way, scenario, bound in zip(("HTTP", "TLS"), ("100KB", "100KB-TLS"), least, strict=True)
    )  # type: ignore[return-value]


AIMS = (
    Aim("`single` / `members`, 100 KB, HTTP, CPU", rival("cpu", "100KB", ONE, MEMBERS), most=1.45),
    Aim(
        "`single` / `members`, 100 KB, HTTP, wall, one process",
        rival("wall", "100KB", ONE, MEMBERS),
        most=1.2,
    ),
    Aim(
        "TLS / HTTP, 100 KB, whole job, CPU",
        times("cpu", ("100KB-TLS", ONE), ("100KB", ONE)),
        most=1.15,
    ),
    Aim(
        "TLS / HTTP, 100 KB, `--no-check`, CPU",
        times("cpu", ("100KB-TLS", NO_CHECK), ("100KB", NO_CHECK)),
        most=1.3,
    ),
    Aim(
        "default / `--processes 1`, one group, 20 ms, wall",
        rival("wall", "one-group-20ms", OURS, ONE),
        most=0.65,
    ),
    *_both("boto3 / `members`", BOTO3, MEMBERS, least=(4.5, 4)),
    Aim("boto3 / `single`, 100 KB, HTTP, CPU", rival("cpu", "100KB", BOTO3, ONE), 3),
    Aim(
        "boto3 / `single`, 100 KB, HTTP, wall, two processes",
        rival("wall", "100KB", BOTO3, TWO),
        6,
    ),
    Aim("boto3 / `single`, 10 KB, HTTP, CPU", rival("cpu", "10KB", BOTO3, ONE), 9),
    *_both("`s5cmd cat \\| s5cmd pipe` / `members`", S5CMD, MEMBERS, least=(1.8, 1.8)),
    *_both(
        "obstore on uvloop / `--gzip members --no-check --no-delete`",
        OBSTORE_UVLOOP,
        TRANSFER,
        least=(1.5, 1.2),
    ),
    Aim("boto3 / `members`, 1 MB, HTTP, CPU", rival("cpu", "1MB", BOTO3, MEMBERS), 1.5),
    Aim("boto3 / `members`, 1 GiB, HTTP, CPU", rival("cpu", "1GiB", BOTO3, MEMBERS), 1.5),
    Aim("CPU before the first request", first_request, most=0.4, unit=" s"),
    Aim("sources a second, 100 KB, 30 ms, whole run, two processes", rate("100KB-30ms", TWO), 2200),
    Aim(
        "1% of GETs at 3 s / none, 30 ms, wall",
        times("wall", ("100KB-tails", OURS), ("100KB-30ms", OURS)),
        most=1.3,
    ),
    Aim("peak memory of any process of ours", largest, most=256, unit=" MiB"),
    Aim(
        "peak memory for each of 1,000,000 sources in one directory, `single`",
        bytes_per_source(ONE),
        most=100,
        unit=" bytes",
    ),
    Aim(
        "the same, `members`",
        bytes_per_source(MEMBERS),
        most=100,
        unit=" bytes",
    ),
    Aim(
        "CPU for each of 1,000,000 sources / of 100,000",
        times("cpu", ("scale-1000000-1", ONE), ("scale-100000-1", ONE)),
        most=1.1,
    ),
)
