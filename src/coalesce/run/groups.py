"""Groups on their way through a run: listed, queued, planned, and worked off.

One producer lists the prefixes and feeds a bounded queue; a fixed number of consumers take one
group at a time from it, so a long listing waits for the work and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from coalesce.errors import GroupOwned, PlanStale
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group, GroupId, Plan
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import Session
from coalesce.protocol.state import record_key
from coalesce.report.account import Account
from coalesce.run.workers import Workers
from coalesce.run.workload import Workload
from coalesce.stop import Stop
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
        shard=workload.settings.shard,
    )


@dataclass(frozen=True, slots=True)
class GroupQueue:
    """Works off the groups of a workload: here, or in `workers` if there are any."""

    session: Session
    workload: Workload
    account: Account
    stop: Stop
    workers: Workers | None

    async def work_off_all(self, standing: Collection[str]) -> None:
        """Works off every group in scope, except those whose plan records are still `standing`."""

        def choose(listing: Listing) -> list[Group]:
            groups = self.workload.groups_in_scope(listing)
            self.account.count_listing(listing, groups)
            return [
                group
                for group in groups
                if record_key(self.session.rules.state, group.id) not in standing
            ]

        await self._list_and_work_off(self.workload.prefixes_to_list, choose)

    async def work_off_late(self, late: Collection[GroupId]) -> None:
        """Works off groups that another run owned when all groups were listed and counted."""

        def choose(listing: Listing) -> list[Group]:
            groups = self.workload.groups_in_scope(listing)
            return [group for group in groups if group.id in late]

        await self._list_and_work_off(tuple(group.prefix for group in late), choose)

    async def _list_and_work_off(
        self, prefixes: tuple[str, ...], choose: Callable[[Listing], list[Group]]
    ) -> None:
        queue: asyncio.Queue[Group | None] = asyncio.Queue(_QUEUED)
        consumers = _CONCURRENCY * (self.workers.count if self.workers else 1)

        async def enqueue(listing: Listing) -> None:
            for group in choose(listing):
                if self.stop.try_plan_group():
                    await queue.put(group)

        async def produce() -> None:
            await list_prefixes(self.session.store, self.workload, prefixes, self.account, enqueue)
            for _ in range(consumers):
                await queue.put(None)

        async def consume() -> None:
            while (group := await queue.get()) is not None:
                await self._plan_and_work_off(group)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            for _ in range(consumers):
                tasks.create_task(consume())

    async def _plan_and_work_off(self, group: Group) -> None:
        if not self.stop.try_plan_group():
            return
        outcome = self.account.new_outcome(str(group.id))
        plan, unmatched = self.workload.plan(group, self.session.rules.limits)
        self.account.count_plan(plan)
        if plan.batches and not self.stop.try_start_group():
            return
        try:
            await self._work_off(group, plan, outcome)
            if outcome.stale and not outcome.unsettled:
                unmatched = await self._work_off_again(group.id, outcome, unmatched)
        except GroupOwned as error:
            self.account.count_leased_group(error)
            return
        if unmatched:
            outcome.failures.append(
                PlanStale(
                    f"{group.id}: {unmatched} outputs of the saved plan no longer match the bucket",
                    key=group.id.prefix,
                )
            )
        self.account.count_group(outcome, str(group.id))

    async def _work_off_again(self, group: GroupId, outcome: GroupOutcome, unmatched: int) -> int:
        """Lists and plans a group once more, since sources have changed after its first listing.

        Only once: sources that change again are for the next run. Completes the outcome, and
        returns how many outputs of the saved plan do not match, which is `unmatched` so far.
        """
        listed = await self._list_again(group)
        if listed is None or not self.stop.try_plan_group():
            return unmatched
        plan, unmatched = self.workload.plan(listed, self.session.rules.limits)
        second = self.account.new_outcome(str(group))
        await self._work_off(listed, plan, second)
        complete_outcome(outcome, second)
        return unmatched

    async def _list_again(self, group: GroupId) -> Group | None:
        found: list[Group] = []

        async def choose(listing: Listing) -> None:
            found.extend(listed for listed in listing.groups if listed.id == group)

        await list_prefixes(
            self.session.store, self.workload, (group.prefix,), self.account, choose
        )
        return found[0] if found else None

    async def _work_off(self, group: Group, plan: Plan, outcome: GroupOutcome) -> None:
        taken = frozenset(output.key for output in group.outputs)
        if self.workers is None or not plan.batches:
            await work_on_group(self.session, plan, taken, self.stop, outcome)
            return
        # A worker does not know what the others count against the limits: outputs start here.
        batches = tuple(batch for batch in plan.batches if self.stop.try_start_output(batch))
        await self.workers.work_off(replace(plan, batches=batches), taken, outcome)


def complete_outcome(outcome: GroupOutcome, second: GroupOutcome) -> None:
    """Adds what came of a group's second plan to what came of its first.

    The second has met again all sources that the first has kept, but for those of its outputs;
    it has also met again what was wrong with them. So it says more, and each counts once.
    """
    outcome.outputs += second.outputs
    outcome.unsettled |= second.unsettled
    seen = {(error.code, error.key) for error in second.failures}
    outcome.failures = [
        error for error in outcome.failures if (error.code, error.key) not in seen
    ] + second.failures
    outcome.kept = second.kept
