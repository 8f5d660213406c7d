"""The parts of an output: streamed spans, and spans that the store copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def _ranges(source: Source, start: int) -> Iterator[Span]:
    """Equal ranges of at most 5 GiB over the rest of a source of at least 5 MiB."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
