"""One guard each, in the one situation that it stands there for."""

import asyncio
import gzip
import re
from collections.abc import Callable
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest

from coalesce.content import gzip_members as content
from coalesce.errors import LeaseLost, NotImplementedByStore, PreconditionFailed
from coalesce.model import Batch, GroupId, Source
from coalesce.planning import batches as planning
from coalesce.protocol import lease
from coalesce.protocol.commit import DIGEST, Committed
from coalesce.protocol.held import HeldRecord
from coalesce.protocol.lease import Lease, LeaseRecord
from coalesce.protocol.record import PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import decode
from coalesce.protocol.state import lease_key, record_key
from coalesce.report.report import Report
from coalesce.storage import checksums
from coalesce.storage.base import Body, Head, OpenUpload
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request, StoredObject
from support.nights import at
from support.runs import NoLease, new_run
from support.scenarios import (
    FIRST,
    AuditedBucket,
    Killed,
    check_settled,
    contents,
    copied,
    corporate,
    grow,
    prepared,
    readable,
    run,
    unfinished,
)
from support.settings import settings

OUTPUT = "data/db.core.topic_0_0_29.jsonl.gz"
CONDITIONS = [field.name for field in fields(Capabilities) if field.name != "checksum"]
KEEPS_ALL = Capabilities(**dict.fromkeys(CONDITIONS, True), checksum=Checksum.CRC64NVME)
KEEPS_NO_DELETES = replace(KEEPS_ALL, conditional_delete=False)
RECORD = "_coalesce/groups/data/db.core.topic_0"


def dies() -> None:
    raise Killed


async def report_of(store: MemoryStore, **more: object) -> Report:
    return await new_run(store, settings(**{"max_files": 3, **more})).coalesce()


class Silent(MemoryStore):
    """HEAD shows no sum, as for SSE-KMS."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        return head and Head(head.key, head.size, head.etag, head.metadata, head.attributes, {})


# --- reading the output back


async def test_an_object_of_the_same_length_is_not_the_output() -> None:
    """Written by others under the output's name, where HEAD shows no sum."""
    bucket, _ = prepared(FIRST)
    keys = [f"data/db.core.topic_0_{n}-{n + 9}.jsonl.gz" for n in (0, 10, 20)]
    theirs = b"x" * sum(len(bucket.objects[key].data) for key in keys)

    def write() -> None:
        with bucket.audit.others():
            bucket.store(OUTPUT, theirs)

    report = await report_of(at(Silent(bucket), "UploadPart", OUTPUT, write))
    assert report.exit_code == 1
    bucket.audit.check()
    assert set(keys) <= set(bucket.objects)


async def test_only_reading_an_output_back_proves_it() -> None:
    with pytest.raises(TypeError):
        Committed(Batch("k", (), (), ""), 0, "", object())


@pytest.mark.parametrize("ignores", ["", "checksum"])
async def test_an_output_of_another_length_than_was_sent_costs_no_source(ignores: str) -> None:
    """Also where the store's answer shows no sum, as for SSE-KMS."""

    class Shortening(MemoryStore):
        async def head(self, key: str) -> Head | None:
            head = await super().head(key)
            return head and Head(
                head.key,
                head.size - (key == OUTPUT),
                head.etag,
                head.metadata,
                head.attributes,
                {},
            )

    bucket, _ = prepared(FIRST)
    bucket.ignores = frozenset(ignores.split())
    before = {key for key in bucket.objects if "_0_0-" in key or "_0_10-" in key}
    report = await report_of(Shortening(bucket))
    assert report.exit_code == 4
    assert before <= set(bucket.objects)


async def test_a_part_that_changes_inside_the_store_is_refused_by_the_sum_of_the_whole() -> None:
    """Where HEAD shows no sum (SSE-KMS), nothing but Complete itself can notice."""
    bucket, _ = prepared(FIRST)
    before = contents(bucket)

    def decay() -> None:
        (upload,) = [upload for upload in bucket.uploads.values() if upload.key == OUTPUT]
        for number, part in upload.parts.items():
            decayed = bytes([part.data[0] ^ 1]) + part.data[1:]
            upload.parts[number] = replace(part, data=decayed)

    report = await report_of(at(Silent(bucket), "CompleteMultipartUpload", OUTPUT, decay))
    assert [failure.code for failure in report.failures] == ["BadDigest"]
    assert report.exit_code == 1
    assert OUTPUT not in bucket.objects
    assert {key for key in before if "_0_0-" in key} <= set(bucket.objects)


