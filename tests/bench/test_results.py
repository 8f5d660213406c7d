"""Figures of the bench are kept as they come, and every aim has its figure."""

from collections.abc import Sequence
from pathlib import Path

from bench.aims import AIMS
from bench.process import Cost
from bench.records import Fill
from bench.results import Results, Run
from bench.scenarios import FULL, Scenario
from bench.site import Asked
from hypothesis import given
from hypothesis import strategies as st

ONE = Scenario("one", "One", Fill(10), ("a", "b"), rounds=3, once=("b",))


def run(cpu: float = 1.0, peak: int = 2**20) -> Run:
    return Run(Cost(2.0, cpu, 3.0, peak, peak, "what it said"), Asked({"GetObject": 10}, 0.5))


def measured(scenarios: Sequence[Scenario], results: Results) -> None:
    """As a bench does, without the work."""
    for scenario in scenarios:
        for number in range(scenario.rounds):
            for name in scenario.names:
                if results.of(scenario).is_due(name, number):
                    results.add_run(scenario, name, run())


def test_a_bench_that_was_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    first = Results(file)
    first.add_figures("start", "help", [0.5, 0.25])
    first.add_run(ONE, "a", run(1.0))
    first.add_run(ONE, "b", run(2.0))
    first.add_run(ONE, "a", run(3.0))
    second = Results.of_file(file, [ONE])
    assert second.figures == {"start": {"help": [0.5, 0.25]}}
    assert second.of(ONE).cpu("a") == [100.0, 300.0]
    assert second.of(ONE).cpu("b") == [200.0]
    assert not second.of(ONE).is_whole()
    due = [(name, n) for n in range(3) for name in "ab" if second.of(ONE).is_due(name, n)]
    assert due == [("a", 2)]
    second.add_run(ONE, "a", run(4.0))
    assert Results.of_file(file, [ONE]).of(ONE).cpu("a") == [100.0, 300.0, 400.0]
    assert second.of(ONE).is_whole()


def test_one_that_cannot_take_part_is_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    Results(file).add_skipped(ONE, "a", "it is not installed")
    after = Results.of_file(file, [ONE]).of(ONE)
    assert after.skipped == {"a": "it is not installed"}
    assert not any(after.is_due("a", n) for n in range(3))


@given(st.lists(st.sampled_from(["a", "b"]), max_size=8))
def test_everyone_runs_once_in_each_round_or_once_in_all(order: list[str]) -> None:
    """Whatever was measured before."""
    results = Results()
    for name in order:
        if any(results.of(ONE).is_due(name, n) for n in range(3)):
            results.add_run(ONE, name, run())
    measured([ONE], results)
    assert {name: len(runs) for name, runs in results.of(ONE).runs.items()} == {"a": 3, "b": 1}


def test_a_whole_bench_measures_what_every_aim_speaks_of() -> None:
    results = Results()
    measured(FULL, results)
    results.add_figures("start", "first request", [0.5])
    assert [aim.what for aim in AIMS if aim.figure(results) is None] == []


def test_an_aim_of_what_was_not_measured_says_so() -> None:
    assert {aim.row(Results())[2:] for aim in AIMS} == {("-", "not measured")}


def test_an_aim_compares_medians_of_the_right_programs() -> None:
    results, scenario = Results(), next(s for s in FULL if s.name == "100KB")
    for name, cpu in (("coalesce, 1 process", 2.0), ("coalesce, members", 1.0)):
        for factor in (1.0, 1.0, 9.0):
            results.add_run(scenario, name, run(cpu * factor))
    results.add_run(scenario, "boto3, 16 threads", run(5.0))
    rows = {row[0]: row[1:] for row in (aim.row(results) for aim in AIMS)}
    assert rows["`single` / `members`, 100 KB, HTTP, CPU"] == (
        "<= 1.45",
        "2.00",
        "**not reached**",
    )
    assert rows["boto3 / `members`, 100 KB, HTTP, CPU"] == (">= 4.5", "5.00", "reached")
    assert rows["boto3 / `single`, 100 KB, HTTP, CPU"] == (">= 3", "2.50", "**not reached**")


def test_the_largest_process_counts_not_all_together() -> None:
    results, scenario = Results(), FULL[0]
    two = Run(Cost(1, 1, 1, 400 * 2**20, 200 * 2**20, ""), Asked({}, 0))
    results.add_run(scenario, "coalesce, 2 processes", two)
    results.add_run(scenario, "boto3, 16 threads", run(peak=900 * 2**20))
    rows = {row[0]: row[2] for row in (aim.row(results) for aim in AIMS)}
    assert rows["peak memory of any process of ours"] == "200 MiB"
