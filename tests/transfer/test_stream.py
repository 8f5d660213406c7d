"""The bytes of an output are those of its sources, in parts that S3 takes, in bounded memory."""

import asyncio
import gzip
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from coalesce.content.rules import ContentRules
from coalesce.errors import Archived, Unavailable
from coalesce.model import Batch, Codec, Source, Why
from coalesce.planning.parts import PartSizes, lay_out
from coalesce.report.report import Report
from coalesce.storage.base import Body
from coalesce.storage.checksums import Checksum
from coalesce.storage.limits import MAX_PARTS
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.transfer.limits import Capacity
from coalesce.transfer.stream import SourcesUnusable, transfer, window_bytes
from support.buckets import contents, records_in
from support.runs import new_run
from support.scenarios import AuditedBucket
from support.settings import settings

OUTPUT = "data/t_0_0_9.jsonl.gz"

# Nothing here waits for anybody else: who is not done after so many seconds waits for itself.
HANGS = 10


def key_of(n: int) -> str:
    return f"data/t_0_{n}-{n}.jsonl.gz"


def stored(bodies: Sequence[bytes], **options: Any) -> tuple[MemoryStore, tuple[Source, ...]]:
    """A bucket with these bodies, and its sources."""
    bucket = MemoryBucket(**options)
    sources = tuple(
        Source(key, len(body), bucket.store(key, body), bucket.now, "STANDARD", n, n)
        for n, (key, body) in enumerate((key_of(n), body) for n, body in enumerate(bodies))
    )
    return MemoryStore(bucket), sources


async def send(
    store: MemoryStore,
    sources: tuple[Source, ...],
    sizes: PartSizes,
    *,
    copy: bool = False,
    check: bool = False,
    window: int = 0,
    single: bool = False,
) -> list[int]:
    """Makes an output of the sources, and returns the sizes of its parts."""
    batch = Batch(OUTPUT, sources, sum(source.size for source in sources), "")
    created = await store.create_upload(OUTPUT, checksum=Checksum.CRC64NVME, metadata={})
    async with asyncio.timeout(HANGS):
        sent = await transfer(
            store,
            batch,
            lay_out(sources, sizes, copy=copy),
            created.upload_id,
            rules=ContentRules(Codec.GZIP, check=check, single=single),
            sizes=sizes,
            checksum=Checksum.CRC64NVME,
            capacity=Capacity.of(0, 2**20, lambda: 0),
            window=window or window_bytes(batch, 0, sizes),
        )
    await store.complete_upload(OUTPUT, created.upload_id, sent.parts, checksum=Checksum.CRC64NVME)
    return [part.size for part in sent.parts]


def body_of(store: MemoryStore) -> bytes:
    return store.bucket.objects[OUTPUT].data


# --- parts


async def test_wherever_a_source_is_cut_into_parts_no_byte_is_lost_or_repeated() -> None:
    bodies = [bytes(range(n, n + 20 + n)) for n in range(9)]
    whole = b"".join(bodies)
    for usual in range(1, 42):
        store, sources = stored(bodies, min_part_bytes=1)
        sizes = await send(store, sources, PartSizes(usual=usual, least=1))
        assert body_of(store) == whole, usual
        assert sizes[:-1] == [usual] * (len(sizes) - 1)


