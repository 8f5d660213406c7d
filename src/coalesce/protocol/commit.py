"""The step from parts to an output that is proven, and from there to deleted sources.

Deleting takes a `Committed`, and only reading the output back makes one (invariant I1).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence

from coalesce.content.members import NEWLINE_MEMBER
from coalesce.content.rules import ContentRules
from coalesce.errors import (
    AccessDenied,
    BadRequest,
    Conflict,
    ContentError,
    Fenced,
    IntegrityError,
    NoSuchUpload,
    PreconditionFailed,
    StorageError,
    Unavailable,
)
from coalesce.model import Batch, Kept, Source, TransferredBatch, Why
from coalesce.planning.parts import PART_BYTES
from coalesce.protocol.session import Session
from coalesce.storage import checksums
from coalesce.storage.base import Deleted, DeleteResult, Head
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import DELETE_PAGE

DIGEST = "coalesce-plan"
COUNT = "coalesce-sources"
VERSION = "coalesce-version"

_TRIES = 4


_WITNESS = object()


class Committed:
    """Proof that this process has itself just read the output back and found it to be the batch.

    Made by `read_back` and `recognise` alone.
    """

    __slots__ = ("batch", "checksum", "size")

    def __init__(self, batch: Batch, size: int, checksum: str, witness: object) -> None:
        if witness is not _WITNESS:
            raise TypeError("only reading an output back makes a Committed")
        self.batch = batch
        self.size = size
        self.checksum = checksum


class ReadBack(enum.Enum):
    """What HEAD shows at the output's key."""

    MATCHES = "matches"
    ABSENT = "absent"
    FOREIGN = "foreign"  # an object of another plan


class Next(enum.Enum):
    """What follows from the answer to Complete and from what was read back."""

    COMMITTED = "committed"
    REPEAT = "repeat"  # the same Complete again
    RESTART = "restart"  # a new upload
    FENCED = "fenced"
    TAKEN = "taken"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def decide(answer: StorageError | None, seen: ReadBack) -> Next:
    """The decision after Complete: what is there counts, the answer only tells how to go on where
    nothing is.
    """
    if seen is ReadBack.MATCHES:
        return Next.COMMITTED
    if seen is ReadBack.FOREIGN:
        return Next.TAKEN
    match answer:
        case NoSuchUpload():
            return Next.FENCED
        case Conflict() | PreconditionFailed():
            return Next.RESTART
        case BadRequest() | AccessDenied():
            return Next.REFUSED
        case Unavailable():
            return Next.REPEAT
    return Next.UNKNOWN


def metadata_of(batch: Batch, version: str) -> dict[str, str]:
    """What an output says of itself: anyone can recognise by it what it was made of."""
    return {DIGEST: batch.digest, COUNT: str(len(batch.sources)), VERSION: version}


async def complete(
    session: Session, batch: Batch, upload_id: str, transferred: TransferredBatch
) -> Committed | Next:
    """Completes an upload create-only and reads it back, until the outcome is known or cannot be.

    Raises LeaseLost, IntegrityError, StorageError.
    """
    checksum = session.rules.capabilities.checksum
    for _ in range(_TRIES):
        session.lease.check()
        answer: StorageError | None = None
        if (
            not session.rules.capabilities.create_only_complete
            and await session.store.head(batch.output) is not None
        ):
            answer = PreconditionFailed(f"{batch.output}: exists", key=batch.output)
        else:
            try:
                await session.store.complete_upload(
                    batch.output,
                    upload_id,
                    transferred.parts,
                    checksum=checksum,
                    value=checksums.encoded(transferred.crc64),
                )
            except StorageError as error:
                answer = error
        committed, seen = await read_back(session, batch, transferred)
        following = decide(answer, seen)
        if committed is not None:
            return committed
        if following is Next.REFUSED or following is Next.UNKNOWN:
            raise answer or IntegrityError(
                f"{batch.output}: completed, but not there", key=batch.output
            )
        if following is not Next.REPEAT:
            return following
    raise answer or IntegrityError(f"{batch.output}: completed, but not there", key=batch.output)


async def read_back(
    session: Session, batch: Batch, transferred: TransferredBatch
) -> tuple[Committed | None, ReadBack]:
    """What is at the output's key, and the proof if it is this batch with the size and checksum
    that were sent.

    Raises IntegrityError if it is this batch by name but not by size or checksum, StorageError if
    nothing can be known.
    """
    head = await session.store.head(batch.output)
    if head is None:
        return None, ReadBack.ABSENT
    if head.metadata.get(DIGEST) != batch.digest:
        return None, ReadBack.FOREIGN
    if head.size != transferred.size:
        raise IntegrityError(
            f"{batch.output}: has {head.size} bytes, {transferred.size} were sent", key=batch.output
        )
    value = await _stored_checksum(session, head, transferred)
    return Committed(batch, head.size, value, _WITNESS), ReadBack.MATCHES


