"""Where sources went, by the ledger: found by their keys or by an offset.

The keys of entries begin with those of their outputs, which name directory, topic, partition and
offsets. So the entries that may know of a source are found by one listing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.naming.layouts import LAYOUTS, Layout, ParsedKey
from coalesce.protocol.entry_reader import (
    Entry,
    FoundEntry,
    SourceLine,
    entries_under,
    open_entry,
)
from coalesce.storage.base import ObjectStore

OnFailure = Callable[[CoalesceError], None]


class Whereabouts(NamedTuple):
    """A source in the entry of an output: its `number` there, from 1, and its line."""

    entry: Entry
    number: int
    line: SourceLine


class Offset(NamedTuple):
    """One offset of a topic-partition."""

    topic: str
    partition: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Offset:
        """Returns the offset that `TOPIC:PARTITION:OFFSET` means. Raises ValueError."""
        topic, _, rest = text.partition(":")
        partition, _, number = rest.partition(":")
        if not topic or not all(n.isascii() and n.isdecimal() for n in (partition, number)):
            raise ValueError("write TOPIC:PARTITION:OFFSET")
        return cls(topic, int(partition), int(number))

    def lies_in(self, named: ParsedKey) -> bool:
        """Whether a source or output of that name holds it, if it holds all that its name says."""
        group = named.group
        return (group.topic, group.partition) == (self.topic, self.partition) and (
            named.first <= self.number <= named.last
        )


def names_of(key: str) -> Iterator[tuple[Layout, ParsedKey]]:
    """Yields what a key means in each layout that it fits."""
    for layout in LAYOUTS.values():
        if named := layout.parse(key):
            yield layout, named


async def find_source(
    store: ObjectStore, state: str, key: str, on_failure: OnFailure
) -> AsyncIterator[Whereabouts]:
    """Yields where a source is, once for each entry that names it.

    It takes one listing of its group's entries, and one request for each that may hold its offsets:
    usually one. An entry that cannot be read goes to `on_failure`. Raises StorageError if the
    listing fails.
    """
    for layout, named in names_of(key):
        async for found in entries_under(store, state, named.group.prefix):
            output = layout.parse(found.output)
            if output is None or not may_hold(layout, output, named):
                continue
            async for each in _search(store, state, found, _named(key), on_failure):
                yield each


async def find_offset(
    store: ObjectStore, state: str, prefix: str, offset: Offset, on_failure: OnFailure
) -> AsyncIterator[Whereabouts]:
    """Yields which sources under a prefix held an offset, and where they are.

    It takes one listing of the prefix's entries, and one request for each output whose name says
    that it holds the offset. Layouts whose names do not say which offsets they hold have no part in
    it. Otherwise as `find_source`.
    """
    async for found in entries_under(store, state, prefix):
        for layout, output in names_of(found.output):
            if layout.comparable_offsets and offset.lies_in(output):
                holds = _holds(layout, offset)
                async for each in _search(store, state, found, holds, on_failure):
                    yield each


def may_hold(layout: Layout, output: ParsedKey, source: ParsedKey) -> bool:
    """Whether an output may have been made of this source, by their names."""
    return (
        output.kind == "output"
        and output.group == source.group
        and output.first <= source.first
        and (not layout.comparable_offsets or source.last <= output.last)
    )


def _named(key: str) -> Callable[[SourceLine], bool]:
    return lambda line: line.key == key


def _holds(layout: Layout, offset: Offset) -> Callable[[SourceLine], bool]:
    def holds(line: SourceLine) -> bool:
        named = layout.parse(line.key)
        return named is not None and offset.lies_in(named)

    return holds


async def _search(
    store: ObjectStore,
    state: str,
    found: FoundEntry,
    wanted: Callable[[SourceLine], bool],
    on_failure: OnFailure,
) -> AsyncIterator[Whereabouts]:
    """Yields the wanted sources of one entry, which is read to its end first: before that it is not
    believed.
    """
    lines: list[tuple[int, SourceLine]] = []
    try:
        entry = await open_entry(store, state, found)
        number = 0
        async for line in entry.sources():
            number += 1
            if wanted(line):
                lines.append((number, line))
    except ConfigurationError:
        raise
    except CoalesceError as error:
        on_failure(error)
        return
    for number, line in lines:
        yield Whereabouts(entry, number, line)