@pytest.mark.parametrize("streamed", [1000, 1999, 2000, 2001, 2999, 3000, 3001, 4999, 5000, 5001])
async def test_no_part_before_a_copied_one_is_too_small(streamed: int) -> None:
    """S3 takes less than 5 MiB only in the last part of an upload; here it is 1,000 bytes."""
    bodies = [b"a" * 400] * (streamed // 400) + [b"b" * (streamed % 400), b"c" * 1500]
    store, sources = stored(list(filter(None, bodies)), min_part_bytes=1000)
    sizes = await send(store, sources, PartSizes(usual=2000, least=1000), copy=True)
    assert min(sizes[:-1]) >= 1000
    assert store.usage.requests["UploadPartCopy"] == 1
    assert body_of(store) == b"".join(bodies)


@pytest.mark.parametrize("size", [9_000, 9_001, MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 1, 18_001])
async def test_an_output_of_any_size_has_no_more_parts_than_s3_takes(size: int) -> None:
    """As if a part was a byte instead of 8 MiB: so this is an output of 84 GB."""
    bodies = [bytes([n]) * (size // 9) for n in range(9)] + [b"\xff" * (size % 9)]
    store, sources = stored(list(filter(None, bodies)), min_part_bytes=1)
    sizes = await send(store, sources, PartSizes(usual=1, least=1))
    assert len(sizes) <= MAX_PARTS
    assert body_of(store) == b"".join(bodies)


# --- memory


@pytest.mark.parametrize("ahead", [0, 1, 5])
async def test_no_more_bytes_are_in_memory_than_the_window_holds(ahead: int) -> None:
    """From the moment that a source is asked for until the part with its bytes is sent."""
    store, sources = stored([bytes([n]) * 37 for n in range(200)], min_part_bytes=1)
    sizes = PartSizes(usual=100, least=50)
    window = 2 * sizes.usual + sizes.least + sizes.usual + 37 * ahead
    most = held = 0

    async def before(request: Request) -> None:
        nonlocal most, held
        if request.operation == "GetObject":
            held += 37
            most = max(most, held)
        if request.operation == "UploadPart":
            for _ in range(30):
                await asyncio.sleep(0)

    upload_part = store.upload_part

    async def upload(*arguments: Any, **more: Any) -> Any:
        nonlocal held
        part = await upload_part(*arguments, **more)
        held -= part.size
        return part

    store.before = before
    store.upload_part = upload  # type: ignore[method-assign]
    await send(store, sources, sizes, window=window)
    assert window - 37 < most <= window


async def test_what_is_deflated_again_waits_for_its_parts_if_it_is_much_longer() -> None:
    """What an output has more than its sources is not in their window: it may be a part's bytes."""
    text = b"abcde" * 400_000 + b"\n"
    bodies = [gzip.compress(text, 9, mtime=0)] * 150
    store, sources = stored(bodies, min_part_bytes=1)
    sizes = PartSizes(usual=40_000, least=50)
    window = 256 * 1024 + 3 * sizes.usual + sizes.least
    upload_part = store.upload_part
    most = held = 0

    async def upload(output: str, upload_id: str, number: int, pieces: list[bytes], **more: Any):  # type: ignore[no-untyped-def]
        nonlocal most, held
        size = sum(map(len, pieces))
        held += size
        most = max(most, held)
        await asyncio.sleep(0.05)
        part = await upload_part(output, upload_id, number, pieces, **more)
        held -= size
        return part

    store.upload_part = upload  # type: ignore[method-assign]
    await send(store, sources, sizes, check=True, single=True, window=window)
    assert len(body_of(store)) > 1.5 * sum(map(len, bodies))
    assert most <= window + sizes.usual
    assert gzip.decompress(body_of(store)) == text * 150


async def test_sources_that_hold_nothing_do_not_fill_the_memory() -> None:
    """They are left out, so none of their bytes is ever sent."""
    bodies = [gzip.compress(b"", mtime=0)] * 100 + [gzip.compress(b"a\n", mtime=0)]
    store, sources = stored(bodies, min_part_bytes=1)
    await send(store, sources, PartSizes(usual=50, least=10), check=True)
    assert gzip.decompress(body_of(store)) == b"a\n"


@pytest.mark.parametrize("budget", [0, 1, 1000])
@pytest.mark.parametrize("size", [99, 100, 101, 151, 9000])
async def test_an_output_larger_than_the_memory_does_not_wait_for_itself(
    budget: int, size: int
) -> None:
    bodies = [bytes([n % 256]) * 10 for n in range(size // 10)] + [b"x" * (size % 10 or 10)]
    store, sources = stored(bodies, min_part_bytes=1)
    sizes = PartSizes(usual=100, least=50)
    batch = Batch(OUTPUT, sources, sum(source.size for source in sources), "")
    await send(store, sources, sizes, window=window_bytes(batch, budget, sizes))
    assert body_of(store) == b"".join(bodies)


# --- sources that are not as they were listed

BIG = [b"a" * 1500, b"b" * 100, b"c" * 1500]
SMALL = [b"a" * 40, b"b" * 40, b"c" * 40]


@pytest.mark.parametrize("copy", [False, True], ids=["read", "copied"])
@pytest.mark.parametrize("gone", [False, True], ids=["replaced", "deleted"])
async def test_a_source_that_is_no_longer_as_it_was_listed_is_named(copy: bool, gone: bool) -> None:
    store, sources = stored(BIG if copy else SMALL, min_part_bytes=1000)
    if gone:
        store.bucket.remove(key_of(0))
    else:
        store.bucket.store(key_of(0), b"d" * sources[0].size)
    with pytest.raises(SourcesUnusable) as caught:
        await send(store, sources, PartSizes(usual=2000, least=1000), copy=copy)
    (found,) = caught.value.sources
    assert (found.source, found.why) == (sources[0], Why.CHANGED)


class Archiving(MemoryStore):
    """A source was archived after its listing. The store says so with the key it was asked for."""

    async def copy_part(self, key: str, *arguments: Any, **more: Any) -> Any:
        if more["source"] == key_of(0):
            raise Archived("its class has to be restored first", key=key)
        return await super().copy_part(key, *arguments, **more)


async def run_over(store: MemoryStore, **more: object) -> Report:
    store.bucket.now += 1000
    return await new_run(store, settings(**more)).coalesce()


async def test_an_archived_source_that_the_store_should_copy_stays() -> None:
    store, _ = stored(BIG, min_part_bytes=1000)
    report = await run_over(Archiving(store.bucket), check=False)
    assert report.sources.left["archived"] == 1
    assert [failure.code for failure in report.failures] == ["InvalidObjectState"]
    assert key_of(0) in store.bucket.objects


async def test_the_failure_of_an_archived_source_names_the_source_and_not_the_output() -> None:
    store, _ = stored(BIG, min_part_bytes=1000)
    report = await run_over(Archiving(store.bucket), check=False)
    assert [failure.key for failure in report.failures] == [key_of(0)]


# --- sources that are read in ranges


def ranged(checksum: dict[str, str] | None = None) -> AuditedBucket:
    """The first source is read in three ranges."""
    bucket = AuditedBucket(min_part_bytes=1)
    bucket.part_bytes = 40
    for n in range(3):
        body = gzip.compress(b"%d:%b\n" % (n, bytes(range(97, 97 + 26)) * (3 * (n == 0))), 0)
        bucket.store(key_of(n), body, checksum=checksum)
    return bucket


class Flipping(MemoryStore):
    """A bit of one range flips on its way, once."""

    flipped = False

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        if key != key_of(0) or asked.get("start") != 40 or self.flipped:
            return body
        self.flipped = True
        return replace(body, data=bytes([body.data[0] ^ 1]) + body.data[1:])


async def test_a_range_that_is_misread_once_costs_nothing() -> None:
    bucket = ranged()
    before = records_in(contents(bucket))
    store = Flipping(bucket)
    report = await run_over(store)
    assert store.flipped
    assert (report.exit_code, report.sources.joined) == (0, 3)
    assert records_in(contents(bucket)) == before


async def test_a_source_that_is_replaced_after_its_ranges_were_read_is_not_called_corrupt() -> None:
    """Its stored checksum is then that of other bytes."""
    bucket = ranged()
    store = MemoryStore(bucket)
    reads = 0

    async def before(request: Request) -> None:
        nonlocal reads
        reads += request.operation == "GetObject" and request.key == key_of(0)
        if request.operation == "HeadObject" and request.key == key_of(0) and reads:
            new = gzip.compress(b"new\n", mtime=0)
            bucket.store(key_of(0), new, checksum={"CRC64NVME": "AAAAAAAAAAA="})

    store.before = before
    report = await run_over(store)
    assert (report.exit_code, report.sources.left.get("corrupt", 0)) == (0, 0)
    assert gzip.decompress(bucket.objects[key_of(0)].data) == b"new\n"


async def test_after_a_failed_transfer_the_next_batch_gets_all_of_the_capacity() -> None:
    store, sources = stored(SMALL, min_part_bytes=1)
    capacity = Capacity.of(1, 120, lambda: 0)

    async def fail(request: Request) -> None:
        if request.operation == "GetObject":
            raise Unavailable("made up", key=request.key)

    store.before = fail
    batch = Batch(OUTPUT, sources, 120, "")
    sizes = PartSizes(usual=200, least=1)
    with pytest.raises(Unavailable):
        await transfer(
            store,
            batch,
            lay_out(sources, sizes, copy=False),
            "u",
            rules=ContentRules(Codec.GZIP, check=False),
            sizes=sizes,
            checksum=Checksum.NONE,
            capacity=capacity,
            window=120,
        )
    assert capacity.sources.free == capacity.sources.size


async def test_while_a_batch_waits_for_its_last_answer_the_next_one_is_read() -> None:
    """However many sources each of them has."""
    bodies = [gzip.compress(b"%d\n" % n, mtime=0) for n in range(40)]
    store, sources = stored(bodies, min_part_bytes=1)
    sizes, capacity = PartSizes(usual=200, least=1), Capacity.of(4, 2**20, lambda: 0)
    last_is_asked_for, second_is_read = asyncio.Event(), asyncio.Event()

    async def hold(request: Request) -> None:
        if request.operation == "GetObject" and request.key == key_of(19):
            last_is_asked_for.set()
            await second_is_read.wait()

    async def send_half(half: tuple[Source, ...]) -> None:
        batch = Batch(OUTPUT, half, sum(source.size for source in half), "")
        created = await store.create_upload(OUTPUT, checksum=Checksum.NONE, metadata={})
        await transfer(
            store,
            batch,
            lay_out(half, sizes, copy=False),
            created.upload_id,
            rules=ContentRules(Codec.GZIP, check=False),
            sizes=sizes,
            checksum=Checksum.NONE,
            capacity=capacity,
            window=batch.size,
        )

    store.before = hold
    async with asyncio.timeout(HANGS):
        first = asyncio.create_task(send_half(sources[:20]))
        await last_is_asked_for.wait()
        await send_half(sources[20:])
        assert not first.done()
        second_is_read.set()
        await first
