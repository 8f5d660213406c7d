"""The alarms of a location, by a model of CloudWatch and the lines that runs print for it."""

import datetime as dt
from typing import Any

import pytest

from coalesce.report.account import new_report
from coalesce.report.metrics import embedded_metrics
from support.alarms import Metrics
from support.cloudformation import Account, template
from support.settings import settings

TOPIC = "arn:aws:sns:r:1:t"
ALARMS = [
    name
    for name, resource in template("location")["Resources"].items()
    if resource["Type"] == "AWS::CloudWatch::Alarm"
]
NIGHT = dt.datetime(2026, 11, 22, 2, 40)
MORNING = dt.timedelta(hours=6)
DAY = dt.timedelta(days=1)


def locations(**shards: int) -> dict[str, Any]:
    """The resources of locations, each a prefix of one bucket."""
    account = Account()
    account.deploy("coalesce-batch", "batch", VpcId="v", SubnetIds="s", AlarmTopicArn=TOPIC)
    given = {"Image": "coalesce:1", "AlarmTopicArn": TOPIC, "Bucket": "b"}
    return {
        name: account.deploy(name, "location", Prefix=name, Shards=str(count), **given)
        for name, count in shards.items()
    }


def line(name: str, exit_code: int = 0, unsettled: int = 0, paths: int = 0) -> str:
    """What a shard of a location prints at its end."""
    report = new_report("r", settings(), [f"{name}/"])
    report.exit_code, report.recovered.unsettled_groups = exit_code, unsettled
    report.path_list.after = paths
    return embedded_metrics(report, f"s3://b/{name}/", seconds=1, now=0)


def ringing(metrics: Metrics, there: dict[str, Any], now: dt.datetime) -> set[tuple[str, str]]:
    return {
        (name, alarm)
        for name, resources in there.items()
        for alarm in ALARMS
        if metrics.ring(resources[alarm], now)
    }


def test_a_dead_location_rings_and_no_other() -> None:
    there, metrics = locations(main=8, audit=1), Metrics()
    for day in range(2):
        for _ in range(8):
            metrics.take(line("main"), NIGHT + day * DAY)
    metrics.take(line("audit"), NIGHT)
    assert ringing(metrics, there, NIGHT + MORNING) == set()
    assert ringing(metrics, there, NIGHT + DAY + MORNING) == {("audit", "NoGoodNight")}


@pytest.mark.parametrize("code", [1, 4, 10, 12, 75])
def test_one_shard_that_does_not_end_well_rings(code: int) -> None:
    there, metrics = locations(main=8), Metrics()
    for _ in range(7):
        metrics.take(line("main"), NIGHT)
    metrics.take(line("main", code), NIGHT)
    assert ringing(metrics, there, NIGHT + MORNING) == {("main", "NoGoodNight")}
    metrics.take(line("main"), NIGHT + dt.timedelta(hours=2))  # its next attempt
    assert ringing(metrics, there, NIGHT + MORNING) == set()


def test_a_new_location_rings_until_its_first_good_night() -> None:
    there, metrics = locations(main=1), Metrics()
    assert ringing(metrics, there, NIGHT - MORNING) == {("main", "NoGoodNight")}
    metrics.take("Some other line of the log.", NIGHT)
    metrics.take(line("main"), NIGHT)
    assert ringing(metrics, there, NIGHT + MORNING) == set()


def test_groups_that_stay_unsettled_ring_on_the_second_night() -> None:
    there, metrics = locations(main=1), Metrics()
    for day in range(2):
        metrics.take(line("main", 75, unsettled=3), NIGHT + day * DAY)
        assert (("main", "Unsettled") in ringing(metrics, there, NIGHT + day * DAY + MORNING)) is (
            day == 1
        )


@pytest.mark.parametrize(("share", "rings"), [(0.02, False), (0.11, True)])
def test_a_path_list_near_its_limit_rings_by_what_all_shards_have(
    share: float, rings: bool
) -> None:
    there, metrics = locations(main=8), Metrics()
    for _ in range(8):
        metrics.take(line("main", paths=int(share * 2**31)), NIGHT)
    assert (("main", "LongPathList") in ringing(metrics, there, NIGHT + MORNING)) is rings
