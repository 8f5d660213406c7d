"""The report of a run in the making: it is added up here, and the run's events are emitted here."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from coalesce import __version__
from coalesce.errors import AccessDenied, CoalesceError, first_failure
from coalesce.exits import ExitCode
from coalesce.listing.groups import Listing
from coalesce.model import CommittedOutput, Group, GroupId, Kept, Plan, Source, UndoneOutput, Why
from coalesce.naming.sources import Sources
from coalesce.planning.forecast import Forecast
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.events import (
    RunEvent,
    WarningEvent,
    failure_event,
    planned_event,
    undone_event,
)
from coalesce.report.listed import ListedGroup
from coalesce.report.locations import Locations
from coalesce.report.prices import cost
from coalesce.report.report import (
    Became,
    ConcurrencyPart,
    PlanPart,
    PlanRecordPart,
    Report,
    ScopePart,
    SharePart,
    TopicPart,
    path_characters,
    stages,
)
from coalesce.report.usage import ProcessUsage, cpu_seconds
from coalesce.settings import Settings
from coalesce.stop import Stop


class Phase(enum.Enum):
    """What a run is doing, in the word that is shown."""

    STARTING = "starting"
    SETTLING = "settling"
    PLANNING = "planning"
    JOINING = "joining"
    UNDOING = "undoing"
    WAITING = "waiting"
    ENDING = "ending"


def new_report(run_id: str, settings: Settings, prefixes: Iterable[str]) -> Report:
    """Returns the empty report of a run that starts now; `prefixes` are the ones it lists."""
    return Report(
        version=__version__,
        run_id=run_id,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        scope=ScopePart.of(settings, prefixes),
    )


class Account:
    """Adds up one run's report, and emits an event for each thing that a user may want to know.

    `group` is a group's name, as `str(GroupId)` gives it; `max_size` is what an output should not
    exceed, in bytes.
    """

    def __init__(self, report: Report, emit: Callable[[RunEvent], None], max_size: int) -> None:
        self.report = report
        self._max_size = max_size
        self._emit = emit
        self._cpu_before = cpu_seconds()
        self._denied = False
        self._topics: dict[str, TopicPart] = {}
        self._locations = Locations(report.scope.prefixes)
        self.phase = Phase.STARTING
        self.all_listed = False

    def count_listing(self, listing: Listing, groups: list[Group]) -> None:
        """Counts the keys of a listing, and the sources of `groups`: those of it in scope."""
        report = self.report
        report.sources.seen += listing.other_keys
        report.add_kept(Why.UNPARSED, listing.other_keys)
        characters = path_characters(report.scope.bucket, listing.keys, listing.key_characters)
        report.path_list.before += characters
        report.path_list.after += characters
        report.groups.seen += len(groups)
        report.sources.seen += sum(len(group.sources) for group in groups)
        report.sources.outputs += sum(len(group.growing) for group in groups)
        for group in groups:
            size = sum(Sources.of(group.id.prefix, group.sources).sizes())
            for share in self._shares(group.id.prefix, group.id.topic):
                share.sources += len(group.sources)
                share.bytes += size

    def recount_listed(self, group: GroupId, before: ListedGroup, now: ListedGroup) -> None:
        """Counts a group as a second listing shows it, after an earlier run's plan record on it was
        settled: sources that are gone since were joined for that run.
        """
        report = self.report
        report.sources.seen += now.sources - before.sources
        report.sources.outputs += now.growing - before.growing
        report.groups.seen -= now.sources == 0
        report.path_list.after += self._characters(now.keys, now.key_characters)
        report.path_list.after -= self._characters(before.keys, before.key_characters)
        for share in self._shares(group.prefix, group.topic):
            share.sources += now.sources - before.sources
            share.bytes += now.bytes - before.bytes

    def recount_stale(self, group: Group, outcome: GroupOutcome, now: Group) -> None:
        """Counts a group as its second listing shows it; `outcome` is that of its first plan. What
        others have added meanwhile is seen too, and what they have taken away is not.
        """
        first, there = ListedGroup.of(group), {source.key for source in now.sources}
        before = ListedGroup(
            group.id,
            first.sources - outcome.gone,
            sum(source.size for source in group.sources if source.key in there),
            first.keys + outcome.outputs - outcome.gone,
            first.key_characters + outcome.characters,
            first.growing,
        )
        self.recount_listed(now.id, before, ListedGroup.of(now))
        outcome.more = len(now.sources) - before.sources

    def count_plan(self, plan: Plan) -> None:
        """Counts what the plan of a group says of its sources without more being done."""
        self.report.offsets.add(plan.gaps, plan.overlaps)
        self.report.add_kept(Why.EXCLUDED, plan.excluded)

    def count_dry_run(self, group: Group, plan: Plan) -> None:
        """Counts what a run would do with a group, and emits an event for each output of it."""
        self.count_plan(plan)
        for kept in plan.kept:
            self.report.add_kept(kept.why)
            self._emit_kept(kept)
        for batch in plan.batches:
            for share in self._shares(group.id.prefix, group.id.topic):
                share.joined += len(batch.sources)
                share.outputs += 1
                share.output_bytes += batch.size
            key_characters = sum(len(source.key) for source in batch.sources)
            self.report.path_list.after += self._characters(1, len(batch.output))
            self.report.path_list.after -= self._characters(len(batch.sources), key_characters)
            event = planned_event(str(group.id), batch.output, len(batch.sources), batch.size)
            self._emit(event)
        if not plan.batches:
            self.report.groups.left += 1

    def count_leftovers(self, joined: Sequence[Source]) -> None:
        """Counts sources that a run would delete before it plans, as joined by an earlier one."""
        self.report.path_list.after -= self._characters(
            len(joined), sum(len(source.key) for source in joined)
        )
        self.report.add_kept(Why.UNFINISHED, len(joined))
        for source in joined:
            self._emit_kept(Kept(source.key, Why.UNFINISHED))

    def add_forecast(self, forecast: Forecast) -> None:
        """Adds what a dry run expects of the real one, with all topics counted so far."""
        topics, self._topics = self._sorted_topics(), {}
        self._locations.clear()
        self.report.plan = PlanPart(
            topics=topics,
            requests=forecast.requests,
            bytes=forecast.bytes,
            cost_usd=cost(Counter(forecast.requests)),
            seconds=forecast.seconds,
            memory_bytes=forecast.memory,
            max_size=self._max_size,
        )

    def new_outcome(self, group: str, listed: GroupId | None = None) -> GroupOutcome:
        """Returns an empty outcome for a group, which was `listed` if it is worked on. Its outputs
        are counted as they are committed.
        """
        return GroupOutcome(lambda output: self._count_output(output, group, listed))

    def count_plan_record(
        self, outcome: GroupOutcome, group: str, run_id: str, became: Became
    ) -> None:
        """Counts a group that an earlier run left unfinished, once it was dealt with: `run_id` is
        that run's. Where this one was stopped before, only the outputs that it found count.

        Its sources are not seen: they are gone before the listing, or are listed and left.
        """
        recovered = self.report.recovered
        if outcome.outputs or became != "stopped":
            recovered.add_record(
                PlanRecordPart(group=group, run_id=run_id, outputs=outcome.outputs, became=became)
            )
        if became == "stopped":
            return
        for kept in outcome.kept:
            self._emit_kept(kept)
        self.count_undone(outcome, group)
        if became == "settled":
            recovered.groups += 1
        else:
            recovered.unsettled_groups += 1
            self.report.worsen(ExitCode.TRANSIENT)

    def count_planned_undo(self, output: UndoneOutput, group: GroupId) -> None:
        """Counts what an undo would give back, and emits an event for it."""
        for share in self._shares(group.prefix, group.topic):
            share.sources += output.sources
            share.outputs += 1
            share.output_bytes += output.size
        self._emit(planned_event(str(group), output.key, output.sources, output.size))

    def count_undone(self, outcome: GroupOutcome, group: str) -> None:
        """Counts what was given back in a group, and adds the group's failures."""
        for output in outcome.undone:
            self.report.undone.add_output(output)
            self._emit(undone_event(output, group))
        for error in outcome.failures:
            self.add_failure(error, group)

    def count_group(self, outcome: GroupOutcome, group: Group, plan: Plan, rest: Why) -> None:
        """Counts a group that this run has listed and worked on.

        Sources that are neither joined nor kept for a reason of their own are left because of
        `rest`.
        """
        groups = self.report.groups
        for kept in outcome.kept:
            self.report.add_kept(kept.why)
            self._emit_kept(kept)
        self.report.add_unlike(outcome.unlike)
        counted = outcome.joined + len(outcome.kept) + plan.excluded
        self.report.add_kept(rest, max(0, len(group.sources) + outcome.more - counted))
        for error in outcome.failures:
            self.add_failure(error, str(group.id))
        if outcome.failures:
            groups.failed += 1
        elif outcome.outputs:
            groups.coalesced += 1
        elif rest is Why.LEASED:
            groups.leased += 1
        else:
            groups.left += 1

    def count_idle_group(self, sources: int, why: Why) -> None:
        """Counts a listed group that this run did not work on, and its sources."""
        groups = self.report.groups
        self.report.add_kept(why, sources)
        if why is Why.LEASED:
            groups.leased += 1
        else:
            groups.left += 1

    def count_unsettled_group(self, sources: int, kept: Sequence[Kept], *, failed: bool) -> None:
        """Counts a listed group on which an earlier run's plan record stands, and its sources:
        those that are `kept` for a reason of their own, and the rest.
        """
        for entry in kept:
            self.report.add_kept(entry.why)
        self.report.add_kept(Why.UNFINISHED, max(0, sources - len(kept)))
        self.report.groups.failed += failed
        self.report.groups.left += not failed

    def count_leased_records(self, count: int) -> None:
        """Counts plan records of living runs, where no groups are listed."""
        self.report.groups.leased += count

    def warn(self, warning: WarningEvent) -> None:
        """Emits one of the events of `report/warnings`."""
        self._emit(warning)

    def add_failure(self, error: CoalesceError, group: str = "") -> None:
        """Adds the failure of a group or, without one, of a listing or of the whole run."""
        self._denied |= isinstance(error, AccessDenied)
        failure = self.report.add_failure(error, group)
        self._emit(failure_event(failure))

    async def add_failure_of(self, job: Awaitable[None]) -> None:
        """Waits for the run's job, and adds its failure if it ends with one.

        Anything but a CoalesceError is a defect, or a second signal, and is raised.
        """
        try:
            await job
        except asyncio.CancelledError:
            self._count_cut_off()
            raise
        except CoalesceError as error:
            self.add_failure(error)
            self._count_cut_off()
        except BaseExceptionGroup as errors:
            failure = first_failure(errors)
            if not isinstance(failure, CoalesceError):
                raise failure from errors
            self.add_failure(failure)
            self._count_cut_off()

    def _count_cut_off(self) -> None:
        """Counts what the run was working on, or had not come to, when it was cut off."""
        sources, groups = self.report.sources, self.report.groups
        counted = groups.coalesced + groups.left + groups.leased + groups.failed
        left = sources.seen - sources.joined - sum(sources.left.values())
        self.report.add_kept(Why.STOPPED, max(0, left))
        groups.left += max(0, groups.seen - counted)

    def close(
        self, usage: ProcessUsage, *, seconds: float, stop: Stop, error_on_nothing: bool
    ) -> None:
        """Adds what is known only at the end.

        Args:
            usage: of all processes of the run.
            seconds: how long the run took.
            stop: what stopped the run early, if anything did.
            error_on_nothing: whether a run without outputs has an exit code of its own.
        """
        report, store = self.report, usage.store
        groups = report.groups
        if groups.leased and groups.leased >= groups.seen and not groups.coalesced:
            report.worsen(ExitCode.LEASED)
        if stop.code:
            report.worsen(stop.code)
        report.stopped_by = stop.limit
        planned = report.plan is not None and any(topic.outputs for topic in report.plan.topics)
        done = report.outputs.written or report.outputs.recovered or report.undone.outputs
        no_outputs = not (done or planned)
        if self._denied and no_outputs and not report.recovered.groups:
            report.worsen(ExitCode.CONFIGURATION)  # the role is wrong, not a group
        if error_on_nothing and report.exit_code == ExitCode.DONE and no_outputs:
            report.exit_code = ExitCode.NOTHING
        report.topics = self._sorted_topics()
        report.locations = self._locations.sorted()
        report.seconds = round(seconds, 3)
        report.requests = dict(sorted(store.requests.items()))
        report.retries, report.throttled = store.retries, store.throttled
        report.stages = stages(store.requests, store.seconds, store.checking)
        report.bytes_in, report.bytes_out = store.bytes_in, store.bytes_out
        report.cost_usd = cost(store.requests)
        report.cpu_seconds = round(usage.cpu_seconds - self._cpu_before, 3)
        report.peak_rss_bytes = usage.peak_rss_bytes
        report.concurrency = ConcurrencyPart(reads=usage.reads, writes=usage.writes)

    def _count_output(self, output: CommittedOutput, group: str, listed: GroupId | None) -> None:
        report = self.report
        report.add_output(output)
        oversized = output.size > self._max_size and not output.recovered
        report.outputs.oversized += oversized
        # the listing came after the sources of a recovered one were gone
        if listed is not None and not output.recovered:
            for share in self._shares(listed.prefix, listed.topic):
                share.joined += output.joined
                share.outputs += 1
                share.output_bytes += output.size
            report.path_list.after += self._characters(1, len(output.key))
            report.path_list.after -= self._characters(output.gone, output.freed)
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
                "oversized": oversized,
            }
        )

    def _emit_kept(self, kept: Kept) -> None:
        self._emit({"type": "left", "key": kept.key, "why": kept.why.value})

    def _shares(self, prefix: str, topic: str) -> tuple[SharePart, ...]:
        """Where the sources of a group count."""
        by_topic = self._topics.setdefault(topic, TopicPart(topic=topic))
        return by_topic, self._locations.share_of(prefix)

    def _sorted_topics(self) -> list[TopicPart]:
        return [self._topics[name] for name in sorted(self._topics)]

    def _characters(self, keys: int, key_characters: int) -> int:
        return path_characters(self.report.scope.bucket, keys, key_characters)
