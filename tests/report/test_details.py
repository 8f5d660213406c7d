"""What a report says in the rarer cases, and which exit code wins."""

import asyncio
import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from coalesce import errors
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.report import usage
from coalesce.report.account import Account, new_report
from coalesce.report.merging import load, merge
from coalesce.report.prices import cost
from coalesce.report.report import MOST_PLAN_RECORDS, Report, stages
from coalesce.report.usage import ProcessUsage, usable_cpus
from coalesce.stop import RunLimits, Stop
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support import lakes
from support.buckets import filled, sources
from support.runs import new_run
from support.settings import settings

# As `INTERFACE` and docs/exit-codes.md have it; an interruption between what a person must mend
# and what the next run mends.
ORDER = [10, 4, 143, 130, 1, 75, 12, 11, 0, 3]


@pytest.mark.parametrize(("worse", "better"), list(combinations(ORDER, 2)))
def test_the_worse_exit_code_wins(worse: int, better: int) -> None:
    assert worst(worse, better) == worst(better, worse) == worse


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.ConfigurationError("x"), 10),
        (errors.GroupOwned("x"), 11),
        (errors.LeaseLost("x"), 75),
        (errors.Unavailable("x"), 75),
        (errors.Throttled("x"), 75),
        (errors.ContentError("x"), 4),
        (errors.IntegrityError("x"), 4),
        (errors.AccessDenied("x"), 1),
    ],
)
def test_each_failure_has_its_exit_code(error: errors.CoalesceError, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    ("operation", "usd"),
    [
        ("PutObject", 5.0),
        ("ListObjectsV2", 5.0),
        ("CreateMultipartUpload", 5.0),
        ("UploadPart", 5.0),
        ("CompleteMultipartUpload", 5.0),
        ("ListMultipartUploads", 5.0),
        ("GetObject", 0.4),
        ("HeadObject", 0.4),
        ("DeleteObjects", 0.0),
        ("DeleteObject", 0.0),
    ],
)
def test_a_million_requests_cost_what_the_price_list_says(operation: str, usd: float) -> None:
    assert cost(Counter({operation: 1_000_000})) == usd


async def run(bucket: MemoryBucket, **more: object) -> Report:
    return await new_run(MemoryStore(bucket), settings(**more)).coalesce()


def test_what_is_finished_for_an_earlier_run_is_not_joined_by_this_one() -> None:
    report = asyncio.run(run(lakes.copy_of(lakes.unfinished())))
    seen = report.sources.joined + sum(report.sources.left.values())
    assert report.outputs.recovered == report.recovered.outputs > 0
    assert report.sources.seen == seen


def test_what_two_shards_settle_at_once_counts_once_in_their_merged_report() -> None:
    """Each has found it proven; but only one has deleted each source."""
    bucket, whole = (lakes.copy_of(lakes.unfinished()) for _ in range(2))
    alone = asyncio.run(new_run(MemoryStore(whole), settings()).coalesce())

    async def both() -> list[Report]:
        meetings: dict[str, asyncio.Barrier] = {}

        def meet() -> MemoryStore:
            store, met = MemoryStore(bucket), set[str]()

            async def before(request: Request) -> None:
                planned = request.operation == "HeadObject" and request.key.startswith("data/")
                if planned and request.key not in met:
                    met.add(request.key)
                    await meetings.setdefault(request.key, asyncio.Barrier(2)).wait()

            store.before = before
            return store

        runs = (new_run(meet(), settings(shard=f"{n}/2")).recover() for n in range(2))
        return list(await asyncio.gather(*runs))

    reports = asyncio.run(both())
    assert [report.outputs.recovered for report in reports] == [alone.outputs.recovered] * 2
    merged = merge(reports)
    assert merged.recovered == alone.recovered
    assert merged.outputs.recovered == alone.outputs.recovered


def test_what_is_settled_in_two_tries_counts_once_in_their_merged_report() -> None:
    bucket, whole = (lakes.copy_of(lakes.unfinished()) for _ in range(2))
    alone = asyncio.run(new_run(MemoryStore(whole), settings()).recover())
    first = asyncio.run(new_run(MemoryStore(bucket), settings(max_delete=3)).recover())
    second = asyncio.run(new_run(MemoryStore(bucket), settings()).recover())
    assert first.exit_code == ExitCode.LIMIT
    assert first.outputs.recovered > 0
    merged = merge([first, second])
    assert merged.recovered == alone.recovered
    assert merged.outputs.recovered == alone.outputs.recovered


