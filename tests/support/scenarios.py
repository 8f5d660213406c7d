"""Jobs on which the program is killed, frozen, raced and lied to; and what must be true of the
bucket all the while.
"""

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from coalesce.planning.parts import PART_BYTES
from coalesce.report.report import Report
from coalesce.settings import Settings
from coalesce.storage.limits import MIN_PART_BYTES
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import auditor
from support.auditor import Auditor
from support.buckets import contents, entries_in, unfinished_in
from support.runs import new_run
from support.settings import settings


class AuditedBucket(MemoryBucket):
    """A bucket with an auditor beside it from the moment that it is filled."""

    audit: Auditor
    round_batches: int = 64
    part_bytes: int = PART_BYTES


@dataclass
class Scenario:
    """A bucket to be coalesced, and how.

    `killed_at` is where an earlier run died, and left what it had begun: (operation, prefix of the
    key, how many).
    """

    fill: Callable[[MemoryBucket], None]
    settings: dict[str, object] = field(default_factory=dict)
    ignores: str = ""
    round_batches: int = 64
    min_part_bytes: int = MIN_PART_BYTES
    killed_at: tuple[str, str, int] | None = None


class Killed(BaseException):
    """The process is gone: no request leaves it any more."""


def corporate(bucket: MemoryBucket, groups: int = 2, sources: int = 5, size: int = 0) -> None:
    for group in range(groups):
        for n in range(sources):
            body = gzip.compress(
                b'{"group": %d, "n": %d, "more": "%b"}\n' % (group, n, b"x" * size), mtime=0
            )
            bucket.store(
                f"data/db.core.topic_{group}_{n * 10}-{n * 10 + 9}.jsonl.gz",
                body,
                content_type="application/gzip",
            )


def spoilt(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=6)
    key = "data/db.core.topic_0_20-29.jsonl.gz"
    bucket.store(key, bucket.objects[key].data[:-4])


