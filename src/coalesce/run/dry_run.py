"""A run up to the decision: it lists and plans, and writes nothing."""

from __future__ import annotations

from coalesce.listing.groups import Listing
from coalesce.model import Plan
from coalesce.planning import batches
from coalesce.planning.forecast import forecast
from coalesce.planning.plan_files import PlannedGroup
from coalesce.report.account import Account
from coalesce.run.groups import list_prefixes
from coalesce.run.workload import Workload
from coalesce.stop import Stop
from coalesce.storage.base import ObjectStore


async def plan_all(
    store: ObjectStore, workload: Workload, account: Account, stop: Stop
) -> list[PlannedGroup]:
    """Plans every group in scope, and forecasts what the run would cost.

    Returns the groups that have anything to join, in no order.
    """
    plans: list[Plan] = []
    planned: list[PlannedGroup] = []

    async def plan_listing(listing: Listing) -> None:
        groups = workload.groups_in_scope(listing)
        account.count_listing(listing, groups)
        for group in groups:
            plan = batches.plan(group, workload.layout, workload.limits)
            plans.append(plan)
            account.count_dry_run(group, plan)
            if plan.batches:
                planned.append(PlannedGroup.of(group, plan))

    await list_prefixes(store, workload, workload.prefixes, account, stop, plan_listing)
    account.add_forecast(forecast(plans, workload.settings.memory))
    return planned
