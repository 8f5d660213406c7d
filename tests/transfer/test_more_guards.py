"""What holds memory, and for how long; and where a body ends that a store makes longer."""

import asyncio
import gzip

import pytest

from coalesce.content.members import Members
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, SourceUnusable
from coalesce.model import Batch, Codec, Source, Span, Why
from coalesce.planning.parts import PartSizes, lay_out
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.s3 import S3Options, open_s3
from coalesce.transfer.limits import Budget, Capacity
from coalesce.transfer.reads import read_body
from coalesce.transfer.stream import SourcesUnusable, transfer, window_bytes
from support.scripted import EMPTY_LISTING, Peer, answer, serving

# Nothing here waits for anybody else: who is not done after so many seconds waits for itself.
HANGS = 10


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_was_granted_to_one_that_is_cancelled_is_free_again() -> None:
    budget = Budget(10)
    held = await budget.acquire(10)
    waiting = asyncio.create_task(budget.acquire(6))
    await settle()
    budget.release(held)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.free == 10


async def test_who_gives_up_waiting_for_much_holds_up_nobody_who_waits_for_little() -> None:
    budget = Budget(10)
    held = await budget.acquire(6)
    much, little = (asyncio.create_task(budget.acquire(amount)) for amount in (8, 4))
    await settle()
    assert not little.done()
    much.cancel()
    await settle()
    assert little.done()
    budget.release(held + 4)
    assert budget.free == 10


def test_a_header_that_never_ends_is_refused_before_much_of_it_is_held() -> None:
    """A file's name goes on until a zero byte: here until the end of memory."""
    joiner = Members("k")
    with pytest.raises(ContentError):
        joiner.feed(b"\x1f\x8b\x08\x08\0\0\0\0\0\xff")
        for _ in range(16):
            joiner.feed(b"n" * 32 * 1024)


async def test_whatever_comes_behind_a_source_is_not_taken_into_memory() -> None:
    """A source of 1,000 bytes for which the store sends 64 MiB."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        while True:
            if (await peer.request()).locates:
                await peer.send(answer(EMPTY_LISTING))
                continue
            await peer.send(b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 67108864\r\n\r\n')
            for _ in range(1024):
                await peer.send(b"x" * 65536)
                sent += 65536

    source = Source("k", 1000, '"e"', 0.0, "STANDARD", 0, 0)
    async with serving(script) as server:
        options = S3Options(
            "b",
            endpoint_url=server.url,
            region="us-east-1",
            addressing="path",
            access_key="AK",
            secret_key="SK",
        )
        async with open_s3(options) as store:
            with pytest.raises(SourceUnusable) as caught:
                await read_body(store, Span(source, 0, 1000))
    assert caught.value.why is Why.CORRUPT
    assert sent < 32 * 1024**2


async def test_sources_behind_a_spoilt_one_are_looked_at_though_none_of_them_is_sent() -> None:
    """All of them together are more than there is memory for."""
    bucket = MemoryBucket(min_part_bytes=1)
    sources = []
    for n in range(100):
        body = gzip.compress(b"%d\n" % n, mtime=0)
        body = b"spoilt" if n in (3, 98) else body
        key = f"data/t_0_{n}-{n}.jsonl.gz"
        etag = bucket.store(key, body)
        sources.append(Source(key, len(body), etag, bucket.now, "STANDARD", n, n))
    batch = Batch("data/t_0_0_99.jsonl.gz", tuple(sources), sum(s.size for s in sources), "")
    store, sizes = MemoryStore(bucket), PartSizes(usual=100, least=50)
    created = await store.create_upload(batch.output, checksum=Checksum.NONE, metadata={})
    with pytest.raises(SourcesUnusable) as caught:
        async with asyncio.timeout(HANGS):
            await transfer(
                store,
                batch,
                lay_out(batch.sources, sizes, copy=False),
                created.upload_id,
                rules=ContentRules(Codec.GZIP, check=True),
                sizes=sizes,
                checksum=Checksum.NONE,
                capacity=Capacity.of(0, 2**20, lambda: 0),
                window=window_bytes(batch, 0, sizes),
            )
    assert [error.source for error in caught.value.sources] == [sources[3], sources[98]]
