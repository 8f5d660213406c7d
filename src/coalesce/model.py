"""The values that pass through a run. All are immutable.

Those that exist by the million are named tuples: they are made in a third of a dataclass's time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload


class ObjectInfo(NamedTuple):
    """One entry of a listing.

    Attributes:
        size: In bytes.
        etag: As the store lists it, with its quotes.
        modified: Seconds since the epoch, by the store's clock.
    """

    key: str
    size: int
    etag: str
    modified: float
    storage_class: str = "STANDARD"


@dataclass(frozen=True, slots=True, order=True)
class GroupId:
    """The unit of ownership: one topic-partition in one directory, or what a layout has instead.

    Attributes:
        directory: Ends with a slash; empty at the bucket's root.
        topic: What `--topic` selects.
        partition: -1 where names have none.
        names: What the names of its objects look like, with a `*` where they differ, such as
            `clicks+3+*.json`; empty where that is `<topic>_<partition>_*`.
    """

    directory: str
    topic: str
    partition: int
    names: str = ""

    @property
    def prefix(self) -> str:
        """What every key of the group begins with."""
        if self.names:
            return self.directory + self.names.partition("*")[0]
        return f"{self.directory}{self.topic}_{self.partition}_"

    def __str__(self) -> str:
        return self.directory + self.names if self.names else self.prefix[:-1]


class Codec(enum.StrEnum):
    """How the content of an object is stored. The values are names in the ledger."""

    GZIP = "gzip"
    PLAIN = "plain"
    ZSTD = "zstd"
    BZIP2 = "bzip2"

    @property
    def is_compressed_again(self) -> bool:
        """Whether `--gzip single` makes one member of the whole output."""
        return self is not Codec.PLAIN


class Records(enum.StrEnum):
    """What the content of an object is made of."""

    LINES = "lines"
    CSV_HEADER = "csv-header"  # lines under a first one that names their columns
    OPAQUE = "opaque"  # any bytes: no line is looked for in them


class Source(NamedTuple):
    """An object to be joined.

    Attributes:
        size: In bytes, as listed.
        etag: As listed: only this version is read, joined and deleted.
        modified: Seconds since the epoch, by the store's clock.
        first: The first offset in its name, or what else orders it.
        last: The last offset in its name, or what orders it next.
        tail: The topic, partition and offset that end a manifest's name; empty in other layouts.
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
class Group:
    """All sources and outputs of one (directory, topic, partition), from a complete listing.

    Attributes:
        outputs: Outputs of earlier plans, recognised by their names; as sources, since they can
            become such.
        listed_at: In seconds since the epoch, by the store's clock.
        growing: Outputs of earlier plans that are among the sources, to be joined again; they are
            not among the `outputs`.
    """

    id: GroupId
    sources: Sequence[Source]
    outputs: tuple[Source, ...]
    listed_at: float
    growing: tuple[Source, ...] = ()

    @property
    def output_keys(self) -> frozenset[str]:
        """The keys of all outputs of earlier plans."""
        return frozenset(output.key for output in (*self.outputs, *self.growing))


class Why(enum.StrEnum):
    """Why a source was kept. The values are names in the report."""

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
    EXCLUDED = "excluded"  # by the user's patterns
    UNPLANNED = "unplanned"  # no output that a saved plan still asks for takes them
    LEASED = "leased"  # their group is another run's
    UNFINISHED = "unfinished"  # an earlier run's plan record stands on their group
    STOPPED = "stopped"  # the run ended before their turn
    ATTRIBUTES = "attributes"  # their neighbours say something else of themselves
    HEADER = "header"  # their neighbours have another first line
    FAILED = "failed"  # with the output that they were to be joined into


@dataclass(frozen=True, slots=True)
class Kept:
    """The key of a source that is neither joined nor deleted, and the reason."""

    key: str
    why: Why


class Span(NamedTuple):
    """`length` bytes of one source from byte `start`."""

    source: Source
    start: int
    length: int

    @property
    def whole(self) -> bool:
        """Whether the span is the whole source."""
        return self.length == self.source.size

    @property
    def ends_source(self) -> bool:
        """Whether the span includes the source's last byte."""
        return self.start + self.length == self.source.size


