"""The whole run: list, plan, and work off groups, from one producer through a bounded queue to a pool of workers."""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coalesce import __version__, planning
from coalesce.commit import Terms
from coalesce.errors import CoalesceError, ConfigurationError, GroupOwned, LeaseLost, first_failure
from coalesce.lease import Lease
from coalesce.listing import Listed, list_groups
from coalesce.model import Batch, Group, Plan
from coalesce.naming import Layout, layout
from coalesce.planning import Limits, Scope
from coalesce.probe import admit, probe, probe_prefix
from coalesce.recovery import recover, unfinished
from coalesce.report import Report, ScopePart, cost, path_characters
from coalesce.rounds import GroupOutcome, work
from coalesce.settings import Settings
from coalesce.storage.base import Checksum, ObjectStore
from coalesce.transfer import Budget, Lanes

_WORKERS = 32
_QUEUED = 256

Event = dict[str, Any]


class Stop:
    """Why a run takes nothing new: a signal or a limit. The first reason stays."""

    def __init__(self) -> None:
        self.code = 0

    def request(self, code: int) -> None:
        """Asks the run to end between outputs, with this exit code."""
        self.code = self.code or code

    def __bool__(self) -> bool:
        return self.code != 0


@dataclass(slots=True)
class Run:
    """One run over one bucket: its settings, its account, and where its events go."""

    store: ObjectStore
    settings: Settings
    emit: Callable[[Event], None] = lambda _: None
    stop: Stop = field(default_factory=Stop)
    clock: Callable[[], float] = time.monotonic
    run_id: str = field(default_factory=lambda: f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}")
    report: Report = field(init=False)
    plans: list[Plan] = field(default_factory=list)
    _layout: Layout = field(init=False)
    _prefixes: tuple[str, ...] = field(init=False)
    _limits: Limits = field(init=False)
    _scope: Scope = field(init=False)
    _begun: float = field(init=False)
    _started_sources: int = 0
    _started_bytes: int = 0
    _started_groups: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        self._layout = layout(settings.layout)
        self._prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
        self._limits = Limits(settings.max_files, settings.max_size, settings.min_files, settings.min_age, settings.include, settings.exclude)
        self._scope = Scope(settings.partition, settings.topic)
        self._begun = self.clock()
        self.report = Report(
            version=__version__,
            run_id=self.run_id,
            started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            scope=ScopePart(bucket=settings.bucket, prefixes=list(self._prefixes), layout=settings.layout, partitions=list(settings.partition)),
        )

    async def coalesce(self) -> Report:
        """The job: recover, then list, join, prove, delete."""
        return await self._account(self._coalesce)

    async def recover(self) -> Report:
        """Only what an earlier run left unfinished."""
        return await self._account(self._recover_only)

    async def plan(self) -> Report:
        """The job up to the decision; `plans` holds what would be done. Writes nothing."""
        return await self._account(self._plan_only)

    async def _account(self, job: Callable[[], Any]) -> Report:
        try:
            await job()
        except CoalesceError as error:
            self._fail(error)
        except BaseExceptionGroup as group:
            failure = first_failure(group)
            if not isinstance(failure, CoalesceError):
                raise failure from group
            self._fail(failure)
        finally:
            self._close()
        return self.report

    async def _coalesce(self) -> None:
        async with await self._terms() as terms:
            later = await self._recover(terms)
            queue: asyncio.Queue[Group | None] = asyncio.Queue(_QUEUED)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._produce(queue))
                for _ in range(_WORKERS):
                    tasks.create_task(self._work(terms, queue))
            await self._recover_late(terms, later)

    async def _recover_only(self) -> None:
        async with await self._terms() as terms:
            await self._recover_late(terms, await self._recover(terms))

    async def _plan_only(self) -> None:
        async def found(listed: Listed) -> None:
            for group in self._in_scope(listed):
                self.plans.append(self._planned(group))

        await list_groups(self.store, self._prefixes, self._layout, ignored=self.settings.state_prefix, found=found, failed=self._fail)

    async def _terms(self) -> _Terms:
        settings = self.settings
        capabilities = await probe(self.store, probe_prefix(settings.state_prefix, self.run_id))
        self.report.store.capabilities = capabilities.as_dict()
        self.report.store.mode = admit(capabilities, settings.accept_weaker)
        copying = not settings.check and capabilities.copy_condition and capabilities.checksum is Checksum.CRC64NVME
        self._limits = Limits(**{**_fields(self._limits), "copy": copying})
        lease = Lease(self.store, settings.state_prefix, self.run_id, settings.lease, self.clock)
        return _Terms(
            Terms(
                self.store,
                settings.state_prefix,
                self.run_id,
                __version__,
                self._layout,
                self._limits,
                capabilities,
                lease,
                Lanes(asyncio.Semaphore(settings.gets_in_flight), Budget(settings.memory)),
                settings.check,
                settings.delete,
            )
        )

    async def _recover(self, terms: Terms) -> list[str]:
        """Settles what stale runs left; the keys of records whose runs may be alive."""
        later: list[str] = []

        async def one(key: str, lane: asyncio.Semaphore) -> None:
            async with lane:
                try:
                    self._add(await recover(terms, key, wait=False), key)
                except GroupOwned:
                    later.append(key)

        lane = asyncio.Semaphore(_WORKERS)
        async with asyncio.TaskGroup() as tasks:
            for key in await unfinished(self.store, terms.state, self._prefixes):
                tasks.create_task(one(key, lane))
        return later

    async def _recover_late(self, terms: Terms, keys: list[str]) -> None:
        """Finds out whether the runs behind these records live; settles the dead ones' groups and works them off."""

        async def one(key: str) -> None:
            try:
                self._add(await recover(terms, key, wait=True), key)
            except GroupOwned as error:
                self._leased(error)

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(one(key))

    async def _produce(self, queue: asyncio.Queue[Group | None]) -> None:
        async def found(listed: Listed) -> None:
            for group in self._in_scope(listed):
                if not self.stop:
                    await queue.put(group)

        await list_groups(self.store, self._prefixes, self._layout, ignored=self.settings.state_prefix, found=found, failed=self._fail)
        for _ in range(_WORKERS):
            await queue.put(None)

    async def _work(self, terms: Terms, queue: asyncio.Queue[Group | None]) -> None:
        while (group := await queue.get()) is not None:
            if self._may_take(group):
                await self._work_off(terms, group)

    async def _work_off(self, terms: Terms, group: Group) -> None:
        plan = self._planned(group)
        if plan.batches:
            self._started_groups += 1
        try:
            self._add(await work(terms, group, plan, self._may_start), str(group.id))
        except GroupOwned as error:
            self._leased(error)
        except (LeaseLost, ConfigurationError):
            raise
        except CoalesceError as error:
            self.report.groups.failed += 1
            self._fail(error, str(group.id))

    def _in_scope(self, listed: Listed) -> list[Group]:
        report = self.report
        report.sources.left["unparsed"] += listed.other_keys
        report.path_list.before += path_characters(self.settings.bucket, listed.keys, listed.key_characters)
        report.path_list.after = report.path_list.before
        groups = [group for group in listed.groups if self._scope.covers(group.id)]
        report.groups.seen += len(groups)
        report.sources.seen += sum(len(group.sources) for group in groups)
        return groups

    def _planned(self, group: Group) -> Plan:
        plan = planning.plan(group, self._layout, self._limits)
        self.report.offsets.gaps += plan.gaps
        self.report.offsets.overlaps += plan.overlaps
        return plan

    def _may_take(self, group: Group) -> bool:
        settings = self.settings
        if settings.max_groups is not None and self._started_groups >= settings.max_groups:
            self.stop.request(12)
        if settings.deadline is not None and self.clock() - self._begun >= settings.deadline:
            self.stop.request(12)
        return not self.stop

    def _may_start(self, batch: Batch) -> bool:
        """Asked between outputs; what may start is counted against the limits at once."""
        settings = self.settings
        over_bytes = settings.max_bytes is not None and self._started_bytes + batch.size > settings.max_bytes
        over_deletes = settings.max_delete is not None and self._started_sources + len(batch.sources) > settings.max_delete
        late = settings.deadline is not None and self.clock() - self._begun >= settings.deadline
        if over_bytes or over_deletes or late:
            self.stop.request(12)
        if self.stop:
            return False
        self._started_bytes += batch.size
        self._started_sources += len(batch.sources)
        return True

    def _add(self, outcome: GroupOutcome, group: str) -> None:
        report = self.report
        for delivery in outcome.deliveries:
            report.add_delivery(delivery)
            self.emit(
                {
                    "type": "output",
                    "group": group,
                    "key": delivery.output,
                    "sources": delivery.sources,
                    "bytes": delivery.size,
                    "records": delivery.records,
                    "first_offset": delivery.first,
                    "last_offset": delivery.last,
                    "crc64nvme": delivery.checksum,
                }
            )
        for left in outcome.left:
            report.add_left(left)
            self.emit({"type": "left", "key": left.key, "why": left.why.value})
            if left.why.value == "delete_refused":
                report.worsen(1)
        for error in outcome.failures:
            self._fail(error, group)
        if outcome.failures:
            report.groups.failed += 1
        elif outcome.deliveries:
            report.groups.coalesced += 1
        else:
            report.groups.left += 1

    def _leased(self, error: GroupOwned) -> None:
        self.report.groups.leased += 1
        self.emit({"type": "leased", "key": error.key, "message": error.message, "hint": error.hint})

    def _fail(self, error: CoalesceError, group: str = "") -> None:
        failure = self.report.add_failure(error, group)
        self.emit({"type": "failure", **failure.model_dump()})

    def _close(self) -> None:
        """Everything that is known only at the end."""
        report, usage = self.report, self.store.usage
        groups = report.groups
        if groups.leased and groups.leased >= groups.seen and not groups.coalesced:
            report.worsen(11)
        if self.settings.error_on_nothing and report.exit_code == 0 and not (report.outputs.written or report.outputs.recovered):
            report.exit_code = 3
        if self.stop:
            report.worsen(self.stop.code)
        report.seconds = round(self.clock() - self._begun, 3)
        report.requests = dict(sorted(usage.requests.items()))
        report.retries, report.throttled = usage.retries, usage.throttled
        report.bytes_in, report.bytes_out = usage.bytes_in, usage.bytes_out
        report.cost_usd = cost(Counter(usage.requests))
        own = resource.getrusage(resource.RUSAGE_SELF)
        report.cpu_seconds = round(own.ru_utime + own.ru_stime, 3)
        report.peak_rss_bytes = own.ru_maxrss * 1024


class _Terms:
    """The terms of a run, with its lease held for the length of a block."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._held = terms.lease.held()

    async def __aenter__(self) -> Terms:
        await self._held.__aenter__()
        return self._terms

    async def __aexit__(self, *failure: Any) -> None:
        await self._held.__aexit__(*failure)


def _fields(limits: Limits) -> dict[str, Any]:
    return {name: getattr(limits, name) for name in Limits.__slots__}
