"""The protocol of joiners, and the joiner that changes nothing."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override


class Joiner(Protocol):
    """Takes the body of one source and returns what goes into the output.

    Attributes:
        length: Bytes of the output that it came to so far; where the output is one member, of the
            output's text.
        left_out: Bytes of the source so far that did not become bytes of the output.
        is_checked: Whether the content is looked at.
        proves_itself: Whether all content so far has a checksum beside it, which it matches.
        records: Records so far; None if they are not counted.
        content_size: Bytes of the inflated content so far; 0 if it is not checked.
        content_crc64: CRC-64/NVME of the inflated content so far; 0 if it is not checked.
    """

    length: int
    left_out: int
    is_checked: bool
    proves_itself: bool
    records: int | None
    content_size: int
    content_crc64: int

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes of the source, in order, in pieces of any size.

        Returns:
            Bytes to append to the output now.

        Raises:
            ContentError: The source is corrupt.
        """
        ...

    def finish(self) -> list[bytes]:
        """Ends the source.

        Returns:
            Bytes to append to the output, such as a missing final newline.

        Raises:
            ContentError: The source is truncated.
        """
        ...


class AsIs(Joiner):
    """Passes bytes on unchecked (`--no-check`)."""

    length = left_out = 0
    is_checked = proves_itself = False
    records: int | None = None
    content_size = 0
    content_crc64 = 0

    @override
    def feed(self, data: bytes) -> list[bytes]:
        self.length += len(data)
        return [data]

    @override
    def finish(self) -> list[bytes]:
        return []
