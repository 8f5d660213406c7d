"""Writes what a backfill takes into docs/recipes.md, from the model: `make docs`. A test holds it
current.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.markdown import between, dollars, duration
from bench.model import estimate
from coalesce.planning.forecast import work_seconds
from coalesce.report.units import human_bytes

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
OBJECTS, SIZE = 3_000_000, 100_000
VCPUS = (1, 4, 16)


def written(text: str) -> str:
    """The page with the table of now."""
    return between(text, "\n".join(_table()))


def _table() -> Iterator[str]:
    yield (
        "| vCPUs | time | the same, keys in 16 prefixes of S3's | memory, all processes "
        "| price of requests | of compute | together |"
    )
    yield f"|{'---:|' * 7}"
    for vcpus in VCPUS:
        found = estimate(OBJECTS, SIZE, vcpus, work_seconds(1, SIZE))
        split = estimate(OBJECTS, SIZE, vcpus, work_seconds(1, SIZE), prefixes=16)
        both = found.request_usd + found.compute_usd
        cells = [f"{vcpus}", duration(found.seconds), duration(split.seconds)]
        cells += [human_bytes(found.memory_bytes)]
        cells += [dollars(usd) for usd in (found.request_usd, found.compute_usd, both)]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
