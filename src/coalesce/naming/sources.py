"""The sources of one group in packed form: a listing of millions must fit in memory."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import overload

from typing_extensions import override

from coalesce.model import Source

# An MD5, or that of a multipart upload with the number of its parts.
_ETAG = re.compile(r'"([0-9a-f]{32})((?:-[0-9]+)?)"', re.ASCII)

# What sources have in common besides the prefix: the text between the two offsets, the text after
# the last offset, the storage class, and the end of the ETag. Without a text between them, the
# names of these sources are stored as they are.
_Template = tuple[str | None, str, str, str]


class _Table:
    """A growing table of sources: their numbers, and the sixteen bytes of each ETag.

    A key is rebuilt from its numbers and a template. Where that is impossible, what comes after the
    prefix is stored; a source with a tail is stored whole, and an ETag of another form as it is.
    """

    __slots__ = (
        "etags",
        "firsts",
        "lasts",
        "modified",
        "name_ends",
        "names",
        "other_etags",
        "prefix",
        "sizes",
        "template_ids",
        "template_rows",
        "templates",
        "unpacked",
    )

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.firsts, self.lasts, self.sizes = array("q"), array("q"), array("q")
        self.modified = array("d")
        self.etags = bytearray()
        self.names, self.name_ends = bytearray(), array("Q")  # only where names are stored
        self.other_etags: dict[int, str] = {}
        self.templates: list[_Template] = []
        self.template_ids: dict[_Template, int] = {}
        self.template_rows = array("H")  # the template of each row
        self.unpacked: dict[int, Source] = {}

    def __len__(self) -> int:
        return len(self.firsts)

    def append(self, source: Source) -> None:
        etag = _ETAG.fullmatch(source.etag)
        digits, etag_end = etag.groups() if etag else ("0" * 32, "")
        parts = self._template_of(source, etag_end)
        template = None if parts is None else self._number_of(parts)
        if template is None:
            self.unpacked[len(self)] = source
        elif etag is None:
            self.other_etags[len(self)] = source.etag
        if parts is not None and parts[0] is None:
            self._store_name(source.key)
        self.firsts.append(source.first)
        self.lasts.append(source.last)
        self.sizes.append(source.size)
        self.modified.append(source.modified)
        self.etags += bytes.fromhex(digits)
        self.template_rows.append(template or 0)

    def select(self, rows: Sequence[int]) -> _Table:
        """Returns a table of these rows alone, in this order."""
        chosen = _Table(self.prefix)
        for name in ("firsts", "lasts", "sizes", "modified", "template_rows"):
            column = getattr(self, name)
            setattr(chosen, name, array(column.typecode, map(column.__getitem__, rows)))
        chosen.etags = bytearray().join(self.etags[row * 16 : row * 16 + 16] for row in rows)
        chosen.templates, chosen.template_ids = self.templates, self.template_ids
        for place, row in enumerate(rows if self.name_ends else ()):
            if self.templates[self.template_rows[row]][0] is None and row not in self.unpacked:
                chosen._pad_names(place)
                chosen.names += self._name(row)
                chosen.name_ends.append(len(chosen.names))
        for name in ("other_etags", "unpacked"):
            if column := getattr(self, name):
                found = {at: column[row] for at, row in enumerate(rows) if row in column}
                setattr(chosen, name, found)
        return chosen

    def source(self, row: int) -> Source:
        return next(self.iterate((row,)))

    def iterate(self, rows: Iterable[int]) -> Iterator[Source]:
        # Every source is made half a dozen times in a run: local names, and tuples that are made
        # past their class's own constructor, take a quarter less time.
        prefix, firsts, lasts, sizes = self.prefix, self.firsts, self.lasts, self.sizes
        modified, etags, template_rows = self.modified, self.etags, self.template_rows
        templates, other_etags, unpacked = self.templates, self.other_etags, self.unpacked
        new = tuple.__new__
        for row in rows:
            if row in unpacked:
                yield unpacked[row]
                continue
            between, after, storage_class, etag_end = templates[template_rows[row]]
            first, last, tail = firsts[row], lasts[row], ""
            etag = other_etags.get(row)
            if etag is None:
                etag = f'"{etags[row * 16 : row * 16 + 16].hex()}{etag_end}"'
            if between is None:
                key = prefix + self._name(row).decode()
            else:
                key = f"{prefix}{first}{between}{last}{after}"
                if len(between) > 1:
                    tail = f"{between[1:]}{last}"
            fields = (key, sizes[row], etag, modified[row], storage_class, first, last, tail)
            yield new(Source, fields)

    def _store_name(self, key: str) -> None:
        """Stores what comes after the prefix of the row that is appended next."""
        self._pad_names(len(self))
        self.names += key[len(self.prefix) :].encode()
        self.name_ends.append(len(self.names))

    def _pad_names(self, row: int) -> None:
        """Says of all rows before this one that there is no more in their names."""
        missing = row - len(self.name_ends)
        self.name_ends.extend([len(self.names)] * missing)

    def _name(self, row: int) -> bytes:
        begin = self.name_ends[row - 1] if row else 0
        return bytes(self.names[begin : self.name_ends[row]])

    def _template_of(self, source: Source, etag_end: str) -> _Template | None:
        """Returns the source's template; None if it must be stored whole."""
        first, last = str(source.first), str(source.last)
        between = f"-{source.tail.removesuffix(last)}"
        begin = len(self.prefix) + len(first) + len(between)
        after = source.key[begin + len(last) :]
        if source.key == f"{self.prefix}{first}{between}{last}{after}" and source.tail in (
            "",
            f"{between[1:]}{last}",
        ):
            return between, after, source.storage_class, etag_end
        if source.tail or not source.key.startswith(self.prefix):
            return None
        return None, "", source.storage_class, etag_end

    def _number_of(self, template: _Template) -> int | None:
        number = self.template_ids.setdefault(template, len(self.templates))
        if number == len(self.templates):
            self.templates.append(template)
        return number if number < 2**16 else None


