"""Decides what is to be done with a group: which sources become which output, and which are kept.

Pure: the same listing always gives the same plan.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from coalesce.model import Batch, Group, GroupId, Kept, Plan, Source, Why
from coalesce.naming.layout_data import Offsets
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import Sources, offsets_of
from coalesce.planning.rules import Limits, selected
from coalesce.storage.limits import ARCHIVED, MAX_OBJECT_BYTES

# Why sources are kept that no later run joins either: a batch may extend across them.
_NEVER_JOINED = (Why.EMPTY, Why.COVERED)


def plan(group: Group, layout: Layout, limits: Limits, taken: Container[str] = ()) -> Plan:
    """Plans the batches of a group.

    Args:
        group: From a complete listing; its sources in any order.
        layout: How its objects are named.
        limits: Sources and bytes per output, and which sources to keep.
        taken: Output keys in use besides those that the group lists.
    """
    limits = limits.of_content(layout.codec(group.id), layout.records)
    chosen = choose_sources(group, layout, limits)
    names = _NamesInUse(taken, set(group.output_keys))
    batches, single = _plan_stretches(group.id, chosen.stretches(), layout, limits, names)
    excluded = len(group.sources) - len(chosen.sources) - len(chosen.kept)
    kept = (*chosen.kept, *(Kept(source.key, Why.SINGLE) for source in single))
    gaps: int | None
    overlaps: int | None
    gaps, overlaps = _count_gaps(chosen, limits) if layout.comparable_offsets else (0, 0)
    if layout.offsets is not Offsets.RANGE:
        gaps = overlaps = None
    return Plan(group.id, tuple(batches), kept, gaps, overlaps, excluded)


def replan(
    group: GroupId,
    batch: Batch,
    without: Collection[Source],
    layout: Layout,
    limits: Limits,
    taken: Container[str],
    kinds: Mapping[str, str] | None = None,
) -> tuple[tuple[Batch, ...], tuple[Source, ...]]:
    """Plans a batch again around sources that cannot be joined, and apart from others.

    No new batch extends across one of them: an output must not claim offsets that it does not
    hold. Nor does one hold sources of several kinds. Takes time in proportion to the sources of the
    batch.

    Args:
        group: The batch's group.
        batch: The batch as it was planned.
        without: The sources of the batch that cannot be joined, in any order.
        layout: How the group's objects are named.
        limits: Sources and bytes per output.
        taken: Output keys in use. The batch's own key counts as taken, since its upload may still
            be open.
        kinds: By key, of which kind a source is; those that are not in it are of one kind too.

    Returns:
        The new batches in offset order, and the sources that are too few to be joined.

    Raises:
        ValueError: One of `without` is not a source of the batch.
    """
    limits = limits.of_content(layout.codec(group), layout.records)
    sources = Sources.of(group.prefix, batch.sources)
    unusable = {source.key for source in without}
    places = [at for at, source in enumerate(sources) if source.key in unusable]
    if len(places) != len(unusable):
        raise ValueError(f"not all of these are sources of {batch.output!r}")
    names = _NamesInUse(taken, {batch.output})
    edges = pairwise((-1, *places, len(sources)))
    stretches = (sources[before + 1 : after] for before, after in edges)
    if kinds:
        stretches = (alike for some in stretches for alike in _by_kind(some, kinds))
    batches, single = _plan_stretches(group, stretches, layout, limits, names)
    return tuple(batches), tuple(single)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sources of a group that may be joined.

    Attributes:
        sources: By offset.
        kept: Those that are kept whatever their neighbours are. One that the user's patterns leave
            out is in neither.
        borders: The places in `sources`, in order, before which a source is kept that a later run
            may join, or, where outputs grow, one that does not. No batch extends across one: its
            output would cover that source, and no run would ever join it; or it would claim the
            offsets of that other output.
    """

    sources: Sources
    kept: list[Kept]
    borders: Sequence[int]

    def stretches(self) -> Iterator[Sources]:
        """Yields the sources between two borders."""
        for begin, end in pairwise((0, *self.borders, len(self.sources))):
            if begin < end:
                yield self.sources[begin:end]

    def between(self, first: int | None, last: int | None) -> Sources:
        """Returns the sources from place `first` to `last`; none if there are no such places, or if
        a border lies between them.
        """
        if first is None or last is None:
            return self.sources[:0]
        crossed = bisect_right(self.borders, first) != bisect_right(self.borders, last)
        return self.sources[:0] if crossed else self.sources[first : last + 1]


