"""Layouts: how the keys of sources and outputs are parsed, and how an output is named.

Source and output patterns never overlap. A key that could be parsed in two ways is not parsed at
all, so its object is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from typing_extensions import override

from coalesce.errors import UsageError
from coalesce.model import Codec, GroupId, ObjectInfo, Source
from coalesce.naming import shards
from coalesce.naming.layout_data import Kind, LayoutData
from coalesce.naming.linear import Pattern, compile_linear
from coalesce.naming.patterns import Template, split_directory, sub_patterns
from coalesce.naming.presets import PRESETS
from coalesce.naming.sources import offsets_of

# Kafka's offsets are signed 64-bit numbers; a larger number in a name is not an offset.
_OFFSET_LIMIT = 2**63

# Groups that are remembered by what their keys say, for each of both kinds of keys.
_REMEMBERED = 4096

# The bytes of a text that a number below 2**63 can stand for.
_TEXT_BYTES = 7

_ANY_DIRECTORY = ("(?:.*/)?", ".*")

_ENDINGS = {".gz": Codec.GZIP, ".zst": Codec.ZSTD, ".bz2": Codec.BZIP2}


class ParsedKey(NamedTuple):
    """What one key says.

    `first` and `last` are offsets, or what else orders sources. `tail` is the topic, partition and
    offset that end a manifest's name, as written; empty in other layouts.
    """

    kind: Literal["source", "output"]
    group: GroupId
    first: int
    last: int
    tail: str = ""


class _Names:
    """How the names of sources, or of outputs, are read.

    Attributes:
        match: Matches the whole of a name.
        fields: Takes the fields of the group out of a match.
        first: Takes out the field that becomes `ParsedKey.first`, and `last` the other.
        tail: The field that becomes `ParsedKey.tail`, if there is one.
        groups: Groups by their directory and fields; None for those that are left alone.
    """

    def __init__(
        self,
        match: Callable[[str], Any],
        fields: Sequence[str],
        first: tuple[str, Callable[[str], int]],
        last: tuple[str, Callable[[str], int]],
        tail: str,
    ) -> None:
        self.match = match
        self.fields: Callable[[Any], object] = itemgetter(*fields) if fields else lambda _: ()
        self.first_field, self.read_first = first
        self.last_field, self.read_last = last
        self.tail = tail
        self.groups: dict[tuple[str, object], GroupId | None] = {}


class Layout:
    """How one kind of data names its objects, and what their bytes are.

    Attributes:
        data: All that it says.
        name: As in `--layout`.
        codecs: Every codec that its objects may have.
        records: What the content of its objects is made of.
        offsets: What names say of offsets.
        comparable_offsets: Whether all offsets of a group count the same records.
        by_directory: Whether listings are split, and groups shared out, by whole directories.
    """

    def __init__(self, data: LayoutData) -> None:
        """Raises ValueError for an output that is no template. Patterns are compiled when they are
        needed: a command needs few of them.
        """
        self.data = data
        self.name, self.codecs, self.records = data.name, data.codecs, data.records
        self.offsets, self.comparable_offsets = data.offsets, data.comparable_offsets
        self.by_directory = not data.underscored
        self._topic = _compile(data.topic) if data.topic else None
        self._once = _compile(data.once) if data.once else None
        self._whole = _compile(data.whole) if data.whole else None
        self._template = Template.of(data.output)
        self._group_fields = tuple(field for field in data.group if field != "dir")

    @cached_property
    def _directory(self) -> Pattern | None:
        """What the directory of a key must match, None if any does."""
        directory, _ = split_directory(self.data.source)
        return None if directory in _ANY_DIRECTORY else self._compile(directory)

    @cached_property
    def _sources(self) -> _Names:
        data = self.data
        _, source = split_directory(data.source)
        first, last = _readers(data.order)
        return _Names(
            self._compile(source).fullmatch,
            self._group_fields,
            (data.order[0][0], first),
            (data.order[-1][0], last),
            data.tail,
        )

    @cached_property
    def _outputs(self) -> _Names:
        data = self.data
        output = self._template.pattern(sub_patterns(data.source))
        first, last = _readers(data.order)
        begin, end = data.order[0][0], data.order[-1][0]
        ends = {f"max__{end}": last, f"last__{end}": last, f"last__{begin}": first}
        return _Names(
            self._compile(output).fullmatch,
            self._group_fields,
            (f"first__{begin}", first),
            next(item for item in ends.items() if item[0] in sub_patterns(output)),
            f"last__{data.tail}" if data.tail else "",
        )

    def _compile(self, pattern: str) -> Pattern:
        return compile_linear(pattern) if self.data.own else _compile(pattern)

    @override
    def __reduce__(self) -> tuple[object, ...]:
        """Pickles what it says: a compiled pattern need not be picklable."""
        return Layout, (self.data,)

    def parse(self, key: str) -> ParsedKey | None:
        """Parses the key of a source or an output.

        Returns None for a key that is neither, or that could be parsed in two ways.
        """
        at = key.rfind("/") + 1 if self._whole is None else self._cut(key)
        base, names = key[at:], self._sources
        match = names.match(base)
        if match is None:
            names = self._outputs
            match = names.match(base)
            if match is None:
                return None
        elif self.data.own and not self._is_clear(match, base):
            return None
        if self._once is not None and len(self._once.findall(base)) != 1:
            return None
        known = key[:at], names.fields(match)
        try:
            group = names.groups[known]
        except KeyError:
            group = self._remember(names, known, match)
        if group is None:
            return None
        first = names.read_first(match[names.first_field])
        last = names.read_last(match[names.last_field])
        if first >= _OFFSET_LIMIT or last >= _OFFSET_LIMIT:
            return None
        kind: Literal["source", "output"] = "source" if names is self._sources else "output"
        return ParsedKey(kind, group, first, last, match[names.tail] if names.tail else "")

    def _is_clear(self, match: Any, base: str) -> bool:
        """Whether a source of a user's layout has all that orders it, and is no output's name."""
        fields = self._sources.first_field, self._sources.last_field
        return None not in map(match.group, fields) and self._outputs.match(base) is None

    def names_source(self, key: str) -> bool:
        """Whether a key is a source's by its name, whatever its output would be called."""
        return self._sources.match(key[self._cut(key) :]) is not None

    def tells_apart(self, said: Mapping[str, str]) -> bool:
        """Whether the output of a source with these fields is told from a source, and leads back to
        the fields of the group.
        """
        output = self.spell(said)
        found = self._outputs.match(output)
        return (
            found is not None
            and all((found[field] or "") == said[field] for field in self._group_fields)
            and self._sources.match(output) is None
        )

    def spell(self, said: Mapping[str, str]) -> str:
        """Returns the name, without its directory, of the output of a source with these fields."""
        return "".join(
            part if isinstance(part, str) else said[part.field] for part in self._template.parts
        )

    def prepare(self) -> None:
        """Compiles all patterns. Raises ValueError for one that cannot be."""
        _ = self._directory, self._sources, self._outputs

    def codec(self, group: GroupId) -> Codec:
        """How the sources and outputs of a group are stored."""
        if len(self.codecs) == 1:
            return self.codecs[0]
        _, dot, ending = group.names.rpartition(".")
        return _ENDINGS.get(dot + ending, Codec.PLAIN)

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        """Names the output of consecutive sources of a group.

        Args:
            group: The group of the sources.
            sources: At least one source, by offset.
            taken: Keys that are in use. Leading zeros on the last offset make a new name.
        """
        begin, end = self._said(group, sources[0]), self._said(group, sources[-1])
        texts: list[str] = []
        at = 0
        for place, part in enumerate(self._template.parts):
            if isinstance(part, str):
                texts.append(part)
                continue
            at = place if part.end else at
            if part.end == "max":
                texts.append(str(max(last for _, last in offsets_of(sources))))
            else:
                texts.append((end if part.end == "last" else begin)[part.field])
        head, separator, last = texts[at].rpartition("_")
        stem = f"{group.directory}{''.join(texts[:at])}{head}{separator}"
        return _find_free_key(stem, last, "".join(texts[at + 1 :]), taken)

    def share_of(self, key: str) -> str:
        """Returns the text whose hash decides which shard owns a key: the same for all keys of a
        group, and for the group's name.
        """
        return key[: self._cut(key)] if self.by_directory else shards.share_of(key)

    def may_be_group(self, prefix: str) -> bool:
        """Whether a group may begin with the whole of a prefix: it is not split any further."""
        if self._whole is not None:
            return self._whole.fullmatch(prefix) is not None
        return not self.by_directory and shards.may_be_group(prefix)

    def _cut(self, key: str) -> int:
        """Where the directory of a key's group ends."""
        match = self._whole.match(key) if self._whole is not None else None
        return match.end() if match is not None else key.rfind("/") + 1

    def _remember(self, names: _Names, known: tuple[str, object], match: Any) -> GroupId | None:
        if len(names.groups) >= _REMEMBERED:
            names.groups.clear()
        group = names.groups[known] = self._group(names, known[0], match)
        return group

    def _group(self, names: _Names, directory: str, match: Any) -> GroupId | None:
        """Returns the group that a key names; None if it does not lead back to the key."""
        said: Mapping[str, str] = match.groupdict("")
        if not self.by_directory:
            return _numbered_group(directory, said["topic"], said["partition"])
        if self._directory is not None and self._directory.fullmatch(directory) is None:
            return None
        values = {field: said[field] for field in self._group_fields}
        if any("*" in text for text in values.values()):
            return None
        if names is self._sources and not self.tells_apart(match.groupdict("")):
            return None
        called = self._template.names(values)
        topic = said.get("topic", "")
        if self._topic is not None and (found := self._topic.search(directory)) is not None:
            topic = found[1]
        number = said.get("partition", "")
        partition = int(number) if number.isascii() and number.isdigit() else -1
        return GroupId(directory, topic or called, partition, called)

    def _said(self, group: GroupId, source: Source) -> Mapping[str, str]:
        """What the key of a source says; a number that makes a range is written without zeros."""
        if not self.by_directory:
            return {
                "topic": group.topic,
                "partition": str(group.partition),
                self.data.order[0][0]: str(source.first),
                self.data.tail: source.tail,
            }
        match = self._sources.match(source.key[len(group.directory) :])
        said: Mapping[str, str] = match.groupdict("")
        return said


