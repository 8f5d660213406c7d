"""Layouts: how the keys of sources and outputs are parsed, and how an output is named.

Source and output patterns never overlap. A key that could be parsed in two ways is not parsed at
all, so its object is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from typing_extensions import override

from coalesce.errors import UsageError
from coalesce.model import Codec, ExistingOutput, GroupId, ObjectInfo, Records, Source
from coalesce.naming.sources import offsets_of

# Kafka's legal topic characters (org.apache.kafka.common.internals.Topic).
_TOPIC = r"[a-zA-Z0-9._-]+"

# Kafka's offsets are signed 64-bit numbers; a larger number in a name is not an offset.
_OFFSET_LIMIT = 2**63


class ParsedKey(NamedTuple):
    """What one key says.

    `first` and `last` are offsets. `tail` is the topic, partition and offset that end a manifest's
    name, as written; empty in other layouts.
    """

    kind: Literal["source", "output"]
    group: GroupId
    first: int
    last: int
    tail: str = ""


class Layout(Protocol):
    """How one kind of data names its objects, and what their bytes are.

    Attributes:
        name: As in `--layout`.
        example: What a source is called, in words.
        output_example: What an output is called, in words.
        codecs: Every codec that its objects may have.
        records: What the content of its objects is made of.
        comparable_offsets: Whether the two offsets of a name belong to one topic-partition.
    """

    name: str
    example: str
    output_example: str
    codecs: tuple[Codec, ...]
    records: Records
    comparable_offsets: bool

    def parse(self, key: str) -> ParsedKey | None:
        """Parses the key of a source or an output.

        Returns None for a key that is neither, or that could be parsed in two ways.
        """
        ...

    def codec(self, group: GroupId) -> Codec:
        """How the sources and outputs of a group are stored."""
        ...

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        """Names the output of consecutive sources of a group.

        Args:
            group: The group of the sources.
            sources: At least one source, by offset.
            taken: Keys that are in use. Leading zeros on the last offset make a new name.
        """
        ...


class Corporate(Layout):
    r"""`<dir>/<topic>_<partition>_<first>-<last>.jsonl.gz` becomes
    `<dir>/<topic>_<partition>_<first>_<last>.jsonl.gz`.

    Readers filter by `_\d+_\d+[-_](\d+|uuid)\.jsonl\.gz$` and pick the codec by the suffix, so
    outputs must end as sources do. An output is named by the smallest first and the largest last
    offset of its sources.
    """

    name = "corporate"
    example = "<topic>_<partition>_<first>-<last>.jsonl.gz"
    output_example = "<topic>_<partition>_<first>_<last>.jsonl.gz"
    codecs = (Codec.GZIP,)
    records = Records.LINES
    comparable_offsets = True
    _pattern = re.compile(
        rf"(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)(?P<sep>[-_])(?P<last>\d+)\.jsonl\.gz",
        re.ASCII,
    )

    @override
    def parse(self, key: str) -> ParsedKey | None:
        directory, base = _split(key)
        match = self._pattern.fullmatch(base)
        if match is None:
            return None
        topic, partition, first, separator, last = match.groups()
        return _interpret(separator, directory, topic, partition, int(first), int(last), "")

    @override
    def codec(self, group: GroupId) -> Codec:
        return Codec.GZIP

    @override
    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        last = max(last for _, last in offsets_of(sources))
        return _find_free_key(f"{group.prefix}{sources[0].first}_", str(last), ".jsonl.gz", taken)


class Manifest(Layout):
    """`<dir>/<topic>_<p>_<offset>-<topic>_<p>_<offset>.txt` becomes
    `<dir>/<topic>_<p>_<offset>_<topic>_<p>_<offset>.txt`.

    The first topic and partition make the group. The two offsets may belong to different
    topic-partitions, so they are not comparable. An output is named by the first offset of its
    first source and the tail of its last source.
    """

    name = "manifest"
    example = "<topic>_<partition>_<offset>-<topic>_<partition>_<offset>.txt"
    output_example = "<topic>_<partition>_<offset>_<topic>_<partition>_<offset>.txt"
    codecs = (Codec.PLAIN,)
    records = Records.LINES
    comparable_offsets = False
    _pattern = re.compile(
        rf"(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)(?P<sep>[-_])"
        rf"(?P<tail>(?P<topic2>{_TOPIC})_(?P<partition2>\d+)_(?P<last>\d+))\.txt",
        re.ASCII,
    )
    _joint = re.compile(r"(?=_\d+_\d+[-_][a-zA-Z0-9._-])", re.ASCII)

    @override
    def parse(self, key: str) -> ParsedKey | None:
        directory, base = _split(key)
        match = self._pattern.fullmatch(base)
        if match is None or len(self._joint.findall(base)) != 1:
            return None
        topic, partition, first, separator, tail, _, _, last = match.groups()
        return _interpret(separator, directory, topic, partition, int(first), int(last), tail)

    @override
    def codec(self, group: GroupId) -> Codec:
        return Codec.PLAIN

    @override
    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        head, _, last = sources[-1].tail.rpartition("_")
        return _find_free_key(f"{group.prefix}{sources[0].first}_{head}_", last, ".txt", taken)


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (Corporate(), Manifest())}


def layout(name: str) -> Layout:
    """Returns the layout of that name. Raises UsageError if there is none."""
    try:
        return LAYOUTS[name]
    except KeyError:
        raise UsageError(
            f"unknown layout {name!r}", hint=f"Known layouts: {', '.join(LAYOUTS)}."
        ) from None


def codec_of(layout: Layout, key: str) -> Codec:
    """Returns how a source or an output is stored. Raises ValueError for a key that is neither."""
    parsed = layout.parse(key)
    if parsed is None:
        raise ValueError(f"{key!r} is neither a source nor an output")
    return layout.codec(parsed.group)


def source_of(parsed: ParsedKey, entry: ObjectInfo) -> Source:
    """Returns a listed object as a source, with the offsets in its key."""
    return Source(
        entry.key,
        entry.size,
        entry.etag,
        entry.modified,
        entry.storage_class,
        parsed.first,
        parsed.last,
        parsed.tail,
    )


def output_of(parsed: ParsedKey, entry: ObjectInfo) -> ExistingOutput:
    """Returns a listed object as an output, with the offsets in its key."""
    return ExistingOutput(entry.key, entry.size, parsed.first, parsed.last)


def _split(key: str) -> tuple[str, str]:
    """Splits a key into its directory, with the slash, and its last segment."""
    at = key.rfind("/") + 1
    return key[:at], key[at:]


def _interpret(
    separator: str, directory: str, topic: str, partition: str, first: int, last: int, tail: str
) -> ParsedKey | None:
    """Returns what the matched parts of a key mean, or None if its numbers are out of bounds."""
    group = _group_id(directory, topic, partition)
    if group is None or first >= _OFFSET_LIMIT or last >= _OFFSET_LIMIT:
        return None
    return ParsedKey("source" if separator == "-" else "output", group, first, last, tail)


@lru_cache(4096)
def _group_id(directory: str, topic: str, partition: str) -> GroupId | None:
    """Returns None if the number does not lead back to the key: `07` is not partition 7."""
    return GroupId(directory, topic, int(partition)) if partition == str(int(partition)) else None


def _find_free_key(stem: str, last: str, suffix: str, taken: Container[str]) -> str:
    key = f"{stem}{last}{suffix}"
    while key in taken:
        last = f"0{last}"
        key = f"{stem}{last}{suffix}"
    return key
