"""Realistic data of the kind this program joins: the same for the same seed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """What to make: objects in all, spread over days, topics and partitions; `gaps`, `overlaps` and
    `spoilt` are shares of objects (0 to 1).
    """

    prefix: str
    layout: str = "corporate"
    days: tuple[str, ...] = ("",)
    topics: int = 2
    partitions: int = 3
    objects: int = 1000
    records: int = 10
    record_bytes: int = 600
    seed: int = 1
    gaps: float = 0.0
    overlaps: float = 0.0
    spoilt: float = 0.0


def objects(shape: Shape) -> Iterator[tuple[str, bytes]]:
    """(key, body) of every object. Every record is unique over the whole set."""
    chance = random.Random(shape.seed)
    lanes = [
        (day, topic, partition)
        for day in shape.days
        for topic in range(shape.topics)
        for partition in range(shape.partitions)
    ]
    offsets = dict.fromkeys(lanes, 0)
    for n in range(shape.objects):
        lane = lanes[n % len(lanes)]
        first = offsets[lane]
        if chance.random() < shape.gaps:
            first += chance.randint(1, 50)
        if first and chance.random() < shape.overlaps:
            first -= 1
        last = first + shape.records - 1
        offsets[lane] = last + 1
        key, body = (
            _manifest(shape, lane, n, first, last)
            if shape.layout == "manifest"
            else _corporate(shape, lane, n, first, last, chance)
        )
        yield (
            key,
            body[: len(body) * 2 // 3] if shape.spoilt and chance.random() < shape.spoilt else body,
        )


def _corporate(
    shape: Shape, lane: tuple[str, int, int], n: int, first: int, last: int, chance: random.Random
) -> tuple[str, bytes]:
    day, topic, partition = lane
    lines = []
    for offset in range(first, last + 1):
        payload = chance.randbytes(max(1, (shape.record_bytes - 120) * 3 // 4)).hex()[
            : max(1, shape.record_bytes - 120)
        ]
        lines.append(
            json.dumps(
                {
                    "traceId": f"{shape.seed}-{n}-{offset}",
                    "message": {"dbObject": payload, "partition": partition, "offset": offset},
                }
            )
            + "\n"
        )
    key = f"{shape.prefix}{day}database/collection_{topic}/db.database.collection-{topic}_{partition}_{first}-{last}.jsonl.gz"
    return key, gzip.compress("".join(lines).encode(), 1, mtime=0)


def _manifest(
    shape: Shape, lane: tuple[str, int, int], n: int, first: int, last: int
) -> tuple[str, bytes]:
    day, topic, partition = lane
    rows = [
        f"{shape.seed}-{n}-{offset}|1600000000000|database|collection-{topic}|STREAMED|K2HB|{n}|KAFKA_RECORD\n"
        for offset in range(first, last + 1)
    ]
    name = f"db.database.collection-{topic}_{partition}"
    return f"{shape.prefix}{day}{name}_{first}-{name}_{last}.txt", "".join(rows).encode()