def codec_of(layout: Layout, key: str) -> Codec:
    """Returns how a source or an output is stored. Raises ValueError for a key that is neither."""
    parsed = layout.parse(key)
    if parsed is None:
        raise ValueError(f"{key!r} is neither a source nor an output")
    return layout.codec(parsed.group)


def source_of(parsed: ParsedKey, entry: ObjectInfo) -> Source:
    """Returns a listed source or output, with the offsets in its key."""
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


def _compile(pattern: str) -> re.Pattern[str]:
    """Digits of other scripts are no numbers."""
    return re.compile(pattern, re.ASCII)


def _readers(
    order: Sequence[tuple[str, Kind]],
) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """Returns what makes the two numbers that order a source of its fields.

    One text that is to order alone has more room: both numbers.
    """
    readers: dict[Kind, Callable[[str], int]] = {
        Kind.NUMBER: int,
        Kind.TIME: _read_time,
        Kind.TEXT: _read_text,
    }
    first, last = readers[order[0][1]], readers[order[-1][1]]
    return first, _read_more_text if len(order) == 1 and first is _read_text else last


def _read_time(text: str) -> int:
    """A time by its first 18 digits: years, and what follows, as far as tenths of milliseconds."""
    return int("".join(filter(str.isdigit, text))[:18].ljust(18, "0"))


def _read_text(text: str) -> int:
    return int.from_bytes(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0"))


def _read_more_text(text: str) -> int:
    return int.from_bytes(text.encode()[_TEXT_BYTES : 2 * _TEXT_BYTES].ljust(_TEXT_BYTES, b"\0"))


def _numbered_group(directory: str, topic: str, partition: str) -> GroupId | None:
    """Returns None if the number does not lead back to the key: `07` is not partition 7."""
    return GroupId(directory, topic, int(partition)) if partition == str(int(partition)) else None


def _find_free_key(stem: str, last: str, suffix: str, taken: Container[str]) -> str:
    key = f"{stem}{last}{suffix}"
    while key in taken:
        last = f"0{last}"
        key = f"{stem}{last}{suffix}"
    return key


LAYOUTS: dict[str, Layout] = {data.name: Layout(data) for data in PRESETS}


def layout(name: str, known: Mapping[str, Layout] = LAYOUTS) -> Layout:
    """Returns the layout of that name. Raises UsageError if there is none."""
    try:
        return known[name]
    except KeyError:
        raise UsageError(
            f"unknown layout {name!r}", hint=f"Known layouts: {', '.join(known)}."
        ) from None
