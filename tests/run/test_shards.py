"""Many processes share the work: every group is one shard's, and nothing goes wrong where two of
them believe otherwise.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coalesce.cli.origins import gather, read_scheduler
from coalesce.cli.request import parse
from coalesce.errors import UsageError
from coalesce.listing.groups import Listing, list_groups
from coalesce.naming.layouts import layout
from coalesce.naming.shards import Shard, balance, share_of
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.base import Page
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import S3Store
from support import auditor
from support.buckets import (
    check_finished,
    contents,
    data_in,
    fill,
    filled,
    look,
    records_in,
)
from support.command import environment
from support.settings import settings
from support.shards import die


def outputs_in(bucket: MemoryBucket) -> set[str]:
    return set(data_in(bucket.objects)) - set(auditor.sources(bucket.objects))


segments = st.text("ab_-.01", min_size=1, max_size=8)
paths = st.lists(segments, max_size=3).map(lambda parts: "".join(f"{part}/" for part in parts))
groups = st.tuples(paths, segments, st.integers(0, 30))


@pytest.mark.parametrize(
    ("key", "share", "of_16"),
    [
        (
            "corporate_storage/ucfs_main/2026/11/22/db.core.topic_0_1-9.jsonl.gz",
            "corporate_storage/ucfs_main/2026/11/22/db.core.topic_0",
            9,
        ),
        ("data/db.core.topic_12_", "data/db.core.topic_12", 6),
        ("a_1_b_0_5-9.jsonl.gz", "a_1", 13),
        ("README", "README", 12),
        ("x_1_y/t_0_5-9.jsonl.gz", "x_1_y/t_0", 15),
    ],
)
def test_the_shard_of_a_group_never_changes(key: str, share: str, of_16: int) -> None:
    """These values are an interface: a shard that is run again by another version must own what it
    owned before.
    """
    assert share_of(key) == share
    assert [n for n in range(16) if Shard(n, 16).owns(key)] == [of_16]


@given(groups, st.integers(1, 40), st.integers(0, 10**6))
def test_every_key_of_a_group_is_the_same_one_shards(
    group: tuple[str, str, int], count: int, offset: int
) -> None:
    directory, topic, partition = group
    prefix = f"{directory}{topic}_{partition}_"
    for key in (
        prefix,
        f"{prefix}{offset}-{offset + 1}.jsonl.gz",
        f"{prefix}{offset}_{offset + 1}.jsonl.gz",
    ):
        assert [n for n in range(count) if Shard(n, count).owns(key)] == [
            n for n in range(count) if Shard(n, count).owns(prefix)
        ]
    assert sum(Shard(n, count).owns(prefix) for n in range(count)) == 1


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_shards_meet_as_their_keys_do(first: int, second: int, data: st.DataObject) -> None:
    one, other = (
        Shard(data.draw(st.integers(0, first - 1)), first),
        Shard(data.draw(st.integers(0, second - 1)), second),
    )
    keys = [f"d/t-{n}_0_" for n in range(600)]
    owned = [{key for key in keys if shard.owns(key)} for shard in (one, other)]
    if owned[0] & owned[1]:
        assert one.meets(other)
    assert one.meets(other) == other.meets(one)


def test_shares_of_one_plan_never_meet_and_any_other_cut_may() -> None:
    one, twin, retry = Shard(0, 2, "aa"), Shard(1, 2, "aa"), Shard(0, 2, "aa")
    assert not one.meets(twin)
    assert one.meets(retry)
    assert one.meets(Shard(1, 3, "aa"))
    assert one.meets(Shard(1, 2, "bb"))
    assert one.meets(Shard(1, 2))


class SmallPages(MemoryStore):
    """Fifty keys a page, so that small buckets are split as large ones are."""

    async def list_page(
        self, prefix: str, *, delimiter: str = "", token: str | None = None, max_keys: int = 50
    ) -> Page:
        return await super().list_page(
            prefix, delimiter=delimiter, token=token, max_keys=min(max_keys, 50)
        )


@example([("", "my", n) for n in range(6)] + [("my_1_dir/", "t", n) for n in range(9)], 3, 40)
@given(
    st.lists(groups, min_size=1, max_size=12, unique=True), st.integers(2, 5), st.integers(1, 40)
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_shards_together_list_every_source_and_count_every_key_once(
    chosen: list[tuple[str, str, int]], count: int, sources: int
) -> None:
    """Whatever the names: topics that hold numbers, and directories that begin like groups, are the
    traps.
    """
    bucket = MemoryBucket()
    for directory, topic, partition in chosen:
        for n in range(sources):
            bucket.store(f"p/{directory}{topic}_{partition}_{n}-{n}.jsonl.gz", b"1")
            bucket.store(f"p/{directory}{topic}_{partition}_x{n}", b"1")
    found: Counter[str] = Counter()
    keys = 0

    async def take(piece: Listing) -> None:
        nonlocal keys
        keys += piece.keys
        found.update(source.key for group in piece.groups for source in group.sources)

    async def all_shards() -> None:
        for n in range(count):
            await list_groups(
                SmallPages(bucket),
                ("p/",),
                layout("corporate"),
                state_prefix="",
                on_listing=take,
                on_failure=pytest.fail,
                shard=Shard(n, count),
            )

    asyncio.run(all_shards())
    named = {
        key
        for key in bucket.objects
        if (name := layout("corporate").parse(key)) and name.kind == "source"
    }
    assert set(found) == named
    assert keys >= len(bucket.objects)
    if not any(
        share_of(directory.rstrip("/") + "_0_") != directory.rstrip("/") + "_0"
        for directory, _, _ in chosen
    ):
        assert set(found.values()) <= {1}
        assert keys == len(bucket.objects)


async def test_a_shard_lists_the_groups_of_the_others_not_at_all() -> None:
    bucket = MemoryBucket()
    for partition in range(20):
        for n in range(1500):
            bucket.store(f"p/t_{partition}_{n}-{n}.jsonl.gz", b"1")
    asked: list[int] = []
    for n in range(4):
        store, listed = MemoryStore(bucket), set[str]()

        async def before(request: Request, listed: set[str] = listed) -> None:
            listed.add(request.key)

        async def take(_: Listing) -> None:
            return None

        store.before = before
        shard = Shard(n, 4)
        await list_groups(
            store,
            ("p/",),
            layout("corporate"),
            state_prefix="",
            on_listing=take,
            on_failure=pytest.fail,
            shard=shard,
        )
        assert {key for key in listed if share_of(key) != key} == {
            f"p/t_{p}_" for p in range(20) if shard.owns(f"p/t_{p}_")
        }
        asked.append(store.usage.requests["ListObjectsV2"])
    assert sum(asked) < 20 * 2 + 4 * 8


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, "0/1"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "3", "AWS_BATCH_JOB_ARRAY_SIZE": "20"}, "3/20"),
        ({"JOB_COMPLETION_INDEX": "1", "COALESCE_SHARDS": "2"}, "1/2"),
        ({"JOB_COMPLETION_INDEX": "1"}, "0/1"),
    ],
)
def test_schedulers_say_which_shard_a_job_is(environment: dict[str, str], shard: str) -> None:
    typed = {"bucket": "b", "prefix": ["p"]}
    scheduler = read_scheduler(environment)
    assert str(parse(Settings, gather(typed, {}, {}, scheduler)).shard) == shard
    typed["shard"] = "0/1"
    whole = parse(Settings, gather(typed, {}, {}, scheduler))
    assert str(whole.shard) == "0/1", "what is typed goes before"


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "1/0", "1/2/3", ""])
def test_a_shard_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse(Settings, {"bucket": "b", "prefix": ["p"], "shard": text})


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 8))
def test_work_is_cut_evenly(work: list[float], count: int) -> None:
    """No share exceeds the smallest by more than one piece."""
    shares = balance(work, count)
    loads = [
        sum(piece for piece, share in zip(work, shares, strict=True) if share == n)
        for n in range(count)
    ]
    assert max(loads) - min(loads) <= max(work, default=0) + 1e-9
    assert balance(work, count) == shares


async def test_a_shard_does_its_own_groups_and_its_report_says_so() -> None:
    bucket = filled(12)
    own = [group for group in range(12) if Shard(1, 3).owns(f"data/t_{group}_")]
    assert 0 < len(own) < 12
    report = await Run(MemoryStore(bucket), settings(shard="1/3")).coalesce()
    assert (report.exit_code, report.scope.shard) == (0, "1/3")
    assert (report.groups.seen, report.sources.joined) == (len(own), 4 * len(own))
    assert outputs_in(bucket) == {f"data/t_{group}_0_3.jsonl.gz" for group in own}


async def test_what_a_dead_shard_left_is_settled_by_whichever_shard_runs_next() -> None:
    """Its groups are joined only by its own next run."""
    bucket = filled(12)
    original = records_in(contents(bucket))
    await die(bucket, "1/3", "CompleteMultipartUpload", "data/")
    assert [key for key in bucket.objects if "/groups/" in key]
    bucket.now += 1000
    report = await Run(MemoryStore(bucket), settings(shard="0/3")).coalesce()
    assert (report.exit_code, report.outputs.recovered) == (0, 0)
    assert all(Shard(0, 3).owns(key) for key in outputs_in(bucket))
    check_finished(bucket.objects)
    assert not bucket.uploads
    for shard in ("1/3", "2/3"):
        assert (await Run(MemoryStore(bucket), settings(shard=shard)).coalesce()).exit_code == 0
    assert records_in(contents(bucket)) == original
    assert len(data_in(bucket.objects)) == 12


async def test_a_dead_shards_uploads_are_swept_while_another_shard_works_and_keeps_its_own() -> (
    None
):
    """Uploads that no record names: the run died before it could write one."""
    bucket = filled(12)
    store, working = MemoryStore(bucket), asyncio.Event()
    go_on = asyncio.Event()

    async def before(request: Request) -> None:
        if request.operation == "PutObject" and "/groups/" in request.key:
            working.set()
            await go_on.wait()

    store.before = before
    other = asyncio.create_task(Run(store, settings(shard="0/3")).coalesce())
    await working.wait()
    live = set(bucket.uploads)
    (lease,) = (key for key in bucket.objects if key.startswith("_coalesce/runs/"))
    await die(bucket, "1/3", "PutObject", "/groups/")
    assert live < set(bucket.uploads)
    bucket.now += 1000
    bucket.objects[lease] = replace(bucket.objects[lease], modified=bucket.now)  # it was renewed
    assert (await Run(MemoryStore(bucket), settings(shard="1/3")).coalesce()).exit_code == 0
    assert set(bucket.uploads) == live
    go_on.set()
    assert (await other).exit_code == 0
    assert not bucket.uploads
    check_finished(bucket.objects)


async def start_shard(
    bucket: S3Store, index: int, count: int, *more: str
) -> asyncio.subprocess.Process:
    array = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": str(count)}
    command = [
        sys.executable,
        "-m",
        "coalesce",
        "run",
        "-b",
        bucket.bucket,
        "-p",
        "data",
        "--min-age",
        "0",
        "--lease",
        "5s",
        "--output",
        "json",
        *more,
    ]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, env=environment(bucket.endpoint) | array, stdout=pipe, stderr=pipe
    )


@pytest.mark.timeout(180)
async def test_an_array_of_real_processes_with_one_killed_and_one_started_twice_does_all_once(
    bucket: S3Store,
) -> None:
    await fill(bucket, 30, 3)
    original = records_in(await look(bucket))
    victim = await start_shard(bucket, 0, 3, "-t", "1")
    assert victim.stdout is not None
    await victim.stdout.readline()
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    array = [await start_shard(bucket, index, 3) for index in (0, 1, 1, 2)]
    ended = [await process.communicate() for process in array]
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    assert all(process.returncode in (0, 11) for process in array), [err for _, err in ended]
    held = await look(bucket)
    check_finished(held)
    assert not await bucket.list_uploads("")
    assert sorted(data_in(held)) == sorted(
        f"data/db.core.topic_{group}_0_29.jsonl.gz" for group in range(30)
    )
    assert records_in(held) == original
    told = Counter(
        json.loads(line)["key"]
        for out, _ in ended
        for line in out.splitlines()
        if b'"type": "output"' in line
    )
    assert set(told) <= set(data_in(held))
    others = {times for key, times in told.items() if not Shard(0, 3).owns(key)}
    assert others == {1}, "no group was worked on by two; what the dead one left may be settled so"
    assert [summary["scope"]["shard"] for summary in summaries] == ["0/3", "1/3", "1/3", "2/3"]
