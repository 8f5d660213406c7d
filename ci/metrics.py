"""Writes docs/metrics.md and the dashboards from the one list of metrics: `make docs`. A test holds
them current.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coalesce.report.metrics import DIMENSIONS, LAST_SUCCESS, METRICS, NAMESPACE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"
GRAFANA = ROOT / "deploy" / "grafana" / "coalesce.json"
CLOUDWATCH = ROOT / "deploy" / "aws" / "dashboard.yaml"

INTRODUCTION = f"""\
# Metrics

<!-- Written by `make docs` from the list in the program. Do not edit it here. -->

What a run tells those who watch it, in three ways:

- `--metrics-file FILE` writes them for Prometheus, in its text format, at the end and every
  `--stats-interval` while the run goes on. The file is written whole and then renamed. Put it into
  the folder of the node exporter's textfile collector, under a name that ends in `.prom`; shards
  that share a folder need `{{shard}}` in it.
- `--emf` prints them at the end as one line on stdout. From there CloudWatch Logs makes metrics of
  it, in the namespace `{NAMESPACE}`, with the dimensions `Location` and `Layout`: shards of one
  night add up under `Sum`.
- `--ping-url URL` calls `URL/start` when the run begins, then `URL` if it ends with exit code 0, or
  `URL/EXIT_CODE`. Services that ring when a call does not come take it, such as healthchecks.io. A
  call that fails is logged and never fails the run; the URL's path is never logged.

The location is the bucket with the prefixes, without the dates of `--date`: the same every day.

## What they are

All are gauges of one run. Those that are not marked are known only at its end.

| Prometheus | labels | CloudWatch | unit | while it runs | meaning |
|---|---|---|---|---|---|
"""

CONCLUSION = f"""
In Prometheus every metric also has the labels `{"`, `".join(DIMENSIONS)}` and `shard`, and there
are three more:

| Prometheus | meaning |
|---|---|
| `{NAMESPACE}_running` | 1 while the run goes on |
| `{NAMESPACE}_written_timestamp_seconds` | when the file was written |
| `{LAST_SUCCESS}` | when a run last ended with exit code 0; a run that fails leaves it as it was |

## What to be woken up by

- No good run for a day: `time() - {LAST_SUCCESS} > 86400`; in CloudWatch the sum of `GoodRuns` over
  a day below 1, where missing data is breaching.
- The path list nears the longest that Java holds: `{NAMESPACE}_path_list_share > 0.8`;
  `PathListShare`, its maximum.
- Groups that could not be settled, two nights in a row: `{NAMESPACE}_groups_unsettled > 0`;
  `GroupsUnsettled`.
- Data that does not check out: `{NAMESPACE}_exit_code == 4`; `ExitCode`.

## Dashboards

