"""A written plan: joined exactly as it says, by any number of shards, or left and reported."""

import asyncio
import datetime as dt
import gzip
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from coalesce.errors import ConfigurationError, UsageError
from coalesce.library.plans import planned_settings
from coalesce.planning.plan_files import PlanFile, load
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import S3Store
from support import auditor
from support.buckets import check_finished, contents, data_in, fill, filled, look, records_in
from support.command import coalesce
from support.scenarios import Killed, dying
from support.settings import settings

TODAY = dt.date(2026, 11, 22)


SETTINGS = settings(max_files=3)


def filled_unevenly(groups: int = 8) -> MemoryBucket:
    """Groups of six, nine or twelve sources."""
    bucket = filled(groups, 12)
    for group in range(groups):
        for n in range(6 + 3 * (group % 3), 12):
            bucket.remove(f"data/t_{group}_{n}-{n}.jsonl.gz")
    return bucket


async def make_plan(bucket: MemoryBucket, chosen: Settings = SETTINGS) -> PlanFile:
    run = Run(MemoryStore(bucket), chosen)
    report = await run.plan()
    return PlanFile.of(
        chosen,
        report.scope.prefixes,
        run.lines,
        version="1",
        created="2026-11-22T00:00:00Z",
    )


async def execute(bucket: MemoryBucket, plan: PlanFile, shard: str = "0/1") -> Report:
    chosen = planned_settings({"shard": shard}, load(plan.dump(), "plan"), TODAY)
    return await Run(MemoryStore(bucket), chosen, planned=plan).coalesce()


async def test_what_was_planned_is_what_is_done_and_stands_in_the_ledger() -> None:
    bucket = filled_unevenly()
    plan = await make_plan(bucket)
    records = records_in(contents(bucket))
    assert (await execute(bucket, plan)).exit_code == 0
    outputs = {batch.output for group in plan.groups for batch in group.batches}
    assert set(data_in(bucket.objects)) == outputs
    check_finished(bucket.objects)
    assert records_in(contents(bucket)) == records


async def test_shards_of_a_plan_do_all_of_it_once_and_share_the_work_evenly() -> None:
    bucket = filled_unevenly(9)
    plan = await make_plan(bucket)
    records = records_in(contents(bucket))
    reports = await asyncio.gather(*(execute(bucket, plan, f"{n}/3") for n in range(3)))
    assert [report.exit_code for report in reports] == [0, 0, 0]
    assert (
        sum(report.outputs.written for report in reports)
        == len(data_in(bucket.objects))
        == sum(len(group.batches) for group in plan.groups)
    )
    assert records_in(contents(bucket)) == records
    joined = [report.sources.joined for report in reports]
    assert max(joined) - min(joined) <= 12, "no share exceeds another by more than one group"


async def test_a_plan_lists_only_its_groups() -> None:
    bucket = filled_unevenly()
    plan = await make_plan(bucket)
    prefixes: list[str] = []
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "ListObjectsV2":
            prefixes.append(request.key)

    store.before = before
    await Run(store, planned_settings({"shard": "1/4"}, plan, TODAY), planned=plan).coalesce()
    own = {
        line.id.prefix for line in plan.share(planned_settings({"shard": "1/4"}, plan, TODAY).shard)
    }
    assert {key for key in prefixes if key.startswith("data/")} == own


async def test_outputs_that_no_longer_match_are_left_and_reported_and_all_others_done() -> None:
    bucket = filled_unevenly()
    plan = await make_plan(bucket)
    bucket.store("data/t_2_1-1.jsonl.gz", gzip.compress(b"changed\n", mtime=0))
    bucket.remove("data/t_3_4-4.jsonl.gz")
    records = records_in(contents(bucket))
    report = await execute(bucket, plan)
    assert report.exit_code == 1
    assert sorted((failure.group, failure.code) for failure in report.failures) == [
        ("data/t_2", "PlanStale"),
        ("data/t_3", "PlanStale"),
    ]
    assert all(" 1 output of the saved plan cannot " in found.message for found in report.failures)
    assert records_in(contents(bucket)) == records
    left = set(auditor.sources(bucket.objects))
    assert {f"data/t_2_{n}-{n}.jsonl.gz" for n in range(3)} <= left
    assert not any(
        key.startswith(f"data/t_{group}_") for key in left for group in (0, 1, 4, 5, 6, 7)
    )


async def test_a_source_that_came_later_is_left_for_the_next_plan() -> None:
    bucket = filled_unevenly(1)
    plan = await make_plan(bucket, settings(max_files=3, min_age=1))
    bucket.store("data/t_0_99-99.jsonl.gz", gzip.compress(b"new\n", mtime=0))
    bucket.now += 1000
    assert (await execute(bucket, plan)).exit_code == 0
    assert auditor.sources(bucket.objects) == ["data/t_0_99-99.jsonl.gz"]


def left(report: Report) -> dict[str, int]:
    assert report.sources.seen == report.sources.joined + sum(report.sources.left.values())
    return {why: count for why, count in report.sources.left.items() if count}


async def test_what_a_plan_does_not_take_is_kept_for_its_reason_and_nothing_has_failed() -> None:
    bucket = filled_unevenly(1)
    bucket.store("data/t_0_70-70.jsonl.gz", b"")
    bucket.now += 500
    plan = await make_plan(bucket, settings(max_files=3, min_age=100, exclude=("*_5-5.*",)))
    bucket.store("data/t_0_99-99.jsonl.gz", gzip.compress(b"new\n", mtime=0))
    bucket.now += 86_400
    report = await execute(bucket, plan)
    assert (report.exit_code, report.failures, report.groups.failed) == (0, [], 0)
    assert left(report) == {"empty": 1, "excluded": 1, "unplanned": 1}
    again = await execute(bucket, plan)
    assert (again.exit_code, again.failures, again.groups.failed) == (0, [], 0)
    assert left(again) == left(report)


