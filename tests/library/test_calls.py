"""The functions of `import coalesce`: what they do to a bucket, return and raise."""

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

import coalesce
from coalesce import errors
from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.library import chosen, opening


def test_a_run_joins_proves_and_deletes_and_returns_its_report() -> None:
    bucket = filled()
    before = records_in(contents(bucket))
    with opening({"b": bucket}):
        report = coalesce.run(chosen())
    assert isinstance(report, coalesce.Report)
    assert (report.exit_code, report.outputs.written, report.sources.deleted) == (0, 1, 4)
    assert list(data_in(bucket.objects)) == ["data/t_0_0_3.jsonl.gz"]
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


def test_a_plan_and_a_status_say_what_a_run_would_do_and_write_nothing() -> None:
    bucket = filled(2)
    before = contents(bucket)
    with opening({"b": bucket}):
        report = coalesce.plan(chosen())
        status = coalesce.status(chosen())
    assert report.plan is not None
    assert sum(topic.outputs for topic in report.plan.topics) == 2
    assert isinstance(status, coalesce.Status)
    assert (status.sources.count, status.topics[0].would_write) == (8, 2)
    assert contents(bucket) == before


def test_verify_reads_outputs_again_and_says_which_are_damaged() -> None:
    bucket = copy.deepcopy(lakes.damaged())
    with opening({"b": bucket}):
        seen = coalesce.verify(chosen())
        read = coalesce.verify(chosen(), deep=True)
    assert isinstance(read, coalesce.Verification)
    assert (seen.deep, read.deep, read.exit_code, read.failed > 0) == (False, True, 4, True)


def test_recover_settles_what_a_killed_run_left_and_joins_nothing_new() -> None:
    bucket = copy.deepcopy(lakes.unfinished())
    with opening({"b": bucket}):
        report = coalesce.recover(chosen(prefix=["data", "more"]))
    assert (report.exit_code, report.outputs.written, report.recovered.groups) == (0, 0, 2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"prefix": []}, "--prefix is required"),
        ({"min_files": 1}, "--min-files must be at least 2"),
        ({"max_size": "much"}, "--max-size much"),
        ({"layout": "other"}, "--layout"),
        ({"buckt": "b"}, "--buckt"),
        ({"prefix": ["_coalesce/x"]}, "overlap"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(said: dict[str, Any], words: str) -> None:
    with pytest.raises(coalesce.ConfigurationError) as raised:
        chosen(**said)
    assert words in raised.value.message
    assert "--max-size is max_size" in raised.value.hint


def test_settings_that_are_changed_are_checked_and_keep_the_rest() -> None:
    changed = chosen(max_size="1MB").but(shard="1/4", max_files=7)
    assert (str(changed.shard), changed.max_files, changed.max_size) == ("1/4", 7, 1_000_000)
    assert changed.model_fields_set >= {"bucket", "prefix", "min_age", "shard"}
    assert "processes" not in changed.model_fields_set
    with pytest.raises(coalesce.ConfigurationError):
        changed.but(shard="4/4")


def test_settings_travel_as_json() -> None:
    """So a scheduler can hand them to its tasks."""
    said = chosen(shard="1/4", max_size="64MiB", accept_weaker=["delete-race"])
    assert coalesce.Settings(**said.model_dump(mode="json", exclude_unset=True)) == said
    assert pickle.loads(pickle.dumps(said)) == said


def test_what_nobody_can_do_without_a_change_is_raised() -> None:
    with opening({}):
        for call in (coalesce.run, coalesce.plan, coalesce.recover, coalesce.status):
            with pytest.raises(coalesce.ConfigurationError) as raised:
                call(chosen())
            assert raised.value.code == "NoSuchBucket"


def test_a_store_that_is_refused_is_raised_with_the_report() -> None:
    bucket = copy.deepcopy(lakes.weak())
    before = data_in(contents(bucket))
    with opening({"b": bucket}), pytest.raises(coalesce.Refused) as raised:
        coalesce.run(chosen())
    assert (raised.value.code, raised.value.report.exit_code) == ("StoreRefused", 10)
    assert "--accept-weaker" in raised.value.message + raised.value.hint
    assert data_in(contents(bucket)) == before
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.message, again.report) == (raised.value.message, raised.value.report)


