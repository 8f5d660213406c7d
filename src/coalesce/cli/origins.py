"""Where values come from: the command line, the environment, a configuration file, a scheduler.

`gather` decides which of them counts; everything else here only reads.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from coalesce.cli.options import CONFIG_FILE, Option, Values
from coalesce.errors import UsageError

_YES = frozenset({"1", "true", "yes", "on", "t", "y"})
_NO = frozenset({"0", "false", "no", "off", "f", "n"})

# Where schedulers say which of how many jobs this is: AWS Batch array jobs; Kubernetes Indexed
# Jobs, which know their number only if somebody passes it on.
_ARRAYS = (
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("JOB_COMPLETION_INDEX", "COALESCE_SHARDS"),
)


def gather(typed: Values, environment: Values, file: Values, scheduler: Values) -> Values:
    """One value for each name: the command line goes before the environment, the environment
    before the file, the file before the scheduler. What none of them names has its default.

    Raises UsageError for targets that contradict each other.
    """
    merged: dict[str, object] = {}
    for origin in (scheduler, file, environment, typed):
        merged |= spell_out(origin)
    return merged


def spell_out(values: Values) -> Values:
    """The same values, with settings in the place of options that stand for others.

    Raises UsageError for targets that are no URLs, or of more than one bucket.
    """
    plain = {name: value for name, value in values.items() if name not in _SHORTHANDS}
    for name, (setting, value) in _SHORTHANDS.items():
        if values.get(name):
            plain[setting] = value
    targets = plain.pop("targets", ())
    for target in targets if isinstance(targets, list) else ():
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        if not target.startswith("s3://"):
            raise UsageError(
                f"{target!r} is not an s3:// URL",
                hint=f"Write s3://{target.strip('/') or 'BUCKET'}/PREFIX.",
            )
        if plain.setdefault("bucket", bucket) != bucket:
            raise UsageError(
                f"{target!r} is not in the bucket {plain['bucket']!r}",
                hint="One command works in one bucket; use a command for each.",
            )
        given = plain.get("prefix", [])
        plain["prefix"] = [*given, prefix] if isinstance(given, list) else given
    return plain


_SHORTHANDS: dict[str, tuple[str, object]] = {
    "manifests": ("layout", "manifest"),
    "multiprocessor": ("processes", 0),
    "no_delete": ("delete", False),
}


def read_environment(options: Iterable[Option], environment: Mapping[str, str]) -> Values:
    """What environment variables say of these options; empty ones say nothing.

    Raises UsageError for a switch that is neither on nor off.
    """
    values: dict[str, object] = {}
    for option in options:
        text = environment.get(option.variable, "") if option.variable else ""
        if not text:
            continue
        if option.value:
            values[option.name] = text.split() if option.repeatable else text
        elif text.strip().lower() in _YES | _NO:
            values[option.name] = text.strip().lower() in _YES
        else:
            raise UsageError(f"{option.variable} {text!r}: neither true nor false")
    return values


def read_scheduler(environment: Mapping[str, str]) -> Values:
    """The shard that the job is, if its scheduler says so."""
    for index, count in _ARRAYS:
        if environment.get(index) and environment.get(count):
            return {"shard": f"{environment[index]}/{environment[count]}"}
    return {}


def read_file(path: str | None, known: Collection[str]) -> Values:
    """What a configuration file says; None is the default file, which need not exist.

    Raises UsageError for a file that cannot be read, or that sets what is not `known`.
    """
    file = Path(path or CONFIG_FILE)
    if path is None and not file.exists():
        return {}
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:  # also text that is not UTF-8 or not TOML
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read the configuration file {str(file)!r}: {reason}", hint="Check --config."
        ) from error
    values = {name.replace("-", "_"): value for name, value in found.items()}
    if unknown := sorted(values.keys() - known):
        raise UsageError(
            f"unknown names in the configuration file {str(file)!r}: {', '.join(unknown)}",
            hint="It knows the names of the options, such as max-size.",
        )
    return values
