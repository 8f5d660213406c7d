"""What lies in a bucket before a run, and what may lie there after it."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from coalesce.storage.base import ObjectStore
from coalesce.storage.memory import MemoryBucket
from support import auditor

Held = TypeVar("Held")

STATE = "_coalesce/"
_ENTRY = re.compile(r"_coalesce/ledger/(.*)\.[0-9a-f]{16}\.jsonl\.gz")


def sources(
    groups: int = 1, count: int = 4, *, topic: str = "t", offsets: int = 1
) -> dict[str, bytes]:
    """Groups of sources of one record each; every source takes so many offsets."""
    return {
        f"data/{topic}_{group}_{n * offsets}-{n * offsets + offsets - 1}.jsonl.gz": gzip.compress(
            b'{"group": %d, "n": %d}\n' % (group, n), mtime=0
        )
        for group in range(groups)
        for n in range(count)
    }


def filled(groups: int = 1, count: int = 4, **options: Any) -> MemoryBucket:
    """A bucket in memory that has held such sources for a while."""
    bucket = MemoryBucket(**options)
    for key, body in sources(groups, count).items():
        bucket.store(key, body)
    bucket.now += 1000
    return bucket


async def fill(store: ObjectStore, groups: int = 1, count: int = 4) -> None:
    """Puts sources of ten offsets each into a bucket; topics are named as Kafka's are."""
    for key, body in sources(groups, count, topic="db.core.topic", offsets=10).items():
        await store.put(key, body, content_type="application/gzip")


async def look(store: ObjectStore) -> dict[str, bytes]:
    """Every object in a bucket."""
    found: dict[str, bytes] = {}
    token = None
    while True:
        page = await store.list_page("", token=token)
        for entry in page.objects:
            found[entry.key] = (await store.get(entry.key)).data
        token = page.token
        if token is None:
            return found


def contents(bucket: MemoryBucket) -> dict[str, bytes]:
    """Every object in a bucket in memory."""
    return {key: stored.data for key, stored in bucket.objects.items()}


def data_in(held: Mapping[str, Held]) -> dict[str, Held]:
    """The objects that are not the program's own."""
    return {key: value for key, value in held.items() if not key.startswith(STATE)}


def records_in(held: Mapping[str, bytes]) -> Counter[bytes]:
    """The records of all objects that are not the program's own."""
    return auditor.records(data_in(held), "")


def entries_in(keys: Iterable[str]) -> list[str]:
    """The outputs that ledger entries are of, each as often as it has an entry."""
    return sorted(match[1] for key in keys if (match := _ENTRY.fullmatch(key)))


def unfinished_in(keys: Iterable[str]) -> list[str]:
    """What stands under the state prefix besides ledger entries."""
    return [key for key in keys if key.startswith(STATE) and not _ENTRY.fullmatch(key)]


def check_finished(keys: Iterable[str]) -> None:
    """That a job has left nothing under the state prefix but one ledger entry for each output."""
    held = list(keys)
    assert unfinished_in(held) == []
    assert entries_in(held) == sorted(filter(auditor.OUTPUT.fullmatch, held))
