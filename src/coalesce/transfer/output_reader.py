"""An output read once, from its first byte to its last, for those who take its bytes in pieces."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from coalesce.content.text import Text
from coalesce.errors import ContentError, IntegrityError
from coalesce.storage import checksums
from coalesce.storage.base import Head, ObjectStore
from coalesce.transfer.limits import Limiter

T = TypeVar("T")

# Bytes that are inflated at once: a thousand times as much text at the most.
_FED_BYTES = 64 * 1024

# So many bytes are worked on in less time than another thread takes to begin.
_MOMENT_BYTES = 16 * 1024


class OutputReader:
    """Hands out the bytes of an output, or the text of its one gzip member, in order.

    Memory is one part, and the text of 64 KiB.

    Args:
        store: Where the output is.
        reads: Lets its requests through.
        head: Names the output, and the version of it that is read.
        part_bytes: What one GET brings.
        single: Whether the output is one gzip member, of which the text is wanted.

    Attributes:
        crc64: CRC64NVME of the output's bytes so far.
    """

    def __init__(
        self, store: ObjectStore, reads: Limiter, head: Head, part_bytes: int, *, single: bool
    ) -> None:
        self.crc64 = 0
        self._store = store
        self._reads = reads
        self._head = head
        self._part_bytes = part_bytes
        self._text = Text(head.key) if single else None
        self._read = 0
        self._body = b""
        self._at = 0  # in the body
        self._ready: deque[bytes] = deque()
        self._taken = 0  # of the first of them
        self._ended = False

    async def take(self, most: int) -> bytes:
        """Returns the next bytes, at most so many; none at the end.

        Raises IntegrityError for what is no gzip; StorageError, PreconditionFailed or NotFound if
        that version is gone.
        """
        while not self._ready and not self._ended:
            await self._read_on()
        if not self._ready:
            return b""
        piece = self._ready[0][self._taken : self._taken + most]
        self._taken += len(piece)
        if self._taken == len(self._ready[0]):
            self._ready.popleft()
            self._taken = 0
        return piece

    async def drain(self) -> int:
        """Reads to the end; returns how many bytes nobody has taken."""
        left = 0
        while piece := await self.take(self._part_bytes):
            left += len(piece)
        return left

    async def _read_on(self) -> None:
        if self._at == len(self._body):
            if self._read == self._head.size:
                self._ended = True
                self._add(await self._inflate(b"") if self._text else [])
                return
            await self._fetch()
        if self._text is None:
            self._add([self._body])
            self._body, self._at = b"", 0
            return
        piece = self._body[self._at : self._at + _FED_BYTES]
        self._at += len(piece)
        self._add(await self._inflate(piece))

    async def _fetch(self) -> None:
        head, length = self._head, min(self._part_bytes, self._head.size - self._read)
        async with self._reads.slot():
            body = await self._store.get(head.key, etag=head.etag, start=self._read, length=length)
        self._read += length
        self._body, self._at = body.data, 0
        self.crc64 = checksums.crc64([body.data], self.crc64)

    async def _inflate(self, piece: bytes) -> list[bytes]:
        """The text of the next bytes; without any, what the end of the member brings."""
        assert self._text is not None
        try:
            if piece:
                return await off_loop(self._text.feed, piece)
            return self._text.finish()
        except ContentError as error:
            raise IntegrityError(error.message, key=self._head.key, code=error.code) from error

    def _add(self, pieces: list[bytes]) -> None:
        self._ready.extend(piece for piece in pieces if piece)


async def off_loop(work: Callable[[bytes], T], data: bytes) -> T:
    """What the work returns for these bytes: on another thread than the event loop's, unless it is
    a matter of a moment.
    """
    return work(data) if len(data) <= _MOMENT_BYTES else await asyncio.to_thread(work, data)