def test_a_plan_record_that_no_shard_can_settle_counts_once_in_their_merged_report() -> None:
    def refuse(shard: str) -> Report:
        bucket = lakes.copy_of(lakes.unfinished())
        bucket.store("_coalesce/groups/data/db.core.topic_0", b"damaged")
        return asyncio.run(new_run(MemoryStore(bucket), settings(shard=shard)).recover())

    merged = merge([refuse("0/2"), refuse("1/2")])
    assert (merged.recovered.groups, merged.recovered.unsettled_groups) == (1, 1)


def test_a_plan_record_that_another_run_removes_first_is_not_counted_as_settled() -> None:
    bucket = lakes.copy_of(lakes.unfinished())
    store, key = MemoryStore(bucket), "_coalesce/groups/data/db.core.topic_0"

    async def before(request: Request) -> None:
        if (request.operation, request.key) == ("GetObject", key):
            bucket.remove(key)

    store.before = before
    report = asyncio.run(new_run(store, settings()).recover())
    assert (report.exit_code, report.recovered.groups) == (0, 1)
    assert [record.group for record in report.recovered.plan_records] == ["data/db.core.topic_1"]


def test_a_report_names_the_same_plan_records_in_whatever_order_they_are_settled() -> None:
    """A bounded number of them; what is not named adds up."""
    names = [f"data/t_{n:05}" for n in range(MOST_PLAN_RECORDS + 200)]

    def settled(order: list[str]) -> Report:
        report = new_report(f"r{order[0]}", settings(), ["data/"])
        account = Account(report, lambda _: None, 1000)
        for name in order:
            account.count_plan_record(account.new_outcome(name), name, "dead", "settled")
        return report

    one, other = settled(names), settled(names[::-1])
    assert one.recovered == other.recovered
    assert [record.group for record in one.recovered.plan_records] == names[:MOST_PLAN_RECORDS]
    merged = merge([one, other]).recovered
    assert merged.groups == MOST_PLAN_RECORDS + 2 * 200
    assert merged.plan_records == one.recovered.plan_records


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_records_of_one_group_are_in_the_order_of_the_runs_that_left_them(order: list[str]) -> None:
    account = Account(new_report("r", settings(), ["data/"]), lambda _: None, 1000)
    for left_by in order:
        account.count_plan_record(account.new_outcome("data/t_0"), "data/t_0", left_by, "settled")
    records = account.report.recovered.plan_records
    assert [record.run_id for record in records] == ["a", "b"]


def test_the_check_is_a_stage_without_requests() -> None:
    check = stages(Counter({"GetObject": 3}), {"GetObject": 1.0}, checking=2.3456)["check"]
    assert (check.requests, check.seconds) == (0, 2.346)


def test_a_run_that_only_finishes_something_has_not_done_nothing() -> None:
    bucket = lakes.copy_of(lakes.unfinished())
    job = new_run(MemoryStore(bucket), settings(error_on_nothing=True))
    report = asyncio.run(job.recover())
    assert (report.exit_code, report.outputs.written) == (0, 0)
    assert report.outputs.recovered > 0


async def test_a_group_with_nothing_to_join_is_left() -> None:
    bucket = lakes.copy_of(lakes.lake())
    planned = await new_run(MemoryStore(bucket), settings(min_files=3)).plan()
    report = await run(bucket, min_files=3)
    for counted in (planned.groups, report.groups):
        assert (counted.seen, counted.left) == (4, 2)
    assert report.groups.coalesced == 2


@pytest.mark.parametrize(("leased", "code"), [(0, 0), (1, 0), (2, 0), (3, 11)])
def test_exit_11_says_that_every_group_was_leased(leased: int, code: int) -> None:
    report = new_report("r", settings(), ["data/"])
    report.groups.seen, report.groups.leased, report.groups.left = 3, leased, 3 - leased
    account = Account(report, lambda _: None, 1000)
    stop = Stop(RunLimits(), lambda: 0.0)
    account.close(ProcessUsage(), seconds=1, stop=stop, error_on_nothing=False)
    assert report.exit_code == code


@pytest.mark.parametrize("topic", ["plain", "a_b", "a_1_b", "db.core.to-do_x"])
async def test_a_topic_is_counted_under_its_whole_name(topic: str) -> None:
    bucket = MemoryBucket()
    for key, body in sources(2, 3, topic=topic).items():
        bucket.store(key, body)
    bucket.now += 1000
    report = await run(bucket)
    assert [(t.topic, t.sources, t.joined, t.outputs) for t in report.topics] == [(topic, 6, 6, 2)]


