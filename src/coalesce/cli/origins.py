"""Where values come from: the command line, the environment, a configuration file, a scheduler.

`gather` decides which of them counts; everything else here only reads.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from coalesce.cli.options import CONFIG_FILE, Option, Values
from coalesce.errors import UsageError

_YES = frozenset({"1", "true", "yes", "on", "t", "y"})
_NO = frozenset({"0", "false", "no", "off", "f", "n"})

# Where schedulers say which of how many jobs this is: AWS Batch array jobs; Kubernetes Indexed
# Jobs, which know their number only if somebody passes it on.
_SHARDS = "COALESCE_SHARDS"
_ARRAYS = (
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("JOB_COMPLETION_INDEX", _SHARDS),
)


class Origin(NamedTuple):
    """Where a value came from: the `kind` is option, variable, file or scheduler; the `name` is the
    option's, the variable's or the file's.
    """

    kind: str
    name: str


class Gathered(dict[str, object]):
    """One value for each name, and where each came from."""

    def __init__(self, values: Values, origins: Mapping[str, Origin]) -> None:
        super().__init__(values)
        self.origins = origins


def gather(typed: Values, environment: Values, file: Values, scheduler: Values) -> Values:
    """One value for each name: the command line goes before the environment, the environment
    before the file, the file before the scheduler. What none of them names has its default.

    Raises UsageError for targets that contradict each other.
    """
    merged: dict[str, object] = {}
    for origin in (scheduler, file, environment, typed):
        merged |= spell_out(origin)
    return merged


def trace(origins: Mapping[Origin, Values]) -> Mapping[str, Origin]:
    """Where each setting came from; `origins` say something of options, the last one that counts
    last.

    A setting is traced to the option that was given, which may stand for it: `layout` to
    `--manifests`.
    """
    found: dict[str, Origin] = {}
    for origin, values in origins.items():
        for name, value in values.items():
            if name == "targets":
                found |= dict.fromkeys(("bucket", "prefix"), origin)
            elif name not in _SHORTHANDS:
                found[name] = origin
            elif value:
                found[_SHORTHANDS[name][0]] = origin
    return found


def spell_out(values: Values) -> Values:
    """The same values, with settings in the place of options that stand for others.

    Raises UsageError for targets that are no URLs, or of more than one bucket, and for an option
    that contradicts what another one stands for.
    """
    plain = {name: value for name, value in values.items() if name not in _SHORTHANDS}
    for name, (setting, value) in _SHORTHANDS.items():
        if values.get(name):
            given = plain.setdefault(setting, value)
            if str(given) != str(value):
                raise UsageError(
                    f"{_option(name)} and {_option(setting)} {given} contradict each other",
                    hint=f"{_option(name)} is {_option(setting)} {value}; leave one of them out.",
                )
    targets = plain.pop("targets", ())
    for target in targets if isinstance(targets, list) else ():
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        if not target.startswith("s3://"):
            path = target.strip("/")
            raise UsageError(
                f"{target!r} is not an s3:// URL",
                hint=f"Write s3://{path if '/' in path else (path or 'BUCKET') + '/PREFIX'}.",
            )
        if plain.setdefault("bucket", bucket) != bucket:
            raise UsageError(
                f"{target!r} is not in the bucket {plain['bucket']!r}",
                hint="One command works in one bucket; use a command for each.",
            )
        given = plain.get("prefix", [])
        if not isinstance(given, list):
            raise UsageError(
                f"{target!r} and --prefix {given} contradict each other",
                hint="This command works under one prefix; leave one of them out.",
            )
        plain["prefix"] = [*given, prefix]
    return plain


# The setting that the tables under `layout` make; it has no name of its own in a file.
_LAYOUTS = "layouts"

_SHORTHANDS: dict[str, tuple[str, object]] = {
    "manifests": ("layout", "manifest"),
    "multiprocessor": ("processes", 0),
    "no_delete": ("delete", False),
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# Variables of this project's own tests and tools; the process that is tested inherits them.
_TESTS = "COALESCE_TEST_"


def check_variables(options: Iterable[Option], environment: Mapping[str, str]) -> None:
    """Refuses variables that no command knows: a job with a typing error would do something else.

    `options` are those of all commands, since a job's variables are set for all of them. Empty
    variables say nothing. Raises UsageError.
    """
    known = {_SHARDS, *(name for option in options for name in option.variables)}
    for name in sorted(environment.keys() - known):
        if name.startswith("COALESCE_") and not name.startswith(_TESTS) and environment[name]:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.85)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown variable {name}{meant}")


def read_environment(options: Iterable[Option], environment: Mapping[str, str]) -> Values:
    """What environment variables say of these options; empty ones say nothing, and the first
    name of an option goes before its others.

    Raises UsageError for a switch that is neither on nor off.
    """
    values: dict[str, object] = {}
    for option in options:
        if variable := variable_of(option, environment):
            text, positive = environment[variable], option.variables[variable]
            values[option.name] = _read_variable(option, variable, text, positive)
    return values


def variable_of(option: Option, environment: Mapping[str, str]) -> str:
    """The variable that sets this option, empty if none does."""
    return next((name for name in option.variables if environment.get(name)), "")


def _read_variable(option: Option, variable: str, text: str, positive: bool) -> object:
    if option.value:
        return text.split() if option.repeatable else text
    if text.strip().lower() not in _YES | _NO:
        raise UsageError(f"{variable} {text!r}: neither true nor false")
    return (text.strip().lower() in _YES) is positive


def read_scheduler(environment: Mapping[str, str]) -> Values:
    """The shard that the job is, if its scheduler says so."""
    if index := scheduler_of(environment):
        return {"shard": f"{environment[index]}/{environment[dict(_ARRAYS)[index]]}"}
    return {}


def scheduler_of(environment: Mapping[str, str]) -> str:
    """The variable in which a scheduler says which of its jobs this is, empty if none does."""
    found = (index for index, of in _ARRAYS if environment.get(index) and environment.get(of))
    return next(found, "")


def file_spellings(
    options: Iterable[Option], settings: Collection[str]
) -> dict[str, tuple[str, bool]]:
    """Every name that a configuration file may use: the option that it sets, and whether it says
    yes.

    `options` are those of all commands, which may share a file; of two with one name the last one
    counts. `settings` are names that need no option. A file does not name another file.
    """
    spellings = {name: (name, True) for name in settings}
    for option in options:
        if option.name != "config":
            for spelling, positive in option.spellings.items():
                spellings[spelling] = option.name, positive
    return spellings


def is_setting(name: str, settings: Collection[str]) -> bool:
    """Whether this is the name of a setting, or of an option that stands for one."""
    return name in settings or name in _SHORTHANDS or name == _LAYOUTS


def read_file(path: str | None, spellings: Mapping[str, tuple[str, bool]]) -> Values:
    """What a configuration file says; None is the default file, which need not exist.

    Raises UsageError for a file that cannot be read, or that has names without `spellings`.
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
    written = {name.replace("-", "_"): value for name, value in found.items()}
    if unknown := sorted(written.keys() - spellings.keys()):
        raise UsageError(
            f"unknown names in the configuration file {str(file)!r}: {', '.join(unknown)}",
            hint="It knows the names of the options, such as max-size.",
        )
    values: dict[str, object] = {}
    if layouts := _take_layouts(written, file):
        values[_LAYOUTS] = layouts
    for name, value in written.items():
        setting, positive = spellings[name]
        values[setting] = value if positive or not isinstance(value, bool) else not value
    return values


def _take_layouts(written: dict[str, object], file: Path) -> dict[str, object]:
    """Takes the user's own layouts out of what is written: the tables under `layout`.

    The name of the one that is chosen is `layout.use` in a file that has some: TOML knows no name
    that is both a text and a table. Raises UsageError.
    """
    found = written.get("layout")
    if not isinstance(found, dict):
        return {}
    chosen = found.pop("use", None)
    if named := [name for name, said in found.items() if not isinstance(said, dict)]:
        raise UsageError(
            f"layout.{named[0]} in the configuration file {str(file)!r} is no table",
            hint='Write [layout.NAME], and layout.use = "NAME" to choose one.',
        )
    del written["layout"]
    if chosen is not None:
        written["layout"] = chosen
    return found
