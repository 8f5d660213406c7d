"""Small promises of the commit protocol, each in the one situation in which it shows: what stands
in the bucket afterwards, what the report says, and which requests were sent.
"""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from coalesce import __version__
from coalesce.errors import (
    AccessDenied,
    BadRequest,
    Conflict,
    LeaseLost,
    RecordDamaged,
    StorageError,
    Unavailable,
)
from coalesce.exits import ExitCode
from coalesce.listing.groups import list_groups
from coalesce.model import Batch, GroupId, Source
from coalesce.naming.layouts import layout
from coalesce.naming.shards import WHOLE
from coalesce.planning import batches as planning
from coalesce.planning.batches import plan as plan_group
from coalesce.planning.rules import Limits
from coalesce.protocol import record_reader
from coalesce.protocol.held import HeldRecord
from coalesce.protocol.lease import Lease, LeaseRecord, Rival, outlived
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.probe import probe
from coalesce.protocol.record import PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import decode
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import GroupRules, Session
from coalesce.protocol.state import lease_key, probe_prefix
from coalesce.protocol.survey import Ground, survey
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.transfer.limits import Budget, Capacity
from support.buckets import contents, data_in, filled, records_in
from support.nights import (
    RECORD,
    as_version_0_1,
    at,
    audited,
    dead_run,
    night,
    one_group,
    output_of,
    rewrite,
    sources_in,
)
from support.runs import NoLease, new_run
from support.scenarios import manifests, unfinished
from support.settings import settings
from support.timeless import Timeless

GROUND = Ground("corporate", ("data/",), ("data/",), WHOLE, lambda _: True)


def paths(bucket: MemoryBucket) -> int:
    """How long the loader's list of all paths is."""
    return sum(len(f"s3://b/{key},") for key in data_in(bucket.objects))


def failing(
    store: MemoryStore,
    operation: str,
    where: str,
    error: Callable[..., Exception],
    *,
    times: int = 1_000_000,
    after: bool = False,
) -> MemoryStore:
    """Requests of this kind fail, so often: without effect, or with it and the answer lost."""
    met = 0

    async def hook(request: Request) -> None:
        nonlocal met
        if request.operation == operation and where in request.key and met < times:
            met += 1
            raise error("made up", key=request.key, operation=operation)

    if after:
        store.after = hook
    else:
        store.before = hook
    return store


def noting(store: MemoryStore) -> list[tuple[str, str]]:
    """The requests for the user's own objects, from now on."""
    sent: list[tuple[str, str]] = []
    before = store.before

    async def note(request: Request) -> None:
        if request.key.startswith("data/"):
            sent.append((request.operation, request.key))
        await before(request)

    store.before = note
    return sent


def count(sent: list[tuple[str, str]], operation: str) -> int:
    return sum(name == operation for name, _ in sent)


# --- what an output says of itself


async def test_an_output_says_which_version_wrote_it_and_has_its_sources_content_type() -> None:
    bucket = filled()
    for key, held in list(bucket.objects.items()):
        bucket.store(key, held.data, content_type="application/x-made-up")
    await night(bucket)
    output = bucket.objects["data/t_0_0_3.jsonl.gz"]
    assert output.metadata["coalesce-version"] == __version__
    assert output.content_type == "application/x-made-up"


async def test_the_last_offset_of_an_output_is_the_largest_of_its_sources() -> None:
    bucket = MemoryBucket()
    for first, last in ((0, 99), (10, 19), (20, 29)):
        bucket.store(f"data/t_0_{first}-{last}.jsonl.gz", gzip.compress(b"%d\n" % first))
    bucket.now += 1000
    events: list[Any] = []
    await new_run(MemoryStore(bucket), settings(), events.append).coalesce()
    (output,) = (event for event in events if event["type"] == "output")
    assert (output["first_offset"], output["last_offset"]) == (0, 99)


# --- deletes


async def test_deletes_that_are_never_answered_keep_the_record() -> None:
    bucket = one_group(5)
    report = await night(
        bucket, failing(MemoryStore(bucket), "DeleteObjects", "data/", Unavailable)
    )
    assert (report.exit_code, len(sources_in(bucket))) == (ExitCode.TRANSIENT, 5)
    assert (report.sources.joined, report.sources.left["failed"]) == (0, 5)
    assert RECORD in bucket.objects
    assert (await night(bucket)).exit_code == 0
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


class Strict(MemoryStore):
    """Like S3, it cannot read XML with control characters."""

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        if not all(key.isprintable() for key, _ in targets):
            raise BadRequest("MalformedXML", key=targets[0][0])
        return await super().delete_many(targets)


