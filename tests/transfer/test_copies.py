"""What the store copies by itself was read and checked before, and is proven afterwards."""

import asyncio
import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.rules import ContentRules
from coalesce.errors import StorageError
from coalesce.model import Batch, Codec, Source, TransferredBatch, Why
from coalesce.planning.parts import PartSizes, lay_out
from coalesce.storage.checksums import Checksum, encode
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.transfer.limits import Capacity
from coalesce.transfer.stream import SourcesUnusable, transfer, window_bytes
from support.buckets import contents, records_in
from support.runs import new_run
from support.settings import settings

OUTPUT = "data/t_0_0_9.jsonl.gz"
SIZES = PartSizes(usual=200, least=100)
EMPTY = gzip.compress(b"", mtime=0)


def member(n: int, size: int, *, end: bytes = b"\n") -> bytes:
    """A member of about `size` bytes, which hold one record."""
    return gzip.compress(b"%d " % n + b"x" * size + end, 0, mtime=0)


BIG = [member(n, 500) for n in range(3)]


def stored(*bodies: bytes) -> MemoryStore:
    bucket = MemoryBucket(min_part_bytes=SIZES.least)
    for n, body in enumerate(bodies):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    return MemoryStore(bucket)


async def send(store: MemoryStore, *, copy: bool = True, check: bool = True) -> TransferredBatch:
    """Makes an output of all sources of the bucket."""
    sources = tuple(
        Source(key, len(found.data), found.etag, 0.0, "STANDARD", n, n)
        for n, (key, found) in enumerate(sorted(store.bucket.objects.items()))
    )
    batch = Batch(OUTPUT, sources, sum(source.size for source in sources), "")
    created = await store.create_upload(OUTPUT, checksum=Checksum.CRC64NVME, metadata={})
    async with asyncio.timeout(10):
        sent = await transfer(
            store,
            batch,
            lay_out(sources, SIZES, copy=copy, check=check),
            created.upload_id,
            rules=ContentRules(Codec.GZIP, check=check),
            sizes=SIZES,
            checksum=Checksum.CRC64NVME,
            capacity=Capacity.of(0, 2**20, lambda: 0),
            window=window_bytes(batch, 0, SIZES),
        )
    await store.complete_upload(
        OUTPUT,
        created.upload_id,
        sent.parts,
        checksum=Checksum.CRC64NVME,
        value=encode(sent.crc64),
    )
    return sent


def output_of(store: MemoryStore) -> bytes:
    return store.bucket.objects[OUTPUT].data


async def test_sources_too_large_for_one_get_are_read_once_and_copied_by_the_store() -> None:
    store = stored(*BIG)
    await send(store)
    assert output_of(store) == b"".join(BIG)
    assert store.usage.requests["UploadPartCopy"] == 3
    assert store.usage.requests["UploadPart"] == 0
    assert store.usage.bytes_in == sum(map(len, BIG))


async def test_small_sources_beside_them_are_sent() -> None:
    bodies = [member(0, 120), *BIG[:1], member(1, 20), *BIG[1:2], member(2, 150)]
    store = stored(*bodies)
    await send(store)
    assert output_of(store) == b"".join(bodies)
    assert store.usage.requests["UploadPartCopy"] == 2


async def test_a_newline_that_a_copied_source_lacks_follows_it() -> None:
    store = stored(member(0, 500, end=b""), member(1, 150), *BIG)
    await send(store)
    assert gzip.decompress(output_of(store)).count(b"\n") == 5
    assert store.usage.requests["UploadPartCopy"] > 0


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_source_with_an_empty_member_is_not_copied(place: int) -> None:
    bodies = [*BIG]
    bodies[place] = member(place, 250) + EMPTY + member(place, 250)
    store = stored(*bodies)
    await send(store)
    assert EMPTY not in output_of(store)
    assert gzip.decompress(output_of(store)).count(b"\n") == 4


async def test_a_spoilt_source_is_not_copied() -> None:
    spoilt = bytearray(BIG[1])
    spoilt[300] ^= 1
    store = stored(BIG[0], bytes(spoilt), BIG[2])
    with pytest.raises(SourcesUnusable) as caught:
        await send(store)
    assert [found.why for found in caught.value.sources] == [Why.CORRUPT]
    assert store.usage.requests["UploadPartCopy"] <= 1


@pytest.mark.parametrize("sent", range(25))
async def test_a_copy_that_begins_among_the_first_bytes_of_a_member_loses_none(sent: int) -> None:
    """Those that were sent before it inflate to nothing yet, and what was added to the source in
    front makes up for them in the size of the part.
    """
    front = member(0, 20, end=b"")
    first = SIZES.least - len(front) - sent
    shell = len(member(1, 0))
    large = member(1, first - shell) + member(2, 400)
    store = stored(front, large)
    await send(store)
    assert gzip.decompress(output_of(store)).count(b"\n") == 3
    assert output_of(store).endswith(large)


class CopiesSomethingElse(MemoryStore):
    async def copy_part(self, *arguments: Any, **more: Any) -> Any:
        other = "data/t_0_1-1.jsonl.gz"
        more |= {"source": other, "etag": self.bucket.objects[other].etag}
        return await super().copy_part(*arguments, **more)


async def test_an_output_into_which_the_store_has_copied_other_bytes_is_not_completed() -> None:
    store = stored(*BIG)
    other = CopiesSomethingElse(store.bucket)
    with pytest.raises(StorageError):
        await send(other)
    assert OUTPUT not in store.bucket.objects


BODIES = st.lists(
    st.lists(
        st.one_of(
            st.just(EMPTY),
            st.builds(member, st.integers(0, 9), st.integers(0, 700)),
            st.builds(lambda n: member(n, 90, end=b""), st.integers(0, 9)),
        ),
        min_size=1,
        max_size=4,
    ).map(b"".join),
    min_size=1,
    max_size=8,
)


@given(BODIES)
def test_whatever_is_copied_the_output_is_the_same_as_without_copies(bodies: list[bytes]) -> None:
    copied, streamed = stored(*bodies), stored(*bodies)

    async def both() -> None:
        one, other = await send(copied), await send(streamed, copy=False)
        assert (one.size, one.crc64, one.records) == (other.size, other.crc64, other.records)
        assert list(one.sources) == list(other.sources)

    asyncio.run(both())
    assert output_of(copied) == output_of(streamed)


@pytest.mark.parametrize("mode", ["members", "single"])
async def test_a_run_over_large_sources_keeps_every_record(mode: str) -> None:
    """Their bytes are copied; an output of one member has other bytes, and is sent."""
    bodies = [gzip.compress(b"%d\n" % n + b"y" * 9_000_000 + b"\n", 0) for n in range(2)]
    bucket = MemoryBucket()
    for n, body in enumerate(bodies):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    before = records_in(contents(bucket))
    requests: list[Request] = []

    async def note(request: Request) -> None:
        requests.append(request)

    store = MemoryStore(bucket)
    store.before = note
    report = await new_run(store, settings(gzip=mode)).coalesce()
    assert (report.exit_code, report.sources.deleted) == (0, 2)
    assert records_in(contents(bucket)) == before
    output = contents(bucket)["data/t_0_0_1.jsonl.gz"]
    assert (output == b"".join(bodies)) == (mode == "members")
    copied = {request.key for request in requests if request.operation == "UploadPartCopy"}
    assert ("data/t_0_0_1.jsonl.gz" in copied) == (mode == "members")
