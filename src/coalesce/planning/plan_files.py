"""A plan as a file: JSON lines, a header and one line for each group.

A run that executes it joins exactly what was planned, or keeps the sources and says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from coalesce.errors import ConfigurationError
from coalesce.model import Batch, Group, GroupId, Plan, Why
from coalesce.naming.layouts import Layout
from coalesce.naming.own_layouts import OwnLayout, known_layouts
from coalesce.naming.shards import Shard, balance
from coalesce.planning.batches import choose_sources, digest
from coalesce.planning.forecast import work_seconds
from coalesce.planning.rules import Limits
from coalesce.settings import Settings

# The settings that a plan depends on. Dates are not among them: they are resolved into prefixes
# when the plan is made.
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
        "storage_class",
        "grow",
    }
)


_OWN = TypeAdapter(dict[str, OwnLayout])


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedBatch(_Line):
    """One output.

    `first` and `last` are the keys of its first and last source by offset; `digest` is that of the
    batch.
    """

    output: str
    first: str
    last: str
    sources: int
    bytes: int
    digest: str

    @classmethod
    def of(cls, batch: Batch) -> PlannedBatch:
        """Returns a batch as it stands in the file."""
        return cls(
            output=batch.output,
            first=batch.sources[0].key,
            last=batch.sources[-1].key,
            sources=len(batch.sources),
            bytes=batch.size,
            digest=batch.digest,
        )


class PlannedGroup(_Line):
    """One group.

    `listed_at` is when it was listed, in seconds since the epoch by the store's clock; `seconds` is
    the estimated work of one process.
    """

    directory: str
    topic: str
    partition: int
    names: str = ""
    listed_at: float
    seconds: float
    batches: tuple[PlannedBatch, ...]

    @classmethod
    def of(cls, group: Group, plan: Plan) -> PlannedGroup:
        """Returns a group's plan as a line of the file."""
        batches = tuple(map(PlannedBatch.of, plan.batches))
        seconds = work_seconds(
            sum(batch.sources for batch in batches), sum(batch.bytes for batch in batches)
        )
        return cls(
            directory=group.id.directory,
            topic=group.id.topic,
            partition=group.id.partition,
            names=group.id.names,
            listed_at=group.listed_at,
            seconds=round(seconds, 6),
            batches=batches,
        )

    @property
    def id(self) -> GroupId:
        """The group's id."""
        return GroupId(self.directory, self.topic, self.partition, self.names)

    def dump(self) -> str:
        """Returns the line of the file."""
        return self.model_dump_json(exclude_defaults=True)


class PlanHeader(_Line):
    """The first line.

    `options` are the settings that the plan depends on, with its resolved prefixes. `sha256` is
    over the whole file with this field empty, and identifies the plan.
    """

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
    """A whole plan: its groups in the order of their ids."""

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
        """Makes the plan of a dry run.

        Args:
            settings: The settings of the dry run.
            prefixes: The prefixes that it listed, with dates resolved.
            groups: What it would do, in any order.
            version: The version of this program.
            created: RFC 3339.
        """
        lines = tuple(sorted(groups, key=lambda group: group.id))
        options = settings.model_dump(mode="json", include=set(_OPTIONS))
        header = PlanHeader(
            schema=1,
            version=version,
            created=created,
            options={
                **options,
                "prefix": list(prefixes),
                **_gzip_option(settings),
                **_layouts_option(settings),
            },
            groups=len(lines),
            seconds=round(sum(group.seconds for group in lines), 3),
        )
        sha256 = _hash(header, [group.dump() for group in lines])
        return cls(header.model_copy(update={"sha256": sha256}), lines)

    def dump(self) -> str:
        """Returns the text of the file."""
        return "\n".join(
            [
                self.header.model_dump_json(by_alias=True),
                *(group.dump() for group in self.groups),
                "",
            ]
        )

    def share(self, shard: Shard) -> tuple[PlannedGroup, ...]:
        """Returns the groups of one shard; shards are balanced by estimated work."""
        shares = balance([group.seconds for group in self.groups], shard.count)
        return tuple(
            group for group, share in zip(self.groups, shares, strict=True) if share == shard.index
        )


