"""A group on its way, in rounds: a bounded number of batches is recorded, worked on and settled,
then the next (commit protocol, steps 3 to 6).

Whatever changes a plan on its way, unusable sources or a concurrent change, is planned again in a
later round: a plan record that stands is never made to say something else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from coalesce.content.attributes import not_kept
from coalesce.errors import (
    CoalesceError,
    ConfigurationError,
    GroupOwned,
    IntegrityError,
    LeaseLost,
    SourceUnusable,
    StorageError,
    defect,
    first_failure,
)
from coalesce.listing.pages import all_pages
from coalesce.model import Batch, CommittedOutput, Kept, Plan, Why
from coalesce.planning.batches import replan
from coalesce.protocol.batch import BatchWork, BatchWorker, State, Transfer, transfer_here
from coalesce.protocol.commit import Committed
from coalesce.protocol.deletion import Deletion
from coalesce.protocol.held import HeldRecord
from coalesce.protocol.ledger import remove_entry
from coalesce.protocol.opening import begin_upload, look_at_begin
from coalesce.protocol.outcome import GroupOutcome, committed_output
from coalesce.protocol.record import PlanRecord, RecordedBatch
from coalesce.protocol.session import Session
from coalesce.stop import Stop
from coalesce.storage.attributes import NO_ATTRIBUTES, Attributes

# How often sources are tried: planned again around those that cannot be joined, which one reading
# finds all of, or after a concurrent change or the death of a worker.
_TRIES = 3

# Why sources are not joined with their neighbours, and may be with their like.
_UNLIKE = (Why.ATTRIBUTES, Why.HEADER)

_log = logging.getLogger(__name__)


async def work_on_group(
    session: Session,
    plan: Plan,
    taken: Iterable[str],
    stop: Stop,
    outcome: GroupOutcome,
    transfer: Transfer | None = None,
) -> None:
    """Works on a plan, adding to `outcome` what becomes of it.

    `taken` are names of outputs in use; `stop` is asked before every batch. Its parts are sent by
    `transfer`, or from this process. Raises GroupOwned if another run's record stands on the group;
    LeaseLost and ConfigurationError, which end the whole run.
    """
    here = partial(transfer_here, session, stop)
    try:
        await GroupWork(session, plan, set(taken), stop, outcome, transfer or here).run()
    except (GroupOwned, LeaseLost, ConfigurationError):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)
    except Exception as error:
        # A defect met in one group must not keep the others from their turn.
        _log.exception("%s", plan.group)
        outcome.failures.append(defect(error))


async def settle_record(session: Session, held: HeldRecord, outcome: GroupOutcome) -> None:
    """Removes a record of whose batches nothing is left to do, and their ledger entries if the run
    keeps none. Raises StorageError.
    """
    if not session.rules.ledger:
        for entry in held.record.batches:
            refusal = await remove_entry(session, entry.batch.output, entry.upload_id)
            outcome.failures += [refusal] if refusal else []
    await held.remove(session.rules.capabilities, session.rules.run_id, session.lease)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A batch that waits for its round; `tries` counts those that its sources have behind them,
    `first` is what its first source says of itself.
    """

    batch: Batch
    tries: int = 0
    first: Attributes = NO_ATTRIBUTES


