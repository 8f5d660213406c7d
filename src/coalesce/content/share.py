"""What one source gave to its output, turned back into the source."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple, Protocol

from coalesce.content.deflater import Deflater
from coalesce.content.gzip_members import EMPTY_MEMBER, NEWLINE_MEMBER
from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import Members
from coalesce.errors import ContentError, IntegrityError
from coalesce.storage import checksums
from coalesce.storage.checksums import looks_like_md5

GzipMode = Literal["single", "members", "none"]

_KEPT = (
    "No output was deleted. Compare this source's place in the output with its ledger entry; "
    '"Exit code 4" in docs/operations.md says how.'
)


class Described(Protocol):
    """What the ledger says of a source."""

    @property
    def key(self) -> str:
        """As it was."""
        ...

    @property
    def etag(self) -> str:
        """As it was listed."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    @property
    def content(self) -> int | None:
        """Bytes of its inflated content; None where that was not looked at."""
        ...

    @property
    def crc64(self) -> int | None:
        """CRC64NVME of its inflated content; None where that was not looked at."""
        ...


class Digest(NamedTuple):
    """By what two objects are told to hold the same: CRC64NVME and size of the inflated content,
    or of the bytes where the content was not looked at.
    """

    crc64: int
    size: int


def content_joiner(line: Described, mode: GzipMode) -> Joiner:
    """What reads the content of an object that should be this source."""
    if line.content is None:
        return AsIs()
    return Lines(line.key) if mode == "none" else Members(line.key)


class Share:
    """Takes the place of one source in an output, and returns the bytes of the source.

    A newline that was supplied is taken off again. Text becomes one gzip member. What comes out is
    read as a reader would, and held against what the ledger says of the source.

    Args:
        line: What the ledger says.
        mode: How the output was made.
        md5_etag: Whether the source's ETag, if it has the form of an MD5, is one.

    Attributes:
        size: Bytes of the source so far.
        crc64: CRC64NVME of these bytes.
    """

    def __init__(self, line: Described, mode: GzipMode, *, md5_etag: bool) -> None:
        self.size = self.crc64 = 0
        self._line = line
        self._mode = mode
        self._joiner = content_joiner(line, mode)
        self._deflater = Deflater() if mode == "single" else None
        self._taken = 0
        self._tail = b""  # what may be a newline that was supplied
        wanted = md5_etag and mode != "single" and looks_like_md5(line.etag)
        self._md5 = hashlib.md5(usedforsecurity=False) if wanted else None

    @property
    def digest(self) -> Digest:
        """What another object must hold to be the same."""
        if self._line.content is None:
            return Digest(self.crc64, self.size)
        return Digest(self._joiner.content_crc64, self._joiner.content_size)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes of the place, and returns bytes of the source. Raises IntegrityError
        for what is no gzip.
        """
        content = self._line.content
        if content is None:
            return self._give(data)
        if self._mode == "members":
            data = self._tail + data
            self._tail = data[-len(NEWLINE_MEMBER) :]
            return self._give(data[: -len(NEWLINE_MEMBER)])
        text = data[: max(0, content - self._taken)]
        self._taken += len(text)
        return self._give(self._deflater.deflate(text) if self._deflater else text)

    def finish(self) -> list[bytes]:
        """Returns the rest of the source. Raises IntegrityError if it is not what the ledger says,
        or not what its ETag was made of.
        """
        rest: list[bytes] = []
        if self._deflater is not None:
            rest += self._give(self._deflater.finish())
        elif not self._is_supplied(self._tail):
            rest += self._give(self._tail)
        if not self.size and self._mode != "none":
            rest += self._give(EMPTY_MEMBER)
        self._check()
        return rest

    def _is_supplied(self, tail: bytes) -> bool:
        """Whether the source was whole before these last bytes, which are a newline."""
        return tail == NEWLINE_MEMBER and self.digest == (self._line.crc64, self._line.content)

    def _give(self, data: bytes) -> list[bytes]:
        if not data:
            return []
        self.size += len(data)
        self.crc64 = checksums.crc64([data], self.crc64)
        if self._md5 is not None:
            self._md5.update(data)
        try:
            self._joiner.feed(data)
        except ContentError as error:
            raise self._other() from error
        return [data]

    def _check(self) -> None:
        line = self._line
        try:
            self._joiner.finish()
        except ContentError as error:
            raise self._other() from error
        expected: tuple[int | None, int | None] = (line.crc64, line.content)
        if line.content is None:
            expected = (self.crc64, line.size)
        if self.digest != expected:
            raise self._other()
        # Bytes that were left out, of members that hold nothing, cannot be brought back.
        md5 = self._md5.hexdigest() if self._md5 and self.size == line.size else ""
        if md5 and md5 != line.etag.strip('"').lower():
            raise self._other()

    def _other(self) -> IntegrityError:
        message = f"{self._line.key}: what its output holds of it is not what the ledger says"
        return IntegrityError(message, key=self._line.key, hint=_KEPT)