async def test_keys_that_no_xml_can_name_are_deleted_one_by_one() -> None:
    bucket = filled()
    for n in range(3):
        bucket.store(f"data/\x01/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"odd %d\n" % n))
    report = await night(bucket, Strict(bucket))
    assert (report.exit_code, report.sources.deleted) == (0, 7)
    assert len(data_in(bucket.objects)) == 2


async def test_a_source_that_others_delete_first_is_gone_and_no_failure() -> None:
    bucket = filled()
    remove = at(
        MemoryStore(bucket),
        "DeleteObjects",
        "data/",
        lambda: bucket.remove("data/t_0_1-1.jsonl.gz"),
    )
    report = await night(bucket, remove)
    assert (report.exit_code, report.sources.deleted, report.failures) == (0, 3, [])
    assert report.path_list.after == paths(bucket)
    assert unfinished(bucket) == []


class Refusing(MemoryStore):
    """Refuses to delete the second source, with this code, so often."""

    code = "AccessDenied"
    times = 1

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        refused = [key for key, _ in targets if "_0_1-1." in key and self.times]
        self.times -= len(refused)
        results = await super().delete_many([t for t in targets if t[0] not in refused])
        return results + [DeleteResult(key, Deleted.REFUSED, self.code, "") for key in refused]


@pytest.mark.parametrize(
    "code", ["InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "NotMentioned"]
)
async def test_a_passing_refusal_to_delete_one_key_is_asked_again(code: str) -> None:
    bucket = filled()
    store = Refusing(bucket)
    store.code = code
    report = await night(bucket, store)
    assert (report.exit_code, report.sources.deleted) == (0, 4)
    assert set(data_in(bucket.objects)) == {"data/t_0_0_3.jsonl.gz"}


async def test_a_source_whose_delete_is_refused_still_counts_in_the_path_list() -> None:
    bucket = filled()
    report = await night(bucket, Refusing(bucket))
    assert (report.sources.deleted, report.sources.left["delete_refused"]) == (3, 1)
    assert report.path_list.after == paths(bucket)


async def test_once_the_lease_is_lost_a_delete_is_not_tried_again() -> None:
    bucket = one_group(5)
    store = failing(MemoryStore(bucket), "DeleteObjects", "data/", Unavailable)
    sent, refuse = noting(store), store.before
    now = 0.0

    async def before(request: Request) -> None:
        nonlocal now
        if request.operation == "DeleteObjects" and request.key.startswith("data/"):
            now += 1000
        await refuse(request)

    store.before = before
    bucket.now += 1000
    report = await new_run(store, settings(), clock=lambda: now).coalesce()
    assert report.exit_code == ExitCode.TRANSIENT
    assert count(sent, "DeleteObjects") == 1
    assert len(sources_in(bucket)) == 5


# --- rounds


async def test_after_a_batch_that_failed_no_further_round_is_begun() -> None:
    bucket = one_group(8)
    bucket.round_batches = 2
    store = failing(MemoryStore(bucket), "UploadPart", "data/", BadRequest)
    sent = noting(store)
    report = await night(bucket, store, max_files=2)
    assert report.exit_code == ExitCode.FAILED
    assert count(sent, "CreateMultipartUpload") == 2
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_outputs_that_a_failure_kept_from_beginning_count_against_no_limit() -> None:
    """Four of eight sources are begun, and fail. So a limit of six is not reached, and is no reason
    for the run to leave other groups alone.
    """
    bucket = one_group(8)
    bucket.round_batches = 2
    store = failing(MemoryStore(bucket), "UploadPart", "data/", BadRequest)
    bucket.now += 1000
    run = new_run(store, settings(max_files=2, max_delete=6))
    report = await run.coalesce()
    assert report.exit_code == ExitCode.FAILED
    assert run.stop.code == 0


def written_differently(spoilt: Sequence[int]) -> MemoryBucket:
    """Sources of the same offsets, which differ in nothing but zeros: so do names of outputs."""
    bucket = MemoryBucket()
    for n in range(6):
        body = gzip.compress(b"%d\n" % n, mtime=0)
        bucket.store(f"data/t_0_0-{'0' * n}9.jsonl.gz", body[: -3 if n in spoilt else None])
    bucket.now += 1000
    return bucket


@pytest.mark.parametrize("spoilt", [(5,), (2,), (2, 5), (0, 3)], ids=str)
async def test_pieces_of_batches_never_take_the_names_of_other_outputs(
    spoilt: tuple[int, ...],
) -> None:
    bucket = written_differently(spoilt)
    before = records_in(contents(bucket))
    report = await night(bucket, max_files=3)
    assert [failure.code for failure in report.failures] == ["TruncatedGzip"] * len(spoilt)
    assert report.sources.joined == 6 - len(spoilt)
    assert records_in(contents(bucket)) == before


@pytest.mark.parametrize(
    "deletes", [True, False], ids=["first record", "a record that is rewritten"]
)
async def test_uploads_whose_record_could_not_be_written_do_not_stay(deletes: bool) -> None:
    bucket = one_group(8)
    bucket.round_batches = 2
    store, writes = MemoryStore(bucket), 0

    async def before(request: Request) -> None:
        nonlocal writes
        writes += request.operation == "PutObject" and request.key == RECORD
        if request.key == RECORD and writes >= (1 if deletes else 2):
            raise Unavailable("made up", key=request.key)

    store.before = before
    report = await night(bucket, store, max_files=2, delete=deletes)
    assert report.exit_code == ExitCode.TRANSIENT
    await night(bucket)
    await night(bucket)
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])
    bucket.audit.check_quiet()


