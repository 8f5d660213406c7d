"""Lays out the parts of an output: spans to stream, and spans that the store copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coalesce.model import Copy, Part, Source, Span, Stream, WholeSpans
from coalesce.storage.limits import MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES

# The most that one GET or one upload part holds in memory, unless 10,000 such parts are too few for
# the output.
PART_BYTES = 8 * 1024**2


def part_bytes(size: int) -> int:
    """Returns the bytes of an upload part for sources of `size` bytes in all.

    That is PART_BYTES, or more if 10,000 such parts are too few. A tenth of the parts is held in
    reserve, since added newlines make an output longer than its sources.
    """
    return max(PART_BYTES, -(-size // (MAX_PARTS * 9 // 10)))


def lay_out(sources: Sequence[Source], *, copy: bool) -> tuple[Part, ...]:
    """Lays out the parts of an output.

    S3 asks for 5 MiB in every part but the last, so a stream in front of a copy is filled up with
    the beginning of the source that is then copied.

    Args:
        sources: The sources of a batch, by offset.
        copy: Whether the store copies the sources that are large enough; otherwise everything is
            streamed.

    Returns:
        Parts that hold every byte of the sources once, in order. A `Stream` may become several
        upload parts, a `Copy` is one.
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
        parts += [Copy(span) for span in _copy_ranges(source, missing)]
    if streamed:
        parts.append(Stream(tuple(streamed)))
    return tuple(parts)


def _copy_ranges(source: Source, start: int) -> Iterator[Span]:
    """Yields equal ranges of at most 5 GiB over the rest of a source, which is 5 MiB or more."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
