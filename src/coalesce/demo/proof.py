"""Writes a data set into a bucket, and reads every record of it back.

The reading shares no code with what is proven by it: it lists, gets, and inflates with Python's own
gzip.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from coalesce.demo.dataset import Shape, generate_objects
from coalesce.errors import first_failure
from coalesce.model import Codec
from coalesce.naming.layouts import layout
from coalesce.report.report import path_characters
from coalesce.report.units import human_bytes
from coalesce.storage.base import ObjectStore

_AT_ONCE = 32
_ENTRY = re.compile(r"ledger/(.*)\.[0-9a-f]{16}\.jsonl\.gz")


async def fill(
    store: ObjectStore, shape: Shape, on_written: Callable[[int], None] = lambda _: None
) -> int:
    """Writes a data set into the bucket, a few objects at a time.

    Args:
        store: The bucket.
        shape: What the data set is like.
        on_written: Is told after each object how many there are.

    Returns:
        The number of objects written.

    Raises:
        CoalesceError: an object cannot be written.
    """
    slots = asyncio.Semaphore(_AT_ONCE)
    count = 0

    async def put(key: str, body: bytes) -> None:
        nonlocal count
        try:
            await store.put(key, body)
        finally:
            slots.release()
        count += 1
        on_written(count)

    try:
        async with asyncio.TaskGroup() as tasks:
            for key, body in generate_objects(shape):
                await slots.acquire()
                tasks.create_task(put(key, body))
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from failures
    return count


@dataclass(frozen=True, slots=True)
class PrefixContents:
    """What lies under a prefix; `path_list` is the characters of all paths, joined by commas."""

    objects: int
    bytes: int
    records: int
    path_list: int

    def __str__(self) -> str:
        return (
            f"{self.objects:,} objects, {human_bytes(self.bytes)}, {self.records:,} records, "
            f"path list {self.path_list:,} characters"
        )


async def read_records(
    store: ObjectStore, prefix: str, layout_name: str
) -> tuple[Counter[bytes], PrefixContents]:
    """Reads every object under a prefix.

    Memory is that of all records: this is for demonstrations and tests.

    Args:
        store: the bucket.
        prefix: the keys to read.
        layout_name: says how the objects are stored.

    Returns:
        How often each record is there, and what the objects are in all.

    Raises:
        StorageError: an object or the listing cannot be read.
        OSError, EOFError: an object is not whole gzip.
    """
    records: Counter[bytes] = Counter()
    size = count = characters = 0
    gzipped = layout(layout_name).codecs == (Codec.GZIP,)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def read(key: str) -> bytes:
        async with slots:
            return (await store.get(key)).data

    async for keys in _list_keys(store, prefix):
        count += len(keys)
        characters += sum(map(len, keys))
        for body in await asyncio.gather(*(read(key) for key in keys)):
            size += len(body)
            records.update((gzip.decompress(body) if gzipped else body).splitlines())
    path_list = path_characters("demo", count, characters)
    return records, PrefixContents(count, size, records.total(), path_list)


async def find_leftovers(
    store: ObjectStore, prefix: str, state_prefix: str, layout_name: str
) -> list[str]:
    """Looks for what a run should not have left behind.

    Args:
        store: the bucket.
        prefix: where the run worked.
        state_prefix: where its state was, of which one ledger entry for each output stays.
        layout_name: how the outputs are named.

    Returns:
        What is wrong, in words; nothing if all is well.

    Raises:
        StorageError: a listing cannot be read.
    """
    names = layout(layout_name)
    outputs, entries, wrong = list[str](), list[str](), list[str]()
    async for keys in _list_keys(store, prefix):
        outputs += [key for key in keys if (name := names.parse(key)) and name.kind == "output"]
    async for keys in _list_keys(store, state_prefix):
        for key in keys:
            if match := _ENTRY.fullmatch(key, len(state_prefix)):
                entries.append(match[1])
            else:
                wrong.append(f"the run left {key!r} behind")
    if sorted(entries) != sorted(outputs):
        wrong.append(f"{len(outputs)} outputs have {len(entries)} ledger entries, not one each")
    uploads = await store.list_uploads("")
    return wrong + [f"the run left an upload of {upload.key!r} open" for upload in uploads]


async def _list_keys(store: ObjectStore, prefix: str) -> AsyncIterator[list[str]]:
    """The keys under a prefix, page by page."""
    token = None
    while True:
        page = await store.list_page(prefix, token=token)
        yield [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            return
