"""The sources of one group, packed: the listing of a million of them must fit in memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

from coalesce.model import Source

_MD5 = re.compile(r'"[0-9a-f]{32}"', re.ASCII)

# What a key says between its two offsets and behind them, and the storage class.
_Kind = tuple[str, str, str]


class _Rows:
    """A growing table: numbers, and the ETag's sixteen bytes.

    A key is put together from its numbers again; a source for which that cannot be done, or whose
    ETag is no MD5, is kept as it is.
    """

    __slots__ = (
        "etags",
        "firsts",
        "kinds",
        "kinds_of",
        "lasts",
        "modified",
        "numbers",
        "odd",
        "prefix",
        "sizes",
    )

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.firsts, self.lasts, self.sizes = array("q"), array("q"), array("q")
        self.modified = array("d")
        self.etags = bytearray()
        self.kinds_of = array("H")
        self.kinds: list[_Kind] = []
        self.numbers: dict[_Kind, int] = {}
        self.odd: dict[int, Source] = {}

    def append(self, source: Source) -> None:
        kind = self._kind(source)
        if kind is None:
            self.odd[len(self.firsts)] = source
        self.firsts.append(source.first)
        self.lasts.append(source.last)
        self.sizes.append(source.size)
        self.modified.append(source.modified)
        self.etags += bytes(16) if kind is None else bytes.fromhex(source.etag[1:-1])
        self.kinds_of.append(kind or 0)

    def source(self, row: int) -> Source:
        if row in self.odd:
            return self.odd[row]
        between, behind, storage_class = self.kinds[self.kinds_of[row]]
        first, last = self.firsts[row], self.lasts[row]
        key = f"{self.prefix}{first}{between}{last}{behind}"
        etag = f'"{self.etags[row * 16 : row * 16 + 16].hex()}"'
        tail = f"{between[1:]}{last}" if len(between) > 1 else ""
        return Source(
            key, self.sizes[row], etag, self.modified[row], storage_class, first, last, tail
        )

    def _kind(self, source: Source) -> int | None:
        """The number of the source's kind; None if it cannot be put together from a row."""
        first, last = str(source.first), str(source.last)
        between = f"-{source.tail.removesuffix(last)}"
        begin = len(self.prefix) + len(first) + len(between)
        behind = source.key[begin + len(last) :]
        if (
            source.key != f"{self.prefix}{first}{between}{last}{behind}"
            or source.tail not in ("", f"{between[1:]}{last}")
            or not _MD5.fullmatch(source.etag)
        ):
            return None
        kind = (between, behind, source.storage_class)
        number = self.numbers.setdefault(kind, len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append(kind)
        return number if number < 2**16 else None


class Sources(Sequence[Source]):
    """Sources of one group in some order; each is made when it is asked for.

    Slices share the table: 50 bytes a source, and 4 for its place.
    """

    __slots__ = ("_order", "_rows")

    def __init__(self, rows: _Rows, order: range | array[int]) -> None:
        self._rows = rows
        self._order = order

    @classmethod
    def of(cls, prefix: str, sources: Iterable[Source]) -> Sources:
        """Packs sources whose keys begin with `prefix`."""
        if isinstance(sources, cls):
            return sources
        rows = _Rows(prefix)
        for source in sources:
            rows.append(source)
        return cls(rows, range(len(rows.firsts)))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Source]:
        return map(self._rows.source, self._order)

    @overload
    def __getitem__(self, at: int) -> Source: ...
    @overload
    def __getitem__(self, at: slice) -> Sources: ...
    def __getitem__(self, at: int | slice) -> Source | Sources:
        if isinstance(at, slice):
            return Sources(self._rows, self._order[at])
        return self._rows.source(self._order[at])

    def sizes(self) -> Iterator[int]:
        """Bytes of each."""
        return map(self._rows.sizes.__getitem__, self._order)

    def in_order(self) -> Sources:
        """By first offset, last offset, key."""
        rows = self._rows
        order = array("I", _sorted(self._order, rows.firsts))
        for begin, end in _ties(order, rows.firsts):
            order[begin:end] = array(
                "I",
                sorted(order[begin:end], key=lambda row: (rows.lasts[row], rows.source(row).key)),
            )
        return Sources(rows, order)

    def repeated_key(self) -> str | None:
        """A key that stands more than once among sources in order."""
        for begin, end in _ties(self._order, self._rows.firsts):
            keys = sorted(source.key for source in self[begin:end])
            for before, key in pairwise(keys):
                if before == key:
                    return key
        return None

    def chosen(self, places: Iterable[int]) -> Sources:
        """Those at these places, in the order of the places."""
        return Sources(self._rows, array("I", map(self._order.__getitem__, places)))


class SourcesBuilder:
    """Packs the sources of one group as they are listed."""

    def __init__(self, prefix: str) -> None:
        self._rows = _Rows(prefix)

    def add(self, source: Source) -> None:
        """One more."""
        self._rows.append(source)

    def built(self) -> Sources:
        """All of them, in order."""
        return Sources(self._rows, range(len(self._rows.firsts))).in_order()


def _sorted(order: Sequence[int], firsts: Sequence[int]) -> Iterable[int]:
    """Rows by first offset.

    A listing has its numbers by their digits: those with as many digits are in order, and need no
    memory to be put there.
    """
    lengths: dict[int, array[int]] = {}
    for row in order:
        lengths.setdefault(len(str(firsts[row])), array("I")).append(row)
    for length in sorted(lengths):
        rows = lengths[length]
        in_order = all(firsts[before] <= firsts[row] for before, row in pairwise(rows))
        yield from rows if in_order else sorted(rows, key=firsts.__getitem__)


def _ties(order: Sequence[int], firsts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of more than one row with the same first offset."""
    begin = 0
    for at in range(1, len(order) + 1):
        if at == len(order) or firsts[order[at]] != firsts[order[begin]]:
            if at - begin > 1:
                yield begin, at
            begin = at