def manifests(bucket: MemoryBucket) -> None:
    for n in range(5):
        bucket.store(f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", b"id-%d|1|a|b\n" % n)


def taken(bucket: MemoryBucket) -> None:
    """The output's name is in use, and offsets are not what tells: manifests."""
    manifests(bucket)
    bucket.store("data/db.core.topic_0_0_db.core.other_1_11.txt", b"older\n")


def copied(bucket: MemoryBucket) -> None:
    """Where parts may be of 1,000 bytes: the first is copied, the second streamed with the
    beginning of the third, whose rest is copied.
    """
    for n, size in enumerate((1500, 100, 2500, 50)):
        bucket.store(
            f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d:%b\n" % (n, b"x" * size), 0, mtime=0)
        )


def outputs_beside(bucket: MemoryBucket) -> None:
    """Two outputs of earlier days beside new sources; together they are less than these."""
    corporate(bucket, groups=1, sources=5, size=300)
    for first in (100, 200):
        body = gzip.compress(b'{"first": %d}\n' % first, mtime=0)
        bucket.store(f"data/db.core.topic_0_{first}_{first + 99}.jsonl.gz", body)


def long_group(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=8)


FIRST = "two groups of several outputs"

SCENARIOS = {
    FIRST: Scenario(corporate, {"max_files": 3}),
    "a spoilt source among others": Scenario(spoilt),
    "manifests": Scenario(manifests),
    "a name that is taken": Scenario(taken),
    "a large source that the store copies": Scenario(copied, {"check": False}, min_part_bytes=1000),
    "outputs that grow": Scenario(outputs_beside, {"grow": 1_000_000}),
    "a death among outputs that grow": Scenario(
        outputs_beside, {"grow": 1_000_000}, killed_at=("CompleteMultipartUpload", "data/", 1)
    ),
    "a group of several rounds": Scenario(long_group, {"max_files": 2}, round_batches=2),
    "outputs without deletes": Scenario(corporate, {"max_files": 3, "delete": False}),
    "a store that deletes one by one": Scenario(
        corporate, {"max_files": 3}, ignores="delete-many-etag"
    ),
    "a store that keeps no checksums": Scenario(
        corporate, {"max_files": 3}, ignores="checksum copy-if-match"
    ),
    "after a death among new uploads": Scenario(
        corporate, {"max_files": 3}, killed_at=("CreateMultipartUpload", "data/", 3)
    ),
    "after a death with the plan recorded": Scenario(
        corporate, {"max_files": 3}, killed_at=("PutObject", "_coalesce/groups/", 2)
    ),
    "after a death between two outputs": Scenario(
        corporate, {"max_files": 3}, killed_at=("CompleteMultipartUpload", "data/", 2)
    ),
    "after a death among the deletes": Scenario(
        corporate, {"max_files": 3}, killed_at=("DeleteObjects", "data/", 2)
    ),
    "after a death around a spoilt source": Scenario(
        spoilt, killed_at=("PutObject", "_coalesce/groups/", 2)
    ),
    "after a death before the last record goes": Scenario(
        corporate, {"max_files": 3}, killed_at=("DeleteObject", "_coalesce/groups/", 1)
    ),
}


def grow(bucket: AuditedBucket) -> Counter[bytes]:
    """A producer adds a source to the first group, so that a plan made from now on is another one;
    the record in it.
    """
    manifest = any(key.endswith(".txt") for key in bucket.objects)
    topic = "db.core.topic" if any("topic" in key for key in bucket.objects) else "t"
    key = f"data/{topic}_0_800-" + ("db.core.other_1_807.txt" if manifest else "809.jsonl.gz")
    record = b"added"
    with bucket.audit.others():
        bucket.store(key, record + b"\n" if manifest else gzip.compress(record + b"\n", mtime=0))
    return Counter({record: 1})


def prepared(name: str) -> tuple[AuditedBucket, Settings]:
    """A scenario's bucket, as it was before anybody touched it."""
    scenario = SCENARIOS[name]
    bucket = AuditedBucket(
        min_part_bytes=scenario.min_part_bytes, ignores=frozenset(scenario.ignores.split())
    )
    scenario.fill(bucket)
    bucket.now += 1000
    bucket.round_batches = scenario.round_batches
    bucket.audit = Auditor(bucket, grows="grow" in scenario.settings)
    layout = "manifest" if any(key.endswith(".txt") for key in bucket.objects) else "corporate"
    return bucket, settings(layout=layout, **scenario.settings)


async def haunted(name: str) -> tuple[AuditedBucket, Settings]:
    """A scenario's bucket, with whatever an earlier run left that died in it."""
    bucket, chosen = prepared(name)
    where = SCENARIOS[name].killed_at
    if where:
        await _run_to_its_death(bucket, chosen, *where)
        bucket.audit.begin()
    return bucket, chosen


async def _run_to_its_death(
    bucket: MemoryBucket, chosen: Settings, operation: str, prefix: str, times: int
) -> None:
    store = MemoryStore(bucket)
    met = 0

    async def before(_: Request) -> None:
        if met >= times:
            raise Killed

    async def after(request: Request) -> None:
        nonlocal met
        met += request.operation == operation and request.key.startswith(prefix)
        if met >= times:
            raise Killed

    store.before, store.after = before, after
    assert await run(store, chosen) is None
    bucket.now += 1000


async def run(store: MemoryStore, chosen: Settings, **more: Callable[[], float]) -> Report | None:
    """A process from its start to its end, or to its death."""
    try:
        return await new_run(store, chosen, **more).coalesce()
    except BaseException as error:
        if not _only_killed(error):
            raise
        return None


def _only_killed(error: BaseException) -> bool:
    return isinstance(error, Killed) or (
        isinstance(error, BaseExceptionGroup) and all(map(_only_killed, error.exceptions))
    )


def readable(data: dict[str, bytes]) -> Counter[bytes]:
    """Records of the objects that can be read; a spoilt one is compared as it lies."""
    return auditor.records(data, "data/")


async def points(name: str) -> list[tuple[int, Request]]:
    """Every request that the job sends, with its number.

    The probe's are the same in every job, so only the first job has them all.
    """
    bucket, chosen = await haunted(name)
    store = MemoryStore(bucket)
    sent: list[Request] = []

    async def before(request: Request) -> None:
        sent.append(request)

    store.before = before
    assert (await new_run(store, chosen).coalesce()).exit_code in (0, 4)
    bucket.audit.check(name)
    return [point for point in enumerate(sent, 1) if name == FIRST or "/probe/" not in point[1].key]


def unfinished(bucket: MemoryBucket) -> list[str]:
    """What stands under the state prefix besides the ledger."""
    return unfinished_in(bucket.objects)


def is_entry(key: str) -> bool:
    return key.startswith("_coalesce/ledger/")


def check_ledger(bucket: MemoryBucket, context: str, *, strays: bool = False) -> None:
    """Every output of this program has its ledger entry, and every entry its output.

    A run that was overtaken may leave `strays`: entries of uploads that never became outputs.
    """
    entries = entries_in(bucket.objects)
    outputs = {key for key, stored in bucket.objects.items() if "coalesce-plan" in stored.metadata}
    assert set(entries) >= outputs, context
    assert strays or len(entries) == len(outputs), context


async def check_settled(
    bucket: MemoryBucket,
    chosen: Settings,
    before: Counter[bytes],
    context: str,
    *,
    strays: bool = False,
) -> None:
    """Further runs, until one finds nothing to do: then every record is there exactly once, and
    nothing else.
    """
    finishing = chosen.model_copy(update={"delete": True})
    for _ in range(3):
        bucket.now += 1000
        code = (await new_run(MemoryStore(bucket), finishing).coalesce()).exit_code
        assert code in (0, 4), context
    assert readable(contents(bucket)) == before, context
    assert unfinished(bucket) == [], context
    check_ledger(bucket, context, strays=strays)
    assert bucket.uploads == {}, context
    if isinstance(bucket, AuditedBucket):
        bucket.audit.check_quiet(context)


def dying(store: MemoryStore, at: int, *, answered: bool) -> MemoryStore:
    """Kills the process at its request number `at`: before it has an effect, or after it, with the
    answer lost.
    """

    async def before(request: Request) -> None:
        if request.number > at or (request.number == at and not answered):
            raise Killed

    async def after(request: Request) -> None:
        if request.number >= at:
            raise Killed

    store.before, store.after = before, after
    return store
