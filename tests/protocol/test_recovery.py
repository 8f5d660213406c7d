"""A run died; the next one settles what it left. A source is deleted only if the output that holds
it is what it must be, whatever has happened to the output in between.
"""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from coalesce.errors import Unavailable
from coalesce.exits import ExitCode
from coalesce.protocol.held import HeldRecord
from coalesce.report.report import Report
from coalesce.storage import checksums
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryStore, Request, StoredObject
from support.buckets import contents
from support.nights import (
    GROUP,
    RECORD,
    as_version_0_1,
    at,
    audited,
    dead_run,
    night,
    one_group,
    output_of,
    remove,
    rewrite,
    sources_in,
)
from support.runs import NoLease, new_run
from support.scenarios import (
    AuditedBucket,
    check_settled,
    manifests,
    readable,
    unfinished,
)
from support.settings import settings

OUTPUT = output_of(20)
CONDITIONS = [field.name for field in fields(Capabilities) if field.name != "checksum"]
KEEPS_NO_DELETES = Capabilities(
    **(
        dict.fromkeys(CONDITIONS, True)
        | {"conditional_delete": False, "conditional_delete_many": False}
    ),
    checksum=Checksum.NONE,
)


def cut_at_a_member(data: bytes) -> bytes:
    """Without its last gzip member: what is left reads well."""
    at, rest = 0, data
    while rest:
        at = len(data) - len(rest)
        inflater = zlib.decompressobj(31)
        inflater.decompress(rest)
        rest = inflater.unused_data
    return data[:at]


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut at the end of a gzip member": cut_at_a_member,
    "cut somewhere": lambda data: data[: len(data) // 2],
    "lengthened": lambda data: data + gzip.compress(b"more\n", mtime=0),
    "lengthened at its beginning": lambda data: gzip.compress(b"more\n", mtime=0) + data,
    "replaced": lambda _: gzip.compress(b"theirs\n", mtime=0),
    "a bit flipped": flip,
}


def sums(shown: str, data: bytes, old: StoredObject) -> dict[str, str]:
    """The checksum that the store shows of a damaged object."""
    if shown == "of the new bytes":
        return {"CRC64NVME": checksums.encode(checksums.crc64([data]))}
    return {} if shown == "none" else dict(old.checksum)


CASES = [
    (damage, shown)
    for damage in DAMAGES
    for shown in ("as it was", "of the new bytes", "none")
    # Where a store shows the old checksum of a flipped bit, nothing that it says can tell.
    if (damage, shown) != ("a bit flipped", "as it was")
]


async def completed(sources: int = 20, ignores: str = "", **more: object) -> AuditedBucket:
    """A run died right after Complete: the output is there, and nobody has looked at it."""
    bucket = one_group(sources, ignores)
    await dead_run(bucket, "CompleteMultipartUpload", "data/", **more)
    return bucket


def damage(bucket: AuditedBucket, how: str, shown: str = "none") -> None:
    (key,) = (key for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata)
    old = bucket.objects[key]
    data = DAMAGES[how](old.data)
    rewrite(bucket, key, data, sums(shown, data, old))


# --- the output is damaged between a death and the next run


@pytest.mark.parametrize(("how", "shown"), CASES)
async def test_an_output_that_was_damaged_costs_no_source_and_the_record_stands(
    how: str, shown: str
) -> None:
    bucket = await completed()
    before = sources_in(bucket)
    damage(bucket, how, shown)
    for _ in range(2):
        report = await night(bucket)
        bucket.audit.check()
        assert sources_in(bucket) == before
        assert report.exit_code == 4
        assert RECORD in bucket.objects
        assert report.sources.deleted == 0


@pytest.mark.parametrize("how", DAMAGES)
async def test_so_it_is_on_a_store_that_keeps_no_checksums(how: str) -> None:
    bucket = await completed(ignores="checksum")
    before = sources_in(bucket)
    damage(bucket, how)
    report = await night(bucket)
    bucket.audit.check()
    assert sources_in(bucket) == before
    assert (report.exit_code, RECORD in bucket.objects) == (4, True)


