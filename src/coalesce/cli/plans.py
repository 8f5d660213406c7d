"""Saved plans: `plan --save-plan` and `run --plan`."""

from __future__ import annotations

import datetime as dt

from coalesce import __version__
from coalesce.cli.files import read_text, reason_of, write_text
from coalesce.cli.options import Values
from coalesce.cli.request import parse
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.planning.plan_files import PlanFile, load
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options

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


def planned_settings(values: Values, plan: PlanFile, today: dt.date) -> Settings:
    """The settings of a run that executes a plan: scope and limits are the plan's.

    Raises UsageError where the values ask for something else.
    """
    options = {"gzip": "members"} | plan.header.options  # which version 0.1 knew no other of
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


def _layouts(values: Values) -> dict[str, object]:
    """The user's own layouts in these values."""
    found = values.get("layouts")
    return dict(found) if isinstance(found, dict) else {}


async def save_plan(path: str, run: Run, settings: Settings, options: S3Options) -> None:
    """Writes what a dry run would do. Raises ConfigurationError."""
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    plan = PlanFile.of(
        settings, run.report.scope.prefixes, run.lines, version=__version__, created=created
    )
    try:
        await write_text(path, plan.dump(), options, "application/jsonl")
    except (OSError, CoalesceError) as error:
        raise ConfigurationError(
            f"cannot write the plan to {path!r}: {reason_of(error)}",
            hint="Choose another --save-plan.",
        ) from error
