"""The demonstration's proof notices whatever a run should not have left behind."""

from collections.abc import Callable

import pytest

from coalesce.demo.proof import find_leftovers
from coalesce.run.pipeline import Run
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import filled
from support.settings import settings


async def bucket_after_a_run() -> tuple[MemoryBucket, str, str]:
    """A bucket, the key of one of its outputs, and that of its ledger entry."""
    bucket = filled(2)
    await Run(MemoryStore(bucket), settings()).coalesce()
    output = "data/t_1_0_3.jsonl.gz"
    (entry,) = (key for key in bucket.objects if output in key and key != output)
    return bucket, output, entry


async def leftovers_of(bucket: MemoryBucket) -> list[str]:
    return await find_leftovers(MemoryStore(bucket), "data/", "_coalesce/", "corporate")


async def test_after_a_run_there_is_nothing_but_outputs_and_a_ledger_entry_for_each() -> None:
    bucket, _, _ = await bucket_after_a_run()
    assert await leftovers_of(bucket) == []


Harm = Callable[[MemoryBucket, str, str], object]
HARMS: dict[str, tuple[Harm, str]] = {
    "a plan record": (
        lambda bucket, *_: bucket.store("_coalesce/groups/data/t_0", b""),
        "the run left '_coalesce/groups/data/t_0' behind",
    ),
    "an output without an entry": (
        lambda bucket, _, entry: bucket.remove(entry),
        "2 outputs have 1 ledger entries, not one each",
    ),
    "an entry without an output": (
        lambda bucket, output, _: bucket.remove(output),
        "1 outputs have 2 ledger entries, not one each",
    ),
    "two entries of one output": (
        lambda bucket, output, _: bucket.store(
            f"_coalesce/ledger/{output}.0123456789abcdef.jsonl.gz", b""
        ),
        "2 outputs have 3 ledger entries, not one each",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_what_a_run_should_not_have_left_is_named(harm: str) -> None:
    bucket, output, entry = await bucket_after_a_run()
    act, said = HARMS[harm]
    act(bucket, output, entry)
    assert await leftovers_of(bucket) == [said]


async def test_an_open_upload_is_named() -> None:
    bucket, output, _ = await bucket_after_a_run()
    await MemoryStore(bucket).create_upload(output, checksum=Checksum.NONE, metadata={})
    assert await leftovers_of(bucket) == [f"the run left an upload of {output!r} open"]
