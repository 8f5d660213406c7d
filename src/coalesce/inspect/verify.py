"""Checks earlier outputs again: by their metadata and HEAD, or by reading every byte."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.content.rules import ContentRules
from coalesce.errors import (
    AccessDenied,
    CoalesceError,
    ConfigurationError,
    IntegrityError,
    first_failure,
)
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import ExistingOutput
from coalesce.naming.layouts import layout
from coalesce.planning.parts import PART_BYTES
from coalesce.planning.rules import Limits, Scope, selected
from coalesce.protocol.commit import COUNT, DIGEST
from coalesce.report.report import Failure, ScopePart
from coalesce.settings import Settings
from coalesce.storage.base import Head, ObjectStore
from coalesce.transfer.readback import check_output

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 32

# Its sources were deleted when it was written, so the usual hint would be wrong.
_DAMAGED = (
    "Its ledger entry names its sources. Bring back a good version of it if the bucket keeps "
    'versions; see "Exit code 4" in docs/operations.md.'
)


class Verification(BaseModel):
    """What was checked, and what failed.

    `unsummed` outputs have no full-object CRC64NVME in the store, so with `deep` only their content
    and length are checked. `bytes`, `sources` and `records` are those of the `proven` outputs;
    `records` is None unless `deep`, and does not count those of opaque content.
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
) -> Verification:
    """Checks every output in scope. Writes nothing to the bucket.

    Memory is two parts (16 MiB) for each output that is read at once, within `settings.memory`.

    Args:
        store: the bucket.
        settings: the scope, `include` and `exclude`, and `memory` in bytes.
        deep: also read each output: its members or lines, its records, its CRC64NVME.
        emit: takes a `verified` or `failure` event for each output, as it is checked.

    Returns:
        The sum of all; its exit code is that of the worst failure.

    Raises:
        ConfigurationError: the bucket cannot be reached, or not any more.
    """
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    await store.check_access(prefixes[0])
    result = Verification(
        scope=ScopePart.of(settings, prefixes), deep=deep, records=0 if deep else None
    )
    # Two parts each: one that is read, and its text while it is inflated.
    workers = max(1, min(_AT_ONCE, settings.memory // (2 * PART_BYTES))) if deep else _AT_ONCE
    verifier = _Verifier(store, settings, result, emit, workers)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(verifier.list_outputs(prefixes))
            for _ in range(workers):
                tasks.create_task(verifier.check_outputs())
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from failures
    if verifier.denied and not result.proven:
        result.exit_code = worst(result.exit_code, ExitCode.CONFIGURATION)
    return result


class _Verifier:
    """One task lists outputs into a queue, others take them from it and check them."""

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        result: Verification,
        emit: Callable[[dict[str, Any]], None],
        workers: int,
    ) -> None:
        self.denied = False
        self._result = result
        self._store = store
        self._settings = settings
        self._emit = emit
        self._layout = layout(settings.layout)
        self._scope = Scope.of(settings)
        self._limits = Limits.of(settings)
        self._workers = workers
        self._queue: asyncio.Queue[ExistingOutput | None] = asyncio.Queue(workers)

    async def list_outputs(self, prefixes: tuple[str, ...]) -> None:
        """Puts all outputs in scope into the queue, and after them an end mark for each worker."""
        await list_groups(
            self._store,
            prefixes,
            self._layout,
            state_prefix=self._settings.state_prefix,
            on_listing=self._enqueue,
            on_failure=self._add_failure,
            shard=self._settings.shard,
        )
        for _ in range(self._workers):
            await self._queue.put(None)

    async def check_outputs(self) -> None:
        """Checks one output after another until the end mark.

        Raises ConfigurationError, which the next output would meet too.
        """
        while (output := await self._queue.get()) is not None:
            self._result.outputs += 1
            try:
                head = await _check_metadata(self._store, output)
                records = await self._count_records(head) if self._result.deep else None
            except ConfigurationError:
                raise
            except CoalesceError as error:
                self._result.failed += 1
                self._add_failure(error)
            else:
                self._add_proven(head, records)

    async def _enqueue(self, listing: Listing) -> None:
        for group in (*listing.groups, *listing.outputs_only):
            for output in group.outputs if self._scope.covers(group.id) else ():
                if selected(output.key, self._limits):
                    await self._queue.put(output)

    async def _count_records(self, head: Head) -> int | None:
        try:
            return await check_output(
                self._store,
                head,
                ContentRules.of_output(self._layout, head.key),
                expected_crc64=head.checksum.get("CRC64NVME", ""),
            )
        except IntegrityError as error:
            raise IntegrityError(
                error.message, key=error.key, code=error.code, hint=_DAMAGED
            ) from error

    def _add_proven(self, head: Head, records: int | None) -> None:
        result, sources = self._result, int(head.metadata[COUNT])
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

    def _add_failure(self, error: CoalesceError) -> None:
        self.denied |= isinstance(error, AccessDenied)
        failure = Failure.of(error)
        self._result.failures.append(failure)
        self._result.exit_code = worst(self._result.exit_code, exit_code_of(error))
        self._emit({"type": "failure", **failure.model_dump()})


async def _check_metadata(store: ObjectStore, output: ExistingOutput) -> Head:
    """What HEAD says of an output that is there with the size that was listed, and that names the
    plan it holds.

    Raises IntegrityError, StorageError.
    """
    head = await store.head(output.key)
    if head is None:
        raise IntegrityError(
            f"{output.key}: disappeared after it was listed",
            key=output.key,
            hint="coalesce never deletes outputs; find out what did.",
        )
    if head.size != output.size:
        raise IntegrityError(
            f"{output.key}: has {head.size:,} bytes, but was listed with {output.size:,}",
            key=output.key,
            hint=_DAMAGED,
        )
    count = head.metadata.get(COUNT, "")
    if not _DIGEST.fullmatch(head.metadata.get(DIGEST, "")) or not (
        count.isdecimal() and int(count)
    ):
        raise IntegrityError(
            f"{output.key}: its metadata does not name the sources it was made from",
            key=output.key,
            code="NoPlanDigest",
            hint="Another program wrote or copied it. Use --exclude to skip it.",
        )
    return head
