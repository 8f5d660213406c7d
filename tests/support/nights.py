"""Nightly runs over one bucket: some die, and others change the bucket between them or at one of
their requests.
"""

import json
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

from coalesce.report.report import Report
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import auditor
from support.auditor import Auditor
from support.runs import new_run
from support.scenarios import AuditedBucket, Killed, corporate, is_entry, run
from support.settings import settings

GROUP = "data/db.core.topic_0"
RECORD = f"_coalesce/groups/{GROUP}"

Act = Callable[[], object]


def audited(fill: Callable[[MemoryBucket], None], ignores: str = "") -> AuditedBucket:
    """A bucket that somebody has filled a while ago, with an auditor beside it from now on."""
    bucket = AuditedBucket(ignores=frozenset(ignores.split()))
    fill(bucket)
    bucket.now += 1000
    bucket.audit = Auditor(bucket)
    return bucket


def one_group(sources: int, ignores: str = "") -> AuditedBucket:
    """A bucket of one group, whose sources become one output: see `output_of`."""
    return audited(lambda bucket: corporate(bucket, groups=1, sources=sources), ignores)


def output_of(sources: int) -> str:
    return f"{GROUP}_0_{sources * 10 - 1}.jsonl.gz"


def at(
    store: MemoryStore, operation: str, key: str, act: Act, *, after: bool = False
) -> MemoryStore:
    """Something happens once, at the first such request: before its effect, or after it."""
    done = False

    async def hook(request: Request) -> None:
        nonlocal done
        if not done and request.operation == operation and request.key.startswith(key):
            done = True
            result = act()
            if isinstance(result, Awaitable):
                await result

    if after:
        store.after = hook
    else:
        store.before = hook
    return store


async def dead_run(
    bucket: MemoryBucket, operation: str, key: str, *, times: int = 1, **more: object
) -> None:
    """A run dies right after its request number `times` of this kind has had its effect."""
    store = MemoryStore(bucket)
    met = 0

    async def before(_: Request) -> None:
        if met == times:
            raise Killed

    async def after(request: Request) -> None:
        nonlocal met
        met += request.operation == operation and request.key.startswith(key)
        if met == times:
            raise Killed

    store.before, store.after = before, after
    assert await run(store, settings(**more)) is None
    bucket.now += 1000


async def night(bucket: MemoryBucket, store: MemoryStore | None = None, **more: object) -> Report:
    """The next night's run, to its end."""
    bucket.now += 1000
    return await new_run(store or MemoryStore(bucket), settings(**more)).coalesce()


def sources_in(bucket: MemoryBucket) -> list[str]:
    return auditor.sources(bucket.objects)


def rewrite(
    bucket: AuditedBucket, key: str, data: bytes, checksum: dict[str, str] | None = None
) -> None:
    """Others put other bytes in an object's place. It keeps its metadata, and the checksum that the
    store shows of it unless another one is given.
    """
    stored = bucket.objects[key]
    shown = stored.checksum if checksum is None else checksum
    with bucket.audit.others():
        bucket.store(key, data, stored.metadata, stored.content_type, checksum=shown)


def remove(bucket: AuditedBucket, key: str) -> None:
    """Others take an object away."""
    with bucket.audit.others():
        bucket.remove(key)


def as_version_0_1(bucket: AuditedBucket) -> None:
    """Makes what a dead run left what version 0.1 would have left: records of the first schema, no
    ledger entries, outputs that do not name their checksum.
    """
    with bucket.audit.others():
        for key in [key for key in bucket.objects if is_entry(key)]:
            bucket.remove(key)
        for key in [key for key in bucket.objects if key.startswith("_coalesce/groups/")]:
            record = json.loads(zlib.decompress(bucket.objects[key].data))
            record["schema_version"] = 1
            bucket.store(key, zlib.compress(json.dumps(record).encode()))
        for key, stored in list(bucket.objects.items()):
            if "coalesce-plan" in stored.metadata:
                metadata = dict(stored.metadata)
                with suppress(KeyError):
                    del metadata["coalesce-checksum"]
                bucket.store(key, stored.data, metadata, checksum=stored.checksum)
