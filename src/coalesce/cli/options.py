"""What can be typed, and how it becomes settings: option, else environment, else file, else default."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from coalesce.errors import UsageError
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options

_STORE = frozenset(
    {"endpoint_url", "region", "profile", "no_sign_request", "ca_bundle", "no_verify_ssl", "expected_bucket_owner", "request_payer", "addressing"}
)
_LOCALSTACK = {"endpoint_url": "http://localstack:4566", "region": "eu-west-2", "access_key": "test", "secret_key": "test"}
_OUTPUT = frozenset({"report", "output", "log_level", "log_format", "quiet", "verbose", "no_progress", "stats_interval"})

# Where schedulers say which of how many jobs this is: AWS Batch array jobs; Kubernetes Indexed Jobs, whose number somebody has to pass on.
_ARRAYS = (("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"), ("JOB_COMPLETION_INDEX", "COALESCE_SHARDS"))

_WHERE, _WHAT, _HOW, _STORE_PANEL, _OUT = "Where", "What becomes an output", "How it runs", "The store", "What it tells"


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A typer option whose environment variable is COALESCE_ and its first long name."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    return typer.Option(*names, help=help, envvar=f"COALESCE_{long.strip('-').replace('-', '_').upper()}", show_default=False, rich_help_panel=panel, **more)


Targets = Annotated[list[str] | None, typer.Argument(help="s3://bucket/prefix, instead of --bucket and --prefix; several of one bucket", show_default=False)]
Bucket = Annotated[str | None, option("--bucket", "-b", help="bucket", panel=_WHERE)]
Prefix = Annotated[list[str] | None, option("--prefix", "-p", help="whole path segments: a/b never matches a/bc; repeatable", panel=_WHERE)]
WholeBucket = Annotated[bool | None, option("--whole-bucket", help="no prefix at all", panel=_WHERE)]
Date = Annotated[
    str | None,
    option("--date-to-add", "--date", "-d", help="appended to each prefix as yyyy/MM/dd: today, yesterday, 2026-11-22, A..B or NOT_SET; UTC", panel=_WHERE),
]
Layout = Annotated[str | None, option("--layout", help="names of the objects: corporate or manifest (default corporate)", panel=_WHERE)]
Manifests = Annotated[bool, option("--manifests", "-a", help="--layout manifest", panel=_WHERE)]
Partition = Annotated[list[int] | None, option("--partition", "-n", help="only this partition; repeatable; -1 is all (default)", panel=_WHERE)]
Topic = Annotated[list[str] | None, option("--topic", help="only topics of this shell pattern; repeatable", panel=_WHERE)]
Include = Annotated[list[str] | None, option("--include", help="only keys of this shell pattern; repeatable", panel=_WHERE)]
Exclude = Annotated[list[str] | None, option("--exclude", help="no keys of this shell pattern; repeatable", panel=_WHERE)]

MaxFiles = Annotated[int | None, option("--max-files", "--files", "-f", help="sources per output at most (default 1,000,000)", panel=_WHAT)]
MaxSize = Annotated[str | None, option("--max-size", "--size", "-s", help="bytes per output at most, 128MB or 64MiB (default 128MB)", panel=_WHAT)]
MinFiles = Annotated[int | None, option("--min-files", help="fewer sources than this are left alone (default 2)", panel=_WHAT)]
MinAge = Annotated[str | None, option("--min-age", help="younger sources are left alone, by the store's clock: 0, 90s, 2h (default 5m)", panel=_WHAT)]
Check = Annotated[bool | None, option("--check/--no-check", help="check each source's content while it streams (default --check)", panel=_WHAT)]
NoDelete = Annotated[bool | None, option("--no-delete", help="commit outputs, keep sources; a later `recover` deletes them", panel=_WHAT)]
DryRun = Annotated[bool, option("--dry-run", help="the same as `plan`", panel=_WHAT)]

Concurrency = Annotated[int | None, option("--concurrency", "--threads", "-t", help="GETs in flight at most; 0 is automatic (default)", panel=_HOW)]
Processes = Annotated[int | None, option("--processes", help="worker processes; 0 is one for each CPU of this container (default 1)", panel=_HOW)]
Multiprocessor = Annotated[bool, option("--multiprocessor", "-m", help="--processes 0", panel=_HOW)]
Memory = Annotated[str | None, option("--memory", help="bytes of bodies in flight (default 128MiB)", panel=_HOW)]
ShardOf = Annotated[str | None, option("--shard", help="only the groups of shard I of N, from 0 (default from AWS Batch and Indexed Jobs)", panel=_HOW)]
PlanFrom = Annotated[str | None, option("--plan", help="work off this written plan, a file or s3:// URL: scope and rules are the plan's", panel=_HOW)]
State = Annotated[str | None, option("--state", help="prefix of leases and plan records (default _coalesce/)", panel=_HOW)]
LeaseTime = Annotated[str | None, option("--lease", help="how long a dead run's groups stay untouched (default 60s)", panel=_HOW)]
AcceptWeaker = Annotated[list[str] | None, option("--accept-weaker", help="the mode that a refusal named; repeatable", panel=_HOW)]
MaxGroups = Annotated[int | None, option("--max-groups", help="stop cleanly after so many groups", panel=_HOW)]
MaxBytes = Annotated[str | None, option("--max-bytes", help="stop cleanly before more source bytes than this", panel=_HOW)]
MaxDelete = Annotated[int | None, option("--max-delete", help="stop cleanly before more deletions than this", panel=_HOW)]
Deadline = Annotated[str | None, option("--deadline", help="stop cleanly after this time", panel=_HOW)]
ErrorOnNothing = Annotated[bool | None, option("--error-on-nothing", help="exit 3 where nothing was to be done", panel=_HOW)]
Config = Annotated[str | None, option("--config", help="TOML file with these names (default coalesce.toml, if there)", panel=_HOW)]
Summaries = Annotated[str | None, option("--summaries", "-u", help="without effect", hidden=True)]
Parallelise = Annotated[bool, typer.Option("-c", help="without effect", hidden=True)]

Endpoint = Annotated[str | None, option("--endpoint-url", help="another S3 than Amazon's", panel=_STORE_PANEL)]
Region = Annotated[str | None, option("--region", help="region", panel=_STORE_PANEL)]
Profile = Annotated[str | None, option("--profile", help="profile of the AWS configuration", panel=_STORE_PANEL)]
NoSign = Annotated[bool | None, option("--no-sign-request", help="anonymous requests", panel=_STORE_PANEL)]
CaBundle = Annotated[str | None, option("--ca-bundle", help="file of certificate authorities", panel=_STORE_PANEL)]
NoVerify = Annotated[bool | None, option("--no-verify-ssl", help="trust any certificate", panel=_STORE_PANEL)]
Owner = Annotated[str | None, option("--expected-bucket-owner", help="account id that must own the bucket", panel=_STORE_PANEL)]
Payer = Annotated[bool | None, option("--request-payer", help="this account pays for the requests", panel=_STORE_PANEL)]
Addressing = Annotated[str | None, option("--addressing", help="path, virtual or auto (default)", panel=_STORE_PANEL)]
Localstack = Annotated[bool, option("--localstack", "-l", help="http://localstack:4566, eu-west-2, any credentials", panel=_STORE_PANEL)]

ReportTo = Annotated[
    str | None, option("--report", help="JSON report to this file or s3:// URL ({shard}, {run_id} are filled in), also when the run fails", panel=_OUT)
]
SavePlan = Annotated[str | None, option("--save-plan", help="with `plan`: write the plan to this file or s3:// URL, for `run --plan`", panel=_OUT)]
Output = Annotated[str | None, option("--output", help="stdout: text, or json lines of events with the summary last (default text)", panel=_OUT)]
LogLevel = Annotated[str | None, option("--log-level", help="debug, info, warning or error, on stderr (default info)", panel=_OUT)]
LogFormat = Annotated[str | None, option("--log-format", help="text, json, or auto: text on a terminal (default auto)", panel=_OUT)]
Quiet = Annotated[bool | None, option("--quiet", "-q", help="only failures", panel=_OUT)]
Verbose = Annotated[bool | None, option("--verbose", "-v", help="also every source that was left alone, and why", panel=_OUT)]
NoProgress = Annotated[bool | None, option("--no-progress", help="no progress bar on a terminal", panel=_OUT)]
StatsInterval = Annotated[
    str | None, option("--stats-interval", help="a line of statistics so often, where there is no progress bar (default 60s)", panel=_OUT)
]


def gathered(given: dict[str, Any]) -> dict[str, Any]:
    """What was typed or stands in the environment, over what stands in the file. Raises UsageError for a file with unknown names."""
    values = _from_file(given.get("config"))
    unknown = sorted(values.keys() - Settings.model_fields.keys() - _STORE - _OUTPUT)
    if unknown:
        raise UsageError(f"the configuration file has unknown names: {', '.join(unknown)}", hint="Names are those of the options, such as max_size.")
    values |= {name: value for name, value in given.items() if value is not None and value != []}
    for target in values.pop("targets", ()):
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        if not target.startswith("s3://") or values.setdefault("bucket", bucket) != bucket:
            raise UsageError(f"{target!r} is not s3://bucket/prefix of the one bucket", hint="All targets of a run lie in one bucket.")
        values["prefix"] = [*values.get("prefix", ()), prefix]
    return values


def settings_of(values: dict[str, Any]) -> Settings:
    """The settings among gathered values. Raises UsageError."""
    chosen = {name: value for name, value in values.items() if name in Settings.model_fields}
    if values.get("manifests"):
        chosen["layout"] = "manifest"
    if values.get("multiprocessor"):
        chosen["processes"] = 0
    if values.get("no_delete"):
        chosen["delete"] = False
    chosen.setdefault("bucket", "")
    chosen.setdefault("shard", _scheduled_shard(os.environ) or "0/1")
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        raise UsageError("; ".join(map(_told, error.errors()))) from error


def store_options_of(values: dict[str, Any]) -> S3Options:
    """How the store is reached, among gathered values. Raises UsageError."""
    if not values.get("bucket"):
        raise UsageError("a bucket is required: --bucket NAME")
    if values.get("addressing", "auto") not in ("path", "virtual", "auto"):
        raise UsageError(f"--addressing {values['addressing']!r} is none of path, virtual, auto")
    local = _LOCALSTACK if values.get("localstack") else {}
    names = ("bucket", "endpoint_url", "region", "profile", "ca_bundle", "expected_bucket_owner", "request_payer", "addressing")
    chosen = {name: values[name] for name in names if values.get(name)}
    return S3Options(**{**local, **chosen, "sign": not values.get("no_sign_request"), "verify_ssl": not values.get("no_verify_ssl")})


def wants_json(values: dict[str, Any]) -> bool:
    """Whether stdout carries JSON, among gathered values. Raises UsageError."""
    output = values.get("output", "text")
    if output not in ("text", "json"):
        raise UsageError(f"--output {output!r} is none of text, json")
    return bool(output == "json")


def _scheduled_shard(environment: Mapping[str, str]) -> str:
    for index, count in _ARRAYS:
        if environment.get(index) and environment.get(count):
            return f"{environment[index]}/{environment[count]}"
    return ""


def _from_file(config: str | None) -> dict[str, Any]:
    path = Path(config or "coalesce.toml")
    if config is None and not path.exists():
        return {}
    try:
        return {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text("utf-8")).items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the configuration file {str(path)!r} cannot be read: {error}") from error


def _told(error: Any) -> str:
    where = f"--{str(error['loc'][0]).replace('_', '-')}: " if error["loc"] else ""
    return f"{where}{error['msg'].removeprefix('Value error, ')}"
