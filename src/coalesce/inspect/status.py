"""What lies under the prefixes now, and what a run would make of it. Reads only."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.errors import AccessDenied, CoalesceError, NotImplementedByStore
from coalesce.exits import ExitCode, exit_code_of, worst
from coalesce.listing.found import Found, find_neighbours
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group, GroupId
from coalesce.naming.layouts import Layout, layout
from coalesce.naming.sources import Sources
from coalesce.planning import batches as planning
from coalesce.planning.rules import Limits, Scope
from coalesce.protocol.lease import Rival
from coalesce.protocol.leftovers import read_records, without_leftovers
from coalesce.protocol.record import PlanRecord
from coalesce.protocol.survey import Ground, survey
from coalesce.report.events import WarningEvent
from coalesce.report.report import Failure, PathListPart, ScopePart, path_characters
from coalesce.report.warnings import nothing_found
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore


class ObjectTotal(BaseModel):
    """How many objects of one kind there are, and their bytes."""

    count: int = 0
    bytes: int = 0

    def add(self, count: int, size: int) -> None:
        """Adds `count` objects of `size` bytes in all."""
        self.count += count
        self.bytes += size


class TopicStatus(BaseModel):
    """One topic: its sources and outputs; how many sources a run would join, into how many
    outputs.
    """

    topic: str
    sources: ObjectTotal = Field(default_factory=ObjectTotal)
    outputs: ObjectTotal = Field(default_factory=ObjectTotal)
    would_join: int = 0
    would_write: int = 0


class UnfinishedGroup(BaseModel):
    """A group with a plan record, whose run still works on it or ended before it was done.

    `alive` means that the run still renews its lease; `outputs` are those of the plan; `leftovers`
    are sources that are still there although the output they were joined into exists.
    """

    group: str
    run_id: str = ""
    alive: bool = False
    outputs: int = 0
    leftovers: int = 0


class Lease(BaseModel):
    """A run's lease."""

    run_id: str
    owner: str
    alive: bool
    prefixes: list[str]
    shard: str


class Status(BaseModel):
    """Everything that `coalesce status` shows.

    `path_list.before` is now, `after` is what a run would leave. `left` counts, by reason, the
    sources that a run would not join. `uploads` is None where the store does not list them.
    """

    type: Literal["status"] = "status"
    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str = __version__
    scope: ScopePart
    sources: ObjectTotal = Field(default_factory=ObjectTotal)
    outputs: ObjectTotal = Field(default_factory=ObjectTotal)
    other: ObjectTotal = Field(default_factory=ObjectTotal)
    path_list: PathListPart = Field(default_factory=PathListPart)
    topics: list[TopicStatus] = Field(default_factory=list)
    left: dict[str, int] = Field(default_factory=dict)
    unfinished: list[UnfinishedGroup] = Field(default_factory=list)
    leases: list[Lease] = Field(default_factory=list)
    uploads: int | None = None
    leftovers: int = 0
    failures: list[Failure] = Field(default_factory=list)
    warnings: list[WarningEvent] = Field(default_factory=list)
    exit_code: int = 0


async def read_status(store: ObjectStore, settings: Settings) -> Status:
    """The state of a scope: what lies there, what is unfinished, and what a run would change.

    What one failed listing or one record that cannot be read would have shown is missing, and named
    among the failures; the exit code is that of the worst.

    Args:
        store: the bucket; nothing is written to it.
        settings: the scope, and the limits that a run would plan by.

    Raises:
        CoalesceError: the bucket cannot be reached, or the state prefix cannot be listed.
    """
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    await store.check_access(prefixes[0])
    builder = _StatusBuilder(store, settings, prefixes)
    await builder.read_state()
    await list_groups(
        store,
        prefixes,
        builder.layout,
        state_prefix=settings.state_prefix,
        on_listing=builder.add_listing,
        on_failure=builder.add_failure,
        shard=settings.shard,
    )
    await builder.look_around()
    await builder.count_uploads()
    return builder.build()


