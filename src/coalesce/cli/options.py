"""What can be typed: nothing here costs the time of `--help`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_WHERE, _WHAT, _HOW, _STORE_PANEL, _OUT = (
    "Where",
    "What becomes an output",
    "How it runs",
    "The store",
    "What it tells",
)


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A typer option whose environment variable is COALESCE_ and its first long name."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    return typer.Option(
        *names,
        help=help,
        envvar=f"COALESCE_{long.strip('-').replace('-', '_').upper()}",
        show_default=False,
        rich_help_panel=panel,
        **more,
    )


Targets = Annotated[
    list[str] | None,
    typer.Argument(
        help="s3://bucket/prefix, instead of --bucket and --prefix; several of one bucket",
        show_default=False,
    ),
]
Bucket = Annotated[str | None, option("--bucket", "-b", help="bucket", panel=_WHERE)]
Prefix = Annotated[
    list[str] | None,
    option(
        "--prefix",
        "-p",
        help="whole path segments: a/b never matches a/bc; repeatable",
        panel=_WHERE,
    ),
]
WholeBucket = Annotated[
    bool | None, option("--whole-bucket", help="no prefix at all", panel=_WHERE)
]
Date = Annotated[
    str | None,
    option(
        "--date-to-add",
        "--date",
        "-d",
        help="appended to each prefix as yyyy/MM/dd: today, yesterday, 2026-11-22, A..B or NOT_SET; UTC",
        panel=_WHERE,
    ),
]
Layout = Annotated[
    str | None,
    option(
        "--layout",
        help="names of the objects: corporate or manifest (default corporate)",
        panel=_WHERE,
    ),
]
Manifests = Annotated[bool, option("--manifests", "-a", help="--layout manifest", panel=_WHERE)]
Partition = Annotated[
    list[int] | None,
    option(
        "--partition",
        "-n",
        help="only this partition; repeatable; -1 is all (default)",
        panel=_WHERE,
    ),
]
Topic = Annotated[
    list[str] | None,
    option("--topic", help="only topics of this shell pattern; repeatable", panel=_WHERE),
]
Include = Annotated[
    list[str] | None,
    option("--include", help="only keys of this shell pattern; repeatable", panel=_WHERE),
]
Exclude = Annotated[
    list[str] | None,
    option("--exclude", help="no keys of this shell pattern; repeatable", panel=_WHERE),
]

MaxFiles = Annotated[
    int | None,
    option(
        "--max-files",
        "--files",
        "-f",
        help="sources per output at most (default 1,000,000)",
        panel=_WHAT,
    ),
]
MaxSize = Annotated[
    str | None,
    option(
        "--max-size",
        "--size",
        "-s",
        help="bytes per output at most, 128MB or 64MiB (default 128MB)",
        panel=_WHAT,
    ),
]
MinFiles = Annotated[
    int | None,
    option("--min-files", help="fewer sources than this are left alone (default 2)", panel=_WHAT),
]
MinAge = Annotated[
    str | None,
    option(
        "--min-age",
        help="younger sources are left alone, by the store's clock: 0, 90s, 2h (default 5m)",
        panel=_WHAT,
    ),
]
Check = Annotated[
    bool | None,
    option(
        "--check/--no-check",
        help="check each source's content while it streams (default --check)",
        panel=_WHAT,
    ),
]
NoDelete = Annotated[
    bool | None,
    option(
        "--no-delete",
        help="commit outputs, keep sources; a later `recover` deletes them",
        panel=_WHAT,
    ),
]
DryRun = Annotated[bool, option("--dry-run", help="the same as `plan`", panel=_WHAT)]

Concurrency = Annotated[
    int | None,
    option(
        "--concurrency",
        "--threads",
        "-t",
        help="GETs in flight at most; 0 is automatic (default)",
        panel=_HOW,
    ),
]
Processes = Annotated[
    int | None,
    option(
        "--processes",
        help="worker processes; 0 is one for each CPU of this container (default 1)",
        panel=_HOW,
    ),
]
Multiprocessor = Annotated[bool, option("--multiprocessor", "-m", help="--processes 0", panel=_HOW)]
Memory = Annotated[
    str | None, option("--memory", help="bytes of bodies in flight (default 128MiB)", panel=_HOW)
]
ShardOf = Annotated[
    str | None,
    option(
        "--shard",
        help="only the groups of shard I of N, from 0 (default from AWS Batch and Indexed Jobs)",
        panel=_HOW,
    ),
]
PlanFrom = Annotated[
    str | None,
    option(
        "--plan",
        help="work off this written plan, a file or s3:// URL: scope and rules are the plan's",
        panel=_HOW,
    ),
]
State = Annotated[
    str | None,
    option("--state", help="prefix of leases and plan records (default _coalesce/)", panel=_HOW),
]
LeaseTime = Annotated[
    str | None,
    option("--lease", help="how long a dead run's groups stay untouched (default 60s)", panel=_HOW),
]
AcceptWeaker = Annotated[
    list[str] | None,
    option("--accept-weaker", help="the mode that a refusal named; repeatable", panel=_HOW),
]
MaxGroups = Annotated[
    int | None, option("--max-groups", help="stop cleanly after so many groups", panel=_HOW)
]
MaxBytes = Annotated[
    str | None,
    option("--max-bytes", help="stop cleanly before more source bytes than this", panel=_HOW),
]
MaxDelete = Annotated[
    int | None,
    option("--max-delete", help="stop cleanly before more deletions than this", panel=_HOW),
]
Deadline = Annotated[
    str | None, option("--deadline", help="stop cleanly after this time", panel=_HOW)
]
ErrorOnNothing = Annotated[
    bool | None,
    option("--error-on-nothing", help="exit 3 where nothing was to be done", panel=_HOW),
]
Config = Annotated[
    str | None,
    option(
        "--config", help="TOML file with these names (default coalesce.toml, if there)", panel=_HOW
    ),
]
Summaries = Annotated[str | None, option("--summaries", "-u", help="without effect", hidden=True)]
Parallelise = Annotated[bool, typer.Option("-c", help="without effect", hidden=True)]

Endpoint = Annotated[
    str | None, option("--endpoint-url", help="another S3 than Amazon's", panel=_STORE_PANEL)
]
Region = Annotated[str | None, option("--region", help="region", panel=_STORE_PANEL)]
Profile = Annotated[
    str | None, option("--profile", help="profile of the AWS configuration", panel=_STORE_PANEL)
]
NoSign = Annotated[
    bool | None, option("--no-sign-request", help="anonymous requests", panel=_STORE_PANEL)
]
CaBundle = Annotated[
    str | None, option("--ca-bundle", help="file of certificate authorities", panel=_STORE_PANEL)
]
NoVerify = Annotated[
    bool | None, option("--no-verify-ssl", help="trust any certificate", panel=_STORE_PANEL)
]
Owner = Annotated[
    str | None,
    option(
        "--expected-bucket-owner", help="account id that must own the bucket", panel=_STORE_PANEL
    ),
]
Payer = Annotated[
    bool | None,
    option("--request-payer", help="this account pays for the requests", panel=_STORE_PANEL),
]
Addressing = Annotated[
    str | None, option("--addressing", help="path, virtual or auto (default)", panel=_STORE_PANEL)
]
Localstack = Annotated[
    bool,
    option(
        "--localstack",
        "-l",
        help="http://localstack:4566, eu-west-2, any credentials",
        panel=_STORE_PANEL,
    ),
]

ReportTo = Annotated[
    str | None,
    option(
        "--report",
        help="JSON report to this file or s3:// URL ({shard}, {run_id} are filled in), also when the run fails",
        panel=_OUT,
    ),
]
SavePlan = Annotated[
    str | None,
    option(
        "--save-plan",
        help="with `plan`: write the plan to this file or s3:// URL, for `run --plan`",
        panel=_OUT,
    ),
]
Output = Annotated[
    str | None,
    option(
        "--output",
        help="stdout: text, or json lines of events with the summary last (default text)",
        panel=_OUT,
    ),
]
LogLevel = Annotated[
    str | None,
    option(
        "--log-level", help="debug, info, warning or error, on stderr (default info)", panel=_OUT
    ),
]
LogFormat = Annotated[
    str | None,
    option(
        "--log-format", help="text, json, or auto: text on a terminal (default auto)", panel=_OUT
    ),
]
Quiet = Annotated[bool | None, option("--quiet", "-q", help="only failures", panel=_OUT)]
Verbose = Annotated[
    bool | None,
    option("--verbose", "-v", help="also every source that was left alone, and why", panel=_OUT),
]
NoProgress = Annotated[
    bool | None, option("--no-progress", help="no progress bar on a terminal", panel=_OUT)
]
StatsInterval = Annotated[
    str | None,
    option(
        "--stats-interval",
        help="a line of statistics so often, where there is no progress bar (default 60s)",
        panel=_OUT,
    ),
]
