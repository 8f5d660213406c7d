"""The measured parts of two pages: what a user wants to know stands in `docs/performance.md`; aims
and every figure in `docs/evidence/performance-figures.md`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.aims import AIMS, middle
from bench.contestants import BIN, CONTESTANTS, ONE
from bench.markdown import between, dollars, duration, size, spread
from bench.model import estimate
from bench.results import Result, Results

VCPUS = (1, 4, 16)
MODELLED = (1_000_000, 100_000_000)
EXPECTED = ("10KB-TLS", "100KB-TLS", "1MB-TLS")


def written(docs: Path, results: Results) -> None:
    """Puts the figures in the place of the last ones."""
    pages = (("performance.md", expected), ("evidence/performance-figures.md", figures))
    for name, rendered in pages:
        page = docs / name
        page.write_text(between(page.read_text("utf-8"), rendered(results)), "utf-8")


def expected(results: Results) -> str:
    """What a job of so many objects takes: the table that a user looks for."""
    measured = [name for name in EXPECTED if middle(results, (name, ONE), "wall") is not None]
    if not measured:
        return "Nothing was measured over TLS."
    times = " | ".join(f"{count} vCPU" for count in VCPUS)
    lines = [
        f"| sources | size | {times} | cost | memory, {' / '.join(map(str, VCPUS))} vCPU |",
        f"|---:|---:|{'---:|' * len(VCPUS)}---:|---:|",
    ]
    for name in measured:
        lines += _expected(results, name)
    return "\n".join([*lines, "", "![CPU per source and wall time](performance.svg)"])


def _expected(results: Results, name: str) -> Iterator[str]:
    fill = results.results[name].scenario.fill
    wall, cpu = (middle(results, (name, ONE), of) or 0.0 for of in ("wall", "cpu"))
    peak = middle(results, (name, ONE), "peak") or 0.0
    for objects in (fill.objects, *MODELLED):
        found = [estimate(objects, fill.bytes, count, cpu / 1000) for count in VCPUS]
        times = [f"~{duration(one.seconds)}" for one in found]
        memory = [_memory(one.memory_bytes) for one in found]
        if objects == fill.objects:
            nothing = ["-"] * (len(VCPUS) - 1)
            times = [f"**{duration(wall)}**", *nothing]
            memory = [f"**{peak:.0f} MiB**", *nothing]
        usd = dollars(found[0].request_usd + found[0].compute_usd)
        cells = [f"{objects:,}", size(fill.bytes), *times, usd, " / ".join(memory)]
        yield f"| {' | '.join(cells)} |"


def _memory(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def figures(results: Results) -> str:
    """Aims, and everything that was measured."""
    lines = [machine(), "", "## Aims", "", *aims(results), ""]
    for result in results.results.values():
        if result.runs:
            lines += [f"## {result.scenario.title}", "", *scenario(result), ""]
    if results.figures:
        lines += ["## Listing and start-up", "", "| | |", "|---|---:|", *_others(results)]
    return "\n".join(lines)


def _others(results: Results) -> Iterator[str]:
    for who, values in results.figures.get("listing", {}).items():
        yield f"| CPU per page of 1,000 keys, {who}, ms | {spread(values)} |"
    start = results.figures.get("start", {})
    for name, words in (
        ("help", "`coalesce --help`, wall, s"),
        ("first request", "CPU before the first request, s"),
    ):
        if name in start:
            yield f"| {words} | {spread(start[name])} |"


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


def aims(results: Results) -> Iterator[str]:
    """The table of aims."""
    yield "| measure | aim | measured | |"
    yield "|---|---:|---:|---|"
    for aim in AIMS:
        yield f"| {' | '.join(aim.row(results))} |"


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
    base = ONE if ONE in result.runs else next(iter(result.runs))
    yield (
        "| | job | CPU ms per source | wall s | peak MiB | of the largest process | "
        "requests per source | server's CPU ms per source | "
        f"CPU, times that of {base} | wall, times |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in result.runs:
        requests = f"{median(result.requests(name)):.3f}" if any(result.requests(name)) else "-"
        server = f"{median(result.server(name)):.3f}" if any(result.server(name)) else "-"
        cells = [
            name.replace("|", "\\|"),
            "whole" if CONTESTANTS[name].deletes else "transfer",
            spread(result.cpu(name), 3),
            spread(result.wall(name)),
            spread(result.peak(name), 0),
            spread(result.largest(name), 0),
        ]
        ratios = [f"{median(of(name)) / median(of(base)):.2f}" for of in (result.cpu, result.wall)]
        yield f"| {' | '.join([*cells, requests, server, *ratios])} |"
    for name, why in result.skipped.items():
        yield ""
        yield f"{name} was left out: {' '.join(why.split())[:200]}"