class _StatusBuilder:
    """Adds up a status, in the order of the calls above: plan records first, then listings."""

    def __init__(self, store: ObjectStore, settings: Settings, prefixes: tuple[str, ...]) -> None:
        self.layout: Layout = layout(settings.layout)
        self._store = store
        self._settings = settings
        self._prefixes = prefixes
        self._status = Status(scope=ScopePart.of(settings, prefixes))
        self._limits = Limits.of(settings)
        self._scope = Scope.of(settings)
        self._topics: dict[str, TopicStatus] = {}
        self._left: Counter[str] = Counter()
        self._records: dict[GroupId, PlanRecord] = {}
        self._unfinished: dict[GroupId, UnfinishedGroup] = {}
        self._found = Found(set(prefixes), self._scope.covers)
        self._denied = False

    def add_failure(self, error: CoalesceError) -> None:
        self._denied |= isinstance(error, AccessDenied)
        self._status.failures.append(Failure.of(error))
        self._status.exit_code = worst(self._status.exit_code, exit_code_of(error))

    async def read_state(self) -> None:
        """Reads the leases and plan records."""
        state, shard = self._settings.state_prefix, self._settings.shard
        ground = Ground(
            layout=self.layout.name,
            prefixes=self._prefixes,
            roots=self._settings.roots,
            shard=shard,
            owns=shard.owns,
        )
        found = await survey(self._store, state, ground)
        self._status.leases = [_lease_of(rival) for rival in found.rivals]
        alive = {lease.run_id for lease in self._status.leases if lease.alive}
        self._records = await read_records(self._store, state, found.records, self.add_failure)
        for group, record in self._records.items():
            self._unfinished[group] = UnfinishedGroup(
                group=str(group),
                run_id=record.run_id,
                alive=record.run_id in alive,
                outputs=len(record.batches),
            )

    async def add_listing(self, listing: Listing) -> None:
        """Counts the objects of one piece of the key space."""
        self._found.add(listing)
        status = self._status
        status.other.add(listing.other_keys, listing.other_bytes)
        characters = path_characters(status.scope.bucket, listing.keys, listing.key_characters)
        status.path_list.before += characters
        status.path_list.after += characters
        for group in (*listing.groups, *listing.outputs_only):
            if self._scope.covers(group.id):
                self._add_group(group)

    def _add_group(self, group: Group) -> None:
        status, bucket = self._status, self._status.scope.bucket
        topic = self._topics.setdefault(group.id.topic, TopicStatus(topic=group.id.topic))
        source_bytes = sum(Sources.of(group.id.prefix, group.sources).sizes())
        output_bytes = sum(output.size for output in group.outputs)
        for totals in (topic, status):
            totals.sources.add(len(group.sources), source_bytes)
            totals.outputs.add(len(group.outputs), output_bytes)
        if group.id in self._records:
            group = self._without_leftovers(group)
        plan = planning.plan(group, self.layout, self._limits)
        self._left.update(kept.why.value for kept in plan.kept)
        for batch in plan.batches:
            topic.would_join += len(batch.sources)
            topic.would_write += 1
            status.path_list.after += path_characters(bucket, 1, len(batch.output))
            status.path_list.after -= path_characters(
                bucket, len(batch.sources), sum(len(source.key) for source in batch.sources)
            )

    def _without_leftovers(self, group: Group) -> Group:
        """The group as the next run plans it: it deletes the joined sources first."""
        planned, gone = without_leftovers(group, self._records[group.id])
        self._unfinished[group.id].leftovers = len(gone)
        self._status.path_list.after -= path_characters(
            self._status.scope.bucket, len(gone), sum(len(source.key) for source in gone)
        )
        return planned

    async def look_around(self) -> None:
        """Warns of prefixes without keys, and of keys that are named otherwise."""
        settings, found = self._settings, self._found
        if settings.shard.count > 1:
            return
        found.add_failed(failure.key for failure in self._status.failures)
        neighbours = await find_neighbours(self._store, found.empty, settings.state_prefix)
        self._status.warnings += nothing_found(settings.bucket, settings.layout, found, neighbours)

    async def count_uploads(self) -> None:
        """Counts the open uploads of outputs."""
        try:
            uploads = [
                upload
                for prefix in self._prefixes
                for upload in await self._store.list_uploads(prefix)
            ]
        except NotImplementedByStore:
            return
        except CoalesceError as error:
            self.add_failure(error)
            return
        self._status.uploads = sum(self._is_own_output(upload.key) for upload in uploads)

    def _is_own_output(self, key: str) -> bool:
        named = self.layout.parse(key)
        return named is not None and named.kind == "output" and self._settings.shard.owns(key)

    def build(self) -> Status:
        """The status, with what is known only at the end."""
        status = self._status
        status.topics = [self._topics[name] for name in sorted(self._topics)]
        status.left = dict(sorted(self._left.items()))
        status.unfinished = [self._unfinished[group] for group in sorted(self._unfinished)]
        status.leftovers = sum(group.leftovers for group in status.unfinished)
        if self._denied and not status.topics and not status.other.count:
            status.exit_code = worst(status.exit_code, ExitCode.CONFIGURATION)
        return status


def _lease_of(rival: Rival) -> Lease:
    record = rival.record
    return Lease(
        run_id=record.run_id,
        owner=record.owner,
        alive=rival.remaining > 0,
        prefixes=list(record.prefixes),
        shard=record.shard,
    )
