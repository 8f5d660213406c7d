"""The whole run: list, plan, and work off groups, from one producer through a bounded queue to a
pool of workers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from coalesce import __version__
from coalesce.errors import CoalesceError, GroupOwned, PlanStale, first_failure
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group, GroupId, Plan
from coalesce.naming.layouts import layout
from coalesce.planning import batches as planning
from coalesce.planning import plan_files as planfile
from coalesce.planning.forecast import forecast
from coalesce.planning.plan_files import PlanFile, PlannedGroup
from coalesce.planning.rules import Limits, Scope
from coalesce.protocol.batch import work_off
from coalesce.protocol.lease import Lease, LeaseRecord, Rival, outlived
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.probe import probe
from coalesce.protocol.recovery import Ground, Leftovers, recover, survey, sweep
from coalesce.protocol.session import GroupRules, Session
from coalesce.protocol.state import group_of, probe_prefix, record_key, records_prefix
from coalesce.report.account import Account, Event, opened
from coalesce.report.report import Report
from coalesce.report.usage import Spent
from coalesce.run.workers import Assignment, Workers
from coalesce.settings import Settings
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import ObjectStore, Usage
from coalesce.storage.capabilities import admit
from coalesce.storage.checksums import Checksum
from coalesce.transfer.limits import Capacity

_WORKERS = 32
_QUEUED = 256


def new_run_id() -> str:
    """A name that no other run has, and that sorts by time."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def refused(settings: Settings, error: CoalesceError, emit: Callable[[Event], None]) -> Report:
    """The report of a run that could not even reach for its bucket."""
    account = Account(_opened(settings, new_run_id()), emit)
    account.failed(error)
    return account.report


def _opened(settings: Settings, run_id: str) -> Report:
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    return opened(
        run_id,
        bucket=settings.bucket,
        prefixes=prefixes,
        layout=settings.layout,
        partitions=settings.partition,
        shard=settings.shard,
    )