@pytest.mark.parametrize(
    ("how", "said"),
    [("emptied", "has 0 bytes"), ("cut somewhere", "bytes"), ("a bit flipped", "CRC64NVME")],
)
async def test_the_failure_says_what_is_wrong_with_the_output(how: str, said: str) -> None:
    bucket = await completed()
    damage(bucket, how)
    (failure,) = (await night(bucket)).failures
    assert (failure.group, failure.key, failure.code) == (GROUP, OUTPUT, "IntegrityError")
    assert said in failure.message
    assert failure.hint


async def test_once_the_output_is_as_it_was_the_next_run_deletes_its_sources() -> None:
    bucket = await completed()
    original = bucket.objects[OUTPUT]
    damage(bucket, "emptied")
    await night(bucket)
    rewrite(bucket, OUTPUT, original.data, dict(original.checksum))
    report = await night(bucket)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_an_output_whose_checksum_is_not_shown_is_read_again_and_believed() -> None:
    bucket = await completed()
    rewrite(bucket, OUTPUT, bucket.objects[OUTPUT].data, {})
    store = MemoryStore(bucket)
    read: list[str] = []

    async def before(request: Request) -> None:
        read.append(request.key) if request.operation == "GetObject" else None

    store.before = before
    report = await night(bucket, store)
    assert (report.exit_code, report.outputs.recovered, sources_in(bucket)) == (0, 1, [])
    assert OUTPUT in read
    bucket.audit.check_quiet()


async def test_an_output_that_is_gone_is_made_anew_from_its_sources() -> None:
    bucket = await completed()
    remove(bucket, OUTPUT)
    report = await night(bucket)
    bucket.audit.check()
    assert (report.exit_code, report.outputs.written) == (0, 1)
    bucket.audit.check_quiet()


async def test_other_groups_are_worked_on_beside_a_damaged_output() -> None:
    bucket = await completed()
    other = "data/db.core.topic_1_{0}-{0}.jsonl.gz"
    with bucket.audit.others():
        for n in range(3):
            bucket.store(other.format(n), gzip.compress(b"other %d\n" % n, mtime=0))
    damage(bucket, "emptied")
    report = await night(bucket)
    assert (report.exit_code, report.outputs.written) == (4, 1)
    assert "data/db.core.topic_1_0_2.jsonl.gz" in bucket.objects
    bucket.audit.check()


# --- the output is lost while its sources are deleted: a page of deletes is 250 keys


def lose(bucket: AuditedBucket, how: str) -> None:
    key = output_of(300)
    if how == "gone":
        remove(bucket, key)
    else:
        rewrite(bucket, key, DAMAGES[how](bucket.objects[key].data))


@pytest.mark.parametrize("how", ["gone", "emptied", "replaced"])
@pytest.mark.parametrize("recovering", [False, True])
async def test_an_output_lost_between_two_pages_of_deletes_costs_no_further_source(
    how: str, recovering: bool
) -> None:
    bucket = await completed(300) if recovering else one_group(300)
    store = at(MemoryStore(bucket), "DeleteObjects", "data/", lambda: lose(bucket, how), after=True)
    report = await night(bucket, store)
    assert len(sources_in(bucket)) == 50
    assert report.exit_code == 4
    assert RECORD in bucket.objects
    assert output_of(300) in [failure.key for failure in report.failures]


async def test_sources_gone_and_no_output_is_an_alarm_and_the_record_stays() -> None:
    """The run died among its deletes, and then the output was lost."""
    bucket = one_group(300)
    await dead_run(bucket, "DeleteObjects", "data/")
    remove(bucket, output_of(300))
    before = sources_in(bucket)
    assert len(before) == 50
    for _ in range(2):
        report = await night(bucket)
        (failure,) = report.failures
        assert (report.exit_code, failure.key, failure.code) == (4, output_of(300), "OutputLost")
        assert "250" in failure.message
        assert RECORD in failure.hint
        assert RECORD in bucket.objects
        assert sources_in(bucket) == before


# --- an object of the same plan stands under the output's name, and its checksum is not shown


def twin(bucket: AuditedBucket, change: Callable[[bytes], bytes]) -> Callable[[], None]:
    """What another process of the same plan completed a moment before."""

    def write() -> None:
        (upload,) = (held for held in bucket.uploads.values() if held.key == OUTPUT)
        parts = upload.parts.values()
        data = b"".join(part.data if hasattr(part, "data") else part[0] for part in parts)
        bucket.store(
            OUTPUT, change(data), upload.metadata, upload.attributes.headers.get("content-type", "")
        )

    return write


