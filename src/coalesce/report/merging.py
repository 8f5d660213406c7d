"""Many runs' reports as one: shards, tries and locations of one night."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from coalesce.errors import UsageError
from coalesce.exits import worst
from coalesce.naming.shards import Shard
from coalesce.report.report import (
    Failure,
    GroupsPart,
    OffsetsPart,
    OutputsPart,
    PathListPart,
    Report,
    ScopePart,
    SourcesPart,
    StagePart,
    StorePart,
    TopicPart,
)

MISSING = 75

_Job = tuple[str, tuple[str, ...], str, tuple[int, ...]]


class RunPart(BaseModel):
    """One of the runs."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    scope: ScopePart
    started: str
    seconds: float
    exit_code: int
    joined: int
    written: int
    failures: int
    superseded: bool  # a later try of the same shard counts instead


class Merged(Report):
    """The sum of all runs.

    `exit_code` is the worst of those that count: the last to end of each shard; 75 at least if a
    shard has no report.
    """

    merged: Literal[True] = True
    runs: list[RunPart]


def load(text: str, name: str) -> Report:
    """The report in a file: one JSON object, or the last line of what `--output json` printed.

    Raises UsageError.
    """
    try:
        data = json.loads(
            text if text.lstrip().startswith("{\n") else (text.strip().splitlines() or [""])[-1]
        )
        if not isinstance(data, dict) or data.get("type") != "summary" or data.get("schema") != 1:
            raise ValueError("no summary")
        return Report.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise UsageError(
            f"{name!r} is no report of this program",
            hint="Give files that --report wrote, or what --output json printed.",
        ) from error


def merge(reports: Sequence[Report]) -> Merged:
    """All of them as one.

    What was done adds up; what was seen and what was left is told by the first and the last run of
    each shard. Raises UsageError.
    """
    if not reports:
        raise UsageError("there is no report to merge")
    jobs: dict[_Job, dict[str, list[Report]]] = defaultdict(lambda: defaultdict(list))
    for report in sorted(reports, key=_ended):
        scope = report.scope
        jobs[scope.bucket, tuple(scope.prefixes), scope.layout, tuple(scope.partitions)][
            scope.shard
        ].append(report)
    tries = [runs for shards in jobs.values() for runs in shards.values()]
    last = [runs[-1] for runs in tries]
    missing = [failure for job, shards in jobs.items() for failure in _missing(job, shards)]
    begun = min(map(_begun, reports))
    requests = Counter[str]()
    for report in reports:
        requests.update(report.requests)
    return Merged(
        version=last[-1].version,
        run_id=", ".join(sorted({report.run_id for report in reports}))
        if len(reports) <= 4
        else f"{len(reports)} runs",
        started=begun.isoformat(timespec="seconds"),
        seconds=round((max(map(_ended, reports)) - begun).total_seconds(), 3),
        exit_code=worst(*(report.exit_code for report in last), *(MISSING for _ in missing)),
        scope=_scope(reports),
        store=last[-1].store
        if len({report.store.mode for report in last}) == 1
        else StorePart(mode=", ".join(sorted({r.store.mode for r in last}))),
        groups=_groups(tries),
        sources=_sources(tries),
        outputs=OutputsPart(
            **{
                name: sum(getattr(report.outputs, name) for report in reports)
                for name in OutputsPart.model_fields
            }
        ),
        offsets=OffsetsPart(
            **{
                name: sum(getattr(runs[0].offsets, name) for runs in tries)
                for name in OffsetsPart.model_fields
            }
        ),
        path_list=_path_list(tries),
        topics=_topics(tries),
        requests=dict(sorted(requests.items())),
        stages=_stages(reports),
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in ("retries", "throttled", "bytes_in", "bytes_out")
        },
        cost_usd=round(sum(report.cost_usd for report in reports), 6),
        peak_rss_bytes=max(report.peak_rss_bytes for report in reports),
        cpu_seconds=round(sum(report.cpu_seconds for report in reports), 3),
        failures=[*missing, *(failure for report in last for failure in report.failures)],
        runs=[_run(report, superseded=report is not runs[-1]) for runs in tries for report in runs],
    )