def choose_sources(group: Group, layout: Layout, limits: Limits) -> Chosen:
    """Chooses the sources of a group that may be joined; `limits` are those of its content."""
    ordered = Sources.of(group.id.prefix, group.sources).by_offset()
    outputs = (*group.outputs, *group.growing) if layout.comparable_offsets else ()
    coverage, growing = _Coverage(outputs), {output.key for output in group.growing}
    staying = _firsts_of_staying(group, layout, limits)
    places, borders = array("I"), array("I")
    kept: list[Kept] = []
    for place, source in enumerate(ordered):
        while staying and staying[-1] <= source.first:
            staying.pop()
            borders.append(len(places))
        if not selected(source.key, limits) or not _is_wanted(source, limits):
            borders.append(len(places))
            continue
        why = reason_to_keep(source, group.listed_at, limits)
        if why is None and coverage.includes(source) and source.key not in growing:
            why = Why.COVERED
        if why is None:
            places.append(place)
            continue
        kept.append(Kept(source.key, why))
        if why not in _NEVER_JOINED:
            borders.append(len(places))
    sources = ordered if len(places) == len(ordered) else ordered.take(places)
    return Chosen(sources, kept, borders if layout.comparable_offsets else ())


def _firsts_of_staying(group: Group, layout: Layout, limits: Limits) -> list[int]:
    """Returns the first offsets of outputs that no batch may extend across, the last of them first.

    Outputs that grow are as wide as many sources: without this, two of them would take the name of
    what lies between them too.
    """
    if not (limits.grow and layout.comparable_offsets):
        return []
    return sorted((output.first for output in group.outputs), reverse=True)


def _is_wanted(source: Source, limits: Limits) -> bool:
    return limits.wanted is None or source in limits.wanted


def reason_to_keep(source: Source, now: float, limits: Limits) -> Why | None:
    """Says why a source must not be joined, judged by itself; None if it may be.

    `now` is in seconds since the epoch, by the store's clock.
    """
    if source.size == 0:
        return Why.EMPTY
    if source.storage_class in ARCHIVED:
        return Why.ARCHIVED
    if limits.min_age and now - source.modified < limits.min_age:
        return Why.YOUNG
    if source.size > min(limits.max_size, MAX_OBJECT_BYTES):
        return Why.TOO_LARGE
    return None


class Digests:
    """The two digests that a batch may have, of sources that are added in their order.

    An output of a `single` member has another one than an output of their own members.
    """

    def __init__(self) -> None:
        self._plain, self._single = hashlib.sha256(), hashlib.sha256(b"single;")

    def add(self, sources: Iterable[Source]) -> None:
        """Adds sources behind those that were added before."""
        for source in sources:
            row = _digested(source)
            self._plain.update(row)
            self._single.update(row)

    def __contains__(self, digest: str) -> bool:
        return digest in (self._plain.hexdigest(), self._single.hexdigest())


def digest(sources: Iterable[Source], *, single: bool = False) -> str:
    """Returns the SHA-256 over the ordered (key, ETag, size) of these sources, in hex: one of their
    two `Digests`.
    """
    sha = hashlib.sha256(b"single;" if single else b"")
    for source in sources:
        sha.update(_digested(source))
    return sha.hexdigest()


def _digested(source: Source) -> bytes:
    key, etag = source.key.encode(), source.etag.encode()
    return b"%d:%b%d:%b%d;" % (len(key), key, len(etag), etag, source.size)


def is_single(batch: Batch) -> bool:
    """Whether the output of a batch is one member, by the batch's digest."""
    return batch.digest == digest(batch.sources, single=True)


def count_gaps(sources: Iterable[Source]) -> tuple[int, int]:
    """Counts (gaps, overlaps) between neighbouring sources; they must be ordered by offset."""
    gaps = overlaps = 0
    reached = None
    for first, last in offsets_of(sources):
        if reached is not None:
            gaps += first > reached + 1
            overlaps += first <= reached
        reached = last if reached is None else max(reached, last)
    return gaps, overlaps


def _count_gaps(chosen: Chosen, limits: Limits) -> tuple[int, int]:
    """Counts (gaps, overlaps) between the sources that may be joined. Of a work list only between
    those that have none between them which it leaves out.
    """
    if limits.wanted is None:
        return count_gaps(chosen.sources)
    counts = [count_gaps(stretch) for stretch in chosen.stretches()]
    return sum(gaps for gaps, _ in counts), sum(overlaps for _, overlaps in counts)