async def test_a_damaged_twin_without_a_checksum_costs_no_source() -> None:
    bucket = one_group(20)
    before = sources_in(bucket)
    store = at(MemoryStore(bucket), "CompleteMultipartUpload", OUTPUT, twin(bucket, flip))
    report = await night(bucket, store)
    assert (report.exit_code, sources_in(bucket)) == (4, before)
    assert (await night(bucket)).exit_code == 4
    assert sources_in(bucket) == before


async def test_a_sound_twin_without_a_checksum_is_read_again_and_believed() -> None:
    bucket = one_group(20)
    store = at(MemoryStore(bucket), "CompleteMultipartUpload", OUTPUT, twin(bucket, bytes))
    report = await night(bucket, store)
    assert (report.exit_code, sources_in(bucket)) == (0, [])
    assert store.usage.requests["GetObject"] > 20


# --- records of version 0.1, which know nothing but the digest


async def completed_by_0_1(fill: Callable[[AuditedBucket], None] | None = None) -> AuditedBucket:
    bucket = audited(fill) if fill else one_group(20)  # type: ignore[arg-type]
    layout = "manifest" if fill is manifests else "corporate"
    await dead_run(bucket, "CompleteMultipartUpload", "data/", layout=layout, gzip="members")
    as_version_0_1(bucket)
    return bucket


def untidy(bucket: AuditedBucket) -> None:
    """Sources of several members, without a last newline, and of nothing."""
    bodies = [
        gzip.compress(b"a\n") + gzip.compress(b"b\n"),
        gzip.compress(b"no newline"),
        gzip.compress(b""),
        gzip.compress(b"c\n" * 1000),
    ]
    for n, body in enumerate(bodies):
        bucket.store(f"{GROUP}_{n}-{n}.jsonl.gz", body)


@pytest.mark.parametrize("fill", [None, manifests, untidy])
async def test_an_output_of_version_0_1_is_settled_by_reading_it_and_its_sources(
    fill: Callable[[AuditedBucket], None] | None,
) -> None:
    bucket = await completed_by_0_1(fill)
    layout = "manifest" if fill is manifests else "corporate"
    report = await night(bucket, layout=layout)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


@pytest.mark.parametrize(("fill", "other"), [(None, "manifest"), (manifests, "corporate")])
async def test_an_output_of_version_0_1_is_read_as_what_its_own_layout_makes_it(
    fill: Callable[[AuditedBucket], None] | None, other: str
) -> None:
    """Also by a run with another layout."""
    bucket = await completed_by_0_1(fill)
    report = await night(bucket, layout=other)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


@pytest.mark.parametrize("shown", ["as it was", "of the new bytes", "none"])
@pytest.mark.parametrize("how", DAMAGES)
async def test_a_damaged_output_of_version_0_1_costs_no_source(how: str, shown: str) -> None:
    bucket = await completed_by_0_1()
    before = sources_in(bucket)
    damage(bucket, how, shown)
    report = await night(bucket)
    bucket.audit.check()
    assert (report.exit_code, sources_in(bucket)) == (4, before)
    assert RECORD in bucket.objects


@pytest.mark.parametrize("how", ["emptied", "cut at the end of a gzip member", "lengthened"])
async def test_a_damaged_manifest_of_version_0_1_costs_no_source(how: str) -> None:
    bucket = await completed_by_0_1(manifests)
    before = sources_in(bucket)
    key = next(key for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata)
    data = bucket.objects[key].data
    changed = {"emptied": b"", "lengthened": data + b"more\n"}.get(how, data[: data.rindex(b"id")])
    rewrite(bucket, key, changed, {})
    report = await night(bucket, layout="manifest")
    bucket.audit.check()
    assert (report.exit_code, sources_in(bucket)) == (4, before)


def some_deleted(bucket: AuditedBucket) -> None:
    """Version 0.1 had deleted some of the sources before it died."""
    for n in (0, 7, 8, 19):
        bucket.remove(f"{GROUP}_{n * 10}-{n * 10 + 9}.jsonl.gz")


async def test_where_version_0_1_had_deleted_some_sources_the_others_are_found_in_the_output() -> (
    None
):
    bucket = await completed_by_0_1()
    some_deleted(bucket)
    report = await night(bucket)
    assert (report.exit_code, report.outputs.recovered, sources_in(bucket)) == (0, 1, [])
    bucket.audit.check_quiet()


