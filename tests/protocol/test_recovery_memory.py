"""Plan records are recovered side by side, as far as the memory for bodies is enough for; each is
read little by little.
"""

import asyncio
from typing import Any

import pytest

from coalesce.exits import ExitCode
from coalesce.protocol import held, ledger, recovery
from coalesce.storage.base import Body
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import check_finished, contents, filled, records_in
from support.nights import RECORD, at, dead_run, night, one_group, output_of, sources_in
from support.runs import new_run
from support.scenarios import is_entry
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


class Measuring(MemoryStore):
    """Notes the longest body under the state prefix that was read of each key."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.longest: dict[str, int] = {}

    async def get(self, key: str, **more: Any) -> Body:
        body = await super().get(key, **more)
        self.longest[key] = max(self.longest.get(key, 0), len(body.data))
        return body


@pytest.mark.parametrize("completed", [True, False])
async def test_a_long_record_and_its_entry_are_never_in_memory_whole(
    completed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = one_group(60)
    operation, key = (
        ("CompleteMultipartUpload", output_of(60))
        if completed
        else ("PutObject", "_coalesce/ledger/")
    )
    await dead_run(bucket, operation, key)
    (entry,) = [key for key in bucket.objects if is_entry(key)]
    monkeypatch.setattr(held, "_READ_AT_ONCE", 200)
    monkeypatch.setattr(ledger, "_HEADER_BYTES", 1000)
    assert len(bucket.objects[RECORD].data) > 200
    assert len(bucket.objects[entry].data) > 1000
    store = Measuring(bucket)
    assert (await night(bucket, store)).exit_code == ExitCode.DONE
    assert (store.longest[RECORD], store.longest[entry]) == (200, 1000)
    assert sources_in(bucket) == []
    check_finished(bucket.objects)


@pytest.mark.parametrize("what", ["written anew", "removed"])
async def test_a_long_record_that_others_change_while_it_is_read_is_left_to_them(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = one_group(20)
    await dead_run(bucket, "CompleteMultipartUpload", output_of(20))
    monkeypatch.setattr(held, "_READ_AT_ONCE", 200)
    record = bucket.objects[RECORD]

    def change() -> None:
        with bucket.audit.others():
            bucket.remove(RECORD)
            if what == "written anew":
                bucket.store(RECORD, record.data + b"x")

    store = at(MemoryStore(bucket), "HeadObject", RECORD, change, after=True)
    report = await new_run(store, settings()).recover()
    assert report.exit_code == ExitCode.TRANSIENT
    assert RECORD in report.failures[0].message
    assert len(sources_in(bucket)) == 20
