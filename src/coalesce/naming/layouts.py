"""Keys and what they say: a layout parses the key of a source or an output, and formats the key of
an output.

A key that could be read both ways, or in two ways, is read in none: it is left alone. So source and
output patterns never overlap.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from coalesce.errors import UsageError
from coalesce.model import ExistingOutput, GroupId, ObjectInfo, Source

# Kafka's legal topic characters (org.apache.kafka.common.internals.Topic).
_TOPIC = r"[a-zA-Z0-9._-]+"

# Kafka's offsets are signed numbers of 64 bits; a name with larger ones means something else.
_OFFSETS = 2**63


class Named(NamedTuple):
    """What one key says.

    `tail` is a manifest's last topic-partition-offset as written, empty elsewhere.
    """

    kind: Literal["source", "output"]
    group: GroupId
    first: int
    last: int
    tail: str = ""


class Layout(Protocol):
    """How one kind of data names its objects, and what their bytes are."""

    name: str
    gzip: bool
    comparable_offsets: bool

    def parse(self, key: str) -> Named | None:
        """What the key says, or None if it is neither a source nor an output of this layout, or not
        clearly one.
        """
        ...

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        """The key of the output of these ordered sources; a taken name gets leading zeros on its
        last offset.
        """
        ...


class Corporate:
    r"""`<dir>/<topic>_<partition>_<first>-<last>.jsonl.gz` becomes
    `<dir>/<topic>_<partition>_<first>_<last>.jsonl.gz`.

    The readers' filter is `_\d+_\d+[-_](\d+|uuid)\.jsonl\.gz$`, and they pick the codec by the
    suffix: outputs must end as sources do.
    """

    name = "corporate"
    gzip = True
    comparable_offsets = True
    _pattern = re.compile(
        rf"(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)(?P<sep>[-_])(?P<last>\d+)\.jsonl\.gz",
        re.ASCII,
    )

    def parse(self, key: str) -> Named | None:
        """See `Layout.parse`."""
        directory, base = _split(key)
        match = self._pattern.fullmatch(base)
        if match is None:
            return None
        topic, partition, first, separator, last = match.groups()
        return _named(separator, directory, topic, partition, int(first), int(last), "")

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        """See `Layout.output_key`. Smallest first and largest last offset."""
        last = max(source.last for source in sources)
        return _untaken(f"{group.prefix}{sources[0].first}_", str(last), ".jsonl.gz", taken)


class Manifest:
    """`<dir>/<topic>_<p>_<offset>-<topic>_<p>_<offset>.txt` becomes
    `<dir>/<topic>_<p>_<offset>_<topic>_<p>_<offset>.txt`.

    The group is the first topic and partition. The two offsets may belong to different
    topic-partitions, so they are not comparable.
    """

    name = "manifest"
    gzip = False
    comparable_offsets = False
    _pattern = re.compile(
        rf"(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)(?P<sep>[-_])"
        rf"(?P<tail>(?P<topic2>{_TOPIC})_(?P<partition2>\d+)_(?P<last>\d+))\.txt",
        re.ASCII,
    )
    _joint = re.compile(r"(?=_\d+_\d+[-_][a-zA-Z0-9._-])", re.ASCII)

    def parse(self, key: str) -> Named | None:
        """See `Layout.parse`."""
        directory, base = _split(key)
        match = self._pattern.fullmatch(base)
        if match is None or len(self._joint.findall(base)) != 1:
            return None
        topic, partition, first, separator, tail, _, _, last = match.groups()
        return _named(separator, directory, topic, partition, int(first), int(last), tail)

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        """See `Layout.output_key`. First of the first and tail of the last source in order."""
        head, _, last = sources[-1].tail.rpartition("_")
        return _untaken(f"{group.prefix}{sources[0].first}_{head}_", last, ".txt", taken)


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (Corporate(), Manifest())}


def layout(name: str) -> Layout:
    """The layout of that name. Raises UsageError."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UsageError(
            f"unknown layout {name!r}", hint=f"Known layouts: {', '.join(LAYOUTS)}."
        ) from None


def source_of(named: Named, entry: ObjectInfo) -> Source:
    """The source that a listing entry is, by what its key says."""
    return Source(
        entry.key,
        entry.size,
        entry.etag,
        entry.modified,
        entry.storage_class,
        named.first,
        named.last,
        named.tail,
    )


def output_of(named: Named, entry: ObjectInfo) -> ExistingOutput:
    """The output that a listing entry is, by what its key says."""
    return ExistingOutput(entry.key, entry.size, named.first, named.last)


def _split(key: str) -> tuple[str, str]:
    cut = key.rfind("/") + 1
    return key[:cut], key[cut:]


def _named(
    separator: str, directory: str, topic: str, partition: str, first: int, last: int, tail: str
) -> Named | None:
    group = _group(directory, topic, partition)
    if group is None or first >= _OFFSETS or last >= _OFFSETS:
        return None
    return Named("source" if separator == "-" else "output", group, first, last, tail)


@lru_cache(4096)
def _group(directory: str, topic: str, partition: str) -> GroupId | None:
    """None where the group's prefix could not be rebuilt from the number: `07` is not partition
    7's.
    """
    return GroupId(directory, topic, int(partition)) if partition == str(int(partition)) else None


def _untaken(stem: str, last: str, suffix: str, taken: Container[str]) -> str:
    key = f"{stem}{last}{suffix}"
    while key in taken:
        last = f"0{last}"
        key = f"{stem}{last}{suffix}"
    return key
