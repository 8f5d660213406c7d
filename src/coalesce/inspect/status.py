"""What lies under the prefixes now, and what a run would make of it. Reads only."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.errors import CoalesceError, NotImplementedByStore, RecordDamaged
from coalesce.exits import exit_code_of, worst
from coalesce.listing.groups import Listing, list_groups
from coalesce.model import Group, GroupId
from coalesce.naming.layouts import Layout, layout
from coalesce.naming.sources import Sources
from coalesce.planning import batches as planning
from coalesce.planning.rules import Limits, Scope
from coalesce.protocol.record import HeldRecord
from coalesce.protocol.state import group_of
from coalesce.protocol.survey import Ground, survey
from coalesce.report.report import Failure, PathListPart, ScopePart, path_characters
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore


class Pile(BaseModel):
    """Objects of one kind."""

    count: int = 0
    bytes: int = 0

    def add(self, count: int, size: int) -> None:
        """So many more."""
        self.count += count
        self.bytes += size


class TopicStatus(BaseModel):
    """One topic: its small objects and its outputs; how many small ones a run would join, and into
    how many outputs.
    """

    topic: str
    sources: Pile = Field(default_factory=Pile)
    outputs: Pile = Field(default_factory=Pile)
    would_join: int = 0
    would_write: int = 0


class Unfinished(BaseModel):
    """A group with a plan record. `alive`: its run still renews its lease.

    `leftovers` are sources whose output is there already.
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
    """All of it. `path_list.before` is now, `after` is what a run would leave.

    `uploads` is None where the store does not list them.
    """

    type: Literal["status"] = "status"
    schema_version: int = Field(default=1, alias="schema")
    version: str = __version__
    scope: ScopePart
    sources: Pile = Field(default_factory=Pile)
    outputs: Pile = Field(default_factory=Pile)
    other: Pile = Field(default_factory=Pile)
    path_list: PathListPart = Field(default_factory=PathListPart)
    topics: list[TopicStatus] = Field(default_factory=list)
    left: dict[str, int] = Field(default_factory=dict)
    unfinished: list[Unfinished] = Field(default_factory=list)
    leases: list[Lease] = Field(default_factory=list)
    uploads: int | None = None
    leftovers: int = 0
    failures: list[Failure] = Field(default_factory=list)
    exit_code: int = 0


async def look(store: ObjectStore, settings: Settings) -> Status:
    """The state of a scope.

    What a failed listing would have shown is missing, and said among the failures. Raises
    CoalesceError if nothing can be seen.
    """
    await store.check_access()
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    scope = ScopePart(
        bucket=settings.bucket,
        prefixes=list(prefixes),
        layout=settings.layout,
        partitions=list(settings.partition),
        shard=str(settings.shard),
    )
    view = _View(store, settings, Status(scope=scope), layout(settings.layout))
    await view.records(prefixes)
    await list_groups(
        store,
        prefixes,
        view.layout,
        state_prefix=settings.state_prefix,
        on_listing=view.found,
        on_failure=view.failed,
        shard=settings.shard,
    )
    await view.uploads(prefixes)
    return view.closed()


