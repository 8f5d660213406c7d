"""Merges the reports of many runs into one: all shards, attempts and locations of a night."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from coalesce.errors import UsageError
from coalesce.exits import ExitCode, worst
from coalesce.naming.shards import Shard
from coalesce.report.report import (
    AttributesPart,
    Failure,
    GroupsPart,
    LocationPart,
    OffsetsPart,
    OutputsPart,
    PathListPart,
    PlanRecordPart,
    RecoveredPart,
    Report,
    ScopePart,
    SharePart,
    SourcesPart,
    StagePart,
    StorePart,
    TopicPart,
)
from coalesce.report.undone import UndonePart

_Name = TypeVar("_Name", bound=Hashable)

_MOST_RUN_IDS = 4

# (bucket, prefixes, layout, partitions): what all shards of one job have in common.
_Job = tuple[str, tuple[str, ...], str, tuple[int, ...]]

# (bucket, group, run that left it): what tells a plan record from all others.
_RecordName = tuple[str, str, str]


class RunPart(BaseModel):
    """One of the merged runs."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    scope: ScopePart
    started: str
    seconds: float
    exit_code: int
    joined: int
    written: int
    failures: int
    superseded: bool  # a later attempt at the same shard counts instead


class MergedReport(Report):
    """The sum of many reports.

    `exit_code` is the worst of the last attempt at each shard, and at least 75 if a shard has no
    report.
    """

    merged: Literal[True] = True
    runs: list[RunPart]


def load(text: str, name: str) -> Report:
    """Parses a report: one JSON object, or the last line of what `--output json` printed.

    Args:
        text: what the file holds.
        name: the file's name, for the error message.

    Raises:
        UsageError: the text is not a report.
    """
    try:
        data = json.loads(
            text if text.lstrip().startswith("{\n") else (text.strip().splitlines() or [""])[-1]
        )
        if not isinstance(data, dict) or data.get("type") != "summary" or data.get("schema") != 1:
            raise ValueError("not a summary")
        return Report.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise UsageError(
            f"{name!r} is not a coalesce report",
            hint="Give files written by --report, or the output of --output json.",
        ) from error


def merge(reports: Sequence[Report]) -> MergedReport:
    """Merges reports of shards, attempts and locations, given in any order.

    A run counts once, however often its report is given. What was done adds up over all attempts.
    What was seen is that of the attempt that saw the most of its shard; what was left and what
    failed is that of the last one.

    Raises:
        UsageError: there are no reports.
    """
    reports = list({report.run_id: report for report in reports}.values())
    if not reports:
        raise UsageError("no reports to merge")
    jobs = _group_by_job(reports)
    attempts = [runs for shards in jobs.values() for runs in shards.values()]
    last = [runs[-1] for runs in attempts]
    missing = [failure for job, shards in jobs.items() for failure in _find_missing(job, shards)]
    exit_codes = [report.exit_code for report in last]
    start = min(map(_start_of, reports))
    recovered = _merge_recovered(sorted(reports, key=_end_of), last)
    return MergedReport(
        version=last[-1].version,
        run_id=_join_run_ids(reports),
        started=start.isoformat(timespec="seconds"),
        seconds=round((max(map(_end_of, reports)) - start).total_seconds(), 3),
        exit_code=worst(*exit_codes, *(ExitCode.TRANSIENT for _ in missing)),
        stopped_by=", ".join(sorted({report.stopped_by for report in last if report.stopped_by})),
        scope=_merge_scopes(reports),
        store=_merge_stores(last),
        groups=_merge_groups(attempts),
        sources=_merge_sources(attempts),
        outputs=_merge_outputs(reports, recovered),
        recovered=recovered,
        undone=_merge_undone(reports),
        offsets=_merge_offsets(attempts),
        attributes=_merge_attributes(reports),
        path_list=_merge_path_lists(attempts),
        topics=_merge_topics(attempts),
        locations=_merge_locations(attempts),
        requests=_merge_requests(reports),
        retries=sum(report.retries for report in reports),
        throttled=sum(report.throttled for report in reports),
        stages=_merge_stages(reports),
        processes=max(report.processes for report in reports),
        bytes_in=sum(report.bytes_in for report in reports),
        bytes_out=sum(report.bytes_out for report in reports),
        cost_usd=round(sum(report.cost_usd for report in reports), 6),
        peak_rss_bytes=max(report.peak_rss_bytes for report in reports),
        cpu_seconds=round(sum(report.cpu_seconds for report in reports), 3),
        failures=[*missing, *(failure for report in last for failure in report.failures)],
        failures_omitted=sum(report.failures_omitted for report in last),
        runs=[_summarise(run, superseded=run is not runs[-1]) for runs in attempts for run in runs],
    )


