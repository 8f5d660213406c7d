"""More guards of records, rounds, limits and the ledger, each in the one situation in which it
shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest

from coalesce.errors import Conflict, Unavailable
from coalesce.exits import ExitCode
from coalesce.model import GroupId
from coalesce.protocol.held import HeldRecord, remove_tombstone
from coalesce.protocol.record import PlanRecord
from coalesce.protocol.state import entry_key
from coalesce.storage.base import Body, CreatedUpload, Deleted, DeleteResult, Head
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, entries_in, records_in
from support.nights import RECORD, at, audited, night, one_group, output_of, rewrite, sources_in
from support.runs import NoLease, new_run, nobody
from support.scenarios import is_entry, spoilt, unfinished
from support.settings import settings

CONDITIONS = [field.name for field in fields(Capabilities) if field.name != "checksum"]
KEEPS_NOTHING = Capabilities(**dict.fromkeys(CONDITIONS, False), checksum=Checksum.NONE)


def outputs_in(bucket: MemoryBucket) -> list[str]:
    return sorted(key for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata)


def noting(store: MemoryStore, operation: str) -> list[str]:
    """The keys of the requests of this kind for the user's own objects, from now on."""
    sent: list[str] = []
    before = store.before

    async def note(request: Request) -> None:
        if request.operation == operation and request.key.startswith("data/"):
            sent.append(request.key)
        await before(request)

    store.before = note
    return sent


def failing(
    store: MemoryStore, operation: str, error: Callable[..., Exception], times: int
) -> MemoryStore:
    met = 0

    async def before(request: Request) -> None:
        nonlocal met
        if request.operation == operation and request.key.startswith("data/") and met < times:
            met += 1
            raise error("made up", key=request.key, operation=operation)

    store.before = before
    return store


# --- limits of a run


async def test_no_more_sources_are_joined_and_deleted_than_the_limit_says() -> None:
    bucket = one_group(8)
    before = records_in(contents(bucket))
    report = await night(bucket, max_files=2, max_delete=5)
    assert report.exit_code == ExitCode.LIMIT
    assert (len(sources_in(bucket)), len(outputs_in(bucket))) == (4, 2)
    assert records_in(contents(bucket)) == before


async def test_sources_beside_a_spoilt_one_count_once_against_a_limit() -> None:
    bucket = audited(spoilt)
    report = await night(bucket, max_delete=6)
    assert report.exit_code == ExitCode.INTEGRITY
    assert sources_in(bucket) == ["data/db.core.topic_0_20-29.jsonl.gz"]
    assert len(outputs_in(bucket)) == 2


# --- rounds


class Decaying(MemoryStore):
    """Of one source more, at every upload that is begun, it sends what is not gzip."""

    begun = 0

    async def create_upload(self, key: str, **more: Any) -> CreatedUpload:
        self.begun += key.startswith("data/")
        return await super().create_upload(key, **more)

    async def get(self, key: str, **more: Any) -> Body:
        body = await super().get(key, **more)
        bad = any(f"_{n * 10}-" in key for n in range(12 - self.begun, 12))
        return Body(b"\0" * len(body.data), body.etag) if bad else body


async def test_a_group_in_which_every_reading_finds_another_spoilt_source_is_left_at_last() -> None:
    bucket = one_group(12)
    store = Decaying(bucket)
    begun = noting(store, "CreateMultipartUpload")
    report = await night(bucket, store)
    assert (len(sources_in(bucket)), outputs_in(bucket), len(report.failures)) == (12, [], 3)
    assert len(begun) == 3
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_concurrent_change_at_every_try_is_reported_and_costs_nothing() -> None:
    bucket = one_group(5)
    store = failing(MemoryStore(bucket), "CompleteMultipartUpload", Conflict, 9)
    begun = noting(store, "CreateMultipartUpload")
    report = await night(bucket, store)
    assert report.exit_code != 0
    assert (len(sources_in(bucket)), outputs_in(bucket), len(begun)) == (5, [], 3)
    assert (bucket.uploads, unfinished(bucket), entries_in(bucket.objects)) == ({}, [], [])


class Refusing(MemoryStore):
    """Refuses every delete of a source."""

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        if targets[0][0].startswith("data/"):
            return [DeleteResult(key, Deleted.REFUSED, "AccessDenied", "") for key, _ in targets]
        return await super().delete_many(targets)


async def test_where_deletes_are_refused_a_group_is_not_joined_to_its_end() -> None:
    """Every further output would lie in the bucket beside its sources."""
    bucket = one_group(8)
    bucket.round_batches = 2
    await night(bucket, Refusing(bucket), max_files=2)
    assert (len(sources_in(bucket)), len(outputs_in(bucket))) == (8, 2)
    assert RECORD in bucket.objects


async def test_no_output_is_made_that_another_runs_record_does_not_name() -> None:
    """Another run takes the group over between two rounds, where records stay."""
    bucket = one_group(8)
    bucket.round_batches = 2
    store, creates = MemoryStore(bucket), 0

    async def before(request: Request) -> None:
        nonlocal creates
        creates += request.operation == "CreateMultipartUpload" and request.key[:5] == "data/"
        if creates == 3 and request.operation == "CreateMultipartUpload":
            rewrite(bucket, RECORD, b"another run's")

    store.before = before
    report = await night(bucket, store, max_files=2, delete=False)
    assert report.sources.left["leased"] == 4
    assert bucket.objects[RECORD].data == b"another run's"
    assert (len(outputs_in(bucket)), bucket.uploads) == (2, {})


