"""What a dead run left is settled and swept by the next run under the same prefixes, whatever its
date, shard, layout and size; what is not a dead run's is left alone.
"""

import asyncio
import gzip
from collections.abc import Callable

import pytest

from coalesce import errors
from coalesce.naming.shards import Shard
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.state import lease_key
from coalesce.storage.base import Deleted, DeleteResult, OpenUpload
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.nights import (
    GROUP,
    at,
    audited,
    dead_run,
    night,
    one_group,
    rewrite,
    sources_in,
)
from support.scenarios import AuditedBucket, corporate, unfinished

DAY_21 = "data/2026/11/21/"
RECORD_21 = f"_coalesce/groups/{DAY_21}t_0"
OUTPUT_21 = f"{DAY_21}t_0_0_49.jsonl.gz"


def days(bucket: MemoryBucket) -> None:
    """Five sources of one group on each of two days."""
    for day in (21, 22):
        for n in range(5):
            body = gzip.compress(b'{"day": %d, "n": %d}\n' % (day, n), mtime=0)
            bucket.store(f"data/2026/11/{day}/t_0_{n * 10}-{n * 10 + 9}.jsonl.gz", body)


STEPS = {
    "with its uploads open": ("CreateMultipartUpload", "data/"),
    "with its plan recorded": ("PutObject", "_coalesce/groups/"),
    "with its parts sent": ("UploadPart", "data/"),
    "after its ledger entry": ("PutObject", "_coalesce/ledger/"),
    "after Complete": ("CompleteMultipartUpload", "data/"),
    "after its deletes": ("DeleteObjects", "data/"),
    "after its record was removed": ("DeleteObject", "_coalesce/groups/"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_what_the_run_of_one_day_left_is_settled_by_the_run_of_the_next(step: str) -> None:
    bucket = audited(days)
    await dead_run(bucket, *STEPS[step], date="2026-11-21")
    report = await night(bucket, date="2026-11-22")
    assert report.exit_code == 0
    recovered = step in ("after Complete", "after its deletes")
    assert (report.outputs.recovered, report.outputs.written) == (recovered, 1)
    assert unfinished(bucket) == []
    bucket.audit.check_quiet(step)
    assert (await night(bucket, date="2026-11-21")).exit_code == 0
    assert sources_in(bucket) == []
    bucket.audit.check_quiet(step)


async def test_a_night_whose_deletes_got_no_answer_is_settled_by_the_run_of_the_next_day() -> None:
    bucket = audited(days)
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "DeleteObjects" and request.key.startswith("data/"):
            raise errors.Unavailable("no answer", key=request.key, operation="DeleteObjects")

    store.before = before
    assert (await night(bucket, store, date="2026-11-21")).exit_code == 75
    report = await night(bucket, date="2026-11-22")
    assert (report.exit_code, report.outputs.recovered, sources_in(bucket)) == (0, 1, [])
    bucket.audit.check_quiet()


OWNER = next(shard for shard in (Shard(0, 2), Shard(1, 2)) if shard.owns(f"{GROUP}_"))
OTHERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "another shard": ({"shard": str(OWNER)}, {"shard": f"{1 - OWNER.index}/2"}),
    "another number of shards": ({"shard": str(OWNER)}, {}),
    "another layout": ({}, {"layout": "manifest"}),
    "larger outputs": ({"max_files": 5}, {}),
    "smaller outputs": ({}, {"max_files": 5}),
    "smaller outputs in bytes": ({}, {"max_size": 200}),
    "another partition": ({}, {"partition": [7]}),
    "another topic": ({}, {"topic": ["another"]}),
    "another date": ({}, {"date": "2026-11-22"}),
    "two prefixes": ({}, {"prefix": ["elsewhere", "data"]}),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_it_is_settled_by_a_run_with(other: str) -> None:
    first, second = OTHERS[other]
    bucket = one_group(20)
    await dead_run(bucket, "CompleteMultipartUpload", "data/", **first)
    report = await night(bucket, **second)
    assert (report.exit_code, report.outputs.recovered) == (0, 1), report.failures
    assert unfinished(bucket) == []
    bucket.audit.check_quiet(other)
    await night(bucket)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet(other)


# --- what cannot be settled is counted, and is never exit code 0


def spoil_the_record(bucket: AuditedBucket) -> MemoryStore:
    bucket.store(RECORD_21, b"damaged")
    return MemoryStore(bucket)


def empty_the_output(bucket: AuditedBucket) -> MemoryStore:
    rewrite(bucket, OUTPUT_21, b"")
    return MemoryStore(bucket)


def refuse(
    kind: type[errors.StorageError], operation: str, key: str
) -> Callable[[AuditedBucket], MemoryStore]:
    def make(bucket: AuditedBucket) -> MemoryStore:
        async def before(request: Request) -> None:
            if request.operation == operation and request.key.startswith(key):
                raise kind("made up", key=request.key, operation=request.operation)

        store = MemoryStore(bucket)
        store.before = before
        return store

    return make


class KeepsSources(MemoryStore):
    """The role may not delete what lies under the first day."""

    async def delete_many(self, targets: list[tuple[str, str]]) -> list[DeleteResult]:  # type: ignore[override]
        if not targets[0][0].startswith(DAY_21):
            return await super().delete_many(targets)
        return [DeleteResult(key, Deleted.REFUSED, "AccessDenied", "no") for key, _ in targets]


UNSETTLED = {
    "a record that cannot be read": (spoil_the_record, 4),
    "an output that is damaged": (
        lambda bucket: (
            MemoryStore(bucket)
            if bucket.store(OUTPUT_21, b"", bucket.objects[OUTPUT_21].metadata)
            else None
        ),
        4,
    ),
    "a look at the output unanswered": (
        refuse(errors.Unavailable, "HeadObject", OUTPUT_21),
        75,
    ),
    "a look at the output refused": (refuse(errors.AccessDenied, "HeadObject", OUTPUT_21), 1),
    "the deletes unanswered": (refuse(errors.Unavailable, "DeleteObjects", DAY_21), 75),
    "the deletes refused": (KeepsSources, 1),
    "the record's removal unanswered": (refuse(errors.Unavailable, "DeleteObject", RECORD_21), 75),
}


@pytest.mark.parametrize("why", UNSETTLED)
async def test_what_cannot_be_settled_is_counted_and_has_an_exit_code(why: str) -> None:
    make, code = UNSETTLED[why]
    bucket = audited(days)
    await dead_run(bucket, "CompleteMultipartUpload", "data/", date="2026-11-21")
    report = await night(bucket, make(bucket), date="2026-11-22")
    assert (report.exit_code, report.recovered.unsettled_groups) == (code, 1), report.failures
    assert RECORD_21 in bucket.objects
    assert report.outputs.written == 1, "the day's own group is joined all the same"


async def test_what_a_run_without_deletes_left_is_counted_by_a_run_without_deletes() -> None:
    """It may not settle it: the sources are to stay."""
    bucket = audited(days)
    await night(bucket, date="2026-11-21", delete=False)
    before = sources_in(bucket)
    report = await night(bucket, date="2026-11-22", delete=False)
    assert (report.exit_code, report.recovered.unsettled_groups) == (75, 1)
    assert sources_in(bucket) == before
    report = await night(bucket, date="2026-11-23")
    assert (report.exit_code, report.recovered.unsettled_groups) == (0, 0)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


# --- no upload is left open


async def test_an_upload_that_is_refused_does_not_leave_another_batches_upload_open() -> None:
    """The upload of one batch is refused while that of the other is being begun."""
    bucket = audited(lambda bucket: corporate(bucket, groups=1, sources=6))
    store, begun = MemoryStore(bucket), asyncio.Event()

    async def before(request: Request) -> None:
        if (request.operation, request.key) == ("CreateMultipartUpload", f"{GROUP}_30_59.jsonl.gz"):
            await begun.wait()
            raise errors.AccessDenied("made up", key=request.key, operation=request.operation)

    async def after(request: Request) -> None:
        if request.operation == "CreateMultipartUpload" and request.key.startswith("data/"):
            begun.set()
            for _ in range(50):
                await asyncio.sleep(0)

    store.before, store.after = before, after
    report = await night(bucket, store, max_files=3)
    assert (report.exit_code, [failure.code for failure in report.failures]) == (
        10,
        ["AccessDenied"],
    )
    assert bucket.uploads == {}
    assert (await night(bucket, max_files=3)).exit_code == 0
    bucket.audit.check_quiet()


@pytest.mark.parametrize("day", ["2026-11-21", "2026-11-22"])
async def test_an_upload_whose_creation_got_no_answer_is_swept_by_the_next_run(day: str) -> None:
    bucket = audited(days)

    def lose() -> None:
        raise errors.Unavailable("no answer", key="", operation="CreateMultipartUpload")

    store = at(MemoryStore(bucket), "CreateMultipartUpload", "data/", lose, after=True)
    assert (await night(bucket, store, date="2026-11-21")).exit_code == 75
    assert (await night(bucket, date=day)).exit_code == 0
    assert bucket.uploads == {}
    assert unfinished(bucket) == []
    bucket.audit.check_quiet()


async def test_a_run_sweeps_after_itself() -> None:
    """An upload was begun without its id ever coming back; nobody else has to clean up."""
    bucket = audited(days)

    def lose() -> None:
        raise errors.Unavailable("no answer", key="", operation="CreateMultipartUpload")

    store = at(MemoryStore(bucket), "CreateMultipartUpload", "data/", lose, after=True)
    await night(bucket, store, date="2026-11-21")
    assert bucket.uploads == {}
    assert unfinished(bucket) == []


# --- what is not a dead run's


async def begin_by_hand(bucket: MemoryBucket, key: str) -> str:
    """An operator begins an upload under a name that an output could have."""
    upload = await MemoryStore(bucket).create_upload(key, checksum=Checksum.NONE, metadata={})
    return upload.upload_id


@pytest.mark.parametrize("when", ["before the dead run", "after the dead run"])
async def test_an_operators_upload_is_not_aborted(when: str) -> None:
    bucket = one_group(20)
    key = f"{GROUP}_500_599.jsonl.gz"
    theirs = await begin_by_hand(bucket, key) if when.startswith("before") else ""
    bucket.now += 1000
    await dead_run(bucket, "CreateMultipartUpload", "data/")
    theirs = theirs or await begin_by_hand(bucket, key)
    bucket.now += 1000
    assert (await night(bucket)).exit_code == 0
    assert set(bucket.uploads) == {theirs}
    assert unfinished(bucket) == []


async def test_without_the_right_to_list_uploads_everything_is_joined_beside_a_dead_lease() -> None:
    class Unlisting(MemoryStore):
        async def list_uploads(self, prefix: str) -> list[OpenUpload]:
            raise errors.AccessDenied("no", key=prefix, operation="ListMultipartUploads")

    bucket = one_group(20)
    lease = LeaseRecord(run_id="dead", seconds=0, layout="corporate", prefixes=("data/",))
    bucket.store(lease_key("_coalesce/", "dead"), lease.model_dump_json().encode())
    report = await night(bucket, Unlisting(bucket))
    assert (report.outputs.written, sources_in(bucket)) == (1, [])
    assert report.exit_code == 1
    assert [failure.code for failure in report.failures] == ["AccessDenied"]
    bucket.audit.check()