class _NamesInUse:
    """Output keys in use: those the caller knows, and those given out while planning."""

    def __init__(self, taken: Container[str], given: set[str]) -> None:
        self._taken = taken
        self._given = given

    def __contains__(self, key: object) -> bool:
        return key in self._given or key in self._taken

    def add(self, key: str) -> None:
        self._given.add(key)


class _Coverage:
    """Tells whether sources lie wholly inside existing outputs.

    They must be asked for in the order of their first offsets.
    """

    def __init__(self, outputs: Iterable[Source]) -> None:
        self._outputs = sorted(outputs, key=lambda output: output.first, reverse=True)
        self._reach = -1

    def includes(self, source: Source) -> bool:
        while self._outputs and self._outputs[-1].first <= source.first:
            self._reach = max(self._reach, self._outputs.pop().last)
        return source.last <= self._reach


def _plan_stretches(
    group: GroupId,
    stretches: Iterable[Sources],
    layout: Layout,
    limits: Limits,
    names: _NamesInUse,
) -> tuple[list[Batch], list[Source]]:
    """Plans stretches of ordered sources, of which no batch may extend into the next.

    Nor does one extend into another storage class, where outputs have that of their sources.
    """
    batches: list[Batch] = []
    single: list[Source] = []
    if limits.one_class:
        stretches = (alike for sources in stretches for alike in sources.by_class())
    for sources in stretches:
        made, alone = _plan_batches(group, sources, layout, limits, names)
        batches += made
        single += alone
    return batches, single


def _by_kind(sources: Sources, kinds: Mapping[str, str]) -> Iterator[Sources]:
    """Yields the longest runs of neighbours of one kind."""
    begin = 0
    for _, alike in groupby(kinds.get(source.key, "") for source in sources):
        end = begin + sum(1 for _ in alike)
        yield sources[begin:end]
        begin = end


def _plan_batches(
    group: GroupId, sources: Sources, layout: Layout, limits: Limits, names: _NamesInUse
) -> tuple[list[Batch], list[Source]]:
    """Plans ordered sources that may all be joined: batches, and sources too few for one."""
    batches: list[Batch] = []
    single: list[Source] = []
    sizes = array("q", sources.sizes())
    for begin, end in _divide(sizes, limits):
        run = sources[begin:end]
        if len(run) < limits.min_files:
            single += run
            continue
        key = layout.output_key(group, run, names)
        parsed = layout.parse(key)
        if parsed is None or (parsed.kind, parsed.group) != ("output", group):
            single += run
            continue
        names.add(key)
        batches.append(Batch(key, run, sum(sizes[begin:end]), digest(run, single=limits.single)))
    return batches, single


def _divide(sizes: Sequence[int], limits: Limits) -> Iterator[tuple[int, int]]:
    """Yields where each run of neighbours within the limits begins and ends.

    There are as few runs as a greedy walk needs, evened out so that the last is not small.
    """
    fewest = sum(1 for _ in _fill(sizes, limits.max_files, limits.max_size))
    if fewest <= 1:
        return _fill(sizes, limits.max_files, limits.max_size)
    return _fill(sizes, *_tighten(sizes, limits, fewest))


def _tighten(sizes: Sequence[int], limits: Limits, fewest: int) -> tuple[int, int]:
    """Returns the smallest (files, bytes) limits with which `fewest` runs are still enough.

    Both limits move in proportion from an even share to the full limit, in 64 steps.
    """
    files, size = -(-len(sizes) // fewest), -(-sum(sizes) // fewest)

    def limits_at(step: int) -> tuple[int, int]:
        return (
            files + (limits.max_files - files) * step // 64,
            size + (limits.max_size - size) * step // 64,
        )

    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        if sum(1 for _ in _fill(sizes, *limits_at(middle))) <= fewest:
            high = middle
        else:
            low = middle + 1
    return limits_at(low)


def _fill(sizes: Sequence[int], max_files: int, max_size: int) -> Iterator[tuple[int, int]]:
    """Yields runs of neighbours, each filled until the next source exceeds a limit."""
    begin = total = 0
    for at, size in enumerate(sizes):
        if at > begin and (at - begin >= max_files or total + size > max_size):
            yield begin, at
            begin, total = at, 0
        total += size
    if begin < len(sizes):
        yield begin, len(sizes)