def _group_by_job(reports: Iterable[Report]) -> dict[_Job, dict[str, list[Report]]]:
    """For each job and each of its shards the attempts, in the order in which they ended."""
    jobs: dict[_Job, dict[str, list[Report]]] = defaultdict(lambda: defaultdict(list))
    for report in sorted(reports, key=_end_of):
        scope = report.scope
        job = scope.bucket, tuple(scope.prefixes), scope.layout, tuple(scope.partitions)
        jobs[job][scope.shard].append(report)
    return jobs


def _start_of(report: Report) -> dt.datetime:
    return dt.datetime.fromisoformat(report.started)


def _end_of(report: Report) -> dt.datetime:
    return _start_of(report) + dt.timedelta(seconds=report.seconds)


def _find_missing(job: _Job, shards: Iterable[str]) -> Iterator[Failure]:
    """A failure for each shard of a job that has no report."""
    bucket, prefixes, layout, _ = job
    reported = [Shard.parse(shard) for shard in shards]
    for count in sorted({shard.count for shard in reported}):
        indices = {shard.index for shard in reported if shard.count == count}
        for index in sorted(set(range(count)) - indices):
            yield Failure(
                code="ReportMissing",
                message=f"no report from shard {index}/{count} of the {layout} job "
                f"on s3://{bucket}/ {' '.join(prefixes)}",
                hint="Check whether that job started and how it ended, then run it again.",
            )


def _join_run_ids(reports: Sequence[Report]) -> str:
    if len(reports) > _MOST_RUN_IDS:
        return f"{len(reports)} runs"
    return ", ".join(sorted({report.run_id for report in reports}))


def _merge_scopes(reports: Iterable[Report]) -> ScopePart:
    scopes = [report.scope for report in reports]
    shards = sorted({scope.shard for scope in scopes})
    return ScopePart(
        bucket=", ".join(sorted({scope.bucket for scope in scopes})),
        prefixes=sorted({prefix for scope in scopes for prefix in scope.prefixes}),
        layout=", ".join(sorted({scope.layout for scope in scopes})),
        partitions=sorted({partition for scope in scopes for partition in scope.partitions}),
        shard=shards[0] if len(shards) == 1 else "0/1",
    )


def _merge_stores(last: Sequence[Report]) -> StorePart:
    modes = sorted({report.store.mode for report in last})
    return last[-1].store if len(modes) == 1 else StorePart(mode=", ".join(modes))


def _merge_groups(attempts: Iterable[list[Report]]) -> GroupsPart:
    total = GroupsPart()
    for runs in attempts:
        total.seen += max(report.groups.seen for report in runs)
        total.coalesced += sum(report.groups.coalesced for report in runs)
        total.left += runs[-1].groups.left
        total.leased += runs[-1].groups.leased
        total.failed += runs[-1].groups.failed
    return total


def _merge_sources(attempts: Iterable[list[Report]]) -> SourcesPart:
    total = SourcesPart()
    for runs in attempts:
        total.seen += max(report.sources.seen for report in runs)
        total.outputs += max(report.sources.outputs for report in runs)
        total.joined += sum(report.sources.joined for report in runs)
        total.deleted += sum(report.sources.deleted for report in runs)
        for why, count in runs[-1].sources.left.items():
            total.left[why] = total.left.get(why, 0) + count
    return total


def _merge_outputs(reports: Iterable[Report], recovered: RecoveredPart) -> OutputsPart:
    """`recovered` is what they recovered in all; version 0.1 said only how many outputs."""
    total = OutputsPart(recovered=recovered.outputs)
    for report in reports:
        total.written += report.outputs.written
        total.recovered += report.outputs.recovered - report.recovered.outputs
        total.oversized += report.outputs.oversized
        total.bytes += report.outputs.bytes
        total.records += report.outputs.records
    return total


