"""Which of N processes owns what: by a stable hash of the key, or by an even cut of a written
plan.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# A listing that is split goes no further than a prefix that ends like this: it may be a group.
_FIRST_GROUP = re.compile(r"_\d+_", re.ASCII)


def share_of(key: str) -> str:
    """The text whose hash decides which shard a key belongs to: up to the first `_<number>` of its
    last segment, else all of it.

    That is the key's group, `<directory><topic>_<partition>`. A topic that itself holds a
    `_<number>_` shares with the shorter name: so whatever lies below one prefix of a split listing
    belongs to one shard, which alone lists it.
    """
    begin = key.rfind("/") + 1
    match = _FIRST_GROUP.search(key, begin)
    return key[: match.end() - 1] if match else key


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `index` (from 0) of `count`.

    `plan` is the SHA-256 of the saved plan that is shared out; empty where the keys' own hashes
    decide.
    """

    index: int = 0
    count: int = 1
    plan: str = ""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The one that `I/N` names. Raises ValueError."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(
                f"{text!r} is not a shard; write I/N with I from 0 to N-1, such as 0/4"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, key: str) -> bool:
        """Whether a key, and so its whole group, is this shard's: BLAKE2b-64 of its share as a
        big-endian number, modulo `count`. Never changes.
        """
        if self.count == 1:
            return True
        digest = hashlib.blake2b(share_of(key).encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.index

    def within(self, other: Shard) -> bool:
        """Whether all that this shard owns is the other's too."""
        if other == Shard() or self == other:
            return True
        return (
            not self.plan
            and not other.plan
            and self.count % other.count == 0
            and self.index % other.count == other.index
        )

    def meets(self, other: Shard) -> bool:
        """Whether something may be owned by both.

        Shares of one cut never meet; of numbers of shards with a common divisor, only those that
        agree on it.
        """
        if self.plan != other.plan:
            return True
        if self.plan:
            return self.count != other.count or self.index == other.index
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


WHOLE = Shard()


def balance(work: Sequence[float], count: int) -> list[int]:
    """For each piece of work the share it goes to: the largest first, each to the share with the
    least so far. The same for the same work.
    """
    loads = [0.0] * count
    shares = [0] * len(work)
    for at in sorted(range(len(work)), key=lambda at: (-work[at], at)):
        shares[at] = min(range(count), key=lambda share: (loads[share], share))
        loads[shares[at]] += work[at]
    return shares
