"""Lays out the parts of an output: spans to stream, and spans that the store copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coalesce.model import Copy, Part, Source, Span, Stream, WholeSpans
from coalesce.storage.limits import MAX_PART_BYTES, MAX_PARTS, MIN_PART_BYTES

# The most that one GET or one upload part holds in memory, unless 10,000 such parts are too few for
# the output.
PART_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Sizes of upload parts and reads, in bytes.

    Attributes:
        usual: The most that one GET or one upload part holds in memory.
        least: The least that a part may hold, except the last one.
    """

    usual: int = PART_BYTES
    least: int = MIN_PART_BYTES

    def of_output(self, size: int, *, single: bool = False) -> int:
        """Returns the bytes of an upload part for sources of `size` bytes in all.

        That is the usual, or more if 10,000 such parts are too few. A tenth of the parts is held
        in reserve, since added newlines make an output longer than its sources; three quarters
        where it is deflated again into a `single` member.
        """
        parts = MAX_PARTS // 4 if single else MAX_PARTS * 9 // 10
        return max(self.usual, -(-size // parts))


def lay_out(
    sources: Sequence[Source], sizes: PartSizes, *, copy: bool, check: bool = False
) -> tuple[Part, ...]:
    """Lays out the parts of an output.

    S3 asks for 5 MiB in every part but the last, so a stream in front of a copy is filled up with
    the beginning of the source that is then copied.

    Args:
        sources: The sources of a batch, by offset.
        sizes: How large parts are.
        copy: Whether the store copies the sources that are large enough. Otherwise, and if that
            takes more than 10,000 parts, everything is streamed.
        check: Whether sources are read even if the store copies them. Then it copies those that are
            too large for one GET: to copy others would cost more requests than it saves bytes.

    Returns:
        Parts that hold every byte of the sources once, in order. A `Stream` may become several
        upload parts, a `Copy` is one.
    """
    if copy:
        smallest = sizes.usual + 1 if check else sizes.least
        parts = tuple(_lay_out_copies(sources, sizes.least, smallest))
        part_bytes = sizes.of_output(sum(source.size for source in sources))
        if sum(_count_uploads(part, part_bytes) for part in parts) <= MAX_PARTS:
            return parts
    return (Stream(WholeSpans(sources)),)


def _lay_out_copies(sources: Sequence[Source], least: int, smallest: int) -> Iterator[Part]:
    streamed: list[Span] = []
    size = 0
    for source in sources:
        missing = max(0, least - size) if streamed else 0
        if source.size < smallest or source.size - missing < least:
            streamed.append(Span(source, 0, source.size))
            size += source.size
            continue
        if missing:
            streamed.append(Span(source, 0, missing))
        if streamed:
            yield Stream(tuple(streamed))
            streamed, size = [], 0
        yield from (Copy(span) for span in _copy_ranges(source, missing))
    if streamed:
        yield Stream(tuple(streamed))


def _count_uploads(part: Part, part_bytes: int) -> int:
    """How many parts of an upload it takes at the most."""
    if isinstance(part, Copy):
        return 1
    return 1 + sum(span.length for span in part.spans) // part_bytes


def _copy_ranges(source: Source, start: int) -> Iterator[Span]:
    """Yields equal ranges of at most 5 GiB over the rest of a source, which is 5 MiB or more."""
    rest = source.size - start
    count = -(-rest // MAX_PART_BYTES)
    for n in range(count):
        begin, end = start + rest * n // count, start + rest * (n + 1) // count
        yield Span(source, begin, end - begin)
