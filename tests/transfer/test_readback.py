"""An output is read again whole, in bounded memory, and only in the version that HEAD showed."""

import gzip
from typing import Any

import pytest

from coalesce.content.rules import ContentRules
from coalesce.errors import IntegrityError, PreconditionFailed
from coalesce.model import Codec
from coalesce.planning.parts import PART_BYTES
from coalesce.storage.base import Body
from coalesce.storage.checksums import crc64, encode
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.transfer.readback import check_output, read_output

KEY = "data/t_0_0_9.jsonl.gz"
TEXT_RULES = ContentRules(Codec.PLAIN, check=True)


class RecordingStore(MemoryStore):
    """Notes the range of every GET."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.ranges: list[tuple[int, int | None]] = []

    async def get(self, key: str, **asked: Any) -> Body:
        self.ranges.append((asked["start"], asked["length"]))
        return await super().get(key, **asked)


def stored(data: bytes) -> RecordingStore:
    bucket = MemoryBucket()
    bucket.store(KEY, data)
    return RecordingStore(bucket)


async def test_every_byte_is_read_once_and_at_most_one_part_at_a_time() -> None:
    data = gzip.compress(b"x" * (2 * PART_BYTES) + b"\n", 0, mtime=0)
    store = stored(data)
    head = await store.head(KEY)
    assert head is not None
    joiner = ContentRules(Codec.GZIP, check=True).joiner(KEY)
    assert await read_output(store, head, joiner) == crc64([data])
    assert (joiner.finish(), joiner.records) == ([], 1)
    assert await read_output(store, head) == crc64([data])
    last = len(data) - 2 * PART_BYTES
    once = [(0, PART_BYTES), (PART_BYTES, PART_BYTES), (2 * PART_BYTES, last)]
    assert store.ranges == once * 2


async def test_another_version_is_not_read() -> None:
    store = stored(b"one\n")
    head = await store.head(KEY)
    assert head is not None
    store.bucket.store(KEY, b"two\n")
    with pytest.raises(PreconditionFailed):
        await read_output(store, head)


@pytest.mark.parametrize(
    ("text", "code"), [(b"a\nb", "NoLastNewline"), (b"a\nb\n", "ChecksumMismatch")]
)
async def test_an_output_that_is_not_as_expected_is_an_integrity_error(
    text: bytes, code: str
) -> None:
    store = stored(text)
    head = await store.head(KEY)
    assert head is not None
    expected = encode(crc64([text])) if code == "NoLastNewline" else encode(0)
    with pytest.raises(IntegrityError) as caught:
        await check_output(store, head, TEXT_RULES, expected_crc64=expected)
    assert (caught.value.code, caught.value.key) == (code, KEY)


async def test_the_records_of_a_sound_output_are_counted() -> None:
    store = stored(b"a\nb\n\n")
    head = await store.head(KEY)
    assert head is not None
    assert await check_output(store, head, TEXT_RULES) == 3