class Refusing(MemoryStore):
    """Refuses to delete one source."""

    async def delete_many(self, targets):  # type: ignore[no-untyped-def,override]
        results = await super().delete_many(targets)
        for place, (key, _) in enumerate(targets):
            if key.endswith("t_0_0-0.jsonl.gz"):
                results[place] = DeleteResult(key, Deleted.REFUSED, "AccessDenied", "no")
        return results


async def test_a_refused_delete_is_exit_1_with_the_key() -> None:
    report = await new_run(Refusing(filled(1, 3)), settings()).coalesce()
    assert report.exit_code == ExitCode.FAILED
    assert [(f.key, f.code) for f in report.failures] == [("data/t_0_0-0.jsonl.gz", "AccessDenied")]
    assert report.sources.left["delete_refused"] == 1


@pytest.mark.parametrize(
    ("quota", "cpus"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8), ("", 8)]
)
def test_a_container_has_the_cpus_of_its_quota(
    quota: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    monkeypatch.setattr(usage, "_CGROUP_QUOTA", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus() == cpus


def test_what_another_process_has_used_is_added() -> None:
    one, other = ProcessUsage(), ProcessUsage()
    one.store.requests["GetObject"], other.store.requests["GetObject"] = 2, 3
    one.store.bytes_in, other.store.bytes_in = 10, 20
    one.cpu_seconds, other.cpu_seconds = 1.0, 2.0
    one.add(other)
    assert (one.store.requests["GetObject"], one.store.bytes_in, one.cpu_seconds) == (5, 30, 3.0)


def report(
    run_id: str,
    *,
    started: str = "2026-11-22T02:00:00+00:00",
    seconds: float = 60,
    partitions: tuple[int, ...] = (),
    layout: str = "corporate",
    shard: str = "0/1",
    **more: object,
) -> Report:
    scope = {"bucket": "b", "prefixes": ["data/"], "layout": layout, "shard": shard}
    base = {"version": "1", "run_id": run_id, "started": started, "seconds": seconds}
    return Report.model_validate({**base, "scope": scope | {"partitions": partitions}, **more})


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_tries_the_one_that_ended_last_counts(turned: bool) -> None:
    """Not the one that began last: it may have been killed soon."""
    long = report("long", seconds=7200, exit_code=0)
    short = report("short", started="2026-11-22T03:00:00+00:00", seconds=60, exit_code=1)
    tries = [short, long] if turned else [long, short]
    assert merge(tries).exit_code == 0


def test_of_several_tries_the_first_saw_all_offsets_and_the_last_what_is_left() -> None:
    """The first has joined what had gaps, so the second sees others."""
    first = report("1", offsets={"gaps": 5, "overlaps": 3}, sources={"left": {"young": 9}})
    second = report(
        "2",
        started="2026-11-22T04:00:00+00:00",
        offsets={"gaps": 1, "overlaps": 0},
        sources={"left": {"corrupt": 2}},
    )
    merged = merge([second, first])
    assert (merged.offsets.gaps, merged.offsets.overlaps) == (5, 3)
    assert {why: n for why, n in merged.sources.left.items() if n} == {"corrupt": 2}


@pytest.mark.parametrize(
    "scopes",
    [
        [{"partitions": (0,)}, {"partitions": (1,)}],
        [{"layout": "corporate"}, {"layout": "manifest"}],
        [{"shard": "0/2"}, {"shard": "1/2"}],
    ],
)
def test_jobs_with_another_scope_are_no_retries_of_one_another(
    scopes: list[dict[str, object]],
) -> None:
    """A failure of the first must not disappear behind a later success of the second."""
    first = report("1", exit_code=1, **scopes[0])  # type: ignore[arg-type]
    second = report("2", started="2026-11-22T04:00:00+00:00", **scopes[1])  # type: ignore[arg-type]
    merged = merge([first, second])
    assert merged.exit_code == 1
    assert [run.superseded for run in merged.runs] == [False, False]


def test_the_peak_is_that_of_the_largest_run() -> None:
    runs = [report("1", peak_rss_bytes=7), report("2", peak_rss_bytes=9, partitions=(1,))]
    assert merge(runs).peak_rss_bytes == 9


def test_a_shard_of_one_cut_is_not_covered_by_that_of_another() -> None:
    runs = [report("1", shard="0/2"), report("2", shard="1/3"), report("3", shard="2/3")]
    missing = [failure.message for failure in merge(runs).failures]
    assert [text.split()[4] for text in missing] == ["1/2", "0/3"]


def test_a_report_holds_a_thousand_failures_and_counts_the_others() -> None:
    report = new_report("r", settings(), ["data/"])
    for n in range(1005):
        report.add_failure(errors.Unavailable("made up", key=f"data/{n}"))
    assert (len(report.failures), report.failures_omitted) == (1000, 5)
    assert report.exit_code == ExitCode.TRANSIENT


EARLY, LATE = "2026-11-22T02:00:00+00:00", "2026-11-22T04:00:00+00:00"


def dealt_with(
    run_id: str,
    became: str,
    *,
    outputs: int = 0,
    left_by: str = "dead",
    bucket: str = "b",
    started: str = EARLY,
    shard: str = "0/1",
) -> Report:
    """The report of a run that has met one plan record of an earlier run."""
    counts = {"groups": int(became == "settled"), "unsettled_groups": int(became == "unsettled")}
    record = {"group": "data/t_0", "run_id": left_by, "outputs": outputs, "became": became}
    recovered = {**counts, "outputs": outputs, "plan_records": [record]}
    found = report(run_id, started=started, shard=shard, recovered=recovered)
    return found.model_copy(update={"scope": found.scope.model_copy(update={"bucket": bucket})})


@pytest.mark.parametrize("turned", [False, True])
def test_what_the_first_try_could_not_settle_and_the_second_could_is_settled(turned: bool) -> None:
    tries = [dealt_with("1", "unsettled"), dealt_with("2", "settled", started=LATE)]
    merged = merge(tries[::-1] if turned else tries).recovered
    assert (merged.groups, merged.unsettled_groups) == (1, 0)
    assert [record.became for record in merged.plan_records] == ["settled"]


def test_what_one_shard_has_settled_is_settled_whatever_another_says_later() -> None:
    shards = [
        dealt_with("1", "settled", shard="0/2"),
        dealt_with("2", "unsettled", shard="1/2", started=LATE),
    ]
    merged = merge(shards).recovered
    assert (merged.groups, merged.unsettled_groups) == (1, 0)
    assert [record.became for record in merged.plan_records] == ["settled"]


@pytest.mark.parametrize("turned", [False, True])
def test_of_what_nobody_has_settled_the_last_to_end_says_what_became_of_it(turned: bool) -> None:
    tries = [
        dealt_with("1", "unsettled", outputs=2),
        dealt_with("2", "stopped", outputs=1, started=LATE),
    ]
    merged = merge(tries[::-1] if turned else tries).recovered
    assert [(one.became, one.outputs) for one in merged.plan_records] == [("stopped", 2)]
    assert merged.outputs == 2


@pytest.mark.parametrize("other", [{"bucket": "c"}, {"left_by": "another"}])
def test_plan_records_of_other_buckets_or_runs_are_others(other: dict[str, Any]) -> None:
    tries = [dealt_with("1", "settled"), dealt_with("2", "settled", started=LATE, **other)]
    merged = merge(tries).recovered
    assert (merged.groups, len(merged.plan_records)) == (2, 2)


def test_what_failed_is_told_by_the_last_try_also_where_it_is_only_counted() -> None:
    tries = [report("1", failures_omitted=5), report("2", failures_omitted=2, started=LATE)]
    assert merge(tries).failures_omitted == 2


def test_of_each_topic_the_try_counts_that_saw_the_most_of_it() -> None:
    first = report("1", topics=[{"topic": "t", "sources": 9, "bytes": 90, "joined": 3}])
    second = report(
        "2", started=LATE, topics=[{"topic": "t", "sources": 6, "bytes": 60, "joined": 6}]
    )
    (topic,) = merge([second, first]).topics
    assert (topic.sources, topic.bytes, topic.joined) == (9, 90, 9)


def test_stores_and_shards_that_differ_are_not_told_as_one() -> None:
    shards = [
        report("1", shard="0/2", store={"mode": "full"}),
        report("2", shard="1/2", store={"mode": "weaker"}),
    ]
    merged = merge(shards)
    assert (merged.store.mode, merged.scope.shard) == ("full, weaker", "0/1")
    assert merge(shards[1:]).scope.shard == "1/2"


def test_a_report_of_another_schema_is_not_read() -> None:
    text = json.dumps(report("1").as_json())
    assert load(text, "r").run_id == "1"
    with pytest.raises(errors.UsageError):
        load(text.replace('"schema": 1', '"schema": 2'), "r")
