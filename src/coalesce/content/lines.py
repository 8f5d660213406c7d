"""The joiner of plain text."""

from __future__ import annotations

from typing_extensions import override

from coalesce.content.joiner import Joiner
from coalesce.storage import checksums


class Lines(Joiner):
    """Joins newline-ended text: bytes are passed on, and a missing final newline is added.

    Without it, the last record of a source and the first of the next would become one.
    """

    def __init__(self, key: str) -> None:
        self.length = self.left_out = 0
        self.records: int | None = 0
        self.content_size = 0
        self.content_crc64 = 0
        self._lines = 0
        self._last = b"\n"

    @override
    def feed(self, data: bytes) -> list[bytes]:
        self.length += len(data)
        self.content_size += len(data)
        self.content_crc64 = checksums.crc64([data], self.content_crc64)
        self._lines += data.count(b"\n")
        self._last = data[-1:] or self._last
        self.records = self._lines + (self._last != b"\n")
        return [data]

    @override
    def finish(self) -> list[bytes]:
        if self._last == b"\n":
            return []
        self.length += 1
        return [b"\n"]
