"""`status` says what lies there, what is unfinished and what a run would change, and changes
nothing.
"""

import asyncio
import gzip
import json

import pytest

from coalesce.errors import AccessDenied
from coalesce.inspect.status import read_status
from coalesce.report.report import PATH_LIST_LIMIT
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import S3Store
from support.buckets import fill, filled, look
from support.command import coalesce
from support.settings import settings
from support.shards import die


async def test_it_counts_what_is_there_and_what_a_run_would_leave() -> None:
    bucket = filled(3)
    bucket.store("data/t_9_0-0.jsonl.gz", b"alone")
    bucket.store("data/t_9_1_5.jsonl.gz", b"an output")
    bucket.store("data/other", b"other")
    before = dict(bucket.objects)
    status = await read_status(MemoryStore(bucket), settings())
    assert bucket.objects == before
    assert (status.sources.count, status.outputs.count, status.other.count, status.other.bytes) == (
        13,
        1,
        1,
        5,
    )
    assert status.sources.bytes + status.outputs.bytes + 5 == sum(
        len(stored.data) for stored in before.values()
    )
    assert status.left == {"single": 1}
    assert [(topic.topic, topic.would_join, topic.would_write) for topic in status.topics] == [
        ("t", 12, 3)
    ]
    assert (status.unfinished, status.leases, status.uploads, status.exit_code) == ([], [], 0, 0)
    assert status.path_list.before == len(",".join(f"s3://b/{key}" for key in before)) + 1
    await Run(MemoryStore(bucket), settings()).coalesce()
    after = [key for key in bucket.objects if key.startswith("data/")]
    assert status.path_list.after == len(",".join(f"s3://b/{key}" for key in after)) + 1


async def test_shards_see_the_whole_together() -> None:
    bucket = filled(12)
    bucket.store("data/other", b"other")
    whole = await read_status(MemoryStore(bucket), settings())
    parts = [await read_status(MemoryStore(bucket), settings(shard=f"{n}/3")) for n in range(3)]
    for name in ("sources", "outputs", "other"):
        assert sum(getattr(part, name).count for part in parts) == getattr(whole, name).count
    assert sum(part.path_list.before for part in parts) == whole.path_list.before


async def test_unfinished_groups_uploads_leases_and_leftovers_are_shown() -> None:
    """A run that stands before its first delete, first alive, then dead."""
    bucket = filled(2)
    store, reached, go_on = MemoryStore(bucket), asyncio.Event(), asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == "DeleteObjects" and "/probe/" not in request.key:
            reached.set()
            await go_on.wait()

    store.before = before
    run = asyncio.create_task(Run(store, settings()).coalesce())
    await reached.wait()
    await asyncio.sleep(0)
    status = await read_status(MemoryStore(bucket), settings())
    assert {line.group for line in status.unfinished} == {"data/t_0", "data/t_1"}
    assert all(line.alive for line in status.unfinished)
    assert status.leftovers == 4 * status.outputs.count > 0
    assert [lease.alive for lease in status.leases] == [True]
    assert status.uploads == len(bucket.uploads)
    bucket.now += 1000
    status = await read_status(MemoryStore(bucket), settings())
    assert not any(line.alive for line in status.unfinished)
    assert [lease.alive for lease in status.leases] == [False]
    bucket.now -= 1000
    go_on.set()
    assert (await run).exit_code == 0
    assert (await read_status(MemoryStore(bucket), settings())).unfinished == []