async def test_a_source_that_another_run_deletes_while_it_is_compared_is_no_alarm() -> None:
    """It has proven the output, and deletes what is in it."""
    bucket = await completed_by_0_1()
    source = f"{GROUP}_70-79.jsonl.gz"
    store = at(MemoryStore(bucket), "GetObject", source, lambda: bucket.remove(source))
    report = await night(bucket, store)
    assert (report.exit_code, len(sources_in(bucket))) == (ExitCode.TRANSIENT, 19)
    assert source in report.failures[0].message
    report = await night(bucket)
    assert (report.exit_code, sources_in(bucket)) == (0, [])
    bucket.audit.check_quiet()


@pytest.mark.parametrize("how", ["emptied", "cut somewhere", "replaced", "a bit flipped"])
async def test_where_version_0_1_had_deleted_some_sources_a_damaged_output_costs_no_other(
    how: str,
) -> None:
    bucket = await completed_by_0_1()
    some_deleted(bucket)
    damage(bucket, how)
    before = sources_in(bucket)
    report = await night(bucket)
    assert (report.exit_code, sources_in(bucket)) == (4, before)
    assert RECORD in bucket.objects


async def test_where_version_0_1_had_deleted_some_sources_and_the_output_is_gone_all_stays() -> (
    None
):
    bucket = await completed_by_0_1()
    some_deleted(bucket)
    remove(bucket, OUTPUT)
    before = sources_in(bucket)
    report = await night(bucket)
    assert (report.exit_code, sources_in(bucket)) == (4, before)
    assert [failure.code for failure in report.failures] == ["OutputLost"]
    assert RECORD in bucket.objects


async def test_what_version_0_1_left_open_is_undone_and_joined() -> None:
    bucket = one_group(20)
    await dead_run(bucket, "UploadPart", "data/", gzip="members")
    as_version_0_1(bucket)
    report = await night(bucket)
    assert (report.exit_code, report.outputs.written) == (0, 1)
    bucket.audit.check_quiet()


# --- a record that cannot be removed


class KeepsRecords(MemoryStore):
    """The role may not delete plan records."""

    refuses = True

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if self.refuses and key.startswith("_coalesce/groups/"):
            return DeleteResult(key, Deleted.REFUSED, "AccessDenied", "not allowed")
        return await super().delete(key, etag=etag)


async def test_a_refused_removal_of_a_record_is_reported_every_night_until_it_is_allowed() -> None:
    bucket = one_group(20)
    for deleted in (20, 0, 0):
        report = await night(bucket, KeepsRecords(bucket))
        (failure,) = report.failures
        assert (report.exit_code, report.sources.deleted) == (1, deleted)
        assert (failure.group, failure.key, failure.code) == (GROUP, RECORD, "AccessDenied")
        assert "s3:DeleteObject" in failure.hint
        assert RECORD in bucket.objects
        assert sources_in(bucket) == []
    assert (await night(bucket)).exit_code == 0
    bucket.audit.check_quiet()


async def test_a_refused_removal_of_a_dead_runs_record_is_reported_too() -> None:
    bucket = await completed()
    for _ in range(2):
        report = await night(bucket, KeepsRecords(bucket))
        assert [failure.key for failure in report.failures] == [RECORD]
        assert report.exit_code == 1
    assert sources_in(bucket) == []
    await check_settled(bucket, settings(), readable(contents(bucket)), "allowed")


@pytest.mark.parametrize("look", [("GetObject", "_coalesce/ledger/"), ("ListObjectsV2", GROUP)])
async def test_a_group_that_another_run_has_undone_and_joined_meanwhile_is_no_alarm(
    look: tuple[str, str],
) -> None:
    """Both find the record of a dead run; one has settled it and joined the sources by the time
    that the other looks which of them are there.
    """
    bucket = one_group(5)
    await dead_run(bucket, "PutObject", "_coalesce/ledger/")
    reports = []

    async def overtake() -> None:
        reports.append(await night(bucket))

    slow = at(MemoryStore(bucket), *look, overtake, after=look[0] == "GetObject")
    reports.append(await night(bucket, slow))
    assert [(report.exit_code, report.failures) for report in reports] == [(0, []), (0, [])]
    assert [report.outputs.written for report in reports] == [1, 0]
    assert unfinished(bucket) == []
    bucket.audit.check_quiet()


