"""Reading an output again, whole: its checksum, and what a reader would find in it.

Memory is one body of at most PART_BYTES, and 1 MiB of its text while it is inflated.
"""

from __future__ import annotations

import asyncio

from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, IntegrityError
from coalesce.planning.parts import PART_BYTES
from coalesce.storage import checksums
from coalesce.storage.base import Head, ObjectStore


async def read_output(store: ObjectStore, head: Head, joiner: Joiner | None = None) -> int:
    """Reads all bytes of an output, in order and one GET after another.

    Args:
        store: where the output is.
        head: names the output, and the version of it that is read.
        joiner: is fed with every body, on another thread than the event loop's; the caller asks it
            to `finish()`.

    Returns:
        The CRC64NVME of all bytes.

    Raises:
        ContentError: what the joiner finds.
        StorageError: PreconditionFailed or NotFound if that version is gone.
    """
    crc = 0
    for start in range(0, head.size, PART_BYTES):
        length = min(PART_BYTES, head.size - start)
        body = await store.get(head.key, etag=head.etag, start=start, length=length)
        crc = checksums.crc64([body.data], crc)
        if joiner is not None:
            await asyncio.to_thread(joiner.feed, body.data)
    return crc


async def check_output(
    store: ObjectStore,
    head: Head,
    rules: ContentRules,
    *,
    expected_crc64: str = "",
    joiner: Joiner | None = None,
) -> int | None:
    """Reads an output as a reader would: whole members or plain lines, to the last newline.

    Args:
        store: where the output is.
        head: names the output, and the version of it that is read.
        rules: those of its content, which is checked.
        expected_crc64: the CRC64NVME (base64) that its bytes must have; empty if none is known.
        joiner: reads it so, and may look for more; by default one that does only that.

    Returns:
        The number of records; None where none are counted.

    Raises:
        IntegrityError: with the code of what a reader would stumble over (such as `CorruptGzip`,
            `TruncatedZstd`, `NotBzip2`, `NoLastNewline`), with `ChecksumMismatch`, or as the
            joiner raises it.
        StorageError: as `read_output`.
    """
    joiner = joiner or rules.joiner(head.key)
    try:
        crc64 = checksums.encode(await read_output(store, head, joiner))
        supplied = joiner.finish()
    except ContentError as error:
        raise IntegrityError(error.message, key=head.key, code=error.code) from error
    if expected_crc64 and expected_crc64 != crc64:
        raise IntegrityError(
            f"{head.key}: its bytes have the CRC64NVME {crc64}, expected {expected_crc64}",
            key=head.key,
            code="ChecksumMismatch",
        )
    if supplied:
        raise IntegrityError(
            f"{head.key}: the last record does not end with a newline",
            key=head.key,
            code="NoLastNewline",
        )
    return joiner.records
