"""The values that travel through a run, none of which changes.

Those of which there are millions are tuples: made in a third of the time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload


class ObjectInfo(NamedTuple):
    """One entry of a listing. `modified` is in seconds since the epoch, by the store's clock."""

    key: str
    size: int
    etag: str
    modified: float
    storage_class: str = "STANDARD"


@dataclass(frozen=True, slots=True, order=True)
class GroupId:
    """The unit of ownership: `directory` ends with a slash unless it is the bucket's root."""

    directory: str
    topic: str
    partition: int

    @property
    def prefix(self) -> str:
        """What every key of the group begins with."""
        return f"{self.directory}{self.topic}_{self.partition}_"

    def __str__(self) -> str:
        return self.prefix[:-1]


class Source(NamedTuple):
    """An object to be joined.

    Offsets are as its name says; `tail` is the topic, partition and offset that end a manifest's
    name.
    """

    key: str
    size: int
    etag: str
    modified: float
    storage_class: str
    first: int
    last: int
    tail: str = ""


@dataclass(frozen=True, slots=True)
class ExistingOutput:
    """An output of an earlier plan, as its name says."""

    key: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Group:
    """All sources and outputs of one (directory, topic, partition), completely listed.

    `listed_at` is the store's clock.
    """

    id: GroupId
    sources: Sequence[Source]
    outputs: tuple[ExistingOutput, ...]
    listed_at: float


class Why(enum.StrEnum):
    """Why a source was left alone: the names of the report."""

    YOUNG = "young"
    SINGLE = "single"
    TOO_LARGE = "too_large"
    COVERED = "covered"
    CORRUPT = "corrupt"
    EMPTY = "empty"
    ARCHIVED = "archived"
    UNPARSED = "unparsed"
    CHANGED = "changed"
    DELETE_REFUSED = "delete_refused"


@dataclass(frozen=True, slots=True)
class Kept:
    """A source that stays, and why."""

    key: str
    why: Why


class Span(NamedTuple):
    """`length` bytes of one source, from byte `start` on."""

    source: Source
    start: int
    length: int

    @property
    def whole(self) -> bool:
        """Whether this is all of the source."""
        return self.length == self.source.size

    @property
    def ends_source(self) -> bool:
        """Whether the source's last byte is in this span."""
        return self.start + self.length == self.source.size


class WholeSpans(Sequence[Span]):
    """One span for all of each source, made when it is asked for."""

    __slots__ = ("_sources",)

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[Span]:
        return (Span(source, 0, source.size) for source in self._sources)

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> WholeSpans: ...
    def __getitem__(self, at: int | slice) -> Span | WholeSpans:
        if isinstance(at, slice):
            return WholeSpans(self._sources[at])
        source = self._sources[at]
        return Span(source, 0, source.size)


@dataclass(frozen=True, slots=True)
class Stream:
    """Spans that pass through this process, and are cut into upload parts as they come."""

    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Copy:
    """One span that the store copies itself: one upload part."""

    span: Span


Part = Stream | Copy


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive sources of a group that become one output; `size` is their bytes as listed.

    `digest` is over the ordered (key, ETag, size) of the sources: whoever finds it in an output's
    metadata knows this very batch is joined there.
    """

    output: str
    sources: Sequence[Source]
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A group's batches, frozen, and what stays.

    `gaps` and `overlaps` count neighbours whose offsets do not meet.
    """

    group: GroupId
    batches: tuple[Batch, ...]
    kept: tuple[Kept, ...]
    gaps: int = 0
    overlaps: int = 0


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """The store's receipt for one part.

    `checksum` is base64 in the upload's algorithm, empty if the upload has none.
    """

    number: int
    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True)
class TransferredBatch:
    """All parts of a batch are with the store, not yet visible as an object.

    `crc64` is combined from the sources' own checksums, apart from the upload path; `records` is
    None where nothing was counted.
    """

    parts: tuple[UploadedPart, ...]
    size: int
    crc64: int
    records: int | None


@dataclass(frozen=True, slots=True)
class CommittedOutput:
    """What became of one batch: an output that is there and proven, and what happened to its
    sources.

    `deleted` sources are gone, their keys were `freed` characters long in all.
    """

    key: str
    sources: int
    size: int
    records: int | None
    first: int
    last: int
    checksum: str
    deleted: int
    freed: int
    kept: tuple[Kept, ...]
    recovered: bool = False