def _merge_recovered(reports: Sequence[Report], last: Sequence[Report]) -> RecoveredPart:
    """What was finished adds up; what could not be settled is told by the last attempts.

    A plan record that several runs dealt with, at once or one after another, counts once. Those
    that the reports do not name add up.
    """
    total = RecoveredPart(
        groups=sum(report.recovered.groups for report in reports),
        outputs=sum(report.recovered.outputs for report in reports),
        sources_deleted=sum(report.recovered.sources_deleted for report in reports),
        unsettled_groups=sum(report.recovered.unsettled_groups for report in last),
    )
    said_last = _plan_records(last)
    for name, said in _plan_records(reports).items():
        settled = [record for record in said if record.became == "settled"]
        total.groups -= max(0, len(settled) - 1)
        outputs = [record.outputs for record in said]
        total.outputs -= sum(outputs) - max(outputs)
        unsettled = sum(record.became == "unsettled" for record in said_last.get(name, ()))
        total.unsettled_groups -= unsettled if settled else max(0, unsettled - 1)
        record = (settled or said)[-1]
        total.add_record(record.model_copy(update={"outputs": max(outputs)}))
    return total


def _merge_undone(reports: Iterable[Report]) -> UndonePart:
    """What was given back, each output by one run."""
    total = UndonePart()
    for report in reports:
        total.add(report.undone.outputs, report.undone.sources, report.undone.bytes)
    return total


def _plan_records(reports: Iterable[Report]) -> dict[_RecordName, list[PlanRecordPart]]:
    """What the reports say of each plan record that they name."""
    found: dict[_RecordName, list[PlanRecordPart]] = defaultdict(list)
    for report in reports:
        for record in report.recovered.plan_records:
            found[report.scope.bucket, record.group, record.run_id].append(record)
    return found


def _merge_offsets(attempts: Iterable[list[Report]]) -> OffsetsPart:
    total = OffsetsPart()
    for runs in attempts:
        total.add(runs[0].offsets.gaps, runs[0].offsets.overlaps)
        total.unknown += runs[0].offsets.unknown
    return total


def _merge_attributes(reports: Sequence[Report]) -> AttributesPart:
    """Of outputs, which each run has written for itself."""
    return AttributesPart(
        differing=sum(report.attributes.differing for report in reports),
        not_kept=sum(report.attributes.not_kept for report in reports),
        example=next((r.attributes.example for r in reports if r.attributes.example), ""),
    )


def _merge_path_lists(attempts: Iterable[list[Report]]) -> PathListPart:
    total = PathListPart()
    for runs in attempts:
        before = max(report.path_list.before for report in runs)
        total.before += before
        # each attempt reports only what it changed itself
        total.after += before + sum(
            report.path_list.after - report.path_list.before for report in runs
        )
    return total


def _merge_topics(attempts: Iterable[list[Report]]) -> list[TopicPart]:
    shares = _merge_shares(attempts, lambda report: {one.topic: one for one in report.topics})
    return [TopicPart(topic=name, **share) for name, share in sorted(shares.items())]


def _merge_locations(attempts: Iterable[list[Report]]) -> list[LocationPart]:
    shares = _merge_shares(
        attempts, lambda report: {(one.location, one.date): one for one in report.locations}
    )
    return [
        LocationPart(location=location, date=date, **share)
        for (location, date), share in sorted(shares.items())
    ]


def _merge_shares(
    attempts: Iterable[list[Report]], named: Callable[[Report], Mapping[_Name, SharePart]]
) -> dict[_Name, Counter[str]]:
    """The sums of the shares of each name, by field."""
    total: dict[_Name, Counter[str]] = defaultdict(Counter)
    for runs in attempts:
        seen: dict[_Name, tuple[int, int]] = {}
        for name, share in (item for report in runs for item in named(report).items()):
            done = {"joined": share.joined, "outputs": share.outputs}
            total[name].update(done, output_bytes=share.output_bytes)
            seen[name] = max(seen.get(name, (0, 0)), (share.sources, share.bytes))
        for name, (sources, size) in seen.items():
            total[name].update(sources=sources, bytes=size)
    return total


def _merge_requests(reports: Iterable[Report]) -> dict[str, int]:
    total = Counter[str]()
    for report in reports:
        total.update(report.requests)
    return dict(sorted(total.items()))


def _merge_stages(reports: Iterable[Report]) -> dict[str, StagePart]:
    total: dict[str, StagePart] = {}
    for report in reports:
        for name, stage in report.stages.items():
            before = total.get(name, StagePart())
            total[name] = StagePart(
                requests=before.requests + stage.requests,
                seconds=round(before.seconds + stage.seconds, 3),
            )
    return total


def _summarise(report: Report, *, superseded: bool) -> RunPart:
    return RunPart(
        run_id=report.run_id,
        scope=report.scope,
        started=report.started,
        seconds=report.seconds,
        exit_code=report.exit_code,
        joined=report.sources.joined,
        written=report.outputs.written,
        failures=len(report.failures) + report.failures_omitted,
        superseded=superseded,
    )
