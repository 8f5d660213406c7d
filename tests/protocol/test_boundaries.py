"""The last source of a page, of a record and of a round is treated as all others are."""

import gzip
from collections.abc import Sequence
from dataclasses import fields

import pytest

from coalesce.errors import AccessDenied
from coalesce.model import Batch, GroupId, Plan, Source
from coalesce.naming.layouts import layout
from coalesce.planning import batches as planning
from coalesce.planning.rules import Limits
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.record import PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import decode
from coalesce.protocol.round import work_on_group
from coalesce.protocol.session import GroupRules, Session
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import DeleteResult
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.transfer.limits import Capacity
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.runs import NoLease, new_run
from support.settings import settings

RECORD = "_coalesce/groups/data/t_0"


class Counting(MemoryStore):
    """Notes how many keys each DeleteObjects of sources names, and how often a plan is recorded."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.pages: list[int] = []
        self.records = 0

    async def delete_many(self, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
        if targets[0][0].startswith("data/"):
            self.pages.append(len(targets))
        return await super().delete_many(targets)

    async def put(self, key: str, *arguments: object, **more: object) -> str:
        self.records += key == RECORD
        return await super().put(key, *arguments, **more)  # type: ignore[arg-type]


# --- pages of deletes


@pytest.mark.parametrize("count", [249, 250, 251, 499, 500, 501, 750, 1000, 1001])
async def test_every_source_of_an_output_is_deleted_and_counted(count: int) -> None:
    """S3 deletes at most 1,000 keys with one request."""
    bucket = filled(count=count)
    before = records_in(contents(bucket))
    store = Counting(bucket)
    report = await new_run(store, settings()).coalesce()
    assert (report.exit_code, report.sources.deleted) == (0, count)
    assert set(data_in(bucket.objects)) == {f"data/t_0_0_{count - 1}.jsonl.gz"}
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)
    assert (sum(store.pages), max(store.pages)) == (count, min(count, 250))


# --- rounds


def session(store: MemoryStore) -> Session:
    names = [field.name for field in fields(Capabilities) if field.name != "checksum"]
    rules = GroupRules(
        state="_coalesce/",
        run_id="r",
        version="1",
        layout=layout("corporate"),
        limits=Limits.of(settings()),
        capabilities=Capabilities(**dict.fromkeys(names, True), checksum=Checksum.CRC64NVME),
    )
    return Session(store, rules, NoLease(), Capacity.of(0, 2**20, lambda: 0))


async def first_round(sizes: Sequence[int]) -> int:
    """How many batches of so many sources each are in the first round of a group."""
    store = MemoryStore(MemoryBucket())
    etag = store.bucket.store("data/t_0_0-0.jsonl.gz", b"x")
    source = Source("data/t_0_0-0.jsonl.gz", 1, etag, 0.0, "STANDARD", 0, 0)
    batches = [
        Batch(f"data/t_0_{n}_{n}.jsonl.gz", (source,) * size, size, str(n))
        for n, size in enumerate(sizes)
    ]

    async def refuse(request: Request) -> None:
        if request.operation == "CreateMultipartUpload":
            raise AccessDenied("made up", key=request.key)

    store.before = refuse
    plan = Plan(GroupId("data/", "t", 0), tuple(batches), ())
    outcome = GroupOutcome(lambda _: None)
    stop = Stop(RunLimits(), lambda: 0.0)
    await work_on_group(session(store), plan, (), stop, outcome)
    assert [failure.code for failure in outcome.failures] == ["AccessDenied"]
    return store.usage.requests["CreateMultipartUpload"]


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([2] * 63, 63),
        ([2] * 64, 64),
        ([2] * 65, 64),
        ([12_500, 12_499, 1], 3),
        ([12_500, 12_500, 1], 2),
        ([12_500, 12_501, 1], 1),
        ([24_999, 1, 1], 2),
        ([25_000, 1], 1),
        ([25_001, 1], 1),
    ],
    ids=str,
)
async def test_a_plan_record_holds_64_outputs_and_25000_sources_but_at_least_one_output(
    sizes: list[int], taken: int
) -> None:
    assert await first_round(sizes) == taken


@pytest.mark.parametrize(("outputs", "rounds"), [(63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
async def test_a_group_of_many_outputs_is_joined_round_after_round(
    outputs: int, rounds: int
) -> None:
    bucket = filled(count=2 * outputs)
    before = records_in(contents(bucket))
    store = Counting(bucket)
    report = await new_run(store, settings(max_files=2)).coalesce()
    assert (report.exit_code, report.outputs.written) == (0, outputs)
    assert store.records == rounds
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


# --- plan records


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 1999, 2000, 2001])
def test_a_plan_record_names_every_source_in_its_order(count: int) -> None:
    sources = tuple(
        Source(f"data/t_0_{n}-{n}.jsonl.gz", n, f'"{n}"', 0.0, "STANDARD", n, n)
        for n in range(count)
    )
    output = f"data/t_0_0_{count - 1}.jsonl.gz"
    batch = Batch(output, sources, sum(range(count)), planning.digest(sources))
    group = GroupId("data/", "t", 0)
    record = PlanRecord("r", "corporate", group, (RecordedBatch(batch, "u"),))
    (entry,) = decode(encode(record), RECORD, "_coalesce/").batches
    assert tuple(entry.batch.sources) == sources


# --- reads and parts of 5 and 8 MiB


@pytest.mark.parametrize("size", [5 * 1024**2, 8 * 1024**2])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_source_about_as_large_as_a_part_is_joined_whole(size: int, more: int) -> None:
    bucket = MemoryBucket()
    filler = size + more - len(gzip.compress(b"\n", 0, mtime=0))
    body = gzip.compress(b"x" * filler + b"\n", 0, mtime=0)
    body = gzip.compress(b"x" * (filler - (len(body) - size - more)) + b"\n", 0, mtime=0)
    assert len(body) == size + more
    for n in range(3):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body if n else gzip.compress(b"first\n"))
    bucket.now += 1000
    for check in (True, False):
        copy = MemoryBucket(objects=dict(bucket.objects), now=bucket.now)
        before = records_in(contents(copy))
        report = await new_run(MemoryStore(copy), settings(check=check)).coalesce()
        assert (report.exit_code, report.sources.deleted) == (0, 3)
        assert records_in(contents(copy)) == before