async def test_a_signal_ends_batches_that_are_recorded_and_not_begun() -> None:
    bucket = one_group(8)
    store = MemoryStore(bucket)
    sent = noting(store)
    run = new_run(store, settings(max_files=2))
    at_record = at(MemoryStore(bucket), "PutObject", RECORD, lambda: run.interrupt(143))
    note, interrupt = store.before, at_record.before

    async def before(request: Request) -> None:
        await note(request)
        await interrupt(request)

    store.before = before
    report = await run.coalesce()
    assert (report.exit_code, count(sent, "GetObject")) == (ExitCode.TERMINATED, 0)
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])
    assert len(sources_in(bucket)) == 8


async def test_a_record_that_stays_names_no_output_whose_upload_others_have_aborted() -> None:
    """As a lifecycle rule for incomplete uploads does."""
    bucket = one_group(6)
    second = "data/db.core.topic_0_30_59.jsonl.gz"

    def abort() -> None:
        for upload_id, upload in list(bucket.uploads.items()):
            if upload.key == second:
                bucket.abort_upload(upload_id)

    class Keeping(MemoryStore):
        async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
            if not targets[0][0].startswith("data/"):
                return await super().delete_many(targets)
            return [DeleteResult(key, Deleted.REFUSED, "AccessDenied", "") for key, _ in targets]

    report = await night(bucket, at(Keeping(bucket), "UploadPart", second, abort), max_files=3)
    codes = sorted(failure.code for failure in report.failures)
    assert codes == ["AccessDenied"] * 3 + ["Fenced"]
    stored = decode(bucket.objects[RECORD].data, RECORD, "_coalesce/")
    assert [entry.batch.output for entry in stored.batches] == [output_of(3)]


async def test_an_upload_that_others_have_aborted_is_told_as_such() -> None:
    bucket = one_group(4)
    report = await night(
        bucket,
        at(
            MemoryStore(bucket),
            "UploadPart",
            output_of(4),
            lambda: [bucket.abort_upload(upload_id) for upload_id in list(bucket.uploads)],
        ),
    )
    assert [failure.code for failure in report.failures] == ["Fenced"]
    assert unfinished(bucket) == []
    assert len(sources_in(bucket)) == 4


async def test_an_upload_whose_abort_failed_before_it_was_recorded_is_swept() -> None:
    """The second upload is refused, so the first is aborted, which fails once too."""
    bucket = one_group(4)
    store, creations, aborts = MemoryStore(bucket), 0, 0

    async def before(request: Request) -> None:
        nonlocal creations, aborts
        if not request.key.startswith("data/"):
            return
        creations += request.operation == "CreateMultipartUpload"
        aborts += request.operation == "AbortMultipartUpload"
        if request.operation == "CreateMultipartUpload" and creations == 2:
            raise AccessDenied("made up", key=request.key)
        if request.operation == "AbortMultipartUpload" and aborts == 1:
            raise Unavailable("made up", key=request.key)

    store.before = before
    report = await night(bucket, store, max_files=2)
    assert (report.exit_code, creations, aborts >= 1) == (ExitCode.CONFIGURATION, 2, True)
    assert (await night(bucket)).exit_code == 0
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_uploads_begun_beside_one_that_is_refused_are_aborted() -> None:
    bucket = one_group(4)
    store = failing(
        MemoryStore(bucket), "CreateMultipartUpload", "topic_0_20_39", AccessDenied, times=1
    )
    report = await night(bucket, store, max_files=2)
    assert report.exit_code == ExitCode.CONFIGURATION
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_batch_whose_upload_cannot_be_aborted_keeps_its_record() -> None:
    bucket = one_group(4)
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.key != output_of(4):
            return
        if request.operation == "UploadPart":
            raise BadRequest("made up", key=request.key)
        if request.operation == "AbortMultipartUpload":
            raise Unavailable("made up", key=request.key)

    store.before = before
    await night(bucket, store)
    assert RECORD in bucket.objects
    assert (await night(bucket)).exit_code == 0
    assert bucket.uploads == {}
    bucket.audit.check_quiet()