`deploy/grafana/coalesce.json` is for Grafana with a Prometheus data source: import it.
`deploy/aws/dashboard.yaml` is a CloudFormation stack with the same panels for CloudWatch. Both are
made from the list above.
"""

# Title, unit of Grafana, and the metrics that a panel shows.
PANELS = (
    ("Exit code", "none", ("exit_code",)),
    ("Path list, as a share of Java's limit", "percentunit", ("path_list_share",)),
    ("Unsettled and failed groups", "none", ("groups_unsettled", "groups_failed")),
    ("Sources", "none", ("sources_seen", "sources_joined", "sources_deleted")),
    ("Sources left, by reason", "none", ("sources_left",)),
    ("Failures, by code", "none", ("failures",)),
    ("Sources per second", "none", ("sources_per_second",)),
    ("Bytes per second", "Bps", ("bytes_per_second",)),
    ("Duration and CPU", "s", ("run_seconds", "cpu_seconds")),
    ("Requests", "none", ("requests",)),
    ("Retries and throttling", "none", ("retries", "throttled")),
    ("Cost of requests", "currencyUSD", ("cost_usd",)),
    ("Peak memory", "bytes", ("peak_memory_bytes",)),
)
_BY_NAME = {metric.name: metric for metric in METRICS}
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7


def page() -> str:
    """The text of docs/metrics.md."""
    rows = [
        f"| `{metric.prometheus}` | {f'`{metric.label}`' if metric.label else ''} "
        f"| `{metric.cloudwatch}` | {'' if metric.unit == 'None' else metric.unit} "
        f"| {'yes' if metric.live else ''} | {metric.help} |"
        for metric in METRICS
    ]
    return INTRODUCTION + "\n".join(rows) + "\n" + CONCLUSION


def grafana() -> str:
    """The dashboard for Grafana, as JSON."""
    age: dict[str, Any] = _panel(0, "Since the last good run", "s", "stat")
    age["targets"] = [{"refId": "A", "expr": f"time() - {LAST_SUCCESS}{_SELECTED}"}]
    panels = [age]
    for place, (title, unit, names) in enumerate(PANELS, 1):
        panel = _panel(place, title, unit, "timeseries")
        panel["targets"] = [
            {
                "refId": chr(ord("A") + n),
                "expr": f"{_BY_NAME[name].prometheus}{_SELECTED}",
                "legendFormat": _legend(name),
            }
            for n, name in enumerate(names)
        ]
        panels.append(panel)
    dashboard = {
        "title": "coalesce",
        "uid": "coalesce",
        "schemaVersion": 39,
        "time": {"from": "now-30d", "to": "now"},
        "templating": {"list": [_data_source(), _location()]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


_SELECTED = '{location=~"$location"}'


def _panel(place: int, title: str, unit: str, kind: str) -> dict[str, Any]:
    row, column = divmod(place, _COLUMNS)
    return {
        "id": place + 1,
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
    }


def _legend(name: str) -> str:
    label = _BY_NAME[name].label
    return f"{{{{location}}}} {f'{{{{{label}}}}}' if label else name.replace('_', ' ')}"


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _location() -> dict[str, Any]:
    return {
        "name": "location",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": f"label_values({NAMESPACE}_exit_code, location)",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
    }


def cloudwatch() -> str:
    """The stack with the dashboard for CloudWatch."""
    body = json.dumps({"widgets": [*map(_widget, range(len(PANELS)))]}, indent=1)
    indented = "\n".join(f"        {line}" for line in body.splitlines())
    return f"""\
# Written by `make docs` from the list of metrics in the program. Do not edit it here.
AWSTemplateFormatVersion: "2010-09-09"
Description: The dashboard of all locations, from the metrics that `run --emf` prints.

Parameters:
  Name:
    Type: String
    Default: coalesce

Resources:
  Dashboard:
    Type: AWS::CloudWatch::Dashboard
    Properties:
      DashboardName: !Ref Name
      DashboardBody: !Sub |
{indented}
"""


def _widget(place: int) -> Mapping[str, Any]:
    title, _, names = PANELS[place]
    row, column = divmod(place, _COLUMNS)
    return {
        "type": "metric",
        "x": column * _WIDTH,
        "y": row * _HEIGHT,
        "width": _WIDTH,
        "height": _HEIGHT,
        "properties": {
            "title": title,
            "region": "${AWS::Region}",
            "period": 3600,
            "metrics": [
                [{"expression": _search(name), "id": f"m{n}"}] for n, name in enumerate(names)
            ],
        },
    }


def _search(name: str) -> str:
    metric = _BY_NAME[name]
    adds_up = metric.unit in ("Count", "Bytes") and name != "peak_memory_bytes"
    statistic = "Sum" if adds_up else "Maximum"
    return (
        f"SEARCH('{{{NAMESPACE},Layout,Location}} MetricName=\"{metric.cloudwatch}\"', "
        f"'{statistic}', 3600)"
    )


WRITTEN = {PAGE: page, GRAFANA: grafana, CLOUDWATCH: cloudwatch}

if __name__ == "__main__":
    for path, render in WRITTEN.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(), encoding="utf-8")
