"""Rounds of contestants, interleaved, each on the same data and each proven: what it left in the
bucket is compared with what was there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from bench.contestants import BIN, CONTESTANTS, Contestant
from bench.process import Failed, cpu_until_connected, measured
from bench.real import real
from bench.records import Fill
from bench.results import Results, Run
from bench.scenarios import Scenario
from bench.site import BUCKET, Site, standin

HELP_RUNS = 5


def compared(scenarios: tuple[Scenario, ...], results: Results, folder: Path) -> None:
    """All rounds of scenarios that are to be compared with one another: their rounds take turns.

    Raises RuntimeError where a record is missing or doubled.
    """
    with ExitStack() as stack:
        sites = {
            scenario.name: stack.enter_context(_opened(scenario, folder / scenario.name))
            for scenario in scenarios
            if not results.of(scenario).is_whole()
        }
        before = {}
        for name, site in sites.items():
            site.reset()
            before[name] = site.digest()
        for number, scenario, name in _turns(scenarios):
            if not results.of(scenario).is_due(name, number):
                continue
            try:
                run = _run(CONTESTANTS[name], scenario, sites[scenario.name], before[scenario.name])
            except Failed as failure:
                results.add_skipped(scenario, name, str(failure))
                _say(f"{scenario.name} {name}: left out: {failure}")
                continue
            results.add_run(scenario, name, run)
            _say(
                f"{scenario.name} round {number + 1} {name}: {run.cost.wall:.1f} s, "
                f"CPU {run.cost.cpu:.1f} s, {run.cost.peak // 2**20} MiB"
            )


def _turns(scenarios: tuple[Scenario, ...]) -> Iterator[tuple[int, Scenario, str]]:
    """Round after round, contestant after contestant, one scenario after another."""
    for number in range(max(scenario.rounds for scenario in scenarios)):
        for name in dict.fromkeys(name for scenario in scenarios for name in scenario.names):
            for scenario in scenarios:
                if name in scenario.names:
                    yield number, scenario, name


def _opened(scenario: Scenario, folder: Path) -> AbstractContextManager[Site]:
    if scenario.server != "standin":
        return real(scenario.server, scenario.fill)
    folder.mkdir()
    return standin(
        scenario.fill, folder, tls=scenario.tls, latency=scenario.latency, slow=scenario.slow
    )


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


def listing(fill: Fill, rounds: int, results: Results, folder: Path) -> None:
    """CPU milliseconds per page of 1,000 keys, by whose listing it is."""
    found: dict[str, list[float]] = {"coalesce": [], "botocore": []}
    with standin(fill, folder) as site:
        for _ in range(rounds):
            for who, spent in found.items():
                command = [sys.executable, "-m", "bench.listing", who]
                said = json.loads(
                    measured([*command, site.endpoint, BUCKET, fill.prefix], site.environment).said
                )
                if said["keys"] != fill.objects:
                    raise RuntimeError(f"{who} listed {said['keys']} keys of {fill.objects}")
                spent.append(said["cpu_seconds"] * 1e6 / fill.objects)
                _say(f"listing {who}: {spent[-1]:.1f} ms CPU per page")
    for who, spent in found.items():
        results.add_figures("listing", who, spent)


def start_up(results: Results, folder: Path) -> None:
    """Seconds: `coalesce --help`, wall; and CPU before the first request of a run."""
    with standin(Fill(1), folder) as site:
        tool = str(BIN / "coalesce")
        command = [tool, "run", "-b", BUCKET, "-p", "data", "-q"]
        command += ["--endpoint-url", "http://127.0.0.1:{port}"]
        shown = [measured([tool, "--help"], site.environment).wall for _ in range(HELP_RUNS)]
        begun = [cpu_until_connected(command, site.environment) for _ in range(HELP_RUNS)]
    results.add_figures("start", "help", shown)
    results.add_figures("start", "first request", begun)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
