"""Writes the tables of docs/scale.md from the model: `make docs`. A test holds them current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.markdown import between, dollars, duration
from bench.markdown import size as in_words
from bench.model import Estimate, estimate
from coalesce.planning.forecast import work_seconds

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
SIZE = 100_000
COUNTS = (10**6, 10**7, 10**8, 10**9)
VCPUS = (1, 4, 16, 64, 256)
_COUNTED = ("ListObjectsV2", "GetObject", "DeleteObjects")


def tables() -> str:
    """All tables of the page."""
    return "\n".join([*_needs(), "", *_times(), "", *_sizes()])


def written(text: str) -> str:
    """The page with the tables of now."""
    return between(text, tables())


def _of(objects: int, vcpus: int = 1, size: int = SIZE, prefixes: int = 1) -> Estimate:
    return estimate(objects, size, vcpus, work_seconds(1, size), prefixes)


def _needs() -> Iterator[str]:
    yield f"What objects of {SIZE // 1000} KB take, whatever the number of shards:"
    yield ""
    yield (
        "| objects | outputs | listings | GETs | DeleteObjects | other requests | "
        "price of requests | vCPU hours |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|"
    for objects in COUNTS:
        found = _of(objects)
        counted = [found.requests[name] for name in _COUNTED]
        others = sum(found.requests.values()) - sum(counted)
        cells = [f"{n:,}" for n in (objects, found.outputs, *counted, others)]
        cells += [dollars(found.request_usd), f"{found.cpu_seconds / 3600:,.1f}"]
        yield f"| {' | '.join(cells)} |"


def _times() -> Iterator[str]:
    yield "How long that takes with N shards of one vCPU each, with all keys in one prefix of S3's:"
    yield ""
    shards = " | ".join(f"N = {n}" for n in VCPUS)
    yield f"| objects | {shards} | the least that S3 allows | the same, 16 prefixes |"
    yield f"|---:|{'---:|' * (len(VCPUS) + 2)}"
    for objects in COUNTS:
        cells = [f"{objects:,}"]
        for vcpus in VCPUS:
            found = _of(objects, vcpus)
            bound = "\\*" if found.store_seconds > found.work_seconds else ""
            cells.append(f"{duration(found.seconds)}{bound}")
        cells += [duration(_of(objects, prefixes=n).store_seconds) for n in (1, 16)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "\\* S3's limit decides: more shards change nothing until S3 has split the keys."


def _sizes() -> Iterator[str]:
    yield "What 1,000,000 objects take by their size, on one vCPU:"
    yield ""
    yield "| size | time | price of requests | of compute | together |"
    yield "|---:|---:|---:|---:|---:|"
    for size in (1_000, 10_000, 100_000, 1_000_000):
        found = _of(10**6, size=size)
        both = found.request_usd + found.compute_usd
        cells = [in_words(size), duration(found.seconds)]
        cells += [dollars(usd) for usd in (found.request_usd, found.compute_usd, both)]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