async def test_a_source_whose_output_is_not_there_is_no_leftover() -> None:
    bucket = filled(12)
    await die(bucket, "1/3", "CompleteMultipartUpload", "data/")
    status = await read_status(MemoryStore(bucket), settings())
    assert len(status.unfinished) > 0 == status.leftovers


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_what_is_joined_already_is_neither_kept_nor_joined_again(layout: str) -> None:
    """Sources of a run with `--no-delete`, which the next run without it deletes."""
    bucket = filled(2) if layout == "corporate" else filled(0)
    for n in range(0 if layout == "corporate" else 4):
        bucket.store(f"data/t_0_{n}0-t_0_{n}9.txt", b"line\n")
    bucket.now += 1000
    kept = settings(layout=layout, delete=False)
    assert (await Run(MemoryStore(bucket), kept).coalesce()).exit_code == 0
    status = await read_status(MemoryStore(bucket), settings(layout=layout))
    assert status.leftovers == status.sources.count > 0
    assert (status.left, [topic.would_join for topic in status.topics]) == ({}, [0])
    assert (await Run(MemoryStore(bucket), settings(layout=layout)).coalesce()).exit_code == 0
    after = [key for key in bucket.objects if key.startswith("data/")]
    assert status.path_list.after == len(",".join(f"s3://b/{key}" for key in after)) + 1


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_a_plan_leaves_out_what_the_run_will_find_joined(layout: str) -> None:
    """Sources of a run with `--no-delete`, and others that came after it."""
    bucket = filled(2) if layout == "corporate" else filled(0)
    for n in range(0 if layout == "corporate" else 4):
        bucket.store(f"data/t_0_{n}0-t_0_{n}9.txt", b"line\n")
    bucket.now += 1000
    kept = settings(layout=layout, delete=False)
    assert (await Run(MemoryStore(bucket), kept).coalesce()).exit_code == 0
    joined = sum("-" in key for key in bucket.objects if key.startswith("data/"))
    for n in (100, 101):
        name = f"{n}-{n}.jsonl.gz" if layout == "corporate" else f"{n}-t_0_{n}.txt"
        data = gzip.compress(b"{}\n") if layout == "corporate" else b"line\n"
        bucket.store(f"data/t_0_{name}", data)
    bucket.now += 1000
    planned = await Run(MemoryStore(bucket), settings(layout=layout)).plan()
    assert planned.plan is not None
    assert {why: n for why, n in planned.sources.left.items() if n} == {"unfinished": joined}
    assert sum(topic.joined for topic in planned.plan.topics) == 2
    report = await Run(MemoryStore(bucket), settings(layout=layout)).coalesce()
    assert (report.exit_code, report.sources.joined) == (0, 2)
    assert planned.path_list.after == report.path_list.after


async def test_a_plan_tells_of_a_record_that_cannot_be_read() -> None:
    bucket = filled(2)
    bucket.store("_coalesce/groups/data/t_0", b"damaged")
    report = await Run(MemoryStore(bucket), settings()).plan()
    assert (report.exit_code, [failure.code for failure in report.failures]) == (
        4,
        ["RecordDamaged"],
    )


async def test_a_damaged_record_is_told_and_the_rest_shown() -> None:
    bucket = filled(2)
    bucket.store("_coalesce/groups/data/t_0", b"damaged")
    status = await read_status(MemoryStore(bucket), settings())
    assert (
        status.sources.count,
        status.exit_code,
        [failure.code for failure in status.failures],
    ) == (8, 4, ["RecordDamaged"])


async def test_a_record_that_may_not_be_read_is_told_and_the_rest_shown() -> None:
    bucket = filled(2)
    bucket.store("_coalesce/groups/data/t_0", b"a record")
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "GetObject":
            raise AccessDenied(f"{request.key}: 403 AccessDenied", key=request.key)

    store.before = before
    status = await read_status(store, settings())
    assert [failure.key for failure in status.failures] == ["_coalesce/groups/data/t_0"]
    assert (status.exit_code, status.sources.count) == (1, 8)


async def test_a_path_list_over_the_limit_is_shown_as_such() -> None:
    bucket = MemoryBucket()
    bucket.store("data/t_0_1-1.jsonl.gz", gzip.compress(b"x\n"))
    status = await read_status(MemoryStore(bucket), settings())
    from coalesce.cli.status import bar

    assert status.path_list.limit == PATH_LIST_LIMIT
    assert bar(PATH_LIST_LIMIT * 3, PATH_LIST_LIMIT, "now").startswith(f"▕{'█' * 24}▏ ")
    assert bar(PATH_LIST_LIMIT // 2, PATH_LIST_LIMIT, "now").startswith(f"▕{'█' * 12}{' ' * 12}▏ ")
    assert bar(PATH_LIST_LIMIT // 100, PATH_LIST_LIMIT, "now").startswith(f"▕▎{' ' * 23}▏ ")
    assert bar(1, PATH_LIST_LIMIT, "now").startswith(f"▕{' ' * 24}▏ ")


@pytest.mark.timeout(180)
async def test_the_command_prints_it_as_text_and_as_json(bucket: S3Store) -> None:
    await fill(bucket, 3, 4)
    before = await look(bucket)
    scope = [f"s3://{bucket.bucket}/data", "--min-age", "0"]
    text = coalesce(bucket, "status", *scope)
    assert (text.returncode, text.stderr) == (0, "")
    row = next(
        line.split() for line in text.stdout.splitlines() if line.startswith("db.core.topic")
    )
    assert (row[1], row[4], row[7:]) == ("12", "0", ["12", "3"])
    done = coalesce(bucket, "status", *scope, "--output", "json")
    status = json.loads(done.stdout)
    assert (status["type"], status["schema"], status["sources"]["count"]) == ("status", 1, 12)
    assert await look(bucket) == before
    assert coalesce(bucket, "status", "s3://no-such-bucket/data").returncode == 10
