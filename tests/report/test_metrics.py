"""What monitoring gets of a run is well formed, and says what the report says."""

import json

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coalesce.errors import Unavailable
from coalesce.model import CommittedOutput, Why
from coalesce.report.account import new_report
from coalesce.report.metrics import (
    LAST_SUCCESS,
    METRICS,
    embedded_metrics,
    last_success_in,
    location_of,
    registry_of,
)
from coalesce.report.report import Report
from support.settings import settings

HERE = "s3://b/data/"
NOW = 1_800_000_000.0
COUNTS = st.integers(0, 2**53)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    report = new_report("20261126T000000Z-00000000", settings(), ["data/"])
    report.sources.seen = draw(COUNTS)
    report.path_list.after = draw(COUNTS)
    report.requests = draw(st.dictionaries(st.sampled_from(["GetObject", "PutObject"]), COUNTS))
    report.add_kept(Why.YOUNG, draw(st.integers(0, 100)))
    for n in range(draw(st.integers(0, 3))):
        report.add_failure(Unavailable(f"{n}", code="SlowDown"))
    return report


def prometheus(report: Report, **more: object) -> str:
    said = {"seconds": 2.0, "ended": True, "now": NOW, **more}
    return generate_latest(registry_of(report, HERE, **said)).decode()  # type: ignore[arg-type]


def numbers(text: str) -> dict[str, float]:
    """Each metric of a Prometheus text, summed over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


@given(reports(), st.floats(0, 1e6))
def test_prometheus_and_cloudwatch_get_the_same_numbers(report: Report, seconds: float) -> None:
    text = numbers(prometheus(report, seconds=seconds))
    line = json.loads(embedded_metrics(report, "s3://b/data/", seconds=seconds, now=NOW))
    for metric in METRICS:
        assert text.get(metric.prometheus, 0.0) == line[metric.cloudwatch]


@given(reports(), st.text(max_size=3000))
def test_a_line_for_cloudwatch_is_one_that_it_accepts(report: Report, location: str) -> None:
    """By its specification: at most 100 metrics, dimensions in ASCII, 1,024 characters."""
    line = json.loads(text := embedded_metrics(report, location, seconds=1.0, now=NOW))
    assert "\n" not in text
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert isinstance(line["_aws"]["Timestamp"], int)
    assert len(directive["Metrics"]) <= 100
    assert all(isinstance(line[metric["Name"]], float) for metric in directive["Metrics"])
    for name in directive["Dimensions"][0]:
        assert line[name].isascii()
        assert len(line[name]) <= 1024


def test_names_of_metrics_are_different() -> None:
    assert len({metric.cloudwatch for metric in METRICS}) == len(METRICS)


def test_sources_and_bytes_a_second_are_those_of_the_run() -> None:
    report = new_report("r", settings(), ["data/"])
    report.add_output(CommittedOutput("k", 5, 1000, 10, 0, 9, "", 5, 5, 10, ()))
    found = numbers(prometheus(report, seconds=2.0))
    assert found["coalesce_sources_per_second"] == 2.5
    assert found["coalesce_bytes_per_second"] == 500


def test_before_the_end_there_is_only_what_is_known() -> None:
    report = new_report("r", settings(), ["data/"])
    found = numbers(prometheus(report, ended=False))
    assert found["coalesce_running"] == 1
    assert "coalesce_sources_joined" in found
    assert not {"coalesce_exit_code", "coalesce_cost_usd", "coalesce_good_runs"} & found.keys()


def test_when_a_run_last_ended_well_is_remembered_through_runs_that_did_not() -> None:
    report = new_report("r", settings(), ["data/"])
    good = prometheus(report)
    assert last_success_in(good, HERE, report.scope) == NOW
    report.exit_code = 75
    last = last_success_in(good, HERE, report.scope)
    bad = prometheus(report, now=NOW + 60, last_success=last)
    assert last_success_in(bad, HERE, report.scope) == NOW
    assert LAST_SUCCESS not in prometheus(report)


def test_the_good_run_of_another_location_layout_or_shard_is_not_taken_for_its_own() -> None:
    scope = new_report("r", settings(), ["data/"]).scope
    good = prometheus(new_report("r", settings(), ["data/"]))
    assert last_success_in(good, HERE, scope) == NOW
    assert last_success_in(good, "s3://b/other/", scope) is None
    assert last_success_in(good, HERE, scope.model_copy(update={"layout": "manifest"})) is None
    assert last_success_in(good, HERE, scope.model_copy(update={"shard": "1/2"})) is None


def test_a_file_that_somebody_else_wrote_says_nothing() -> None:
    scope = new_report("r", settings(), ["data/"]).scope
    assert last_success_in("not { a metric", HERE, scope) is None
    assert last_success_in(f'{LAST_SUCCESS}{{shard="0/1"}} 5\n', HERE, scope) is None


def test_a_location_is_the_same_every_day() -> None:
    assert location_of(settings(prefix=["a/", "b"], date="2026-11-22")) == "s3://b/a/ s3://b/b/"
