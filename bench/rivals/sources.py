"""What all scripts share: which keys are sources, how they are grouped, and which of them become
one output.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

OUTPUT_BYTES = 128_000_000  # the default of `coalesce --max-size`
SOURCE = re.compile(r"(?P<group>.*_\d+)_(?P<first>\d+)-(?P<last>\d+)\.jsonl\.gz")

Found = tuple[int, int, str, int]  # first offset, last offset, key, bytes


def batches(
    entries: Iterable[tuple[str, int]], limit: int = OUTPUT_BYTES
) -> Iterator[tuple[str, list[str]]]:
    """Of (key, size) pairs: an output's key and the keys of its sources, in order of offsets;
    neighbours that together stay below the limit.
    """
    groups: dict[str, list[Found]] = defaultdict(list)
    for key, size in entries:
        if match := SOURCE.fullmatch(key):
            groups[match["group"]].append((int(match["first"]), int(match["last"]), key, size))
    for group, sources in groups.items():
        batch: list[Found] = []
        total = 0
        for source in sorted(sources):
            if batch and total + source[3] > limit:
                yield _named(group, batch)
                batch, total = [], 0
            batch.append(source)
            total += source[3]
        if len(batch) > 1:
            yield _named(group, batch)


def _named(group: str, batch: list[Found]) -> tuple[str, list[str]]:
    return f"{group}_{batch[0][0]}_{batch[-1][1]}.jsonl.gz", [key for _, _, key, _ in batch]