def test_what_may_not_be_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise errors.AccessDenied("no", code="AccessDenied")

    monkeypatch.setattr(MemoryBucket, "list_page", denied)
    with opening({"b": filled()}):
        for call in (coalesce.run, coalesce.plan, coalesce.recover, coalesce.status):
            with pytest.raises(coalesce.ConfigurationError) as raised:
                call(chosen())
            assert raised.value.code == "AccessDenied"


def test_failures_of_groups_are_returned() -> None:
    bucket = copy.deepcopy(lakes.spoilt())
    with opening({"b": bucket}):
        report = coalesce.run(chosen())
    assert (report.exit_code, [failure.code for failure in report.failures]) == (
        4,
        ["TruncatedGzip"],
    )


def test_only_the_keys_that_are_given_are_joined() -> None:
    bucket = filled(2, 4)
    before = records_in(contents(bucket))
    keys = [f"data/t_1_{n}-{n}.jsonl.gz" for n in (3, 2, 2)]
    with opening({"b": bucket}):
        planned = coalesce.plan(chosen(), keys=iter(keys))
        report = coalesce.run(chosen(), keys=keys)
        for wrong in ({"keys": ["more/t_0_0-0.jsonl.gz"]}, {"keys": keys, "plan": "p.jsonl"}):
            with pytest.raises(coalesce.ConfigurationError):
                coalesce.run(chosen(), **wrong)  # type: ignore[arg-type]
    assert planned.plan is not None
    assert [topic.joined for topic in planned.plan.topics] == [2]
    assert (report.exit_code, report.outputs.written, report.sources.deleted) == (0, 1, 2)
    assert "data/t_1_2_3.jsonl.gz" in bucket.objects
    assert len(data_in(bucket.objects)) == 7
    assert records_in(contents(bucket)) == before


def test_the_store_is_reached_as_it_is_said() -> None:
    with opening({"b": filled()}) as reached:
        coalesce.run(chosen(), store=coalesce.S3(endpoint_url="http://s3.example", region="x"))
        with pytest.raises(coalesce.ConfigurationError, match="other"):
            coalesce.run(chosen(), store=coalesce.S3("other"))
    assert reached == [coalesce.S3("b", endpoint_url="http://s3.example", region="x")]


def test_no_process_is_started_unless_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is forked from a process that may have threads."""
    started: list[tuple[int, str]] = []

    def workers(count: int, _: object, method: str = "fork") -> nullcontext[None]:
        started.append((count, method))
        return nullcontext()

    monkeypatch.setattr("coalesce.library.jobs.Workers", workers)
    with opening({"b": filled()}):
        coalesce.run(chosen())
        assert started == []
        coalesce.run(chosen(processes=2))
    assert started == [(2, "spawn")]


async def test_a_blocking_call_works_where_an_event_loop_runs() -> None:
    """As in a notebook."""
    bucket = filled()
    with opening({"b": bucket}):
        assert coalesce.run(chosen()).outputs.written == 1
    assert list(data_in(bucket.objects)) == ["data/t_0_0_3.jsonl.gz"]


async def test_runs_in_one_loop_keep_apart() -> None:
    buckets = {name: filled(groups) for name, groups in (("b", 1), ("c", 2), ("d", 3))}
    with opening(buckets):
        reports = await asyncio.gather(
            *(coalesce.arun(chosen(bucket=name)) for name in buckets),
            coalesce.astatus(chosen(bucket="d", prefix=["elsewhere"])),
        )
    assert [report.outputs.written for report in reports[:3]] == [1, 2, 3]  # type: ignore[union-attr]
    for bucket in buckets.values():
        check_finished(bucket.objects)


def test_runs_in_threads_keep_apart() -> None:
    buckets = {name: filled(groups) for name, groups in (("b", 1), ("c", 2), ("d", 3))}
    with opening(buckets), ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda name: coalesce.run(chosen(bucket=name)), buckets))
    assert [report.outputs.written for report in reports] == [1, 2, 3]