async def test_a_source_that_a_run_before_has_joined_around_is_kept_and_nothing_has_failed() -> (
    None
):
    """The output of the others got the name that the plan gave to all."""
    bucket = filled(0, 0)
    for offsets in ("0-0", "1-9", "2-3", "4-9", "5-5"):
        bucket.store(f"data/t_0_{offsets}.jsonl.gz", gzip.compress(b"%b\n" % offsets.encode()))
    plan = await make_plan(bucket, settings())
    await Run(MemoryStore(bucket), settings(exclude=("*_2-3.*",))).coalesce()
    report = await execute(bucket, plan)
    assert "data/t_0_2-3.jsonl.gz" in bucket.objects
    assert (report.exit_code, report.failures, report.groups.failed) == (0, [], 0)
    assert left(report) == {"covered": 1}


async def test_a_shard_of_a_plan_can_be_killed_at_any_request_and_tried_again() -> None:
    """What the first try joined is no reason to complain at the second."""
    whole = MemoryStore(filled_unevenly(2))
    await Run(whole, SETTINGS).coalesce()
    for at in range(60, whole.usage.requests.total(), 3):
        bucket = filled_unevenly(2)
        plan = await make_plan(bucket)
        records = records_in(contents(bucket))
        with suppress(Killed, BaseExceptionGroup):
            await Run(
                dying(MemoryStore(bucket), at, answered=bool(at % 2)),
                planned_settings({}, plan, TODAY),
                planned=plan,
            ).coalesce()
        bucket.now += 1000
        report = await execute(bucket, plan)
        context = f"killed at request {at}"
        assert (report.exit_code, report.failures) == (0, []), context
        assert records_in(contents(bucket)) == records, context
        assert not auditor.sources(bucket.objects), context
        assert not bucket.uploads, context


@pytest.mark.parametrize(
    "damage", ["truncated", "a line less", "changed", "empty", "no plan", "another version"]
)
async def test_a_damaged_plan_is_refused(damage: str) -> None:
    text = (await make_plan(filled_unevenly(3))).dump()
    lines = text.split("\n")
    damaged = {
        "truncated": text[:-30],
        "a line less": "\n".join([lines[0], *lines[2:]]),
        "changed": text.replace('"max_files":3', '"max_files":4'),
        "empty": "",
        "no plan": '{"type": "summary"}\n',
        "another version": text.replace('"schema":1', '"schema":2'),
    }[damage]
    assert damaged != text
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load(damaged, "plan")


async def test_a_plan_that_names_outputs_outside_its_scope_is_refused_even_with_a_right_hash() -> (
    None
):
    plan = await make_plan(filled_unevenly(2))
    wrong = plan.groups[0].model_copy(update={"directory": "elsewhere/"})
    with pytest.raises(ConfigurationError, match="not an output of its group"):
        load(
            PlanFile.of(
                SETTINGS, ["data/"], [wrong, plan.groups[1]], version="1", created=""
            ).dump(),
            "plan",
        )


async def test_other_options_than_the_plans_are_refused() -> None:
    plan = await make_plan(filled_unevenly(1))
    same = {"bucket": "b", "prefix": ["data/"], "max_files": 3, "min_age": "0", "concurrency": 3}
    assert planned_settings(same, plan, TODAY).concurrency == 3
    for other in (
        {"max_files": 4},
        {"prefix": ["other"]},
        {"bucket": "c"},
        {"layout": "manifest"},
        {"date": "today"},
    ):
        with pytest.raises(
            UsageError,
            match=next(iter(other)).replace("_", "-").replace("date", "prefix"),
        ):
            planned_settings({**same, **other}, plan, TODAY)
    assert replace(plan, groups=()).share(SETTINGS.shard) == ()


@pytest.mark.timeout(300)  # several processes
async def test_the_command_writes_a_plan_and_works_it_off_in_shards(
    bucket: S3Store, tmp_path: Path
) -> None:
    await fill(bucket, 4, 3)
    before = await look(bucket)
    path = str(tmp_path / "plan.jsonl")
    done = coalesce(
        bucket, "plan", f"s3://{bucket.bucket}/data", "--min-age", "0", "--save-plan", path
    )
    assert done.returncode == 0, done.stderr
    assert await look(bucket) == before
    header, *lines = (
        json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()
    )
    assert (header["groups"], header["options"]["prefix"], len(lines)) == (4, ["data/"], 4)
    for shard in ("0/2", "1/2"):
        done = coalesce(bucket, "run", "--plan", path, "--shard", shard)
        assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert sorted(data_in(held)) == sorted(
        batch["output"] for line in lines for batch in line["batches"]
    )
    check_finished(held)
    assert records_in(held) == records_in(before)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--plan", "none.jsonl"], 2, "none.jsonl"),
        (["run", "--plan", "damaged.jsonl"], 10, "damaged.jsonl"),
        (["plan", "-b", "b", "-p", "p", "--plan", "damaged.jsonl"], 2, "--plan is for `run`"),
        (["run", "-b", "b", "-p", "p", "--save-plan", "x"], 2, "--save-plan is for `plan`"),
        (["plan", "-b", "b", "-p", "p", "--save-plan", "x", "--shard", "0/2"], 2, "all shards"),
    ],
)
async def test_a_plan_that_cannot_be_used_gets_one_clear_line(
    bucket: S3Store, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "damaged.jsonl").write_text('{"type": "plan"')
    done = coalesce(
        bucket, *(str(tmp_path / part) if part.endswith(".jsonl") else part for part in arguments)
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
