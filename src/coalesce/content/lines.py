"""Newline-ended text."""

from __future__ import annotations

from coalesce.storage import checksums


class Lines:
    """Newline-ended text. A missing last newline is supplied."""

    def __init__(self, key: str) -> None:
        self.records: int | None = 0
        self.content_size = 0
        self.content_crc64 = 0
        self._lines = 0
        self._last = b"\n"

    def feed(self, data: bytes) -> list[bytes]:
        """See `Joiner`."""
        self.content_size += len(data)
        self.content_crc64 = checksums.crc64([data], self.content_crc64)
        self._lines += data.count(b"\n")
        self._last = data[-1:] or self._last
        self.records = self._lines + (self._last != b"\n")
        return [data]

    def finish(self) -> list[bytes]:
        """See `Joiner`."""
        return [] if self._last == b"\n" else [b"\n"]
