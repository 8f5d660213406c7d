"""A data set of the kind that `coalesce generate` writes, made fast: every record is unique over
the whole set.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

from isal import igzip

POOL_BYTES = 3 * 1024**2
RECORD_BYTES = 640  # what a message of the producer comes to
DEFLATED = 0.66  # what gzip leaves of such text, and of the little around it
READ_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Fill:
    """Objects of about so many bytes each, gzip included, dealt out to groups (topic-partitions) in
    turn.
    """

    objects: int = 10_000
    bytes: int = 100_000
    groups: int = 4
    prefix: str = "data/"

    @property
    def last(self) -> int:
        """The last offset of the longest group."""
        return -(-self.objects // self.groups) * shape(self.bytes)[0] - 1

    @classmethod
    def parse(cls, text: str) -> Fill:
        """From `objects=10000,bytes=100000,groups=4,prefix=data/`. Raises ValueError."""
        words = dict(word.split("=", 1) for word in text.split(","))
        unknown = words.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: none of {', '.join(cls.__slots__)}")
        return cls(
            **{name: value if name == "prefix" else int(value) for name, value in words.items()}
        )  # type: ignore[arg-type]


def stems(fill: Fill) -> list[str]:
    """What the keys of each group begin with."""
    return [
        f"{fill.prefix}database/collection_{group % 2}/"
        f"db.database.collection-{group % 2}_{group // 2}_"
        for group in range(fill.groups)
    ]


def objects(fill: Fill) -> Iterator[tuple[str, bytes]]:
    """(key, body) of every object. Payloads are what encrypted ones are: base64 of random bytes."""
    chance = random.Random(1)
    pool = base64.b64encode(chance.randbytes(POOL_BYTES)).decode()
    count, record_bytes = shape(fill.bytes)
    begins, offsets = stems(fill), [0] * fill.groups
    for number in range(fill.objects):
        group = number % fill.groups
        first, last = offsets[group], offsets[group] + count - 1
        offsets[group] = last + 1
        lines = []
        for offset in range(first, last + 1):
            at = chance.randrange(len(pool) - record_bytes)
            lines.append(
                f'{{"traceId":"{number}-{offset}",'
                f'"message":{{"dbObject":"{pool[at : at + record_bytes]}",'
                f'"partition":{group},"offset":{offset}}}}}\n'
            )
        yield (
            f"{begins[group]}{first}-{last}.jsonl.gz",
            igzip.compress("".join(lines).encode(), 1, mtime=0),
        )


def shape(size: int) -> tuple[int, int]:
    """Records in an object of so many bytes, and the payload of each."""
    plain = size / DEFLATED
    count = max(1, round(plain / RECORD_BYTES))
    return count, max(1, int(plain / count) - 90)


class Digest:
    """Of objects: how many, their records, and a sum of the records' hashes that depends on no
    order. Comparable within one process.
    """

    def __init__(self) -> None:
        self.objects = self.bytes = self.records = self.sum = 0

    def add(self, body: bytes | bytearray | memoryview) -> None:
        """One object more: gzip, members in a row."""
        self.objects += 1
        self.bytes += len(body)
        rest = b""
        with igzip.open(io.BytesIO(body)) as plain:
            while block := plain.read(READ_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                self._count(lines)
        if rest:
            self._count([rest])

    def _count(self, lines: list[bytes]) -> None:
        self.records += len(lines)
        self.sum = (self.sum + sum(map(hash, lines))) % 2**64

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return vars(self)
