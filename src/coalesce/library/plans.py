"""Saved plans: made by a dry run, executed by the shards of a run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from coalesce import __version__
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.library.files import read_text, reason_of, write_text
from coalesce.library.refusal import parse
from coalesce.naming.shards import WHOLE
from coalesce.planning.plan_files import PlanFile, load
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options

_GOALS = frozenset({"max_objects", "max_path_list"})  # the plan has the size that they need
_SCOPE = frozenset({"prefix", "date", "whole_bucket"})  # compared by the prefixes that they mean


async def read_plan(path: str, options: S3Options) -> PlanFile:
    """The plan in a file or at an `s3://` URL.

    Raises UsageError if it cannot be read, ConfigurationError if it is damaged.
    """
    try:
        text = await read_text(path, options)
    except (OSError, ValueError, CoalesceError) as error:
        raise UsageError(
            f"cannot read the plan {path!r}: {reason_of(error)}", hint="Check --plan."
        ) from error
    return load(text, path)


def planned_settings(values: Mapping[str, object], plan: PlanFile, today: dt.date) -> Settings:
    """The settings of a run that executes a plan: scope and limits are the plan's.

    `values` are what was said of the settings, by their names. Raises UsageError where they ask for
    something else.
    """
    options = {"gzip": "members"} | plan.header.options  # which version 0.1 knew no other of
    values = {name: value for name, value in values.items() if name not in _GOALS}
    if options["gzip"] == "single" and values.get("check") is False:
        raise UsageError(
            "the plan was made for sources that are checked",
            hint="Leave --no-check out; or plan again with it.",
        )
    planned, own = _layouts(options), _layouts(values)
    chosen = parse(Settings, {**values, **options, "layouts": own | planned, "date": "NOT_SET"})
    asked = parse(Settings, {**options, **values, "layouts": planned | own})
    compared = options.keys() - _SCOPE - {"layouts"}
    other = [name for name in compared if getattr(chosen, name) != getattr(asked, name)]
    if chosen.layout == asked.layout and chosen.chosen_layout.data != asked.chosen_layout.data:
        other.append("layout")
    if chosen.prefixes(today) != asked.prefixes(today):
        other.append("prefix")
    if other:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(other))
        raise UsageError(
            f"the plan was made with another {names}",
            hint="Leave these options out, since the plan has its own; or plan again.",
        )
    return chosen


def _layouts(values: Mapping[str, object]) -> dict[str, object]:
    """The user's own layouts in these values."""
    found = values.get("layouts")
    return dict(found) if isinstance(found, dict) else {}


def check_whole(settings: Settings) -> None:
    """Raises UsageError for settings of a single shard: no plan of it is saved."""
    if settings.shard != WHOLE:
        raise UsageError(
            "a saved plan covers all shards",
            hint="Give --shard to `run --plan` instead; here leave it out, or say --shard 0/1.",
        )


async def save_plan(path: str, run: Run, options: S3Options) -> None:
    """Writes what a dry run would do. Raises ConfigurationError."""
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    plan = PlanFile.of(
        run.settings, run.report.scope.prefixes, run.lines, version=__version__, created=created
    )
    try:
        await write_text(path, plan.dump(), options, "application/jsonl")
    except (OSError, CoalesceError) as error:
        raise ConfigurationError(
            f"cannot write the plan to {path!r}: {reason_of(error)}",
            hint="Choose another --save-plan.",
        ) from error
