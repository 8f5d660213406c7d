"""What the members of one codec look like: gzip members, zstd frames, bzip2 streams."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from coalesce.model import Codec


class Unreadable(Exception):
    """Why a member cannot be read, in words; `code` is the failure's, if it has one of its own."""

    def __init__(self, why: str, code: str = "") -> None:
        super().__init__(why)
        self.code = code


class MemberHeader(NamedTuple):
    """What the header of a member says.

    `is_summed` says that a checksum of its content stands in it; `is_skipped` that it has no
    content, and is not carried over.
    """

    is_summed: bool = True
    is_skipped: bool = False


SUMMED = MemberHeader()


class Decoder(Protocol):
    """Takes one member apart, as those of Python's `bz2` do.

    `eof` says that the member has ended, `unused_data` is what came behind it. `needs_input` is
    false while there is more of what was given to it.
    """

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more without further bytes."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was given to it and is no part of the member."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Returns at most so many bytes of content. Raises one of the form's `errors`."""
        ...


class Form(Protocol):
    """How members of one codec begin, and what takes them apart.

    Attributes:
        codec: The codec.
        member: What one member is called.
        begin: The first bytes of each.
        newline: A member that holds a newline.
        empty: A member that holds nothing, as it is written.
        errors: What its decoders raise.
    """

    codec: Codec
    member: str
    begin: bytes
    newline: bytes
    empty: bytes
    errors: tuple[type[Exception], ...]

    def header(self, data: bytes, at: int) -> MemberHeader | None:
        """Reads the header of the member that begins at a byte.

        Returns None if more bytes are needed. Raises Unreadable.
        """
        ...

    def decoder(self) -> Decoder:
        """Returns what takes one member apart."""
        ...