async def test_the_upload_of_a_transfer_that_failed_is_aborted() -> None:
    bucket = one_group(4)
    await night(bucket, failing(MemoryStore(bucket), "UploadPart", "data/", BadRequest))
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_defect_in_a_group_fails_the_run_and_no_other_group() -> None:
    bucket = filled(groups=2)
    store = failing(MemoryStore(bucket), "UploadPart", "t_0_", lambda text, **_: RuntimeError(text))
    report = await night(bucket, store)
    assert (report.exit_code, report.outputs.written) == (ExitCode.FAILED, 1)
    assert [failure.code for failure in report.failures] == ["Defect"]
    assert sorted(data_in(bucket.objects))[-1] == "data/t_1_0_3.jsonl.gz"


def session(store: MemoryStore, capacity: Capacity) -> Session:
    names = [field.name for field in fields(Capabilities) if field.name != "checksum"]
    rules = GroupRules(
        state="_coalesce/",
        run_id="r",
        version="1",
        layout=layout("corporate"),
        limits=Limits.of(settings()),
        capabilities=Capabilities(**dict.fromkeys(names, True), checksum=Checksum.CRC64NVME),
    )
    return Session(store, rules, NoLease(), capacity)


@pytest.mark.parametrize(("held", "most"), [(7, 1), (8, 2), (9, 2)])
async def test_plans_in_memory_are_bounded_by_their_sources(held: int, most: int) -> None:
    """Of groups of four sources each, so many are on record at once."""
    bucket = filled(groups=3)
    store = MemoryStore(bucket)
    at_once = 0

    async def after(request: Request) -> None:
        nonlocal at_once
        standing = sum(key.startswith("_coalesce/groups/") for key in bucket.objects)
        at_once = max(at_once, standing)
        await asyncio.sleep(0)

    store.after = after
    capacity = replace(Capacity.of(0, 2**20, lambda: 0), recorded=Budget(held))
    found: list[Any] = []

    async def take(listing: Any) -> None:
        found.extend(listing.groups)

    await list_groups(
        store,
        ("data/",),
        layout("corporate"),
        state_prefix="_coalesce/",
        on_listing=take,
        on_failure=found.append,
        keep_going=lambda: True,
        shard=WHOLE,
    )
    outcomes = [GroupOutcome(lambda _: None) for _ in found]
    limits = Limits.of(settings())
    await asyncio.gather(
        *(
            work_on_group(
                session(store, capacity),
                plan_group(group, layout("corporate"), limits),
                (),
                Stop(RunLimits(), lambda: 0.0),
                outcome,
            )
            for group, outcome in zip(found, outcomes, strict=True)
        )
    )
    assert [outcome.outputs for outcome in outcomes] == [1, 1, 1]
    assert at_once == most


async def test_without_deletes_one_record_comes_to_name_the_outputs_of_all_rounds() -> None:
    bucket = one_group(8)
    bucket.round_batches = 2
    report = await night(bucket, max_files=2, delete=False)
    assert (report.exit_code, report.outputs.written) == (0, 4)
    stored = decode(bucket.objects[RECORD].data, RECORD, "_coalesce/")
    assert len(stored.batches) == 4
    assert (await night(bucket)).outputs.recovered == 4
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_without_deletes_the_record_keeps_what_was_joined_at_a_second_try() -> None:
    """Otherwise nobody deletes the sources of that output any more, or they are joined twice."""
    bucket = one_group(4)
    bucket.round_batches = 1
    store = failing(MemoryStore(bucket), "CompleteMultipartUpload", "data/", Conflict, times=2)
    report = await night(bucket, store, max_files=2, delete=False)
    assert (report.exit_code, report.outputs.written) == (0, 2)
    stored = decode(bucket.objects[RECORD].data, RECORD, "_coalesce/")
    assert len(stored.batches) == 2
    assert (await night(bucket)).outputs.recovered == 2
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_a_name_that_is_taken_meanwhile_is_tried_once() -> None:
    bucket = one_group(4)

    def write() -> None:
        with bucket.audit.others():
            bucket.store(output_of(4), gzip.compress(b"theirs\n"))

    store = at(MemoryStore(bucket), "UploadPart", output_of(4), write)
    sent = noting(store)
    report = await night(bucket, store)
    assert report.exit_code == ExitCode.FAILED
    assert count(sent, "CreateMultipartUpload") == 1
    assert "took the name" in report.failures[0].message


