"""A store that keeps less is refused by name, or worked with in another way: never trusted."""

import asyncio
import gzip

import pytest

from coalesce.errors import BadRequest, Unavailable
from coalesce.protocol.probe import probe
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, filled, records_in
from support.runs import NoLease, new_run
from support.scenarios import is_entry
from support.settings import settings

REFUSED = {
    "put-if-none-match": "no-exclusion",
    "put-if-match": "no-exclusion",
    "abort": "no-exclusion",
    "complete-if-none-match": "overwrite-race",
    "delete-if-match delete-many-etag": "delete-race",
}
ACCEPTED = [
    "delete-if-match",
    "delete-many-etag",
    "get-if-match",
    "copy-if-match",
    "checksum",
    "copy-if-match checksum delete-many-etag",
]


def ignoring(ignores: str) -> MemoryBucket:
    """A group of six sources in a store that ignores these conditions."""
    return filled(count=6, ignores=frozenset(ignores.split()))


@pytest.mark.parametrize("ignores", REFUSED)
async def test_a_store_that_keeps_too_little_is_refused_with_the_mode_that_would_accept_it(
    ignores: str,
) -> None:
    bucket = ignoring(ignores)
    before = dict(bucket.objects)
    report = await new_run(MemoryStore(bucket), settings()).coalesce()
    assert report.exit_code == 10
    assert f"--accept-weaker {REFUSED[ignores]}" in report.failures[0].hint
    assert bucket.objects == before


@pytest.mark.parametrize("ignores", [*REFUSED, *ACCEPTED])
async def test_an_accepted_store_ends_with_every_record_once(ignores: str) -> None:
    bucket = ignoring(ignores)
    before = records_in(contents(bucket))
    modes = [mode for mode in (REFUSED.get(ignores),) if mode]
    report = await new_run(MemoryStore(bucket), settings(accept_weaker=modes)).coalesce()
    assert (report.exit_code, report.store.mode) == (0, modes[0] if modes else "full"), (
        report.failures
    )
    assert records_in(contents(bucket)) == before
    assert [key for key in bucket.objects if not is_entry(key)] == ["data/t_0_0_5.jsonl.gz"]


@pytest.mark.parametrize("ignores", ["delete-if-match delete-many-etag", *ACCEPTED])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("operation", ["GetObject", "CompleteMultipartUpload"])
async def test_a_source_that_changes_while_it_is_joined_stays_as_it_is(
    ignores: str, check: bool, operation: str
) -> None:
    """Of the same size, by another's hand, between the listing and the read, or between the read
    and the delete.
    """
    bucket = ignoring(ignores)
    original = contents(bucket)
    key = "data/t_0_3-3.jsonl.gz"
    changed = gzip.compress(b'{"group": 0, "n": X}\n', mtime=0)
    assert len(changed) == len(original[key])
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == operation and request.key.startswith("data/"):
            bucket.store(key, changed)

    store.before = before
    chosen = settings(accept_weaker=["delete-race"], check=check, min_age=1)
    await new_run(store, chosen).coalesce()
    assert bucket.objects[key].data == changed
    others = {name: body for name, body in original.items() if name != key}
    assert not records_in(others) - records_in(contents(bucket))


async def test_a_key_that_only_an_unconditional_delete_could_name_stays() -> None:
    """XML holds no control characters, and this store ignores the condition of a single DELETE: the
    source that changed would be gone.
    """
    bucket = ignoring("delete-if-match")
    odd = "data/\x01/t_0_{0}-{0}.jsonl.gz"
    for n in range(3):
        bucket.store(odd.format(n), gzip.compress(b"odd %d\n" % n))
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "DeleteObject" and request.key == odd.format(1):
            bucket.store(odd.format(1), gzip.compress(b"X\n"))

    store.before = before
    report = await new_run(store, settings()).coalesce()
    assert (report.exit_code, report.sources.left["delete_refused"]) == (1, 3)
    assert {odd.format(n) for n in range(3)} <= bucket.objects.keys()


