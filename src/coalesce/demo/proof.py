"""A data set in a bucket, and every record that is found there."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from coalesce.demo.dataset import Shape, objects
from coalesce.naming.layouts import layout
from coalesce.report.report import path_characters
from coalesce.storage.base import ObjectStore


async def fill(store: ObjectStore, shape: Shape) -> int:
    """Writes a data set; how many objects."""
    lanes = asyncio.Semaphore(32)
    count = 0

    async def put(key: str, body: bytes) -> None:
        try:
            await store.put(key, body)
        finally:
            lanes.release()

    async with asyncio.TaskGroup() as tasks:
        for key, body in objects(shape):
            await lanes.acquire()
            tasks.create_task(put(key, body))
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class Sight:
    """What a reader finds under a prefix."""

    objects: int
    bytes: int
    records: int
    path_list: int

    def __str__(self) -> str:
        return (
            f"{self.objects:,} objects, {self.bytes:,} bytes, {self.records:,} records, "
            f"a path list of {self.path_list:,} characters"
        )


async def inspect(
    store: ObjectStore, prefix: str, layout_name: str
) -> tuple[Counter[bytes], Sight]:
    """Every record under a prefix with how often it is there: read from the bucket anew, by
    Python's own gzip.
    """
    records: Counter[bytes] = Counter()
    size = count = characters = 0
    gzipped = layout(layout_name).gzip
    lanes = asyncio.Semaphore(32)

    async def read(key: str) -> bytes:
        async with lanes:
            return (await store.get(key)).data

    async for keys in _keys(store, prefix):
        count += len(keys)
        characters += sum(map(len, keys))
        for body in await asyncio.gather(*(read(key) for key in keys)):
            size += len(body)
            records.update((gzip.decompress(body) if gzipped else body).splitlines())
    return records, Sight(count, size, records.total(), path_characters("demo", count, characters))


async def _keys(store: ObjectStore, prefix: str) -> AsyncIterator[list[str]]:
    token = None
    while True:
        page = await store.list_page(prefix, token=token)
        yield [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            return
