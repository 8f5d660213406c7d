"""Groups on their way through a run: listed, queued, planned, and worked on.

One producer lists the prefixes and feeds a bounded queue; a fixed number of consumers take one
group at a time from it, so a long listing waits for the work and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

from coalesce.errors import GroupOwned, PlanStale
from coalesce.listing.found import Found, find_neighbours
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Batch, Group, GroupId, Plan, TransferredBatch, Why
from coalesce.naming.shards import WHOLE
from coalesce.protocol.batch import transfer_here
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import Session
from coalesce.protocol.state import record_key
from coalesce.report import warnings
from coalesce.report.account import Account
from coalesce.report.listed import ListedGroup
from coalesce.run.division import is_shared, processes_worth, work_of
from coalesce.run.settlement import Settlement
from coalesce.run.workers import Workers
from coalesce.run.workload import Workload
from coalesce.settings import outermost
from coalesce.stop import Stop
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import ObjectStore

# Groups that are worked on at once, for each process.
_CONCURRENCY = 32

# Groups that are listed and wait for their turn.
_QUEUED = 256


async def list_prefixes(
    store: ObjectStore,
    workload: Workload,
    prefixes: tuple[str, ...],
    account: Account,
    stop: Stop,
    on_listing: Callable[[Listing], Awaitable[None]],
) -> None:
    """Lists prefixes piece by piece, and hands each piece to `on_listing`.

    A piece that cannot be listed is added to the failures, and the listing goes on.
    """
    await list_groups(
        store,
        prefixes,
        workload.layout,
        state_prefix=workload.settings.state_prefix,
        on_listing=on_listing,
        on_failure=account.add_failure,
        keep_going=stop.try_plan_group,
        shard=workload.settings.shard if workload.planned is None else WHOLE,
    )


async def warn_of_nothing(
    store: ObjectStore, workload: Workload, found: Found, account: Account
) -> None:
    """Warns of prefixes without any key, and of keys none of which is named by the layout; of keys
    of a work list that are not there, no sources, or too young.

    What other shards see is not known here, nor what a saved plan or a list does not ask for.
    """
    if workload.wanted is not None:
        unknown = tuple(failure.key for failure in account.report.failures)
        young = account.report.sources.left[Why.YOUNG]
        for warning in warnings.left_of_list(workload.wanted, workload.layout, unknown, young):
            account.warn(warning)
    if workload.is_listed_in_part:
        return
    found.add_failed(failure.key for failure in account.report.failures)
    settings = workload.settings
    neighbours = await find_neighbours(store, found.empty, settings.state_prefix)
    layouts = workload.layout, settings.known_layouts
    for warning in warnings.nothing_found(settings.bucket, *layouts, found, neighbours):
        account.warn(warning)


@dataclass(slots=True)
class GroupQueue:
    """Brings the groups of a workload through the run: here, or in `workers` if there are any.

    Attributes:
        deferred: Groups on which another run's plan record stood when they were listed or begun, by
            the record's key.
        refused: Why those could not be begun on which it was not known to stand, by the same key.
        own: Keys of this run's own plan records that stand.
        work: The work that has been listed, in seconds of CPU.
        divided: Whether it is decided how many workers are taken.
    """

    session: Session
    workload: Workload
    account: Account
    stop: Stop
    workers: Workers | None
    deferred: dict[str, ListedGroup] = field(default_factory=dict)
    refused: dict[str, GroupOwned] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    work: float = 0.0
    divided: bool = False

    async def work_on_all(self, standing: Collection[str]) -> None:
        """Works on every group in scope; defers those whose plan records are `standing`."""
        found = Found(set(self.workload.prefixes), self.workload.scope.covers)

        def choose(listing: Listing) -> list[Group]:
            found.add(listing)
            groups = self.workload.groups_in_scope(listing)
            self.workload.see(groups)
            self.account.count_listing(listing, groups)
            free: list[Group] = []
            for group in groups:
                key = record_key(self.session.rules.state, group.id)
                if key in standing:
                    self.deferred[key] = ListedGroup.of(group)
                else:
                    free.append(group)
            return free

        await self._list_and_work(self.workload.prefixes_to_list, choose)
        if not self.stop.stopping:
            await warn_of_nothing(self.session.store, self.workload, found, self.account)

    async def work_on_late(self, records: Collection[str]) -> None:
        """Works on deferred groups whose plan records have been settled since.

        One that the first listing did not show, because it failed or came too early, is for the
        next run: it was not counted.
        """
        late = {self.deferred[key].group: key for key in records if key in self.deferred}

        def choose(listing: Listing) -> list[Group]:
            found = {group.id: group for group in self.workload.groups_of(listing)}
            for group in (*listing.groups, *listing.outputs_only):
                if group.id in late and (before := self.deferred.pop(late[group.id], None)):
                    now = ListedGroup.of(found.get(group.id, group))
                    self.account.recount_listed(group.id, before, now)
            return [group for group in found.values() if group.id in late]

        await self._list_and_work(outermost(group.prefix for group in late), choose)

    def count_deferred(self, settlement: Settlement) -> None:
        """Counts the groups that are still deferred, by what became of their plan records."""
        for key, group in self.deferred.items():
            refusal = None if key in settlement.unsettled else self.refused.get(key)
            if refusal is not None:
                self.account.warn(warnings.leased_group(refusal))
            if refusal is not None or key in settlement.owned:
                self.account.count_idle_group(group.sources, Why.LEASED)
                continue
            kept = settlement.unsettled.get(key, ())
            failed = key in settlement.failed
            self.account.count_unsettled_group(group.sources, kept, failed=failed)

    async def _list_and_work(
        self, prefixes: tuple[str, ...], choose: Callable[[Listing], list[Group]]
    ) -> None:
        queue: asyncio.Queue[Group | None] = asyncio.Queue(_QUEUED)
        listed: deque[Group] = deque()
        consumers: list[asyncio.Task[None]] = []

        async def enqueue(listing: Listing) -> None:
            for group in choose(listing):
                self.work += work_of(group)
                listed.append(group)
            if self._divide(all_listed=False):
                await hand_on()

        async def hand_on() -> None:
            missing = _CONCURRENCY * self._processes - len(consumers)
            consumers.extend(tasks.create_task(consume()) for _ in range(missing))
            while listed:
                await queue.put(listed.popleft())

        async def produce() -> None:
            await list_prefixes(
                self.session.store, self.workload, prefixes, self.account, self.stop, enqueue
            )
            self.account.all_listed = True
            self._divide(all_listed=True)
            await hand_on()
            for _ in consumers:
                await queue.put(None)

        async def consume() -> None:
            while (group := await queue.get()) is not None:
                await self._plan_and_work(group)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())

    def _divide(self, *, all_listed: bool) -> bool:
        """Takes as many workers as the work is worth, once that is known; returns whether it is.

        Once and for all: what has begun in this process holds its memory. The work is known once
        it is worth every process that there may be, or `all_listed`.
        """
        if self.workers is None or self.divided:
            return True
        if not self.work:
            return False
        most = self.workers.most
        wanted = self.workload.settings.processes
        worth = most if wanted else processes_worth(self.work, most)
        self.divided = worth == most or all_listed
        if self.divided:
            self.workers.take(
                worth if worth > 1 else 0, lambda: self.account.warn(warnings.worker_died())
            )
        return self.divided

    @property
    def _processes(self) -> int:
        """How many processes work on the groups."""
        return max(1, self.workers.taken if self.workers else 0)

    async def _plan_and_work(self, group: Group) -> None:
        if not self.stop.try_plan_group():
            self.account.count_idle_group(len(group.sources), Why.STOPPED)
            return
        outcome = self.account.new_outcome(str(group.id), group.id)
        plan, unmatched = self.workload.plan(group, self.session.rules.limits)
        if plan.batches and not self.stop.try_start_group():
            outcome.kept += plan.kept
            self.account.count_plan(plan)
            self.account.count_group(outcome, group, plan, Why.STOPPED)
            return
        key = record_key(self.session.rules.state, group.id)
        try:
            await self._work(group, plan, outcome)
            if outcome.stale and not outcome.unsettled:
                again = await self._work_again(group, outcome)
                if again is not None:
                    unmatched, plan = again[0], replace(plan, excluded=again[1])
            self.own.update([key] if outcome.unsettled else [])
        except GroupOwned as error:
            if not outcome.outputs and not outcome.failures:
                self.deferred[key], self.refused[key] = ListedGroup.of(group), error
                return
            self.account.warn(warnings.leased_group(error))
            self.account.count_plan(plan)
            self.account.count_group(outcome, group, plan, Why.LEASED)
            return
        self.account.count_plan(plan)
        if unmatched:
            outputs = "1 output" if unmatched == 1 else f"{unmatched:,} outputs"
            message = (
                f"{group.id}: {outputs} of the saved plan cannot be joined as planned any more"
            )
            outcome.failures.append(PlanStale(message, key=group.id.prefix))
        self.account.count_group(outcome, group, plan, self._rest(outcome))

    def _rest(self, outcome: GroupOutcome) -> Why:
        """Why sources of a group that was worked on are neither joined nor kept."""
        if outcome.stale:
            return Why.CHANGED
        if outcome.failures:
            return Why.FAILED
        if self.stop.stopping:
            return Why.STOPPED
        return Why.FAILED if self.workload.planned is None else Why.UNPLANNED

    async def _work_again(self, group: Group, outcome: GroupOutcome) -> tuple[int, int] | None:
        """Lists and plans a group once more, since sources have changed after its first listing.

        Only once: sources that change again are for the next run. Completes the outcome, and
        returns how many outputs of the saved plan do not match, and how many sources the user's
        patterns leave out; None if there is nothing more to plan.
        """
        listed = await self._list_again(group.id)
        if listed is None or not self.stop.try_plan_group():
            return None
        plan, unmatched = self.workload.plan(listed, self.session.rules.limits)
        second = self.account.new_outcome(str(group.id), group.id)
        await self._work(listed, plan, second)
        self.account.recount_stale(group, outcome, listed)
        complete_outcome(outcome, second)
        return unmatched, plan.excluded

    async def _list_again(self, group: GroupId) -> Group | None:
        found: list[Group] = []

        async def choose(listing: Listing) -> None:
            listed_groups = self.workload.groups_of(listing)
            found.extend(listed for listed in listed_groups if listed.id == group)

        await list_prefixes(
            self.session.store, self.workload, (group.prefix,), self.account, self.stop, choose
        )
        return found[0] if found else None

    async def _work(self, group: Group, plan: Plan, outcome: GroupOutcome) -> None:
        workers = self.workers
        taken = group.output_keys
        if workers is None or not workers.alive or not plan.batches:
            await work_on_group(self.session, plan, taken, self.stop, outcome)
        elif is_shared(plan, self.work, workers.alive):
            await work_on_group(self.session, plan, taken, self.stop, outcome, self._transfer)
        else:
            # A worker does not know what the others count against the limits: outputs start here.
            batches = tuple(batch for batch in plan.batches if self.stop.try_start_output(batch))
            await workers.work(replace(plan, batches=batches), taken, outcome)

    async def _transfer(
        self, batch: Batch, upload_id: str, first: Attributes
    ) -> TransferredBatch | None:
        """Has a worker send the parts of a batch; sends them from here once there is none left."""
        if self.workers is None or not self.workers.alive:
            return await transfer_here(self.session, self.stop, batch, upload_id, first)
        return await self.workers.transfer(batch, upload_id, first)


def complete_outcome(outcome: GroupOutcome, second: GroupOutcome) -> None:
    """Adds what came of a group's second plan to what came of its first.

    The second has met again all sources that the first has kept, but for those of its outputs;
    it has also met again what was wrong with them. So it says more, and each counts once.
    """
    outcome.outputs += second.outputs
    outcome.joined += second.joined
    outcome.stale = second.stale
    outcome.unsettled |= second.unsettled
    seen = {(error.code, error.key) for error in second.failures}
    outcome.failures = [
        error for error in outcome.failures if (error.code, error.key) not in seen
    ] + second.failures
    outcome.kept = second.kept
    outcome.unlike = outcome.unlike or second.unlike
