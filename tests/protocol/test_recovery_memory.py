"""Plan records are recovered side by side, as far as the memory for bodies is enough for."""

import asyncio

import pytest

from coalesce.protocol import recovery
from coalesce.storage.memory import MemoryStore, Request
from support.buckets import check_finished, contents, filled, records_in
from support.nights import dead_run
from support.runs import new_run
from support.settings import settings

GROUPS = 8
RECORDS = "_coalesce/groups/"


@pytest.mark.parametrize(("each_takes", "at_once"), [("little", GROUPS), ("half", 2), ("all", 1)])
async def test_no_more_plan_records_are_in_memory_than_the_budget_has_room_for(
    each_takes: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = filled(GROUPS)
    before = records_in(contents(bucket))
    await dead_run(bucket, "PutObject", RECORDS, times=GROUPS)
    stored = max(len(data) for key, data in contents(bucket).items() if key.startswith(RECORDS))
    chosen = settings()
    room = {"half": chosen.memory // 2, "all": 2 * chosen.memory}.get(each_takes)
    if room is not None:
        monkeypatch.setattr(recovery, "_MEMORY", room // stored)
    store, held, most = MemoryStore(bucket), set[str](), 0

    async def look(request: Request) -> None:
        """A record is in memory from the first look at its output until it is removed."""
        nonlocal most
        if request.operation == "HeadObject" and request.key.startswith("data/"):
            held.add(request.key.rpartition("_0_")[0])
            most = max(most, len(held))
            for _ in range(50):
                await asyncio.sleep(0)  # the others come as far as they can
        if request.operation == "DeleteObject":
            held.discard(request.key.removeprefix(RECORDS))

    store.before = look
    report = await new_run(store, chosen).recover()
    assert (report.exit_code, report.recovered.groups, most) == (0, GROUPS, at_once)
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)
