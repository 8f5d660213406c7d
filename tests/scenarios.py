"""Jobs on which the program is killed, frozen, raced and lied to; and what must be true of the bucket all the while."""

import gzip
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import auditor
from coalesce.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request


@dataclass
class Scenario:
    """A bucket to be coalesced, and how."""

    fill: Callable[[MemoryBucket], None]
    settings: dict[str, object] = field(default_factory=dict)


def corporate(bucket: MemoryBucket, groups: int = 2, sources: int = 5, size: int = 0) -> None:
    for group in range(groups):
        for n in range(sources):
            body = gzip.compress(b'{"group": %d, "n": %d, "more": "%b"}\n' % (group, n, b"x" * size), mtime=0)
            bucket.store(f"data/db.core.topic_{group}_{n * 10}-{n * 10 + 9}.jsonl.gz", body, content_type="application/gzip")


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
    for n, size in enumerate((100, 6_000_000, 50)):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d:%b\n" % (n, b"x" * size), 0, mtime=0))


SCENARIOS = {
    "two groups of several outputs": Scenario(corporate, {"max_files": 3}),
    "a spoilt source among others": Scenario(spoilt),
    "manifests": Scenario(manifests),
    "a name that is taken": Scenario(taken),
    "a large source that the store copies": Scenario(copied, {"check": False}),
}


def settings(scenario: Scenario) -> Settings:
    return Settings.model_validate({"bucket": "b", "prefix": ["data"], "min_age": 0, "layout": "corporate", **scenario.settings})


def prepared(name: str) -> tuple[MemoryBucket, Settings]:
    scenario = SCENARIOS[name]
    bucket = MemoryBucket()
    scenario.fill(bucket)
    bucket.now += 1000
    layout = "manifest" if any(key.endswith(".txt") for key in bucket.objects) else "corporate"
    return bucket, settings(Scenario(scenario.fill, {"layout": layout, **scenario.settings}))


def contents(bucket: MemoryBucket) -> dict[str, bytes]:
    return {key: stored.data for key, stored in bucket.objects.items()}


def readable(data: dict[str, bytes]) -> Counter[bytes]:
    """Records of the objects that can be read; a spoilt one is compared as it lies."""
    found: Counter[bytes] = Counter()
    for key, body in data.items():
        try:
            found += auditor.records({key: body}, "data/")
        except EOFError:
            found[body] += 1
    return found


async def points(name: str) -> list[tuple[int, Request]]:
    """Every request that the job sends, with its number. The probe's are the same in every job, so only the first job has them all."""
    bucket, chosen = prepared(name)
    store = MemoryStore(bucket)
    sent: list[Request] = []

    async def before(request: Request) -> None:
        sent.append(request)

    store.before = before
    assert (await Run(store, chosen).coalesce()).exit_code in (0, 4)
    return [point for point in enumerate(sent, 1) if name == next(iter(SCENARIOS)) or "/probe/" not in point[1].key]


async def check_settled(bucket: MemoryBucket, chosen: Settings, before: Counter[bytes], context: str) -> None:
    """Further runs, until one finds nothing to do: then every record is there exactly once, and nothing else."""
    for _ in range(3):
        bucket.now += 1000
        code = (await Run(MemoryStore(bucket), chosen).coalesce()).exit_code
        assert code in (0, 4), context
    assert readable(contents(bucket)) == before, context
    assert [key for key in bucket.objects if key.startswith("_coalesce/")] == [], context
    assert bucket.uploads == {}, context
