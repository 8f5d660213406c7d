"""What is to be done with a group, decided from its listing alone: pure, and the same for the same listing."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from coalesce.model import Batch, Copy, Group, GroupId, Left, Part, Plan, Source, Span, Stream, Why
from coalesce.naming import Layout

# S3 "Multipart upload overview", quotas.
MIN_PART_BYTES = 5 * 1024**2
MAX_PART_BYTES = 5 * 1024**3
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 50 * 10**12

# S3 refuses to read these without a restore (GetObject, InvalidObjectState).
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})

# S3 DeleteObjects takes 1,000 keys; each counts as one write against the request rate, so pages are kept smaller (as Hadoop's S3A does).
DELETE_PAGE = 250

# One GET or one upload part at the most that passes through memory in one piece, unless 10,000 parts would not hold the output.
PART_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Limits:
    """The rules of a plan: sources and bytes per output, and what is left alone. `copy` allows server-side copies."""

    max_files: int = 1_000_000
    max_size: int = 128_000_000
    min_files: int = 2
    min_age: float = 300.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    copy: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Which groups are worked on at all. Empty means all; topics are shell patterns; `only` are the groups of a plan."""

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
    """Batches of a group, and what stays with its reason. `taken` are output names in use besides the group's own listing."""
    chosen, left = usable(group, layout, limits)
    outputs = {output.key for output in group.outputs}
    batches, single = _batches(group.id, chosen, layout, limits, _Names(taken, outputs))
    left += [Left(source.key, Why.SINGLE) for source in single]
    gaps, overlaps = count_gaps(chosen) if layout.comparable_offsets else (0, 0)
    return Plan(group.id, batches, tuple(left), gaps, overlaps)


def usable(group: Group, layout: Layout, limits: Limits) -> tuple[list[Source], list[Left]]:
    """The sources of a group that may be joined, in order; and what stays whatever its neighbours are."""
    ordered = sorted(group.sources, key=lambda source: (source.first, source.last, source.key))
    covered = _covered(group, layout)
    chosen: list[Source] = []
    left: list[Left] = []
    for source in ordered:
        why = _why_left(source, group.listed_at, limits) or (Why.COVERED if source.key in covered else None)
        if why is None:
            chosen.append(source)
        elif why is not Why.UNPARSED:
            left.append(Left(source.key, why))
    return chosen, left


