"""`coalesce` beside whatever else joins small objects: `make bench`, `make bench-quick`.

Every contestant is a whole process, start-up included, on the same data in a server that runs
apart; its requests are counted by the server, and what it left in the bucket is proven. Rounds are
interleaved, figures are medians (least-greatest). A whole run writes `docs/performance.md` and its
chart.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.aims import Figures
from bench.chart import drawn
from bench.measure import compared, listing, start_up
from bench.page import rendered, written
from bench.scenarios import FULL, LISTED, LISTED_QUICK, QUICK, TRANSPORT

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Measures, prints or writes."""
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
        choices=[scenario.name for scenario in (*FULL, *TRANSPORT)],
        metavar="SCENARIO",
        help="this scenario; repeatable; only printed",
    )
    parser.add_argument("--rounds", type=int, help="of every scenario, instead of its own number")
    arguments = parser.parse_args()
    scenarios = [
        replace(scenario, rounds=arguments.rounds or scenario.rounds)
        for scenario in (
            QUICK if arguments.quick else (*FULL, *TRANSPORT) if arguments.only else FULL
        )
        if not arguments.only or scenario.name in arguments.only
    ]
    if shutil.which("go") is None:
        scenarios = [scenario for scenario in scenarios if scenario.server == "standin"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = start_up(folder)
        pages = (
            {}
            if arguments.only
            else listing(
                LISTED_QUICK if arguments.quick else LISTED,
                arguments.rounds or (1 if arguments.quick else 3),
                folder,
            )
        )
        figures = Figures({}, pages, start)
        for scenario in scenarios:
            figures.results[scenario.name] = compared(scenario, folder)
            if not (arguments.quick or arguments.only):
                written(DOCS / "performance.md", figures)
                (DOCS / "performance.svg").write_text(drawn(figures.results), "utf-8")
    print(rendered(figures))
    if arguments.quick:
        print("The aims speak of 10,000 sources; with fewer of them start-up weighs more.")


if __name__ == "__main__":
    main()
