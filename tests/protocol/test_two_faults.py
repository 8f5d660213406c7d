"""Two faults at once, or one of them twice: nothing is lost, repeated or hidden."""

import asyncio
import gzip
from collections import Counter
from typing import Any

import pytest

from coalesce.errors import (
    AccessDenied,
    BadRequest,
    Conflict,
    LeaseLost,
    NotImplementedByStore,
    RecordDamaged,
    StorageError,
    Throttled,
    Unanswered,
    Unavailable,
)
from coalesce.planning.plan_files import PlanFile
from coalesce.protocol.held import HeldRecord, remove_tombstone
from coalesce.protocol.writes import write_state
from coalesce.report.report import Report
from coalesce.storage.base import CreatedUpload, Deleted, DeleteResult
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, filled, records_in, unfinished_in
from support.runs import NoLease, new_run, nobody
from support.settings import settings
from support.timeless import Timeless

RECORD = "_coalesce/groups/data/t_0"
NO_DELETES = frozenset({"delete-if-match", "delete-many-etag"})
MANIFESTS = {f"data/t_0_{n}-t_0_{n}.txt": b"%d\n" % n for n in range(6)}


def once(bucket: MemoryBucket) -> bool:
    return set(records_in(contents(bucket)).values()) == {1}


async def night(bucket: MemoryBucket, store: MemoryStore | None = None, **more: Any) -> Report:
    bucket.now += 1000
    return await new_run(store or MemoryStore(bucket), settings(**more)).coalesce()


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_an_output_of_a_second_try_stays_in_the_record_until_its_sources_are_deleted(
    layout: str,
) -> None:
    """One output meets a conflict once, another twice: so the record, which `--no-delete` leaves
    standing, is written anew after the first of them is there.
    """
    bucket = filled(1, 6) if layout == "corporate" else MemoryBucket()
    for key, body in MANIFESTS.items() if layout == "manifest" else ():
        bucket.store(key, body)
    before = records_in(contents(bucket))
    store, tries = MemoryStore(bucket), Counter[str]()

    async def conflict(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            tries[request.key] += 1
            if tries[request.key] <= (1 if "_0_0_" in request.key else 2):
                raise Conflict("409", key=request.key)

    store.before = conflict
    report = await night(bucket, store, layout=layout, max_files=2, delete=False)
    assert (report.exit_code, sorted(tries.values())) == (0, [2, 3, 3])
    report = await night(bucket, layout=layout, max_files=2)
    assert (report.exit_code, report.outputs.recovered) == (0, 3)
    assert records_in(contents(bucket)) == before


async def test_a_record_that_may_be_this_runs_own_is_not_taken_for_another_runs() -> None:
    """The answer to its creation is lost, and it cannot be looked at either."""
    bucket = filled(2)
    store = MemoryStore(bucket)

    async def lose(request: Request) -> None:
        if (request.operation, request.key) == ("PutObject", RECORD):
            store.after = type(store)(bucket).after
            raise Unavailable("no answer", key=request.key)

    async def refuse(request: Request) -> None:
        if (request.operation, request.key) == ("GetObject", RECORD):
            raise Unavailable("503", key=request.key)

    store.after, store.before = lose, refuse
    report = await night(bucket, store)
    assert RECORD in bucket.objects
    assert (report.exit_code, report.groups.leased, report.groups.failed) == (75, 0, 1)
    assert (await night(bucket)).exit_code == 0
    assert once(bucket)


async def test_a_refusal_that_an_earlier_try_may_have_caused_is_none() -> None:
    """The first try has had effect, its answer is lost, and nothing can be looked at."""
    store = MemoryStore(MemoryBucket())

    async def lose(request: Request) -> None:
        if request.operation == "PutObject":
            store.after = type(store)(store.bucket).after
            raise Unanswered("no answer", key=request.key)

    async def refuse(request: Request) -> None:
        if request.operation == "GetObject":
            raise Unavailable("503", key=request.key)

    store.after, store.before = lose, refuse
    with pytest.raises(Unavailable, match="503"):
        await write_state(store, "_coalesce/x", b"ours", if_none_match=True)


async def test_a_run_whose_lease_is_taken_away_at_once_tries_nothing() -> None:
    bucket = filled(2)
    store, probed = MemoryStore(bucket), []

    async def take_away(request: Request) -> None:
        if request.operation == "PutObject" and request.key.startswith("_coalesce/runs/"):
            bucket.remove(request.key)
        probed.extend([request.key] if "/probe/" in request.key else [])

    store.after = take_away
    report = await night(bucket, store)
    assert ([failure.code for failure in report.failures], probed) == ([LeaseLost.code], [])


async def test_a_group_whose_name_begins_with_anothers_is_joined_once_by_a_saved_plan() -> None:
    bucket = MemoryBucket()
    for group in ("t_0", "t_0_5"):
        for n in range(4):
            text = f"{group} {n}\n".encode()
            bucket.store(f"data/{group}_{n}-{n}.jsonl.gz", gzip.compress(text, mtime=0))
    chosen = settings()
    planner = new_run(MemoryStore(bucket), chosen)
    await planner.plan()
    saved = PlanFile.of(chosen, ("data/",), planner.lines, version="1", created="")
    report = await new_run(MemoryStore(bucket), chosen, planned=saved).coalesce()
    assert (report.groups.seen, report.groups.coalesced, report.groups.leased) == (2, 2, 0)
    assert (report.sources.seen, report.sources.joined) == (8, 8)
    assert once(bucket)


async def test_the_tombstone_of_a_living_run_is_left_to_it() -> None:
    """Its delete, which has no condition, would remove the record that another has put there."""
    bucket = filled(1, ignores=NO_DELETES)
    weaker = {"accept_weaker": ["delete-race"], "lease": 1}
    slow, buried, go = MemoryStore(bucket), asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> None:
        if (request.operation, request.key) == ("DeleteObject", RECORD):
            buried.set()
            await go.wait()

    slow.before = wait
    first = asyncio.create_task(new_run(slow, settings(**weaker)).coalesce())
    await buried.wait()
    for n in range(4, 8):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, mtime=0))
    second = await new_run(MemoryStore(bucket), settings(**weaker)).coalesce()
    assert (second.groups.leased, second.outputs.written) == (1, 0)
    go.set()
    assert (await first).exit_code == 0
    assert (await night(bucket, **weaker)).exit_code == 0
    assert once(bucket)
    assert unfinished_in(bucket.objects) == []


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize(
    ("failure", "times"), [(Unavailable, 1), (Throttled, 3), (Unanswered, 1), (Unavailable, 4)]
)
def test_a_delete_of_a_tombstone_that_fails_is_looked_after(
    failure: type[Unavailable], times: int, landed: bool
) -> None:
    """It is sent again only where the store has answered: one that may land later is enough."""
    bucket = filled(1, ignores=NO_DELETES)
    store, sent = MemoryStore(bucket), 0

    async def fail(request: Request) -> None:
        nonlocal sent
        if (request.operation, request.key) == ("DeleteObject", RECORD):
            sent += 1
            if sent <= times:
                raise failure("made up", key=RECORD)

    store.before, store.after = (store.before, fail) if landed else (fail, store.after)
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        report = runner.run(night(bucket, store, accept_weaker=["delete-race"]))
        after = runner.run(night(bucket, accept_weaker=["delete-race"]))
    passes = landed or (failure, times) in ((Unavailable, 1), (Throttled, 3))
    assert sent == (1 if landed or failure is Unanswered else min(times + 1, 4))
    assert (report.exit_code, after.exit_code) == (0 if passes else 75, 0)
    assert once(bucket)
    assert unfinished_in(bucket.objects) == []


