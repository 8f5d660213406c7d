"""The whole run, from its first request to its report, in the order in which things happen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace

from coalesce.clock import boottime
from coalesce.listing.inventory import Leads
from coalesce.planning.plan_files import PlanFile, PlannedGroup
from coalesce.planning.work_lists import WorkList
from coalesce.protocol.lease import Lease
from coalesce.protocol.session import GroupRules, Session
from coalesce.protocol.survey import Leftovers, survey
from coalesce.report import warnings
from coalesce.report.account import Account, Phase, new_report
from coalesce.report.events import RunEvent
from coalesce.report.report import Report
from coalesce.run.dry_run import plan_all
from coalesce.run.groups import GroupQueue
from coalesce.run.messages import Assignment
from coalesce.run.settlement import (
    Rivals,
    clean_up,
    clean_up_own,
    settle,
    settle_late,
    wait_for,
    warn_of_no_keys,
    watch,
)
from coalesce.run.start import new_run_id, probe_store, try_own_layout
from coalesce.run.undoing import UndoQueue, Wanted, plan_undo
from coalesce.run.workers import Workers, usage_of_run
from coalesce.run.workload import Workload
from coalesce.settings import Settings
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import ObjectStore
from coalesce.transfer.limits import Capacity


class Run:
    """One run over one bucket: one of `coalesce`, `recover` and `plan`, once.

    Args:
        store: The bucket.
        settings: What the user asked for.
        emit: Takes the run's events, as `docs/report.md` lists them.
        endpoint: The store's URL, for the report.
        planned: The saved plan of which the run works on its shard; None to plan by itself.
        wanted: The only keys that the run may join; None for all of them.
        leads: Where there is anything to join; None to list all that is there.
        run_id: An id that no other run has.
        clock: Seconds that never go back, and go on while the machine sleeps.
        workers: The processes that work on the groups; None for this one.
        tune: Has the last word on the rules that all groups are worked on under.
    """

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        emit: Callable[[RunEvent], None] = lambda _: None,
        *,
        endpoint: str = "",
        planned: PlanFile | None = None,
        wanted: WorkList | None = None,
        leads: Leads | None = None,
        run_id: str = "",
        clock: Callable[[], float] = boottime,
        workers: Workers | None = None,
        tune: Callable[[GroupRules], GroupRules] = lambda rules: rules,
    ) -> None:
        self.run_id = run_id or new_run_id()
        self.stop = Stop(RunLimits.of(settings), clock)
        self.lines: list[PlannedGroup] = []  # of the saved plan that `plan` makes
        self._store, self._settings, self._workers = store, settings, workers
        self._clock, self._started_at, self._tune = clock, clock(), tune
        today = dt.datetime.now(dt.UTC).date()
        self._workload = Workload.of(settings, planned, today, wanted, leads)
        report = new_report(self.run_id, settings, self._workload.prefixes)
        self._account = Account(report, emit, settings.max_size)
        self.report.store.endpoint = endpoint
        self._capacity: Capacity | None = None  # of this process

    @property
    def settings(self) -> Settings:
        """What it works under."""
        return self._settings

    @property
    def report(self) -> Report:
        """The report so far."""
        return self._account.report

    @property
    def phase(self) -> Phase:
        """What the run is doing."""
        return self._account.phase

    @property
    def all_listed(self) -> bool:
        """Whether the report has every source that there is."""
        return self._account.all_listed

    def interrupt(self, code: int) -> None:
        """Ends the run between outputs, in all its processes, with this exit code."""
        self.stop.request(code)
        if self._workers is not None:
            self._workers.halt(code)

    @property
    def in_progress(self) -> str:
        """What a run that stops now still does, in words."""
        outputs, size = self.stop.outputs_in_progress
        if self._workers is not None:
            elsewhere = self._workers.outputs_in_progress
            outputs, size = outputs + elsewhere[0], size + elsewhere[1]
        if not outputs:
            return "no output is being written"
        plural = "" if outputs == 1 else "s"
        return f"finishing {outputs} output{plural} ({size / 1e6:,.0f} MB)"

    async def coalesce(self) -> Report:
        """Finishes what earlier runs left, then lists, joins, proves and deletes."""
        return await self._report(self._run(join=True))

    async def recover(self) -> Report:
        """Finishes what earlier runs left, and nothing else."""
        return await self._report(self._run(join=False))

    async def plan(self) -> Report:
        """Lists and plans, and writes nothing."""
        return await self._report(self._plan())

    async def undo(self, wanted: Wanted) -> Report:
        """Finishes what earlier runs left, then gives outputs back as the sources they were."""
        return await self._report(self._run(join=False, wanted=wanted))

    async def plan_undo(self, wanted: Wanted) -> Report:
        """Finds the outputs that `undo` would give back, and writes nothing."""
        return await self._report(self._plan_undo(wanted))

    async def _plan(self) -> None:
        await self._store.check_access(self._workload.prefixes[0])
        await try_own_layout(self._store, self._workload)
        self._account.phase = Phase.PLANNING
        self.lines = await plan_all(self._store, self._workload, self._account, self.stop)

    async def _plan_undo(self, wanted: Wanted) -> None:
        await self._store.check_access(self._workload.prefixes[0])
        self._account.phase = Phase.PLANNING
        await plan_undo(self._store, self._workload, wanted, self._account)

    async def _run(self, *, join: bool, wanted: Wanted | None = None) -> None:
        store, workload, workers = self._store, self._workload, self._workers
        state = self._settings.state_prefix
        await store.check_access(workload.prefixes[0])
        if join:
            await try_own_layout(store, workload)
        leftovers = await survey(store, state, workload.ground)  # without this run's own lease
        claim = workload.lease_record(self.run_id, leftovers.date)
        lease = Lease(store, state, claim, self._clock, workers.expiry if workers else None)
        async with lease.hold():
            rules = self._tune(await probe_store(store, lease, workload, self.report))
            rules = replace(rules, undo=not join)
            assignment = Assignment.of(rules, self._settings)
            session = assignment.session(store, lease)
            self._capacity = session.capacity
            async with workers.assigned(assignment, lease, self.stop) if workers else nullcontext():
                settled = await self._settle_and_work(session, leftovers, wanted, join=join)
            if settled:
                await clean_up_own(session, workload.ground, lease)

    async def _settle_and_work(
        self, session: Session, leftovers: Leftovers, wanted: Wanted | None, *, join: bool
    ) -> bool:
        """Settles what dead runs left, joins, then settles and joins what died meanwhile.

        Without `join` it only settles, or gives back what is `wanted`. Returns whether no record of
        this run's own stands.
        """
        ground, account, stop = self._workload.ground, self._account, self.stop
        work = self._queue(session, wanted)
        works = join or wanted is not None
        rivals = Rivals.of(leftovers.rivals, ground)
        for rival in rivals.dead:
            if not ground.holds(rival):
                account.warn(warnings.unfinished_run(rival, self._settings.bucket))
        async with watch(session.store, rivals.alive) as watches:
            account.phase = Phase.SETTLING
            found = await settle(session, leftovers.records, rivals, ground, account, stop)
            await clean_up(session, ground, rivals, account)
            if works:
                account.phase = Phase.JOINING if join else Phase.UNDOING
                await work.work_on_all(found.standing)
            account.phase = Phase.WAITING if rivals.alive else Phase.ENDING
            ended = await wait_for(watches, rivals, account, stop)
        account.phase = Phase.ENDING
        if ended is not None:
            rivals = rivals.after_watch(ended)
            last = await settle(session, found.owned, rivals, ground, account, stop, last_try=True)
            await clean_up(session, ground, rivals, account)
            late = [key for key in found.owned if key not in last.standing]
            if works and late:
                await work.work_on_late(late)
            found = found.followed_by(last)
        known = {*found.unsettled, *work.own}
        late_found, settled = await settle_late(session, known, ground, account, stop)
        if works:
            await work.work_on_late(settled)
        found = found.completed_by(late_found, settled)
        if works:
            work.count_deferred(found)
        else:
            account.count_leased_records(len(found.owned))
            if not stop.stopping:
                await warn_of_no_keys(session.store, ground.roots, self._settings, account)
        return not work.own

    def _queue(self, session: Session, wanted: Wanted | None) -> GroupQueue | UndoQueue:
        workload, account = self._workload, self._account
        if wanted is None:
            return GroupQueue(session, workload, account, self.stop, self._workers)
        return UndoQueue(session, workload, account, self.stop, wanted)

    async def _report(self, job: Awaitable[None]) -> Report:
        try:
            await self._account.add_failure_of(job)
        finally:
            self.report.processes = max(1, self._workers.taken if self._workers else 0)
            self._account.close(
                usage_of_run(self._store, self._capacity, self._workers),
                seconds=self._clock() - self._started_at,
                stop=self.stop,
                error_on_nothing=self._settings.error_on_nothing,
            )
        return self.report