@pytest.mark.parametrize("kind", [Conflict, Unavailable])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_complete_that_is_refused_for_a_moment_costs_nothing(
    kind: type[StorageError], times: int
) -> None:
    bucket = one_group(4)
    store = failing(MemoryStore(bucket), "CompleteMultipartUpload", "data/", kind, times=times)
    assert (await night(bucket, store)).exit_code == 0
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_sources_that_are_alone_after_a_split_are_counted_as_such() -> None:
    bucket = one_group(3)
    key = sources_in(bucket)[1]
    rewrite(bucket, key, bucket.objects[key].data[:-3])
    report = await night(bucket)
    assert {why: n for why, n in report.sources.left.items() if n} == {"corrupt": 1, "single": 2}


# --- what dead runs left


def leave_lease(
    bucket: MemoryBucket, run_id: str, *prefixes: str, seconds: float = 0.0, **more: Any
) -> str:
    """A run's lease, written now: of a run that has ended in disorder, or holds it so long."""
    lease = LeaseRecord(
        run_id=run_id, seconds=seconds, layout="corporate", prefixes=prefixes, **more
    )
    key = lease_key("_coalesce/", run_id)
    bucket.store(key, lease.model_dump_json().encode())
    return key


@pytest.mark.parametrize("where", ["runs/", "groups/data/", "groups/data/x/"])
async def test_folders_of_a_console_are_neither_records_nor_leases(where: str) -> None:
    bucket = one_group(4)
    bucket.store(f"_coalesce/{where}", b"")
    bucket.now += 1000
    events: list[Any] = []
    report = await new_run(MemoryStore(bucket), settings(), events.append).coalesce()
    assert (report.exit_code, [event["type"] for event in events]) == (0, ["output"])
    assert f"_coalesce/{where}" in bucket.objects
    assert sources_in(bucket) == []


@pytest.mark.parametrize(
    ("prefixes", "swept"),
    [
        ((), True),
        (("data/",), True),
        (("data/x/", "data/y/"), True),
        (("data/", "other/"), False),
        (("other/", "data/"), False),
        (("other/",), False),
        (("",), False),
    ],
    ids=str,
)
async def test_the_lease_of_a_dead_run_goes_only_where_all_of_its_prefixes_are_this_runs(
    prefixes: tuple[str, ...], swept: bool
) -> None:
    bucket = one_group(4)
    key = leave_lease(bucket, "dead", *prefixes)
    upload = bucket.create_upload("other/t_0_0_9.jsonl.gz", Checksum.NONE, {})
    await night(bucket)
    assert (key in bucket.objects) is not swept
    assert upload in bucket.uploads


async def test_a_damaged_record_keeps_its_group_from_being_planned() -> None:
    bucket = one_group(4)
    bucket.store(RECORD, b"damaged")
    store = MemoryStore(bucket)
    sent = noting(store)
    report = await night(bucket, store)
    assert (report.exit_code, report.groups.leased) == (ExitCode.INTEGRITY, 0)
    assert count(sent, "CreateMultipartUpload") == 0
    assert bucket.objects[RECORD].data == b"damaged"


async def test_beside_a_doubtful_output_the_other_outputs_of_its_record_are_settled() -> None:
    bucket = one_group(4)
    await night(bucket, max_files=2, delete=False)
    rewrite(bucket, output_of(2), gzip.compress(b"theirs\n"))
    report = await night(bucket)
    assert (report.exit_code, report.outputs.recovered) == (ExitCode.INTEGRITY, 1)
    assert [key.split("_")[2] for key in sources_in(bucket)] == ["0-9.jsonl.gz", "10-19.jsonl.gz"]
    assert RECORD in bucket.objects


async def test_nothing_is_swept_after_a_dead_run_that_renews_its_lease_meanwhile() -> None:
    bucket = one_group(4)
    key = leave_lease(bucket, "dead", "data/")
    upload = bucket.create_upload(output_of(9), Checksum.NONE, {})

    def renew() -> None:
        leave_lease(bucket, "dead", "data/", seconds=60, renewals=1)

    await night(bucket, at(MemoryStore(bucket), "ListMultipartUploads", "data/", renew))
    assert upload in bucket.uploads
    assert key in bucket.objects


