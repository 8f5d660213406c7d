"""`coalesce` beside whatever else joins small objects: `make bench`, `make bench-quick`.

Every contestant is a whole process, start-up included, on the same data in a server that runs
apart; its requests are counted by the server, and what it left in the bucket is proven. Rounds are
interleaved, figures are medians (least-greatest). A whole bench writes `docs/performance.md`, its
chart and `docs/evidence/performance-figures.md`, again after each scenario. Its figures are in
`.bench.jsonl` as soon as they are measured: `--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from bench.chart import drawn
from bench.measure import compared, listing, start_up
from bench.page import expected, figures, written
from bench.results import Results
from bench.scenarios import (
    FULL,
    LISTED,
    LISTED_QUICK,
    QUICK,
    TOGETHER,
    TRANSPORT,
    Scenario,
    changed,
)

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".bench.jsonl"


def main() -> None:
    """Measures, prints or writes."""
    arguments = _parser().parse_args()
    whole = not (arguments.quick or arguments.only or arguments.objects)
    chosen = list(_chosen(arguments))
    if whole and not arguments.resume:
        KEPT.unlink(missing_ok=True)
    results = Results.of_file(KEPT, FULL) if whole else Results()
    with tempfile.TemporaryDirectory() as name:
        if "start" not in results.figures:
            start_up(results, Path(name))
        for n, scenarios in enumerate(chosen):
            folder = Path(name, str(n))
            folder.mkdir()
            compared(scenarios, results, folder)
            if whole:
                _write(results)
        if not arguments.only and "listing" not in results.figures:
            fill, rounds = (LISTED_QUICK, 1) if arguments.quick else (LISTED, 3)
            listing(fill, rounds, results, Path(name))
    if whole:
        _write(results)
    print(expected(results), figures(results), sep="\n\n")
    if not whole:
        print("The aims speak of a whole bench; with fewer sources start-up weighs more.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer contestants and less data; only printed"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[scenario.name for scenarios in (*TOGETHER, *TRANSPORT) for scenario in scenarios],
        metavar="SCENARIO",
        help="this scenario, and those it is compared with; repeatable; only printed",
    )
    parser.add_argument(
        "--objects", type=int, help="instead of each scenario's own number; only printed"
    )
    parser.add_argument("--rounds", type=int, help="instead of each scenario's own number")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a bench that was cut short"
    )
    return parser


def _chosen(arguments: argparse.Namespace) -> list[tuple[Scenario, ...]]:
    """The scenarios that are measured together."""
    known = QUICK if arguments.quick else (*TOGETHER, *TRANSPORT) if arguments.only else TOGETHER
    chosen = [
        changed(scenarios, arguments.objects, arguments.rounds)
        for scenarios in known
        if not arguments.only or {scenario.name for scenario in scenarios} & {*arguments.only}
    ]
    if shutil.which("go") is None:
        chosen = [scenarios for scenarios in chosen if scenarios[0].server == "standin"]
    return chosen


def _write(results: Results) -> None:
    written(ROOT / "docs", results)
    (ROOT / "docs" / "performance.svg").write_text(drawn(results.results), "utf-8")


if __name__ == "__main__":
    main()
