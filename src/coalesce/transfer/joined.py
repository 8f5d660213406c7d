"""What each source of a batch gave to its output, packed: a batch may have a million of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

from coalesce.content.joiner import Joiner
from coalesce.model import JoinedSource, Span

_UNKNOWN = -1


class JoinedSources(Sequence[JoinedSource]):
    """In the order of the batch; 32 bytes a source."""

    __slots__ = ("_contents", "_crcs", "_lengths", "_records")

    def __init__(self) -> None:
        self._lengths, self._records, self._contents = array("q"), array("q"), array("q")
        self._crcs = array("Q")

    def add(self, span: Span, length: int, joiner: Joiner | None) -> None:
        """`length` bytes in the output that a span came to.

        The spans of a source come in order; `joiner` is the source's once its last has passed.
        """
        if span.start == 0:
            self._lengths.append(0)
            self._records.append(_UNKNOWN)
            self._contents.append(_UNKNOWN)
            self._crcs.append(0)
        self._lengths[-1] += length
        if joiner is None:
            return
        self._lengths[-1] = joiner.length
        if joiner.is_checked:
            self._contents[-1] = joiner.content_size
            self._crcs[-1] = joiner.content_crc64
        if joiner.records is not None:
            self._records[-1] = joiner.records

    @property
    def records(self) -> int | None:
        """Records of all sources, None if those of any were not counted."""
        return None if _UNKNOWN in self._records else sum(self._records)

    @property
    def last_length(self) -> int:
        """Bytes that the last source came to so far."""
        return self._lengths[-1]

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, at: int) -> JoinedSource: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[JoinedSource]: ...
    def __getitem__(self, at: int | slice) -> JoinedSource | Sequence[JoinedSource]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        if self._contents[at] == _UNKNOWN:
            return JoinedSource(self._lengths[at], None, None, None)
        records = None if self._records[at] == _UNKNOWN else self._records[at]
        return JoinedSource(self._lengths[at], records, self._contents[at], self._crcs[at])
