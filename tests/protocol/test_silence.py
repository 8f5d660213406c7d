"""An answer that does not come says nothing: the run finds out what is there, or leaves it to the
next one.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest

from coalesce import errors
from coalesce.report.report import Report
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents
from support.late import Late
from support.nights import RECORD, audited, night, one_group, sources_in
from support.runs import new_run
from support.scenarios import AuditedBucket, check_settled, corporate, manifests, readable
from support.schedules import Tally
from support.settings import settings
from support.timeless import Timeless

# --- a Complete that goes unanswered and takes effect late


def add_a_source(bucket: AuditedBucket, layout: str) -> None:
    """So that another plan would be made."""
    with bucket.audit.others():
        if layout == "manifest":
            bucket.store("data/db.core.topic_0_900-db.core.other_1_907.txt", b"id-900|1\n")
        else:
            bucket.store("data/db.core.topic_0_9000-9009.jsonl.gz", gzip.compress(b"added\n"))


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
@pytest.mark.parametrize("repeated", [False, True], ids=["sent again", "repeated by the client"])
@pytest.mark.parametrize("grows", [False, True], ids=["the same sources", "one source more"])
async def test_a_complete_that_lands_after_the_run_is_settled_by_the_next(
    layout: str, repeated: bool, grows: bool
) -> None:
    bucket = audited(manifests) if layout == "manifest" else one_group(5)
    before = sources_in(bucket)
    store = Late(bucket)
    store.repeated = repeated
    report = await night(bucket, store, layout=layout)
    assert report.exit_code in (1, 75)
    assert report.failures
    assert RECORD in bucket.objects
    assert sources_in(bucket) == before
    await store.land()
    if grows:
        add_a_source(bucket, layout)
    report = await night(bucket, layout=layout)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert len(sources_in(bucket)) == grows
    bucket.audit.check_quiet()


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_a_complete_that_lands_while_the_run_goes_on_ends_with_every_record_once(
    layout: str,
) -> None:
    bucket = audited(manifests) if layout == "manifest" else one_group(5)
    original = readable(contents(bucket))
    store = Late(bucket)
    looks = 0

    async def after(request: Request) -> None:
        nonlocal looks
        looks += store.under_way is not None and request.operation == "HeadObject"
        if looks == 2:
            looks += 1
            await store.land()

    store.after = after
    report = await night(bucket, store, layout=layout)
    assert report.exit_code in (0, 1, 75)
    await check_settled(bucket, settings(layout=layout), original, "landed")


async def test_an_upload_that_another_run_has_aborted_is_not_taken_for_a_late_one() -> None:
    """The first Complete was answered: the upload is gone because another run has taken over."""
    bucket = one_group(5)

    async def before(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            bucket.uploads.clear()

    store = MemoryStore(bucket)
    store.before = before
    report = await night(bucket, store)
    assert [failure.code for failure in report.failures] == ["Fenced"]
    assert RECORD not in bucket.objects


# --- one failure of a write of the state: lease, its renewals, plan record, ledger entry


def lose_answer(store: MemoryStore, number: int) -> None:
    async def after(request: Request) -> None:
        if request.number == number:
            raise errors.Unavailable("no answer", key=request.key, operation=request.operation)

    store.after = after


def refuse(kind: type[errors.StorageError]) -> Callable[[MemoryStore, int], None]:
    def fail(store: MemoryStore, number: int) -> None:
        inner = store.before

        async def before(request: Request) -> None:
            if request.number == number:
                raise kind("made up", key=request.key, operation=request.operation)
            await inner(request)

        store.before = before

    return fail


FAULTS = {
    "the answer lost": lose_answer,
    "a 409": refuse(errors.Conflict),
    "a 500": refuse(errors.Unavailable),
    "a 503": refuse(errors.Throttled),
}


def two_outputs(seconds: float = 40) -> tuple[AuditedBucket, MemoryStore]:
    """Each part takes some time, so that the lease is renewed on the way: every 15 seconds."""
    bucket = audited(lambda bucket: corporate(bucket, groups=1, sources=6))
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "UploadPart" and request.key.startswith("data/"):
            await asyncio.sleep(seconds)

    store.before = before
    return bucket, store


def in_virtual_time(bucket: MemoryBucket, job: Callable[[Timeless], Awaitable[Report]]) -> Report:
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Timeless)

        async def whole() -> Report:
            return await job(loop)

        return runner.run(whole())


def run_all(bucket: AuditedBucket, store: MemoryStore) -> Report:
    chosen = settings(max_files=3)
    return in_virtual_time(bucket, lambda loop: new_run(store, chosen, clock=loop.time).coalesce())


def writes_of_the_state() -> list[Request]:
    bucket, store = two_outputs()
    sent: list[Request] = []
    inner = store.before

    async def before(request: Request) -> None:
        if request.operation == "PutObject" and "/probe/" not in request.key:
            sent.append(request)
        await inner(request)

    store.before = before
    assert run_all(bucket, store).exit_code == 0
    return sent


@pytest.mark.parametrize("fault", FAULTS)
def test_one_failure_of_a_write_of_the_state_ends_no_run(fault: str, tally: Tally) -> None:
    tried = writes_of_the_state()
    written = [request.key.split("/")[1] for request in tried]
    assert written.count("runs") >= 3
    assert set(written) == {"runs", "groups", "ledger"}
    tally("failures of writes of the state", len(tried))
    for put in tried:
        bucket, store = two_outputs()
        FAULTS[fault](store, put.number)
        context = f"{fault} at request {put.number}: {put.key}"
        report = run_all(bucket, store)
        assert (report.exit_code, report.outputs.written) == (0, 2), (context, report.failures)
        assert sources_in(bucket) == [], context
        bucket.audit.check_quiet(context)


@pytest.mark.parametrize("number", [1, 2])
def test_a_renewal_that_hangs_for_longer_than_the_lease_is_given_up_and_sent_again(
    number: int,
) -> None:
    bucket, store = two_outputs(seconds=80)
    inner, writes = store.before, 0

    async def before(request: Request) -> None:
        nonlocal writes
        if request.operation == "PutObject" and request.key.startswith("_coalesce/runs/"):
            writes += 1
            if writes == 1 + number:
                await asyncio.sleep(100)
        await inner(request)

    store.before = before
    report = run_all(bucket, store)
    assert writes >= 2 + number
    assert (report.exit_code, sources_in(bucket)) == (0, [])
    bucket.audit.check_quiet()