def load(text: str, name: str) -> PlanFile:
    """Reads a plan.

    Args:
        text: The text of the file.
        name: The name of the file, for the message.

    Raises:
        ConfigurationError: The plan is damaged, truncated, of another version, or names outputs
            outside its own scope.
    """
    first, *lines = text.split("\n")
    try:
        header = PlanHeader.model_validate_json(first)
        if (
            lines[-1:] != [""]
            or len(lines) != header.groups + 1
            or _hash(header, lines[:-1]) != header.sha256
        ):
            raise ValueError("it is truncated or was changed")
        groups = tuple(PlannedGroup.model_validate_json(line) for line in lines[:-1])
        _check_scope(header, groups)
    except (ValidationError, ValueError, KeyError) as error:
        why = "not a plan of this version" if isinstance(error, ValidationError) else str(error)
        raise ConfigurationError(
            f"the plan {name!r} cannot be used: {why}",
            code="BadPlan",
            hint="Make it again with `coalesce plan --save-plan`.",
        ) from error
    return PlanFile(header, groups)


def match_plan(
    group: Group, planned: PlannedGroup, layout: Layout, limits: Limits
) -> tuple[Plan, int]:
    """Matches a group's saved plan with what the bucket holds now.

    Args:
        group: As it is listed now.
        planned: The group's line in the saved plan.
        layout: How its objects are named.
        limits: Those of the saved plan.

    Returns:
        The batches that can still be joined exactly as planned, to the version of every source,
        with the sources that are kept whatever the plan says; and the number of batches that no
        longer match. A batch that an earlier run of the same plan has joined is in neither.
    """
    limits = limits.of_content(layout.codec(group.id), layout.records)
    chosen = choose_sources(replace(group, listed_at=planned.listed_at), layout, limits)
    ends = {key for batch in planned.batches for key in (batch.first, batch.last)}
    places = {
        source.key: place for place, source in enumerate(chosen.sources) if source.key in ends
    }
    present = {source.key for source in group.sources if source.key in ends}
    outputs = group.output_keys
    batches: list[Batch] = []
    stale = 0
    for batch in planned.batches:
        run = chosen.between(places.get(batch.first), places.get(batch.last))
        exists = batch.output in outputs
        if not exists and digest(run, single=limits.single) == batch.digest:
            batches.append(Batch(batch.output, run, sum(run.sizes()), batch.digest))
        elif not exists or batch.first in present or batch.last in present:
            stale += 1
    excluded = len(group.sources) - len(chosen.sources) - len(chosen.kept)
    # One that was young for the plan need not be so any more.
    still_kept = tuple(entry for entry in chosen.kept if entry.why is not Why.YOUNG)
    return Plan(group.id, tuple(batches), still_kept, excluded=excluded), stale


def _gzip_option(settings: Settings) -> dict[str, str]:
    """How outputs are made of gzip members, where any sources can be compressed again."""
    codecs = settings.chosen_layout.codecs
    again = any(codec.is_compressed_again for codec in codecs)
    return {"gzip": settings.gzip_mode} if again else {}


def _layouts_option(settings: Settings) -> dict[str, Any]:
    """What the plan's layout says, if it is the user's own."""
    if settings.layout not in settings.layouts:
        return {}
    said = settings.layouts[settings.layout].model_dump(mode="json", exclude_defaults=True)
    return {"layouts": {settings.layout: said}}


def _hash(header: PlanHeader, lines: Sequence[str]) -> str:
    unnamed = header.model_copy(update={"sha256": ""})
    return hashlib.sha256(
        "\n".join([unnamed.model_dump_json(by_alias=True), *lines]).encode()
    ).hexdigest()


def _check_scope(header: PlanHeader, groups: Iterable[PlannedGroup]) -> None:
    """Raises ValueError if a batch's output is not one of its group, under the plan's prefixes."""
    own = _OWN.validate_python(header.options.get("layouts", {}))
    layout = known_layouts(tuple(own.items()))[header.options["layout"]]
    prefixes = tuple(header.options["prefix"])
    for group in groups:
        for batch in group.batches:
            parsed = layout.parse(batch.output)
            if (
                parsed is None
                or (parsed.kind, parsed.group) != ("output", group.id)
                or not batch.output.startswith(prefixes)
            ):
                raise ValueError(f"{batch.output!r} is not an output of its group")