@dataclass(slots=True)
class GroupWork:
    """One group's batches on their way; `taken` are names that its outputs must not have."""

    session: Session
    plan: Plan
    taken: set[str]
    stop: Stop
    outcome: GroupOutcome
    transfer: Transfer
    held: HeldRecord | None = None
    todo: deque[_Planned] = field(default_factory=deque)
    dropped: set[str] = field(default_factory=set)  # ids of uploads that came to nothing
    failed: bool = False  # a request failed for good: the next one would too

    async def run(self) -> None:
        """Round after round, until nothing is left to do or nothing more can be done."""
        self.outcome.kept += self.plan.kept
        self.taken |= {batch.output for batch in self.plan.batches}
        self.todo.extend(map(_Planned, self.plan.batches))
        while not self.failed and (chosen := self._choose_round()):
            sources = sum(len(planned.batch.sources) for planned in chosen)
            async with self.session.capacity.recorded.hold(sources):
                await self._run_round(chosen)
            if self.outcome.unsettled and self.session.rules.delete:
                break

    def _choose_round(self) -> list[_Planned]:
        """The next batches that fit one record and that the run's limits admit."""
        rules = self.session.rules
        chosen: list[_Planned] = []
        sources = 0
        while self.todo and len(chosen) < rules.round_batches:
            planned = self.todo[0]
            sources += len(planned.batch.sources)
            if chosen and sources > rules.round_sources:
                break
            self.todo.popleft()
            if planned.tries or self.stop.try_start_output(planned.batch):
                chosen.append(planned)
        return chosen

    async def _run_round(self, chosen: Sequence[_Planned]) -> None:
        chosen = await self._look_at_first(chosen)
        if not chosen:
            return
        self.session.lease.check()  # an upload begun without a lease would be swept by nobody
        uploads = await self._begin_uploads(chosen)
        await self._record([planned.batch for planned in chosen], uploads)
        worker = BatchWorker(self.session, self.transfer)
        try:
            async with asyncio.TaskGroup() as tasks:
                for planned in chosen:
                    upload_id = uploads[planned.batch.digest]
                    tasks.create_task(self._work(worker, planned, upload_id))
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        self.outcome.unsettled |= not self.session.rules.delete
        if not self.outcome.unsettled:
            await self._settle()

    async def _work(self, worker: BatchWorker, planned: _Planned, upload_id: str) -> None:
        work = await worker.work(planned.batch, upload_id, planned.first)
        await self._account(work, planned)

    async def _account(self, work: BatchWork, planned: _Planned) -> None:
        """Notes what became of a batch, and plans again what is to be planned again."""
        if work.committed is not None:
            self.outcome.add(self._output_of(work, work.committed))
            if work.deletion is not None and work.deletion.gone > work.deletion.deleted:
                await self._look_for_rival(work, work.deletion)
        if work.refusal is not None:
            self.outcome.failures.append(work.refusal)
        match work.state:
            case State.DOUBTED:
                self._fail(work)
                self.outcome.unsettled = True
                await self._amend(work, [RecordedBatch(work.batch, work.upload_id, doubted=True)])
            case State.UNKNOWN:
                self._fail(work)
                self.outcome.unsettled = True
                self.session.lease.mark_untidy()
            case State.KEPT:
                self.outcome.unsettled = True
                if work.deletion is not None:
                    self.outcome.failures += work.deletion.failures
            case State.DROPPED if work.was(State.FENCED):
                self._fail(work)
                await self._amend(work, [])
            case State.DROPPED:
                self._account_dropped(work, planned)

    def _output_of(self, work: BatchWork, committed: Committed) -> CommittedOutput:
        """What is reported of a batch that this process has sent."""
        assert work.transferred is not None
        wanted = self.session.rules.attributes.of_output(work.first)
        return replace(
            committed_output(
                committed,
                work.deletion,
                records=work.transferred.records,
                offsets=self.session.rules.layout.offsets,
            ),
            differing=work.transferred.differences.sources,
            example=work.transferred.differences.example,
            not_kept=not_kept(committed.batch.output, wanted, committed.attributes),
        )

    async def _look_for_rival(self, work: BatchWork, deletion: Deletion) -> None:
        """Raises the alarm if sources that were joined here were deleted by somebody else, and
        another output has appeared: two runs that keep their state in different places do that.
        """
        try:
            strangers = await self._find_strangers()
        except StorageError as error:
            self.outcome.failures.append(error)
            return
        if strangers:
            count = deletion.gone - deletion.deleted
            self.outcome.failures.append(
                IntegrityError(
                    f"{work.batch.output}: {count} of its sources were deleted by somebody else "
                    f"meanwhile, and {strangers[0]} has appeared: records may be there twice",
                    key=work.batch.output,
                    code="TwoRuns",
                    hint="Is another run at work here with another --state? Compare both outputs.",
                )
            )

    async def _find_strangers(self) -> list[str]:
        """Outputs of the group that were neither listed nor planned here. Raises StorageError."""
        parse, group = self.session.rules.layout.parse, self.plan.group
        found: list[str] = []
        async for page in all_pages(self.session.store, group.prefix):
            for key in (entry.key for entry in page.objects if entry.key not in self.taken):
                parsed = parse(key)
                if parsed is not None and (parsed.kind, parsed.group) == ("output", group):
                    found.append(key)
        return found

    def _account_dropped(self, work: BatchWork, planned: _Planned) -> None:
        self.dropped.add(work.upload_id)
        if work.was(State.STALE):
            self.outcome.stale = True
        elif work.was(State.SPOILT):
            self._plan_around(work.batch, work.unusable, planned.tries + 1)
        elif _is_useless(work) and planned.tries + 1 < _TRIES:
            self.todo.append(replace(planned, tries=planned.tries + 1))
        elif work.error is not None:
            self._fail(work)
            self.failed |= work.was(State.ABANDONED)

    def _plan_around(self, batch: Batch, found: Sequence[SourceUnusable], tries: int) -> None:
        """Plans a batch again without the sources that cannot be joined: never across one of them,
        never a batch minus one source. Sources that are only unlike the others are joined with
        their like. After the last try the other sources of the batch stay too.
        """
        rules = self.session.rules
        unlike = {error.source.key: error.kind for error in found if error.why in _UNLIKE}
        reasons = {error.source.key: error.why for error in found if error.why in _UNLIKE}
        spoilt = [error for error in found if error.why not in _UNLIKE]
        for error in spoilt:
            self.outcome.kept.append(Kept(error.source.key, error.why))
            self.outcome.failures.append(error.cause)
        said = (error.message for error in found if error.why is Why.ATTRIBUTES)
        self.outcome.unlike = self.outcome.unlike or next(said, "")
        why = next(iter(reasons.values()), Why.SINGLE) if not spoilt else Why.SINGLE
        if tries == _TRIES:
            rest = [source.key for source in batch.sources] if not spoilt else unlike
            self.outcome.kept += [Kept(key, reasons.get(key, why)) for key in rest]
            return
        without = [error.source for error in spoilt]
        pieces, single = replan(
            self.plan.group, batch, without, rules.layout, rules.limits, self.taken, unlike
        )
        self.taken |= {piece.output for piece in pieces}
        self.outcome.kept += [Kept(s.key, reasons.get(s.key, why)) for s in single]
        self.todo.extend(_Planned(piece, tries) for piece in pieces)

    def _fail(self, work: BatchWork) -> None:
        if work.error is not None:
            self.outcome.failures.append(work.error)

    async def _record(self, batches: Sequence[Batch], uploads: dict[str, str]) -> None:
        """Records a round's batches. A record that has to stay is made to name them too."""
        rules = self.session.rules
        entries = tuple(RecordedBatch(batch, uploads[batch.digest]) for batch in batches)
        try:
            if self.held is None:
                record = PlanRecord(rules.run_id, rules.layout.name, self.plan.group, entries)
                self.held = await HeldRecord.create(self.session.store, rules.state, record)
                return
            before = self.held.record.batches
            standing = [entry for entry in before if entry.upload_id not in self.dropped]
            record = replace(self.held.record, batches=(*standing, *entries))
            ours = await self.held.rewrite(record)
        except GroupOwned:
            await self._abort(batches, uploads)
            raise
        except StorageError:
            # Whether the record stands is unknown, so its uploads stay; if it does not, the lease
            # says that they may be there.
            self.session.lease.mark_untidy()
            raise
        if not ours:
            await self._abort(batches, uploads)
            message = f"{self.plan.group}: another run took over the group"
            raise GroupOwned(message, key=self.plan.group.prefix)

    async def _settle(self) -> None:
        """Removes the record of a round of which nothing is left to do."""
        assert self.held is not None
        try:
            await settle_record(self.session, self.held, self.outcome)
        except StorageError as error:
            self.outcome.unsettled = True
            self.outcome.failures.append(error)
        self.held = None

    async def _amend(self, work: BatchWork, entries: Sequence[RecordedBatch]) -> None:
        """Puts other entries in a batch's place, as far as the record is still ours."""
        assert self.held is not None
        try:
            await self.held.replace(work.batch, entries)
        except StorageError:
            self.outcome.unsettled = True

    async def _look_at_first(self, chosen: Sequence[_Planned]) -> list[_Planned]:
        """The batches whose first source can be read, with what it says of itself. The others are
        planned again around it: there is nothing of them yet.
        """
        looks = await asyncio.gather(
            *(look_at_begin(self.session, planned.batch, self.stop) for planned in chosen),
            return_exceptions=True,
        )
        ready: list[_Planned] = []
        for planned, look in zip(chosen, looks, strict=True):
            if isinstance(look, Attributes):
                ready.append(replace(planned, first=look))
            elif isinstance(look, BaseException):
                raise look
            elif look[-1].why is Why.CHANGED:
                self.outcome.stale = True
            else:
                self._plan_around(planned.batch, look, planned.tries + 1)
        return ready

    async def _begin_uploads(self, chosen: Sequence[_Planned]) -> dict[str, str]:
        """Upload ids by the digest of their batch. No creation is cancelled by another's failure:
        an upload whose id is never learned could be swept by nobody.
        """
        results = await asyncio.gather(
            *(begin_upload(self.session, planned.batch, planned.first) for planned in chosen),
            return_exceptions=True,
        )
        uploads = {
            planned.batch.digest: result
            for planned, result in zip(chosen, results, strict=True)
            if isinstance(result, str)
        }
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            batches = [planned.batch for planned in chosen if planned.batch.digest in uploads]
            await self._abort(batches, uploads)
            raise failures[0]
        return uploads

    async def _abort(self, batches: Sequence[Batch], uploads: dict[str, str]) -> None:
        """Aborts uploads; one that may still be there is for the run that sweeps after this one."""

        async def abort(batch: Batch) -> None:
            try:
                await self.session.store.abort_upload(batch.output, uploads[batch.digest])
            except StorageError:
                self.session.lease.mark_untidy()

        await asyncio.gather(*map(abort, batches))


def _is_useless(work: BatchWork) -> bool:
    """Whether it is the upload of a batch that is to be replaced. After the death of a worker too:
    parts that it has sent may arrive later than others that would take their place.
    """
    return work.was(State.CONFLICTED) or work.was(State.LOST)
