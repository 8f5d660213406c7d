"""The metrics of a run. One list makes all of it: the Prometheus text, the line for CloudWatch, the
dashboards in `deploy/` and `docs/metrics.md`.

Formats: Prometheus text exposition format; CloudWatch embedded metric format, whose line holds at
most 100 metrics, and values of dimensions in ASCII of at most 1,024 characters (Amazon CloudWatch
User Guide, "Specification: Embedded metric format").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from coalesce.report.report import Report, ScopePart
from coalesce.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

NAMESPACE = "coalesce"
DIMENSIONS = ("location", "layout")
LAST_SUCCESS = f"{NAMESPACE}_last_success_timestamp_seconds"

_MOST_DIMENSION_CHARACTERS = 1024

Unit = Literal["Count", "Bytes", "Seconds", "Bytes/Second", "Count/Second", "None"]
Values = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    `unit` is one of CloudWatch's. `of` takes the report and the seconds since the run began, and
    gives a number, or one for each value of `label`. Only `live` ones are known before the end.
    """

    name: str
    unit: Unit
    help: str
    of: Callable[[Report, float], Values]
    label: str = ""
    live: bool = False

    @property
    def prometheus(self) -> str:
        """The name in the Prometheus text."""
        return f"{NAMESPACE}_{self.name}"

    @property
    def cloudwatch(self) -> str:
        """The name in CloudWatch, where a metric with a label is the sum over its values."""
        return "".join(map(str.capitalize, self.name.split("_")))

    def total(self, report: Report, seconds: float) -> float:
        """The number, or the sum over the label."""
        values = self.of(report, seconds)
        return sum(values.values()) if isinstance(values, Mapping) else values


METRICS = (
    Metric("exit_code", "None", "Exit code of the run.", lambda r, _: r.exit_code),
    Metric(
        "good_runs", "Count", "1 if the run ended with exit code 0.", lambda r, _: not r.exit_code
    ),
    Metric("run_seconds", "Seconds", "How long the run took so far.", lambda _, s: s, live=True),
    Metric("groups_seen", "Count", "Groups in scope.", lambda r, _: r.groups.seen, live=True),
    Metric("groups_failed", "Count", "Groups that failed.", lambda r, _: r.groups.failed),
    Metric("groups_leased", "Count", "Groups of another run.", lambda r, _: r.groups.leased),
    Metric(
        "groups_unsettled",
        "Count",
        "Groups that an earlier run left unfinished and that could not be settled.",
        lambda r, _: r.recovered.unsettled_groups,
    ),
    Metric("sources_seen", "Count", "Sources found.", lambda r, _: r.sources.seen, live=True),
    Metric(
        "sources_joined",
        "Count",
        "Sources joined into a proven output.",
        lambda r, _: r.sources.joined,
        live=True,
    ),
    Metric(
        "sources_deleted", "Count", "Sources deleted.", lambda r, _: r.sources.deleted, live=True
    ),
    Metric("sources_left", "Count", "Sources left, by reason.", lambda r, _: r.sources.left, "why"),
    Metric(
        "outputs_written", "Count", "Outputs written.", lambda r, _: r.outputs.written, live=True
    ),
    Metric(
        "outputs_recovered",
        "Count",
        "Outputs of earlier runs that were found proven.",
        lambda r, _: r.outputs.recovered,
    ),
    Metric(
        "output_bytes",
        "Bytes",
        "Bytes of outputs written.",
        lambda r, _: r.outputs.bytes,
        live=True,
    ),
    Metric(
        "output_records",
        "Count",
        "Records in outputs written.",
        lambda r, _: r.outputs.records,
        live=True,
    ),
    Metric(
        "path_list_characters",
        "Count",
        "Length of the comma-joined list of all paths after the run.",
        lambda r, _: r.path_list.after,
    ),
    Metric(
        "path_list_share",
        "None",
        "That length as a share of the longest that Java holds, 0 to 1.",
        lambda r, _: r.path_list.after / r.path_list.limit,
    ),
    Metric(
        "sources_per_second",
        "Count/Second",
        "Sources joined in a second.",
        lambda r, s: r.sources.joined / s if s else 0.0,
        live=True,
    ),
    Metric(
        "bytes_per_second",
        "Bytes/Second",
        "Bytes of outputs written in a second.",
        lambda r, s: r.outputs.bytes / s if s else 0.0,
        live=True,
    ),
    Metric("bytes_read", "Bytes", "Bytes of bodies read.", lambda r, _: r.bytes_in),
    Metric("bytes_written", "Bytes", "Bytes of bodies sent.", lambda r, _: r.bytes_out),
    Metric("requests", "Count", "S3 requests.", lambda r, _: r.requests, "operation"),
    Metric("retries", "Count", "S3 requests that were sent again.", lambda r, _: r.retries),
    Metric("throttled", "Count", "Answers that asked to slow down.", lambda r, _: r.throttled),
    Metric("failures", "Count", "Failures, by code.", lambda r, _: _failures(r), "code"),
    Metric("cost_usd", "None", "Requests in US dollars at list price.", lambda r, _: r.cost_usd),
    Metric("cpu_seconds", "Seconds", "CPU time of all processes.", lambda r, _: r.cpu_seconds),
    Metric(
        "peak_memory_bytes",
        "Bytes",
        "Peak memory of all processes.",
        lambda r, _: r.peak_rss_bytes,
    ),
)


