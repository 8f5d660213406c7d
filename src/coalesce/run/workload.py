"""What a run works on: which keys and groups are its own, and how their plans are made. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from coalesce.listing.groups import Listing
from coalesce.listing.inventory import Leads
from coalesce.model import Group, GroupId, Plan
from coalesce.naming.layouts import Layout
from coalesce.naming.shards import Shard
from coalesce.planning import batches
from coalesce.planning.growth import grow
from coalesce.planning.plan_files import PlanFile, PlannedGroup, match_plan
from coalesce.planning.rules import Limits, Scope
from coalesce.planning.work_lists import WorkList
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.survey import Ground
from coalesce.settings import Settings, outermost


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run works on, by its settings and, with `--plan`, by its share of a saved plan.

    Attributes:
        prefixes: The prefixes of the scope, one for each day if there is a date.
        shard: The run's shard, of the saved plan if there is one.
        planned: The saved plan's groups that are this shard's; None without a saved plan.
        planned_names: The names of these groups, each with an underscore.
        wanted: The only keys that may be joined; None for all of them.
        leads: Where there is anything to join; None to list all that is there.
    """

    settings: Settings
    prefixes: tuple[str, ...]
    layout: Layout
    limits: Limits
    scope: Scope
    shard: Shard
    planned: Mapping[GroupId, PlannedGroup] | None = None
    planned_names: frozenset[str] = frozenset()
    wanted: WorkList | None = None
    leads: Leads | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        plan: PlanFile | None,
        today: dt.date,
        wanted: WorkList | None = None,
        leads: Leads | None = None,
    ) -> Workload:
        """Returns the workload of a run by a saved plan, by a work list, by leads, or by its
        settings alone; `today` is UTC's day.
        """
        workload = cls(
            settings=settings,
            prefixes=settings.prefixes(today),
            layout=settings.chosen_layout,
            limits=Limits.of(settings),
            scope=Scope.of(settings),
            shard=settings.shard,
        )
        if wanted is not None:
            scope = replace(workload.scope, only=frozenset(wanted.groups))
            return replace(workload, scope=scope, wanted=wanted)
        if leads is not None:
            return replace(workload, scope=replace(workload.scope, only=leads.groups), leads=leads)
        if plan is None:
            return workload
        planned = {line.id: line for line in plan.share(settings.shard)}
        return replace(
            workload,
            scope=replace(workload.scope, only=frozenset(planned)),
            shard=replace(settings.shard, plan=plan.header.sha256),
            planned=planned,
            planned_names=frozenset(f"{group}_" for group in planned),
        )

    @property
    def ground(self) -> Ground:
        """Where the run works, for comparison with other runs' leases."""
        return Ground(
            layout=self.layout.name,
            prefixes=self.prefixes,
            roots=self.settings.roots,
            shard=self.shard,
            owns=self.owns,
        )

    @property
    def prefixes_to_list(self) -> tuple[str, ...]:
        """The prefixes that hold the groups to be joined, none inside another: with a saved plan or
        a work list, those of its groups. That of `t_0` holds the group `t_0_5` too.
        """
        if self.leads is not None:
            return outermost(self.leads.prefixes)
        groups = self.planned if self.wanted is None else self.wanted.groups
        return self.prefixes if groups is None else outermost(group.prefix for group in groups)

    @property
    def is_listed_in_part(self) -> bool:
        """Whether there may be more under the prefixes than this run lists."""
        limited = (self.planned, self.wanted, self.leads)
        return any(limit is not None for limit in limited) or self.shard.count > 1

    def owns(self, key: str) -> bool:
        """Returns whether the group of a key belongs to the run's shard.

        The key may be a source's, an output's, or a group's name with an underscore.
        """
        if self.planned is None:
            return self.settings.shard.owns(key, self.layout.share_of)
        parsed = self.layout.parse(key)
        return (f"{parsed.group}_" if parsed else key) in self.planned_names

    def groups_in_scope(self, listing: Listing) -> list[Group]:
        """Returns the listed groups that the run works on."""
        return [group for group in self.groups_of(listing) if self.scope.covers(group.id)]

    def groups_of(self, listing: Listing) -> list[Group]:
        """Returns the listed groups that have anything to join, outputs that grow included.

        With a work list none of them does: it names sources.
        """
        if not self.limits.grow or self.wanted is not None:
            return list(listing.groups)
        listed = (*listing.groups, *listing.outputs_only)
        groups = (grow(group, self.layout, self.limits) for group in listed)
        return [group for group in groups if group.sources]

    def see(self, groups: Iterable[Group]) -> None:
        """Notes which keys of a work list are there, in groups as they are listed first."""
        if self.wanted is not None:
            self.wanted.see(groups)

    def plan(self, group: Group, limits: Limits) -> tuple[Plan, int]:
        """Plans a group, or takes its plan from the saved one.

        Returns the plan, and how many outputs of the saved plan no longer match the group.
        """
        if self.wanted is not None:
            limits = replace(limits, wanted=self.wanted.groups[group.id])
        if self.planned is None:
            return batches.plan(group, self.layout, limits), 0
        return match_plan(group, self.planned[group.id], self.layout, limits)

    def lease_record(self, run_id: str, started: float) -> LeaseRecord:
        """Returns the lease that tells other runs where this one works.

        `started` is in seconds since the epoch by the store's clock.
        """
        return LeaseRecord(
            run_id=run_id,
            started=started,
            seconds=self.settings.lease,
            layout=self.layout.name,
            prefixes=self.prefixes,
            shard=str(self.shard),
            plan=self.shard.plan,
        )