async def test_a_store_with_sums_of_parts_alone_is_held_against_them() -> None:
    bucket, _ = prepared(FIRST)
    bucket.ignores = frozenset({"full-object-checksum"})
    before = contents(bucket)

    def decay() -> None:
        stored = bucket.objects[OUTPUT]
        bucket.objects[OUTPUT] = type(stored)(
            stored.data,
            stored.etag,
            stored.modified,
            stored.metadata,
            stored.content_type,
            {"CRC32": "AAAAAA==-1"},
        )

    report = await report_of(
        at(MemoryStore(bucket), "CompleteMultipartUpload", OUTPUT, decay, after=True)
    )
    assert report.store.capabilities["checksum"] == Checksum.CRC32.value
    assert report.exit_code == 4
    assert {key for key in before if "_0_0-" in key} <= set(bucket.objects)


async def test_where_complete_overwrites_an_output_that_is_there_is_not_written_over() -> None:
    bucket, _ = prepared(FIRST)
    bucket.ignores = frozenset({"complete-if-none-match"})
    theirs = gzip.compress(b"theirs\n")

    def write() -> None:
        with bucket.audit.others():
            bucket.store(OUTPUT, theirs)

    await report_of(
        at(MemoryStore(bucket), "UploadPart", OUTPUT, write), accept_weaker=["overwrite-race"]
    )
    bucket.audit.check()
    assert bucket.objects[OUTPUT].data == theirs


# --- recovery


async def died_recorded() -> AuditedBucket:
    """The plan is recorded, nothing is transferred."""
    bucket, chosen = prepared(FIRST)
    await run(at(MemoryStore(bucket), "GetObject", "data/", dies), chosen)
    bucket.now += 1000
    assert RECORD in bucket.objects
    return bucket


async def died_committed(ignores: str = "") -> AuditedBucket:
    """The first output is there, and nobody has looked at it."""
    bucket, chosen = prepared(FIRST)
    bucket.ignores = frozenset(ignores.split())
    await run(at(MemoryStore(bucket), "CompleteMultipartUpload", OUTPUT, dies, after=True), chosen)
    bucket.now += 1000
    return bucket


def replaced(bucket: AuditedBucket, data: Callable[[bytes], bytes], **metadata: str) -> None:
    stored = bucket.objects[OUTPUT]
    with bucket.audit.others():
        bucket.store(
            OUTPUT, data(stored.data), {**stored.metadata, **metadata}, checksum=stored.checksum
        )


@pytest.mark.parametrize("theirs", [{}, {DIGEST: "another"}])
async def test_an_output_of_another_plan_is_no_proof_for_the_recorded_one(
    theirs: dict[str, str],
) -> None:
    bucket = await died_recorded()
    with bucket.audit.others():
        bucket.store(OUTPUT, gzip.compress(b"theirs\n"), theirs)
    await report_of(MemoryStore(bucket))
    bucket.audit.check()
    assert "data/db.core.topic_0_0-9.jsonl.gz" in bucket.objects


async def test_an_output_too_long_for_its_sources_is_no_proof() -> None:
    bucket = await died_committed()
    replaced(bucket, lambda data: data * 9)
    assert (await report_of(MemoryStore(bucket))).exit_code == 4
    assert "data/db.core.topic_0_0-9.jsonl.gz" in bucket.objects
    assert RECORD in bucket.objects


