"""Whatever the store answers, at whichever request: nothing is lost or repeated, and the next run
finds its way.
"""

import gzip
from typing import Any

import pytest

from coalesce import errors
from coalesce.exits import ExitCode
from coalesce.storage.base import Body, Deleted, DeleteResult
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.runs import new_run
from support.scenarios import (
    check_settled,
    contents,
    corporate,
    is_entry,
    points,
    prepared,
    readable,
)
from support.settings import settings

FAULTS = [
    errors.Throttled,
    errors.Unavailable,
    errors.AccessDenied,
    errors.BadRequest,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.NotFound,
    errors.NoSuchUpload,
    errors.NotImplementedByStore,
    errors.ListingError,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("name", ["two groups of several outputs", "a spoilt source among others"])
async def test_one_refusal_at_any_request_costs_no_record(
    name: str, fault: type[errors.StorageError]
) -> None:
    """The request has no effect; its answer may make sense there or not."""
    for number, request in await points(name):
        bucket, settings = prepared(name)
        original = readable(contents(bucket))
        store = MemoryStore(bucket)

        async def before(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise fault("made up", key=seen.key, operation=seen.operation)

        store.before = before
        context = f"{fault.__name__} at request {number}: {request.operation} {request.key}"
        report = await new_run(store, settings).coalesce()
        assert report.exit_code in (0, 1, 4, 10, 11, 75), context
        assert not original - readable(contents(bucket)), context
        bucket.audit.check_counts(report, context)
        await check_settled(bucket, settings, original, context)


@pytest.mark.parametrize(
    "operation",
    [
        "ListObjectsV2",
        "GetObject",
        "UploadPart",
        "CompleteMultipartUpload",
        "HeadObject",
        "DeleteObjects",
        "PutObject",
    ],
)
@pytest.mark.parametrize("fault", [errors.Throttled, errors.AccessDenied])
async def test_an_operation_that_always_fails_costs_no_record(
    operation: str, fault: type[errors.StorageError]
) -> None:
    """From the moment the probe is over. What it had begun is settled by the first run that can."""
    bucket, settings = prepared("two groups of several outputs")
    original = readable(contents(bucket))
    store = MemoryStore(bucket)

    async def before(seen: Request) -> None:
        if seen.operation == operation and "/probe/" not in seen.key:
            raise fault("made up", key=seen.key, operation=seen.operation)

    store.before = before
    report = await new_run(store, settings).coalesce()
    expected = ExitCode.TRANSIENT
    if fault is errors.AccessDenied:  # what is missing is said before anything is committed, or not
        late = operation == "DeleteObjects"
        expected = ExitCode.FAILED if late else ExitCode.CONFIGURATION
    assert report.exit_code == expected, operation
    assert report.failures
    assert not original - readable(contents(bucket))
    await check_settled(bucket, settings, original, operation)


class Refusing(MemoryStore):
    """Deletes nothing of one key, and says so."""

    async def delete_many(self, targets):  # type: ignore[no-untyped-def]
        refused = [key for key, _ in targets if "_0_20-" in key]
        results = await super().delete_many(
            [target for target in targets if target[0] not in refused]
        )
        return [
            *results,
            *(DeleteResult(key, Deleted.REFUSED, "AccessDenied", "made up") for key in refused),
        ]


async def test_a_source_whose_delete_is_refused_is_reported_and_never_joined_again() -> None:
    bucket, settings = prepared("two groups of several outputs")
    original = readable(contents(bucket))
    for _ in range(2):
        report = await new_run(Refusing(bucket), settings).coalesce()
        assert (report.exit_code, report.sources.left["delete_refused"]) == (1, 1)
        bucket.now += 1000
    assert (readable(contents(bucket)) - original).total() == 1
    await check_settled(bucket, settings, original, "after the right was given")


class Flipping(MemoryStore):
    """One bit of one source's body changes on its way, as often as it is told."""

    times = 1

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        if "_0_20-" in key and self.times:
            self.times -= 1
            return Body(body.data[:-1] + bytes([body.data[-1] ^ 1]), body.etag, body.checksum)
        return body


async def test_a_bit_that_flips_on_the_way_is_read_again() -> None:
    bucket, settings = prepared("two groups of several outputs")
    original = readable(contents(bucket))
    assert (await new_run(Flipping(bucket), settings).coalesce()).exit_code == 0
    assert readable(contents(bucket)) == original


async def test_a_bit_that_flips_every_time_leaves_the_source_where_it_is() -> None:
    bucket, settings = prepared("two groups of several outputs")
    original = readable(contents(bucket))
    store = Flipping(bucket)
    store.times = 1000
    report = await new_run(store, settings).coalesce()
    assert (report.exit_code, report.sources.left["corrupt"]) == (4, 1)
    assert readable(contents(bucket)) == original


class Corrupting(MemoryStore):
    """Part of what is sent arrives otherwise, and the store's own sums are of what arrived."""

    async def upload_part(self, key, upload_id, number, pieces, *, checksum, value):  # type: ignore[no-untyped-def]
        spoilt = (
            [bytes([pieces[0][0] ^ 1]) + pieces[0][1:], *pieces[1:]]
            if "/probe/" not in key
            else pieces
        )
        return await super().upload_part(
            key, upload_id, number, spoilt, checksum=checksum, value=value
        )


async def test_bytes_that_change_on_the_way_to_the_store_never_become_an_output() -> None:
    bucket, settings = prepared("two groups of several outputs")
    before = contents(bucket)
    report = await new_run(Corrupting(bucket), settings).coalesce()
    assert report.exit_code == 1
    assert contents(bucket) == before
    assert bucket.uploads == {}


async def test_an_archived_source_stays_and_its_neighbours_are_joined() -> None:
    """It was archived after the listing: the listing itself would have left it alone."""
    bucket = MemoryBucket()
    corporate(bucket, groups=1, sources=5)
    key = "data/db.core.topic_0_20-29.jsonl.gz"
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "CreateMultipartUpload" and request.key.startswith("data/"):
            stored = bucket.objects[key]
            bucket.store(key, stored.data, etag=stored.etag, storage_class="GLACIER")

    store.before = before
    original = readable(contents(bucket))
    report = await new_run(store, settings()).coalesce()
    assert report.sources.left["archived"] == 1
    assert readable(contents(bucket)) == original
    assert key in bucket.objects


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not gzip at all",
        gzip.compress(b"a\n")[:-1],
        gzip.compress(b"a\n") + b"\0",
        gzip.compress(b"a\n") + b"junk",
    ],
    ids=["empty", "text", "cut short", "padded", "with junk"],
)
async def test_a_source_that_readers_would_stumble_over_is_never_joined(body: bytes) -> None:
    bucket = MemoryBucket()
    corporate(bucket, groups=1, sources=5)
    key = "data/db.core.topic_0_20-29.jsonl.gz"
    bucket.store(key, body)
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), settings()).coalesce()
    assert report.exit_code == (4 if body else 0)
    assert bucket.objects[key].data == body
    assert sorted(key for key in bucket.objects if not is_entry(key)) == sorted(
        ["data/db.core.topic_0_0_19.jsonl.gz", key, "data/db.core.topic_0_30_49.jsonl.gz"]
        if body
        else ["data/db.core.topic_0_0_49.jsonl.gz", key]
    )
