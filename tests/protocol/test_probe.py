"""The probe counts only what is proven: silence is neither a guarantee nor the lack of one."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from coalesce import errors
from coalesce.protocol.probe import probe
from coalesce.protocol.rights import missing_right
from coalesce.report.report import Report
from coalesce.storage.base import Body, Deleted, DeleteResult, Head
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import check_finished, contents, data_in, filled
from support.nights import at, night, one_group, output_of, sources_in
from support.runs import NoLease, new_run
from support.scenarios import is_entry
from support.schedules import SEEDS, Tally
from support.settings import settings

GUARANTEES = [field.name for field in fields(Capabilities) if field.name != "checksum"]
NEEDED = {
    "create_only_put",
    "conditional_put",
    "create_only_complete",
    "fence",
    "upload_metadata",
}
DELETES = {"conditional_delete", "conditional_delete_many"}  # one of them is needed
STRENGTH = [Checksum.NONE, Checksum.CRC32, Checksum.CRC64NVME]

# What a store lacks that ignores one condition.
LACKING: dict[str, set[str]] = {
    "": set(),
    "put-if-none-match": {"create_only_put"},
    "put-if-match": {"conditional_put"},
    "get-if-match": {"conditional_get"},
    "complete-if-none-match": {"create_only_complete"},
    "delete-if-match": {"conditional_delete"},
    "delete-many-etag": {"conditional_delete_many"},
    "delete-if-match delete-many-etag": {"conditional_delete", "conditional_delete_many"},
    "copy-if-match": {"copy_condition"},
    "abort": {"fence"},
    "upload-metadata": {"upload_metadata"},
    "checksum": set(),
    "full-object-checksum": set(),
}
CHECKSUMS = {"checksum": Checksum.NONE, "full-object-checksum": Checksum.CRC32}


def truth(ignores: str) -> tuple[set[str], Checksum]:
    return LACKING[ignores], CHECKSUMS.get(ignores, Checksum.CRC64NVME)


def seen(capabilities: Capabilities) -> tuple[set[str], Checksum]:
    lacking = {name for name in GUARANTEES if not getattr(capabilities, name)}
    return lacking, capabilities.checksum


def store_that_ignores(conditions: str) -> MemoryStore:
    return MemoryStore(MemoryBucket(ignores=frozenset(conditions.split())))


async def requests_of_the_probe(ignores: str) -> list[Request]:
    store = store_that_ignores(ignores)
    sent: list[Request] = []

    async def before(request: Request) -> None:
        sent.append(request)

    store.before = before
    assert seen(await probe(store, "probe/", NoLease())) == truth(ignores)
    return sent


@pytest.mark.parametrize("ignores", LACKING)
@pytest.mark.parametrize("answered", [False, True], ids=["without effect", "the answer lost"])
async def test_one_unanswered_request_changes_nothing_of_what_is_seen(
    ignores: str, answered: bool, tally: Tally
) -> None:
    """At any request: never a guarantee that the store lacks, never a lack of one that it keeps."""
    tried = await requests_of_the_probe(ignores)
    tally("unanswered requests of the probe", len(tried))
    for request in tried:
        store = store_that_ignores(ignores)

        async def fail(sent: Request, number: int = request.number) -> None:
            if sent.number == number:
                raise errors.Unavailable("no answer", key=sent.key, operation=sent.operation)

        if answered:
            store.after = fail
        else:
            store.before = fail
        context = f"no answer to request {request.number}: {request.operation} {request.key}"
        assert seen(await probe(store, "probe/", NoLease())) == truth(ignores), context


@pytest.mark.parametrize("ignores", LACKING)
async def test_however_many_requests_go_unanswered_nothing_is_taken_for_more_or_less_than_it_is(
    ignores: str, tally: Tally
) -> None:
    """Either the probe sees what the store keeps, or it says that it cannot tell; what a run can do
    without it may do without.
    """
    tally("unanswered requests of the probe", SEEDS)
    lacking, strongest = truth(ignores)
    for seed in range(SEEDS):
        chance = random.Random(f"{ignores} {seed}")
        share = chance.choice([0.02, 0.05, 0.1, 0.2, 0.4])
        store = store_that_ignores(ignores)

        async def fail(sent: Request, chance: random.Random = chance, share: float = share) -> None:
            if chance.random() < share:
                raise errors.Unavailable("no answer", key=sent.key, operation=sent.operation)

        store.before = store.after = fail
        try:
            found, checksum = seen(await probe(store, "probe/", NoLease()))
        except errors.Unavailable:
            continue
        assert found >= lacking, seed
        assert found - lacking <= {name for name in GUARANTEES if name not in NEEDED}, seed
        assert STRENGTH.index(checksum) <= STRENGTH.index(strongest), seed
        if found >= DELETES:
            assert lacking >= DELETES, seed


FAULTS: list[type[errors.StorageError]] = [errors.Throttled, errors.StorageError]


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_failure_that_is_no_refusal_changes_nothing_of_what_is_seen(
    fault: type[errors.StorageError],
) -> None:
    for request in await requests_of_the_probe(""):
        store = store_that_ignores("")

        async def fail(sent: Request, number: int = request.number) -> None:
            if sent.number == number:
                raise fault("made up", key=sent.key, operation=sent.operation)

        store.before = fail
        context = f"{fault.__name__} at request {request.number}: {request.operation} {request.key}"
        assert seen(await probe(store, "probe/", NoLease())) == truth(""), context


class Flipping(MemoryStore):
    """One body of a GET, the first or a later one, comes otherwise than it lies there."""

    def __init__(self, bucket: MemoryBucket, number: int) -> None:
        super().__init__(bucket)
        self._until = number

    async def get(
        self, key: str, *, etag: str = "", start: int = 0, length: int | None = None
    ) -> Body:
        body = await super().get(key, etag=etag, start=start, length=length)
        self._until -= 1
        if self._until:
            return body
        return Body(bytes([body.data[0] ^ 1]) + body.data[1:], body.etag, body.checksum)


async def test_one_body_in_which_a_bit_flips_on_its_way_changes_nothing_of_what_is_seen() -> None:
    store = store_that_ignores("")
    await probe(store, "probe/", NoLease())
    for number in range(1, store.usage.requests["GetObject"] + 1):
        faulty = Flipping(MemoryBucket(), number)
        assert seen(await probe(faulty, "probe/", NoLease())) == truth(""), f"body {number}"


# --- as a user meets it: the run's exit code, and what it says


def failing(
    bucket: MemoryBucket, operation: str, kind: type[errors.StorageError], where: str = "/probe/"
) -> MemoryStore:
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == operation and where in request.key:
            raise kind("made up", key=request.key, operation=request.operation)

    store.before = before
    return store


def text_of(report: Report) -> str:
    return " ".join(f"{failure.message} {failure.hint}" for failure in report.failures)


async def test_a_delete_without_an_answer_is_not_taken_for_a_conditional_one() -> None:
    """The store ignores the conditions of deletes. One DELETE of the probe gets no answer; the run
    must not believe that its condition was kept, and delete what a producer has just written.
    """
    tried = [
        request
        for request in await requests_of_the_probe("delete-if-match delete-many-etag")
        if request.operation in ("DeleteObject", "DeleteObjects")
    ]
    for nth in range(len(tried)):
        bucket = one_group(5, "delete-if-match delete-many-etag")
        store, met = MemoryStore(bucket), 0

        async def before(request: Request, nth: int = nth) -> None:
            nonlocal met
            if request.operation.startswith("DeleteObject") and "/probe/" in request.key:
                met += 1
                if met == nth + 1:
                    raise errors.Unavailable("no answer", key=request.key)

        store.before = before
        report = await night(bucket, store)
        assert report.exit_code == 10, nth
        assert "--accept-weaker delete-race" in text_of(report)
        assert len(sources_in(bucket)) == 5


ACTIONS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
}


@pytest.mark.parametrize("operation", ACTIONS)
async def test_a_missing_right_is_named_and_is_no_weakness_of_the_store(operation: str) -> None:
    bucket = one_group(5)
    before = {key for key in contents(bucket) if key.startswith("data/")}
    report = await night(bucket, failing(bucket, operation, errors.AccessDenied))
    assert report.exit_code == 10
    assert f"Grant {ACTIONS[operation]} " in text_of(report)
    assert "--accept-weaker" not in text_of(report)
    assert set(sources_in(bucket)) == before


class KeepsProbeObjects(MemoryStore):
    """The role may delete nothing under the state prefix."""

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if "/probe/" in key:
            return DeleteResult(key, Deleted.REFUSED, "AccessDenied", "not allowed")
        return await super().delete(key, etag=etag)

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        if "/probe/" in targets[0][0]:
            return [DeleteResult(key, Deleted.REFUSED, "AccessDenied", "no") for key, _ in targets]
        return await super().delete_many(targets)


async def test_a_missing_right_to_delete_is_named() -> None:
    bucket = one_group(5)
    report = await night(bucket, KeepsProbeObjects(bucket))
    assert report.exit_code == 10
    assert "Grant s3:DeleteObject " in text_of(report)
    assert "--accept-weaker" not in text_of(report)
    assert len(sources_in(bucket)) == 5


@pytest.mark.parametrize(
    "said", ["403 AccessDenied", "403 (needs s3:PutObject on arn:aws:s3:::b/k)"]
)
def test_a_missing_right_is_named_once(said: str) -> None:
    """By the refusal, if that names it."""
    refusal = errors.AccessDenied(said, key="k", operation="PutObject")
    failure = missing_right(refusal)
    assert f"{failure.message} {failure.hint}".count("s3:PutObject") == 1
    assert (failure.key, failure.operation) == ("k", "PutObject")


async def test_a_missing_right_to_write_the_state_is_named() -> None:
    """The lease is written before anything is probed."""
    bucket = one_group(5)
    report = await night(
        bucket, failing(bucket, "PutObject", errors.AccessDenied, where="_coalesce/")
    )
    assert report.exit_code == 10
    assert "s3:PutObject" in text_of(report)
    assert "--accept-weaker" not in text_of(report)


@dataclass
class Unknowing(MemoryStore):
    """A store that answers 501 to a PUT with one of these conditions."""

    bucket: MemoryBucket
    unknown: set[str]

    def __post_init__(self) -> None:
        super().__init__(self.bucket)

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_none_match: bool = False,
        if_match: str = "",
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        sent = {"If-None-Match"} if if_none_match else {"If-Match"} if if_match else set()
        if sent & self.unknown:
            raise errors.NotImplementedByStore("501", key=key, operation="PutObject")
        return await super().put(
            key,
            body,
            if_none_match=if_none_match,
            if_match=if_match,
            content_type=content_type,
            metadata=metadata,
        )


@pytest.mark.parametrize("accepted", [[], ["no-exclusion"]])
@pytest.mark.parametrize(
    ("unknown", "guarantee"),
    [
        ({"If-None-Match", "If-Match"}, "create-only writes (If-None-Match on PutObject)"),
        ({"If-Match"}, "conditional replacement (If-Match on PutObject)"),
    ],
)
async def test_a_store_that_does_not_know_conditional_writes_is_refused_before_it_is_probed(
    unknown: set[str], guarantee: str, accepted: list[str]
) -> None:
    """No mode is offered for it: no run could keep its lease there."""
    bucket = one_group(5)
    before = contents(bucket)
    store, probed = Unknowing(bucket, unknown), []

    async def look(request: Request) -> None:
        probed.extend([request.key] if "/probe/" in request.key else [])

    store.before = look
    report = await night(bucket, store, accept_weaker=accepted)
    assert report.exit_code == 10
    assert [failure.code for failure in report.failures] == ["StoreRefused"]
    assert guarantee in text_of(report)
    assert "--accept-weaker" not in text_of(report)
    assert (contents(bucket), probed) == (before, [])


class NoCreateOnlyComplete(MemoryStore):
    """A store that answers 501 to a Complete with a condition."""

    async def complete_upload(self, *arguments: Any, **more: Any) -> None:
        if more.get("create_only", True):
            raise errors.NotImplementedByStore("501", operation="CompleteMultipartUpload")
        await super().complete_upload(*arguments, **more)


async def test_a_store_that_does_not_know_a_conditional_complete_is_refused_by_its_name() -> None:
    bucket = one_group(5)
    report = await night(bucket, NoCreateOnlyComplete(bucket))
    assert report.exit_code == 10
    assert "create-only outputs (If-None-Match on CompleteMultipartUpload)" in text_of(report)
    assert "--accept-weaker overwrite-race" in text_of(report)
    assert len(sources_in(bucket)) == 5


class NoAbort(MemoryStore):
    """A store that answers 405 to AbortMultipartUpload, as s3rver does."""

    async def abort_upload(self, key: str, upload_id: str) -> None:
        raise errors.NotImplementedByStore("405", key=key, operation="AbortMultipartUpload")


async def test_a_store_that_cannot_abort_an_upload_is_refused_by_name() -> None:
    bucket = one_group(5)
    before = data_in(contents(bucket))
    report = await night(bucket, NoAbort(bucket))
    assert report.exit_code == 10
    assert "--accept-weaker no-exclusion" in text_of(report)
    assert data_in(contents(bucket)) == before


async def test_a_run_that_accepts_a_complete_without_a_condition_sends_none() -> None:
    """It looks at the name instead, and overwrites nothing that it finds there."""
    bucket = one_group(5)
    store = NoCreateOnlyComplete(bucket)
    report = await night(bucket, store, accept_weaker=["overwrite-race"])
    assert (report.exit_code, report.store.mode) == (0, "overwrite-race"), report.failures
    assert [key for key in bucket.objects if not is_entry(key)] == [output_of(5)]
    bucket.audit.check_quiet()

    bucket = one_group(5)
    store = NoCreateOnlyComplete(bucket)

    def take() -> None:
        with bucket.audit.others():
            bucket.store(output_of(5), b"another's")

    at(store, "UploadPart", "data/", take)
    report = await night(bucket, store, accept_weaker=["overwrite-race"])
    assert (report.exit_code, bucket.objects[output_of(5)].data) == (1, b"another's")
    assert len(sources_in(bucket)) == 5
    bucket.audit.check()


OPERATIONS = [
    "PutObject",
    "GetObject",
    "HeadObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "DeleteObject",
    "DeleteObjects",
]

# What a run can do without: server-side copies, and either way to delete if it has the other.
DISPENSABLE = {"UploadPartCopy", "DeleteObject", "DeleteObjects"}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", [errors.Unavailable, errors.Throttled])
async def test_trouble_at_every_request_of_one_kind_is_75_and_never_a_weakness_of_the_store(
    operation: str, kind: type[errors.StorageError]
) -> None:
    bucket = one_group(5)
    report = await night(bucket, failing(bucket, operation, kind))
    assert report.exit_code == (0 if operation in DISPENSABLE else 75), report.failures
    assert "--accept-weaker" not in text_of(report)
    assert len(sources_in(bucket)) == (0 if operation in DISPENSABLE else 5)
    bucket.audit.check()


async def test_trouble_at_every_delete_is_75_and_never_a_weakness_of_the_store() -> None:
    bucket = one_group(5)
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation.startswith("DeleteObject") and "/probe/" in request.key:
            raise errors.Unavailable("made up", key=request.key, operation=request.operation)

    store.before = before
    report = await night(bucket, store)
    assert report.exit_code == 75
    assert "--accept-weaker" not in text_of(report)
    assert len(sources_in(bucket)) == 5


@pytest.mark.parametrize("where", ["/probe/", "_coalesce/", ""])
async def test_trouble_at_every_request_is_75(where: str) -> None:
    bucket = one_group(5)
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if where in request.key:
            raise errors.Unavailable("made up", key=request.key, operation=request.operation)

    store.before = before
    report = await night(bucket, store)
    assert report.exit_code == 75
    assert "--accept-weaker" not in text_of(report)
    assert len(sources_in(bucket)) == 5


# --- metadata of uploads: without it no output is ever recognised


async def test_a_store_that_drops_the_metadata_of_uploads_is_refused_and_nothing_is_touched() -> (
    None
):
    """It would get one more copy of everything each night."""
    bucket = one_group(5, ignores="upload-metadata")
    before = contents(bucket)
    weaker = ["delete-race", "overwrite-race", "no-exclusion"]
    for accepted in ([], weaker):
        report = await night(bucket, accept_weaker=accepted)
        assert report.exit_code == 10
        assert [failure.code for failure in report.failures] == ["StoreRefused"]
        assert "metadata" in text_of(report)
        assert "--accept-weaker" not in text_of(report)
        assert contents(bucket) == before
        assert bucket.uploads == {}


async def test_what_one_try_leaves_behind_does_not_mislead_the_next() -> None:
    """A write of the first try goes unanswered, and its objects cannot be removed."""
    store = store_that_ignores("")
    lost = False

    async def before(sent: Request) -> None:
        if sent.operation == "DeleteObject" and "/create_only_put" in sent.key:
            raise errors.Unavailable("no answer", key=sent.key)

    async def after(sent: Request) -> None:
        nonlocal lost
        if not lost and sent.operation == "PutObject" and sent.key.endswith("/race"):
            lost = True
            raise errors.Unavailable("no answer", key=sent.key)

    store.before, store.after = before, after
    assert seen(await probe(store, "probe/", NoLease())) == truth("")


class RefusingOnce(MemoryStore):
    """Refuses its first conditional delete for a reason that has nothing to do with it."""

    refused = False

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if etag and not self.refused:
            self.refused = True
            return DeleteResult(key, Deleted.REFUSED, "InternalError", "made up")
        return await super().delete(key, etag=etag)


async def test_a_delete_that_is_refused_for_another_reason_is_no_condition_kept() -> None:
    store = RefusingOnce(MemoryBucket(ignores=frozenset({"delete-if-match"})))
    assert seen(await probe(store, "probe/", NoLease())) == truth("delete-if-match")


class Unshown(MemoryStore):
    """Checks the sums of parts, and shows none."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        return head and replace(head, checksum={})


