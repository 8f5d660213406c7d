"""What dead runs left, where one more promise holds: what is doubted stays, limits and stops hold
there too, and what others are at is theirs.
"""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from coalesce.errors import LeaseLost, StorageError, Unavailable
from coalesce.exits import ExitCode
from coalesce.inspect.status import read_status
from coalesce.protocol.lease import Lease, LeaseRecord
from coalesce.protocol.state import lease_key
from coalesce.storage.base import Head
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.nights import RECORD, at, dead_run, night, one_group, output_of, rewrite, sources_in
from support.runs import new_run
from support.scenarios import AuditedBucket, is_entry, unfinished
from support.settings import settings
from support.timeless import Timeless

SECOND = "data/db.core.topic_0_20_39.jsonl.gz"


async def kept_sources(sources: int = 4, **more: object) -> AuditedBucket:
    """Outputs of two sources each are there, and so are their sources and the record."""
    bucket = one_group(sources)
    assert (await night(bucket, max_files=2, delete=False, **more)).exit_code == 0
    return bucket


def leave_lease(bucket: MemoryBucket, run_id: str, seconds: float) -> None:
    lease = LeaseRecord(run_id=run_id, seconds=seconds, layout="corporate", prefixes=("data/",))
    bucket.store(lease_key("_coalesce/", run_id), lease.model_dump_json().encode())


# --- outputs of dead runs


class Longer(MemoryStore):
    """Says of the output that it is longer than it is."""

    async def head(self, key: str) -> Head | None:
        head = await super().head(key)
        return replace(head, size=head.size + 1) if head and key == output_of(4) else head


async def test_an_output_that_its_own_run_doubted_costs_no_source_on_a_later_night() -> None:
    """Even if it looks right then: somebody has to look."""
    bucket = one_group(4)
    assert (await night(bucket, Longer(bucket))).exit_code == ExitCode.INTEGRITY
    assert (await read_status(MemoryStore(bucket), settings())).leftovers == 0
    assert (await night(bucket)).exit_code == ExitCode.INTEGRITY
    assert len(sources_in(bucket)) == 4
    assert RECORD in bucket.objects


async def test_another_plans_output_under_the_recorded_name_keeps_no_group_from_its_turn() -> None:
    bucket = one_group(4)
    await dead_run(bucket, "PutObject", RECORD)
    with bucket.audit.others():
        bucket.store(output_of(4), gzip.compress(b"theirs\n"), {"coalesce-plan": "another"})
    report = await night(bucket)
    assert (report.exit_code, report.failures) == (0, [])
    assert (unfinished(bucket), bucket.uploads) == ([], {})
    bucket.audit.check()


async def test_a_damaged_ledger_entry_keeps_no_other_output_of_its_record_from_its_turn() -> None:
    bucket = await kept_sources()
    (entry,) = [key for key in bucket.objects if is_entry(key) and output_of(2) in key]
    rewrite(bucket, entry, b"damaged")
    report = await night(bucket)
    assert (report.exit_code, report.outputs.recovered) == (ExitCode.INTEGRITY, 1)
    assert [key.split("_")[2] for key in sources_in(bucket)] == ["0-9.jsonl.gz", "10-19.jsonl.gz"]
    assert RECORD in bucket.objects


async def test_no_more_sources_are_deleted_for_dead_runs_than_the_limit_allows() -> None:
    bucket = await kept_sources()
    report = await night(bucket, max_delete=2)
    assert (report.exit_code, report.recovered.sources_deleted) == (ExitCode.LIMIT, 2)
    assert len(sources_in(bucket)) == 2
    assert RECORD in bucket.objects
    assert (await night(bucket)).exit_code == 0
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


