"""Checks earlier outputs again: by metadata, HEAD and the ledger, or by reading every byte."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from coalesce.content.rules import ContentRules
from coalesce.errors import (
    AccessDenied,
    CoalesceError,
    ConfigurationError,
    IntegrityError,
    NotFound,
    RecordDamaged,
    StorageError,
    first_failure,
)
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.inspect.places import Places
from coalesce.inspect.recorded import LedgerListing, entry_of, places_of
from coalesce.inspect.verification import Extent, Verification
from coalesce.inspect.whereabouts import find_source
from coalesce.listing.found import Found, find_neighbours
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group, GroupId, Source
from coalesce.planning.parts import PART_BYTES
from coalesce.planning.rules import Limits, Scope, selected
from coalesce.protocol.commit import COUNT, DIGEST
from coalesce.protocol.entry_reader import FoundEntry, open_entry
from coalesce.protocol.state import record_key
from coalesce.protocol.together import all_of
from coalesce.report.events import FailureEvent, VerifiedEvent, failure_event
from coalesce.report.report import Failure, ScopePart
from coalesce.report.warnings import nothing_found, nothing_to_verify
from coalesce.settings import Settings
from coalesce.storage.base import Head, ObjectStore
from coalesce.transfer.readback import check_output

_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 32

# Outputs that are listed ahead of the checks, so that soon it is known how many there are.
_LISTED = 10_000
# Groups of one piece of the key space whose entries are listed at once; so are several pieces.
_LISTED_AT_ONCE = 8

# Its sources were deleted when it was written, so the usual hint would be wrong.
_DAMAGED = (
    "Its ledger entry names its sources. Bring back a good version of it if the bucket keeps "
    'versions; see "Exit code 4" in docs/operations.md.'
)

_MISSING = (
    "Bring it back if the bucket keeps versions: its sources were deleted when it was written. "
    "If it was removed on purpose, remove its ledger entry too."
)


async def verify(
    store: ObjectStore,
    settings: Settings,
    *,
    deep: bool,
    emit: Callable[[VerifiedEvent | FailureEvent], None] = lambda _: None,
    extent: Extent | None = None,
) -> Verification:
    """Checks every output in scope, and that every ledger entry in scope has one. Writes nothing to
    the bucket.

    Memory is two parts (16 MiB) for each output that is read at once, within `settings.memory`, and
    24 bytes for each of its sources; a part for each entry that is read at once.

    Args:
        store: the bucket.
        settings: the scope, `include` and `exclude`, and `memory` in bytes.
        deep: also read each output: its members or lines, its records, its CRC64NVME, and the
            content of each source in it.
        emit: takes a `verified` or `failure` event for each output, as it is checked.
        extent: is kept up to date all the while.

    Returns:
        The sum of all; its exit code is that of the worst failure.

    Raises:
        ConfigurationError: the bucket cannot be reached, or not any more.
    """
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    await store.check_access(prefixes[0])
    result = Verification(
        scope=ScopePart.of(settings, prefixes),
        deep=deep,
        records=0 if deep else None,
        digests=0 if deep else None,
    )
    # Two parts each: one that is read, and its text while it is inflated.
    workers = max(1, min(_AT_ONCE, settings.memory // (2 * PART_BYTES))) if deep else _AT_ONCE
    verifier = _Verifier(store, settings, result, emit, extent or Extent(), workers)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(verifier.list_outputs(prefixes))
            for _ in range(workers):
                tasks.create_task(verifier.check_outputs())
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from failures
    await verifier.look_around()
    if verifier.denied and not result.proven:
        result.exit_code = worst(result.exit_code, ExitCode.CONFIGURATION)
    return result


class _Found(NamedTuple):
    """An output in a listing, or only its ledger entries: then `output` is None.

    `entries` is None where the ledger could not be listed.
    """

    key: str
    output: Source | None
    entries: Sequence[FoundEntry] | None


class _Verifier:
    """One task lists outputs and entries into a queue, others take them from it and check them."""

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        result: Verification,
        emit: Callable[[VerifiedEvent | FailureEvent], None],
        extent: Extent,
        workers: int,
    ) -> None:
        self.denied = False
        self._extent = extent
        self._result = result
        self._store = store
        self._settings = settings
        self._state = settings.state_prefix
        self._emit = emit
        self._layout = settings.chosen_layout
        self._ledger = LedgerListing(store, self._state, self._layout)
        self._scope = Scope.of(settings)
        self._limits = Limits.of(settings)
        self._found = Found(set(result.scope.prefixes), self._scope.covers)
        self._left_out = ""  # an output that the user's patterns leave out
        self._workers = workers
        self._queue: asyncio.Queue[_Found | None] = asyncio.Queue(_LISTED)

    async def list_outputs(self, prefixes: tuple[str, ...]) -> None:
        """Puts all outputs in scope into the queue, then the entries of groups that have none, and
        after them an end mark for each worker.
        """
        await list_groups(
            self._store,
            prefixes,
            self._layout,
            state_prefix=self._state,
            on_listing=self._enqueue,
            on_failure=self._add_failure,
            shard=self._settings.shard,
        )
        for prefix in prefixes:
            await self._enqueue_entries(prefix)
        self._extent.all_listed = True
        for _ in range(self._workers):
            await self._queue.put(None)

    async def check_outputs(self) -> None:
        """Checks one output after another until the end mark.

        Raises ConfigurationError, which the next output would meet too.
        """
        while (found := await self._queue.get()) is not None:
            try:
                if found.output is None:
                    await self._look_for(found.key, found.entries or ())
                else:
                    self._result.outputs += 1
                    await self._check(found.output, found.entries)
            except ConfigurationError:
                raise
            except CoalesceError as error:
                self._result.failed += 1
                self._add_failure(error)

    async def look_around(self) -> None:
        """Warns of prefixes without keys, and of keys none of which is an output in scope."""
        settings, found, result = self._settings, self._found, self._result
        if settings.shard.count > 1:
            return
        found.add_failed(failure.key for failure in result.failures)
        neighbours = await find_neighbours(self._store, found.empty, settings.state_prefix)
        layouts = self._layout, settings.known_layouts
        result.warnings += nothing_found(settings.bucket, *layouts, found, neighbours)
        if found.in_scope and not self._extent.found:
            result.warnings.append(nothing_to_verify(self._left_out))

    async def _enqueue(self, listing: Listing) -> None:
        self._found.add(listing)
        groups = [
            group
            for group in (*listing.groups, *listing.outputs_only)
            if group.outputs and self._scope.covers(group.id)
        ]
        for at in range(0, len(groups), _LISTED_AT_ONCE):
            some = groups[at : at + _LISTED_AT_ONCE]
            ledgers = await all_of(self._list_entries(group.id) for group in some)
            for group, entries in zip(some, ledgers, strict=True):
                await self._enqueue_group(group, entries)

    async def _enqueue_group(
        self, group: Group, entries: dict[str, list[FoundEntry]] | None
    ) -> None:
        for output in group.outputs:
            if not selected(output.key, self._limits):
                self._left_out = self._left_out or output.key
                continue
            self._extent.found += 1
            own = None if entries is None else entries.pop(output.key, [])
            await self._queue.put(_Found(output.key, output, own))
        for key, found in (entries or {}).items():
            if selected(key, self._limits):
                await self._queue.put(_Found(key, None, found))

    async def _list_entries(self, group: GroupId) -> dict[str, list[FoundEntry]] | None:
        """The entries of a group by their outputs, None if they cannot be listed."""
        try:
            return await self._ledger.of_group(group)
        except StorageError as error:
            self._add_failure(error)
            return None

    async def _enqueue_entries(self, prefix: str) -> None:
        """Queues the entries of groups that have no outputs any more."""
        try:
            async for group, found in self._ledger.of_other_groups(prefix):
                if (
                    self._scope.covers(group)
                    and self._settings.shard.owns(found.output)
                    and selected(found.output, self._limits)
                ):
                    await self._queue.put(_Found(found.output, None, [found]))
        except StorageError as error:
            self._add_failure(error)

    async def _check(self, output: Source, found: Sequence[FoundEntry] | None) -> None:
        """Checks one output. Raises IntegrityError, StorageError."""
        head = await _check_metadata(self._store, output)
        places: Places | None = None
        crc64 = head.checksum.get("CRC64NVME", "")
        if found:
            places, crc64 = await self._read_entry(head, found) or (None, crc64)
        records = await self._count_records(head, places, crc64) if self._result.deep else None
        self._add_proven(head, records, places)

    async def _read_entry(
        self, head: Head, found: Sequence[FoundEntry]
    ) -> tuple[Places, str] | None:
        """The places of an output's sources by its entry, and its CRC64NVME; None if the entry
        cannot be read, which is a failure of its own.

        Raises IntegrityError if the output is not what its entry says.
        """
        try:
            entry = await entry_of(self._store, self._state, head, found)
            return await places_of(entry), entry.header.crc64
        except (RecordDamaged, StorageError) as error:
            self._add_failure(error)
            return None

    async def _look_for(self, key: str, found: Sequence[FoundEntry]) -> None:
        """Makes sure that the output of an entry is gone, which is a failure.

        While its group has a plan record, the output may still be on its way; and it may have been
        joined into another one, whose entry names it. Raises IntegrityError, StorageError.
        """
        group = self._ledger.group_of(key)
        assert group is not None
        if await self._store.head(record_key(self._state, group)) is not None:
            self._result.unfinished += 1
            return
        if await self._store.head(key) is not None:
            return  # it appeared after the listing
        async for _ in find_source(self._store, self._state, key, self._add_failure):
            self._result.joined_again += 1
            return
        try:
            header = (await open_entry(self._store, self._state, found[-1])).header
        except NotFound:
            return  # nobody expects the output any more
        self._result.missing += 1
        raise IntegrityError(
            f"{key}: is gone; run {header.run_id} made it of {header.sources:,} sources",
            key=key,
            code="OutputMissing",
            hint=_MISSING,
        )

    async def _count_records(self, head: Head, places: Places | None, crc64: str) -> int | None:
        try:
            return await check_output(
                self._store,
                head,
                ContentRules.of_output(self._layout, head.key),
                expected_crc64=crc64,
                joiner=None if places is None else places.joiner(),
            )
        except IntegrityError as error:
            raise IntegrityError(
                error.message, key=head.key, code=error.code, hint=_DAMAGED
            ) from error

    def _add_proven(self, head: Head, records: int | None, places: Places | None) -> None:
        result, sources = self._result, int(head.metadata[COUNT])
        result.proven += 1
        result.recorded += places is not None
        result.unrecorded += places is None
        if places is not None and result.digests is not None:
            result.digests += places.digests
        result.unsummed += "CRC64NVME" not in head.checksum
        result.bytes += head.size
        result.sources += sources
        self._extent.proven += 1
        self._extent.bytes += head.size
        if result.records is not None:
            result.records += records or 0
        self._emit(
            {
                "type": "verified",
                "key": head.key,
                "bytes": head.size,
                "sources": sources,
                "records": records,
                "recorded": places is not None,
            }
        )

    def _add_failure(self, error: CoalesceError) -> None:
        self.denied |= isinstance(error, AccessDenied)
        failure = Failure.of(error)
        self._result.failures.append(failure)
        self._result.exit_code = worst(self._result.exit_code, exit_code_of(error))
        self._extent.failed += 1
        self._emit(failure_event(failure))


async def _check_metadata(store: ObjectStore, output: Source) -> Head:
    """What HEAD says of an output that is there with the size that was listed, and that names the
    plan it holds.

    Raises IntegrityError, StorageError.
    """
    head = await store.head(output.key)
    if head is None:
        raise IntegrityError(
            f"{output.key}: disappeared after it was listed",
            key=output.key,
            hint="Nothing but `coalesce undo` deletes outputs; find out what did.",
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