def location_of(settings: Settings) -> str:
    """The location that a run works on, the same every day: its prefixes without dates."""
    return " ".join(f"s3://{settings.bucket}/{root}" for root in settings.roots)


def registry_of(
    report: Report,
    location: str,
    *,
    seconds: float,
    ended: bool,
    now: float,
    last_success: float | None = None,
) -> CollectorRegistry:
    """The metrics of a run for Prometheus.

    Args:
        report: The run's, as far as it has come.
        location: See `location_of`.
        seconds: Since the run began.
        ended: Whether the report is complete; else it holds only what is `live`.
        now: Seconds since the epoch.
        last_success: When the last good run before this one ended, if that is known.
    """
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    common = _labels(location, report.scope)

    def gauge(name: str, text: str, values: Values, label: str = "") -> None:
        made = Gauge(name, text, [*common, *([label] if label else [])], registry=registry)
        for value, number in (values if isinstance(values, Mapping) else {"": values}).items():
            made.labels(**common, **({label: value} if label else {})).set(number)

    for metric in METRICS:
        if ended or metric.live:
            gauge(metric.prometheus, metric.help, metric.of(report, seconds), metric.label)
    gauge(f"{NAMESPACE}_running", "1 while the run goes on.", not ended)
    gauge(f"{NAMESPACE}_written_timestamp_seconds", "When this was written.", now)
    good = now if ended and not report.exit_code else last_success
    if good is not None:
        gauge(LAST_SUCCESS, "When a run last ended with exit code 0.", good)
    return registry


def _labels(location: str, scope: ScopePart) -> dict[str, str]:
    """Those of every metric of a run."""
    return {"location": location, "layout": scope.layout, "shard": scope.shard}


def last_success_in(text: str, location: str, scope: ScopePart) -> float | None:
    """When a run last ended well, by what an earlier run of the same location, layout and shard has
    written; None if it does not say.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return next(
            (
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == LAST_SUCCESS and sample.labels == _labels(location, scope)
            ),
            None,
        )
    except ValueError:
        return None


def embedded_metrics(report: Report, location: str, *, seconds: float, now: float) -> str:
    """The metrics of a run that has ended, as one line of CloudWatch's embedded metric format.

    `now` is in seconds since the epoch.
    """
    values = {metric.cloudwatch: metric.total(report, seconds) for metric in METRICS}
    dimensions = {"Location": location, "Layout": report.scope.layout}
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": metric.cloudwatch, "Unit": metric.unit} for metric in METRICS],
    }
    return json.dumps(
        {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
            **{name: _dimension(value) for name, value in dimensions.items()},
            "RunId": report.run_id,
            "Shard": report.scope.shard,
            **{name: float(value) for name, value in values.items()},
        }
    )


def _dimension(value: str) -> str:
    return value.encode("ascii", "backslashreplace").decode()[:_MOST_DIMENSION_CHARACTERS]


def _failures(report: Report) -> Mapping[str, float]:
    codes = Counter(failure.code or "unknown" for failure in report.failures)
    return codes + Counter({"omitted": report.failures_omitted})
