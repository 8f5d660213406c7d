"""The page of metrics and the dashboards are current, and name only metrics that a run gives."""

import json
import re
import runpy
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from coalesce.report.account import new_report
from coalesce.report.metrics import embedded_metrics, registry_of
from support.cloudformation import template
from support.settings import settings

ROOT = Path(__file__).parent.parent.parent
WRITTEN = runpy.run_path(str(ROOT / "ci" / "metrics.py"))["WRITTEN"]
REPORT = new_report("r", settings(), ["data/"])


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_made_from_the_list_of_metrics_is_current(path: Path) -> None:
    """If not: `make docs`."""
    assert path.read_text("utf-8") == WRITTEN[path]()


def test_grafana_asks_only_for_metrics_that_there_are() -> None:
    registry = registry_of(REPORT, "s3://b/data/", seconds=1, ended=True, now=1.0)
    given = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.M))
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "coalesce.json").read_text("utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"coalesce_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= given


def test_cloudwatch_asks_only_for_metrics_that_there_are() -> None:
    line = json.loads(embedded_metrics(REPORT, "s3://b/data/", seconds=1, now=1.0))
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    given = {metric["Name"] for metric in directive["Metrics"]}
    body = template("dashboard")["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
    text = body["Fn::Sub"] if isinstance(body, dict) else str(body)
    widgets = json.loads(text)["widgets"]
    asked = {
        name
        for widget in widgets
        for (metric,) in widget["properties"]["metrics"]
        for name in re.findall(r'MetricName="(\w+)"', metric["expression"])
    }
    assert len(asked) > 10
    assert asked <= given
    dimensions = ",".join(sorted(directive["Dimensions"][0]))
    assert f"{{{directive['Namespace']},{dimensions}}}" in text