def _stages(reports: Sequence[Report]) -> dict[str, StagePart]:
    total: dict[str, StagePart] = {}
    for report in reports:
        for name, stage in report.stages.items():
            before = total.get(name, StagePart())
            total[name] = StagePart(
                requests=before.requests + stage.requests,
                seconds=round(before.seconds + stage.seconds, 3),
            )
    return total


def _begun(report: Report) -> dt.datetime:
    return dt.datetime.fromisoformat(report.started)


def _ended(report: Report) -> dt.datetime:
    return _begun(report) + dt.timedelta(seconds=report.seconds)


def _missing(job: _Job, shards: Iterable[str]) -> Iterable[Failure]:
    """The shards of a job of which there is no report."""
    seen = [Shard.parse(shard) for shard in shards]
    for count in sorted({shard.count for shard in seen}):
        for index in sorted(
            set(range(count)) - {shard.index for shard in seen if shard.count == count}
        ):
            bucket, prefixes, layout, _ = job
            message = f"there is no report of shard {index}/{count} of {layout} s3://{bucket}/ {' '.join(prefixes)}"
            yield Failure(
                code="ReportMissing",
                message=message,
                hint="Look whether that job was started and how it ended; run it again.",
            )


def _scope(reports: Sequence[Report]) -> ScopePart:
    scopes = [report.scope for report in reports]
    shards = sorted({scope.shard for scope in scopes})
    return ScopePart(
        bucket=", ".join(sorted({scope.bucket for scope in scopes})),
        prefixes=sorted({prefix for scope in scopes for prefix in scope.prefixes}),
        layout=", ".join(sorted({scope.layout for scope in scopes})),
        partitions=sorted({partition for scope in scopes for partition in scope.partitions}),
        shard=shards[0] if len(shards) == 1 else "0/1",
    )


def _groups(tries: Iterable[list[Report]]) -> GroupsPart:
    total = GroupsPart()
    for runs in tries:
        total.seen += max(report.groups.seen for report in runs)
        total.coalesced += sum(report.groups.coalesced for report in runs)
        total.left += runs[-1].groups.left
        total.leased += runs[-1].groups.leased
        total.failed += runs[-1].groups.failed
    return total


def _sources(tries: Iterable[list[Report]]) -> SourcesPart:
    total = SourcesPart()
    for runs in tries:
        total.seen += max(report.sources.seen for report in runs)
        total.joined += sum(report.sources.joined for report in runs)
        total.deleted += sum(report.sources.deleted for report in runs)
        for why, count in runs[-1].sources.left.items():
            total.left[why] = total.left.get(why, 0) + count
    return total


def _path_list(tries: Iterable[list[Report]]) -> PathListPart:
    total = PathListPart()
    for runs in tries:
        before = max(report.path_list.before for report in runs)
        total.before += before
        # each tells what it changed itself
        total.after += before + sum(
            report.path_list.after - report.path_list.before for report in runs
        )
    return total


def _topics(tries: Iterable[list[Report]]) -> list[TopicPart]:
    topics: dict[str, TopicPart] = {}
    for runs in tries:
        seen: dict[str, tuple[int, int]] = {}
        for topic in (topic for report in runs for topic in report.topics):
            total = topics.setdefault(topic.topic, TopicPart(topic=topic.topic))
            total.joined += topic.joined
            total.outputs += topic.outputs
            total.output_bytes += topic.output_bytes
            seen[topic.topic] = max(seen.get(topic.topic, (0, 0)), (topic.sources, topic.bytes))
        for name, (sources, size) in seen.items():
            topics[name].sources += sources
            topics[name].bytes += size
    return [topics[name] for name in sorted(topics)]


def _run(report: Report, *, superseded: bool) -> RunPart:
    return RunPart(
        run_id=report.run_id,
        scope=report.scope,
        started=report.started,
        seconds=report.seconds,
        exit_code=report.exit_code,
        joined=report.sources.joined,
        written=report.outputs.written,
        failures=len(report.failures),
        superseded=superseded,
    )
