"""Rounds of contestants, interleaved, each on the same data and each proven: what it left in the
bucket is compared with what was there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.contestants import BIN, CONTESTANTS, Contestant
from bench.process import Cost, Failed, cpu_until_connected, measured
from bench.records import Fill
from bench.scenarios import Scenario
from bench.site import BUCKET, Asked, Site, real, standin

HELP_RUNS = 5
CPUS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contestant, and what the server was asked for in it."""

    cost: Cost
    asked: Asked


@dataclass(slots=True)
class Result:
    """All runs of a scenario by contestant; `skipped` says why one has none."""

    scenario: Scenario
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def values(self, name: str, of: Callable[[Run], float]) -> list[float]:
        """One figure of all its runs."""
        return [of(run) for run in self.runs.get(name, ())]

    def cpu(self, name: str) -> list[float]:
        """CPU milliseconds per source."""
        return self.values(name, lambda run: run.cost.cpu * 1000 / self.scenario.fill.objects)

    def wall(self, name: str) -> list[float]:
        """Seconds."""
        return self.values(name, lambda run: run.cost.wall)

    def peak(self, name: str) -> list[float]:
        """MiB of memory at the peak."""
        return self.values(name, lambda run: run.cost.peak / 2**20)

    def requests(self, name: str) -> list[float]:
        """Requests per source."""
        return self.values(
            name, lambda run: sum(run.asked.requests.values()) / self.scenario.fill.objects
        )

    def server(self, name: str) -> list[float]:
        """The server's own CPU milliseconds per source."""
        return self.values(name, lambda run: run.asked.cpu * 1000 / self.scenario.fill.objects)

    def foreign(self) -> float:
        """The greatest share of the machine's CPUs that something else took during a run: what a
        contestant and the server did not use of what was used.
        """
        runs = [run for runs in self.runs.values() for run in runs]
        return max(
            (run.cost.machine - run.cost.cpu - run.asked.cpu) / run.cost.wall / CPUS for run in runs
        )


def compared(scenario: Scenario, folder: Path) -> Result:
    """All rounds of a scenario. Raises RuntimeError where a record is missing or doubled."""
    result = Result(scenario)
    with _opened(scenario, folder) as site:
        site.reset()
        before = site.digest()
        for number in range(scenario.rounds):
            for name in scenario.names:
                if name in result.skipped or (number and name in scenario.once):
                    continue
                try:
                    run = _run(CONTESTANTS[name], scenario, site, before)
                except Failed as failure:
                    result.skipped[name] = str(failure)
                    _say(f"{scenario.name} {name}: left out: {failure}")
                    continue
                result.runs.setdefault(name, []).append(run)
                _say(
                    f"{scenario.name} round {number + 1} {name}: {run.cost.wall:.1f} s, "
                    f"CPU {run.cost.cpu:.1f} s, {run.cost.peak // 2**20} MiB"
                )
    return result


def _opened(scenario: Scenario, folder: Path) -> AbstractContextManager[Site]:
    if scenario.server == "standin":
        return standin(scenario.fill, folder, tls=scenario.tls, latency=scenario.latency)
    return real(scenario.server, scenario.fill)


def _run(contestant: Contestant, scenario: Scenario, site: Site, before: dict[str, int]) -> Run:
    site.reset()
    cost = measured(contestant.command(site, scenario.fill, scenario.limit), site.environment)
    run = Run(cost, site.asked())
    after, copies = site.digest(), 1 if contestant.deletes else 2
    same = (
        after["records"] == copies * before["records"]
        and after["sum"] == copies * before["sum"] % 2**64
    )
    fewer = after["objects"] - (copies - 1) * before["objects"] < before["objects"]
    if not (same and fewer):
        raise RuntimeError(
            f"{contestant.name}: the records before and after differ: {before} became {after}"
        )
    return run


def listing(fill: Fill, rounds: int, folder: Path) -> dict[str, list[float]]:
    """CPU milliseconds per page of 1,000 keys, by whose listing it is."""
    found: dict[str, list[float]] = {}
    with standin(fill, folder) as site:
        for _ in range(rounds):
            for who in ("coalesce", "botocore"):
                said = json.loads(
                    measured(
                        [
                            sys.executable,
                            "-m",
                            "bench.listing",
                            who,
                            site.endpoint,
                            BUCKET,
                            fill.prefix,
                        ],
                        site.environment,
                    ).said
                )
                if said["keys"] != fill.objects:
                    raise RuntimeError(f"{who} listed {said['keys']} keys of {fill.objects}")
                found.setdefault(who, []).append(said["cpu_seconds"] * 1e6 / fill.objects)
                _say(f"listing {who}: {found[who][-1]:.1f} ms CPU per page")
    return found


def start_up(folder: Path) -> dict[str, list[float]]:
    """Seconds: `coalesce --help`, wall; and CPU before the first request of a run."""
    with standin(Fill(1), folder) as site:
        tool = str(BIN / "coalesce")
        command = [
            tool,
            "run",
            "-b",
            BUCKET,
            "-p",
            "data",
            "--endpoint-url",
            "http://127.0.0.1:{port}",
            "-q",
        ]
        return {
            "help": [measured([tool, "--help"], site.environment).wall for _ in range(HELP_RUNS)],
            "first request": [
                cpu_until_connected(command, site.environment) for _ in range(HELP_RUNS)
            ],
        }


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