async def test_a_run_that_is_told_to_stop_settles_no_further_output_of_a_dead_run() -> None:
    bucket = await kept_sources(8)
    store = MemoryStore(bucket)
    run = new_run(store, settings())
    at(store, "DeleteObjects", "data/", lambda: run.interrupt(ExitCode.TERMINATED))
    bucket.now += 1000
    report = await run.coalesce()
    assert (report.exit_code, len(sources_in(bucket))) == (ExitCode.TERMINATED, 6)
    assert (await night(bucket)).exit_code == 0
    bucket.audit.check_quiet()


async def test_a_run_that_is_told_to_stop_looks_at_no_record_of_a_dead_run() -> None:
    bucket = await kept_sources()
    store = MemoryStore(bucket)
    run = new_run(store, settings())
    read: list[str] = []

    async def before(request: Request) -> None:
        if request.operation == "PutObject" and request.key.startswith("_coalesce/runs/"):
            run.interrupt(ExitCode.TERMINATED)
        if request.operation == "GetObject" and request.key.startswith("_coalesce/groups/"):
            read.append(request.key)

    store.before = before
    bucket.now += 1000
    assert (await run.coalesce()).exit_code == ExitCode.TERMINATED
    assert (read, len(sources_in(bucket))) == ([], 4)
    assert RECORD in bucket.objects


# --- sweeps


@pytest.mark.parametrize(
    "key",
    ["data/db.core.topic_0_90-99.jsonl.gz", "data/db.core.topic_0_0_db.core.other_1_11.txt"],
    ids=["a source", "an output of another layout"],
)
async def test_a_sweep_after_a_dead_run_leaves_uploads_that_it_cannot_have_begun(key: str) -> None:
    """A producer may write its sources in parts."""
    bucket = one_group(4)
    theirs = bucket.create_upload(key, Checksum.NONE, {})
    own = bucket.create_upload("data/db.core.topic_0_90_99.jsonl.gz", Checksum.NONE, {})
    leave_lease(bucket, "dead", 0)
    assert (await night(bucket)).exit_code == 0
    assert theirs in bucket.uploads
    assert own not in bucket.uploads


async def test_a_run_that_sweeps_after_itself_leaves_the_uploads_of_a_run_that_has_begun() -> None:
    """It was not told the id of an upload, so it looks for uploads at its end."""
    bucket = one_group(4)
    theirs: list[str] = []
    store = MemoryStore(bucket)

    async def after(request: Request) -> None:
        if request.operation == "CreateMultipartUpload" and request.key == output_of(4):
            leave_lease(bucket, "new", 60)
            new = "data/db.core.other_0_0_9.jsonl.gz"
            theirs.append(bucket.create_upload(new, Checksum.NONE, {}))
            raise Unavailable("made up", key=request.key)

    store.after = after
    assert (await night(bucket, store)).exit_code == ExitCode.TRANSIENT
    assert len(theirs) == 1
    assert theirs[0] in bucket.uploads


# --- leases


LEASE = lease_key("_coalesce/", "r")


def new_lease(store: MemoryStore, clock: Callable[[], float]) -> Lease:
    return Lease(store, "_coalesce/", LeaseRecord(run_id="r"), clock)


def test_a_lease_that_another_process_holds_by_the_same_name_is_not_taken_back() -> None:
    bucket = MemoryBucket()
    theirs = LeaseRecord(run_id="r", token="theirs").model_dump_json().encode()

    async def job(clock: Callable[[], float]) -> None:
        async with new_lease(MemoryStore(bucket), clock).hold() as lease:
            bucket.store(LEASE, theirs)
            await asyncio.sleep(40)
            assert bucket.objects[LEASE].data == theirs
            with pytest.raises(LeaseLost):
                lease.check()

    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        runner.run(job(runner.get_loop().time))


async def test_a_run_that_ends_with_an_error_leaves_a_lease_that_says_so() -> None:
    """It may have left uploads, which the next run then looks for."""
    bucket = MemoryBucket()
    with pytest.raises(StorageError):
        async with new_lease(MemoryStore(bucket), lambda: 0.0).hold():
            raise Unavailable("made up", key="data/")
    assert json.loads(bucket.objects[LEASE].data)["seconds"] == 0
