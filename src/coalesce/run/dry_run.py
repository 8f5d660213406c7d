"""A run up to the decision: it lists and plans, and writes nothing."""

from __future__ import annotations

from coalesce.errors import StorageError
from coalesce.listing.found import Found
from coalesce.listing.groups import Listing
from coalesce.model import GroupId, Plan
from coalesce.planning.forecast import forecast
from coalesce.planning.plan_files import PlannedGroup
from coalesce.protocol.leftovers import read_records, without_leftovers
from coalesce.protocol.record import PlanRecord
from coalesce.protocol.state import records_prefix
from coalesce.protocol.survey import find_records
from coalesce.report.account import Account
from coalesce.run.groups import list_prefixes, warn_of_nothing
from coalesce.run.workload import Workload
from coalesce.stop import Stop
from coalesce.storage.base import ObjectStore


async def plan_all(
    store: ObjectStore, workload: Workload, account: Account, stop: Stop
) -> list[PlannedGroup]:
    """Plans every group in scope, and forecasts what the run would cost.

    What earlier runs have joined and not deleted is not planned: the run deletes it first. Returns
    the groups that have anything to join, in no order.
    """
    plans: list[Plan] = []
    planned: list[PlannedGroup] = []
    records = await _find_records(store, workload, account)
    found = Found(set(workload.prefixes), workload.scope.covers)

    async def plan_listing(listing: Listing) -> None:
        found.add(listing)
        groups = workload.groups_in_scope(listing)
        workload.see(groups)
        account.count_listing(listing, groups)
        for group in groups:
            if group.id in records:
                group, joined = without_leftovers(group, records[group.id])
                account.count_leftovers(joined)
            plan, _ = workload.plan(group, workload.limits)
            plans.append(plan)
            account.count_dry_run(group, plan)
            if plan.batches:
                planned.append(PlannedGroup.of(group, plan))

    await list_prefixes(store, workload, workload.prefixes_to_list, account, stop, plan_listing)
    if not stop.stopping:
        await warn_of_nothing(store, workload, found, account)
    memory, single = workload.settings.memory, workload.limits.single
    account.add_forecast(forecast(plans, memory, single=single))
    return planned


async def _find_records(
    store: ObjectStore, workload: Workload, account: Account
) -> dict[GroupId, PlanRecord]:
    """The plan records of this run's groups. Those that cannot be found or read are failures."""
    state, ground = workload.settings.state_prefix, workload.ground
    groups = records_prefix(state)
    try:
        found = await find_records(store, state, ground)
    except StorageError as error:
        account.add_failure(error)
        return {}
    own = [key for key in found if ground.has(key.removeprefix(groups))]
    known = workload.settings.known_layouts
    return await read_records(store, state, own, known, account.add_failure)
