"""A group on its way: its batches recorded, transferred, committed and deleted, a bounded number in
each round (commit protocol, steps 3 to 6).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from coalesce.content.rules import ContentRules
from coalesce.errors import (
    Archived,
    CoalesceError,
    ConfigurationError,
    Conflict,
    ContentError,
    Fenced,
    GroupOwned,
    IntegrityError,
    LeaseLost,
    NoSuchUpload,
    SourceChanged,
    StorageError,
    first_failure,
)
from coalesce.model import Batch, Kept, Plan, Source, TransferredBatch, Why
from coalesce.planning import batches as planning
from coalesce.planning.parts import lay_out
from coalesce.protocol.commit import Committed, Next, complete, delete_sources, fenced, metadata_of
from coalesce.protocol.outcome import GroupOutcome, committed_output, why_left
from coalesce.protocol.record import HeldRecord, PlanRecord, RecordedBatch
from coalesce.protocol.session import Session
from coalesce.stop import Stop
from coalesce.transfer.stream import transfer

# A record holds at most so many batches and sources; a larger group takes several rounds.
ROUND_BATCHES = 64
ROUND_SOURCES = 25_000

_RESTARTS = 3

_log = logging.getLogger(__name__)


async def work_off(
    session: Session, plan: Plan, taken: Iterable[str], stop: Stop, outcome: GroupOutcome
) -> None:
    """Works off a plan, adding to `outcome` what fails of it.

    `taken` are names of outputs in use; `stop` is asked before every batch.

    Raises GroupOwned if another run's record stands on the group; LeaseLost and ConfigurationError,
    which end the whole run.
    """
    try:
        await _work_rounds(session, plan, set(taken), stop, outcome)
    except (GroupOwned, LeaseLost, ConfigurationError):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)
    except Exception as error:
        # A defect met in one group must not keep the others from their turn.
        _log.exception("%s", plan.group)
        outcome.failures.append(
            CoalesceError(
                f"{type(error).__name__}: {error}",
                code="Defect",
                hint="Please report it with the log.",
            )
        )


async def _work_rounds(
    session: Session, plan: Plan, taken: set[str], stop: Stop, outcome: GroupOutcome
) -> None:
    outcome.kept += plan.kept
    taken |= {batch.output for batch in plan.batches}
    # Without deletes the record stays after its round, and there is no room for a second one.
    for batches in _rounds(plan.batches) if session.rules.delete else [list(plan.batches)]:
        admitted = [batch for batch in batches if stop.try_start_output(batch)]
        if not admitted:
            break
        async with session.capacity.recorded.held(sum(len(batch.sources) for batch in admitted)):
            await _Round(session, plan, taken, stop, outcome).run(admitted)
        if outcome.failures:
            break


def _rounds(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    chosen: list[Batch] = []
    for batch in batches:
        if chosen and (
            len(chosen) == ROUND_BATCHES
            or sum(len(b.sources) for b in chosen) + len(batch.sources) > ROUND_SOURCES
        ):
            yield chosen
            chosen = []
        chosen.append(batch)
    if chosen:
        yield chosen


@dataclass(slots=True)
class _Round:
    session: Session
    plan: Plan
    taken: set[str]
    stop: Stop
    outcome: GroupOutcome
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: HeldRecord | None = None

    async def run(self, batches: list[Batch]) -> None:
        uploads = await self._create_uploads(batches)
        try:
            self.held = await HeldRecord.create(
                self.session.store, self.session.rules.state, self._record(batches, uploads)
            )
        except GroupOwned:
            await self._abort(batches, uploads)
            raise
        except StorageError:
            # Whether the record stands is unknown, so its uploads stay; if it does not, the lease
            # says that they may be there.
            self.session.lease.mark_untidy()
            raise
        try:
            async with asyncio.TaskGroup() as tasks:
                for batch in batches:
                    tasks.create_task(self._work(batch, uploads[batch.digest]))
        except BaseExceptionGroup as group:
            raise first_failure(group) from group
        if not self.session.rules.delete or self.outcome.unsettled:
            self.outcome.unsettled = True
        else:
            await self.held.remove(conditional=self.session.rules.capabilities.conditional_delete)

    def _record(self, batches: Sequence[Batch], uploads: dict[str, str]) -> PlanRecord:
        entries = tuple(RecordedBatch(batch, uploads[batch.digest]) for batch in batches)
        return PlanRecord(
            self.session.rules.run_id, self.session.rules.layout.name, self.plan.group, entries
        )

    async def _work(self, batch: Batch, upload_id: str) -> None:
        """One batch to its end.

        What fails is written down; only what concerns the whole run is raised.
        """
        if not self.stop.try_continue():
            await self._drop(batch, upload_id)
            return
        try:
            await self._deliver(batch, upload_id)
        except Fenced as error:
            self.outcome.failures.append(error)
            await self._abort_quietly(batch, upload_id)
            await self._amend(batch, [])
        except IntegrityError as error:
            self.outcome.failures.append(error)
            self.outcome.unsettled = True
            await self._amend(batch, [RecordedBatch(batch, upload_id, doubted=True)])
        except StorageError as error:
            self.outcome.failures.append(error)
            self.outcome.unsettled = True

    async def _deliver(self, batch: Batch, upload_id: str) -> None:
        for _ in range(_RESTARTS):
            try:
                transferred = await self._transfer(batch, upload_id)
            except (ContentError, SourceChanged, Archived) as error:
                await self._around(batch, upload_id, error)
                return
            except NoSuchUpload:
                raise fenced(batch) from None
            except StorageError as error:
                self.outcome.failures.append(error)
                await self._drop(batch, upload_id)
                return
            following = await complete(self.session, batch, upload_id, transferred)
            if isinstance(following, Committed):
                await self._settle(following, transferred)
                return
            if following is Next.FENCED:
                raise fenced(batch)
            if following is Next.TAKEN:
                await self._give_up(batch, upload_id, "the name was taken since the listing")
                return
            upload_id = (await self._replace(batch, upload_id, [batch]))[batch.digest]
        await self._give_up(batch, upload_id, "a concurrent change at every try")

    async def _give_up(self, batch: Batch, upload_id: str, why: str) -> None:
        self.outcome.failures.append(
            Conflict(
                f"{batch.output}: {why}", key=batch.output, hint="Sources were kept; run again."
            )
        )
        await self._drop(batch, upload_id)

    async def _transfer(self, batch: Batch, upload_id: str) -> TransferredBatch:
        return await transfer(
            self.session.store,
            batch,
            lay_out(batch.sources, copy=self.session.rules.limits.copy),
            upload_id,
            rules=ContentRules(self.session.rules.layout.gzip, self.session.rules.check),
            checksum=self.session.rules.capabilities.checksum,
            capacity=self.session.capacity,
        )

    async def _settle(self, committed: Committed, transferred: TransferredBatch) -> None:
        deleted, left = 0, tuple[Kept, ...]()
        if self.session.rules.delete:
            deleted, left = await delete_sources(self.session, committed)
        self.outcome.unsettled |= any(entry.why is Why.DELETE_REFUSED for entry in left)
        self.outcome.add(committed_output(committed, deleted, left, records=transferred.records))

    async def _around(self, batch: Batch, upload_id: str, error: CoalesceError) -> None:
        """Plans a batch again without the source that must not be joined, and works the pieces off:
        never across it, never a batch minus one source.
        """
        source = next(source for source in batch.sources if source.key == error.key)
        self.outcome.kept.append(Kept(source.key, why_left(error)))
        if not isinstance(error, SourceChanged):
            self.outcome.failures.append(error)
        pieces, single = planning.split(
            self.plan.group,
            batch,
            source,
            self.session.rules.layout,
            self.session.rules.limits,
            self.taken,
        )
        self.taken |= {piece.output for piece in pieces}
        self.outcome.kept += [Kept(alone.key, Why.SINGLE) for alone in single]
        uploads = await self._replace(batch, upload_id, pieces)
        for piece in pieces:
            await self._work(piece, uploads[piece.digest])

    async def _replace(
        self, batch: Batch, upload_id: str, pieces: Sequence[Batch]
    ) -> dict[str, str]:
        """Puts other batches in a batch's place, their uploads first, then the record.

        Raises Fenced if the record is not ours any more.
        """
        uploads = await self._create_uploads(pieces)
        try:
            ours = await self._rewrite(
                batch, [RecordedBatch(piece, uploads[piece.digest]) for piece in pieces]
            )
        except StorageError:
            self.session.lease.mark_untidy()
            raise
        if not ours:
            await self._abort(pieces, uploads)
            raise fenced(batch)
        await self._abort_quietly(batch, upload_id)
        return uploads

    async def _drop(self, batch: Batch, upload_id: str) -> None:
        """Undoes a batch of which nothing is visible: an aborted upload never appears."""
        if not await self._abort_quietly(batch, upload_id):
            self.outcome.unsettled = True

    async def _abort_quietly(self, batch: Batch, upload_id: str) -> bool:
        """Aborts an upload; one that may still be there is for the run that sweeps after this
        one.
        """
        try:
            await self.session.store.abort_upload(batch.output, upload_id)
        except StorageError:
            self.session.lease.mark_untidy()
            return False
        return True

    async def _amend(self, batch: Batch, entries: Sequence[RecordedBatch]) -> None:
        """Puts other entries in a batch's place, as far as the record is still ours."""
        try:
            await self._rewrite(batch, entries)
        except StorageError:
            self.outcome.unsettled = True

    async def _rewrite(self, without: Batch, entries: Sequence[RecordedBatch]) -> bool:
        assert self.held is not None
        async with self.lock:
            kept = tuple(
                entry for entry in self.held.record.batches if entry.batch.digest != without.digest
            )
            return await self.held.rewrite(replace(self.held.record, batches=(*kept, *entries)))

    async def _create_uploads(self, batches: Sequence[Batch]) -> dict[str, str]:
        uploads: dict[str, str] = {}

        async def create(batch: Batch) -> None:
            async with self.session.capacity.writes.slot():
                kind = await self._content_type(batch.sources[0])
                uploads[batch.digest] = await self.session.store.create_upload(
                    batch.output,
                    checksum=self.session.rules.capabilities.checksum,
                    metadata=metadata_of(batch, self.session.rules.version),
                    content_type=kind,
                )

        try:
            async with asyncio.TaskGroup() as tasks:
                for batch in batches:
                    tasks.create_task(create(batch))
        except BaseExceptionGroup as group:
            await self._abort([batch for batch in batches if batch.digest in uploads], uploads)
            raise first_failure(group) from group
        return uploads

    async def _content_type(self, source: Source) -> str:
        head = await self.session.store.head(source.key)
        return head.content_type if head else ""

    async def _abort(self, batches: Sequence[Batch], uploads: dict[str, str]) -> None:
        await asyncio.gather(*(self._drop(batch, uploads[batch.digest]) for batch in batches))
