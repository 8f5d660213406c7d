"""The parts of an output: streamed spans, and spans that the store copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coalesce.model import (
    Copy,
    Part,
    Source,
    Span,
    Stream,
    WholeSpans,
)
from coalesce.storage.limits import (
    MAX_PART_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
)

# One GET or one upload part at the most that passes through memory in one piece, unless 10,000
# parts would not hold the output.
PART_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Bytes of one upload part or one read, and the least that a part may have which is not the
    last (S3 "Multipart upload limits").
    """

    usual: int = PART_BYTES
    least: int = MIN_PART_BYTES

    def of_output(self, size: int) -> int:
        """Bytes of an upload part for an output of `size` bytes: the usual, or more where 10,000 of
        them would not do.

        One part in ten is kept back: supplied newlines make an output longer than its sources.
        """
        return max(self.usual, -(-size // (MAX_PARTS * 9 // 10)))


def lay_out(sources: Sequence[Source], sizes: PartSizes, *, copy: bool) -> tuple[Part, ...]:
    """The parts of an output: everything streamed, or with `copy` whatever the store can copy by
    itself, unless that takes more than 10,000 parts.

    A copied part and every part but the last need 5 MiB, so a stream in front of a copy is topped
    up by cutting the source that would be copied.
    """
    if copy:
        parts = tuple(_lay_out_copies(sources, sizes.least))
        part_bytes = sizes.of_output(sum(source.size for source in sources))
        if sum(_count_uploads(part, part_bytes) for part in parts) <= MAX_PARTS:
            return parts
    return (Stream(WholeSpans(sources)),)


def _lay_out_copies(sources: Sequence[Source], least: int) -> Iterator[Part]:
    streamed: list[Span] = []
    size = 0
    for source in sources:
        missing = max(0, least - size) if streamed else 0
        if source.size - missing < least:
            streamed.append(Span(source, 0, source.size))
            size += source.size
            continue
        if missing:
            streamed.append(Span(source, 0, missing))
        if streamed:
            yield Stream(tuple(streamed))
            streamed, size = [], 0
        yield from (Copy(span) for span in _ranges(source, missing))
    if streamed:
        yield Stream(tuple(streamed))


def _count_uploads(part: Part, part_bytes: int) -> int:
    """How many parts of an upload it takes at the most."""
    if isinstance(part, Copy):
        return 1
    return 1 + sum(span.length for span in part.spans) // part_bytes


def _ranges(source: Source, start: int) -> Iterator[Span]:
    """Equal ranges of at most 5 GiB over the rest of a source of at least 5 MiB."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