async def test_a_record_in_its_tombstones_place_is_not_deleted_at_the_second_try() -> None:
    """The store failed the first, and has done it all the same."""
    bucket = filled(1, ignores=NO_DELETES)
    store = MemoryStore(bucket)

    async def fail(request: Request) -> None:
        if (request.operation, request.key) == ("DeleteObject", RECORD):
            bucket.store(RECORD, b"another run's record")
            raise Unavailable("500", key=RECORD)

    store.after = fail
    report = await night(bucket, store, accept_weaker=["delete-race"])
    assert bucket.objects[RECORD].data == b"another run's record"
    assert [failure.code for failure in report.failures] == [RecordDamaged.code]  # it was looked at


async def test_of_two_runs_that_find_a_tombstone_the_slower_removes_no_record() -> None:
    bucket = MemoryBucket(ignores=NO_DELETES)
    bucket.store(RECORD, b"removed")
    slow = MemoryStore(bucket)

    async def overtake(request: Request) -> None:
        if request.number == 2:
            await remove_tombstone(MemoryStore(bucket), RECORD, nobody, "fast", NoLease())
            bucket.store(RECORD, b"a new record")

    slow.before = overtake
    await remove_tombstone(slow, RECORD, nobody, "slow", NoLease())
    assert bucket.objects[RECORD].data == b"a new record"


