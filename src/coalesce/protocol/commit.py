"""The step from parts to an output that is proven (commit protocol, step 5).

Deleting takes a `Committed`, and only reading the output back makes one (invariant I1).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from coalesce.errors import (
    Conflict,
    IntegrityError,
    NoSuchUpload,
    PreconditionFailed,
    StorageError,
    Unavailable,
)
from coalesce.model import Batch, UploadedPart
from coalesce.protocol.ledger import Expected
from coalesce.protocol.session import Session
from coalesce.storage import checksums
from coalesce.storage.base import Head
from coalesce.storage.checksums import Checksum
from coalesce.transfer.readback import read_output

DIGEST = "coalesce-plan"
COUNT = "coalesce-sources"
CHECKSUM = "coalesce-checksum"
VERSION = "coalesce-version"

_WITNESS = object()


class Committed:
    """Proof that this process has itself just read the output back and found it to be the batch.

    Made by `prove` alone. `size` is in bytes, `crc64` as S3 spells it; `attributes` are the headers
    that say what the output is.
    """

    __slots__ = ("attributes", "batch", "crc64", "etag", "size")

    def __init__(self, batch: Batch, head: Head, crc64: str, witness: object) -> None:
        if witness is not _WITNESS:
            raise TypeError("only reading an output back makes a Committed")
        self.batch = batch
        self.attributes = head.attributes
        self.etag = head.etag
        self.size = head.size
        self.crc64 = crc64


class Blocked(enum.Enum):
    """Why a Complete made no output."""

    FENCED = "another run aborted the upload"
    TAKEN = "another plan's object has the name"
    CONFLICT = "a concurrent change made the upload useless"
    UNANSWERED = "nothing is there, and the answer does not say why"


@dataclass(frozen=True, slots=True)
class NotCompleted:
    """A Complete that made no output: why, and the store's answer."""

    blocked: Blocked
    answer: StorageError


Completion = Committed | NotCompleted


def metadata_of(batch: Batch, checksum: Checksum, version: str) -> dict[str, str]:
    """What an output says of itself: anyone can recognise by it what it was made of."""
    return {
        DIGEST: batch.digest,
        COUNT: str(len(batch.sources)),
        CHECKSUM: checksum.value.lower(),
        VERSION: version,
    }


async def complete(
    session: Session,
    batch: Batch,
    upload_id: str,
    parts: Sequence[UploadedPart],
    expected: Expected,
    unanswered: bool,
) -> Completion:
    """Completes an upload create-only, and reads back what is there then.

    `unanswered` says that an earlier Complete of this upload got no answer: it may still take
    effect, so that the upload is gone proves nothing. Raises LeaseLost before anything is sent,
    IntegrityError for an output that is not what was sent, StorageError where nothing can be known.
    """
    session.lease.check()
    answer = await send_complete(session, batch.output, upload_id, parts, expected)
    head = await session.store.head(batch.output)
    if head is not None and head.metadata.get(DIGEST) == batch.digest:
        return await prove(session, batch, head, expected, own=answer is None and not unanswered)
    if head is not None and (answer is None or unanswered):
        message = f"{batch.output}: Complete may have succeeded, but the object is another plan's"
        raise IntegrityError(message, key=batch.output)
    if answer is None:
        message = f"{batch.output}: the store reported success, but the object does not exist"
        raise IntegrityError(message, key=batch.output)
    if head is not None:
        return NotCompleted(Blocked.TAKEN, answer)
    return NotCompleted(judge(answer, unanswered), answer)


async def send_complete(
    session: Session,
    key: str,
    upload_id: str,
    parts: Sequence[UploadedPart],
    expected: Expected,
) -> StorageError | None:
    """Sends Complete; the store's refusal, None for success.

    Without its condition where the store does not keep it: some answer 501 to it.
    """
    create_only = session.rules.capabilities.create_only_complete
    if not create_only and await session.store.head(key) is not None:
        return PreconditionFailed(f"{key}: exists", key=key)
    try:
        await session.store.complete_upload(
            key,
            upload_id,
            parts,
            checksum=expected.mode,
            value=expected.crc64,
            create_only=create_only,
        )
    except StorageError as error:
        return error
    return None


def judge(answer: StorageError, unanswered: bool) -> Blocked:
    """What a refusal means where no object has the output's name.

    Raises the refusal itself where it leaves the output's fate unknown: after a Complete that went
    unanswered or was repeated, NoSuchUpload may be that Complete's success on its way.
    """
    if isinstance(answer, Unavailable):
        return Blocked.UNANSWERED
    if unanswered or answer.repeated:
        raise answer
    match answer:
        case NoSuchUpload():
            return Blocked.FENCED
        case Conflict() | PreconditionFailed():
            return Blocked.CONFLICT
    raise answer


async def prove(
    session: Session, batch: Batch, head: Head, expected: Expected, *, own: bool
) -> Committed:
    """The proof that an output is what it must be. Raises as `check_head`."""
    await check_head(session, head, expected, own=own)
    return Committed(batch, head, expected.crc64, _WITNESS)


async def check_head(session: Session, head: Head, expected: Expected, *, own: bool) -> None:
    """Makes sure that an object is what it must be, by what HEAD says of it.

    `own` says that this process's own Complete was answered with success, and so held against the
    expected checksum by the store. Otherwise a checksum that is missing is no proof, and the object
    is read again. Raises IntegrityError, StorageError.
    """
    if head.size != expected.size:
        message = f"{head.key}: has {head.size} bytes, {expected.size} were sent"
        raise IntegrityError(message, key=head.key)
    stored, wanted = stored_checksum(head, expected)
    if stored and stored != wanted:
        message = f"{head.key}: has the checksum {stored!r}, {wanted!r} was sent"
        raise IntegrityError(message, key=head.key)
    if not stored and not (own and expected.mode is Checksum.CRC64NVME):
        await _compare_content(session, head, expected)


def stored_checksum(head: Head, expected: Expected) -> tuple[str, str]:
    """The checksum that HEAD shows in the output's mode, empty for none; and what it must be."""
    if expected.mode is Checksum.NONE:
        return "", ""
    wanted = expected.crc64 if expected.mode is Checksum.CRC64NVME else expected.composite
    return head.checksum.get(expected.mode.value, ""), wanted


async def _compare_content(session: Session, head: Head, expected: Expected) -> None:
    crc64 = checksums.encode(await read_output(session.store, head))
    if crc64 != expected.crc64:
        message = f"{head.key}: has the CRC64NVME {crc64!r}, {expected.crc64!r} was sent"
        raise IntegrityError(message, key=head.key)