async def recognise(session: Session, batch: Batch) -> Committed | None:
    """The proof for a batch whose transfer was another process's: by its digest, and by a size that
    its sources can give.

    Where the store does not hold a Complete against the whole's checksum, the output is read again
    and its content checked.
    """
    head = await session.store.head(batch.output)
    if head is None or head.metadata.get(DIGEST) != batch.digest:
        return None
    supplied = len(NEWLINE_MEMBER) * len(batch.sources)
    if head.size > batch.size + supplied or (
        not session.rules.layout.gzip and head.size < batch.size
    ):
        raise IntegrityError(
            f"{batch.output}: {head.size} bytes cannot come from sources of {batch.size}",
            key=batch.output,
        )
    if session.rules.capabilities.checksum is not Checksum.CRC64NVME:
        await _read_again(session, head)
    return Committed(batch, head.size, head.checksum.get("CRC64NVME", ""), _WITNESS)


async def delete_sources(session: Session, committed: Committed) -> tuple[int, tuple[Kept, ...]]:
    """Deletes what was joined, each source only as the version that was read: (gone, left).

    Every key is accounted for.

    Raises LeaseLost, and StorageError where the outcome stays unknown.
    """
    gone = 0
    left: list[Kept] = []
    sources = committed.batch.sources
    for begin in range(0, len(sources), DELETE_PAGE):
        for result in await _delete_page(session, sources[begin : begin + DELETE_PAGE]):
            if result.deleted in (Deleted.DONE, Deleted.ABSENT):
                gone += 1
            else:
                left.append(
                    Kept(
                        result.key,
                        Why.CHANGED if result.deleted is Deleted.CHANGED else Why.DELETE_REFUSED,
                    )
                )
    return gone, tuple(left)


async def _delete_page(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    """Repeats what was refused or unanswered: a conditional delete can be sent twice."""
    results: dict[str, DeleteResult] = {}
    todo = list(sources)
    for attempt in range(1, _TRIES + 1):
        session.lease.check()
        try:
            answers = await _delete_once(session, todo)
        except Unavailable:
            if attempt == _TRIES:
                raise
            continue
        results |= {result.key: result for result in answers}
        todo = [
            source
            for source in todo
            if results[source.key].deleted is Deleted.REFUSED
            and results[source.key].code in _TRANSIENT
        ]
        if not todo:
            break
    return list(results.values())


_TRANSIENT = frozenset(
    {"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "NotMentioned"}
)


async def _delete_once(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    if session.rules.capabilities.conditional_delete_many:
        plain = [source for source in sources if source.key.isprintable()]
        odd = [source for source in sources if not source.key.isprintable()]
        answers = (
            await session.store.delete_many([(source.key, source.etag) for source in plain])
            if plain
            else []
        )
        return answers + await _delete_singly(session, odd)
    return await _delete_singly(session, sources)


async def _delete_singly(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    async def one(source: Source) -> DeleteResult:
        async with session.capacity.writes.slot():
            if session.rules.capabilities.conditional_delete:
                return await session.store.delete(source.key, etag=source.etag)
            if session.rules.capabilities.conditional_delete_many:  # which cannot name this key
                return DeleteResult(
                    source.key,
                    Deleted.REFUSED,
                    "NoConditionalDelete",
                    "the store has a condition only for deletes whose XML cannot hold this key",
                )
            head = await session.store.head(source.key)
            if head is None:
                return DeleteResult(source.key, Deleted.ABSENT)
            if head.etag != source.etag:
                return DeleteResult(source.key, Deleted.CHANGED)
            return await session.store.delete(source.key)

    return list(await asyncio.gather(*(one(source) for source in sources)))


async def _stored_checksum(session: Session, head: Head, transferred: TransferredBatch) -> str:
    """The checksum by which the output is what was sent. Raises IntegrityError."""
    expected = checksums.encoded(transferred.crc64)
    match session.rules.capabilities.checksum:
        case Checksum.CRC64NVME:
            # Complete was held against it; some answers leave it out (SSE-KMS).
            found = head.checksum.get("CRC64NVME", expected)
        case Checksum.CRC32:
            expected = checksums.composite([part.checksum for part in transferred.parts])
            found = head.checksum.get("CRC32", "")
        case Checksum.NONE:
            found = checksums.encoded(await _crc_of(session, head))
    if found != expected:
        raise IntegrityError(
            f"{head.key}: has the checksum {found!r}, {expected!r} was sent", key=head.key
        )
    return checksums.encoded(transferred.crc64)


async def _crc_of(session: Session, head: Head) -> int:
    crc = 0
    for start in range(0, head.size, PART_BYTES):
        body = await session.store.get(
            head.key, etag=head.etag, start=start, length=min(PART_BYTES, head.size - start)
        )
        crc = checksums.crc64([body.data], crc)
    return crc


async def _read_again(session: Session, head: Head) -> None:
    joiner = ContentRules(gzipped=session.rules.layout.gzip, check=True).joiner(head.key)
    try:
        for start in range(0, head.size, PART_BYTES):
            body = await session.store.get(
                head.key, etag=head.etag, start=start, length=min(PART_BYTES, head.size - start)
            )
            await asyncio.to_thread(joiner.feed, body.data)
        supplied = joiner.finish()
    except ContentError as error:
        raise IntegrityError(error.message, key=head.key) from error
    if supplied:
        raise IntegrityError(f"{head.key}: its last record has no end", key=head.key)


def fenced(batch: Batch) -> Fenced:
    """What is raised where another run has made this batch's upload unusable."""
    return Fenced(
        f"{batch.output}: its upload is gone and no output is there: another run took the group over",
        key=batch.output,
    )