@pytest.mark.parametrize("stands_at", ["CompleteMultipartUpload", "DeleteObjects"])
async def test_a_run_that_began_after_the_look_for_leases_keeps_its_group(stands_at: str) -> None:
    """It has settled the record that both have found, and has put its own in the same place."""
    bucket = one_group(5)
    await dead_run(bucket, "PutObject", RECORD)
    young, go = MemoryStore(bucket), asyncio.Event()
    stands = asyncio.Event()

    async def stand(request: Request) -> None:
        if request.operation == stands_at and request.key.startswith("data/"):
            stands.set()
            await go.wait()

    young.before = stand
    tasks: list[asyncio.Task[Report]] = []

    async def begin() -> None:
        tasks.append(asyncio.create_task(new_run(young, settings(lease=4)).coalesce()))
        await stands.wait()

    old = await night(bucket, at(MemoryStore(bucket), "GetObject", RECORD, begin), lease=4)
    go.set()
    report = await tasks[0]
    assert (report.exit_code, report.failures) == (0, [])
    assert (report.outputs.written, report.recovered.groups) == (1, 1)
    assert (old.recovered.groups, old.recovered.outputs, old.failures) == (0, 0, [])
    assert (old.groups.leased, old.sources.left["leased"]) == (1, 5)
    bucket.audit.check_quiet()


# --- stores without conditional deletes: --accept-weaker delete-race


NO_DELETES = "delete-if-match delete-many-etag"


@pytest.mark.parametrize("request_of_the_remover", range(1, 5))
async def test_a_record_that_its_owner_rewrites_is_not_removed_by_another(
    request_of_the_remover: int,
) -> None:
    """Whichever of the remover's requests comes just after it: either the record stands as it was
    rewritten, or its owner learns that it is not its own any more.
    """
    bucket = await completed(ignores=NO_DELETES, accept_weaker=["delete-race"])
    owner = await HeldRecord.read(MemoryStore(bucket), "_coalesce/", RECORD)
    stale = MemoryStore(bucket)
    remover = await HeldRecord.read(stale, "_coalesce/", RECORD)
    assert owner is not None
    assert remover is not None
    kept: list[bool] = []

    async def before(request: Request) -> None:
        if request.number == 1 + request_of_the_remover:
            kept.append(await owner.rewrite(replace(owner.record, batches=())))

    stale.before = before
    await remover.remove(KEEPS_NO_DELETES, "r", NoLease())
    if not kept:
        kept.append(await owner.rewrite(replace(owner.record, batches=())))
    found = await HeldRecord.read(MemoryStore(bucket), "_coalesce/", RECORD)
    assert (found is not None and found.record.batches == ()) == kept[0]
    assert kept[0] or found is None


async def test_a_tombstone_that_a_dying_run_leaves_is_cleared_away() -> None:
    bucket = one_group(20, NO_DELETES)
    weaker = {"accept_weaker": ["delete-race"]}
    await dead_run(bucket, "PutObject", RECORD, times=2, **weaker)
    assert RECORD in bucket.objects
    assert sources_in(bucket) == []
    report = await night(bucket, **weaker)
    assert report.exit_code == 0
    assert unfinished(bucket) == []
    bucket.audit.check_quiet()


async def test_a_source_written_anew_while_its_delete_goes_unanswered_stays() -> None:
    """The delete is repeated: not without another look at the source."""
    bucket = one_group(20, NO_DELETES)
    key, new = f"{GROUP}_50-59.jsonl.gz", gzip.compress(b"new\n", mtime=0)
    store = MemoryStore(bucket)
    tries = 0

    async def before(request: Request) -> None:
        nonlocal tries
        if (request.operation, request.key) == ("DeleteObject", key):
            tries += 1
            if tries == 1:
                with bucket.audit.others():
                    bucket.store(key, new)
                raise Unavailable("no answer", key=key, operation="DeleteObject")

    store.before = before
    report = await night(bucket, store, accept_weaker=["delete-race"])
    assert bucket.objects[key].data == new
    assert (tries, report.sources.left["changed"]) == (1, 1)
    bucket.audit.check()
