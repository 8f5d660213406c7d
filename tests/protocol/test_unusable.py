"""Sources that are spoilt, or no longer as they were listed, in any number: the good ones are
joined in the same run, for a bounded number of requests, and nothing is held after an error.
"""

import asyncio
import gzip
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from coalesce import errors
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents
from support.nights import GROUP, audited, night, sources_in
from support.runs import new_run
from support.scenarios import (
    AuditedBucket,
    corporate,
    readable,
    spoilt,
    unfinished,
)
from support.schedules import Tally
from support.settings import settings
from support.timeless import Timeless

MANY = 3000


def key_of(n: int) -> str:
    return f"{GROUP}_{n * 10}-{n * 10 + 9}.jsonl.gz"


class Counted(MemoryStore):
    """Counts what it is asked, by source and by operation; the state and the probe apart."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.reads: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.before = self._count

    async def _count(self, request: Request) -> None:
        if request.key.startswith("data/"):
            self.sent[request.operation] += 1
            self.reads[request.key] += request.operation == "GetObject"


def fill(bad: set[int], spoil: Callable[[bytes], bytes]) -> AuditedBucket:
    """Sources of one group, of which some are bad."""

    def store(bucket: MemoryBucket) -> None:
        corporate(bucket, groups=1, sources=MANY)
        for n in bad:
            bucket.store(key_of(n), spoil(bucket.objects[key_of(n)].data))

    return audited(store)


def cut(data: bytes) -> bytes:
    return data[:-4]


BAD = set(random.Random(3).sample(range(MANY), 1000))
# Between two bad ones it has no neighbour that it could be joined with.
ALONE = {n for n in range(MANY) if n not in BAD and {n - 1, n + 1} <= BAD | {-1, MANY}}


async def test_1000_spoilt_sources_in_3000_keep_no_good_one_from_being_joined() -> None:
    bucket = fill(BAD, cut)
    pieces = len({n for n in range(MANY) if n not in BAD | ALONE and n - 1 in BAD | {-1}})
    store = Counted(bucket)
    report = await night(bucket, store)
    assert report.exit_code == 4
    assert sources_in(bucket) == sorted(map(key_of, BAD | ALONE))
    assert (report.sources.left["corrupt"], report.sources.left["single"]) == (1000, len(ALONE))
    assert report.sources.joined == MANY - len(BAD | ALONE)
    assert store.reads.most_common(1)[0][1] <= 2
    assert store.sent["CreateMultipartUpload"] <= pieces + 1
    assert bucket.uploads == {}
    assert unfinished(bucket) == []
    bucket.audit.check_quiet()

    store = Counted(bucket)
    report = await night(bucket, store)
    assert report.exit_code == 4
    assert store.reads.total() <= len(BAD | ALONE)
    assert store.sent["CreateMultipartUpload"] == 1
    assert sources_in(bucket) == sorted(map(key_of, BAD | ALONE))
    bucket.audit.check_quiet()


async def test_3000_bodies_of_plain_text_are_read_once_and_left() -> None:
    """A producer that never compressed."""
    bucket = fill(set(range(MANY)), gzip.decompress)
    before = contents(bucket)
    for _ in range(2):
        store = Counted(bucket)
        report = await night(bucket, store)
        assert (report.exit_code, report.sources.left["corrupt"]) == (4, MANY)
        assert store.reads.total() == MANY
        assert store.sent["CreateMultipartUpload"] == 1
        assert contents(bucket) == before
        assert bucket.uploads == {}


async def test_a_spoilt_source_whose_etag_is_no_md5_is_read_once_more_before_it_is_believed() -> (
    None
):
    """It may be the network that spoils it."""
    bucket = fill(set(), cut)
    for n in BAD:
        data = bucket.objects[key_of(n)].data
        bucket.store(key_of(n), cut(data), etag=f'"{n:032x}-1"')
    store = Counted(bucket)
    report = await night(bucket, store)
    assert report.exit_code == 4
    assert {store.reads[key_of(n)] for n in BAD} <= {2, 3}
    assert max(store.reads[key_of(n)] for n in range(MANY) if n not in BAD) <= 2
    assert sources_in(bucket) == sorted(map(key_of, BAD | ALONE))


# --- a listing that is no longer true


def in_the_middle(
    store: MemoryStore, act: Callable[[], Awaitable[object]], times: int = 1
) -> MemoryStore:
    """Something happens between the listing and the work: as the first upload is begun."""
    done = 0
    inner = store.before

    async def before(request: Request) -> None:
        nonlocal done
        await inner(request)
        if (
            done < times
            and request.operation == "CreateMultipartUpload"
            and request.key.startswith("data/")
        ):
            done += 1
            await act()

    store.before = before
    return store


async def test_a_listing_whose_sources_another_run_has_joined_costs_one_more_listing() -> None:
    bucket = fill(set(), cut)
    store = in_the_middle(Counted(bucket), lambda: night(bucket))
    report = await night(bucket, store)
    assert (report.exit_code, report.failures) == (0, [])
    assert sources_in(bucket) == []
    assert isinstance(store, Counted)
    assert store.reads.most_common(1)[0][1] <= 2
    assert store.sent["CreateMultipartUpload"] == 1
    assert bucket.uploads == {}
    bucket.audit.check_quiet()


async def test_what_another_run_has_not_joined_is_joined_in_the_same_run() -> None:
    bucket = fill(set(), cut)
    store = in_the_middle(Counted(bucket), lambda: night(bucket, max_files=1000, max_delete=1000))
    report = await night(bucket, store)
    assert (report.exit_code, report.failures) == (0, [])
    assert sources_in(bucket) == []
    assert isinstance(store, Counted)
    assert store.reads.most_common(1)[0][1] <= 2
    assert store.sent["CreateMultipartUpload"] <= 3
    bucket.audit.check_quiet()


async def test_vanished_and_spoilt_sources_together_keep_no_good_one_from_being_joined() -> None:
    bucket = fill(set(range(100, 200)), cut)
    gone = set(range(1500, 1600))

    async def take() -> None:
        with bucket.audit.others():
            for n in gone:
                bucket.remove(key_of(n))

    store = in_the_middle(Counted(bucket), take)
    report = await night(bucket, store)
    assert report.exit_code == 4
    assert sources_in(bucket) == sorted(key_of(n) for n in range(100, 200))
    assert isinstance(store, Counted)
    assert store.reads.most_common(1)[0][1] <= 3
    assert store.sent["CreateMultipartUpload"] <= 5
    bucket.audit.check_quiet()


async def test_a_source_that_changes_again_and_again_is_left_for_the_next_run() -> None:
    """One more listing and no third; every source is counted as joined or left."""
    bucket = fill(set(), cut)
    written = 0

    async def change() -> None:
        nonlocal written
        written += 1
        with bucket.audit.others():
            bucket.store(key_of(50), gzip.compress(b"version %d\n" % written, mtime=0))

    store = in_the_middle(Counted(bucket), change, times=100)
    report = await night(bucket, store)
    assert isinstance(store, Counted)
    assert store.reads.most_common(1)[0][1] <= 2
    assert report.sources.seen == report.sources.joined + sum(report.sources.left.values())
    assert key_of(50) in bucket.objects
    bucket.audit.check()
    assert (await night(bucket)).exit_code == 0
    assert sources_in(bucket) == []
    bucket.audit.check_quiet()


# --- after every error all that is held is given back


def ranged(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=5, size=300)


def interleaved(bucket: MemoryBucket) -> None:
    """Where parts may be of 1,000 bytes, copies by the store and streams of bodies take turns."""
    for n, size in enumerate((1500, 100, 2500, 100, 2500, 100, 2500, 50)):
        body = gzip.compress(b"%d:%b\n" % (n, b"x" * size), 0, mtime=0)
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)


JOBS: dict[str, tuple[Callable[[MemoryBucket], None], dict[str, object]]] = {
    "two groups": (lambda bucket: corporate(bucket, groups=2, sources=4), {"max_files": 2}),
    "a spoilt source": (spoilt, {}),
    "sources read in ranges": (ranged, {}),
    "sources that the store copies": (interleaved, {"check": False}),
}

ERRORS: list[type[BaseException]] = [
    errors.Unavailable,
    errors.AccessDenied,
    errors.PreconditionFailed,
    errors.NotFound,
    errors.NoSuchUpload,
    errors.Archived,
    errors.ConfigurationError,
    RecursionError,
]


def job(name: str) -> AuditedBucket:
    fill_bucket, _ = JOBS[name]
    bucket = audited(fill_bucket)
    if name == "sources that the store copies":
        bucket.min_part_bytes = 1000
    if name == "sources read in ranges":
        bucket.part_bytes = 100
    return bucket


def run_of(
    name: str, before: Callable[[Request], Awaitable[None]]
) -> tuple[Run, AuditedBucket, BaseException | None]:
    """A whole run, and the defect that it ended with, if any."""
    bucket = job(name)
    store = MemoryStore(bucket)
    store.before = before
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        run = new_run(store, settings(concurrency=1, **JOBS[name][1]), clock=runner.get_loop().time)
        try:
            runner.run(run.coalesce())
        except Exception as defect:
            return run, bucket, defect
    return run, bucket, None


def held(run: Run) -> dict[str, int]:
    """What a run still holds of its capacity."""
    capacity = run._capacity
    assert capacity is not None
    budgets = {name: getattr(capacity, name) for name in ("sources", "recorded", "memory")}
    limiters = {name: getattr(capacity, name) for name in ("reads", "writes")}
    held = {name: budget.size - budget.free for name, budget in budgets.items()}
    held |= {name: limiter._busy for name, limiter in limiters.items()}
    return {name: amount for name, amount in held.items() if amount}


def requests_of(name: str) -> list[Request]:
    """What a run sends once it knows what the store keeps."""
    sent: list[Request] = []

    async def before(request: Request) -> None:
        sent.append(request)

    run, _, defect = run_of(name, before)
    assert defect is None
    assert run.report.exit_code in (0, 4)
    assert not held(run)
    probed = max(n for n, request in enumerate(sent) if "/probe/" in request.key)
    return sent[probed + 1 :]


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    ("error", "again"),
    [*((error, False) for error in ERRORS), (errors.Unavailable, True), (errors.NotFound, True)],
)
def test_after_any_error_at_any_request_nothing_is_held(
    name: str, error: type[BaseException], again: bool, tally: Tally
) -> None:
    """Once, or `again` at every later request of the same kind. How long each request takes, in
    turns of the event loop, is up to a seed: its number.
    """
    tried = requests_of(name)
    tally("errors at requests", len(tried))
    for request in tried:
        chance = random.Random(request.number)

        async def before(
            sent: Request, at: Request = request, chance: random.Random = chance
        ) -> None:
            for _ in range(chance.randrange(16) * sent.key.startswith("data/")):
                await asyncio.sleep(0)
            like = sent.number > at.number and sent.operation == at.operation
            if sent.number == at.number or (again and like):
                raise error("made up")

        context = f"{error.__name__} at {request.operation} {request.key}"
        run, bucket, defect = run_of(name, before)
        assert held(run) == {}, context
        bucket.audit.check(context)
        assert defect is None or isinstance(defect, error), context
        if not issubclass(error, errors.ConfigurationError):
            denied = error is errors.AccessDenied and not run.report.outputs.written
            assert run.report.exit_code != 10 or denied, context


@pytest.mark.parametrize("nth", range(4))
def test_a_copy_that_fails_at_any_moment_leaves_nothing_held(nth: int, tally: Tally) -> None:
    """While the bodies beside it are just about to be read, too."""
    tally("errors at requests", 64)
    for turns in range(64):
        copies = 0

        async def before(sent: Request, turns: int = turns) -> None:
            nonlocal copies
            if not sent.key.startswith("data/"):
                return
            copies += sent.operation == "UploadPartCopy"
            if sent.operation == "UploadPartCopy" and copies == nth + 1:
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise errors.Unavailable("made up", key=sent.key)
            await asyncio.sleep(0)

        run, bucket, _ = run_of("sources that the store copies", before)
        assert copies > nth
        assert held(run) == {}, turns
        bucket.audit.check()


def test_a_defect_met_in_one_group_is_called_one_and_keeps_no_other_from_its_turn() -> None:
    for kind in (RecursionError, MemoryError, ValueError):
        bucket = job("two groups")
        store = MemoryStore(bucket)

        async def before(request: Request, kind: type[Exception] = kind) -> None:
            if request.operation == "GetObject" and request.key.startswith(f"{GROUP}_"):
                raise kind("made up")

        store.before = before
        before_run = readable(contents(bucket))
        report = asyncio.run(new_run(store, settings()).coalesce())
        assert (report.exit_code, report.outputs.written) == (1, 1)
        assert {failure.code for failure in report.failures} == {"Defect"}
        assert "credentials" not in report.failures[0].hint
        assert readable(contents(bucket)) == before_run
