"""Buckets whose sources were joined, and undos of that: which die, and what must be there after."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field

from coalesce.report.report import Report
from coalesce.run.undoing import Wanted
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request, StoredObject
from support.buckets import data_in, entries_in, unfinished_in
from support.nights import audited
from support.runs import new_run
from support.scenarios import AuditedBucket, Killed, corporate, manifests
from support.settings import settings

Objects = dict[str, StoredObject]


@dataclass(frozen=True)
class Scene:
    """What was joined, and how; `ignores` are the conditions that the store forgets."""

    fill: Callable[[MemoryBucket], None]
    joined: dict[str, object] = field(default_factory=dict)
    ignores: str = ""
    left: str = ""  # a source that was never deleted

    @property
    def settings(self) -> Settings:
        layout = self.joined.get("layout", "corporate")
        weaker = {"accept_weaker": ["delete-race"]} if "delete-if-match" in self.ignores else {}
        return settings(layout=layout, **weaker)


def five(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=5)


def six(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=6)


ONE = "one gzip member"
SCENES = {
    ONE: Scene(five),
    "members as they are": Scene(five, {"gzip": "members"}),
    "manifests": Scene(manifests, {"layout": "manifest"}),
    "two outputs of a group": Scene(six, {"max_files": 3}),
    "a source that was never deleted": Scene(five, left="data/db.core.topic_0_20-29.jsonl.gz"),
    "a store that deletes one by one": Scene(five, ignores="delete-many-etag"),
    "a store that keeps no checksums": Scene(five, ignores="checksum copy-if-match"),
    "a store without conditional deletes": Scene(five, ignores="delete-if-match delete-many-etag"),
}


async def joined(scene: Scene) -> tuple[AuditedBucket, Objects]:
    """A bucket after its run, an hour later, and its objects before it."""
    bucket = audited(scene.fill, scene.ignores)
    before = dict(bucket.objects)
    weaker = scene.settings.accept_weaker
    run = new_run(MemoryStore(bucket), settings(**scene.joined, accept_weaker=weaker))
    report = await run.coalesce()
    assert (report.exit_code, bool(report.outputs.written)) == (0, True), report.failures
    if scene.left:
        with bucket.audit.others():
            bucket.objects[scene.left] = before[scene.left]
    bucket.now += 3600
    bucket.audit.begin()
    bucket.audit.undoing = True
    return bucket, before


async def undo(
    bucket: MemoryBucket,
    store: MemoryStore | None = None,
    chosen: Settings | None = None,
    wanted: Wanted | None = None,
    **more: Callable[[], float],
) -> Report:
    """An undo to its end: of everything, unless something else is wanted."""
    run = new_run(store or MemoryStore(bucket), chosen or settings(), **more)
    return await run.undo(wanted or Wanted())


async def dying_undo(store: MemoryStore, chosen: Settings) -> Report | None:
    """An undo to its end, or to its death."""
    try:
        return await new_run(store, chosen).undo(Wanted())
    except BaseException as error:
        if not only_killed(error):
            raise
        return None


def only_killed(error: BaseException) -> bool:
    return isinstance(error, Killed) or (
        isinstance(error, BaseExceptionGroup) and all(map(only_killed, error.exceptions))
    )


def outputs_in(bucket: MemoryBucket) -> list[str]:
    return [key for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata]


def content_of(key: str, data: bytes) -> bytes:
    return gzip.decompress(data) if key.endswith(".gz") else data


def check_given_back(
    bucket: MemoryBucket, before: Objects, context: str = "", *, exact: bool = False
) -> None:
    """That all sources are there as they were, and nothing else: `exact` to the byte."""
    after = data_in(bucket.objects)
    assert after.keys() == before.keys(), context
    for key, old in before.items():
        new = after[key]
        assert content_of(key, new.data) == content_of(key, old.data), f"{context}: {key}"
        assert not exact or new.data == old.data, f"{context}: {key}"
        assert new.attributes == old.attributes, f"{context}: {key}"
        assert new.tags == old.tags, f"{context}: {key}"
        assert new.storage_class == old.storage_class, f"{context}: {key}"
    assert unfinished_in(bucket.objects) == [], context
    assert entries_in(bucket.objects) == [], context
    assert bucket.uploads == {}, context
    if isinstance(bucket, AuditedBucket):
        bucket.audit.check_quiet(context)


async def requests_of(scene: Scene) -> list[tuple[int, Request]]:
    """Every request of an undo, with its number, but for those of the probe."""
    bucket, before = await joined(scene)
    store = MemoryStore(bucket)
    sent: list[Request] = []

    async def note(request: Request) -> None:
        sent.append(request)

    store.before = note
    report = await undo(bucket, store, scene.settings)
    assert report.exit_code == 0, report.failures
    check_given_back(bucket, before)
    return [point for point in enumerate(sent, 1) if "/probe/" not in point[1].key]