class Sources(Sequence[Source]):
    """Sources of one group in some order. Each `Source` is made on access.

    Slices share the table, so a source costs about 50 bytes once, and 4 bytes for its place in each
    reordered view. An ETag of another form than those of S3 adds 170; a name that is not made of
    two offsets adds 8 and its length behind the group's prefix.
    """

    __slots__ = ("_rows", "_table")

    def __init__(self, table: _Table, rows: range | array[int]) -> None:
        self._table = table
        self._rows = rows

    @override
    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the sources of this view, and no others of the table."""
        return type(self), (self._table.select(self._rows), range(len(self)))

    @classmethod
    def of(cls, prefix: str, sources: Iterable[Source]) -> Sources:
        """Packs sources in their given order.

        Args:
            prefix: What their keys begin with: `GroupId.prefix`.
            sources: Returned as they are if they are packed already.
        """
        if isinstance(sources, cls):
            return sources
        table = _Table(prefix)
        for source in sources:
            table.append(source)
        return cls(table, range(len(table)))

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def __iter__(self) -> Iterator[Source]:
        return self._table.iterate(self._rows)

    @overload
    def __getitem__(self, at: int) -> Source: ...
    @overload
    def __getitem__(self, at: slice) -> Sources: ...
    @override
    def __getitem__(self, at: int | slice) -> Source | Sources:
        if isinstance(at, slice):
            return Sources(self._table, self._rows[at])
        return self._table.source(self._rows[at])

    def offsets(self) -> Iterator[tuple[int, int]]:
        """Yields the first and last offset of each source, without making the sources."""
        firsts, lasts = self._table.firsts, self._table.lasts
        return ((firsts[row], lasts[row]) for row in self._rows)

    def sizes(self) -> Iterator[int]:
        """Yields the bytes of each source, without making the sources."""
        return map(self._table.sizes.__getitem__, self._rows)

    def storage_classes(self) -> Iterator[str]:
        """Yields the storage class of each source, without making packed ones."""
        table = self._table
        for row in self._rows:
            other = table.unpacked.get(row)
            yield other.storage_class if other else table.templates[table.template_rows[row]][2]

    def by_class(self) -> Iterator[Sources]:
        """Yields the longest runs of neighbours that have one storage class."""
        table = self._table
        classes = {template[2] for template in table.templates}
        classes |= {source.storage_class for source in table.unpacked.values()}
        if len(classes) <= 1:
            yield self
            return
        begin = 0
        for _, alike in groupby(self.storage_classes()):
            end = begin + sum(1 for _ in alike)
            yield self[begin:end]
            begin = end

    def by_offset(self) -> Sources:
        """Returns the sources ordered by first offset, last offset and key."""
        table = self._table
        rows = array("I", _sort(self._rows, table.firsts))
        for begin, end in _ties(rows, table.firsts):
            rows[begin:end] = array(
                "I",
                sorted(rows[begin:end], key=lambda row: (table.lasts[row], table.source(row).key)),
            )
        return Sources(table, rows)

    def duplicate_key(self) -> str | None:
        """Returns a key that occurs more than once; the sources must be ordered by offset."""
        for begin, end in _ties(self._rows, self._table.firsts):
            keys = sorted(source.key for source in self[begin:end])
            for before, key in pairwise(keys):
                if before == key:
                    return key
        return None

    def take(self, places: Iterable[int]) -> Sources:
        """Returns the sources at these indices, in the order of the indices."""
        return Sources(self._table, array("I", map(self._rows.__getitem__, places)))


class SourcesBuilder:
    """Packs the sources of one group while they are being listed."""

    def __init__(self, prefix: str) -> None:
        self._table = _Table(prefix)

    def add(self, source: Source) -> None:
        """Adds a source; its key begins with the prefix."""
        self._table.append(source)

    def __len__(self) -> int:
        return len(self._table)

    def added(self, begin: int) -> Sources:
        """Returns the sources added so far from place `begin` on, in the order of adding."""
        return Sources(self._table, range(begin, len(self._table)))

    def build(self) -> Sources:
        """Returns all sources added so far, by offset."""
        return Sources(self._table, range(len(self._table))).by_offset()


class Places:
    """Where each of some sources stands among them; 12 bytes a source, since no key is held."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._firsts = array("q", (first for first, _ in sources.offsets()))
        self._by_first = array("I", _sort(range(len(sources)), self._firsts))
        for begin, end in _ties(self._by_first, self._firsts):
            ordered = sorted(self._by_first[begin:end], key=lambda place: sources[place].key)
            self._by_first[begin:end] = array("I", ordered)

    def find(self, first: int, key: str) -> int | None:
        """Returns the place of the source with this key and first offset, None if there is none."""
        found = bisect_left(self._by_first, first, key=self._firsts.__getitem__)
        end = bisect_right(self._by_first, first, found, key=self._firsts.__getitem__)
        at = bisect_left(self._by_first, key, found, end, key=self._key)
        return self._by_first[at] if at < end and self._key(self._by_first[at]) == key else None

    def _key(self, place: int) -> str:
        return self._sources[place].key


def offsets_of(sources: Iterable[Source]) -> Iterator[tuple[int, int]]:
    """Yields the first and last offset of each source, without making packed ones."""
    if isinstance(sources, Sources):
        return sources.offsets()
    return ((source.first, source.last) for source in sources)


def _sort(rows: Sequence[int], firsts: Sequence[int]) -> Iterable[int]:
    """Sorts rows by first offset.

    A listing is in the order of the digits, so offsets with the same number of digits are sorted
    already, and sorting them again would only cost memory.
    """
    by_digits: dict[int, array[int]] = {}
    for row in rows:
        by_digits.setdefault(len(str(firsts[row])), array("I")).append(row)
    for digits in sorted(by_digits):
        same = by_digits[digits]
        is_sorted = all(firsts[before] <= firsts[row] for before, row in pairwise(same))
        yield from same if is_sorted else sorted(same, key=firsts.__getitem__)


def _ties(rows: Sequence[int], firsts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields where each run of several rows with the same first offset begins and ends."""
    begin = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or firsts[rows[at]] != firsts[rows[begin]]:
            if at - begin > 1:
                yield begin, at
            begin = at
