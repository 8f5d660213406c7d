"""What was measured: every figure is kept in a file as it comes, so a bench that is cut short keeps
what it has, and can go on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.process import Cost
from bench.scenarios import Scenario
from bench.site import Asked

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
        """MiB of memory at the peak, of all processes together."""
        return self.values(name, lambda run: run.cost.peak / 2**20)

    def largest(self, name: str) -> list[float]:
        """MiB of memory at the peak of the largest process."""
        return self.values(name, lambda run: run.cost.largest / 2**20)

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

    def is_due(self, name: str, number: int) -> bool:
        """Whether a contestant is to run in a round: the first has the number 0."""
        rounds = 1 if name in self.scenario.once else self.scenario.rounds
        return len(self.runs.get(name, ())) <= number < rounds and name not in self.skipped

    def is_whole(self) -> bool:
        """Whether nothing is left to run."""
        return not any(
            self.is_due(name, n)
            for n in range(self.scenario.rounds)
            for name in self.scenario.names
        )


class Results:
    """Results by scenario, and other figures by topic and name; in a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self.results: dict[str, Result] = {}
        self.figures: dict[str, dict[str, list[float]]] = {}
        self._path = path

    @classmethod
    def of_file(cls, path: Path, scenarios: Iterable[Scenario]) -> Results:
        """What a bench that was cut short left in its file; it goes on there."""
        results, known = cls(path), {scenario.name: scenario for scenario in scenarios}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            said = json.loads(line)
            if said.get("scenario", "") in known or "topic" in said:
                results._take(said, known)
        return results

    def of(self, scenario: Scenario) -> Result:
        """That of a scenario so far."""
        return self.results.setdefault(scenario.name, Result(scenario))

    def add_run(self, scenario: Scenario, name: str, run: Run) -> None:
        """One run more."""
        cost = asdict(run.cost) | {"said": ""}
        self._add({"cost": cost, "asked": asdict(run.asked)}, scenario, name)

    def add_skipped(self, scenario: Scenario, name: str, why: str) -> None:
        """A contestant that cannot take part."""
        self._add({"skipped": why}, scenario, name)

    def add_figures(self, topic: str, name: str, values: list[float]) -> None:
        """Figures that belong to no scenario."""
        said = {"topic": topic, "name": name, "values": values}
        self._take(said, {})
        self._write(said)

    def _add(self, what: dict[str, Any], scenario: Scenario, name: str) -> None:
        said = {"scenario": scenario.name, "name": name} | what
        self._take(said, {scenario.name: scenario})
        self._write(said)

    def _take(self, said: dict[str, Any], known: dict[str, Scenario]) -> None:
        name = said["name"]
        if "topic" in said:
            self.figures.setdefault(said["topic"], {})[name] = said["values"]
        elif "skipped" in said:
            self.of(known[said["scenario"]]).skipped[name] = said["skipped"]
        else:
            run = Run(Cost(**said["cost"]), Asked(**said["asked"]))
            self.of(known[said["scenario"]]).runs.setdefault(name, []).append(run)

    def _write(self, said: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(said) + "\n")
