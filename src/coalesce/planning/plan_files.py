"""A plan as a file: JSON lines, a header and one line per group.

Whoever works it off joins what was planned, or leaves it and says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalesce.errors import ConfigurationError
from coalesce.model import Batch, Group, GroupId, Plan
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.naming.shards import Shard, balance
from coalesce.planning import batches as planning
from coalesce.planning.forecast import work_seconds
from coalesce.planning.rules import Limits
from coalesce.settings import Settings

# What a plan stands on, besides the days: these are resolved into prefixes when it is made.
_OPTIONS = frozenset(
    {
        "bucket",
        "whole_bucket",
        "layout",
        "partition",
        "topic",
        "include",
        "exclude",
        "max_files",
        "max_size",
        "min_files",
        "min_age",
        "state",
    }
)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedBatch(_Line):
    """One output: the keys of its first and last source in order, how many there are and of how
    many bytes, and their digest.
    """

    output: str
    first: str
    last: str
    sources: int
    bytes: int
    digest: str


class PlannedGroup(_Line):
    """One group, by the listing of `listed_at` (the store's clock).

    `seconds` is its estimated work.
    """

    directory: str
    topic: str
    partition: int
    listed_at: float
    seconds: float
    batches: tuple[PlannedBatch, ...]

    @classmethod
    def of(cls, group: Group, plan: Plan) -> PlannedGroup:
        """A group's plan as a line of the file."""
        batches = tuple(map(_line_of, plan.batches))
        seconds = work_seconds(
            sum(batch.sources for batch in batches), sum(batch.bytes for batch in batches)
        )
        return cls(
            directory=group.id.directory,
            topic=group.id.topic,
            partition=group.id.partition,
            listed_at=group.listed_at,
            seconds=round(seconds, 6),
            batches=batches,
        )

    @property
    def id(self) -> GroupId:
        """The group."""
        return GroupId(self.directory, self.topic, self.partition)


class PlanHeader(_Line):
    """The first line. `sha256` is over the whole file with this field empty: it names the plan."""

    type: Literal["plan"] = "plan"
    schema_version: Literal[1] = Field(1, alias="schema")
    version: str
    created: str
    options: dict[str, Any]
    groups: int
    seconds: float
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A whole plan."""

    header: PlanHeader
    groups: tuple[PlannedGroup, ...]

    @classmethod
    def of(
        cls,
        settings: Settings,
        prefixes: Iterable[str],
        groups: Iterable[PlannedGroup],
        *,
        version: str,
        created: str,
    ) -> PlanFile:
        """The plan of a dry run over these prefixes."""
        ordered = tuple(sorted(groups, key=lambda group: group.id))
        options = settings.model_dump(mode="json", include=set(_OPTIONS)) | {
            "prefix": list(prefixes)
        }
        seconds = round(sum(group.seconds for group in ordered), 3)
        header = PlanHeader(
            schema=1,
            version=version,
            created=created,
            options=options,
            groups=len(ordered),
            seconds=seconds,
        )
        return cls(
            header.model_copy(
                update={"sha256": _hash(header, [group.model_dump_json() for group in ordered])}
            ),
            ordered,
        )

    def dump(self) -> str:
        """The file's text."""
        return "\n".join(
            [
                self.header.model_dump_json(by_alias=True),
                *(group.model_dump_json() for group in self.groups),
                "",
            ]
        )

    def share(self, shard: Shard) -> tuple[PlannedGroup, ...]:
        """What falls to one shard, evened out by estimated work."""
        shares = balance([group.seconds for group in self.groups], shard.count)
        return tuple(
            group for group, share in zip(self.groups, shares, strict=True) if share == shard.index
        )


def _line_of(batch: Batch) -> PlannedBatch:
    first, last = batch.sources[0].key, batch.sources[-1].key
    return PlannedBatch(
        output=batch.output,
        first=first,
        last=last,
        sources=len(batch.sources),
        bytes=batch.size,
        digest=batch.digest,
    )


def load(text: str, name: str) -> PlanFile:
    """The plan in a file's text.

    Raises ConfigurationError for one that is damaged, cut short, of another version, or that leaves
    its own scope.
    """
    first, *lines = text.split("\n")
    try:
        header = PlanHeader.model_validate_json(first)
        if (
            lines[-1:] != [""]
            or len(lines) != header.groups + 1
            or _hash(header, lines[:-1]) != header.sha256
        ):
            raise ValueError("it is cut short or was changed")
        groups = tuple(PlannedGroup.model_validate_json(line) for line in lines[:-1])
        _check_scope(header, groups)
    except (ValidationError, ValueError, KeyError) as error:
        why = "not a plan of this version" if isinstance(error, ValidationError) else str(error)
        raise ConfigurationError(
            f"the plan {name!r} cannot be used: {why}",
            code="BadPlan",
            hint="Write it again with `coalesce plan --save-plan`.",
        ) from error
    return PlanFile(header, groups)


def match_plan(
    group: Group, line: PlannedGroup, layout: Layout, limits: Limits
) -> tuple[Plan, int]:
    """The batches that can be worked off as planned, to the last version of a source; and how many
    no longer match the bucket.

    What is joined already, by an earlier try of the same shard, is neither.
    """
    usable, _ = planning.choose_sources(replace(group, listed_at=line.listed_at), layout, limits)
    ends = {key for batch in line.batches for key in (batch.first, batch.last)}
    at = {source.key: n for n, source in enumerate(usable) if source.key in ends}
    there = {source.key for source in group.sources if source.key in ends}
    outputs = {output.key for output in group.outputs}
    batches: list[Batch] = []
    stale = 0
    for batch in line.batches:
        run = (
            usable[at[batch.first] : at[batch.last] + 1]
            if batch.first in at and batch.last in at
            else usable[:0]
        )
        if batch.output not in outputs and planning.digest(run) == batch.digest:
            batches.append(Batch(batch.output, run, sum(run.sizes()), batch.digest))
        elif batch.output not in outputs or batch.first in there or batch.last in there:
            stale += 1
    return Plan(group.id, tuple(batches), ()), stale


def _hash(header: PlanHeader, lines: Sequence[str]) -> str:
    unnamed = header.model_copy(update={"sha256": ""})
    return hashlib.sha256(
        "\n".join([unnamed.model_dump_json(by_alias=True), *lines]).encode()
    ).hexdigest()


def _check_scope(header: PlanHeader, groups: Iterable[PlannedGroup]) -> None:
    prefixes, layout = tuple(header.options["prefix"]), LAYOUTS[header.options["layout"]]
    for group in groups:
        for batch in group.batches:
            named = layout.parse(batch.output)
            if (
                named is None
                or named.kind != "output"
                or named.group != group.id
                or not batch.output.startswith(prefixes)
            ):
                raise ValueError(f"{batch.output!r} is no output of its group")
