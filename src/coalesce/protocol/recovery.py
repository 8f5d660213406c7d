"""What earlier runs left unfinished, finished or undone before anything new (commit protocol,
step 2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from coalesce.errors import CoalesceError, GroupOwned, IntegrityError, LeaseLost, RecordDamaged
from coalesce.listing.pages import all_pages
from coalesce.model import Batch, GroupId
from coalesce.naming.sources import Places, Sources
from coalesce.protocol.commit import DIGEST, Committed, prove
from coalesce.protocol.deletion import delete_sources
from coalesce.protocol.held import HeldRecord, find_record, remove_tombstone
from coalesce.protocol.ledger import read_header, remove_entry
from coalesce.protocol.outcome import GroupOutcome, committed_output
from coalesce.protocol.record import RecordedBatch
from coalesce.protocol.reproof import expect_from_sources
from coalesce.protocol.round import settle_record
from coalesce.protocol.session import Session
from coalesce.protocol.undo import settle_undo
from coalesce.protocol.undo_record import HeldUndo, unfinished
from coalesce.stop import Stop
from coalesce.storage.base import Head

# Memory for a record, for each byte of it as it is stored: about 80 bytes for each source, which
# takes 39 there.
_MEMORY = 2


async def recover(
    session: Session,
    key: str,
    is_alive: Callable[[str], Awaitable[bool]],
    stop: Stop,
    outcome: GroupOutcome,
) -> str | None:
    """Settles the record at `key`: outputs that are there lose their sources, the rest is made
    impossible, and the record goes.

    Its memory is held of that for bodies. Where `stop` does not let it go on, the record stays.
    Returns the id of the run that left the record, empty where that is unknown; None if there is no
    record any more. Raises GroupOwned if that run, by its id, `is_alive`; LeaseLost. Everything
    else is added to the outcome.
    """
    left_by, rules = "", session.rules
    if not stop.try_continue():
        outcome.unsettled = True
        return left_by
    try:
        stored = await find_record(session.store, key)
        if stored is None:
            await remove_tombstone(session.store, key, is_alive, rules.run_id, session.lease)
            return None
        if stored.is_undo:
            undo = HeldUndo.of(session.store, session.rules.state, stored)
            left_by = undo.record.run_id
            await _leave_to_living(undo.record.group, key, left_by, is_alive)
            await _settle_undo(session, undo, outcome)
            return left_by
        async with session.capacity.memory.hold(_MEMORY * stored.size):
            held = await HeldRecord.of(session.store, rules.state, stored, rules.known)
            left_by = held.record.run_id
            await _leave_to_living(held.record.group, key, left_by, is_alive)
            # The dead run may have worked with another layout: its names and contents are its own.
            rules = replace(rules, layout=rules.known[held.record.layout])
            await _Recovery(replace(session, rules=rules), held, stop, outcome).run()
    except (GroupOwned, LeaseLost):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)
        outcome.unsettled = True
    return left_by


async def _leave_to_living(
    group: GroupId, key: str, run_id: str, is_alive: Callable[[str], Awaitable[bool]]
) -> None:
    """Raises GroupOwned if the run that has written a record, by its id, is alive."""
    if await is_alive(run_id):
        raise GroupOwned(f"{group}: run {run_id} works on it", key=key)


async def _settle_undo(session: Session, held: HeldUndo, outcome: GroupOutcome) -> None:
    """Settles an undo record, unless the run is to leave those alone: what a person has taken back
    is not for a nightly run to join again. Raises GroupOwned, LeaseLost.
    """
    if session.rules.undo:
        await settle_undo(session, held, outcome)
        return
    outcome.unsettled = True
    outcome.failures.append(unfinished(held.record))


class _Recovery:
    """One record on its way to being settled."""

    def __init__(
        self, session: Session, held: HeldRecord, stop: Stop, outcome: GroupOutcome
    ) -> None:
        self._session = session
        self._held = held
        self._stop = stop
        self._outcome = outcome

    async def run(self) -> None:
        for entry in self._held.record.batches:
            try:
                await self._settle(entry)
            except (IntegrityError, RecordDamaged) as error:
                self._outcome.failures.append(error)
                self._outcome.unsettled = True
        if not self._outcome.unsettled:
            await settle_record(self._session, self._held, self._outcome)

    async def _settle(self, entry: RecordedBatch) -> None:
        """Deletes the sources of an output that is there, or makes sure that it never will be.

        The abort is the fence; the second look is for a Complete that won the race against it.
        """
        head = await self._look(entry.batch)
        if head is None:
            await self._session.store.abort_upload(entry.batch.output, entry.upload_id)
            head = await self._look(entry.batch)
        if head is None:
            await self._undo(entry)
            return
        if entry.doubted:
            message = f"{entry.batch.output}: the run that wrote it found it not to be what it sent"
            raise IntegrityError(message, key=entry.batch.output)
        committed, records = await self._prove(entry, head)
        if not self._session.rules.delete or not self._stop.try_start_output(entry.batch):
            self._outcome.unsettled = True
            return
        deletion = await delete_sources(self._session, committed)
        offsets = self._session.rules.layout.offsets
        self._outcome.add(
            committed_output(committed, deletion, records=records, offsets=offsets, recovered=True)
        )
        if deletion.error is not None:
            raise deletion.error
        self._outcome.unsettled |= bool(deletion.refused)
        self._outcome.failures += deletion.failures

    async def _look(self, batch: Batch) -> Head | None:
        """The output's HEAD, None if it is absent or another plan's."""
        head = await self._session.store.head(batch.output)
        return head if head is not None and head.metadata.get(DIGEST) == batch.digest else None

    async def _prove(self, entry: RecordedBatch, head: Head) -> tuple[Committed, int | None]:
        """The proof by the ledger entry; by the sources themselves where there is none."""
        state, output = self._session.rules.state, entry.batch.output
        header = await read_header(self._session.store, state, output, entry.upload_id)
        if header is not None:
            committed = await prove(self._session, entry.batch, head, header, own=False)
            return committed, header.records
        present = await self._present(entry.batch)
        expected = await expect_from_sources(self._session, entry.batch, present, head)
        return await prove(self._session, entry.batch, head, expected, own=False), None

    async def _undo(self, entry: RecordedBatch) -> None:
        """Settles a batch whose output can no longer appear.

        Sources that are gone although the output is not there are an alarm: the record stays. If it
        does not stand any more, another run has undone the batch, and joined its sources anew.
        """
        state, output = self._session.rules.state, entry.batch.output
        header = await read_header(self._session.store, state, output, entry.upload_id)
        if header is None and not entry.may_lack_entry:
            return
        gone = (await self._present(entry.batch)).count(0)
        if gone:
            if not await self._held.stands():
                return
            message = f"{output}: is not there, and {gone} of its sources are gone"
            hint = (
                "Look for deleted versions of both; nothing more of this group is touched while "
                f"its plan record {self._held.key!r} stands."
            )
            raise IntegrityError(message, key=output, code="OutputLost", hint=hint)
        if header is not None:
            refusal = await remove_entry(self._session, output, entry.upload_id)
            self._outcome.failures += [refusal] if refusal else []

    async def _present(self, batch: Batch) -> bytearray:
        """Which of a batch's sources are still there: 1 at the place of each, else 0."""
        group, parse = self._held.record.group, self._session.rules.layout.parse
        sources = Sources.of(group.prefix, batch.sources)
        places, present = Places(sources), bytearray(len(sources))
        async for page in all_pages(self._session.store, group.prefix):
            for entry in page.objects:
                name = parse(entry.key)
                place = places.find(name.first, entry.key) if name else None
                if place is not None:
                    present[place] = 1
        return present