async def test_where_sums_are_not_kept_a_dead_runs_output_is_read_again() -> None:
    bucket = await died_committed("checksum")
    replaced(bucket, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    assert (await report_of(MemoryStore(bucket))).exit_code == 4
    assert "data/db.core.topic_0_0-9.jsonl.gz" in bucket.objects
    assert RECORD in bucket.objects


async def test_a_complete_that_comes_late_finds_its_upload_gone() -> None:
    """The new owner found one more source and made another output.

    No sweep helps here: this store does not list uploads.
    """

    class Unlisting(MemoryStore):
        async def list_uploads(self, prefix: str) -> list[OpenUpload]:
            raise NotImplementedByStore("not implemented")

    bucket, chosen = prepared(FIRST)
    original = readable(contents(bucket))
    thaw, frozen = asyncio.Event(), asyncio.Event()
    old = Unlisting(bucket)

    async def before(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            frozen.set()
            await thaw.wait()

    old.before = before
    sleeper = asyncio.create_task(new_run(old, chosen).coalesce())
    await frozen.wait()
    bucket.now += 1000
    added = grow(bucket)
    assert (await new_run(Unlisting(bucket), chosen).coalesce()).exit_code == 0
    thaw.set()
    assert "Fenced" in [failure.code for failure in (await sleeper).failures]
    bucket.audit.check()
    assert readable(contents(bucket)) == original + added


async def test_a_complete_that_wins_the_race_against_the_fence_is_seen() -> None:
    """The new owner has looked and found nothing; before its abort arrives, the old owner's
    Complete does.
    """
    bucket, chosen = prepared(FIRST)
    original = readable(contents(bucket))
    thaw, frozen, through = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        frozen.set()
        await thaw.wait()

    old = at(MemoryStore(bucket), "CompleteMultipartUpload", OUTPUT, freeze)

    async def after(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key == OUTPUT:
            through.set()
            await asyncio.Event().wait()

    old.after = after
    sleeper = asyncio.create_task(new_run(old, chosen).coalesce())
    await frozen.wait()
    bucket.now += 1000

    async def complete() -> None:
        thaw.set()
        await through.wait()

    await new_run(
        at(MemoryStore(bucket), "AbortMultipartUpload", OUTPUT, complete), chosen
    ).coalesce()
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    bucket.audit.check()
    assert readable(contents(bucket)) == original


async def test_a_run_that_wakes_up_with_a_plan_of_yesterday_joins_nothing_twice() -> None:
    """It had met a spoilt source, and was frozen before it could record how it would go on; the
    other found one more source, and made other outputs.
    """
    name = "a spoilt source among others"
    bucket, chosen = prepared(name)
    original = readable(contents(bucket))
    thaw, frozen = asyncio.Event(), asyncio.Event()
    store = MemoryStore(bucket)
    writes = 0

    async def before(request: Request) -> None:
        nonlocal writes
        writes += request.operation == "PutObject" and request.key == RECORD
        if writes == 2:
            frozen.set()
            await thaw.wait()

    store.before = before
    sleeper = asyncio.create_task(new_run(store, chosen).coalesce())
    await frozen.wait()
    bucket.now += 1000
    added = grow(bucket)
    await new_run(MemoryStore(bucket), chosen).coalesce()
    thaw.set()
    await sleeper
    await check_settled(bucket, chosen, original + added, "")


async def test_a_live_runs_group_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is aborted, and the exit code says so."""
    bucket, chosen = prepared(FIRST)
    frozen = asyncio.Event()
    store = MemoryStore(bucket)

    async def freeze(request: Request) -> None:
        if request.operation == "UploadPart" and request.key.startswith("data/"):
            frozen.set()
            await asyncio.Event().wait()

    store.before = freeze
    living = asyncio.create_task(new_run(store, chosen).coalesce())
    await frozen.wait()
    uploads = set(bucket.uploads)

    async def renewed(_: float) -> None:
        for key in [key for key in bucket.objects if key.startswith("_coalesce/runs/")]:
            stored = bucket.objects[key]
            bucket.objects[key] = type(stored)(stored.data + b" ", stored.etag + "+", bucket.now)

    with monkeypatch.context() as time:
        time.setattr(
            lease,
            "asyncio",
            SimpleNamespace(
                sleep=renewed,
                create_task=lambda job: asyncio.create_task(_never(job)),
                gather=asyncio.gather,
                timeout=asyncio.timeout,
            ),
        )
        report = await new_run(MemoryStore(bucket), chosen).coalesce()
    assert (report.exit_code, report.groups.leased) == (11, 2)
    assert uploads <= set(bucket.uploads)
    living.cancel()
    await asyncio.gather(living, return_exceptions=True)


async def _never(job) -> None:  # type: ignore[no-untyped-def]
    job.close()


async def test_a_record_of_another_layout_is_settled_by_its_own_rules() -> None:
    bucket = await died_committed()
    report = await report_of(MemoryStore(bucket), layout="manifest")
    assert (report.exit_code, report.outputs.recovered) == (0, 2)
    assert unfinished(bucket) == []
    bucket.audit.check_quiet()


async def test_without_deletes_a_dead_runs_output_costs_no_source() -> None:
    bucket = await died_committed()
    before = set(bucket.objects)
    await report_of(MemoryStore(bucket), delete=False)
    assert {key for key in before if key.startswith("data/")} <= set(bucket.objects)
    await check_settled(bucket, settings(max_files=3), readable(contents(prepared(FIRST)[0])), "")


def others(bucket: MemoryBucket) -> dict[str, StoredObject]:
    """What is neither the run's data nor an entry of its outputs."""
    own = ("data/", "_coalesce/ledger/data/")
    return {key: stored for key, stored in bucket.objects.items() if not key.startswith(own)}


async def test_what_a_dead_run_left_under_other_prefixes_is_not_touched() -> None:
    """Neither its records and uploads, nor the lease that tells of them."""
    bucket = MemoryBucket()
    corporate(bucket)
    for key in list(bucket.objects):
        bucket.store(key.replace("data/", "data2/"), bucket.objects[key].data)
    await run(
        at(MemoryStore(bucket), "CompleteMultipartUpload", "data2/", dies, after=True),
        settings(prefix=["data2"], max_files=3),
    )
    bucket.now += 1000
    before = others(bucket)
    uploads = dict(bucket.uploads)
    assert (await report_of(MemoryStore(bucket))).exit_code == 0
    assert others(bucket) == before
    assert bucket.uploads == uploads


async def test_a_sweep_leaves_the_uploads_of_others_and_of_a_run_that_has_just_begun() -> None:
    bucket, chosen = prepared(FIRST)
    await run(at(MemoryStore(bucket), "PutObject", RECORD, dies), chosen)
    bucket.now += 1000
    others = MemoryStore(bucket)
    created = await others.create_upload("data/backup.tar", checksum=Checksum.NONE, metadata={})
    theirs = created.upload_id
    bucket.now += 1000
    new = ""

    async def begin() -> None:
        nonlocal new
        bucket.store(
            lease_key("_coalesce/", "new"),
            LeaseRecord(run_id="new", layout="corporate", prefixes=("data/",))
            .model_dump_json()
            .encode(),
        )
        created = await others.create_upload(
            "data/db.core.other_0_0_9.jsonl.gz", checksum=Checksum.NONE, metadata={}
        )
        new = created.upload_id

    await new_run(
        at(MemoryStore(bucket), "ListMultipartUploads", "data/", begin), chosen
    ).coalesce()
    assert {theirs, new} < set(bucket.uploads)
    bucket.now += 1000
    await new_run(MemoryStore(bucket), chosen).coalesce()
    assert set(bucket.uploads) == {theirs}


async def test_a_lease_that_is_renewed_after_all_is_not_swept_away() -> None:
    bucket = await died_recorded()
    (key,) = [key for key in bucket.objects if key.startswith("_coalesce/runs/")]
    renew = at(
        MemoryStore(bucket),
        "DeleteObject",
        key,
        lambda: bucket.store(key, bucket.objects[key].data + b" "),
    )
    await new_run(renew, settings(max_files=3)).coalesce()
    assert key in bucket.objects


# --- plan records


GROUP = GroupId("data/", "db.core.topic", 0)


def plan_record(
    *keys: str, output: str = OUTPUT, digest: str = "", run_id: str = "r"
) -> PlanRecord:
    sources = tuple(
        Source(key, 1, '"e"', 0.0, "STANDARD", int(first), int(last))
        for key in keys
        for first, last in re.findall(r"_(\d+)[-_](\d+)\.jsonl", key)
    )
    batch = Batch(output, sources, len(sources), digest or planning.digest(sources))
    return PlanRecord(run_id, "corporate", GROUP, (RecordedBatch(batch, "u"),))


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (plan_record("data2/db.core.topic_0_0-9.jsonl.gz"), RECORD),
        (plan_record("data/db.core.topic_1_0-9.jsonl.gz"), RECORD),
        (plan_record("data/db.core.topic_0_0-9.jsonl.gz", output="elsewhere/x.jsonl.gz"), RECORD),
        (plan_record(OUTPUT), RECORD),
        (plan_record("data/db.core.topic_0_0-9.jsonl.gz", digest="0"), RECORD),
        (plan_record("data/db.core.topic_0_0-9.jsonl.gz"), "_coalesce/groups/data/db.core.topic_1"),
    ],
    ids=[
        "another directory",
        "another group",
        "an output elsewhere",
        "its own output as a source",
        "a wrong digest",
        "another group's key",
    ],
)
async def test_a_record_that_contradicts_itself_is_not_believed(
    record: PlanRecord, key: str
) -> None:
    bucket, _ = prepared(FIRST)
    bucket.store(key, encode(record))
    before = contents(bucket)
    report = await report_of(MemoryStore(bucket), topic=["nothing"])
    assert [failure.code for failure in report.failures] == ["RecordDamaged"]
    assert contents(bucket) == before


async def test_a_record_is_replaced_and_removed_only_as_it_was_written() -> None:
    store = MemoryStore(MemoryBucket())
    mine = await HeldRecord.create(
        store, "_coalesce/", plan_record("data/db.core.topic_0_0-9.jsonl.gz")
    )
    await store.put(
        RECORD, encode(plan_record("data/db.core.topic_0_0-9.jsonl.gz", run_id="another"))
    )
    for conditional in (True, False):
        store.bucket.ignores = frozenset() if conditional else frozenset({"delete-if-match"})
        await mine.remove(KEEPS_ALL if conditional else KEEPS_NO_DELETES, "r", NoLease())
        assert decode((await store.get(RECORD)).data, RECORD, "_coalesce/").run_id == "another"
    assert not await mine.rewrite(plan_record("data/db.core.topic_0_0-9.jsonl.gz"))
    assert decode((await store.get(RECORD)).data, RECORD, "_coalesce/").run_id == "another"
    assert record_key("_coalesce/", GROUP) == RECORD


# --- leases


async def test_two_runs_never_share_a_lease() -> None:
    bucket = MemoryBucket()
    async with Lease(
        MemoryStore(bucket), "_coalesce/", LeaseRecord(run_id="r"), lambda: 0.0
    ).hold():
        with pytest.raises(PreconditionFailed):
            async with Lease(
                MemoryStore(bucket), "_coalesce/", LeaseRecord(run_id="r"), lambda: 0.0
            ).hold():
                pass


@pytest.mark.parametrize("taken", [False, True], ids=["swept away", "another's"])
async def test_a_lease_that_was_taken_away_is_not_written_again(
    taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = MemoryBucket()
    renewed = asyncio.Event()

    async def sleep(_: float) -> None:
        if renewed.is_set():
            await asyncio.Event().wait()
        renewed.set()

    monkeypatch.setattr(
        lease,
        "asyncio",
        SimpleNamespace(
            sleep=sleep,
            create_task=asyncio.create_task,
            gather=asyncio.gather,
            timeout=asyncio.timeout,
        ),
    )
    async with Lease(
        MemoryStore(bucket), "_coalesce/", LeaseRecord(run_id="r"), lambda: 0.0
    ).hold() as held:
        held.check()
        if taken:
            bucket.store("_coalesce/runs/r", b"another's")
        else:
            bucket.remove("_coalesce/runs/r")
        await renewed.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        with pytest.raises(LeaseLost):
            held.check()
        assert ("_coalesce/runs/r" in bucket.objects) == taken


# --- reading the sources


class Lying(MemoryStore):
    """What a GET of one source gives is not what lies there."""

    def __init__(self, bucket: MemoryBucket, lie: Callable[[bytes], bytes]) -> None:
        super().__init__(bucket)
        self._lie = lie

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        return Body(self._lie(body.data), body.etag, body.checksum) if "_0_10-" in key else body


async def test_a_body_of_another_length_than_listed_is_not_joined() -> None:
    """Unchecked: nothing else looks at it."""
    bucket, _ = prepared(FIRST)
    original = readable(contents(bucket))
    await report_of(Lying(bucket, lambda data: data + data), check=False)
    bucket.audit.check()
    assert readable(contents(bucket)) == original


async def test_a_source_that_is_not_what_its_stored_sum_says_stays_where_it_is() -> None:
    """Whole gzip, but not what its writer sent."""
    bucket, _ = prepared(FIRST)
    key = "data/db.core.topic_0_10-19.jsonl.gz"
    stored = bucket.objects[key]
    with bucket.audit.others():
        bucket.store(key, stored.data, checksum={"CRC64NVME": checksums.encode(1)})
    report = await report_of(MemoryStore(bucket))
    assert (report.exit_code, report.sources.left["corrupt"]) == (4, 1)
    assert key in bucket.objects


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_sources_that_hold_nothing_become_an_output_that_holds_nothing(mode: str) -> None:
    bucket = MemoryBucket()
    for n in range(2):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", content.EMPTY_MEMBER)
    report = await report_of(MemoryStore(bucket), gzip=mode)
    assert (report.exit_code, report.sources.joined) == (0, 2)
    assert gzip.decompress(bucket.objects["data/t_0_0_1.jsonl.gz"].data) == b""


def ranged() -> AuditedBucket:
    """Sources read in ranges, as those are that exceed a part."""
    bucket = prepared(FIRST)[0]
    bucket.part_bytes = 32
    return bucket


async def test_a_source_read_in_ranges_is_of_one_version() -> None:
    """Unchecked, and replaced by one of the same length between two reads."""
    bucket = ranged()
    key = "data/db.core.topic_0_10-19.jsonl.gz"
    old, new = (gzip.compress(b'{"group": %d, "n": 1}\n' % group, 0, mtime=0) for group in (0, 7))

    def write(body: bytes = new) -> None:
        with bucket.audit.others():
            bucket.store(key, body)

    write(old)
    bucket.now += 1000
    assert 32 < len(old) == len(new) < 64
    store = at(MemoryStore(bucket), "GetObject", key, write, after=True)
    await report_of(store, check=False, min_age=1)
    bucket.audit.check()
    assert bucket.objects[key].data == new
    bucket.now += 1000
    await report_of(MemoryStore(bucket))
    bucket.audit.check_quiet()


async def test_a_source_read_in_ranges_is_held_against_its_stored_sum() -> None:
    bucket = ranged()
    key = "data/db.core.topic_0_10-19.jsonl.gz"
    stored = bucket.objects[key]
    with bucket.audit.others():
        bucket.store(key, stored.data, checksum={"CRC64NVME": checksums.encode(1)})
    report = await report_of(MemoryStore(bucket))
    assert (report.exit_code, report.sources.left["corrupt"]) == (4, 1)
    assert key in bucket.objects


@pytest.mark.parametrize(
    ("ignores", "copies"),
    [("", True), ("copy-if-match", False), ("checksum", False), ("full-object-checksum", False)],
)
async def test_the_store_copies_only_the_version_that_was_listed(
    ignores: str, copies: bool
) -> None:
    """Where it would not look, or could not say what it copied, nothing is copied by it."""
    bucket = AuditedBucket(min_part_bytes=1000, ignores=frozenset(ignores.split()))
    copied(bucket)
    bucket.now += 1000
    key = "data/t_0_0-0.jsonl.gz"
    new = gzip.compress(b"0:%b\n" % (b"y" * 1500), 0, mtime=0)
    assert len(new) == len(bucket.objects[key].data)
    store = MemoryStore(bucket)
    asked: list[str] = []

    async def before(request: Request) -> None:
        if request.key.startswith("data/"):
            asked.append(request.operation)
            if asked == ["ListObjectsV2", "HeadObject", "CreateMultipartUpload"]:
                bucket.store(key, new)

    store.before = before
    await report_of(store, check=False, max_files=9, min_age=1)
    assert ("UploadPartCopy" in asked) == copies
    assert bucket.objects[key].data == new
    assert b"y" * 100 not in b"".join(
        stored.data for name, stored in bucket.objects.items() if name != key
    )


# --- what belongs to whom


async def test_sources_under_the_state_prefix_are_nobodys() -> None:
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(f"_coalesce/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n))
    before = contents(bucket)
    assert (await report_of(MemoryStore(bucket), prefix=[], whole_bucket=True)).exit_code == 0
    assert contents(bucket) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": ["_coalesce/a"]},
        {"prefix": ["a"], "state": "a/b"},
        {"prefix": ["a/b"], "state": "a"},
        {"state": ""},
        {"prefix": [""]},
        {"prefix": []},
    ],
)
def test_prefixes_that_would_meet_the_state_or_the_whole_bucket_are_refused(
    wrong: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match=r"overlap|empty|required"):
        settings(**wrong)


def test_a_prefix_is_whole_path_segments_and_none_is_listed_twice() -> None:
    chosen = settings(prefix=["a/b", "a/b/c", "a/bc/", "a/b"])
    assert chosen.prefixes(today=None) == ("a/b/", "a/bc/")  # type: ignore[arg-type]


def test_a_digest_names_this_very_list() -> None:
    def source(key: str = "k", size: int = 1, etag: str = "e") -> Source:
        return Source(key, size, etag, 0.0, "STANDARD", 0, 0)

    lists = [
        [source()],
        [source("l")],
        [source(size=2)],
        [source(etag="f")],
        [source(), source("l")],
        [source("l"), source()],
        [source("ke", etag="")],
        [],
    ]
    assert len({planning.digest(each) for each in lists}) == len(lists)
