"""A model of CloudWatch: metrics from the lines that jobs print, and alarms on them."""

import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Series = tuple[str, str, tuple[tuple[str, str], ...]]  # namespace, metric, dimensions

_STATISTICS: dict[str, Callable[[list[float]], float]] = {"Sum": sum, "Maximum": max}
_BREACHES: dict[str, Callable[[float, float], bool]] = {
    "LessThanThreshold": float.__lt__,
    "GreaterThanThreshold": float.__gt__,
}


@dataclass
class Metrics:
    """What CloudWatch knows of each metric: values, and when they came."""

    points: dict[Series, list[tuple[dt.datetime, float]]] = field(default_factory=dict)

    def take(self, line: str, now: dt.datetime) -> None:
        """Takes in a line of a job's log: one in the embedded metric format, or any other."""
        said = json.loads(line) if line.startswith('{"_aws"') else {}
        for directive in said.get("_aws", {}).get("CloudWatchMetrics", ()):
            for names in directive["Dimensions"]:
                dimensions = tuple(sorted((name, said[name]) for name in names))
                for metric in directive["Metrics"]:
                    series = (directive["Namespace"], metric["Name"], dimensions)
                    self.points.setdefault(series, []).append((now, float(said[metric["Name"]])))

    def ring(self, alarm: Any, now: dt.datetime) -> bool:
        """Whether an alarm, by its properties in a template, is in the state ALARM."""
        metric, statistic, factor = _asked(alarm)
        period = dt.timedelta(seconds=metric["Period"])
        ends = [now - n * period for n in range(alarm["EvaluationPeriods"])]
        return all(
            self._breaches(alarm, metric, statistic, factor, end - period, end) for end in ends
        )

    def _breaches(
        self,
        alarm: Any,
        metric: Any,
        statistic: str,
        factor: float,
        begin: dt.datetime,
        end: dt.datetime,
    ) -> bool:
        dimensions = tuple(sorted((d["Name"], d["Value"]) for d in metric["Dimensions"]))
        series = (metric["Namespace"], metric["MetricName"], dimensions)
        values = [value for when, value in self.points.get(series, ()) if begin < when <= end]
        if not values:
            return bool(alarm["TreatMissingData"] == "breaching")
        number = factor * _STATISTICS[statistic](values)
        return _BREACHES[alarm["ComparisonOperator"]](number, float(alarm["Threshold"]))


def _asked(alarm: Any) -> tuple[Any, str, float]:
    """The metric that an alarm looks at, with its period; the statistic, and what it is multiplied
    with: an expression may do that, such as `shard * 8`.
    """
    if "Metrics" not in alarm:
        return alarm, alarm["Statistic"], 1.0
    expression, asked = alarm["Metrics"]
    match = re.fullmatch(rf"{asked['Id']} \* (\d+)", expression["Expression"])
    assert match, expression
    found = asked["MetricStat"]
    return found["Metric"] | {"Period": found["Period"]}, found["Stat"], float(match[1])