def split(group: GroupId, batch: Batch, without: Source, layout: Layout, limits: Limits, taken: Container[str]) -> tuple[tuple[Batch, ...], tuple[Source, ...]]:
    """The batch planned again around one source that must not be joined: smaller batches, never across it, and what stays single."""
    at = batch.sources.index(without)
    names = _Names(taken, set())
    batches: list[Batch] = []
    single: list[Source] = []
    for run in (batch.sources[:at], batch.sources[at + 1 :]):
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
    """Bytes of an upload part for an output of `size` bytes: PART_BYTES, or more where 10,000 of them would not do.

    One part in ten is kept back: supplied newlines make an output longer than its sources.
    """
    return max(PART_BYTES, -(-size // (MAX_PARTS * 9 // 10)))


def lay_out(sources: Sequence[Source], *, copy: bool) -> tuple[Part, ...]:
    """The parts of an output: everything streamed, or with `copy` whatever the store can copy by itself.

    A copied part and every part but the last need 5 MiB, so a stream in front of a copy is topped up by cutting the source that would be copied.
    """
    if not copy:
        return (Stream(tuple(Span(source, 0, source.size) for source in sources)),)
    parts: list[Part] = []
    streamed: list[Span] = []
    for source in sources:
        missing = max(0, MIN_PART_BYTES - sum(span.length for span in streamed)) if streamed else 0
        if source.size - missing < MIN_PART_BYTES:
            streamed.append(Span(source, 0, source.size))
            continue
        if missing:
            streamed.append(Span(source, 0, missing))
        if streamed:
            parts.append(Stream(tuple(streamed)))
            streamed = []
        parts += [Copy(span) for span in _ranges(source, missing)]
    if streamed:
        parts.append(Stream(tuple(streamed)))
    return tuple(parts)


def count_gaps(sources: Sequence[Source]) -> tuple[int, int]:
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
    """What working off plans will ask of the store, by S3 operation, and of the machine: bytes read, seconds, bytes of memory."""

    requests: dict[str, int]
    bytes: int
    seconds: float
    memory: int


# Measured on loopback with `make bench`: CPU seconds per source object and per byte that one process spends, and its memory besides the budget.
_SECONDS_PER_SOURCE = 0.0015
_SECONDS_PER_BYTE = 4e-9
_PROCESS_BYTES = 100 * 1024**2


def work_seconds(sources: int, size: int) -> float:
    """How long one process takes for so many sources of so many bytes in all."""
    return sources * _SECONDS_PER_SOURCE + size * _SECONDS_PER_BYTE


def forecast(plans: Iterable[Plan], memory: int) -> Forecast:
    """What a run at full guarantees will cost. Its own probe and lease, some 60 requests, are left out; retries too."""
    requests = dict.fromkeys(
        ("CreateMultipartUpload", "CompleteMultipartUpload", "UploadPart", "GetObject", "HeadObject", "DeleteObjects", "DeleteObject", "PutObject"), 0
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
            requests["GetObject"] += sum(-(-source.size // PART_BYTES) for source in batch.sources)
            requests["HeadObject"] += 2 + sum(source.size > PART_BYTES for source in batch.sources)
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
    if not _selected(source.key, limits):
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


def _selected(key: str, limits: Limits) -> bool:
    included = not limits.include or any(fnmatchcase(key, glob) for glob in limits.include)
    return included and not any(fnmatchcase(key, glob) for glob in limits.exclude)


def _covered(group: Group, layout: Layout) -> set[str]:
    """Keys of sources whose whole offset range lies inside an existing output's."""
    if not layout.comparable_offsets or not group.outputs:
        return set()
    covered = set()
    outputs = sorted(group.outputs, key=lambda output: output.first)
    at, reach = 0, -1
    for source in sorted(group.sources, key=lambda source: source.first):
        while at < len(outputs) and outputs[at].first <= source.first:
            reach = max(reach, outputs[at].last)
            at += 1
        if source.last <= reach:
            covered.add(source.key)
    return covered


def _batches(group: GroupId, usable: Sequence[Source], layout: Layout, limits: Limits, names: _Names) -> tuple[tuple[Batch, ...], list[Source]]:
    batches: list[Batch] = []
    single: list[Source] = []
    for run in _cut(usable, limits):
        if len(run) < limits.min_files:
            single += run
            continue
        key = layout.output_key(group, run, names)
        named = layout.parse(key)
        if named is None or named.kind != "output":
            single += run
            continue
        names.add(key)
        batches.append(Batch(key, run, lay_out(run, copy=limits.copy), digest(run)))
    return tuple(batches), single


def _cut(sources: Sequence[Source], limits: Limits) -> Iterator[tuple[Source, ...]]:
    """Runs of neighbours within the limits, as few as a greedy walk needs, and evened out so that none is left small."""
    fewest = sum(1 for _ in _greedy(sources, limits.max_files, limits.max_size))
    if fewest <= 1:
        return _greedy(sources, limits.max_files, limits.max_size)
    return _greedy(sources, *_evened(sources, limits, fewest))


def _evened(sources: Sequence[Source], limits: Limits, fewest: int) -> tuple[int, int]:
    """The smallest (files, bytes) limits, in proportion to one another, that still need no more runs than `fewest`."""
    total = sum(source.size for source in sources)
    low_files, low_size = -(-len(sources) // fewest), -(-total // fewest)
    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        files = low_files + (limits.max_files - low_files) * middle // 64
        size = low_size + (limits.max_size - low_size) * middle // 64
        if sum(1 for _ in _greedy(sources, files, size)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return (
        low_files + (limits.max_files - low_files) * low // 64,
        low_size + (limits.max_size - low_size) * low // 64,
    )


def _greedy(sources: Sequence[Source], max_files: int, max_size: int) -> Iterator[tuple[Source, ...]]:
    begin = size = 0
    for at, source in enumerate(sources):
        if at > begin and (at - begin >= max_files or size + source.size > max_size):
            yield tuple(sources[begin:at])
            begin, size = at, 0
        size += source.size
    if begin < len(sources):
        yield tuple(sources[begin:])


def _ranges(source: Source, start: int) -> Iterator[Span]:
    """Equal ranges of at most 5 GiB over the rest of a source of at least 5 MiB."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