class Repeating(MemoryStore):
    """Its answer to the first creation is lost, and the client has repeated the request."""

    async def create_upload(self, key: str, **more: Any) -> CreatedUpload:
        created = await super().create_upload(key, **more)
        if not key.startswith("data/"):
            return created
        again = await super().create_upload(key, **more)
        return CreatedUpload(again.upload_id, repeated=True)


async def test_an_upload_that_a_repeated_creation_left_does_not_stay() -> None:
    bucket = one_group(5)
    assert (await night(bucket, Repeating(bucket))).exit_code == 0
    await night(bucket)
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_run_whose_lease_ended_between_two_rounds_begins_no_upload() -> None:
    bucket = one_group(8)
    bucket.round_batches = 2
    now = 0.0

    def end_lease() -> None:
        nonlocal now
        now += 1000

    store = at(MemoryStore(bucket), "DeleteObject", RECORD, end_lease, after=True)
    begun = noting(store, "CreateMultipartUpload")
    report = await new_run(store, settings(max_files=2), clock=lambda: now).coalesce()
    assert report.exit_code == ExitCode.TRANSIENT
    assert (len(begun), len(sources_in(bucket))) == (2, 4)


class Shortening(MemoryStore):
    """For once HEAD says that outputs are shorter than they are."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        if head is None or "coalesce-plan" not in head.metadata:
            return head
        return Head(key, head.size - 1, head.etag, head.metadata, head.attributes, {})


async def test_an_output_that_was_doubted_once_costs_no_source_later_either() -> None:
    bucket = one_group(5)
    assert (await night(bucket, Shortening(bucket))).exit_code == ExitCode.INTEGRITY
    assert (await night(bucket)).exit_code == ExitCode.INTEGRITY
    assert len(sources_in(bucket)) == 5
    assert RECORD in bucket.objects


# --- records


def group_record(run_id: str) -> PlanRecord:
    return PlanRecord(run_id, "corporate", GroupId("data/", "db.core.topic", 0), ())


async def test_where_no_condition_is_known_a_record_that_others_replaced_stays() -> None:
    bucket = MemoryBucket()
    store = MemoryStore(bucket)
    held = await HeldRecord.create(store, "_coalesce/", group_record("ours"))
    bucket.store(held.key, b"theirs")
    await held.remove(KEEPS_NOTHING, "ours", NoLease())
    assert bucket.objects[held.key].data == b"theirs"


async def test_a_living_record_is_not_cleared_away_as_a_tombstone() -> None:
    bucket = MemoryBucket()
    store = MemoryStore(bucket)
    held = await HeldRecord.create(store, "_coalesce/", group_record("theirs"))
    before = dict(bucket.objects)
    await remove_tombstone(store, held.key, nobody, "ours", NoLease())
    assert bucket.objects == before


# --- the ledger


async def test_no_output_is_made_whose_ledger_entry_is_somebody_elses() -> None:
    """It says of another output what that is made of."""
    bucket = one_group(5)
    theirs: list[str] = []

    def write() -> None:
        (upload_id,) = bucket.uploads
        theirs.append(entry_key("_coalesce/", output_of(5), upload_id))
        with bucket.audit.others():
            bucket.store(theirs[0], b"theirs")

    report = await night(bucket, at(MemoryStore(bucket), "UploadPart", "data/", write))
    assert report.exit_code != 0
    assert bucket.objects[theirs[0]].data == b"theirs"
    assert (len(sources_in(bucket)), outputs_in(bucket)) == (5, [])


async def test_a_run_whose_lease_ended_while_it_sent_writes_no_ledger_entry() -> None:
    bucket = one_group(5)
    now = 0.0

    def end_lease() -> None:
        nonlocal now
        now += 1000

    store = at(MemoryStore(bucket), "UploadPart", "data/", end_lease, after=True)
    report = await new_run(store, settings(), clock=lambda: now).coalesce()
    assert report.exit_code == ExitCode.TRANSIENT
    assert entries_in(bucket.objects) == []
    assert len(sources_in(bucket)) == 5


async def test_where_no_ledger_is_kept_an_entry_that_others_replaced_stays() -> None:
    bucket = one_group(5)

    def replace() -> None:
        (entry,) = filter(is_entry, bucket.objects)
        rewrite(bucket, entry, b"theirs")

    store = at(MemoryStore(bucket), "HeadObject", "_coalesce/ledger/", replace, after=True)
    await night(bucket, store, ledger=False)
    assert [bucket.objects[key].data for key in filter(is_entry, bucket.objects)] == [b"theirs"]


@pytest.mark.parametrize("ignores", ["", "full-object-checksum"])
async def test_a_sound_output_is_proven_by_whatever_sum_the_store_keeps(ignores: str) -> None:
    bucket = one_group(5, ignores)
    store = MemoryStore(bucket)
    read = noting(store, "GetObject")
    assert (await night(bucket, store)).exit_code == 0
    assert (sources_in(bucket), outputs_in(bucket)) == ([], [output_of(5)])
    assert output_of(5) not in read


# --- Complete


class Silent(MemoryStore):
    """HEAD shows no sum, as for SSE-KMS."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        return head and Head(key, head.size, head.etag, head.metadata, head.attributes, {})


async def test_what_a_repeated_complete_says_is_no_proof_where_no_sum_is_shown() -> None:
    """The first Complete got no answer: what the second one found may be the first one's."""
    bucket = one_group(5)
    output = output_of(5)

    def spoil() -> None:
        rewrite(bucket, output, b"x" * len(bucket.objects[output].data))

    store = failing(Silent(bucket), "CompleteMultipartUpload", Unavailable, 1)
    report = await night(bucket, at(store, "CompleteMultipartUpload", output, spoil, after=True))
    assert report.exit_code == ExitCode.INTEGRITY
    assert len(sources_in(bucket)) == 5
