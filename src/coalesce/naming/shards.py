"""Shards: which of N processes owns a key, by a stable hash or by its share of a saved plan."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A listing is never split below a prefix that ends like this: it may be a group.
_FIRST_GROUP = re.compile(r"_\d+_", re.ASCII)
_MAY_BE_GROUP = re.compile(r"_\d+_$", re.ASCII)


def share_of(key: str) -> str:
    """Returns the text whose hash decides which shard owns a key.

    That is the key up to the first `_<number>` of its last segment, otherwise the whole key:
    normally its group, `<directory><topic>_<partition>`. A topic that itself contains `_<number>_`
    shares the shard of the shorter name, so everything below one prefix of a split listing belongs
    to one shard, which alone lists it.
    """
    begin = key.rfind("/") + 1
    match = _FIRST_GROUP.search(key, begin)
    return key[: match.end() - 1] if match else key


def may_be_group(prefix: str) -> bool:
    """Whether a prefix ends like a group's, and is not split any further."""
    return _MAY_BE_GROUP.search(prefix) is not None


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares of the groups.

    Attributes:
        index: From 0 to `count` - 1.
        plan: SHA-256 of the saved plan that is shared out; empty if the keys' hashes decide.
    """

    index: int = 0
    count: int = 1
    plan: str = ""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parses `I/N`. Raises ValueError."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError(
                f"{text!r} is not a shard; write I/N with I from 0 to N-1, such as 0/4"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, key: str, share_of: Callable[[str], str] = share_of) -> bool:
        """Whether this shard owns a key, and so the key's whole group.

        The rule never changes: BLAKE2b-64 of `share_of(key)`, as a big-endian number, modulo
        `count`. Layouts have a `share_of` of their own.
        """
        if self.count == 1:
            return True
        digest = hashlib.blake2b(share_of(key).encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.index

    def may_own(self, key: str, share_of: Callable[[str], str] = share_of) -> bool:
        """Returns whether a key is this shard's, or was listed by it.

        A split listing that meets a directory such as `x_1_y/` hands it whole to the shard of
        `x_1`, whatever the names in it say.
        """
        if self.owns(key, share_of):
            return True
        match = _FIRST_GROUP.search(key)
        return match is not None and self.owns(key[: match.end()])

    def meets(self, other: Shard) -> bool:
        """Whether a key may be owned by both shards.

        Different shares of one plan never meet. Hashed shards meet unless they differ modulo a
        common divisor of their counts.
        """
        if self.plan != other.plan:
            return True
        if self.plan:
            return self.count != other.count or self.index == other.index
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


WHOLE = Shard()


def balance(work: Sequence[float], count: int) -> list[int]:
    """Distributes pieces of work over `count` shares.

    The largest piece goes first, each to the share with the least work so far; the same work always
    gives the same result.

    Returns:
        For each piece of work, the index of its share.
    """
    loads = [0.0] * count
    shares = [0] * len(work)
    for at in sorted(range(len(work)), key=lambda at: (-work[at], at)):
        shares[at] = min(range(count), key=lambda share: (loads[share], share))
        loads[shares[at]] += work[at]
    return shares
