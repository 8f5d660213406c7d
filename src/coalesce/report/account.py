"""What a run says of itself while it goes: the report is added up here, and the events leave from
here.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from coalesce import __version__
from coalesce.errors import CoalesceError, GroupOwned
from coalesce.listing.groups import Listing
from coalesce.model import CommittedOutput, Group, Plan, Why
from coalesce.naming.shards import WHOLE, Shard
from coalesce.naming.sources import Sources
from coalesce.planning.forecast import Forecast
from coalesce.protocol.lease import Rival
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.report import (
    ConcurrencyPart,
    PlanPart,
    Report,
    ScopePart,
    TopicPart,
    cost,
    path_characters,
    stages,
)
from coalesce.report.usage import Spent, cpu_seconds

Event = dict[str, Any]


def opened(
    run_id: str,
    *,
    bucket: str,
    prefixes: Iterable[str],
    layout: str,
    partitions: Iterable[int],
    shard: Shard = WHOLE,
) -> Report:
    """The report of a run that begins now."""
    scope = ScopePart(
        bucket=bucket,
        prefixes=list(prefixes),
        layout=layout,
        partitions=list(partitions),
        shard=str(shard),
    )
    return Report(
        version=__version__,
        run_id=run_id,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        scope=scope,
    )


class Account:
    """One run's report, in the making."""

    def __init__(self, report: Report, emit: Callable[[Event], None]) -> None:
        self.report = report
        self._emit = emit
        self._cpu_before = cpu_seconds()
        self._topics: dict[str, TopicPart] = {}

    def listed(self, listed: Listing, groups: list[Group]) -> None:
        """A piece of the key space, and the groups of it that are in scope."""
        report = self.report
        report.sources.left[Why.UNPARSED] += listed.other_keys
        characters = path_characters(report.scope.bucket, listed.keys, listed.key_characters)
        report.path_list.before += characters
        report.path_list.after += characters
        report.groups.seen += len(groups)
        report.sources.seen += sum(len(group.sources) for group in groups)
        for group in groups:
            topic = self._topic(group.id.topic)
            topic.sources += len(group.sources)
            topic.bytes += sum(Sources.of(group.id.prefix, group.sources).sizes())

    def planned(self, plan: Plan) -> None:
        """A group's plan."""
        self.report.offsets.gaps += plan.gaps
        self.report.offsets.overlaps += plan.overlaps

    def foreseen(self, group: Group, plan: Plan) -> None:
        """A group that a dry run would work off."""
        report = self.report
        self.planned(plan)
        topic = self._topic(group.id.topic)
        for left in plan.kept:
            report.add_kept(left)
            self._emit({"type": "left", "key": left.key, "why": left.why.value})
        for batch in plan.batches:
            topic.joined += len(batch.sources)
            topic.outputs += 1
            topic.output_bytes += batch.size
            report.path_list.after += self._characters(1, len(batch.output))
            report.path_list.after -= self._characters(
                len(batch.sources), sum(len(source.key) for source in batch.sources)
            )
            self._emit(
                {
                    "type": "planned",
                    "group": str(group.id),
                    "key": batch.output,
                    "sources": len(batch.sources),
                    "bytes": batch.size,
                }
            )
        if not plan.batches:
            report.groups.left += 1

    def forecast(self, forecast: Forecast) -> None:
        """What a dry run expects of the real one."""
        topics, self._topics = [self._topics[name] for name in sorted(self._topics)], {}
        usd = cost(Counter(forecast.requests))
        self.report.plan = PlanPart(
            topics=topics,
            requests=forecast.requests,
            bytes=forecast.bytes,
            cost_usd=usd,
            seconds=forecast.seconds,
            memory_bytes=forecast.memory,
        )

    def outcome(self, group: str) -> GroupOutcome:
        """Where a group's outcome is gathered; its outputs are told as they come."""
        return GroupOutcome(lambda output: self._add_output(output, group))

    def settled(self, outcome: GroupOutcome, group: str) -> None:
        """What came of an earlier run's unfinished group, before it was listed."""
        self._tell(outcome, group)
        self.report.groups.failed += bool(outcome.failures)

    def worked(self, outcome: GroupOutcome, group: str) -> None:
        """What came of a group of this run's own."""
        groups = self.report.groups
        self._tell(outcome, group)
        if outcome.failures:
            groups.failed += 1
        elif outcome.outputs:
            groups.coalesced += 1
        else:
            groups.left += 1

    def leased(self, error: GroupOwned) -> None:
        """A group that another run owns."""
        self.report.groups.leased += 1
        self._emit(
            {"type": "leased", "key": error.key, "message": error.message, "hint": error.hint}
        )

    def unfinished_elsewhere(self, rival: Rival) -> None:
        """A run that ended badly, with a scope that this one may not clean up."""
        lease = rival.record
        where = " ".join(
            f"-p {prefix}" if prefix else "--whole-bucket" for prefix in lease.prefixes
        )
        where += f" --shard {lease.shard}" if lease.shard != str(WHOLE) else ""
        message = f"run {lease.run_id} did not end in order, and worked elsewhere than this one, or with another layout"
        hint = f"Its next run, or `coalesce recover {where}` with its layout, cleans up."
        if not rival.readable:
            message, hint = (
                f"the lease {rival.key!r} has ended and cannot be read",
                "Remove it when no run of that name is alive.",
            )
        self._emit({"type": "unfinished", "key": lease.run_id, "message": message, "hint": hint})

    def failed(self, error: CoalesceError, group: str = "") -> None:
        """A failure of a group, or without one of the run or a listing."""
        failure = self.report.add_failure(error, group)
        self._emit({"type": "failure", **failure.model_dump()})

    def close(self, spent: Spent, *, seconds: float, stopped: int, error_on_nothing: bool) -> None:
        """Everything that is known only at the end. `spent` is by all processes of the run."""
        report, usage = self.report, spent.usage
        groups = report.groups
        if groups.leased and groups.leased >= groups.seen and not groups.coalesced:
            report.worsen(11)
        if stopped:
            report.worsen(stopped)
        if (
            error_on_nothing
            and report.exit_code == 0
            and not (report.outputs.written or report.outputs.recovered)
        ):
            report.exit_code = 3
        report.topics = [self._topics[name] for name in sorted(self._topics)]
        report.seconds = round(seconds, 3)
        report.requests = dict(sorted(usage.requests.items()))
        report.retries, report.throttled = usage.retries, usage.throttled
        report.stages = stages(usage.requests, usage.seconds, usage.checking)
        report.bytes_in, report.bytes_out = usage.bytes_in, usage.bytes_out
        report.cost_usd = cost(usage.requests)
        report.cpu_seconds = round(spent.cpu_seconds - self._cpu_before, 3)
        report.peak_rss_bytes = spent.peak_rss_bytes
        report.concurrency = ConcurrencyPart(reads=spent.reads, writes=spent.writes)

    def _add_output(self, output: CommittedOutput, group: str) -> None:
        report = self.report
        report.add_output(output)
        if not output.recovered:  # what was recovered had its sources gone before the listing
            topic = self._topic(group.rpartition("_")[0].rpartition("/")[2])
            topic.joined += output.sources
            topic.outputs += 1
            topic.output_bytes += output.size
            report.path_list.after += self._characters(1, len(output.key))
            report.path_list.after -= self._characters(output.deleted, output.freed)
        self._emit(
            {
                "type": "output",
                "group": group,
                "key": output.key,
                "sources": output.sources,
                "bytes": output.size,
                "records": output.records,
                "first_offset": output.first,
                "last_offset": output.last,
                "crc64nvme": output.checksum,
            }
        )

    def _tell(self, outcome: GroupOutcome, group: str) -> None:
        for left in outcome.kept:
            self.report.add_kept(left)
            self._emit({"type": "left", "key": left.key, "why": left.why.value})
            if left.why is Why.DELETE_REFUSED:
                self.report.worsen(1)
        for error in outcome.failures:
            self.failed(error, group)

    def _topic(self, name: str) -> TopicPart:
        return self._topics.setdefault(name, TopicPart(topic=name))

    def _characters(self, keys: int, key_characters: int) -> int:
        return path_characters(self.report.scope.bucket, keys, key_characters)