class Run:
    """One run over one bucket."""

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        emit: Callable[[Event], None] = lambda _: None,
        *,
        endpoint: str = "",
        planned: PlanFile | None = None,
        run_id: str = "",
        clock: Callable[[], float] = time.monotonic,
        workers: Workers | None = None,
    ) -> None:
        self.run_id = run_id or new_run_id()
        self.stop = Stop(
            RunLimits(
                settings.max_groups, settings.max_bytes, settings.max_delete, settings.deadline
            ),
            clock,
        )
        self._store = store
        self._workers = workers
        self._capacity: Capacity | None = None
        self._settings = settings
        self._clock = clock
        self._begun = clock()
        self._layout = layout(settings.layout)
        self._limits = Limits(
            settings.max_files,
            settings.max_size,
            settings.min_files,
            settings.min_age,
            settings.include,
            settings.exclude,
        )
        self._planned = (
            None if planned is None else {line.id: line for line in planned.share(settings.shard)}
        )
        self._scope = Scope(
            settings.partition,
            settings.topic,
            None if self._planned is None else frozenset(self._planned),
        )
        self.lines: list[PlannedGroup] = []  # what a dry run would do
        # keys of plan records that stand: their groups are not to be touched
        self._not_ours: set[str] = set()
        report = _opened(settings, self.run_id)
        report.store.endpoint = endpoint
        self._prefixes = tuple(report.scope.prefixes)
        shard = (
            settings.shard
            if planned is None
            else dataclasses.replace(settings.shard, plan=planned.header.sha256)
        )
        self._ground = Ground(settings.layout, self._prefixes, shard, self._owns)
        self._account = Account(report, emit)

    def _owns(self, key: str) -> bool:
        if self._planned is None:
            return self._settings.shard.owns(key)
        named = self._layout.parse(key)
        return (named.group.prefix if named else key) in {group.prefix for group in self._planned}

    def interrupt(self, code: int) -> None:
        """Ends the run between outputs, in all its processes, with this exit code."""
        self.stop.request(code)
        if self._workers is not None:
            self._workers.halt(code)

    @property
    def report(self) -> Report:
        """The account so far."""
        return self._account.report

    async def coalesce(self) -> Report:
        """The job: recover, then list, join, prove, delete."""
        return await self._accounted(self._coalesce)

    async def recover(self) -> Report:
        """Only what earlier runs left unfinished."""
        return await self._accounted(self._recover_only)

    async def plan(self) -> Report:
        """The job up to the decision. Writes nothing."""
        return await self._accounted(self._plan_only)

    async def _coalesce(self) -> None:
        async with self._session() as (session, leftovers):
            async with self._recovered(session, leftovers) as late:
                await self._work_prefixes(
                    session,
                    self._prefixes
                    if self._planned is None
                    else tuple(group.prefix for group in self._planned),
                )
            if late:
                await self._work_prefixes(
                    session, tuple(group.prefix for group in late), only=frozenset(late)
                )

    async def _recover_only(self) -> None:
        async with self._session() as (session, leftovers), self._recovered(session, leftovers):
            pass

    async def _plan_only(self) -> None:
        plans: list[Plan] = []

        async def found(listed: Listing) -> None:
            for group in self._in_scope(listed):
                plan = planning.plan(group, self._layout, self._limits)
                plans.append(plan)
                self._account.foreseen(group, plan)
                if plan.batches:
                    self.lines.append(PlannedGroup.of(group, plan))

        await self._list(self._prefixes, found)
        self._account.forecast(forecast(plans, self._settings.memory))

    async def _accounted(self, job: Callable[[], Awaitable[None]]) -> Report:
        try:
            await self._store.check_access()
            await job()
        except CoalesceError as error:
            self._account.failed(error)
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            if not isinstance(failure, CoalesceError):
                raise failure from group
            self._account.failed(failure)
        finally:
            self._close()
        return self.report

    def _close(self) -> None:
        usage = Usage()
        usage.add(self._store.usage)
        spent = Spent.by_this_process(usage, self._capacity)
        if self._workers is not None:
            spent.add(self._workers.spent)
        self._account.close(
            spent,
            seconds=self._clock() - self._begun,
            stopped=self.stop.code,
            error_on_nothing=self._settings.error_on_nothing,
        )

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[tuple[Session, Leftovers]]:
        """What the run works under, with its lease held; and what stood in the bucket before."""
        settings, state = self._settings, self._settings.state_prefix
        leftovers = await survey(self._store, state, self._ground)
        claim = LeaseRecord(
            run_id=self.run_id,
            seconds=settings.lease,
            layout=self._layout.name,
            prefixes=self._prefixes,
            shard=str(settings.shard),
            plan=self._ground.shard.plan,
        )
        expiry = self._workers.expiry if self._workers else None
        async with (
            Lease(self._store, state, claim, self._clock, expiry).held() as lease,
            AsyncExitStack() as stack,
        ):
            capabilities = await probe(self._store, probe_prefix(state, self.run_id))
            self.report.store.capabilities = capabilities.as_dict()
            self.report.store.mode = admit(capabilities, settings.accept_weaker)
            copying = (
                not settings.check
                and capabilities.copy_condition
                and capabilities.checksum is Checksum.CRC64NVME
            )
            rules = GroupRules(
                state=state,
                run_id=self.run_id,
                version=__version__,
                layout=self._layout,
                limits=dataclasses.replace(self._limits, copy=copying),
                capabilities=capabilities,
                check=settings.check,
                delete=settings.delete,
            )
            spent = self._clock() - self._begun
            deadline = None if settings.deadline is None else settings.deadline - spent
            assignment = Assignment(rules, settings.concurrency, settings.memory, deadline)
            if self._workers is not None:
                await stack.enter_async_context(
                    self._workers.working(assignment, lease.mark_untidy)
                )
            session = assignment.session(self._store, lease)
            self._capacity = session.capacity if self._workers is None else None
            yield session, leftovers

    @asynccontextmanager
    async def _recovered(
        self, session: Session, leftovers: Leftovers
    ) -> AsyncIterator[list[GroupId]]:
        """Settles what dead runs left, before the block; and after it what was left by runs whose
        leases ended meanwhile: these groups are then in the list.
        """
        dead = [rival for rival in leftovers.rivals if rival.left <= 0]
        waiting = [
            rival for rival in leftovers.rivals if rival.left > 0 and self._ground.meets(rival)
        ]
        for rival in dead:
            if not self._ground.holds(rival):
                self._account.unfinished_elsewhere(rival)
        watches = [asyncio.create_task(outlived(self._store, rival)) for rival in waiting]
        try:
            open_records = await self._settle(session, leftovers.records, waiting)
            if not waiting:
                await sweep(session, self._ground, dead)
            late: list[GroupId] = []
            yield late
            if not waiting or self.stop.interrupted:
                return
            ended = await asyncio.gather(*watches)
            dead += [rival for rival, over in zip(waiting, ended, strict=True) if over]
            alive = [rival for rival, over in zip(waiting, ended, strict=True) if not over]
            await self._settle(session, open_records, alive, last=True)
            late += [
                group_of(session.rules.state, key)
                for key in open_records
                if key not in self._not_ours
            ]
            if not alive:
                await sweep(session, self._ground, dead)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _settle(
        self, session: Session, keys: tuple[str, ...], alive: list[Rival], *, last: bool = False
    ) -> tuple[str, ...]:
        """Settles the records of all runs but the `alive` ones, whose keys are returned; after the
        `last` try these count as leased.
        """
        run_ids = {rival.record.run_id for rival in alive}
        owned: list[str] = []
        limiter = asyncio.Semaphore(_WORKERS)

        async def one(key: str) -> None:
            group = key.removeprefix(records_prefix(session.rules.state))
            outcome = self._account.outcome(group)
            async with limiter:
                try:
                    await recover(session, key, run_ids, outcome)
                except GroupOwned as error:
                    owned.append(key)
                    self._not_ours.add(key)
                    if last:
                        self._account.leased(error)
                    return
            self._account.settled(outcome, group)
            if outcome.unsettled:
                self._not_ours.add(key)
            else:
                self._not_ours.discard(key)

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(one(key))
        return tuple(owned)

    async def _work_prefixes(
        self, session: Session, prefixes: tuple[str, ...], only: frozenset[GroupId] | None = None
    ) -> None:
        """Lists the prefixes, and works off every group in scope; of groups listed again, `only`
        these.
        """
        queue: asyncio.Queue[Group | None] = asyncio.Queue(_QUEUED)
        consumers = _WORKERS * (self._workers.count if self._workers else 1)

        async def found(listed: Listing) -> None:
            groups = (
                self._in_scope(listed)
                if only is None
                else [
                    group
                    for group in listed.groups
                    if group.id in only and self._scope.covers(group.id)
                ]
            )
            for group in groups:
                if not self.stop:
                    await queue.put(group)

        async def produce() -> None:
            await self._list(prefixes, found)
            for _ in range(consumers):
                await queue.put(None)

        async def consume() -> None:
            while (group := await queue.get()) is not None:
                await self._work_group(session, group)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            for _ in range(consumers):
                tasks.create_task(consume())

    async def _work_group(self, session: Session, group: Group) -> None:
        if record_key(session.rules.state, group.id) in self._not_ours or self.stop:
            return
        outcome = self._account.outcome(str(group.id))
        if self._planned is None:
            plan, stale = planning.plan(group, self._layout, session.rules.limits), 0
        else:
            plan, stale = planfile.match_plan(
                group, self._planned[group.id], self._layout, session.rules.limits
            )
        self._account.planned(plan)
        if plan.batches and not self.stop.admits_group():
            return
        try:
            await self._work_off(session, group, plan, outcome)
        except GroupOwned as error:
            self._account.leased(error)
            return
        if stale:
            outcome.failures.append(
                PlanStale(
                    f"{group.id}: {stale} outputs of the plan do not match the bucket any more",
                    key=group.id.prefix,
                )
            )
        self._account.worked(outcome, str(group.id))

    async def _work_off(
        self, session: Session, group: Group, plan: Plan, outcome: GroupOutcome
    ) -> None:
        """Here, or in another process: which does not know the run's limits, so its batches are
        admitted before.
        """
        taken = frozenset(output.key for output in group.outputs)
        if self._workers is None or not plan.batches:
            await work_off(session, plan, taken, self.stop, outcome)
            return
        admitted = tuple(batch for batch in plan.batches if self.stop.admits(batch))
        await self._workers.work(dataclasses.replace(plan, batches=admitted), taken, outcome)

    async def _list(
        self, prefixes: tuple[str, ...], found: Callable[[Listing], Awaitable[None]]
    ) -> None:
        shard = self._settings.shard
        await list_groups(
            self._store,
            prefixes,
            self._layout,
            state_prefix=self._settings.state_prefix,
            on_listing=found,
            on_failure=self._account.failed,
            shard=shard,
        )

    def _in_scope(self, listed: Listing) -> list[Group]:
        groups = [group for group in listed.groups if self._scope.covers(group.id)]
        self._account.listed(listed, groups)
        return groups