@pytest.mark.parametrize(
    ("ignores", "checksum"), [("", Checksum.CRC64NVME), ("checksum", Checksum.NONE)]
)
async def test_an_output_that_is_not_what_was_sent_costs_no_source(
    ignores: str, checksum: Checksum
) -> None:
    """A bit flipped behind the store's own check, or on a store that has none: sources stay, exit
    code 4, and no later run trusts it.
    """
    bucket = ignoring(ignores)
    original = {key: stored.data for key, stored in bucket.objects.items()}
    store = MemoryStore(bucket)

    async def after(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            stored = bucket.objects[request.key]
            data = bytes([*stored.data[:-1], stored.data[-1] ^ 1])
            wrong = dict.fromkeys(stored.checksum, "AAAAAAAAAAA=")
            bucket.store(request.key, data, stored.metadata, etag=stored.etag, checksum=wrong)

    store.after = after
    report = await new_run(store, settings()).coalesce()
    assert report.store.capabilities["checksum"] == checksum.value
    for _ in range(2):
        assert report.exit_code == 4
        assert {key: bucket.objects[key].data for key in original} == original
        bucket.now += 1000
        report = await new_run(MemoryStore(bucket), settings()).coalesce()


async def test_a_store_that_ignores_a_condition_on_reading_is_named_and_never_believed() -> None:
    report = await new_run(MemoryStore(ignoring("get-if-match")), settings()).coalesce()
    assert (report.exit_code, report.store.capabilities["conditional_get"]) == (0, False)


class Objecting(MemoryStore):
    """Aborting an upload that was completed gets an answer that says neither that it is gone nor
    that it is none.
    """

    async def abort_upload(self, key: str, upload_id: str) -> None:
        if upload_id not in self.bucket.uploads:
            raise BadRequest(f"{key}: 405 MethodNotAllowed", key=key)
        await super().abort_upload(key, upload_id)


async def test_a_store_that_objects_to_the_abort_of_a_completed_upload_can_be_probed() -> None:
    bucket = ignoring("")
    report = await new_run(Objecting(bucket), settings()).coalesce()
    assert report.exit_code == 0, report.failures
    assert [key for key in bucket.objects if not is_entry(key)] == ["data/t_0_0_5.jsonl.gz"]


async def test_no_delete_is_under_way_any_more_when_a_run_has_ended() -> None:
    """One of several single deletes goes unanswered at once and always, the others take their
    time.
    """
    bucket = ignoring("delete-many-etag")
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "DeleteObject" and request.key.startswith("data/"):
            if request.key == "data/t_0_0-0.jsonl.gz":
                raise Unavailable("made up", key=request.key)
            for _ in range(100):
                await asyncio.sleep(0)

    store.before = before
    report = await new_run(store, settings()).coalesce()
    left = set(bucket.objects)
    for _ in range(500):
        await asyncio.sleep(0)
    assert report.exit_code == 75
    assert set(bucket.objects) == left


class Racy(MemoryStore):
    """Looks whether the key is free, and writes a moment later."""

    async def put(
        self, key, body, *, if_none_match=False, if_match="", content_type="", metadata=None
    ):
        free = key not in self.bucket.objects
        await asyncio.sleep(0)
        return await super().put(
            key,
            body,
            if_none_match=if_none_match and not free,
            if_match=if_match,
            content_type=content_type,
            metadata=metadata,
        )

    async def complete_upload(self, key, upload_id, parts, *, checksum, value="", create_only=True):  # type: ignore[no-untyped-def]
        free = key not in self.bucket.objects
        await asyncio.sleep(0)
        self.bucket.ignores = frozenset({"complete-if-none-match"} if free else ())
        await super().complete_upload(
            key, upload_id, parts, checksum=checksum, value=value, create_only=create_only
        )


async def test_a_store_that_keeps_conditions_only_in_sequence_is_refused() -> None:
    seen = await probe(Racy(ignoring("")), "probe/", NoLease())
    assert (seen.create_only_put, seen.create_only_complete) == (False, False)