async def test_objects_and_uploads_of_a_dead_probe_are_removed() -> None:
    bucket = one_group(4)
    leave_lease(bucket, "dead", "data/")
    prefix = probe_prefix("_coalesce/", "dead")
    bucket.store(f"{prefix}create_only_put-1/put", b"first")
    bucket.create_upload(f"{prefix}fence-1/fence", Checksum.NONE, {})
    assert (await night(bucket)).exit_code == 0
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_record_of_version_0_1_is_settled_by_the_rules_of_its_own_layout() -> None:
    bucket = audited(manifests)
    await dead_run(bucket, "CompleteMultipartUpload", "data/", layout="manifest", gzip="members")
    as_version_0_1(bucket)
    report = await night(bucket, layout="corporate")
    assert (report.exit_code, report.outputs.recovered, report.outputs.written) == (0, 1, 0)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_a_run_that_loses_its_lease_in_a_recovery_ends() -> None:
    bucket = one_group(4)
    await dead_run(bucket, "CompleteMultipartUpload", "data/")
    store, now = MemoryStore(bucket), 0.0
    sent = noting(store)
    note = store.before

    async def before(request: Request) -> None:
        nonlocal now
        now += 1000 * (request == Request(request.number, "HeadObject", output_of(4)))
        await note(request)

    store.before = before
    bucket.now += 1000
    report = await new_run(store, settings(), clock=lambda: now).coalesce()
    assert [failure.code for failure in report.failures] == ["LeaseLost"]
    assert (report.exit_code, count(sent, "ListObjectsV2")) == (ExitCode.TRANSIENT, 0)
    assert len(sources_in(bucket)) == 4


# --- leases


LEASE = lease_key("_coalesce/", "r")


def on_a_clock_that_leaps(
    job: Callable[[MemoryStore, Callable[[], float]], Awaitable[None]],
) -> MemoryBucket:
    bucket = MemoryBucket()
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        runner.run(job(MemoryStore(bucket), runner.get_loop().time))  # type: ignore[arg-type]
    return bucket


def new_lease(store: MemoryStore, clock: Callable[[], float], seconds: float = 60.0) -> Lease:
    return Lease(store, "_coalesce/", LeaseRecord(run_id="r", seconds=seconds), clock)


def test_a_lease_is_renewed_long_before_it_ends() -> None:
    """So that others never see it ended, and more than one renewal may fail."""

    async def job(store: MemoryStore, clock: Callable[[], float]) -> None:
        async with new_lease(store, clock).hold():
            for _ in range(240):
                await asyncio.sleep(1)
                assert store.bucket.now - store.bucket.objects[LEASE].modified <= 20

    on_a_clock_that_leaps(job)


@pytest.mark.parametrize("after", [False, True], ids=["without effect", "the answer lost"])
def test_a_renewal_that_fails_once_costs_nothing(after: bool) -> None:
    async def job(store: MemoryStore, clock: Callable[[], float]) -> None:
        async with new_lease(store, clock).hold() as lease:
            failing(store, "PutObject", LEASE, Unavailable, times=1, after=after)
            await asyncio.sleep(300)
            lease.check()
            assert json.loads(store.bucket.objects[LEASE].data)["renewals"] >= 19

    on_a_clock_that_leaps(job)


@pytest.mark.parametrize(
    ("slow", "ends"),
    [(1, 60), (2, 60), (3, 75)],
    ids=["the first write", "the renewal at once", "the first renewal after that"],
)
def test_a_lease_counts_from_when_it_was_asked_for(slow: int, ends: int) -> None:
    """Its answer takes ten seconds, and later renewals fail: others count from its write."""

    async def job(store: MemoryStore, clock: Callable[[], float]) -> None:
        writes = 0

        async def before(request: Request) -> None:
            nonlocal writes
            writes += request.operation == "PutObject"
            if request.operation == "PutObject" and writes > slow:
                raise Unavailable("made up", key=request.key)

        async def after(request: Request) -> None:
            if request.operation == "PutObject" and writes == slow:
                await asyncio.sleep(10)

        store.before, store.after = before, after
        async with new_lease(store, clock).hold() as lease:
            await asyncio.sleep(ends - 1 - clock())
            lease.check()
            await asyncio.sleep(2)
            with pytest.raises(LeaseLost):
                lease.check()

    on_a_clock_that_leaps(job)


async def rivals_in(bucket: MemoryBucket) -> tuple[Rival, ...]:
    return (await survey(MemoryStore(bucket), "_coalesce/", GROUND)).rivals


async def test_a_lease_holds_to_its_last_second() -> None:
    """The store tells its times in whole seconds."""
    bucket = MemoryBucket(now=1000.9)
    leave_lease(bucket, "other", "data/", seconds=60)
    for now, holds in ((1060.8, True), (1062.0, False)):
        bucket.now = now
        (rival,) = await rivals_in(bucket)
        assert (rival.remaining > 0) is holds


async def test_nobody_waits_for_a_run_that_says_itself_that_it_has_ended() -> None:
    bucket = MemoryBucket()
    leave_lease(bucket, "other", "data/", seconds=0)
    (rival,) = await rivals_in(bucket)
    assert rival.remaining <= 0


