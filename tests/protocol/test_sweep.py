"""What an ended run left outside of any record."""

from coalesce.errors import AccessDenied
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.state import lease_key
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryStore, Request
from support.runs import new_run
from support.scenarios import prepared, unfinished


async def test_an_upload_that_a_dead_run_has_just_begun_is_swept_by_the_next_run() -> None:
    bucket, settings = prepared("two groups of several outputs")
    store = MemoryStore(bucket)
    await new_run(store, settings).coalesce()
    await store.create_upload(
        "data/db.core.topic_0_0_29.jsonl.gz", checksum=Checksum.NONE, metadata={}
    )
    lease = LeaseRecord(run_id="dead", seconds=0, layout="corporate", prefixes=("data/",))
    bucket.store(lease_key("_coalesce/", "dead"), lease.model_dump_json().encode())
    await new_run(store, settings).coalesce()
    assert bucket.uploads == {}
    assert unfinished(bucket) == []


async def test_an_upload_of_the_probe_whose_abort_was_refused_is_swept_by_the_next_run() -> None:
    bucket, settings = prepared("two groups of several outputs")
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "AbortMultipartUpload" and request.key.endswith(
            "/create_only_complete-1/race"
        ):
            raise AccessDenied("made up", key=request.key)

    store.before = before
    assert (await new_run(store, settings).coalesce()).exit_code == 0
    assert bucket.uploads
    bucket.now += 1000
    assert (await new_run(MemoryStore(bucket), settings).coalesce()).exit_code == 0
    assert bucket.uploads == {}
    assert unfinished(bucket) == []