async def test_sums_of_parts_that_are_not_shown_afterwards_are_not_relied_on() -> None:
    store = Unshown(MemoryBucket(ignores=frozenset({"full-object-checksum"})))
    assert (await probe(store, "probe/", NoLease())).checksum is Checksum.NONE


# --- requests of the probe that are still under way


async def pause(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_a_racer_that_is_late_leaves_nothing_behind() -> None:
    """One of several PUTs goes unanswered while the others are under way: all of them have landed
    before what they tried is removed.
    """
    bucket, met = filled(), 0
    store = MemoryStore(bucket)

    async def before(seen: Request) -> None:
        nonlocal met
        if seen.key.endswith("/create_only_put-1/race") and seen.operation == "PutObject":
            met += 1
            if met == 1:
                raise errors.Unavailable("made up", key=seen.key, operation=seen.operation)
            await pause(200)

    store.before = before
    report = await new_run(store, settings()).coalesce()
    await pause(300)
    assert (met, report.exit_code) == (5, 0)
    check_finished(bucket.objects)


async def test_when_the_probe_fails_none_of_its_requests_comes_after_the_run() -> None:
    bucket = filled()
    store = MemoryStore(bucket)

    async def before(seen: Request) -> None:
        if "/conditional_put-" in seen.key:
            raise errors.AccessDenied("made up", key=seen.key, operation=seen.operation)
        await pause(20 * ("/probe/" in seen.key))

    store.before = before
    report = await new_run(store, settings()).coalesce()
    sent = store.usage.requests.total()
    await pause(1000)
    assert report.exit_code == 10
    assert store.usage.requests.total() == sent


async def test_a_run_whose_trials_another_run_has_swept_away_accuses_the_store_of_nothing() -> None:
    """It stood still for longer than its lease, between the two PUTs of which the second has to be
    refused: now that the first is gone, it is not.
    """
    bucket, now = filled(), 0.0
    store, stands, thaw = MemoryStore(bucket), asyncio.Event(), asyncio.Event()

    async def after(seen: Request) -> None:
        if seen.key.endswith("/create_only_put-1/put"):
            stands.set()
            await thaw.wait()

    store.after = after
    sleeper = asyncio.create_task(new_run(store, settings(), clock=lambda: now).coalesce())
    await stands.wait()
    assert (await night(bucket)).exit_code == 0
    now += 1000
    thaw.set()
    report = await sleeper
    assert report.exit_code == 75
    assert "--accept-weaker" not in text_of(report)
