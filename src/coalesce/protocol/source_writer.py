"""One source written again under its name: create-only, through an upload that an undo record
names, and read back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from coalesce.content.attributes import restored
from coalesce.content.share import Digest, GzipMode, Share, content_joiner
from coalesce.errors import (
    CoalesceError,
    Conflict,
    ContentError,
    Fenced,
    IntegrityError,
    KeyTaken,
    StorageError,
)
from coalesce.model import UploadedPart
from coalesce.planning.parts import PART_BYTES
from coalesce.protocol.commit import Blocked, check_head, judge, send_complete
from coalesce.protocol.entry_reader import SourceLine
from coalesce.protocol.ledger import EntryHeader, Expected, expect_parts
from coalesce.protocol.session import Session
from coalesce.storage import checksums
from coalesce.storage.attributes import SSE, Attributes
from coalesce.storage.base import CreatedUpload, Head, ObjectStore
from coalesce.transfer.limits import Budget
from coalesce.transfer.output_reader import off_loop
from coalesce.transfer.readback import read_output

# How often Complete is sent while nothing is known.
_COMPLETES = 4


def attributes_of(header: EntryHeader, line: SourceLine) -> Attributes:
    """What a source said of itself, as the ledger has noted it."""
    return restored(header.attributes, line.differing or {})


def share_of(session: Session, header: EntryHeader, line: SourceLine) -> Share:
    """What turns the place of a source in its output back into the source.

    With a key of KMS an ETag is no MD5.
    """
    kms = attributes_of(header, line).headers.get(SSE, "").startswith("aws:kms")
    return Share(line, header.gzip, md5_etag=session.store.md5_etags and not kms)


async def begin_source(session: Session, header: EntryHeader, line: SourceLine) -> CreatedUpload:
    """Begins the upload of a source, which says of itself what the source did.

    Raises StorageError.
    """
    async with session.capacity.writes.slot():
        return await session.store.create_upload(
            line.key,
            checksum=session.rules.capabilities.checksum,
            metadata={},
            attributes=attributes_of(header, line),
        )


@dataclass(slots=True)
class SourceWriter:
    """Sends the parts of one source as they come, and completes its upload.

    The `window` is asked for the bytes of every part that is on its way.
    """

    session: Session
    line: SourceLine
    mode: GzipMode
    upload_id: str
    share: Share
    window: Budget
    tasks: asyncio.TaskGroup
    _pending: list[bytes] = field(default_factory=list)
    _pending_size: int = 0
    _parts: list[asyncio.Task[UploadedPart]] = field(default_factory=list)

    async def take(self, data: bytes) -> None:
        """Takes the next bytes of the source's place in the output. Raises IntegrityError."""
        self._add(await off_loop(self.share.feed, data))
        sizes = self.session.rules.sizes
        part = sizes.of_output(self.line.length)
        while self._pending_size >= part + sizes.least:
            await self._send_part(part)

    async def finish(self) -> None:
        """Sends the last part. Raises IntegrityError if the source is not what the ledger says."""
        self._add(self.share.finish())
        await self._send_part(self._pending_size)

    def _add(self, pieces: Sequence[bytes]) -> None:
        self._pending += pieces
        self._pending_size += sum(map(len, pieces))

    async def _send_part(self, size: int) -> None:
        pending = b"".join(self._pending)
        self._pending, self._pending_size = [pending[size:]], len(pending) - size
        held = await self.window.acquire(size)
        number = len(self._parts) + 1
        self._parts.append(self.tasks.create_task(self._upload(number, pending[:size], held)))

    async def _upload(self, number: int, data: bytes, held: int) -> UploadedPart:
        checksum = self.session.rules.capabilities.checksum
        async with self.session.capacity.writes.slot():
            receipt = await self.session.store.upload_part(
                self.line.key,
                self.upload_id,
                number,
                [data],
                checksum=checksum,
                value=checksums.part_checksum([data], checksum),
            )
        self.window.release(held)
        return receipt

    async def complete(self) -> Head:
        """Completes the upload create-only; the HEAD of what is there then and is the source.

        An object with the same content counts, whoever wrote it. Raises KeyTaken for another one,
        Fenced, Conflict, IntegrityError, StorageError, LeaseLost.
        """
        parts = [await part for part in self._parts]
        expected = expect_parts(self.session.rules, parts, self.share.crc64)
        unanswered = False
        for _ in range(_COMPLETES):
            head, answer = await self._complete_once(parts, expected)
            if head is not None:
                if answer is None and not unanswered:
                    await check_head(self.session, head, expected, own=True)
                else:
                    await self._hold_against(head)
                return head
            if answer is None:
                message = f"{self.line.key}: the store reported success, but nothing is there"
                raise IntegrityError(message, key=self.line.key)
            blocked = judge(answer, unanswered)
            if blocked is not Blocked.UNANSWERED:
                raise _blocked(self.line.key, blocked)
            unanswered = True
        assert answer is not None
        raise answer

    async def _hold_against(self, head: Head) -> None:
        """Makes sure that what is there is the source, whoever wrote it; ends an upload that did
        not.
        """
        digest = self.share.digest
        if not await holds(self.session.store, head, self.line, self.mode, digest, self.window):
            raise key_taken(self.line.key)
        await self.session.store.abort_upload(self.line.key, self.upload_id)

    async def _complete_once(
        self, parts: Sequence[UploadedPart], expected: Expected
    ) -> tuple[Head | None, StorageError | None]:
        session = self.session
        async with session.capacity.writes.slot():
            session.lease.check()
            answer = await send_complete(session, self.line.key, self.upload_id, parts, expected)
            return await session.store.head(self.line.key), answer


async def holds(
    store: ObjectStore, head: Head, line: SourceLine, mode: GzipMode, digest: Digest, window: Budget
) -> bool:
    """Whether an object holds a source, by reading it; the `window` is asked for the bytes.

    Raises StorageError.
    """
    joiner = content_joiner(line, mode)
    async with window.hold(2 * min(head.size, PART_BYTES)):
        try:
            crc64 = await read_output(store, head, joiner)
            joiner.finish()
        except ContentError:
            return False
    if line.content is None:
        return digest == (crc64, head.size)
    return digest == (joiner.content_crc64, joiner.content_size)


def key_taken(key: str) -> KeyTaken:
    """The failure of a source whose name another object has."""
    return KeyTaken(f"{key}: another object has the name of this source", key=key)


def _blocked(key: str, blocked: Blocked) -> CoalesceError:
    if blocked is Blocked.FENCED:
        return Fenced(f"{key}: another run aborted this upload and took over the undo", key=key)
    return Conflict(f"{key}: a concurrent change made its upload useless", key=key)