class WholeSpans(Sequence[Span]):
    """Every source as one span. Spans are made on access, not stored."""

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
    """Spans that pass through this process, which cuts them into upload parts as they arrive."""

    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Copy:
    """One span that the store copies by itself as one upload part."""

    span: Span


Part = Stream | Copy


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive sources of a group that become one output.

    Attributes:
        output: The output's key.
        size: Bytes of all sources, as listed.
        digest: SHA-256 over the ordered (key, ETag, size) of the sources. An output with this
            digest in its metadata holds exactly this batch.
    """

    output: str
    sources: Sequence[Source]
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with a group: batches to join and sources to keep.

    `gaps` and `overlaps` count neighbouring sources whose offsets do not meet, None where names do
    not say where a source ends; `excluded` counts those that the user's patterns leave out.
    """

    group: GroupId
    batches: tuple[Batch, ...]
    kept: tuple[Kept, ...]
    gaps: int | None = 0
    overlaps: int | None = 0
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """The store's receipt for one part.

    `size` is in bytes; `checksum` is base64 in the upload's algorithm, or empty if it has none.
    """

    number: int
    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Differences:
    """What sources of one output say of themselves that its first one does not.

    Attributes:
        sources: How many say something else where the user did not choose what the output says.
        example: What one of them says, in words; empty if there is none.
        noted: By key, what a source says otherwise, as JSON.
        unnoted: How many more say something else; what they say was too much to keep.
    """

    sources: int = 0
    example: str = ""
    noted: Mapping[str, str] = field(default_factory=dict)
    unnoted: int = 0


class JoinedSource(NamedTuple):
    """What one source gave to its output: `length` bytes there.

    Size and CRC64NVME of its inflated content are None where nothing was looked at, `records` where
    none were counted.
    """

    length: int
    records: int | None
    content: int | None
    crc64: int | None


@dataclass(frozen=True, slots=True)
class TransferredBatch:
    """A batch whose parts are all uploaded, and not yet visible as an object.

    Attributes:
        size: Bytes of all parts.
        crc64: CRC-64/NVME of the whole: of the bytes as they were joined or, if the store copied
            any, combined from the parts' checksums.
        records: Records in the batch; None if the content was not checked.
        sources: What each source gave to the output, in order.
        differences: What sources say of themselves that the first does not.
    """

    parts: tuple[UploadedPart, ...]
    size: int
    crc64: int
    records: int | None
    sources: Sequence[JoinedSource] = ()
    differences: Differences = field(default_factory=Differences)


@dataclass(frozen=True, slots=True)
class CommittedOutput:
    """An output that was read back and proven, and what happened to its sources.

    Attributes:
        sources: How many sources it was made of.
        size: In bytes.
        records: Records in it; None if they were not counted.
        first: The first offset of its sources; None if their names have none.
        last: The largest offset of its sources; None if their names do not say where they end.
        checksum: CRC-64/NVME in base64; empty if unknown.
        deleted: How many of its sources this run has deleted.
        gone: How many of them are gone, whoever deleted them.
        freed: Characters of the keys of the sources that are gone.
        kept: Sources whose deletion failed or that have changed.
        recovered: Whether an earlier run had written it.
        unreached: How many were still to be deleted when the deletes failed.
        differing: How many of its sources say of themselves what the output does not.
        not_kept: What the output was to say and does not, in words; empty if it says all.
        example: What one of these sources says, in words.
    """

    key: str
    sources: int
    size: int
    records: int | None
    first: int | None
    last: int | None
    checksum: str
    deleted: int
    gone: int
    freed: int
    kept: tuple[Kept, ...]
    recovered: bool = False
    unreached: int = 0
    differing: int = 0
    not_kept: str = ""
    example: str = ""

    @property
    def joined(self) -> int:
        """Its sources that are deleted, or kept because deletes are off."""
        return self.sources - len(self.kept) - self.unreached


@dataclass(frozen=True, slots=True)
class UndoneOutput:
    """An output that was given back as its sources, and deleted.

    Attributes:
        sources: How many sources it was made of.
        written: How many of them this run wrote; the others were there.
        size: In bytes.
        unnoted: Of how many sources the ledger does not know in what they differed from the first:
            these say of themselves what the first one does.
    """

    key: str
    sources: int
    written: int
    size: int
    unnoted: int = 0