async def test_a_lease_that_nobody_can_read_is_told_and_left() -> None:
    """Its run may have worked anywhere."""
    bucket = one_group(4)
    key = lease_key("_coalesce/", "unreadable")
    bucket.store(key, b"not a lease")
    bucket.now += 1000
    events: list[Any] = []
    report = await new_run(MemoryStore(bucket), settings(), events.append).coalesce()
    assert report.exit_code == 0
    assert bucket.objects[key].data == b"not a lease"
    assert [event["key"] for event in events if event["type"] == "unfinished"] == ["unreadable"]


async def test_a_lease_that_cannot_be_read_is_not_ended() -> None:
    bucket = MemoryBucket()
    key = leave_lease(bucket, "other", "data/", seconds=60)
    store = failing(MemoryStore(bucket), "GetObject", key, Unavailable)
    record = LeaseRecord(run_id="other", prefixes=("data/",))
    rival = Rival(key, bucket.objects[key].etag, record, remaining=0.001, modified=bucket.now)
    assert not await outlived(store, rival)


async def test_a_lease_that_is_renewed_while_it_is_looked_at_holds() -> None:
    bucket = MemoryBucket()
    leave_lease(bucket, "other", "data/", seconds=60)
    bucket.now += 1000

    def renew() -> None:
        leave_lease(bucket, "other", "data/", seconds=60, renewals=1)

    store = at(MemoryStore(bucket), "ListObjectsV2", "_coalesce/runs/", renew, after=True)
    (rival,) = (await survey(store, "_coalesce/", GROUND)).rivals
    assert rival.remaining == 60


async def test_a_run_that_is_refused_leaves_no_lease() -> None:
    bucket = filled(ignores=frozenset({"complete-if-none-match"}))
    report = await night(bucket)
    assert report.exit_code == ExitCode.CONFIGURATION
    assert unfinished(bucket) == []


async def test_a_lease_that_was_swept_is_not_written_again_at_the_end() -> None:
    bucket = MemoryBucket()
    async with new_lease(MemoryStore(bucket), lambda: 0.0).hold() as lease:
        lease.mark_untidy()
        bucket.remove(LEASE)
    assert LEASE not in bucket.objects


# --- plan records


def plan_record(*sources: Source) -> PlanRecord:
    batch = Batch(
        "data/t_0_0_9.jsonl.gz",
        sources,
        sum(source.size for source in sources),
        planning.digest(sources),
    )
    return PlanRecord("r", "corporate", GroupId("data/", "t", 0), (RecordedBatch(batch, "u"),))


KEY = "_coalesce/groups/data/t_0"


def source(n: int = 0, *, size: int = 1, etag: str = '"e"') -> Source:
    return Source(f"data/t_0_{n}-{n}.jsonl.gz", size, etag, 0.0, "STANDARD", n, n)


@pytest.mark.parametrize(
    "sources",
    [
        (source(0), source(1), source(0)),
        (source(0, etag=""), source(1)),
        (source(0, size=-1), source(1)),
        (source(0, size=2**63), source(1)),
        (),
    ],
    ids=["a key twice", "an empty ETag", "a negative size", "a size of 2**63", "no sources"],
)
def test_a_record_that_makes_no_sense_is_not_believed(sources: tuple[Source, ...]) -> None:
    with pytest.raises(RecordDamaged):
        decode(encode(plan_record(*sources)), KEY, "_coalesce/")


def two_batches(*outputs: str) -> PlanRecord:
    """A record of two batches with these outputs, each of one source."""
    entries = []
    for n, output in enumerate(outputs):
        sources = (source(n),)
        batch = Batch(output, sources, 1, planning.digest(sources))
        entries.append(RecordedBatch(batch, f"upload {n}"))
    return PlanRecord("r", "corporate", GroupId("data/", "t", 0), tuple(entries))


def test_a_record_that_names_an_output_twice_is_not_believed() -> None:
    record = two_batches("data/t_0_0_9.jsonl.gz", "data/t_0_0_9.jsonl.gz")
    with pytest.raises(RecordDamaged):
        decode(encode(record), KEY, "_coalesce/")


async def test_what_is_said_of_two_batches_at_once_is_both_in_the_record() -> None:
    """An output that is in doubt must stay so, whatever becomes of its neighbour meanwhile."""
    store = MemoryStore(MemoryBucket())
    record = two_batches("data/t_0_0_0.jsonl.gz", "data/t_0_1_1.jsonl.gz")
    held = await HeldRecord.create(store, "_coalesce/", record)

    async def slow(request: Request) -> None:
        await asyncio.sleep(0)

    store.before = store.after = slow
    doubted = [replace(entry, doubted=True) for entry in record.batches]
    done = await asyncio.gather(*(held.replace(entry.batch, [entry]) for entry in doubted))
    found = await HeldRecord.read(store, "_coalesce/", KEY)
    assert found is not None
    assert (done, [entry.doubted for entry in found.record.batches]) == ([True] * 2, [True] * 2)


