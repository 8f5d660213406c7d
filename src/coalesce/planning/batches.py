"""What is to be done with a group, decided from its listing alone: pure, and the same for the same
listing.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence

from coalesce.model import (
    Batch,
    ExistingOutput,
    Group,
    GroupId,
    Kept,
    Plan,
    Source,
    Why,
)
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import Sources
from coalesce.planning.rules import Limits, selected
from coalesce.storage.limits import (
    ARCHIVED,
    MAX_OBJECT_BYTES,
)


def plan(group: Group, layout: Layout, limits: Limits, taken: Container[str] = ()) -> Plan:
    """Batches of a group, and what stays with its reason.

    `taken` are output names in use besides the group's own listing.
    """
    chosen, left = usable(group, layout, limits)
    outputs = {output.key for output in group.outputs}
    batches, single = _batches(group.id, chosen, layout, limits, _Names(taken, outputs))
    left += [Kept(source.key, Why.SINGLE) for source in single]
    gaps, overlaps = count_gaps(chosen) if layout.comparable_offsets else (0, 0)
    return Plan(group.id, batches, tuple(left), gaps, overlaps)


def usable(group: Group, layout: Layout, limits: Limits) -> tuple[Sources, list[Kept]]:
    """The sources of a group that may be joined, in order; and what stays whatever its neighbours
    are.
    """
    ordered = Sources.of(group.id.prefix, group.sources).by_offset()
    coverage = _Coverage(group.outputs if layout.comparable_offsets else ())
    places = array("I")
    left: list[Kept] = []
    for place, source in enumerate(ordered):
        covered = coverage.includes(source)
        why = _why_left(source, group.listed_at, limits) or (Why.COVERED if covered else None)
        if why is None:
            places.append(place)
        elif why is not Why.UNPARSED:
            left.append(Kept(source.key, why))
    return (ordered if len(places) == len(ordered) else ordered.take(places)), left


def split(
    group: GroupId,
    batch: Batch,
    without: Source,
    layout: Layout,
    limits: Limits,
    taken: Container[str],
) -> tuple[tuple[Batch, ...], tuple[Source, ...]]:
    """The batch planned again around one source that must not be joined: smaller batches, never
    across it, and what stays single.
    """
    sources = Sources.of(group.prefix, batch.sources)
    at = sources.index(without)
    names = _Names(taken, set())
    batches: list[Batch] = []
    single: list[Source] = []
    for run in (sources[:at], sources[at + 1 :]):
        made, alone = _batches(group, run, layout, limits, names)
        batches += made
        single += alone
    return tuple(batches), tuple(single)


def digest(sources: Iterable[Source]) -> str:
    """SHA-256 over the ordered (key, ETag, size): names this very list of source versions."""
    sha = hashlib.sha256()
    for source in sources:
        key, etag = source.key.encode(), source.etag.encode()
        sha.update(b"%d:%b%d:%b%d;" % (len(key), key, len(etag), etag, source.size))
    return sha.hexdigest()


def count_gaps(sources: Iterable[Source]) -> tuple[int, int]:
    """(gaps, overlaps) between neighbours of sources in offset order."""
    gaps = overlaps = 0
    reached = None
    for source in sources:
        if reached is not None:
            gaps += source.first > reached + 1
            overlaps += source.first <= reached
        reached = source.last if reached is None else max(reached, source.last)
    return gaps, overlaps


class _Names:
    """Output names in use: those the caller knows of, and those given since."""

    def __init__(self, taken: Container[str], given: set[str]) -> None:
        self._taken = taken
        self._given = given

    def __contains__(self, key: object) -> bool:
        return key in self._given or key in self._taken

    def add(self, key: str) -> None:
        self._given.add(key)


def _why_left(source: Source, now: float, limits: Limits) -> Why | None:
    if not selected(source.key, limits):
        return Why.UNPARSED
    if source.size == 0:
        return Why.EMPTY
    if source.storage_class in ARCHIVED:
        return Why.ARCHIVED
    if limits.min_age and now - source.modified < limits.min_age:
        return Why.YOUNG
    if source.size > min(limits.max_size, MAX_OBJECT_BYTES):
        return Why.TOO_LARGE
    return None


class _Coverage:
    """Whether sources, asked for in the order of their first offsets, lie wholly inside existing
    outputs.
    """

    def __init__(self, outputs: Iterable[ExistingOutput]) -> None:
        self._outputs = sorted(outputs, key=lambda output: output.first, reverse=True)
        self._reach = -1

    def includes(self, source: Source) -> bool:
        while self._outputs and self._outputs[-1].first <= source.first:
            self._reach = max(self._reach, self._outputs.pop().last)
        return source.last <= self._reach


def _batches(
    group: GroupId, usable: Sources, layout: Layout, limits: Limits, names: _Names
) -> tuple[tuple[Batch, ...], list[Source]]:
    batches: list[Batch] = []
    single: list[Source] = []
    sizes = array("q", usable.sizes())
    for begin, end in _cut(sizes, limits):
        run = usable[begin:end]
        if len(run) < limits.min_files:
            single += run
            continue
        key = layout.output_key(group, run, names)
        named = layout.parse(key)
        if named is None or named.kind != "output":
            single += run
            continue
        names.add(key)
        batches.append(Batch(key, run, sum(sizes[begin:end]), digest(run)))
    return tuple(batches), single


def _cut(sizes: Sequence[int], limits: Limits) -> Iterator[tuple[int, int]]:
    """Runs of neighbours within the limits, as few as a greedy walk needs, and evened out so that
    none is left small: where each begins and ends.
    """
    fewest = sum(1 for _ in _greedy(sizes, limits.max_files, limits.max_size))
    if fewest <= 1:
        return _greedy(sizes, limits.max_files, limits.max_size)
    return _greedy(sizes, *_evened(sizes, limits, fewest))


def _evened(sizes: Sequence[int], limits: Limits, fewest: int) -> tuple[int, int]:
    """The smallest (files, bytes) limits, in proportion to one another, that still need no more
    runs than `fewest`.
    """
    low_files, low_size = -(-len(sizes) // fewest), -(-sum(sizes) // fewest)
    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        if sum(1 for _ in _greedy(sizes, *_between(low_files, low_size, limits, middle))) <= fewest:
            high = middle
        else:
            low = middle + 1
    return _between(low_files, low_size, limits, low)


def _between(files: int, size: int, limits: Limits, step: int) -> tuple[int, int]:
    """Limits `step` sixty-fourths of the way from these to the full ones."""
    return files + (limits.max_files - files) * step // 64, size + (
        limits.max_size - size
    ) * step // 64


def _greedy(sizes: Sequence[int], max_files: int, max_size: int) -> Iterator[tuple[int, int]]:
    begin = total = 0
    for at, size in enumerate(sizes):
        if at > begin and (at - begin >= max_files or total + size > max_size):
            yield begin, at
            begin, total = at, 0
        total += size
    if begin < len(sizes):
        yield begin, len(sizes)
