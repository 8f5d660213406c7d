"""What is to be reached, and whether this run did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from bench.contestants import BOTO3, NO_CHECK, OBSTORE, ORIGINAL, OURS, S5CMD, TRANSFER, TWO
from bench.measure import Result


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured."""

    results: dict[str, Result]
    listing: Mapping[str, list[float]]
    start: Mapping[str, list[float]]

    def times(self, scenario: str, measure: str, rival: str, ours: str = OURS) -> float | None:
        """How many times ours a rival's median is; None where one of them was not measured."""
        result = self.results.get(scenario)
        if result is None or not (result.runs.get(rival) and result.runs.get(ours)):
            return None
        of: Callable[[str], list[float]] = getattr(result, measure)
        return median(of(rival)) / median(of(ours))

    def listing_times(self) -> float | None:
        """How many times ours botocore's CPU per page is."""
        return (
            median(self.listing["botocore"]) / median(self.listing["coalesce"])
            if self.listing
            else None
        )

    def rate(self, scenario: str, name: str) -> float | None:
        """Sources a second over the whole run."""
        result = self.results.get(scenario)
        return (
            result.scenario.fill.objects / median(result.wall(name))
            if result and result.runs.get(name)
            else None
        )

    def bytes_per_source(self) -> float | None:
        """Bytes of peak memory that each listed source adds, from 5,000 to 1,000,000 in one
        group.
        """
        few, many = self.results.get("scale-5000-1"), self.results.get("scale-1000000-1")
        if few is None or many is None or not (few.runs.get(OURS) and many.runs.get(OURS)):
            return None
        return (
            (median(many.peak(OURS)) - median(few.peak(OURS)))
            * 2**20
            / (many.scenario.fill.objects - few.scenario.fill.objects)
        )

    def slope(self) -> float | None:
        """CPU for each source where there are 1,000,000, as a multiple of that where there are
        100,000.
        """
        few, many = self.results.get("scale-100000-1"), self.results.get("scale-1000000-1")
        return (
            median(many.cpu(OURS)) / median(few.cpu(OURS))
            if few and many and few.runs.get(OURS) and many.runs.get(OURS)
            else None
        )

    def growth(self) -> float | None:
        """Our peak memory for outputs of 500 MB, as a multiple of that for outputs of 128 MB."""
        large, usual = self.results.get("500MB-output"), self.results.get("100KB")
        return (
            median(large.peak(OURS)) / median(usual.peak(OURS))
            if large and usual and large.runs.get(OURS) and usual.runs.get(OURS)
            else None
        )


@dataclass(frozen=True, slots=True)
class Aim:
    """`least` is what the figure has to come to; `most` what it may come to."""

    against: str
    what: str
    figure: Callable[[Figures], float | None]
    least: float = 0.0
    most: float = 0.0
    unit: str = "x"

    def row(self, figures: Figures) -> tuple[str, str, str, str, str]:
        """Against whom, what, the aim, what was reached, and a verdict."""
        against, reached = self.against.replace("|", "\\|"), self.figure(figures)
        aim = f">= {self.least:g}{self.unit}" if self.least else f"<= {self.most:g}{self.unit}"
        if reached is None:
            return against, self.what, aim, "-", "not measured"
        met = reached >= self.least if self.least else reached <= self.most
        return (
            against,
            self.what,
            aim,
            f"{reached:,.0f}{self.unit}" if reached >= 100 else f"{reached:.2f}{self.unit}",
            "reached" if met else "not reached",
        )


AIMS = (
    Aim(BOTO3, "CPU, whole job, 100 KB, HTTP", lambda f: f.times("100KB", "cpu", BOTO3), 5),
    Aim(BOTO3, "CPU, whole job, 100 KB, TLS", lambda f: f.times("100KB-TLS", "cpu", BOTO3), 4),
    Aim(
        BOTO3,
        "CPU, `--no-check`, 100 KB, HTTP",
        lambda f: f.times("100KB", "cpu", BOTO3, NO_CHECK),
        8,
    ),
    Aim(
        BOTO3,
        "CPU, `--no-check`, 100 KB, TLS",
        lambda f: f.times("100KB-TLS", "cpu", BOTO3, NO_CHECK),
        6,
    ),
    Aim(BOTO3, "CPU, whole job, 10 KB, HTTP", lambda f: f.times("10KB", "cpu", BOTO3), 10),
    Aim(BOTO3, "wall, 100 KB, HTTP, one process", lambda f: f.times("100KB", "wall", BOTO3), 4),
    Aim(
        BOTO3,
        "wall, 100 KB, HTTP, two processes",
        lambda f: f.times("100KB", "wall", BOTO3, TWO),
        7,
    ),
    Aim(
        BOTO3,
        "peak memory, an output of 500 MB",
        lambda f: f.times("500MB-output", "peak", BOTO3),
        8,
    ),
    Aim("itself", "peak memory, outputs of 500 MB against 128 MB", Figures.growth, most=1.15),
    Aim(
        "itself",
        "peak memory for each of 1,000,000 sources in one directory",
        Figures.bytes_per_source,
        most=100,
        unit=" bytes",
    ),
    Aim("itself", "CPU for each of 1,000,000 sources against 100,000", Figures.slope, most=1.1),
    Aim(S5CMD, "CPU, whole job, 100 KB, HTTP", lambda f: f.times("100KB", "cpu", S5CMD), 2.2),
    Aim(S5CMD, "CPU, whole job, 100 KB, TLS", lambda f: f.times("100KB-TLS", "cpu", S5CMD), 3),
    Aim(
        S5CMD,
        "CPU, `--no-check`, 100 KB, HTTP",
        lambda f: f.times("100KB", "cpu", S5CMD, NO_CHECK),
        4,
    ),
    Aim(S5CMD, "wall, 100 KB, no latency", lambda f: f.times("100KB", "wall", S5CMD), 2),
    Aim(S5CMD, "wall, 100 KB, 30 ms latency", lambda f: f.times("100KB-30ms", "wall", S5CMD), 5),
    Aim(
        OBSTORE,
        "CPU, transfer alone, 100 KB, HTTP",
        lambda f: f.times("100KB", "cpu", OBSTORE, TRANSFER),
        1,
    ),
    Aim("botocore's paginator", "CPU per page of 1,000 keys", Figures.listing_times, 8),
    Aim(ORIGINAL, "CPU, whole job, 100 KB", lambda f: f.times("original", "cpu", ORIGINAL), 80),
    Aim(
        "S3 itself",
        "100 KB sources a second, 30 ms latency, two processes, the whole run",
        lambda f: f.rate("100KB-30ms", TWO),
        4000,
        unit="",
    ),
    Aim(
        "start-up",
        "`coalesce --help`, wall",
        lambda f: median(f.start["help"]),
        most=0.25,
        unit=" s",
    ),
    Aim(
        "start-up",
        "CPU before the first request",
        lambda f: median(f.start["first request"]),
        most=0.6,
        unit=" s",
    ),
)