def test_a_record_of_the_largest_sizes_is_read() -> None:
    record = plan_record(source(0, size=0), source(1, size=2**63 - 1))
    (entry,) = decode(encode(record), KEY, "_coalesce/").batches
    assert [row.size for row in entry.batch.sources] == [0, 2**63 - 1]


def test_a_record_with_anything_behind_it_is_not_believed() -> None:
    with pytest.raises(RecordDamaged):
        decode(encode(plan_record(source(0), source(1))) + b"\0", KEY, "_coalesce/")


def test_a_record_that_would_fill_the_memory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(plan_record(*map(source, range(100))))
    for most, read in ((99, False), (100, True)):
        monkeypatch.setattr(record_reader, "MOST_SOURCES", most)
        if read:
            assert decode(data, KEY, "_coalesce/").run_id == "r"
        else:
            with pytest.raises(RecordDamaged):
                decode(data, KEY, "_coalesce/")


async def test_a_record_that_another_run_has_removed_is_not_ours_any_more() -> None:
    store = MemoryStore(MemoryBucket())
    held = await HeldRecord.create(store, "_coalesce/", plan_record(source(0), source(1)))
    store.bucket.remove(KEY)
    assert not await held.rewrite(plan_record(source(0), source(1)))
    assert KEY not in store.bucket.objects


# --- the probe


async def seen_of(store: MemoryStore) -> Capabilities:
    return await probe(store, "probe/", NoLease())


class KeepingAll(MemoryStore):
    """Refuses every conditional delete, as if all objects had changed."""

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        return DeleteResult(key, Deleted.CHANGED) if etag else await super().delete(key)


class KeepingPages(MemoryStore):
    """Refuses every delete of DeleteObjects, as if all objects had changed."""

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        return [DeleteResult(key, Deleted.CHANGED) for key, _ in targets]


class KeepingOld(MemoryStore):
    """Accepts a conditional PUT whose condition holds, and stores nothing."""

    async def put(self, key: str, body: bytes, **more: Any) -> str:
        if more.get("if_match"):
            head = await self.head(key)
            if head is not None and head.etag == more["if_match"]:
                return head.etag
        return await super().put(key, body, **more)


class Silent(MemoryStore):
    """Says nothing of what it has copied."""

    async def copy_part(self, *arguments: Any, **more: Any) -> Any:
        part = await super().copy_part(*arguments, **more)
        return type(part)(part.number, part.size, part.etag, "")


class Mistrustful(MemoryStore):
    """Refuses every Complete with a checksum of the whole."""

    async def complete_upload(self, key: str, *arguments: Any, **more: Any) -> None:
        if more.get("value"):
            raise BadRequest("made up", key=key, code="BadDigest")
        await super().complete_upload(key, *arguments, **more)


async def test_a_store_that_keeps_everything_is_not_used_for_conditional_deletes() -> None:
    assert not (await seen_of(KeepingAll(MemoryBucket()))).conditional_delete
    assert not (await seen_of(KeepingPages(MemoryBucket()))).conditional_delete_many


async def test_a_store_that_never_replaces_under_a_condition_is_not_used_for_it() -> None:
    assert not (await seen_of(KeepingOld(MemoryBucket()))).conditional_put


async def test_a_store_that_does_not_say_what_it_copied_is_not_used_for_copies() -> None:
    assert not (await seen_of(Silent(MemoryBucket()))).copy_condition


async def test_a_store_that_refuses_every_checksum_of_the_whole_is_used_without() -> None:
    found = await seen_of(Mistrustful(MemoryBucket()))
    assert found.checksum is not Checksum.CRC64NVME


async def test_objects_of_the_probe_that_could_not_be_removed_at_once_are_removed_later() -> None:
    bucket = filled()
    store = failing(MemoryStore(bucket), "DeleteObject", "/put", Unavailable, times=1)
    assert (await night(bucket, store)).exit_code == 0
    assert (await night(bucket)).exit_code == 0
    assert unfinished(bucket) == []


async def test_what_a_store_lacks_for_certain_is_tried_once() -> None:
    store = MemoryStore(
        MemoryBucket(ignores=frozenset({"copy-if-match", "get-if-match", "delete-many-etag"}))
    )
    keys: list[str] = []

    async def before(request: Request) -> None:
        keys.append(request.key)

    store.before = before
    await seen_of(store)
    assert not [key for key in keys if "-2/" in key]