class _View:
    def __init__(
        self, store: ObjectStore, settings: Settings, status: Status, names: Layout
    ) -> None:
        self.layout = names
        self._store = store
        self._settings = settings
        self._status = status
        self._limits = Limits(
            settings.max_files,
            settings.max_size,
            settings.min_files,
            settings.min_age,
            settings.include,
            settings.exclude,
        )
        self._scope = Scope(settings.partition, settings.topic)
        self._topics: dict[str, TopicStatus] = {}
        self._left: Counter[str] = Counter()
        self._recorded: dict[GroupId, HeldRecord] = {}
        self._lines: dict[GroupId, Unfinished] = {}

    def failed(self, error: CoalesceError) -> None:
        failure = Failure(
            key=error.key,
            code=error.code,
            request_id=error.request_id,
            message=error.message,
            hint=error.hint,
        )
        self._status.failures.append(failure)
        self._status.exit_code = worst(self._status.exit_code, exit_code_of(error))

    async def records(self, prefixes: tuple[str, ...]) -> None:
        """Plan records and leases."""
        state, status = self._settings.state_prefix, self._status
        left = await survey(
            self._store,
            state,
            Ground(
                layout=self.layout.name,
                prefixes=prefixes,
                roots=self._settings.roots,
                shard=self._settings.shard,
                owns=self._settings.shard.owns,
            ),
        )
        for rival in left.rivals:
            lease = rival.record
            status.leases.append(
                Lease(
                    run_id=lease.run_id,
                    owner=lease.owner,
                    alive=rival.remaining > 0,
                    prefixes=list(lease.prefixes),
                    shard=lease.shard,
                )
            )
        alive = {lease.run_id for lease in status.leases if lease.alive}
        for key in left.records:
            try:
                held = await HeldRecord.read(self._store, state, key)
                group = group_of(state, key)
            except (RecordDamaged, ValueError) as error:
                self.failed(
                    error
                    if isinstance(error, CoalesceError)
                    else RecordDamaged(f"the plan record {key!r} is no group's", key=key)
                )
                continue
            if held is not None:
                self._recorded[group] = held
                run_id = held.record.run_id
                self._lines[group] = Unfinished(
                    group=str(group),
                    run_id=run_id,
                    alive=run_id in alive,
                    outputs=len(held.record.batches),
                )

    async def found(self, listed: Listing) -> None:
        """A piece of the key space."""
        status = self._status
        status.other.add(listed.other_keys, listed.other_bytes)
        characters = path_characters(status.scope.bucket, listed.keys, listed.key_characters)
        status.path_list.before += characters
        status.path_list.after += characters
        for group in (*listed.groups, *listed.outputs_only):
            if self._scope.covers(group.id):
                self._group(group)

    def _group(self, group: Group) -> None:
        status, bucket = self._status, self._status.scope.bucket
        topic = self._topics.setdefault(group.id.topic, TopicStatus(topic=group.id.topic))
        sizes = (
            sum(Sources.of(group.id.prefix, group.sources).sizes()),
            sum(output.size for output in group.outputs),
        )
        for pile in (topic.sources, status.sources):
            pile.add(len(group.sources), sizes[0])
        for pile in (topic.outputs, status.outputs):
            pile.add(len(group.outputs), sizes[1])
        plan = planning.plan(group, self.layout, self._limits)
        self._left.update(left.why.value for left in plan.kept)
        for batch in plan.batches:
            topic.would_join += len(batch.sources)
            topic.would_write += 1
            status.path_list.after += path_characters(bucket, 1, len(batch.output))
            status.path_list.after -= path_characters(
                bucket, len(batch.sources), sum(len(source.key) for source in batch.sources)
            )
        if group.id in self._recorded:
            self._lines[group.id].leftovers = _leftovers(group, self._recorded[group.id])

    async def uploads(self, prefixes: tuple[str, ...]) -> None:
        """Open uploads of outputs."""
        try:
            found = [
                upload for prefix in prefixes for upload in await self._store.list_uploads(prefix)
            ]
        except NotImplementedByStore:
            return
        except CoalesceError as error:
            self.failed(error)
            return
        named = [(self.layout.parse(upload.key), upload.key) for upload in found]
        self._status.uploads = sum(
            name is not None and name.kind == "output" and self._settings.shard.owns(key)
            for name, key in named
        )

    def closed(self) -> Status:
        """With everything that is known only at the end."""
        status = self._status
        status.topics = [self._topics[name] for name in sorted(self._topics)]
        status.left = dict(sorted(self._left.items()))
        status.unfinished = [self._lines[group] for group in sorted(self._lines)]
        status.leftovers = sum(line.leftovers for line in status.unfinished)
        return status


def _leftovers(group: Group, held: HeldRecord) -> int:
    outputs = {output.key for output in group.outputs}
    joined = {
        source.key
        for entry in held.record.batches
        if entry.batch.output in outputs
        for source in entry.batch.sources
    }
    return sum(source.key in joined for source in group.sources) if joined else 0
