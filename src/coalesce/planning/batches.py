"""What is to be done with a group, decided from its listing alone: pure, and the same for the same
listing.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from coalesce.model import (
    Batch,
    Copy,
    ExistingOutput,
    Group,
    GroupId,
    Left,
    Part,
    Plan,
    Source,
    Span,
    Stream,
    WholeSpans,
    Why,
)
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import Sources

# S3 "Multipart upload overview", quotas.
MIN_PART_BYTES = 5 * 1024**2
MAX_PART_BYTES = 5 * 1024**3
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 50 * 10**12

# S3 refuses to read these without a restore (GetObject, InvalidObjectState).
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})

# S3 DeleteObjects takes 1,000 keys; each counts as one write against the request rate, so pages are
# kept smaller (as Hadoop's S3A does).
DELETE_PAGE = 250

# One GET or one upload part at the most that passes through memory in one piece, unless 10,000
# parts would not hold the output.
PART_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Limits:
    """The rules of a plan: sources and bytes per output, and what is left alone.

    `copy` allows server-side copies.
    """

    max_files: int = 1_000_000
    max_size: int = 128_000_000
    min_files: int = 2
    min_age: float = 300.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    copy: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Which groups are worked on at all.

    Empty means all; topics are shell patterns; `only` are the groups of a plan.
    """

    partitions: tuple[int, ...] = ()
    topics: tuple[str, ...] = ()
    only: frozenset[GroupId] | None = None

    def covers(self, group: GroupId) -> bool:
        """Whether this run works on the group."""
        return (
            (not self.partitions or group.partition in self.partitions)
            and (not self.topics or any(fnmatchcase(group.topic, topic) for topic in self.topics))
            and (self.only is None or group in self.only)
        )


def plan(group: Group, layout: Layout, limits: Limits, taken: Container[str] = ()) -> Plan:
    """Batches of a group, and what stays with its reason.

    `taken` are output names in use besides the group's own listing.
    """
    chosen, left = usable(group, layout, limits)
    outputs = {output.key for output in group.outputs}
    batches, single = _batches(group.id, chosen, layout, limits, _Names(taken, outputs))
    left += [Left(source.key, Why.SINGLE) for source in single]
    gaps, overlaps = count_gaps(chosen) if layout.comparable_offsets else (0, 0)
    return Plan(group.id, batches, tuple(left), gaps, overlaps)


def usable(group: Group, layout: Layout, limits: Limits) -> tuple[Sources, list[Left]]:
    """The sources of a group that may be joined, in order; and what stays whatever its neighbours
    are.
    """
    ordered = Sources.of(group.id.prefix, group.sources).in_order()
    coverage = _Coverage(group.outputs if layout.comparable_offsets else ())
    places = array("I")
    left: list[Left] = []
    for place, source in enumerate(ordered):
        covered = coverage.includes(source)
        why = _why_left(source, group.listed_at, limits) or (Why.COVERED if covered else None)
        if why is None:
            places.append(place)
        elif why is not Why.UNPARSED:
            left.append(Left(source.key, why))
    return (ordered if len(places) == len(ordered) else ordered.chosen(places)), left


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


def part_bytes(size: int) -> int:
    """Bytes of an upload part for an output of `size` bytes: PART_BYTES, or more where 10,000 of
    them would not do.

    One part in ten is kept back: supplied newlines make an output longer than its sources.
    """
    return max(PART_BYTES, -(-size // (MAX_PARTS * 9 // 10)))


def lay_out(sources: Sequence[Source], *, copy: bool) -> tuple[Part, ...]:
    """The parts of an output: everything streamed, or with `copy` whatever the store can copy by
    itself.

    A copied part and every part but the last need 5 MiB, so a stream in front of a copy is topped
    up by cutting the source that would be copied.
    """
    if not copy:
        return (Stream(WholeSpans(sources)),)
    parts: list[Part] = []
    streamed: list[Span] = []
    size = 0
    for source in sources:
        missing = max(0, MIN_PART_BYTES - size) if streamed else 0
        if source.size - missing < MIN_PART_BYTES:
            streamed.append(Span(source, 0, source.size))
            size += source.size
            continue
        if missing:
            streamed.append(Span(source, 0, missing))
        if streamed:
            parts.append(Stream(tuple(streamed)))
            streamed, size = [], 0
        parts += [Copy(span) for span in _ranges(source, missing)]
    if streamed:
        parts.append(Stream(tuple(streamed)))
    return tuple(parts)


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


@dataclass(frozen=True, slots=True)
class Forecast:
    """What working off plans will ask of the store, by S3 operation, and of the machine: bytes
    read, seconds, bytes of memory.
    """

    requests: dict[str, int]
    bytes: int
    seconds: float
    memory: int


# Measured on loopback with `make bench`: CPU seconds per source object and per byte that one
# process spends, and its memory besides the budget.
_SECONDS_PER_SOURCE = 0.0015
_SECONDS_PER_BYTE = 4e-9
_PROCESS_BYTES = 100 * 1024**2


def work_seconds(sources: int, size: int) -> float:
    """How long one process takes for so many sources of so many bytes in all."""
    return sources * _SECONDS_PER_SOURCE + size * _SECONDS_PER_BYTE


def forecast(plans: Iterable[Plan], memory: int) -> Forecast:
    """What a run at full guarantees will cost.

    Its own probe and lease, some 60 requests, are left out; retries too.
    """
    requests = dict.fromkeys(
        (
            "CreateMultipartUpload",
            "CompleteMultipartUpload",
            "UploadPart",
            "GetObject",
            "HeadObject",
            "DeleteObjects",
            "DeleteObject",
            "PutObject",
        ),
        0,
    )
    sources = size = 0
    for plan in plans:
        requests["PutObject"] += bool(plan.batches)
        requests["DeleteObject"] += bool(plan.batches)
        for batch in plan.batches:
            sources += len(batch.sources)
            size += batch.size
            requests["CreateMultipartUpload"] += 1
            requests["CompleteMultipartUpload"] += 1
            requests["UploadPart"] += -(-batch.size // part_bytes(batch.size))
            sizes = Sources.of(plan.group.prefix, batch.sources).sizes()
            ranges = [-(-size // PART_BYTES) for size in sizes]
            requests["GetObject"] += sum(ranges)
            requests["HeadObject"] += 2 + sum(count > 1 for count in ranges)
            requests["DeleteObjects"] += -(-len(batch.sources) // DELETE_PAGE)
    return Forecast(requests, size, round(work_seconds(sources, size), 1), memory + _PROCESS_BYTES)


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


def selected(key: str, limits: Limits) -> bool:
    """Whether a key passes the user's patterns."""
    included = not limits.include or any(fnmatchcase(key, glob) for glob in limits.include)
    return included and not any(fnmatchcase(key, glob) for glob in limits.exclude)


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


def _ranges(source: Source, start: int) -> Iterator[Span]:
    """Equal ranges of at most 5 GiB over the rest of a source of at least 5 MiB."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
