"""Written plans: `plan --save-plan` and `run --plan`."""

from __future__ import annotations

import datetime as dt
from typing import Any

from coalesce import __version__
from coalesce.cli.files import bucket_of, read_texts, remote, write_text
from coalesce.cli.values import settings_of, store_options_of
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.planning.plan_files import PlanFile, load
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options

_SCOPE = frozenset({"prefix", "date", "whole_bucket"})  # settled by the prefixes that they come to


async def read_plan(path: str, values: dict[str, Any]) -> PlanFile:
    """The plan in a file or at an `s3://` URL.

    Raises UsageError if it cannot be read, ConfigurationError if it is damaged.
    """
    options = store_options_of(
        {**values, "bucket": bucket_of(path)} if remote(path) else {**values, "bucket": "-"}
    )
    try:
        ((name, text),) = await read_texts(path, options)
    except (OSError, ValueError, CoalesceError) as error:
        raise UsageError(
            f"the plan {path!r} cannot be read: {error}", hint="Check --plan."
        ) from error
    return load(text, name)


def planned_settings(values: dict[str, Any], plan: PlanFile, today: dt.date) -> Settings:
    """The settings of a run that works off a plan: its scope and rules are the plan's.

    Raises UsageError where something else was asked for.
    """
    said = {name: value for name, value in values.items() if name != "manifests"}
    if values.get("manifests"):
        said["layout"] = "manifest"
    ours = {**said, **plan.header.options, "date": "NOT_SET"}
    chosen, asked = settings_of(ours), settings_of({**plan.header.options, **said})
    other = [
        name
        for name in plan.header.options.keys() - _SCOPE
        if getattr(chosen, name) != getattr(asked, name)
    ]
    if chosen.prefixes(today) != asked.prefixes(today):
        other.append("prefix")
    if other:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(other))
        raise UsageError(
            f"the plan was made with another {names}",
            hint="Leave these out: a plan brings its own; or plan again.",
        )
    return chosen


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
            f"the plan cannot be written to {path!r}: {error}", hint="Choose another --save-plan."
        ) from error
