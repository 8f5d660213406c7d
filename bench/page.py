"""The measured part of `docs/performance.md`: Markdown between two markers."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.aims import AIMS, Figures
from bench.contestants import BIN, CONTESTANTS, OURS
from bench.measure import Result

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def written(page: Path, figures: Figures) -> None:
    """Puts the figures in the place of the last ones."""
    text = page.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n\n{rendered(figures)}\n{END}{tail}", "utf-8")


def rendered(figures: Figures) -> str:
    """Everything as Markdown."""
    lines = [
        "![CPU per source and wall time, by program](performance.svg)",
        "",
        machine(),
        "",
        "### Aims",
        "",
        *aims(figures),
        "",
    ]
    for result in figures.results.values():
        lines += [f"### {result.scenario.title}", "", *scenario(result), ""]
    if figures.listing:
        lines += ["### Listing and start-up", "", "| | |", "|---|---:|"]
        lines += [
            f"| CPU per page of 1,000 keys, {who}, ms | {spread(values)} |"
            for who, values in figures.listing.items()
        ]
        lines += [f"| `coalesce --help`, wall, s | {spread(figures.start['help'])} |"]
        lines += [
            f"| CPU before the first request, s | {spread(figures.start['first request'])} |",
            "",
        ]
    return "\n".join(lines)


def machine() -> str:
    """What it ran on, and the versions of all that took part."""
    tools = ", ".join(
        f"{name} {version(name)}" for name in ("boto3", "aiobotocore", "obstore", "uvloop")
    )
    s5cmd = subprocess.run(
        [BIN / "s5cmd", "version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    rclone = subprocess.run(
        [BIN / "rclone", "version"], capture_output=True, text=True, check=True
    ).stdout.split("\n")[0]
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{os.cpu_count()} CPUs ({cpu}), {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {tools}, s5cmd {s5cmd}, {rclone}."
    )


def aims(figures: Figures) -> Iterator[str]:
    """The table of aims."""
    yield "| against | measure | aim | this run | |"
    yield "|---|---|---:|---:|---|"
    for aim in AIMS:
        yield f"| {' | '.join(aim.row(figures))} |"


def scenario(result: Result) -> Iterator[str]:
    """The table of one scenario."""
    fill = result.scenario.fill
    counted = (
        f"{fill.objects:,} sources of about {fill.bytes:,} bytes "
        f"in {fill.groups:,} group{'s' if fill.groups > 1 else ''}"
    )
    rounds = f"{result.scenario.rounds} round{'s' if result.scenario.rounds > 1 else ''}"
    yield (
        f"{counted}; {rounds}; other work took at most {max(0, result.foreign()):.0%} "
        "of the machine's CPUs during a run."
    )
    yield ""
    yield (
        "| | job | CPU ms per source | wall s | peak MiB | requests per source | "
        "server's CPU ms per source | CPU, times `coalesce run` | wall, times |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for name in result.runs:
        requests = f"{median(result.requests(name)):.3f}" if any(result.requests(name)) else "-"
        server = f"{median(result.server(name)):.3f}" if any(result.server(name)) else "-"
        cells = [
            name.replace("|", "\\|"),
            "whole" if CONTESTANTS[name].deletes else "transfer",
            spread(result.cpu(name), 3),
            spread(result.wall(name)),
            spread(result.peak(name), 0),
        ]
        ratios = [
            f"{median(of(name)) / median(of(OURS)):.2f}" if result.runs.get(OURS) else "-"
            for of in (result.cpu, result.wall)
        ]
        yield f"| {' | '.join([*cells, requests, server, *ratios])} |"
    for name, why in result.skipped.items():
        yield ""
        yield f"{name} was left out: {' '.join(why.split())[:200]}"


def spread(values: list[float], digits: int = 2) -> str:
    """The median; with several values the least and the greatest too."""
    middle = f"{median(values):.{digits}f}"
    return (
        middle
        if len(values) == 1
        else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"
    )
