"""Earlier outputs, proved again: by what they say of themselves and what the store says of them; or
by reading every byte.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.content.rules import ContentRules
from coalesce.errors import CoalesceError, ContentError, IntegrityError
from coalesce.exits import exit_code_of, worst
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import ExistingOutput
from coalesce.naming.layouts import Layout, layout
from coalesce.planning.parts import PART_BYTES
from coalesce.planning.rules import Limits, Scope, selected
from coalesce.protocol.commit import COUNT, DIGEST
from coalesce.report.report import Failure, ScopePart
from coalesce.settings import Settings
from coalesce.storage import checksums
from coalesce.storage.base import Head, ObjectStore

RECORDS = "coalesce-records"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 32


class Verified(BaseModel):
    """What was checked.

    `unsummed` outputs have no full-object CRC64NVME in the store: there only content and length
    could be.

    `records` is None unless `deep`.
    """

    type: Literal["verify"] = "verify"
    schema_version: int = Field(default=1, alias="schema")
    version: str = __version__
    scope: ScopePart
    deep: bool
    outputs: int = 0
    proven: int = 0
    failed: int = 0
    unsummed: int = 0
    bytes: int = 0
    sources: int = 0
    records: int | None = None
    failures: list[Failure] = Field(default_factory=list)
    exit_code: int = 0


async def verify(
    store: ObjectStore,
    settings: Settings,
    *,
    deep: bool,
    emit: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Verified:
    """Checks every output in scope.

    Memory is one part for each that is read at once, within the budget. Raises CoalesceError where
    nothing can be seen.
    """
    await store.check_access()
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    scope = ScopePart(
        bucket=settings.bucket,
        prefixes=list(prefixes),
        layout=settings.layout,
        partitions=list(settings.partition),
        shard=str(settings.shard),
    )
    # A part on its way in, its text while it is inflated: two parts each.
    workers = max(1, min(_AT_ONCE, settings.memory // (2 * PART_BYTES))) if deep else _AT_ONCE
    job = _Verification(
        store,
        settings,
        Verified(scope=scope, deep=deep, records=0 if deep else None),
        emit,
        workers,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(job.produce(prefixes))
        for _ in range(workers):
            tasks.create_task(job.consume())
    return job.result


class _Verification:
    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        result: Verified,
        emit: Callable[[dict[str, Any]], None],
        workers: int,
    ) -> None:
        self.result = result
        self._store = store
        self._settings = settings
        self._emit = emit
        self._layout = layout(settings.layout)
        self._scope = Scope(settings.partition, settings.topic)
        self._patterns = Limits(include=settings.include, exclude=settings.exclude)
        self._workers = workers
        self._queue: asyncio.Queue[ExistingOutput | None] = asyncio.Queue(workers)

    async def produce(self, prefixes: tuple[str, ...]) -> None:
        """Lists all outputs."""
        ignored, shard = self._settings.state_prefix, self._settings.shard
        await list_groups(
            self._store,
            prefixes,
            self._layout,
            state_prefix=ignored,
            on_listing=self._found,
            on_failure=self._failed,
            shard=shard,
        )
        for _ in range(self._workers):
            await self._queue.put(None)

    async def consume(self) -> None:
        """Checks one output after another."""
        while (output := await self._queue.get()) is not None:
            self.result.outputs += 1
            try:
                head = await _proven(self._store, output)
                records = await _read(self._store, head, self._layout) if self.result.deep else None
            except CoalesceError as error:
                self.result.failed += 1
                self._failed(error)
            else:
                self._passed(head, records)

    async def _found(self, listed: Listing) -> None:
        for group in (*listed.groups, *listed.outputs_only):
            for output in group.outputs if self._scope.covers(group.id) else ():
                if selected(output.key, self._patterns):
                    await self._queue.put(output)

    def _passed(self, head: Head, records: int | None) -> None:
        result, sources = self.result, int(head.metadata[COUNT])
        result.proven += 1
        result.unsummed += "CRC64NVME" not in head.checksum
        result.bytes += head.size
        result.sources += sources
        if result.records is not None:
            result.records += records or 0
        self._emit(
            {
                "type": "verified",
                "key": head.key,
                "bytes": head.size,
                "sources": sources,
                "records": records,
            }
        )

    def _failed(self, error: CoalesceError) -> None:
        failure = Failure(
            key=error.key,
            code=error.code,
            request_id=error.request_id,
            message=error.message,
            hint=error.hint,
        )
        self.result.failures.append(failure)
        self.result.exit_code = worst(self.result.exit_code, exit_code_of(error))
        self._emit({"type": "failure", **failure.model_dump()})


async def _proven(store: ObjectStore, output: ExistingOutput) -> Head:
    """What HEAD says, if that is an output of this program as it was listed.

    Raises IntegrityError, StorageError.
    """
    head = await store.head(output.key)
    if head is None:
        raise IntegrityError(
            f"{output.key}: is gone since it was listed",
            key=output.key,
            hint="Outputs are never deleted by this program.",
        )
    if head.size != output.size:
        raise IntegrityError(
            f"{output.key}: has {head.size} bytes, was listed with {output.size}", key=output.key
        )
    count = head.metadata.get(COUNT, "")
    if not _DIGEST.fullmatch(head.metadata.get(DIGEST, "")) or not (
        count.isdecimal() and int(count)
    ):
        hint = "Another program wrote or copied it; --deep reads only what can be proven, and --exclude leaves it out."
        raise IntegrityError(
            f"{output.key}: does not say which sources it holds",
            key=output.key,
            code="NoPlanDigest",
            hint=hint,
        )
    return head


async def _read(store: ObjectStore, head: Head, names: Layout) -> int:
    """Reads all of an output, and counts its records. Raises IntegrityError, StorageError."""
    joiner = ContentRules(gzipped=names.gzip, check=True).joiner(head.key)
    crc = 0
    try:
        for start in range(0, head.size, PART_BYTES):
            body = await store.get(
                head.key, etag=head.etag, start=start, length=min(PART_BYTES, head.size - start)
            )
            crc = checksums.crc64([body.data], crc)
            await asyncio.to_thread(joiner.feed, body.data)
        supplied = joiner.finish()
    except ContentError as error:
        raise IntegrityError(error.message, key=head.key, code=error.code) from error
    stored = head.checksum.get("CRC64NVME", checksums.encoded(crc))
    if stored != checksums.encoded(crc):
        raise IntegrityError(
            f"{head.key}: has the CRC64NVME {checksums.encoded(crc)}, the store says {stored}",
            key=head.key,
            code="ChecksumMismatch",
        )
    if supplied:
        raise IntegrityError(
            f"{head.key}: its last record has no end", key=head.key, code="NoLastNewline"
        )
    records = joiner.records or 0
    if head.metadata.get(RECORDS, str(records)) != str(records):
        raise IntegrityError(
            f"{head.key}: holds {records} records, says {head.metadata[RECORDS]}",
            key=head.key,
            code="RecordsMissing",
        )
    return records
