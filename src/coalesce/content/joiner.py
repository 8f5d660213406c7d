"""How one source passes into an output."""

from __future__ import annotations

from typing import Protocol


class Joiner(Protocol):
    """One source on its way into an output.

    `records` counts what has passed so far; None where nothing is looked at. `content_size` and
    `content_crc64` are bytes and CRC64NVME of the inflated content so far, where it is.
    """

    records: int | None
    content_size: int
    content_crc64: int

    def feed(self, data: bytes) -> list[bytes]:
        """The next bytes of the source; what of them goes into the output now.

        Raises ContentError.
        """
        ...

    def finish(self) -> list[bytes]:
        """The end of the source; what is still to be written.

        Raises ContentError if the source is not whole.
        """
        ...


class AsIs:
    """Bytes pass unchecked: the user said so."""

    records: int | None = None
    content_size = 0
    content_crc64 = 0

    def feed(self, data: bytes) -> list[bytes]:
        """See `Joiner`."""
        return [data]

    def finish(self) -> list[bytes]:
        """See `Joiner`."""
        return []
