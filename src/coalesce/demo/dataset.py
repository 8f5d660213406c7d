"""Realistic data of the kind this program joins: the same for the same seed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# Bytes of a JSON record beside its payload.
_ENVELOPE_BYTES = 120


@dataclass(frozen=True, slots=True)
class Shape:
    """What a data set is like: `objects` in all, spread evenly over days, topics and partitions.

    `days` are directories under the prefix, such as `2026/11/22/`. `records` and `record_bytes` are
    those of each object and of each record. `gaps`, `overlaps` and `spoilt` are shares of the
    objects, from 0 to 1: behind a gap in the offsets, overlapping the one before, cut short.
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


class _TopicPartition(NamedTuple):
    """One partition of one topic, on one day."""

    day: str
    topic: int
    partition: int


def generate_objects(shape: Shape) -> Iterator[tuple[str, bytes]]:
    """Makes the objects of a data set, one at a time: (key, body).

    Every record is unique over the whole set.
    """
    rng = random.Random(shape.seed)
    topic_partitions = [
        _TopicPartition(day, topic, partition)
        for day in shape.days
        for topic in range(shape.topics)
        for partition in range(shape.partitions)
    ]
    next_offsets = dict.fromkeys(topic_partitions, 0)
    for number in range(shape.objects):
        where = topic_partitions[number % len(topic_partitions)]
        first = next_offsets[where]
        if rng.random() < shape.gaps:
            first += rng.randint(1, 50)
        if first and rng.random() < shape.overlaps:
            first -= 1
        last = first + shape.records - 1
        next_offsets[where] = last + 1
        if shape.layout == "manifest":
            key, body = _make_manifest(shape, where, number, first, last)
        else:
            key, body = _make_corporate(shape, where, number, first, last, rng)
        if shape.spoilt and rng.random() < shape.spoilt:
            body = body[: len(body) * 2 // 3]
        yield key, body


def _make_corporate(
    shape: Shape, where: _TopicPartition, number: int, first: int, last: int, rng: random.Random
) -> tuple[str, bytes]:
    """Gzipped JSON lines."""
    payload_bytes = shape.record_bytes - _ENVELOPE_BYTES
    lines = []
    for offset in range(first, last + 1):
        payload = rng.randbytes(max(1, payload_bytes * 3 // 4)).hex()[: max(1, payload_bytes)]
        record = {
            "traceId": f"{shape.seed}-{number}-{offset}",
            "message": {"dbObject": payload, "partition": where.partition, "offset": offset},
        }
        lines.append(f"{json.dumps(record)}\n")
    directory = f"{shape.prefix}{where.day}database/collection_{where.topic}/"
    name = f"db.database.collection-{where.topic}_{where.partition}_{first}-{last}.jsonl.gz"
    return f"{directory}{name}", gzip.compress("".join(lines).encode(), 1, mtime=0)


def _make_manifest(
    shape: Shape, where: _TopicPartition, number: int, first: int, last: int
) -> tuple[str, bytes]:
    """Plain lines of fields between bars."""
    rows = [
        f"{shape.seed}-{number}-{offset}|1600000000000|database|collection-{where.topic}"
        f"|STREAMED|K2HB|{number}|KAFKA_RECORD\n"
        for offset in range(first, last + 1)
    ]
    name = f"db.database.collection-{where.topic}_{where.partition}"
    key = f"{shape.prefix}{where.day}{name}_{first}-{name}_{last}.txt"
    return key, "".join(rows).encode()