async def test_a_run_without_its_lease_does_not_delete_what_is_in_its_tombstones_place() -> None:
    bucket = filled(1, ignores=NO_DELETES)
    store = MemoryStore(bucket)
    awake = asyncio.Event()
    now = 0.0

    async def sleep(request: Request) -> None:
        nonlocal now
        if (request.operation, request.key) == ("PutObject", RECORD) and awake.is_set():
            now += 1000
        elif (request.operation, request.key) == ("PutObject", RECORD):
            awake.set()

    store.after = sleep
    run = new_run(store, settings(accept_weaker=["delete-race"]), clock=lambda: now)
    report = await run.coalesce()
    assert [failure.code for failure in report.failures] == [LeaseLost.code]
    assert await HeldRecord.read(MemoryStore(bucket), "_coalesce/", RECORD) is None
    assert RECORD in bucket.objects
    assert (await night(bucket, accept_weaker=["delete-race"])).exit_code == 0
    assert once(bucket)
    assert unfinished_in(bucket.objects) == []


async def test_only_a_tombstone_is_cleared_away() -> None:
    bucket = MemoryBucket(ignores=NO_DELETES)
    bucket.store(RECORD, b"a new record")
    await remove_tombstone(MemoryStore(bucket), RECORD, nobody, "r", NoLease())
    assert bucket.objects[RECORD].data == b"a new record"
    bucket.store(RECORD, b"removed")
    await remove_tombstone(MemoryStore(bucket), RECORD, nobody, "r", NoLease())
    assert RECORD not in bucket.objects


class Refusing(MemoryStore):
    """A store that does not let a plan record be removed."""

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if key == RECORD:
            return DeleteResult(key, Deleted.REFUSED, "AccessDenied", "denied")
        return await super().delete(key, etag=etag)


async def test_every_run_says_that_a_tombstone_cannot_be_removed() -> None:
    """Nothing can be recorded over it, so no run would ever join its group again."""
    bucket = filled(1, ignores=NO_DELETES)
    weaker = {"accept_weaker": ["delete-race"]}
    reports = [await night(bucket, Refusing(bucket), **weaker) for _ in range(2)]
    assert [report.exit_code for report in reports] == [1, 10], "the second has joined nothing"
    assert [[failure.key for failure in report.failures] for report in reports] == [[RECORD]] * 2
    assert reports[1].recovered.unsettled_groups == 1
    assert (await night(bucket, **weaker)).exit_code == 0
    assert unfinished_in(bucket.objects) == []


class Forgetful(MemoryStore):
    """The first answer to the creation of an upload at such a key is lost; the client repeats the
    request, which is refused then.
    """

    def __init__(self, bucket: MemoryBucket, where: str, refusal: StorageError) -> None:
        super().__init__(bucket)
        self.refusals = {where: refusal}
        refusal.repeated = True

    async def create_upload(self, key: str, **more: Any) -> CreatedUpload:
        created = await super().create_upload(key, **more)
        for where in [where for where in self.refusals if where in key]:
            raise self.refusals.pop(where)
        return created


@pytest.mark.parametrize(
    ("where", "refusal", "code"),
    [
        ("data/", AccessDenied("denied"), 10),
        ("data/", BadRequest("400"), 1),
        ("full_object_checksum", BadRequest("400"), 0),
        ("full_object_checksum", NotImplementedByStore("501"), 0),
    ],
)
async def test_an_upload_whose_creation_was_repeated_and_refused_is_swept(
    where: str, refusal: StorageError, code: int
) -> None:
    bucket = filled(1)
    report = await night(bucket, Forgetful(bucket, where, refusal))
    assert report.exit_code == code
    await night(bucket)
    assert list(bucket.uploads) == []
    assert unfinished_in(bucket.objects) == []
    assert once(bucket)
