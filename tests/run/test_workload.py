"""Which keys and groups are a run's own."""

import dataclasses
import datetime as dt

import pytest

from coalesce.listing.groups import Listing
from coalesce.model import Group, GroupId
from coalesce.planning.plan_files import PlanFile, PlannedGroup
from coalesce.protocol.session import GroupRules
from coalesce.run.pipeline import Run
from coalesce.run.workload import Workload
from coalesce.storage.memory import MemoryStore
from support.buckets import filled
from support.settings import settings

TODAY = dt.date(2026, 11, 22)


def plan_of(partitions: int) -> PlanFile:
    """A saved plan of as many groups, each with as much to do."""
    lines = [
        PlannedGroup(
            directory="data/", topic="t", partition=n, listed_at=0.0, seconds=1.0, batches=()
        )
        for n in range(partitions)
    ]
    return PlanFile.of(settings(), ("data/",), lines, version="1", created="2026-11-22T00:00:00Z")


def test_without_a_saved_plan_a_run_lists_its_prefixes_and_owns_its_shards_keys() -> None:
    workload = Workload.of(settings(shard="1/3"), None, TODAY)
    assert workload.prefixes_to_list == ("data/",)
    shard = settings(shard="1/3").shard
    keys = [f"data/t_{n}_0-9.jsonl.gz" for n in range(30)]
    assert [workload.owns(key) for key in keys] == [shard.owns(key) for key in keys]


def test_with_a_saved_plan_a_run_lists_and_owns_its_share_of_the_planned_groups() -> None:
    plan = plan_of(6)
    workload = Workload.of(settings(shard="0/2"), plan, TODAY)
    own = [line.id.prefix for line in plan.share(settings(shard="0/2").shard)]
    assert list(workload.prefixes_to_list) == own
    assert len(own) == 3
    for n in range(7):
        prefix = f"data/t_{n}_"
        for key in (prefix, f"{prefix}0-9.jsonl.gz", f"{prefix}0_9.jsonl.gz"):
            assert workload.owns(key) == (prefix in own)
    assert workload.shard.plan == plan.header.sha256
    other = GroupId("data/", f"t_{own[0].split('_')[1]}", 5)  # listed with the planned group
    groups = tuple(Group(id, (), (), 0.0) for id in [*(workload.planned or ()), other])
    listed = workload.groups_in_scope(Listing("", groups, (), 0, "", 0, 0, 0))
    assert [group.id.prefix for group in listed] == own


def test_whether_a_key_is_a_planned_groups_is_looked_up_and_not_searched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice the groups and twice the keys are twice the work, not four times."""
    prefix_of = GroupId.prefix.fget  # type: ignore[attr-defined]
    reads = 0

    def counted(group: GroupId) -> str:
        nonlocal reads
        reads += 1
        return str(prefix_of(group))

    monkeypatch.setattr(GroupId, "prefix", property(counted))

    def reads_for(count: int) -> int:
        nonlocal reads
        reads = 0
        ground = Workload.of(settings(), plan_of(count), TODAY).ground
        assert sum(ground.owns(f"data/t_{n}_0-9.jsonl.gz") for n in range(2 * count)) == count
        return reads

    assert reads_for(200) == 2 * reads_for(100)


def test_groups_in_scope_are_those_of_the_chosen_topics_and_partitions() -> None:
    groups = tuple(
        Group(GroupId("data/", topic, partition), (), (), 0.0)
        for topic in ("a.one", "a.two", "b")
        for partition in range(3)
    )
    listing = Listing("", groups, (), 0, "", 0, 0, 0)
    workload = Workload.of(settings(topic=["a.*"], partition=[0, 2]), None, TODAY)
    assert [str(group.id) for group in workload.groups_in_scope(listing)] == [
        "data/a.one_0",
        "data/a.one_2",
        "data/a.two_0",
        "data/a.two_2",
    ]


async def test_the_rules_of_all_groups_can_be_changed_from_outside() -> None:
    """So a test need not patch what it wants to be smaller."""
    seen: list[GroupRules] = []

    def keep_sources(rules: GroupRules) -> GroupRules:
        seen.append(rules)
        return dataclasses.replace(rules, delete=False)

    run = Run(MemoryStore(filled()), settings(), tune=keep_sources)
    report = await run.coalesce()
    assert [rules.run_id for rules in seen] == [run.run_id]
    assert (report.outputs.written, report.sources.deleted) == (1, 0)
